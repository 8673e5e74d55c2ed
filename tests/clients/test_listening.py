"""`limits.listen` with the real clients, sync, on asyncio and on trio, against a loopback server."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import inspect
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import anyio
import httpx
import httpx2
import pytest
import wrapt

from resilient_llm import ConfigurationError, Target, configure
from resilient_llm._core.circuit.permit import Permit, pop_permit, push_permit
from resilient_llm._core.limits.held import Held
from resilient_llm._runtime import hearing as hearing_module
from resilient_llm._runtime.hearing import HeardAttempt, hearing
from resilient_llm._runtime.runtime import runtime
from resilient_llm.limits import listen
from resilient_llm.testing import fake_clock
from tests.support.server import LoopbackServer, Request

T = TypeVar("T")

COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Yes."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Yes."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
CHUNK: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "Yes"}, "finish_reason": None}],
}
EVENT: dict[str, Any] = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "Yes"},
}


class RateServer(LoopbackServer):
    """A provider that reports one request less with each answer, and streams when it is let.

    Attributes:
        statuses: Of the next answers; 200 when there is none.
        extra: More headers of each answer.
        go_on: Set when a stream may send its items.
    """

    def __init__(self) -> None:
        super().__init__()
        self.remaining = 60
        self.statuses: list[int] = []
        self.extra: list[str] = []
        self.go_on = threading.Event()

    def answer(self, connection: socket.socket, request: Request) -> None:
        self.remaining -= 1
        status = self.statuses.pop(0) if self.statuses else 200
        is_stream = status == 200 and bool(request.body.get("stream"))
        is_message = "messages" in request.path
        head = [
            f"HTTP/1.1 {status} Answer",
            "x-ratelimit-limit-requests: 60",
            f"X-RateLimit-Remaining-Requests: {self.remaining}",
            "x-ratelimit-reset-requests: 30s",
            *self.extra,
        ]
        if is_stream:
            head += ["content-type: text/event-stream", "transfer-encoding: chunked"]
            connection.sendall("\r\n".join([*head, "", ""]).encode())
            assert self.go_on.wait(self.patience)
            items = [f"event: {EVENT['type']}\ndata: {json.dumps(EVENT)}\n\n"] if is_message else []
            items = items or [f"data: {json.dumps(CHUNK)}\n\n", "data: [DONE]\n\n"]
            text = "".join(items)
            connection.sendall(f"{len(text):x}\r\n{text}\r\n0\r\n\r\n".encode())
            return
        body = json.dumps(MESSAGE if is_message else COMPLETION)
        if status != 200:
            body = json.dumps({"error": {"message": "no", "type": "error"}})
        head += ["content-type: application/json", f"content-length: {len(body)}"]
        connection.sendall("\r\n".join([*head, "", body]).encode())


@pytest.fixture
def server() -> Iterator[RateServer]:
    with RateServer() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh_hearing() -> Iterator[None]:
    """Nothing is known before a test, and nothing is put into contexts after it."""
    hearing.fresh()
    on_pause = hearing.on_pause
    hearing.on_pause = lambda key, before, after: None
    yield
    hearing.fresh()
    hearing.on_pause = on_pause
    hearing_module.switch_off()


@contextlib.contextmanager
def inside(attempt: HeardAttempt) -> Iterator[None]:
    """Run code as that of an attempt."""
    permit = Permit(runtime.registry.circuit(attempt.key), None, None, 0.0)
    permit.held = Held()
    permit.held.heard = attempt
    push_permit(permit)
    try:
        yield
    finally:
        permit.abandoned()
        pop_permit(permit)


class Client:
    """One of the clients, used in one way: ``sync``, ``asyncio`` or ``trio``."""

    def __init__(self, package: str, way: str = "sync") -> None:
        self.package = package
        self.way = way
        self.is_async = way != "sync"
        self.is_http = package in ("httpx", "httpx2")
        name = "mistralai.client" if package == "mistralai" else package
        self.module: Any = pytest.importorskip(name)

    def make(self, server: RateServer, *, max_retries: int = 0) -> Any:
        url = f"http://127.0.0.1:{server.port}"
        prefix = "Async" if self.is_async else ""
        if self.is_http:
            return getattr(self.module, f"{prefix}Client")(base_url=url, trust_env=False)
        if self.package == "mistralai":
            return self.module.Mistral(api_key="not-a-key", server_url=url)
        kind = {"openai": "OpenAI", "anthropic": "Anthropic", "groq": "Groq"}[self.package]
        return getattr(self.module, prefix + kind)(
            base_url=url,
            api_key="not-a-key",
            max_retries=max_retries,
            http_client=getattr(self.module, f"Default{prefix}HttpxClient")(trust_env=False),
        )

    def ask(self, client: Any, *, stream: bool = False) -> Any:
        """Send a request; return what the client returns for it, perhaps an awaitable."""
        messages: Any = [{"role": "user", "content": "Will it rain?"}]
        if self.is_http:
            request = client.build_request("POST", "/v1/chat", json={"stream": stream})
            return client.send(request, stream=stream)
        if self.package == "mistralai":
            verb = "stream" if stream else "complete"
            method = getattr(client.chat, f"{verb}_async" if self.is_async else verb)
            return method(model="m", messages=messages)
        if self.package == "anthropic":
            return client.messages.create(model="m", max_tokens=9, messages=messages, stream=stream)
        return client.chat.completions.create(model="m", messages=messages, stream=stream)

    async def items(self, stream: Any) -> str:
        """Return what a stream holds, and close it."""
        if self.is_http:
            if self.is_async:
                texts = [text async for text in stream.aiter_text()]
                await stream.aclose()
                return "".join(texts)
            texts = list(stream.iter_text())
            stream.close()
            return "".join(texts)
        if self.is_async:
            return "".join([str(item) async for item in stream])
        return "".join(map(str, stream))

    def run(
        self, server: RateServer, use: Callable[[Any], Coroutine[Any, Any, T]], **options: Any
    ) -> T:
        """Run a coroutine function with a client, in an event loop or without one."""

        async def main() -> T:
            client = self.make(server, **options)
            try:
                return await use(client)
            finally:
                await self.close(client)

        if self.is_async:
            return anyio.run(main, backend=self.way)
        return without_a_loop(main())

    async def close(self, client: Any) -> None:
        if self.package == "mistralai":
            client.sdk_configuration.client.close()
            if self.is_async:
                await client.sdk_configuration.async_client.aclose()
        elif self.is_async:
            await (client.aclose() if self.is_http else client.close())
        else:
            client.close()


def without_a_loop(running: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing."""
    try:
        running.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits")


async def settled(value: Any) -> Any:
    """Return a value, or what an awaitable gives."""
    return await value if inspect.isawaitable(value) else value


PACKAGES = ("httpx", "httpx2", "openai", "anthropic", "groq", "mistralai")


@pytest.fixture(
    params=[
        f"{package}-{way}"
        for package in PACKAGES
        for way in ("sync", "asyncio", "trio")
        if (package, way) != ("mistralai", "trio")  # it calls asyncio.to_thread
    ]
)
def client(request: pytest.FixtureRequest) -> Client:
    """Return each client in each way."""
    return Client(*request.param.split("-"))


def _remaining(key: str = "openai/m") -> int | None:
    state = hearing.states().get(key)
    return None if state is None else state.requests_remaining


def test_an_answer_outside_of_attempts_is_the_keys(client: Client, server: RateServer) -> None:
    """Each answer of a client that is listened to reports what is left for the key."""

    async def use(made: Any) -> None:
        listen(made, key="openai/m")
        for _ in range(2):
            await settled(client.ask(made))

    client.run(server, use)

    assert ({"openai/m"}, 58) == (set(hearing.states()), _remaining())


def test_an_answer_is_that_of_the_attempt_around_it(client: Client, server: RateServer) -> None:
    """Whatever the key: the attempt in whose context a request is sent comes first."""

    async def use(made: Any) -> None:
        listen(made, key="xai")
        attempt = hearing.start("openai@eu/m")
        with inside(attempt):
            await settled(client.ask(made))

    client.run(server, use)

    assert ({"openai@eu/m"}, 59) == (set(hearing.states()), _remaining("openai@eu/m"))


def test_attempts_at_once_in_one_loop(server: RateServer) -> None:
    """Tasks that share a client each have their own attempt."""
    of = Client("openai", "asyncio")

    async def attempt(made: Any, key: str) -> None:
        with inside(hearing.start(key)):
            await of.ask(made)

    async def use(made: Any) -> None:
        listen(made)
        keys = ("openai/a", "groq/b", "xai@eu/c")
        await asyncio.gather(*(asyncio.create_task(attempt(made, key)) for key in keys))

    of.run(server, use)

    assert ["groq/b", "openai/a", "xai@eu/c"] == list(hearing.states())


def test_answers_of_nobody_report_nothing(client: Client, server: RateServer) -> None:
    """Without a key and outside of attempts an answer is nobody's."""

    async def use(made: Any) -> None:
        await settled(client.ask(listen(made)))

    client.run(server, use)

    assert {} == hearing.states()


# The SDKs leave their decoders unfinished after "[DONE]", which trio warns of.
@pytest.mark.filterwarnings("ignore:Async generator .*SSEDecoder:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_headers_of_a_stream_are_read_before_its_items(client: Client, server: RateServer) -> None:
    """The body is left alone: the figures are known while the server holds the items back."""

    async def use(made: Any) -> str:
        stream = await settled(client.ask(listen(made, key="openai/m"), stream=True))
        assert 59 == _remaining()
        assert not server.go_on.is_set()
        server.go_on.set()
        return await client.items(stream)

    try:
        assert "Yes" in client.run(server, use)
    finally:
        server.go_on.set()


def test_errors_are_heard_too(client: Client, server: RateServer) -> None:
    """A refusal is an answer; its error leaves as it is."""
    server.statuses = [429]

    async def use(made: Any) -> Any:
        try:
            return await settled(client.ask(listen(made, key="openai/m")))
        except Exception as error:
            return error

    outcome = client.run(server, use)

    assert 429 == getattr(outcome, "status_code", None)
    assert 59 == _remaining()


@pytest.mark.parametrize("way", ["sync", "asyncio"])
@pytest.mark.parametrize("package", ["openai", "anthropic", "groq"])
def test_copies_of_a_client_are_listened_to(package: str, way: str, server: RateServer) -> None:
    """Copies share the HTTP client, so one hook is in all of them, and only once."""
    of = Client(package, way)

    async def use(made: Any) -> None:
        assert made is listen(made, key="openai/m")
        copies = [made.with_options(timeout=5.0), made.copy(max_retries=0), copy.copy(made)]
        for number, each in enumerate(copies):
            listen(each, key="openai/m")
            assert 1 == len(each._client.event_hooks["response"])
            await settled(of.ask(each))
            assert 59 - number == _remaining()

    of.run(server, use)


@pytest.mark.parametrize("way", ["sync", "asyncio"])
@pytest.mark.parametrize("package", PACKAGES)
def test_twice_is_once(package: str, way: str, server: RateServer) -> None:
    """A client has one hook, beside the application's own, and the last key counts."""
    of = Client(package, way)

    async def use(made: Any) -> None:
        if package == "mistralai":
            inside = [made.sdk_configuration.client, made.sdk_configuration.async_client]
        else:
            inside = [made if of.is_http else made._client]
        for each in inside:
            each.event_hooks = {"response": [print]}

        for key in ("groq", None, " OpenAI/m"):
            assert made is listen(made, key=key)

        for each in inside:
            own, ours = each.event_hooks["response"]
            assert (print, "openai/m") == (own, ours.key)

    of.run(server, use)


def test_every_answer_of_a_client_that_retries(server: RateServer) -> None:
    """Each answer is heard, also those after which the client tries again by itself."""
    of = Client("openai")
    server.statuses, server.extra = [500, 500], ["retry-after-ms: 1"]
    heard: list[int | None] = []

    async def use(made: Any) -> None:
        listen(made, key="openai/m")
        made._client.event_hooks["response"].append(lambda response: heard.append(_remaining()))
        of.ask(made)

    of.run(server, use, max_retries=2)

    assert [59, 58, 57] == heard


def test_a_proxy_around_a_client(server: RateServer) -> None:
    """A tracer's wrapper of a client is listened to as the client itself."""
    of = Client("openai")

    async def use(made: Any) -> None:
        proxy = wrapt.ObjectProxy(made)
        assert proxy is listen(proxy, key="openai/m")
        of.ask(proxy)

    of.run(server, use)

    assert 59 == _remaining()


class Subclass(httpx.Client):
    """A client of the application's own."""


def test_a_subclass_of_a_client(server: RateServer) -> None:
    """Clients of the application's own classes are clients."""
    with Subclass(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as made:
        listen(made, key="openai/m").post("/v1/chat", json={})

    assert 59 == _remaining()


class Impostor:
    """Has what a client of an SDK has, and is none."""

    _client = 5


class SdkWithoutClient(httpx.Auth):
    """Of one of the packages, and no client."""


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(None, id="nothing"),
        pytest.param("https://api.openai.com", id="a text"),
        pytest.param(httpx.Client, id="a class"),
        pytest.param(Impostor(), id="an impostor"),
        pytest.param(SdkWithoutClient(), id="no client"),
        pytest.param(httpx.Timeout(5), id="a timeout"),
        pytest.param(httpx2.Headers(), id="headers"),
    ],
)
def test_what_cannot_be_listened_to(other: Any) -> None:
    """Other objects are refused, and the message says what may be written."""
    with pytest.raises(ConfigurationError, match=r"write a client of httpx, .* listen\(client\)"):
        listen(other)
    assert not runtime.is_listening


def test_the_refusal_does_not_show_the_object() -> None:
    """It may hold a key; what is allowed is named."""

    class Secret:
        def __repr__(self) -> str:
            return "sk-secret"

        __str__ = __repr__

    with pytest.raises(ConfigurationError) as raised:
        listen(Secret())

    message = str(raised.value)
    assert "sk-secret" not in message
    assert all(name in message for name in ("Secret", *PACKAGES))


def test_parts_of_a_client_are_refused(server: RateServer) -> None:
    """A resource of a client, or its raw form, is not the client."""

    async def use(made: Any) -> None:
        for part in (made.chat.completions, made.with_raw_response, made.models):
            with pytest.raises(ConfigurationError, match="cannot listen"):
                listen(part)

    Client("openai").run(server, use)


@pytest.mark.parametrize("key", ["", "openai/", 5, "x" * 600])
def test_what_is_no_key(key: Any) -> None:
    """A wrong key raises where it is written, before anything is hooked."""
    with httpx.Client() as made:
        with pytest.raises(ConfigurationError):
            listen(made, key=key)
        assert [] == made.event_hooks["response"]


# What is heard, without a client.

SPENT = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "60s",
}


def test_states_are_in_datetimes() -> None:
    """What is left grows with the clock, and moments are aware."""
    with fake_clock() as clock:
        hearing_module.heard(SPENT, "openai/m")
        clock.advance(30.0)

        (state,) = hearing.states().values()

        assert (30, None) == (state.requests_remaining, state.tokens_remaining)
        assert state.seen_at is not None
        assert state.resets_at is not None
        assert 60.0 == pytest.approx((state.resets_at - state.seen_at).total_seconds())


def test_pauses_are_passed_on() -> None:
    """The callback for circuits is called when a key is paused and when there is room again."""
    heard: list[tuple[str, float, float]] = []
    hearing.on_pause = lambda key, before, after: heard.append((key, before, after))
    with fake_clock() as clock:
        now = clock.monotonic()
        hearing_module.heard(SPENT, "openai/m")
        hearing_module.heard(SPENT, "openai/m")
        hearing_module.heard({**SPENT, "x-ratelimit-remaining-requests": "9"}, "openai/m")

    never = float("-inf")
    assert [
        ("openai/m", never, pytest.approx(now + 1)),
        ("openai/m", pytest.approx(now + 1), never),
    ] == heard


def test_an_error_of_the_callback_stays_inside() -> None:
    """It would be raised in the application's HTTP client."""

    def fail(key: str, before: float, after: float) -> None:
        raise RuntimeError("an observer")

    hearing.on_pause = fail

    hearing_module.heard(SPENT, "openai/m")

    assert 0 == _remaining()


def test_figures_of_a_provider_are_the_providers() -> None:
    """What a draft of the IETF reports counts for all targets of the provider and its account."""
    attempt = hearing.start("openai@eu/m")

    hearing.hear({"RateLimit": '"a";r=5;t=9', **SPENT}, attempt, None)

    assert (5, 0) == (_remaining("openai@eu"), _remaining("openai@eu/m"))


def test_attempts_count_until_they_end() -> None:
    """An attempt counts against what its target and its provider reported before."""
    first, second = hearing.start("openai/m", 10, 5), hearing.start("openai/m", 10, 5)
    hearing.hear({"RateLimit": '"a";r=1;t=9'}, first, None)
    reported = hearing.known("openai")
    assert reported is not None
    assert reported.refusal(0.0)

    second.end()
    second.end()

    assert None is reported.refusal(0.0)


def test_nothing_is_heard_when_it_is_off() -> None:
    """``configure(listen=False)`` is one flag."""
    configure(listen=False)

    hearing_module.heard(SPENT, "openai/m")

    assert {} == hearing.states()


def test_answers_without_such_headers_cost_no_memory() -> None:
    """A key is known from its first figure on."""
    hearing_module.heard({"content-type": "text/plain", "x-limit": "5"}, "openai/m")

    assert None is hearing.known("openai/m")


def test_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many keys the oldest are dropped."""
    monkeypatch.setattr(hearing_module, "MOST_KEYS", 100)

    for number in range(1_000):
        hearing_module.heard(SPENT, f"tenant{number}/m")

    assert (100, 0) == (len(runtime.reported), _remaining("tenant999/m"))


def test_an_attempt_that_is_over_is_nobodys() -> None:
    """What a task that it has started hears later is that of the key, if there is one."""
    with inside(hearing.start("openai/m")):
        later = contextvars.copy_context()

    later.run(hearing_module.heard, SPENT, "groq/b")
    later.run(hearing_module.heard, SPENT, None)

    assert ["groq/b"] == list(hearing.states())


def test_attempts_of_a_provider_and_of_a_target() -> None:
    """An attempt knows its keys."""
    target, provider = hearing.start(Target("groq@eu/a/b").key), HeardAttempt("groq", {})

    assert ("groq", "groq@eu", "groq@eu/a/b") == (
        target.provider,
        target.provider_key,
        target.key,
    )
    assert ("groq", "groq", None) == (
        provider.provider,
        provider.provider_key,
        provider.started("groq"),
    )
