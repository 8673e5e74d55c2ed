"""Every guarded method of every supported client, against a server on loopback."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from pydantic import BaseModel

from resilient_llm import ErrorKind, FailedOver, list_benched
from resilient_llm.integrations import policy_of, wrap
from resilient_llm.testing import FakeClock, capture_events
from tests.integrations.wrap.providers import TEXT, AnyProvider

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
groq = pytest.importorskip("groq")
genai = pytest.importorskip("google.genai")
mistralai = pytest.importorskip("mistralai")
Mistral: Any = getattr(mistralai, "Mistral", None)
if Mistral is None:  # of the third major version
    Mistral = pytest.importorskip("mistralai.client").Mistral

# google-genai makes a subclass of aiohttp's session.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession")

MESSAGES: Any = [{"role": "user", "content": "Why is the sky blue?"}]
CHAIN = ["one/model-1", "two/model-2"]
KEY = "not-a-key"


# --- clients -----------------------------------------------------------------------------------


def _openai(kind: str) -> Callable[[str], Any]:
    return lambda root: getattr(openai, kind)(base_url=f"{root}/v1", api_key=KEY)


def _azure(kind: str) -> Callable[[str], Any]:
    return lambda root: getattr(openai, kind)(
        azure_endpoint=root, api_key=KEY, api_version="2024-10-21"
    )


def _groq(kind: str) -> Callable[[str], Any]:
    return lambda root: getattr(groq, kind)(base_url=root, api_key=KEY)


def _anthropic(kind: str, **more: Any) -> Callable[[str], Any]:
    return lambda root: getattr(anthropic, kind)(base_url=root, **({"api_key": KEY} | more))


def _google(root: str) -> Any:
    return genai.Client(api_key=KEY, http_options=genai.types.HttpOptions(base_url=root))


def _mistral(root: str) -> Any:
    return Mistral(api_key=KEY, server_url=root)


CLIENTS: dict[str, Callable[[str], Any]] = {
    "openai": _openai("OpenAI"),
    "openai async": _openai("AsyncOpenAI"),
    "azure": _azure("AzureOpenAI"),
    "azure async": _azure("AsyncAzureOpenAI"),
    "groq": _groq("Groq"),
    "groq async": _groq("AsyncGroq"),
    "anthropic": _anthropic("Anthropic"),
    "anthropic async": _anthropic("AsyncAnthropic"),
    "foundry": _anthropic("AnthropicFoundry", max_retries=0),
    "foundry async": _anthropic("AsyncAnthropicFoundry", max_retries=0),
    "google": _google,
    "mistral": _mistral,
}
"""``{name: makes a client for the root URL of a server}``"""


# --- calls -------------------------------------------------------------------------------------

CHAT = {"messages": MESSAGES}
CLAUDE = {"messages": MESSAGES, "max_tokens": 50}
GOOGLE = {"contents": "Why is the sky blue?"}
RESPONSE = {"input": "Why is the sky blue?"}
OPENAI_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("chat.completions.create", CHAT),
    ("chat.completions.create", {**CHAT, "stream": True}),
    ("chat.completions.parse", CHAT),
    ("chat.completions.stream", CHAT),
    ("beta.chat.completions.parse", CHAT),
    ("beta.chat.completions.stream", CHAT),
    ("responses.create", RESPONSE),
    ("responses.create", {**RESPONSE, "stream": True}),
    ("responses.parse", RESPONSE),
    ("responses.stream", RESPONSE),
    ("completions.create", {"prompt": "Why"}),
    ("with_raw_response.chat.completions.create", CHAT),
    ("chat.with_raw_response.completions.create", CHAT),
    ("chat.completions.with_raw_response.create", CHAT),
    ("chat.completions.with_raw_response.create", {**CHAT, "stream": True}),
    ("with_streaming_response.chat.completions.create", CHAT),
    ("chat.completions.with_streaming_response.create", CHAT),
]
GROQ_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("chat.completions.create", CHAT),
    ("chat.completions.create", {**CHAT, "stream": True}),
    ("chat.completions.with_raw_response.create", CHAT),
    ("chat.completions.with_raw_response.create", {**CHAT, "stream": True}),
    ("with_streaming_response.chat.completions.create", CHAT),
]
ANTHROPIC_CALLS: list[tuple[str, dict[str, Any]]] = [
    *((f"{place}messages.create", CLAUDE) for place in ("", "beta.")),
    *((f"{place}messages.create", {**CLAUDE, "stream": True}) for place in ("", "beta.")),
    *((f"{place}messages.parse", CLAUDE) for place in ("", "beta.")),
    *((f"{place}messages.stream", CLAUDE) for place in ("", "beta.")),
    ("messages.with_raw_response.create", CLAUDE),
    ("messages.with_raw_response.create", {**CLAUDE, "stream": True}),
    ("with_streaming_response.messages.create", CLAUDE),
]
GOOGLE_CALLS: list[tuple[str, dict[str, Any]]] = [
    (f"{place}models.{name}", GOOGLE)
    for place in ("", "aio.")
    for name in ("generate_content", "generate_content_stream")
]
MISTRAL_CALLS: list[tuple[str, dict[str, Any]]] = [
    (f"chat.{name}{ending}", CHAT) for name in ("complete", "stream") for ending in ("", "_async")
]
CALLS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "openai": OPENAI_CALLS,
    "azure": OPENAI_CALLS[:2],
    "groq": GROQ_CALLS,
    "anthropic": ANTHROPIC_CALLS,
    "foundry": ANTHROPIC_CALLS[:2],
    "google": GOOGLE_CALLS,
    "mistral": MISTRAL_CALLS,
}
CASES = [
    pytest.param(kind, path, given, id=f"{kind}-{path}{'-stream' if 'stream' in given else ''}")
    for kind in CLIENTS
    for path, given in CALLS[kind.split()[0]]
]


def at(client: Any, path: str) -> Any:
    for name in path.split("."):
        client = getattr(client, name)
    return client


def has(client: Any, path: str) -> bool:
    """Return whether a bare client has a method."""
    try:
        at(client, path)
    except AttributeError:
        return False
    return True


async def text_of(answer: Any) -> str:
    """Return the text of an answer, a stream, a manager of one, or an answer of HTTP."""
    if inspect.isawaitable(answer):
        answer = await answer
    # A guarded stream has the methods of both kinds, and refuses those of the wrong one.
    seen = answer.__class__
    if hasattr(seen, "__aenter__") and not hasattr(answer, "http_response"):
        async with answer as entered:
            return await text_of_entered(entered)
    if hasattr(seen, "__enter__") and not hasattr(answer, "http_response"):
        with answer as entered:
            return await text_of_entered(entered)
    return await text_of_entered(answer)


async def text_of_entered(answer: Any) -> str:
    if hasattr(answer, "http_response"):
        answer = answer.parse()
        if inspect.isawaitable(answer):
            answer = await answer
    if hasattr(answer.__class__, "__aiter__"):
        return "".join([text_of_item(item) async for item in answer])
    if isinstance(answer, Iterator) and not isinstance(answer, BaseModel):
        return "".join(map(text_of_item, cast("Iterator[Any]", answer)))
    return text_of_whole(answer)


def text_of_whole(answer: Any) -> str:
    if hasattr(answer, "output_text"):
        return answer.output_text
    if hasattr(answer, "choices"):
        choice = answer.choices[0]
        return choice.message.content if hasattr(choice, "message") else choice.text
    return answer.content[0].text if hasattr(answer, "content") else answer.text


def text_of_item(item: Any) -> str:
    item = getattr(item, "data", item)
    if hasattr(item, "candidates"):
        return item.text or ""
    if hasattr(item, "choices"):
        return item.choices[0].delta.content or ""
    if item.type in ("response.output_text.delta", "content.delta"):
        return item.delta
    is_text = item.type == "content_block_delta" and item.delta.type == "text_delta"
    return item.delta.text if is_text else ""


async def close(client: Any) -> None:
    """Close a client, in each way that it has."""
    if isinstance(client, Mistral):
        async with client:
            client.__exit__(None, None, None)
        return
    for holder, name in ((client, "close"), (getattr(client, "aio", None), "aclose")):
        if hasattr(holder, name):
            closing = getattr(holder, name)()
            if inspect.isawaitable(closing):
                await closing
    await asyncio.sleep(0.0)  # aiohttp closes a connection in the next round of the loop


@pytest.mark.parametrize(("kind", "path", "given"), CASES)
def test_a_method_fails_over_once(kind: str, path: str, given: dict[str, Any]) -> None:
    """A guarded method calls each client with its own model, and no SDK retries below it."""

    async def main() -> str:
        make = CLIENTS[kind]
        client = wrap({"one": make(one.root), "two": make(two.root)}, chain=CHAIN, attempts=1)
        if not has(make(one.root), path):  # an older release
            with pytest.raises(AttributeError):
                at(client, path)
            pytest.skip(f"this release has no {path}")
        try:
            return await text_of(at(client, path)(model="auto", **given))
        finally:
            await close(client)

    with AnyProvider() as one, AnyProvider() as two, capture_events() as events:
        one.fails(*[503] * 9)
        text = asyncio.run(main())
        assert text == TEXT
        assert len(one.requests) == len(two.requests) == 1
        if kind not in ("azure", "azure async"):
            assert (one.models, two.models) == (["model-1"], ["model-2"])
    moved = [event for event in events if isinstance(event, FailedOver)]
    assert [(event.from_target, event.to_target) for event in moved] == [tuple(CHAIN)]


EMBEDDINGS = {
    "openai": ("embeddings.create", {"input": "blue"}),
    "openai async": ("embeddings.create", {"input": "blue"}),
    "google": ("models.embed_content", {"contents": "blue"}),
    "mistral": ("embeddings.create", {"inputs": ["blue"]}),
}


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_embeddings_keep_their_model(kind: str) -> None:
    """An embedding calls the first client with the model that it was given, and no other."""
    path, given = EMBEDDINGS[kind]

    async def main(model: str) -> Any:
        make = CLIENTS[kind]
        client = wrap({"one": make(one.root), "two": make(two.root)}, chain=CHAIN, attempts=1)
        try:
            answer = at(client, path)(model=model, **given)
            return await answer if inspect.isawaitable(answer) else answer
        finally:
            await close(client)

    with AnyProvider() as one, AnyProvider() as two:
        asyncio.run(main("vectors"))
        asyncio.run(main("two/vectors"))
        assert (one.models, two.models) == (["vectors"], ["vectors"])
        one.fails(503)
        with pytest.raises(Exception, match=r"503|no"):
            asyncio.run(main("vectors"))
        assert two.models == ["vectors"]
        for model in ("auto", "@fast", "nobody/vectors", ""):
            with pytest.raises(ValueError, match="for embeddings"):
                asyncio.run(main(model))


@pytest.mark.parametrize("kind", ["openai", "groq", "anthropic", "google", "mistral"])
def test_a_sync_attempt_ends_with_the_deadline(kind: str) -> None:
    """The SDK's timeout of a sync attempt is what is left, so that a fallback is reached."""
    path, given = CALLS[kind][0]
    with AnyProvider() as one, AnyProvider() as two:
        one.is_silent = True
        make = CLIENTS[kind]
        client = wrap(
            {"one": make(one.root), "two": make(two.root)}, chain=CHAIN, attempts=1, timeout=1.0
        )
        answer = at(client, path)(model="auto", **given)
        assert text_of_whole(answer) == TEXT
        asyncio.run(close(client))
    assert (len(one.requests), len(two.requests)) == (1, 1)


def header_of(kind: str, name: str) -> dict[str, Any]:
    """Return the arguments of a call that adds a header with a credential."""
    headers = {name: "secret"}
    if kind == "mistral":
        return {"http_headers": headers}
    if kind == "google":
        return {"config": {"http_options": {"headers": headers}}}
    return {"extra_headers": headers}


@pytest.mark.parametrize("kind", ["openai", "anthropic", "mistral", "google"])
@pytest.mark.parametrize(
    "name", ["Authorization", "api-key", "X-Api-Key", "x-goog-api-key", "AUTHORIZATION"]
)
def test_a_credential_reaches_one_provider_only(kind: str, name: str) -> None:
    """A credential in the headers of a call is refused, unless the call is pinned to a target."""
    path, given = CALLS[kind][0]
    with AnyProvider() as one, AnyProvider() as two:
        make = CLIENTS[kind]
        client = wrap({"one": make(one.root), "two": make(two.root)}, chain=CHAIN)
        with pytest.raises(ValueError, match="credential") as raised:
            at(client, path)(model="auto", **given, **header_of(kind, name))
        assert "secret" not in str(raised.value)
        assert not one.requests
        at(client, path)(model="two/model-9", **given, **header_of(kind, name))
        assert [request.headers[name.lower()] for request in two.requests] == ["secret"]
        asyncio.run(close(client))


def test_retries_of_google_and_mistral_are_off() -> None:
    """Clients that were told to retry do not, and the caller's own config is left as it was."""
    config = genai.types.GenerateContentConfig(
        temperature=0.5, http_options=genai.types.HttpOptions(headers={"x-mine": "1"})
    )
    before = config.model_dump()
    retry = genai.types.HttpRetryOptions(attempts=4, initial_delay=0.01, max_delay=0.01)
    with AnyProvider() as one, AnyProvider() as two:
        options = genai.types.HttpOptions(base_url=one.root, retry_options=retry)
        clients = {"one": genai.Client(api_key=KEY, http_options=options), "two": _google(two.root)}
        client = wrap(clients, chain=CHAIN, attempts=1)
        one.fails(503, 503, 503)
        client.models.generate_content(model="auto", contents="Hi", config=config)
        assert len(one.requests) == 1
        assert two.requests[0].headers["x-mine"] == "1"
        assert two.requests[0].body["generationConfig"] == {"temperature": 0.5}
        asyncio.run(close(client))
    assert config.model_dump() == before


def test_a_dead_key_benches_the_provider(clock: FakeClock) -> None:
    """What a wrapped client finds out holds for the process."""
    with AnyProvider() as one, AnyProvider() as two:
        client = wrap(
            {"one": CLIENTS["anthropic"](one.root), "two": CLIENTS["anthropic"](two.root)},
            chain=CHAIN,
        )
        one.fails(401)
        client.messages.create(model="auto", **CLAUDE)
        client.close()
    (benched,) = list_benched()
    assert (benched.model, benched.kind) == ("one", ErrorKind.AUTH_DEAD)
    assert policy_of(client).chain[0].key == "one/model-1"


@pytest.mark.parametrize("kind", ["openai async", "anthropic async"])
@pytest.mark.parametrize("options", [{"attempt_timeout": 5.0}, {"hedge": 0.5}])
def test_async_managers_take_all_options(kind: str, options: dict[str, Any]) -> None:
    """An asynchronous `stream` works under a limit of attempts, and is not hedged."""
    path, given = next(each for each in CALLS[kind.split()[0]] if each[0].endswith(".stream"))

    async def main() -> str:
        make = CLIENTS[kind]
        clients = {"one": make(one.root), "two": make(two.root)}
        client = wrap(clients, chain=CHAIN, attempts=1, **options)
        try:
            return await text_of(at(client, path)(model="auto", **given))
        finally:
            await close(client)

    with AnyProvider() as one, AnyProvider() as two:
        one.fails(503)
        assert asyncio.run(main()) == TEXT
        assert (len(one.requests), len(two.requests)) == (1, 1)


def test_a_config_of_google_may_have_either_spelling() -> None:
    """A mapping with the names of the API works as with the SDK, and its header is seen."""
    with AnyProvider() as one:
        client = wrap({"one": _google(one.root)}, chain="one/model-1", timeout=5.0)
        config: Any = {"httpOptions": {"headers": {"x-mine": "1"}}, "maxOutputTokens": 7}
        answer = client.models.generate_content(model="auto", contents="Hi", config=config)
        assert answer.text == TEXT
        assert one.requests[0].headers["x-mine"] == "1"
        assert one.requests[0].body["generationConfig"] == {"maxOutputTokens": 7}
        asyncio.run(close(client))


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("google", {"contents": "Hi", "config": {"temprature": 1}}),
        ("mistral", {"messages": MESSAGES, "temperature": "hot"}),
        ("mistral", {"messages": [{"role": "temp", "content": "x"}]}),
    ],
)
def test_wrong_arguments_are_the_callers(kind: str, given: dict[str, Any]) -> None:
    """What the SDK refuses before it sends anything is raised at once, and harms no health."""
    path, _ = CALLS[kind][0]
    with AnyProvider() as one, AnyProvider() as two:
        make = CLIENTS[kind]
        client = wrap({"one": make(one.root), "two": make(two.root)}, chain=CHAIN)
        for _ in range(6):
            with pytest.raises(ValueError, match="temp"):
                at(client, path)(model="auto", **given)
        assert not one.requests + two.requests
        assert not list_benched()
        assert at(client, path)(model="auto", **CALLS[kind][0][1])
        asyncio.run(close(client))
