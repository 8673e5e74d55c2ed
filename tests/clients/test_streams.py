"""Streams of the real openai, anthropic and google-genai clients, sync, on asyncio and on trio.

They talk to a server on loopback whose streams go wrong in every way that streams do. What a
guarded function gives is compared with what the bare client gives of the same stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import logging
import pickle
import ssl
import sys
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import pytest

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    BreakerOpenError,
    ChainExhaustedError,
    DeadlineExceededError,
    ErrorKind,
    FailedOver,
    StreamCommitted,
    StreamInterrupted,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    breaker,
    failover,
    health,
    list_benched,
)
from resilient_llm.testing import FakeClock, capture_events
from tests.support.server import THREAD_NAME
from tests.support.stream_server import (
    LONG,
    MANY,
    PATIENCE,
    RETRY_AFTER,
    SENT,
    THOUGHTS,
    WHOLE,
    StreamServer,
    words,
)

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
genai = pytest.importorskip("google.genai")
httpx2 = pytest.importorskip("httpx2")
trio = pytest.importorskip("trio")

T = TypeVar("T")

QUESTION = "Why is the sky blue?"
FORMS = {
    "openai": ("generator", "stream", "manager", "responses", "responses_manager"),
    "anthropic": ("generator", "stream", "manager"),
    "google": ("generator", "stream"),
}
MODES = ("sync", "asyncio", "trio")
CASES = [
    f"{provider}-{form}-{mode}"
    for provider, forms in FORMS.items()
    for form in forms
    for mode in MODES
    # The helpers of openai are made of its streams: what trio does with these is seen already.
    if mode != "trio" or provider != "openai" or form in ("generator", "stream")
]

SOON = 0.1
"""Seconds that pass while a client waits on a real socket for what never comes."""
READY = 0.4
"""Seconds in which a good stream's next item has come, also where others are at work."""

# A context for TLS takes longer to make than all else in a test.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


# --- what the clients give ---------------------------------------------------------------------


def text_of(item: Any) -> str:
    """Return the text that an item of any of the clients adds to the answer."""
    if isinstance(item, str):
        return item
    if hasattr(item, "candidates"):
        parts = item.candidates[0].content.parts or []
        return "".join(part.text or "" for part in parts if not part.thought)
    if hasattr(item, "choices"):
        return item.choices[0].delta.content or ""
    if item.type in ("response.output_text.delta", "content.delta"):
        return item.delta
    if item.type == "content_block_delta" and item.delta.type == "text_delta":
        return item.delta.text
    return ""


def is_thought(item: Any) -> bool:
    """Tell whether an item is a piece of reasoning."""
    if hasattr(item, "candidates"):
        return any(part.thought for part in item.candidates[0].content.parts or [])
    if hasattr(item, "choices"):
        return bool(getattr(item.choices[0].delta, "reasoning_content", None))
    if item.type == "chunk":
        return is_thought(item.chunk)
    if item.type == "content_block_delta":
        return item.delta.type == "thinking_delta"
    return item.type == "response.reasoning_summary_text.delta"


def model_of(item: Any) -> str | None:
    """Return the model that an item names, if it does."""
    if getattr(item, "type", None) == "chunk":
        return item.chunk.model
    if getattr(item, "type", None) == "response.created":
        return item.response.model
    if getattr(item, "type", None) == "message_start":
        return item.message.model
    return getattr(item, "model", None) or getattr(item, "model_version", None)


def look_of(item: Any) -> str:
    """Return what an item looks like now."""
    # openai's snapshot is one object that grows while its events are held back.
    return f"chunk: {item.chunk!r}" if getattr(item, "type", None) == "chunk" else repr(item)


@dataclass
class Reading:
    """What a consumer got of a stream.

    Attributes:
        items: Every item as it looked when it came.
        texts: The texts among them.
        thoughts: How many of them are reasoning.
        models: The models they name.
        error: What ended it, if anything did.
        stream: The object that was iterated.
    """

    items: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    thoughts: int = 0
    models: set[str] = field(default_factory=set)
    error: Any = None
    stream: Any = None

    def take(self, item: Any) -> bool:
        """Note an item; return whether it holds text."""
        self.items.append(look_of(item))
        self.thoughts += not isinstance(item, str) and is_thought(item)
        if model := model_of(item):
            self.models.add(model)
        if text := text_of(item):
            self.texts.append(text)
        return bool(text)


# --- one way to write what is done in all of them ----------------------------------------------


def by_hand(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, as those about sync clients."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a story of sync code waited")


class World:
    """A server, the clients that talk to it and one way to use them.

    The stories are coroutines in all modes; those about sync clients never wait.

    Attributes:
        provider: ``openai``, ``anthropic`` or ``google``.
        form: What the guarded function is or returns.
        mode: ``sync``, ``asyncio`` or ``trio``.
    """

    def __init__(self, server: StreamServer, case: str) -> None:
        self.server = server
        self.provider, self.form, self.mode = case.split("-")
        self.is_async = self.mode != "sync"
        self._moment = threading.Event()
        self._clients: dict[str, Any] = {}
        self._closers: list[Callable[[], Any]] = []

    # Clients.

    def target(
        self, key: str, scenario: str, *, provider: str | None = None, **options: Any
    ) -> Target:
        """Return a target whose client meets a scenario."""
        self._clients[key] = (provider or self.provider, scenario)
        return Target(key, **options)

    def impatient(self, fault: str, *, limit: float = SOON) -> Callable[..., Any]:
        """Guard this form so that its first target alone has little time to come to content."""
        chain = [
            self.target("one/model-1", fault, stream=StreamPolicy(first_item_timeout=limit)),
            self.target("two/model-2", "healthy"),
        ]
        return failover(chain, attempts=1)(self.function())

    def chain(self, *scenarios: str) -> list[Target]:
        """Return targets of several providers, ``one/model-1`` first, whose clients meet these scenarios."""
        names = ("one", "two", "three")
        return [
            self.target(f"{name}/model-{number}", scenario)
            for number, (name, scenario) in enumerate(zip(names, scenarios, strict=False), 1)
        ]

    def client(self, key: str) -> Any:
        """Return the client of a target, without retries of its own."""
        if isinstance(self._clients[key], tuple):
            self._clients[key] = self._make(*self._clients[key])
        return self._clients[key]

    def _make(self, provider: str, scenario: str) -> Any:
        url = self.server.url(provider, scenario)
        if provider == "google":
            return self._make_google(url)
        package = {"openai": openai, "anthropic": anthropic}[provider]
        prefix = "Async" if self.is_async else ""
        http_client = getattr(package, f"Default{prefix}HttpxClient")(
            trust_env=False, verify=NO_TLS
        )
        name = {"openai": "OpenAI", "anthropic": "Anthropic"}[provider]
        client = getattr(package, prefix + name)(
            base_url=url, api_key="not-a-key", max_retries=0, http_client=http_client
        )
        self._closers.append(client.close)
        return client

    def _make_google(self, url: str) -> Any:
        options: dict[str, Any] = {"client_args": {"verify": NO_TLS, "trust_env": False}}
        # Its own default, aiohttp, knows asyncio alone.
        if self.mode == "trio":
            options["httpx_async_client"] = httpx2.AsyncClient(
                verify=NO_TLS, trust_env=False, timeout=None
            )
            self._closers.append(options["httpx_async_client"].aclose)
        client = genai.Client(
            api_key="not-a-key",
            http_options=genai.types.HttpOptions(
                base_url=url,
                retry_options=genai.types.HttpRetryOptions(attempts=1),
                async_client_args={"ssl": NO_TLS},
                **options,
            ),
        )
        self._closers += [client.close, client.aio.aclose] if self.is_async else [client.close]
        return client

    # Functions.

    def start(self, target: Target, prompt: str = QUESTION) -> Any:
        """Call the client of a target for a stream, or for the manager of one; async ones give an awaitable."""
        client: Any = self.client(target.key)
        messages: Any = [{"role": "user", "content": prompt}]
        if hasattr(client, "aio"):
            models = client.aio.models if self.is_async else client.models
            return models.generate_content_stream(model=target.model, contents=prompt)
        if hasattr(client, "chat"):
            if self.form == "manager":
                return client.chat.completions.stream(model=target.model, messages=messages)
            if self.form == "responses_manager":
                return client.responses.stream(model=target.model, input=prompt)
            if self.form == "responses":
                return client.responses.create(model=target.model, input=prompt, stream=True)
            return client.chat.completions.create(
                model=target.model, messages=messages, stream=True
            )
        if self.form == "manager":
            return client.messages.stream(model=target.model, messages=messages, max_tokens=50)
        return client.messages.create(
            model=target.model, messages=messages, max_tokens=50, stream=True
        )

    def function(self) -> Callable[..., Any]:
        """Return the function to guard."""
        if self.form == "generator":
            return self._async_generator() if self.is_async else self._generator()
        if self.form.endswith("manager"):

            def manage(target: Target, prompt: str = QUESTION) -> Any:
                return self.start(target, prompt)

            return manage
        if self.is_async:

            async def afetch(target: Target, prompt: str = QUESTION) -> Any:
                return await self.start(target, prompt)

            return afetch

        def fetch(target: Target, prompt: str = QUESTION) -> Any:
            return self.start(target, prompt)

        return fetch

    def _generator(self) -> Callable[..., Any]:
        def ask(target: Target, prompt: str = QUESTION) -> Iterator[Any]:
            with contextlib.closing(self.start(target, prompt)) as stream:
                yield from stream

        return ask

    def _async_generator(self) -> Callable[..., Any]:
        async def ask(target: Target, prompt: str = QUESTION) -> AsyncGenerator[Any, None]:
            stream = await self.start(target, prompt)
            try:
                async for item in stream:
                    yield item
            finally:
                await close(stream)

        return ask

    def guard(self, *scenarios: str, **policy: Any) -> Callable[..., Any]:
        """Return the function of this form under a chain whose targets meet these scenarios, one attempt each."""
        return failover(self.chain(*scenarios), **{"attempts": 1, **policy})(self.function())

    # Reading.

    async def open(self, ask: Callable[..., Any], stack: Stack) -> Any:
        """Call a function and return the stream it gives; managers are left when the stack is."""
        given = ask()
        if self.form == "generator":
            return given
        if self.form.endswith("manager"):
            return await stack.enter(given)
        return await given if self.is_async else given

    async def next(self, iterator: Any) -> Any:
        """Return the next item; at the end raise `StopAsyncIteration`."""
        if self.is_async:
            return await anext(iterator)
        try:
            return next(iterator)
        except StopIteration:
            raise StopAsyncIteration from None

    async def take(self, iterator: Any, reading: Reading) -> bool:
        """Read one item, and tell the server if it holds text; return whether it does."""
        has_text = reading.take(await self.next(iterator))
        if has_text:
            self.server.client_has()
        return has_text

    async def read(self, ask: Callable[..., Any], *, texts: int | None = None) -> Reading:
        """Call a function and read its stream to the end, or close it after so many texts.

        An error is kept in the reading.
        """
        reading = Reading()
        async with Stack(self.is_async) as stack:
            try:
                reading.stream = await self.open(ask, stack)
                iterator = aiter(reading.stream) if self.is_async else iter(reading.stream)
                while texts is None or len(reading.texts) < texts:
                    await self.take(iterator, reading)
            except StopAsyncIteration:
                pass
            except Exception as error:
                reading.error = error
            if texts is not None:
                await leave(self, reading.stream)
        return reading

    def bare(self, target: Target) -> Callable[..., Any]:
        """Return the unguarded function, for one target."""
        return functools.partial(self.function(), target)

    # Waiting for others, which go on in threads of their own.

    async def sees(self, condition: Callable[[], bool]) -> bool:
        """Wait until something holds; return whether it came to that."""
        # What only the collector releases takes a while on a machine that does much else.
        end = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < end:
            if self.is_async:
                await anyio.sleep(0.001)
            else:
                self._moment.wait(0.001)
        return condition()

    def is_released(self) -> bool:
        """Return whether the server has seen the end of every answer."""
        if self.provider == "google":
            # The client keeps the response in cycles of its own, guarded or not: after an early
            # end it is released when these are collected, one after the other. The synchronous
            # one does if its read was cut off just between two reads of the socket.
            gc.collect()
        return not self.server.open_answers

    # Running.

    def run(self, story: Callable[[], Awaitable[T]], *, answers: bool = True) -> T:
        """Tell a story, and see that it leaves nothing behind.

        Before the clients are closed no answer may be under way, and no task may be left; after it
        no connection may be open.
        """

        async def whole() -> T:
            at_first = tasks(self.mode)
            try:
                result = await story()
                assert await self.sees(self.is_released), "a stream is still open"
                assert await self.sees(lambda: tasks(self.mode) <= at_first), (
                    f"left: {tasks(self.mode) - at_first}"
                )
                return result
            finally:
                for close_client in reversed(self._closers):
                    with (
                        anyio.CancelScope(shield=True)
                        if self.is_async
                        else contextlib.nullcontext()
                    ):
                        closed = close_client()
                        if inspect.isawaitable(closed):
                            await closed

        with nothing_left():
            result = drive(self.mode, whole)
        assert self.server.is_left_alone()
        return result

    def reads(self, *scenarios: str, **policy: Any) -> Reading:
        """Guard this form by such a policy and read its stream to the end."""
        ask = self.guard(*scenarios, **policy)
        return self.run(lambda: self.read(ask))


class Stack:
    """Context managers of either kind, left together."""

    def __init__(self, is_async: bool) -> None:
        self._stack: Any = contextlib.AsyncExitStack() if is_async else contextlib.ExitStack()
        self._is_async = is_async

    async def enter(self, manager: Any) -> Any:
        if self._is_async:
            return await self._stack.enter_async_context(manager)
        return self._stack.enter_context(manager)

    async def __aenter__(self) -> Stack:
        return self

    async def __aexit__(self, *error: Any) -> Any:
        if self._is_async:
            return await self._stack.__aexit__(*error)
        return self._stack.__exit__(*error)


async def close(stream: Any) -> None:
    """Close a stream of any client in its own way."""
    closed = stream.aclose() if hasattr(stream, "aclose") else stream.close()
    if inspect.isawaitable(closed):
        await closed


async def leave(world: World, stream: Any) -> None:
    """Close a stream whose provider is not through with it, and see that its connection is released."""
    await close(stream)
    assert await world.sees(world.is_released), "a stream is still open"


def drive(mode: str, story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    if mode == "sync":
        return by_hand(story())
    return asyncio.run(story()) if mode == "asyncio" else trio.run(story)


def tasks(mode: str) -> set[Any]:
    """Return the tasks that run here."""
    if mode == "asyncio":
        return asyncio.all_tasks()
    if mode == "trio":
        seen: set[Any] = set()
        waiting = [trio.lowlevel.current_root_task()]
        while waiting:
            task = waiting.pop()
            seen.add(task)
            waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        return seen
    return set()


WATCHDOG = "resilient_llm-watchdog"
"""The one thread that the library keeps."""


def threads() -> set[threading.Thread]:
    """Return the threads, but for the server's, the watchdog and those that trio keeps for ten seconds."""
    kept = (THREAD_NAME, "Trio thread", WATCHDOG)
    return {each for each in threading.enumerate() if not each.name.startswith(kept)}


def is_of_a_client(warning: warnings.WarningMessage) -> bool:
    """Tell whether a warning is about a generator that a client leaves to the collector, guarded or not."""
    about = str(warning.message)
    names = ("openai.", "anthropic.", "google.genai.", "httpx2.", "httpcore2.", "anyio.")
    return about.startswith(tuple(f"Async generator '{name}" for name in names))


@contextlib.contextmanager
def nothing_left() -> Generator[None, None, None]:
    """See that a block leaves no thread behind, and that nothing complains when what it used is collected."""
    at_first = threads()
    gc.freeze()  # the clients' classes are many: what was there before is not looked at again and again
    unraised: list[Any] = []
    told: list[str] = []
    listener = logging.Handler(logging.ERROR)
    listener.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]  # a stand-in
    logger = logging.getLogger("asyncio")
    hook, sys.unraisablehook = (
        sys.unraisablehook,
        lambda unraisable: unraised.append(str(unraisable)),
    )
    logger.addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            yield
            gc.collect()
    finally:
        logger.removeHandler(listener)
        sys.unraisablehook = hook
    assert [] == unraised
    assert [] == told
    kinds = (ResourceWarning, RuntimeWarning)
    assert [] == [
        str(each.message)
        for each in seen
        if issubclass(each.category, kinds) and not is_of_a_client(each)
    ]
    end = time.monotonic() + PATIENCE
    while not threads() <= at_first and time.monotonic() < end:
        time.sleep(0.001)
    assert threads() <= at_first
    assert [each.name for each in threading.enumerate()].count(WATCHDOG) <= 1


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Put back what the tests kept out of the collections that they ask for."""
    yield
    gc.unfreeze()


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer() as running:
        yield running


@pytest.fixture(params=CASES)
def world(request: pytest.FixtureRequest, server: StreamServer) -> World:
    return World(server, request.param)


def only(*parts: str) -> Any:
    """Run a test in the cases whose names hold one of these."""
    cases = [case for case in CASES if any(f"-{part}-" in f"-{case}-" for part in parts)]
    return pytest.mark.parametrize("world", cases, indirect=True)


def bare_reading(case: World, scenario: str, key: str = "two/model-2") -> Reading:
    """Return what the bare client of a target gives of a scenario, with a server of its own."""
    with StreamServer() as server:
        world = World(server, f"{case.provider}-{case.form}-{case.mode}")
        ask = world.bare(world.target(key, scenario))
        return world.run(lambda: world.read(ask))


@functools.cache
def _whole(provider: str, form: str, mode: str, key: str) -> tuple[str, ...]:
    with StreamServer() as server:
        world = World(server, f"{provider}-{form}-{mode}")
        ask = world.bare(world.target(key, "healthy"))
        return tuple(world.run(lambda: world.read(ask)).items)


def whole(world: World, key: str) -> list[str]:
    """Return the items that the bare client of a target gives of a stream that ends well."""
    return list(_whole(world.provider, world.form, world.mode, key))


# --- a good stream -----------------------------------------------------------------------------


def test_a_good_stream_is_what_the_bare_client_gives(world: World) -> None:
    """Every item comes through once, in order and unchanged; it counts as one success."""
    with capture_events(StreamCommitted, AttemptSucceeded, AttemptFailed) as seen:
        reading = world.reads("healthy")

    counted = health()["one/model-1"]
    assert whole(world, "one/model-1") == reading.items
    assert words(WHOLE) == reading.texts
    assert reading.error is None
    assert [StreamCommitted, AttemptSucceeded] == [type(event) for event in seen]
    assert (1, 0) == (counted.total, counted.errors)
    assert 1 == len(world.server.requests)


def test_signs_of_life_come_once_and_in_order(world: World) -> None:
    """Items without content that were held back come out before the first word, each once."""
    reading = world.reads("preamble")

    assert bare_reading(world, "preamble", "one/model-1").items == reading.items
    assert words(WHOLE) == reading.texts


@only("stream", "generator", "manager")
def test_reasoning_is_content(world: World) -> None:
    """A thought is handed on at once, not held until there is text."""
    ask = world.guard("reasoning", "healthy")

    async def story() -> Reading:
        reading = Reading()
        async with Stack(world.is_async) as stack:
            # Given only if the first thought commits: the server waits for a word of the test.
            reading.stream = await world.open(ask, stack)
            iterator = aiter(reading.stream) if world.is_async else iter(reading.stream)
            while not reading.thoughts:
                await world.take(iterator, reading)
            world.server.step(THOUGHTS)
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    await world.take(iterator, reading)
        return reading

    reading = world.run(story)

    assert THOUGHTS == reading.thoughts
    assert words(WHOLE) == reading.texts
    assert 1 == len(world.server.requests)


@only("stream", "generator", "manager")
def test_a_tool_call_is_content(world: World) -> None:
    """A call of a tool is handed on at once, not held until there is text."""
    ask = world.guard("tool", "healthy")

    async def story() -> Reading:
        reading = Reading()
        async with Stack(world.is_async) as stack:
            reading.stream = await world.open(ask, stack)
            iterator = aiter(reading.stream) if world.is_async else iter(reading.stream)
            # What google's own look leaves out for its depth.
            while not any(
                name in "".join(reading.items) for name in ("look_up", "function_call=F")
            ):
                await world.take(iterator, reading)
            world.server.step()
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    await world.take(iterator, reading)
        return reading

    reading = world.run(story)

    assert words(WHOLE) == reading.texts
    assert 1 == len(world.server.requests)


def test_items_come_as_they_are_sent(world: World) -> None:
    """Each item is there as soon as it was sent: none waits for the next."""
    ask = world.guard("drip")
    world.server.step()

    async def story() -> Reading:
        reading = Reading()
        async with Stack(world.is_async) as stack:
            reading.stream = await world.open(ask, stack)
            iterator = aiter(reading.stream) if world.is_async else iter(reading.stream)
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    if await world.take(iterator, reading):
                        world.server.step()
        return reading

    reading = world.run(story)

    assert words(WHOLE) == reading.texts


@only("stream")
def test_many_items(world: World) -> None:
    """Hundreds of items come through, each once and in order."""
    reading = world.reads("many", stream=StreamPolicy(idle_timeout=30.0))

    assert words(MANY) == reading.texts


@pytest.mark.slow
@pytest.mark.parametrize("world", ["openai-stream-sync", "anthropic-stream-asyncio"], indirect=True)
def test_a_hundred_thousand_items(world: World) -> None:
    """A hundred thousand items come through, each once and in order."""
    # The lines as they are: making objects of so many takes the clients half a minute.
    chain = world.chain("long")

    def create(target: Target) -> Any:
        client: Any = world.client(target.key)
        messages: Any = [{"role": "user", "content": QUESTION}]
        if world.provider == "openai":
            chat = client.chat.completions.with_streaming_response
            return chat.create(model=target.model, messages=messages, stream=True)
        return client.messages.with_streaming_response.create(
            model=target.model, messages=messages, max_tokens=50, stream=True
        )

    @failover(chain)
    def ask(target: Target) -> Iterator[str]:
        with create(target) as response:
            yield from response.iter_lines()

    @failover(chain)
    async def aask(target: Target) -> AsyncGenerator[str, None]:
        async with create(target) as response:
            async for line in response.iter_lines():
                yield line

    async def story() -> list[str]:
        lines = [line async for line in aask()] if world.is_async else list(ask())
        return [
            line.rpartition('": "')[2].partition('"')[0]
            for line in lines
            if ' "w' in line or '"w' in line
        ]

    got = world.run(story)

    assert LONG == len(got)
    assert words(LONG) == got


# --- a fault before the first content ----------------------------------------------------------

BEFORE = (
    "reset-headers",
    "reset-before",
    "cut-before",
    "truncated-before",
    "error-before",
    "garbage-before",
    "http-500",
    "http-429",
)


@pytest.mark.parametrize("fault", BEFORE)
def test_a_fault_before_content_moves_on(world: World, fault: str) -> None:
    """The second target's whole stream comes, nothing of the first's, and the first is charged once."""
    with capture_events(AttemptFailed, FailedOver, StreamCommitted, StreamInterrupted) as seen:
        reading = world.reads(fault, "healthy")

    kind = ErrorKind.RATE_LIMITED if fault == "http-429" else ErrorKind.TRANSIENT
    failed, over, committed = seen
    assert whole(world, "two/model-2") == reading.items
    assert reading.error is None
    assert {"model-2"} == reading.models
    assert ("one/model-1", kind) == (failed.target, failed.kind)
    assert ("one/model-1", "two/model-2") == (over.from_target, over.to_target)
    assert "two/model-2" == committed.target
    assert (1, 1) == (world.server.asked(fault), world.server.asked("healthy"))
    assert (1, 1) == (health()["one"].total, health()["one"].errors)
    assert (1, 0) == (health()["two/model-2"].total, health()["two/model-2"].errors)


@pytest.mark.parametrize("fault", ["empty", "nothing", "html"])
def test_no_content_at_all_moves_on(world: World, fault: str) -> None:
    """A stream that says nothing is no answer: the second target's comes."""
    reading = world.reads(fault, "healthy")

    assert whole(world, "two/model-2") == reading.items
    assert reading.error is None
    assert (1, 1) == (world.server.asked(fault), world.server.asked("healthy"))


@only("stream", "anthropic-manager")
def test_an_empty_answer_harms_nobodys_health(world: World) -> None:
    """A stream that ended well without content is a bad response, reason ``empty``."""
    with capture_events(AttemptFailed) as seen:
        world.reads("empty", "healthy")

    assert [(ErrorKind.BAD_RESPONSE, "empty")] == [(event.kind, event.reason) for event in seen]
    assert 0 == health()["one/model-1"].errors


@only("stream", "anthropic-manager")
def test_a_truncated_answer_is_interrupted(world: World) -> None:
    """A stream without terminator is transient, reason ``stream_interrupted``."""
    with capture_events(AttemptFailed) as seen:
        world.reads("truncated-before", "healthy")

    assert [(ErrorKind.TRANSIENT, "stream_interrupted")] == [
        (event.kind, event.reason) for event in seen
    ]


@only("stream", "anthropic-manager")
def test_a_fault_before_content_is_retried(world: World) -> None:
    """With attempts left the same target is asked again, and only then the next."""
    reading = world.reads("reset-before", "healthy", attempts=3, backoff=lambda number: 0.0)

    assert words(WHOLE) == reading.texts
    assert (3, 1) == (world.server.asked("reset-before"), world.server.asked("healthy"))


@only("stream", "anthropic-manager")
def test_a_rate_limit_benches_for_its_hint(world: World) -> None:
    """A 429 before a stream benches the target for what the provider asked."""
    world.reads("http-429", "healthy")

    (bench,) = list_benched()
    assert "one/model-1" == bench.model
    assert bench.remaining is not None
    assert RETRY_AFTER - 2 < bench.remaining <= RETRY_AFTER


@only("stream", "anthropic-manager")
def test_nobody_starts(world: World) -> None:
    """When no target comes to content, the group holds the clients' own errors."""
    reading = world.reads("error-before", "error-before")

    assert isinstance(reading.error, ChainExhaustedError)
    assert [] == reading.items
    first = bare_reading(world, "error-before").error
    assert [type(first)] * 2 == [type(error) for error in reading.error.exceptions]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stall-headers", "stall-before", "silence-before"])
def test_a_stream_that_never_starts_is_left(world: World, fault: str) -> None:
    """After `first_item_timeout` the first target is given up, its connection closed, and the next one's stream comes."""
    with capture_events(AttemptFailed) as seen:
        ask = world.impatient(fault)
        reading = world.run(lambda: world.read(ask))

    assert whole(world, "two/model-2") == reading.items
    assert reading.error is None
    assert [("one/model-1", ErrorKind.TRANSIENT)] == [(event.target, event.kind) for event in seen]
    assert (1, 1) == (health()["one"].total, health()["one"].errors)


# --- a fault after content ---------------------------------------------------------------------

MIDWAY = ("reset-midway", "cut-midway", "truncated-midway", "error-midway", "garbage-midway")


@pytest.mark.parametrize("fault", MIDWAY)
def test_a_fault_after_content_is_told(world: World, fault: str) -> None:
    """What was delivered stays, nothing of another model follows, and the error says whose stream broke and where."""
    with capture_events(AttemptFailed, AttemptSucceeded, StreamInterrupted) as seen:
        reading = world.reads(fault, "healthy")

    bare = bare_reading(world, fault, "one/model-1")
    assert bare.items == reading.items
    assert words(SENT) == reading.texts
    assert isinstance(reading.error, StreamInterruptedError)
    assert ("one/model-1", len(bare.items)) == (str(reading.error.target), reading.error.items_sent)
    if bare.error is not None:
        assert type(bare.error) is type(reading.error.__cause__)
    (interrupted,) = [event for event in seen if isinstance(event, StreamInterrupted)]
    assert (len(bare.items), ErrorKind.TRANSIENT) == (interrupted.items_sent, interrupted.kind)
    assert not [event for event in seen if isinstance(event, AttemptSucceeded)]
    assert (1, 1) == (health()["one"].total, health()["one"].errors)
    assert (1, 0) == (world.server.asked(fault), world.server.asked("healthy"))


@pytest.mark.slow
@only("stream", "anthropic-manager", "openai-generator")
@pytest.mark.parametrize("fault", ["stall-midway", "silence-midway"])
def test_a_stream_that_stops_is_cut_off(world: World, fault: str) -> None:
    """After `idle_timeout` without content the stream is interrupted and its connection closed, pings or not."""
    with capture_events(StreamInterrupted) as seen:
        reading = world.reads(fault, "healthy", stream=StreamPolicy(idle_timeout=READY))

    assert words(SENT) == reading.texts
    assert isinstance(reading.error, StreamInterruptedError)
    assert "one/model-1" == str(reading.error.target)
    assert [ErrorKind.TRANSIENT] == [event.kind for event in seen]
    assert (1, 1) == (health()["one"].total, health()["one"].errors)
    assert 0 == world.server.asked("healthy")


@pytest.mark.slow
@only("openai-stream", "anthropic-manager-sync", "google-stream-asyncio")
def test_the_deadline_holds_for_the_whole_stream(world: World) -> None:
    """The policy's timeout ends a stream that has begun; the error is an interruption too, and nobody is blamed."""
    reading = world.reads("stall-midway", timeout=2 * READY)

    assert words(SENT) == reading.texts
    assert isinstance(reading.error, StreamInterruptedError)
    assert isinstance(reading.error, DeadlineExceededError)
    assert 0 == health()["one/model-1"].errors


@pytest.mark.slow
@only("stream", "anthropic-manager")
@pytest.mark.parametrize("fault", ["stall-headers", "silence-before"])
def test_the_deadline_holds_before_content(world: World, fault: str) -> None:
    """The policy's timeout ends the wait for the first content."""
    # That it is a stream must be told, or nobody can know while a sync client waits for the headers.
    reading = world.reads(fault, timeout=SOON, stream=StreamPolicy())

    assert [] == reading.items
    assert isinstance(reading.error, DeadlineExceededError)
    assert not isinstance(reading.error, StreamInterruptedError)


@pytest.mark.slow
@only("openai-stream", "anthropic-manager-sync")
def test_a_hanging_first_target_leaves_time_for_the_next(world: World) -> None:
    """With a deadline the first target may use its share alone, and the fallback is reached."""
    # Three quarters are the first target's share.
    reading = world.reads("silence-before", "healthy", timeout=4 * READY)

    assert whole(world, "two/model-2") == reading.items


# --- closing early -----------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["close", "with"])
def test_a_consumer_that_stops_early(world: World, by: str) -> None:
    """Closed after some content, the connection is released and it counts as a success."""
    if by == "with" and (world.form == "generator" or world.provider == "google"):
        pytest.skip("a generator is no context manager")
    ask = world.guard("drip", "healthy")
    world.server.step(2)

    async def story() -> Reading:
        reading = Reading()
        async with Stack(world.is_async) as stack:
            reading.stream = await world.open(ask, stack)
            if by == "with" and not world.form.endswith("manager"):
                reading.stream = await stack.enter(reading.stream)
            iterator = aiter(reading.stream) if world.is_async else iter(reading.stream)
            while len(reading.texts) < 2:
                await world.take(iterator, reading)
            if by == "close":
                await leave(world, reading.stream)
        return reading

    with capture_events(AttemptFailed, AttemptSucceeded, StreamInterrupted) as seen:
        reading = world.run(story)

    counted = health()["one/model-1"]
    assert words(2) == reading.texts
    assert [AttemptSucceeded] == [type(event) for event in seen]
    assert (1, 0) == (counted.total, counted.errors)
    assert 0 == world.server.asked("healthy")


@only("generator")
def test_a_generator_that_is_never_asked_does_nothing(world: World) -> None:
    """Nothing is sent before the first item is asked for, and closing it then is quiet."""
    ask = world.guard("healthy")

    async def story() -> None:
        await close(ask())

    world.run(story)

    assert [] == world.server.requests
    assert 0 == len(health()) or 0 == health()["one/model-1"].total


@only("sync")
def test_a_sync_loop_left_by_break_releases_what_it_drops(world: World) -> None:
    """After ``break`` the connection is released as soon as nobody holds the stream."""
    ask = world.guard("drip")
    world.server.step(2)

    async def story() -> None:
        async with Stack(world.is_async) as stack:
            stream = await world.open(ask, stack)
            for item in stream:
                if text_of(item):
                    break
        del stream, item
        gc.collect()

    world.run(story)

    assert 0 == health()["one/model-1"].errors


@only("asyncio", "trio")
def test_a_cancelled_wait_for_the_first_content(world: World) -> None:
    """Cancelled before content, the connection is released, nobody is charged and the next call goes the same way."""
    ask = world.guard("silence-before", "healthy")

    async def story() -> Reading:
        async with anyio.create_task_group() as group:
            group.start_soon(world.read, ask)
            assert await world.sees(lambda: world.server.stalls == 1)
            group.cancel_scope.cancel()
        assert await world.sees(lambda: not world.server.open_answers)
        world.server.release()
        return await world.read(ask)

    with capture_events(AttemptFailed, FailedOver, StreamInterrupted) as seen:
        reading = world.run(story)

    counted = health()["one/model-1"]
    assert words(WHOLE) == reading.texts
    assert [] == list(seen)
    assert (1, 0) == (counted.total, counted.errors)
    assert (2, 0) == (world.server.asked("silence-before"), world.server.asked("healthy"))


@only("asyncio", "trio")
def test_a_cancelled_wait_after_content(world: World) -> None:
    """Cancelled after content, the connection is released, no other target is asked and nobody is charged."""
    ask = world.guard("silence-midway", "healthy")
    reading = Reading()

    async def consume() -> None:
        async with Stack(world.is_async) as stack:
            reading.stream = await world.open(ask, stack)
            async for item in reading.stream:
                if reading.take(item):
                    world.server.client_has()

    async def story() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            assert await world.sees(lambda: world.server.stalls == 1)
            group.cancel_scope.cancel()
        assert await world.sees(lambda: not world.server.open_answers)

    with capture_events(AttemptFailed, FailedOver, StreamInterrupted) as seen:
        world.run(story)

    assert words(SENT) == reading.texts
    assert [] == list(seen)
    assert 0 == health()["one/model-1"].errors
    assert 0 == world.server.asked("healthy")


@pytest.mark.slow
@only("asyncio")
def test_wait_for_around_the_first_content(world: World) -> None:
    """The caller's own `asyncio.timeout` ends the wait with its own error, and nothing stays open."""
    ask = world.guard("silence-before", "healthy")

    async def story() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                async with Stack(world.is_async) as stack:
                    stream = await world.open(ask, stack)
                    await anext(aiter(stream))

    world.run(story)

    assert 0 == world.server.asked("healthy")


# --- what comes back is the client's own object ------------------------------------------------


@only("stream", "responses")
def test_a_stream_keeps_its_type_and_attributes(world: World) -> None:
    """The stream of openai or anthropic is one still: its class, its response, its way of closing."""
    if world.provider == "google":
        pytest.skip("google-genai gives plain generators")
    ask = world.guard("error-before", "healthy")
    package = {"openai": openai, "anthropic": anthropic}[world.provider]
    expected = package.AsyncStream if world.is_async else package.Stream

    async def story() -> Any:
        stream = await world.open(ask, Stack(world.is_async))
        assert isinstance(stream, expected)
        assert "req_1" == stream.response.headers["x-request-id"]
        assert 200 == stream.response.status_code
        assert "/healthy/" in str(stream.response.request.url)
        await close(stream)
        return stream

    stream = world.run(story)

    assert stream.response.is_closed


@only("manager", "responses_manager")
def test_a_manager_gives_the_clients_own_stream(world: World) -> None:
    """What a stream manager yields is of the client's class, with its response."""
    ask = world.guard("error-before", "healthy")

    async def story() -> str:
        async with Stack(world.is_async) as stack:
            stream = await world.open(ask, stack)
            names = {
                ("anthropic", "manager"): "MessageStream",
                ("openai", "manager"): "ChatCompletionStream",
                ("openai", "responses_manager"): "ResponseStream",
            }
            name = ("Async" if world.is_async else "") + names[world.provider, world.form]
            assert (
                name in [each.__name__ for each in type(stream).__mro__]
                or name == stream.__class__.__name__
            )
            if world.provider == "anthropic":
                assert isinstance(
                    stream,
                    anthropic.AsyncMessageStream if world.is_async else anthropic.MessageStream,
                )
                assert "req_1" == stream.response.headers["x-request-id"]
                assert "req_1" == stream.request_id
            return (await final(stream)) if world.is_async else by_hand(final(stream))

    assert "".join(words(WHOLE)) == world.run(story)
    assert (1, 0) == (health()["two/model-2"].total, health()["two/model-2"].errors)


async def final(stream: Any) -> str:
    """Return the text that a client's helper makes of a whole stream."""
    for name in ("get_final_message", "get_final_completion", "get_final_response"):
        if hasattr(stream, name):
            made = getattr(stream, name)()
            made = await made if inspect.isawaitable(made) else made
    if hasattr(made, "content"):
        return made.content[0].text
    return made.choices[0].message.content if hasattr(made, "choices") else made.output_text


@only("manager", "responses_manager")
def test_a_final_answer_is_not_made_of_half_a_stream(world: World) -> None:
    """``get_final_message()`` and its like raise the interruption, and the target is charged."""
    ask = world.guard("error-midway", "healthy")
    world.server.waits_for_client = False

    async def story() -> Any:
        async with Stack(world.is_async) as stack:
            stream = await world.open(ask, stack)
            with pytest.raises(StreamInterruptedError) as raised:
                await final(stream)
            return raised.value

    error = world.run(story)

    assert "one/model-1" == str(error.target)
    assert 1 == health()["one/model-1"].errors
    assert 0 == world.server.asked("healthy")


@only("anthropic-manager")
@pytest.mark.parametrize("scenario", ["healthy", "error-midway"])
def test_text_stream_is_guarded(world: World, scenario: str) -> None:
    """``stream.text_stream`` of anthropic gives the texts, and the interruption where the stream breaks."""
    ask = world.guard(scenario, "healthy")
    texts: list[str] = []

    async def story() -> Any:
        async with Stack(world.is_async) as stack:
            stream = await world.open(ask, stack)
            iterator = aiter(stream.text_stream) if world.is_async else iter(stream.text_stream)
            try:
                while True:
                    texts.append(await world.next(iterator))
                    world.server.client_has()
            except StopAsyncIteration:
                return None
            except Exception as error:
                return error

    error = world.run(story)

    if scenario == "healthy":
        assert words(WHOLE) == texts
        assert error is None
        assert (1, 0) == (health()["one/model-1"].total, health()["one/model-1"].errors)
    else:
        assert words(SENT) == texts
        assert isinstance(error, StreamInterruptedError)
        assert 1 == health()["one/model-1"].errors


@only("anthropic-manager-sync", "anthropic-manager-asyncio")
def test_the_snapshot_is_of_the_target_that_serves(world: World) -> None:
    """What anthropic's stream has put together so far holds nothing of a target that was given up."""
    ask = world.guard("error-before", "healthy")

    async def story() -> Any:
        async with Stack(world.is_async) as stack:
            stream = await world.open(ask, stack)
            made = stream.get_final_message()
            made = await made if inspect.isawaitable(made) else made
            return made, stream.current_message_snapshot

    message, snapshot = world.run(story)

    assert ("model-2", "".join(words(WHOLE))) == (message.model, message.content[0].text)
    assert snapshot == message


# --- what is done about an interruption --------------------------------------------------------


@only("generator", "stream")
def test_restart_begins_anew_after_a_marker(world: World) -> None:
    """With ``restart`` the marker comes, then the next target's stream from its beginning."""
    policy = StreamPolicy(on_interrupt="restart", restart_marker="<again>")
    with capture_events(StreamInterrupted) as seen:
        reading = world.reads("error-midway", "healthy", stream=policy)

    first = bare_reading(world, "error-midway", "one/model-1").items
    assert [*first, repr("<again>"), *whole(world, "two/model-2")] == reading.items
    assert [*words(SENT), "<again>", *words(WHOLE)] == reading.texts
    assert reading.error is None
    assert ["one/model-1"] == [event.target for event in seen]
    assert (1, 0) == (health()["one/model-1"].errors, health()["two/model-2"].errors)


@only("generator", "stream")
def test_restart_without_a_marker(world: World) -> None:
    """Without a marker the next target's stream follows at once."""
    reading = world.reads("reset-midway", "healthy", stream=StreamPolicy(on_interrupt="restart"))

    assert [*words(SENT), *words(WHOLE)] == reading.texts
    assert reading.error is None


@only("generator", "stream")
def test_a_restart_may_be_interrupted_too(world: World) -> None:
    """When the last target breaks as well, the interruption of the last is raised."""
    policy = StreamPolicy(on_interrupt="restart", restart_marker="|")
    reading = world.reads("error-midway", "cut-midway", stream=policy)

    # The marker counts as an item with text for the reader, which the server does not wait for.
    assert [*words(SENT), "|", *words(SENT)] == reading.texts
    assert isinstance(reading.error, (StreamInterruptedError, ChainExhaustedError))
    assert (1, 1) == (health()["one/model-1"].errors, health()["two/model-2"].errors)


@only("generator", "stream")
def test_a_callable_continues_with_what_was_said(world: World) -> None:
    """A callable gets the interruption and gives the keyword arguments for the next target."""
    told: list[Any] = []

    def go_on(interruption: Any) -> dict[str, Any]:
        told.append(interruption)
        return {"prompt": f"Go on after: {interruption.text_so_far}"}

    policy = StreamPolicy(on_interrupt=go_on, keep_text=1000)
    reading = world.reads("error-midway", "healthy", stream=policy)

    (interruption,) = told
    asked = world.server.requests[-1]
    assert [*words(SENT), *words(WHOLE)] == reading.texts
    assert "one/model-1" == str(interruption.target)
    assert "".join(words(SENT)) == interruption.text_so_far
    assert "Go on after: w0 w1 w2 " in str(asked.body)
    assert QUESTION not in str(asked.body)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["generator", "stream"])
def test_restart_over_clients_of_different_makers(
    server: StreamServer, form: str, mode: str
) -> None:
    """A stream of one maker's client may be followed by that of another's."""
    world = World(server, f"openai-{form}-{mode}")
    chain = [
        world.target("openai/gpt", "error-midway"),
        world.target("anthropic/claude", "cut-midway", provider="anthropic"),
        world.target("google/gemini", "healthy", provider="google"),
    ]
    policy = StreamPolicy(on_interrupt="restart", restart_marker="|")
    ask = failover(chain, attempts=1, stream=policy)(world.function())

    reading = world.run(lambda: world.read(ask))

    assert [*words(SENT), "|", *words(SENT), "|", *words(WHOLE)] == reading.texts
    assert reading.error is None
    assert (1, 1, 0) == tuple(health()[target.key].errors for target in chain)


def test_failover_to_a_client_of_another_maker(server: StreamServer) -> None:
    """Before content the next target may be of another maker, and its own class comes back."""
    world = World(server, "openai-stream-sync")
    chain = [
        world.target("openai/gpt", "reset-before"),
        world.target("anthropic/claude", "healthy", provider="anthropic"),
    ]
    ask = failover(chain, attempts=1)(world.function())

    reading = world.run(lambda: world.read(ask))

    assert words(WHOLE) == reading.texts
    assert isinstance(reading.stream, anthropic.Stream)


@only("stream", "anthropic-manager")
def test_text_is_kept_if_asked_for(world: World) -> None:
    """``keep_text`` puts what was said on the error, and neither in its message nor in its pickle."""
    reading = world.reads("error-midway", stream=StreamPolicy(keep_text=1000))

    error = reading.error
    assert isinstance(error, StreamInterruptedError)
    assert "".join(words(SENT)) == error.text_so_far
    assert "w1" not in f"{error!s} {error!r} {getattr(error, '__notes__', '')}"
    again = pickle.loads(pickle.dumps(error))
    assert (str(error), error.items_sent) == (str(again), again.items_sent)
    assert not again.text_so_far


@only("stream", "anthropic-manager")
def test_no_text_is_kept_by_default(world: World) -> None:
    """Without ``keep_text`` the error holds none."""
    reading = world.reads("error-midway")

    assert reading.error.text_so_far is None


@only("stream")
def test_kept_text_is_bounded(world: World) -> None:
    """Not more than the bytes asked for are kept."""
    reading = world.reads("error-midway", stream=StreamPolicy(keep_text=4))

    assert reading.error.text_so_far
    assert len(reading.error.text_so_far.encode()) <= 4


def test_an_empty_stream_may_be_fine(world: World) -> None:
    """With ``on_empty="accept"`` a stream that ended well without content is the answer, and a success."""
    reading = world.reads("empty", "healthy", stream=StreamPolicy(on_empty="accept"))

    assert bare_reading(world, "empty", "one/model-1").items == reading.items
    assert reading.error is None
    assert (1, 0) == (health()["one/model-1"].total, health()["one/model-1"].errors)
    assert 0 == world.server.asked("healthy")


def test_a_truncated_stream_may_be_fine(world: World) -> None:
    """With ``on_truncated="accept"`` a stream that just stops after content is the answer, and a success."""
    reading = world.reads("truncated-midway", "healthy", stream=StreamPolicy(on_truncated="accept"))

    assert words(SENT) == reading.texts
    assert reading.error is None
    assert (1, 0) == (health()["one/model-1"].total, health()["one/model-1"].errors)


# --- a breaker around it -----------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["healthy", "error-midway", "error-before"])
def test_a_breaker_counts_a_stream_once(world: World, scenario: str) -> None:
    """Under ``@breaker`` a whole stream is one success, one that fails one failure, and its error is unchanged."""
    (target,) = world.chain(scenario)
    ask = breaker("one/model-1")(world.bare(target))

    reading = world.run(lambda: world.read(ask))

    bare = bare_reading(world, scenario, "one/model-1")
    assert bare.items == reading.items
    assert type(bare.error) is type(reading.error)
    counted = health()["one/model-1"]
    assert (1, 0 if scenario == "healthy" else 1) == (counted.total, counted.errors)


def test_a_breaker_opens_on_streams(world: World) -> None:
    """Streams that fail in the middle open the breaker, and the next is refused before anything is sent."""
    (target,) = world.chain("error-midway")
    ask = breaker("one/model-1", failures=2)(world.bare(target))

    async def story() -> Any:
        await world.read(ask)
        await world.read(ask)
        return (await world.read(ask)).error

    error = world.run(story)

    assert isinstance(error, BreakerOpenError)
    assert 2 == len(world.server.requests)


def test_a_breaker_lets_a_consumer_stop(world: World) -> None:
    """Under ``@breaker`` a stream closed after content is no failure, and its connection is released."""
    (target,) = world.chain("drip")
    world.server.step(2)
    ask = breaker("one/model-1")(world.bare(target))

    reading = world.run(lambda: world.read(ask, texts=2))

    assert words(2) == reading.texts
    assert 0 == health()["one/model-1"].errors
    assert "closed" == breaker("one/model-1").state


# --- many at once ------------------------------------------------------------------------------


@only("openai-stream-asyncio", "anthropic-manager-trio", "google-generator-asyncio")
def test_many_tasks_read_at_once(world: World) -> None:
    """Twenty tasks on one policy each get the whole stream of the second target, and nothing of the others'."""
    ask = world.guard("reset-before", "healthy")
    readings: list[Reading] = []

    async def one() -> None:
        readings.append(await world.read(ask))

    async def story() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(one)

    world.run(story)

    assert [whole(world, "two/model-2")] * 20 == [reading.items for reading in readings]


@pytest.mark.slow
@only("sync")
def test_threads_are_cut_off_each_by_itself(world: World) -> None:
    """Eight threads whose first target is silent all reach the second, at about the same time."""
    if world.form not in ("stream", "manager"):
        pytest.skip("the wait is the same")
    ask = world.impatient("silence-before", limit=2 * SOON)
    for key in ("one/model-1", "two/model-2"):
        world.client(key)  # made once, by this thread

    async def story() -> list[Reading]:
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(lambda _: by_hand(world.read(ask)), range(8)))

    readings = world.run(story)

    assert [words(WHOLE)] * 8 == [reading.texts for reading in readings]


@only("openai-stream-asyncio", "openai-generator-trio", "anthropic-manager-asyncio")
def test_a_cancelled_probe_gives_its_place_back(world: World, clock: FakeClock) -> None:
    """A stream that is cancelled before content, under a half-open breaker, leaves the place to the next."""
    breaker("one/model-1", failures=1, cooldown=10.0).record(ConnectionResetError(), 0.1)
    ask = world.guard("silence-before", when_all_benched="raise")
    clock.advance(12)

    async def story() -> Reading:
        async with anyio.create_task_group() as group:
            group.start_soon(world.read, ask)
            assert await world.sees(lambda: world.server.stalls == 1)
            group.cancel_scope.cancel()
        assert "half_open" == breaker("one/model-1").state
        world.server.release()
        return await world.read(ask)

    reading = world.run(story)

    assert words(WHOLE) == reading.texts
    assert "closed" == breaker("one/model-1").state


@only("stream", "generator")
def test_a_callable_may_change_what_was_given_by_position(world: World) -> None:
    """The keyword arguments of a callable take the place of the caller's own, however these were given."""
    policy = StreamPolicy(on_interrupt=lambda interruption: {"prompt": "Go on."})
    ask = world.guard("error-midway", "healthy", stream=policy)

    reading = world.run(lambda: world.read(functools.partial(ask, "By position?")))

    assert [*words(SENT), *words(WHOLE)] == reading.texts
    assert "By position?" in str(world.server.requests[0].body)
    assert "By position?" not in str(world.server.requests[1].body)
    assert "Go on." in str(world.server.requests[1].body)


@only("manager", "responses_manager")
def test_a_final_answer_after_a_restart_is_of_one_target(world: World) -> None:
    """``get_final_message()`` and its like hold the second target's answer alone after a restart."""
    ask = world.guard("error-midway", "healthy", stream=StreamPolicy(on_interrupt="restart"))
    world.server.waits_for_client = False

    async def story() -> str:
        async with Stack(world.is_async) as stack:
            return await final(await world.open(ask, stack))

    assert "".join(words(WHOLE)) == world.run(story)
