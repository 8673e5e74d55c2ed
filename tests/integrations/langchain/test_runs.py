"""Attempts as child runs, and what callback handlers get."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    get_usage_metadata_callback,
)
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import collect_runs

from resilient_llm import StreamInterruptedError, is_benched
from resilient_llm.integrations import langchain
from tests.integrations.langchain.adapters import PROMPT
from tests.integrations.scenarios import LLAMA, MINI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.integrations.langchain.adapters import Providers

pytestmark = pytest.mark.filterwarnings("ignore:astream_.* is deprecated")

GROQ, OPENAI = "Groq says so.", "OpenAI says so."


class Recorder(BaseCallbackHandler):
    """Notes runs and tokens."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.ends: list[Any] = []
        self.errors: list[Any] = []
        self.tokens: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **more: Any) -> None:
        self.starts.append(more)

    def on_llm_end(self, response: Any, *, run_id: Any, **more: Any) -> None:
        self.ends.append(run_id)

    def on_llm_error(self, error: Any, *, run_id: Any, **more: Any) -> None:
        self.errors.append(run_id)

    def on_llm_new_token(self, token: Any, **more: Any) -> None:
        self.tokens.append(token)

    @property
    def text(self) -> str:
        return "".join(self.tokens)


class Streaming(Recorder):
    """Makes models stream when they are invoked, as the handlers of ``astream_events`` do."""

    def tap_output_aiter(self, run_id: Any, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        return output

    def tap_output_iter(self, run_id: Any, output: Iterator[Any]) -> Iterator[Any]:
        return output


async def _astream(llm: Any, config: Any) -> str:
    return "".join([chunk.text async for chunk in llm.astream(PROMPT, config)])


WAYS: dict[str, Callable[[Any, Any], str]] = {
    "invoke": lambda llm, config: llm.invoke(PROMPT, config).text,
    "ainvoke": lambda llm, config: asyncio.run(llm.ainvoke(PROMPT, config)).text,
    "stream": lambda llm, config: "".join(chunk.text for chunk in llm.stream(PROMPT, config)),
    "astream": lambda llm, config: asyncio.run(_astream(llm, config)),
}
"""``{way: makes a call with a configuration, returns the text}``"""


@pytest.mark.parametrize("way", WAYS)
def test_attempts_are_child_runs(providers: Providers, way: str) -> None:
    """Each attempt is a run under that of the call, with a tag that names its target."""
    providers.groq.status = 503
    seen = Recorder()

    text = WAYS[way](
        providers.adapter(), {"callbacks": [seen], "tags": ["mine"], "metadata": {"user": 7}}
    )

    assert text == OPENAI
    call, first, second = seen.starts
    assert call["parent_run_id"] is None
    assert [each["parent_run_id"] for each in (first, second)] == [call["run_id"]] * 2
    assert set(first["tags"]) == {"mine", f"resilient_llm:{LLAMA}"}
    assert set(second["tags"]) == {"mine", f"resilient_llm:{MINI}"}
    assert first["metadata"]["user"] == second["metadata"]["user"] == 7
    assert second["metadata"]["resilient_llm_target"] == MINI
    assert second["metadata"]["resilient_llm_attempt"] == 1
    assert second["metadata"]["ls_provider"] == "openai"
    assert call["metadata"]["ls_provider"] == "resilient_llm"
    assert seen.errors == [first["run_id"]]
    assert seen.ends == [second["run_id"], call["run_id"]]


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_run_id_that_is_given_is_that_of_the_call(providers: Providers, way: str) -> None:
    """A run id in the configuration names the run of the call, also of a stream."""
    from uuid import uuid4

    run_id, seen = uuid4(), Recorder()

    WAYS[way](providers.adapter(), {"callbacks": [seen], "run_id": run_id})

    assert seen.starts[0]["run_id"] == run_id
    assert seen.starts[1]["parent_run_id"] == run_id


# Of the collector of langchain-core 1.0, whose handler would fail.
@pytest.mark.filterwarnings("ignore:The `copy` method is deprecated")
@pytest.mark.parametrize("way", WAYS)
def test_tracers_record_the_tree(providers: Providers, way: str) -> None:
    """A tracer has the attempts as children of the call, and the call as a child of its chain."""
    providers.groq.status = 503
    chain = RunnableLambda(lambda prompt: prompt) | providers.adapter()
    with collect_runs() as collected:
        if way == "stream":
            list(chain.stream(PROMPT))
        else:
            WAYS[way](chain, {})

    (root,) = collected.traced_runs
    (call,) = [each for each in root.child_runs if each.run_type == "chat_model"] or [
        each for each in root.child_runs if each.name == "FailoverChatModel"
    ]
    assert [bool(each.error) for each in call.child_runs] == [True, False]
    assert [each.name for each in call.child_runs] == ["ChatOpenAI", "ChatOpenAI"]


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_tokens_are_told_once(providers: Providers, way: str) -> None:
    """A handler gets each token of a stream once, from the run of the call."""
    seen = Recorder()

    text = WAYS[way](providers.adapter(), {"callbacks": [seen]})

    assert text == seen.text == GROQ


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_streaming_handler_gets_tokens_of_invoke(providers: Providers, way: str) -> None:
    """A handler that makes models stream gets the tokens of one model, once."""
    providers.groq.status = 503
    seen = Streaming()

    text = WAYS[way](providers.adapter(), {"callbacks": [seen]})

    assert text == seen.text == OPENAI
    assert [each.body.get("stream") for each in providers.openai.requests] == [True]


@pytest.mark.parametrize("way", WAYS)
def test_an_error_after_content_is_an_interruption(providers: Providers, way: str) -> None:
    """After content reached a streaming handler no second model's text follows."""
    providers.groq.cuts = True
    seen = Streaming()

    with pytest.raises(StreamInterruptedError) as caught:
        WAYS[way](providers.adapter(), {"callbacks": [seen]})

    assert caught.value.target == LLAMA
    assert GROQ.startswith(seen.text)
    assert seen.text
    assert not providers.openai.requests


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("where", ["streaming=True", "callbacks=", "adapter"])
def test_models_that_stream_by_themselves(providers: Providers, way: str, where: str) -> None:
    """The same holds if the model streams in ``invoke``, whatever makes it stream."""
    providers.groq.cuts = True
    own, plain = Streaming(), Recorder()
    fields: dict[str, Any] = {
        "streaming=True": {"streaming": True},
        "callbacks=": {"callbacks": [own]},
        "adapter": {},
    }[where]
    options: dict[str, Any] = {"streaming": True} if where == "adapter" else {}
    llm = langchain.failover(providers.models(**fields), attempts=1, **options)

    with pytest.raises(StreamInterruptedError):
        WAYS[way](llm, {"callbacks": [plain]})

    assert GROQ.startswith(plain.text)
    assert plain.text
    assert not providers.openai.requests


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_without_a_streaming_handler_invoke_does_not_stream(providers: Providers, way: str) -> None:
    """A call without such a handler requests a whole answer."""
    WAYS[way](providers.adapter(), {"callbacks": [Recorder()]})

    assert not providers.groq.requests[0].body.get("stream")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_astream_events(providers: Providers, version: Any) -> None:
    """``astream_events`` shows the attempts, and the tokens of the one that serves once."""
    providers.groq.status = 503

    async def main() -> list[Any]:
        llm = providers.adapter()
        return [event async for event in llm.astream_events(PROMPT, version=version)]

    events = asyncio.run(main())

    streamed = [each for each in events if each["event"] == "on_chat_model_stream"]
    assert "".join(each["data"]["chunk"].text for each in streamed) == OPENAI
    assert len({each["run_id"] for each in streamed}) == 1
    starts = [each["name"] for each in events if each["event"] == "on_chat_model_start"]
    assert starts == ["FailoverChatModel", "ChatOpenAI", "ChatOpenAI"]


def test_astream_events_of_a_chain_that_invokes(providers: Providers) -> None:
    """A function that invokes the model shows its tokens, and breaks where the model breaks."""
    providers.groq.cuts = True
    llm = providers.adapter()
    shown: list[str] = []

    async def ask(prompt: str) -> Any:
        return await llm.ainvoke(prompt)

    async def main() -> None:
        async for event in RunnableLambda(ask).astream_events(PROMPT, version="v2"):
            if event["event"] == "on_chat_model_stream":
                shown.append(event["data"]["chunk"].text)  # noqa: PERF401  # until it breaks

    with pytest.raises(StreamInterruptedError):
        asyncio.run(main())

    assert GROQ.startswith("".join(shown))
    assert "".join(shown)


def test_astream_log(providers: Providers) -> None:
    """``astream_log`` has the answer of the model that serves."""
    providers.groq.status = 503

    async def main() -> Any:
        final = None
        async for patch in providers.adapter().astream_log(PROMPT):
            final = patch if final is None else final + patch
        return final

    assert asyncio.run(main()).state["final_output"].text == OPENAI


@pytest.mark.parametrize("way", WAYS)
def test_usage_is_counted_once(providers: Providers, way: str) -> None:
    """LangChain's own counter of tokens gets the answer once, and not of the attempt again."""
    llm = langchain.failover(providers.models(stream_usage=True), attempts=1)
    with get_usage_metadata_callback() as counter:
        WAYS[way](llm, {})

    assert counter.usage_metadata["llama-3.3-70b"]["total_tokens"] == 18


def test_asynchronous_handlers(providers: Providers) -> None:
    """Handlers with coroutines are awaited for attempts, too."""
    seen: list[str] = []

    class Handler(AsyncCallbackHandler):
        async def on_chat_model_start(self, *args: Any, **more: Any) -> None:
            seen.append("start")

        async def on_llm_new_token(self, token: Any, **more: Any) -> None:
            seen.append(str(token))

    asyncio.run(_astream(providers.adapter(), {"callbacks": [Handler()]}))

    assert seen[:2] == ["start", "start"]
    assert "".join(seen[2:]) == GROQ


def test_a_handler_that_raises_harms_no_model(providers: Providers) -> None:
    """The error of a handler that is to be raised leaves the call, and no health is harmed."""

    class Handler(BaseCallbackHandler):
        raise_error = True

        def on_llm_end(self, *args: Any, **more: Any) -> None:
            raise TypeError("of the handler")

    with pytest.raises(TypeError, match="of the handler"):
        providers.adapter().invoke(PROMPT, {"callbacks": [Handler()]})

    assert not is_benched(LLAMA)
    assert not providers.openai.requests


def test_handlers_of_the_adapter_are_its_own(providers: Providers) -> None:
    """Callbacks and tags given to the adapter itself are not those of the attempts."""
    seen = Recorder()
    llm = providers.adapter(callbacks=[seen], tags=["own"], metadata={"own": 1})

    assert isinstance(llm.invoke(PROMPT), AIMessage)
    list(llm.stream(PROMPT))

    assert [each["tags"] for each in seen.starts] == [["own"], ["own"]]
