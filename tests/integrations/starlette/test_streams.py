"""`stream_response`: what a client gets of a stream, and what its hanging up does."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import gc
import inspect
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

pytest.importorskip("fastapi")

from fastapi import BackgroundTasks, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from resilient_llm import (
    ChainExhaustedError,
    StreamInterruptedError,
    Target,
    failover,
    health,
)
from resilient_llm.integrations.starlette import add_exception_handlers, stream_response
from resilient_llm.testing import capture_events
from tests.integrations.starlette.client import answer, asked, closes
from tests.support.asgi import served
from tests.support.stream_server import PATIENCE, StreamServer, words

MINI = "openai/gpt-5-mini"
ERROR = 'event: error\ndata: {"type":"about:blank","title":"%s","status":%d}'


def app_of(endpoint: Any, *middleware: Any, client: Any = None) -> Starlette:
    app = Starlette(
        lifespan=None if client is None else closes(client),
        routes=[Route("/", endpoint, methods=["GET", "POST"])],
        middleware=[Middleware(each) for each in middleware],
    )
    add_exception_handlers(app)
    return app


def streaming(make: Any) -> Any:
    """Return an endpoint that streams what this makes."""

    async def endpoint(request: Request) -> Any:
        return await stream_response(request, make())

    return endpoint


SCOPE = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}


def receives(has_gone: anyio.Event) -> Any:
    """Return a receive that gives an empty body, and a disconnect once the client is gone."""
    inbox = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if inbox:
            return inbox.pop()
        await has_gone.wait()
        return {"type": "http.disconnect"}

    return receive


class PassesOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Any:
        return await call_next(request)


def events_of(make: Any, client: Any = None) -> list[str]:
    with served(app_of(streaming(make), client=client)) as port, asked(port) as conversation:
        conversation.read_head()
        assert 200 == conversation.status
        return conversation.events()


async def given(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


# --- events ------------------------------------------------------------------------------------


def test_one_event_for_an_item() -> None:
    """An item is one event, with a line of data for each line of its text."""
    items = ["one", "two\nlines", "cr\rand\r\ncrlf\n", "", " space", "a\u2028b\x0bc", "é"]

    assert [
        "data: one",
        "data: two\ndata: lines",
        "data: cr\ndata: and\ndata: crlf\ndata: ",
        "data: ",
        "data:  space",
        "data: a\u2028b\x0bc",
        "data: é",
    ] == events_of(lambda: given(*items))


@dataclasses.dataclass
class Point:
    x: int
    at: datetime.date


def test_other_items_are_json() -> None:
    """An item that is no text is one line of JSON."""
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):
        text: str = pydantic.Field(serialization_alias="shownText")
        more: str | None = None

    items = [
        {"a": "b\nc"},
        [1, None],
        Point(1, datetime.date(2026, 11, 30)),
        Answer(text="hi"),
        None,
        float("nan"),
    ]

    assert [
        'data: {"a":"b\\nc"}',
        "data: [1,null]",
        'data: {"x":1,"at":"2026-11-30"}',
        'data: {"shownText":"hi","more":null}',
        "data: null",
        "data: null",
    ] == events_of(lambda: given(*items))


def test_json_without_pydantic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain Starlette sends dicts and dataclasses, too, and null for what is no number."""
    monkeypatch.setitem(sys.modules, "pydantic_core", None)

    @dataclasses.dataclass
    class Pair:
        one: int
        two: str

    assert ['data: {"one":1,"two":"é"}', 'data: {"a":[1]}', "data: [null,null]"] == events_of(
        lambda: given(Pair(1, "é"), {"a": [1]}, [float("nan"), float("inf")])
    )


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize("item", [b"bytes", object(), {"a": object()}, ENDLESS])
@pytest.mark.parametrize("has_pydantic", [True, False])
def test_an_item_that_json_cannot_express(
    item: Any, has_pydantic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfit first item is a TypeError that does not show it; a later one ends the stream."""
    if not has_pydantic:
        monkeypatch.setitem(sys.modules, "pydantic_core", None)
    seen: list[BaseException] = []

    async def endpoint(request: Request) -> Any:
        try:
            return await stream_response(request, given(item))
        except TypeError as error:
            seen.append(error)
            return await stream_response(request, given("fine", item))

    with served(app_of(endpoint)) as port, asked(port) as conversation:
        conversation.read_head()
        events = conversation.events()

    assert ["data: fine", ERROR % ("Internal Server Error", 500)] == events
    assert "expected a text, or what JSON can express" in str(seen[0])
    assert "object at" not in str(seen[0])


LONE = "\ud83d"
"""Half of an emoji, as servers send it that split one over two pieces of JSON."""


@pytest.mark.parametrize("item", [LONE, f"word {LONE}", {"text": LONE}, [LONE]])
@pytest.mark.parametrize("with_pydantic", [True, False])
def test_a_lone_surrogate(monkeypatch: pytest.MonkeyPatch, item: Any, with_pydantic: bool) -> None:
    """It becomes the error event, or as the first item an error before the headers."""
    if not with_pydantic:
        monkeypatch.setitem(sys.modules, "pydantic_core", None)

    assert ["data: ok", ERROR % ("Internal Server Error", 500)] == events_of(
        lambda: given("ok", item, "never")
    )
    with (
        served(app_of(streaming(lambda: given(item)))) as port,
        asked(port) as conversation,
    ):
        conversation.read_head()
        assert 500 == conversation.status


def test_headers() -> None:
    """The answer is an event stream that no cache keeps and no proxy holds back."""
    with served(app_of(streaming(lambda: given("one")))) as port, asked(port) as conversation:
        conversation.read_head()

        assert "text/event-stream; charset=utf-8" == conversation.headers["content-type"]
        assert "no-cache" == conversation.headers["cache-control"]
        assert "no" == conversation.headers["x-accel-buffering"]
        assert "content-length" not in conversation.headers


def test_an_empty_stream() -> None:
    """A stream without items is an answer without events."""
    assert [] == events_of(given)


# --- what a stream may be ------------------------------------------------------------------------


class Closable:
    """Iterable of two words that notes in which thread it is read and closed."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.was_read = False
        self.is_closed = False
        self._items = iter(["one", "two"])

    def __iter__(self) -> Closable:
        return self

    def __next__(self) -> str:
        self.threads.append(threading.get_ident())
        self.was_read = True
        return next(self._items)

    def close(self) -> None:
        self.threads.append(threading.get_ident())
        self.is_closed = True


class Manager:
    """A context manager of both kinds."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.has_left = False

    async def __aenter__(self) -> Any:
        return self.stream

    async def __aexit__(self, *error: object) -> None:
        self.has_left = True


class SyncManager:
    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.threads: list[int] = []

    def __enter__(self) -> Any:
        self.threads.append(threading.get_ident())
        return self.stream

    def __exit__(self, *error: object) -> None:
        self.threads.append(threading.get_ident())


async def awaited(stream: Any) -> Any:
    return stream


FORMS: dict[str, Any] = {
    "async generator": lambda: given("one", "two"),
    "generator": lambda: (word for word in ("one", "two")),
    "list": lambda: ["one", "two"],
    "closable": Closable,
    "manager": lambda: Manager(given("one", "two")),
    "manager of a sync stream": lambda: Manager(["one", "two"]),
    "sync manager": lambda: SyncManager(["one", "two"]),
    "coroutine": lambda: awaited(given("one", "two")),
    "coroutine of a manager": lambda: awaited(Manager(given("one", "two"))),
    "coroutine of a generator": lambda: awaited(word for word in ("one", "two")),
    "contextlib": lambda: contextlib.aclosing(given("one", "two")),
    "sync contextlib": lambda: contextlib.closing(word for word in ("one", "two")),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_a_stream_may_be(form: str) -> None:
    """A stream is an iterable of either kind, a manager of one or an awaitable of these."""
    assert ["data: one", "data: two"] == events_of(FORMS[form])


@pytest.mark.usefixtures("resilient_llm")
@pytest.mark.parametrize(
    "form",
    ["async generator", "generator", "async function", "function", "manager", "sync manager"],
)
def test_what_guarded_functions_return(form: str) -> None:
    """Whatever form a decorated function has, its result is streamed, and counts as a success."""
    policy: Any = failover(chain=[MINI])

    @policy
    async def agenerator(target: Target) -> Any:
        yield "one"
        yield "two"

    @policy
    def generator(target: Target) -> Any:
        yield "one"
        yield "two"

    @policy
    async def afunction(target: Target) -> Any:
        return given("one", "two")

    @policy
    def function(target: Target) -> Any:
        return (word for word in ("one", "two"))

    @policy
    def manager(target: Target) -> Any:
        return contextlib.aclosing(given("one", "two"))

    @policy
    def sync_manager(target: Target) -> Any:
        return contextlib.closing(word for word in ("one", "two"))

    makes = {
        "async generator": agenerator,
        "generator": generator,
        "async function": afunction,
        "function": function,
        "manager": manager,
        "sync manager": sync_manager,
    }

    assert ["data: one", "data: two"] == events_of(makes[form])
    assert (1, 0) == (health()[MINI].total, health()[MINI].errors)


def test_a_sync_stream_is_read_and_closed_in_threads() -> None:
    """The loop runs none of a synchronous stream's code."""
    stream, manager, loops = Closable(), SyncManager(Closable()), list[int]()

    async def endpoint(request: Request) -> Any:
        loops.append(threading.get_ident())
        await stream_response(request, given())  # another stream harms neither
        return await stream_response(request, stream if request.url.query == "stream" else manager)

    with served(app_of(endpoint)) as port:
        for query in ("stream", "manager"):
            with asked(port, f"/?{query}") as conversation:
                conversation.read_head()
                assert ["data: one", "data: two"] == conversation.events()

    assert stream.is_closed
    assert manager.stream.is_closed
    assert not {*stream.threads, *manager.threads, *manager.stream.threads} & {*loops}


@pytest.mark.parametrize(
    "stream", ["a text", b"bytes", {"a": 1}, None, 3, given], ids=lambda each: type(each).__name__
)
def test_what_is_no_stream(stream: Any) -> None:
    """What is no stream is a TypeError that names its type only."""
    request = Request({"type": "http", "method": "GET", "headers": []})

    with pytest.raises(TypeError, match=f"stream of type {type(stream).__name__}: expected") as bad:
        asyncio.run(stream_response(request, stream))
    assert "a text" not in str(bad.value)
    assert (stream is given) is str(bad.value).endswith("; call the function")


@pytest.mark.parametrize("made", [awaited("text"), Manager(3), SyncManager(3)])
def test_what_gives_no_stream(made: Any) -> None:
    """An awaitable or a manager that gives no stream is a TypeError that does not show it."""
    seen: list[str] = []

    async def endpoint(request: Request) -> Any:
        try:
            await stream_response(request, made)
        except TypeError as error:
            seen.append(str(error))
        return JSONResponse(1)

    with served(app_of(endpoint)) as port:
        answer(port)
    assert "gave a " in seen[0]
    assert "text'" not in seen[0]


def test_one_task_reads_a_stream() -> None:
    """A generator may hold a cancel scope and a task group open while it gives its items."""

    async def scoped() -> AsyncIterator[str]:
        async with anyio.create_task_group():
            with anyio.fail_after(PATIENCE):
                yield "one"
                yield "two"

    assert ["data: one", "data: two"] == events_of(scoped)


def test_a_stream_may_read_the_request() -> None:
    """The body of the request is there for a stream that reads it late, and for FastAPI."""

    async def echo(request: Request) -> AsyncIterator[str]:
        yield (await request.json())["prompt"]

    async def endpoint(request: Request) -> Any:
        return await stream_response(request, echo(request))

    async def after(request: Request) -> Any:
        chunks = [chunk async for chunk in request.stream()]
        return await stream_response(request, given(str(len(b"".join(chunks)))))

    for each, expected in ((endpoint, "data: hi"), (after, "data: 16")):
        for middleware in ((), (PassesOn,)):
            with (
                served(app_of(each, *middleware)) as port,
                asked(port, body={"prompt": "hi"}) as conversation,
            ):
                conversation.read_head()
                assert [expected] == conversation.events()


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("resilient_llm")
@pytest.mark.parametrize("middleware", [(), (PassesOn,)], ids=["plain", "middleware"])
def test_an_outage_is_a_503_and_no_stream(middleware: Any) -> None:
    """The first item is awaited before the headers, so that an outage has its own status."""

    @failover(chain=[MINI], attempts=1)
    async def fails(target: Target) -> AsyncIterator[str]:
        raise ConnectionError("a secret")
        yield ""

    with served(app_of(streaming(fails), *middleware)) as port:
        status, headers, body = answer(port)

    assert 503 == status
    assert "application/problem+json" == headers["content-type"]
    assert {"type": "about:blank", "title": "Service Unavailable", "status": 503} == body


def test_nothing_is_sent_before_the_first_item() -> None:
    """Headers wait for the first item, and each event is sent when its item comes."""
    go_on = threading.Event()

    async def slow() -> AsyncIterator[str]:
        await asyncio.to_thread(go_on.wait, PATIENCE)
        yield "one"
        go_on.clear()
        await asyncio.to_thread(go_on.wait, PATIENCE)
        yield "two"

    with served(app_of(streaming(slow))) as port, asked(port) as conversation:
        conversation._connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            conversation._connection.recv(1)
        conversation._connection.settimeout(PATIENCE)
        go_on.set()
        conversation.read_head()
        first = conversation.event()
        go_on.set()

        assert "data: one" == first
        assert ["data: two"] == conversation.events()


@pytest.mark.usefixtures("resilient_llm")
def test_a_later_break_is_one_error_event() -> None:
    """A break after content ends the stream in one event, and the body is whole."""

    @failover(chain=[MINI])
    async def breaks(target: Target) -> AsyncIterator[str]:
        yield "one"
        raise ConnectionError("a secret")

    assert ["data: one", ERROR % ("Bad Gateway", 502)] == events_of(breaks)


def test_an_error_of_the_application_after_content_is_raised_as_well() -> None:
    """A bug is an error event of 500 for the client, and an error for the server's log."""
    raised: list[BaseException] = []

    class Sees:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await self.app(scope, receive, send)
            except Exception as error:
                raised.append(error)
                raise

    bug = ValueError("a bug")

    async def breaks() -> AsyncIterator[str]:
        yield "one"
        raise bug

    with served(app_of(streaming(breaks), Sees)) as port, asked(port) as conversation:
        conversation.read_head()

        assert ["data: one", ERROR % ("Internal Server Error", 500)] == conversation.events()
    assert [bug] == raised


def test_an_error_in_a_group_after_content() -> None:
    """What a task group of the generator raises has the status of what is inside."""

    async def breaks() -> AsyncIterator[str]:
        async with anyio.create_task_group():
            yield "one"
            raise StreamInterruptedError(MINI, 1)

    assert ["data: one", ERROR % ("Bad Gateway", 502)] == events_of(breaks)


def test_errors_are_not_kept() -> None:
    """An error leaves nothing of the request behind that only the collector finds."""

    class Held:
        pass

    import weakref

    seen: list[Any] = []

    async def fails() -> AsyncIterator[str]:
        held = Held()
        seen.append(weakref.ref(held))
        raise ChainExhaustedError("none", [ValueError()])
        yield held

    gc.collect()
    gc.disable()
    try:
        with served(app_of(streaming(fails))) as port:
            answer(port)
    finally:
        gc.enable()

    assert seen[0]() is None


# --- a client that hangs up --------------------------------------------------------------------


class Course:
    """What became of a stream."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.was_cancelled = threading.Event()
        self.is_closed = threading.Event()
        self.ran_background = threading.Event()

    async def slow(self, *items: str) -> AsyncIterator[str]:
        """Give the items and wait."""
        try:
            for item in items:
                yield item
            self.waits.set()
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.was_cancelled.set()
            raise
        finally:
            self.is_closed.set()


MIDDLEWARES = pytest.mark.parametrize(
    "middleware", [(), (PassesOn,), (PassesOn, PassesOn)], ids=["plain", "one", "two"]
)


@MIDDLEWARES
@pytest.mark.parametrize("sent", [0, 2], ids=["before the first item", "after two"])
def test_hanging_up_cancels_the_wait(sent: int, middleware: Any) -> None:
    """The wait for an item is cancelled when the client is gone, before the headers and after."""
    course = Course()

    async def endpoint(request: Request) -> Any:
        response = await stream_response(request, course.slow(*["word"] * sent))
        response.background = BackgroundTask(course.ran_background.set)
        return response

    with served(app_of(endpoint, *middleware)) as port:
        with asked(port) as conversation:
            if sent:
                conversation.read_head()
                assert ["data: word"] * 2 == [conversation.event(), conversation.event()]
            assert course.waits.wait(PATIENCE)

        assert course.was_cancelled.wait(PATIENCE)
        assert course.is_closed.wait(PATIENCE)
        assert course.ran_background.wait(PATIENCE)


def test_hanging_up_before_the_first_item_inside_middlewares() -> None:
    """A middleware that holds the start back until a body comes gives a status to the outer one."""
    course = Course()
    seen: list[Any] = []
    is_seen = threading.Event()

    class Sees(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            try:
                response = await call_next(request)
                seen.append(response.status_code)
            except Exception as error:
                seen.append(error)
                raise
            finally:
                is_seen.set()
            return response

    with served(app_of(streaming(course.slow), Sees, GZipMiddleware)) as port:
        with asked(port):
            assert course.waits.wait(PATIENCE)
        assert is_seen.wait(PATIENCE)

    assert [499] == seen


@MIDDLEWARES
def test_hanging_up_between_items(middleware: Any) -> None:
    """A stream that always has a next item is closed when the client is gone."""
    is_closed = threading.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "word"
                await asyncio.sleep(0)
        finally:
            is_closed.set()

    with served(app_of(streaming(endless), *middleware)) as port:
        with asked(port) as conversation:
            conversation.read_head()
            conversation.event()

        assert is_closed.wait(PATIENCE)


def test_hanging_up_while_the_client_reads_nothing() -> None:
    """A stream that waits for a full connection is closed when the client is gone."""
    is_closed = threading.Event()
    given_items: list[int] = []

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                given_items.append(1)
                yield "word" * 100_000
        finally:
            is_closed.set()

    with served(app_of(streaming(endless))) as port:
        with asked(port) as conversation:
            conversation.read_head()
            seen = -1
            while seen != len(given_items):  # until it waits
                seen = len(given_items)
                is_closed.wait(0.1)
            assert not is_closed.is_set()

        assert is_closed.wait(PATIENCE)


def test_hanging_up_before_the_body_has_come() -> None:
    """A client that leaves in the middle of its request starts no call; nothing is left open."""
    started: list[str] = []
    arrived = threading.Event()
    returned = threading.Event()

    async def call() -> Any:
        started.append("call")

    async def endpoint(request: Request) -> Any:
        arrived.set()
        response = await stream_response(request, call())
        returned.set()
        return response

    import socket

    with served(app_of(endpoint)) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
            assert arrived.wait(PATIENCE)
        assert returned.wait(PATIENCE)
    gc.collect()  # a coroutine that was not awaited would be a warning, and so an error

    assert [] == started


@pytest.mark.usefixtures("resilient_llm")
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("sent", [0, 3], ids=["before the first item", "after content"])
def test_hanging_up_ends_a_real_call(sent: int, is_async: bool) -> None:
    """The connection to the provider is closed, no health is harmed, no target is tried after."""
    openai = pytest.importorskip("openai")
    closed = threading.Event()
    with StreamServer() as provider:
        scenario = "stall-midway" if sent else "stall-before"
        provider.waits_for_client = False
        url = provider.url("openai", scenario)
        client = (openai.AsyncOpenAI if is_async else openai.OpenAI)(
            base_url=url, api_key="not-a-key", max_retries=0
        )
        policy: Any = failover(chain=[MINI, "openai/gpt-5"])

        @policy
        async def aask(target: Target) -> Any:
            return await client.chat.completions.create(
                model=target.model, messages=[], stream=True
            )

        @policy
        def ask(target: Target) -> Any:
            with client.chat.completions.create(
                model=target.model, messages=[], stream=True
            ) as chunks:
                for chunk in chunks:
                    if chunk.choices and chunk.choices[0].delta.content:
                        yield chunk.choices[0].delta.content

        async def endpoint(request: Request) -> Any:
            response = await stream_response(request, aask() if is_async else ask())
            response.background = BackgroundTask(closed.set)
            return response

        app = app_of(endpoint, client=client if is_async else None)
        with capture_events() as events, served(app) as port:
            with asked(port) as conversation:
                if sent:
                    conversation.read_head()
                    assert conversation.event()
                assert provider.stalls_at(1)
            assert closed.wait(PATIENCE)
            assert provider.wait(lambda: not provider.open_connections)

        assert 1 == provider.asked(scenario)
    named = [type(event).__name__ for event in events]
    assert ("AttemptSucceeded" if sent else "AttemptCancelled") in named
    assert "AttemptFailed" not in named
    assert 0 == health()[MINI].errors


def test_a_busy_sync_generator_is_closed_at_its_next_item() -> None:
    """A generator that waits for nothing which can be ended is closed when it goes on."""
    waits, go_on, is_closed = threading.Event(), threading.Event(), threading.Event()

    def slow() -> Iterator[str]:
        try:
            yield "one"
            waits.set()
            go_on.wait(PATIENCE)
            yield "two"
            yield "three"
        finally:
            is_closed.set()

    with served(app_of(streaming(slow))) as port:
        with asked(port) as conversation:
            conversation.read_head()
            assert waits.wait(PATIENCE)
        assert not is_closed.wait(0.05)
        go_on.set()
        assert is_closed.wait(PATIENCE)


def test_plain_endpoints_run_on() -> None:
    """A client that hangs up does not cancel an endpoint without a stream."""
    waits, go_on = threading.Event(), threading.Event()
    is_done: list[bool] = []
    done = threading.Event()

    async def endpoint(request: Request) -> Any:
        waits.set()
        await asyncio.to_thread(go_on.wait, PATIENCE)
        is_done.append(True)
        done.set()
        return JSONResponse(1)

    with served(app_of(endpoint)) as port:
        with asked(port):
            assert waits.wait(PATIENCE)
        go_on.set()
        assert done.wait(PATIENCE)

    assert [True] == is_done


def test_a_dropped_response_ends_the_call() -> None:
    """A response that the endpoint does not return cancels its call."""
    course = Course()

    async def endpoint(request: Request) -> Any:
        await stream_response(request, course.slow("one"))
        return JSONResponse(1)

    with served(app_of(endpoint)) as port:
        answer(port)
        gc.collect()

        assert course.is_closed.wait(PATIENCE)


def test_a_cancelled_endpoint_ends_the_call() -> None:
    """A limit of the application's around the endpoint cancels the call, too."""
    course = Course()

    async def endpoint(request: Request) -> Any:
        with anyio.move_on_after(0.05):
            await stream_response(request, course.slow())
        return JSONResponse(course.is_closed.is_set())

    with served(app_of(endpoint)) as port:
        assert answer(port)[2] is True
    assert course.was_cancelled.is_set()


def test_a_server_that_tells_by_an_error() -> None:
    """Where sending to a gone client is an OSError, the call ends in the same way."""
    course = Course()
    scope = {**SCOPE, "asgi": {"version": "3.0", "spec_version": "2.4"}}

    async def send(message: Any) -> None:
        if message.get("body"):
            raise OSError("gone")

    async def main() -> None:
        app = app_of(streaming(lambda: course.slow("one", "two")))
        await app(scope, receives(anyio.Event()), send)

    asyncio.run(main())

    assert course.is_closed.is_set()


def test_an_error_in_closing_for_a_client_that_is_gone() -> None:
    """A synchronous stream whose close fails ends the call as others do, without an error."""
    was_closed = threading.Event()

    class ClosesBadly(Closable):
        def close(self) -> None:
            was_closed.set()
            raise OSError("a secret")

    stream = ClosesBadly()

    async def main() -> None:
        has_gone = anyio.Event()

        async def send(message: Any) -> None:
            if message.get("body"):
                has_gone.set()
                assert await anyio.to_thread.run_sync(was_closed.wait, PATIENCE)

        await app_of(streaming(lambda: stream))(SCOPE, receives(has_gone), send)

    asyncio.run(main())

    assert was_closed.is_set()


def test_hanging_up_while_a_sync_manager_is_entered() -> None:
    """A manager that is entered when the client has gone is left, and its stream is not read."""
    is_entering, go_on = threading.Event(), threading.Event()
    stream = Closable()

    class Slow(SyncManager):
        def __enter__(self) -> Any:
            is_entering.set()
            assert go_on.wait(PATIENCE)
            return super().__enter__()

    manager = Slow(stream)

    async def main() -> None:
        has_gone = anyio.Event()

        async def hang_up() -> None:
            assert await anyio.to_thread.run_sync(is_entering.wait, PATIENCE)
            has_gone.set()
            await anyio.wait_all_tasks_blocked()
            go_on.set()

        async def send(message: Any) -> None:
            return None

        async with anyio.create_task_group() as group:
            group.start_soon(hang_up)
            await app_of(streaming(lambda: manager))(SCOPE, receives(has_gone), send)

    asyncio.run(main())

    assert 2 == len(manager.threads)  # it was entered and left
    assert not stream.was_read


def test_a_cancellation_before_the_body_has_come() -> None:
    """A stream that was not begun is closed, also in a scope that is cancelled."""
    stream, call = Closable(), awaited(given())

    async def main() -> None:
        for each in (stream, call):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream_response(Request(SCOPE, anyio.sleep_forever), each)

    asyncio.run(main())

    assert stream.is_closed
    assert inspect.CORO_CLOSED == inspect.getcoroutinestate(call)


@pytest.mark.parametrize("sent", [0, 2])
def test_on_trio(sent: int) -> None:
    """On trio a stream is sent, and ended when the client is gone, in the same way."""
    trio = pytest.importorskip("trio")
    course = Course()
    messages: list[Any] = []

    async def main() -> None:
        has_gone = anyio.Event()

        async def send(message: Any) -> None:
            messages.append(message)

        async with trio.open_nursery() as nursery:
            app = app_of(streaming(lambda: course.slow(*["word"] * sent)))
            nursery.start_soon(app, SCOPE, receives(has_gone), send)
            while not course.waits.is_set():
                await trio.sleep(0)
            has_gone.set()

    trio.run(main)

    assert course.was_cancelled.is_set()
    assert course.is_closed.is_set()
    assert (200 if sent else 499) == messages[0]["status"]
    assert sent == sum(message.get("body") == b"data: word\n\n" for message in messages)


# --- in FastAPI --------------------------------------------------------------------------------


def test_in_fastapi() -> None:
    """FastAPI takes the response, headers that the endpoint sets and background tasks."""
    ran = threading.Event()
    app = FastAPI()
    add_exception_handlers(app)

    @app.post("/chat", response_model=None)
    async def chat(
        request: Request, body: dict[str, str], tasks: BackgroundTasks
    ) -> StreamingResponse:
        tasks.add_task(ran.set)
        response = await stream_response(request, given(body["prompt"], "end"))
        response.headers["x-mine"] = "1"
        return response

    with served(app) as port, asked(port, "/chat", body={"prompt": "hi"}) as conversation:
        conversation.read_head()

        assert ["data: hi", "data: end"] == conversation.events()
        assert "1" == conversation.headers["x-mine"]
        assert ran.wait(PATIENCE)


@pytest.mark.usefixtures("resilient_llm")
def test_chunks_of_an_sdk() -> None:
    """Chunks of an SDK are sent as the JSON that its protocol has."""
    openai = pytest.importorskip("openai")
    with StreamServer() as provider:
        client = openai.AsyncOpenAI(
            base_url=provider.url("openai", "healthy"), api_key="not-a-key", max_retries=0
        )

        @failover(chain=[MINI])
        async def ask(target: Target) -> Any:
            return await client.chat.completions.create(
                model=target.model, messages=[], stream=True
            )

        events = [json.loads(event.removeprefix("data: ")) for event in events_of(ask, client)]

    text = [each["choices"][0]["delta"]["content"] for each in events if each["choices"]]
    assert "".join(words(5)) == "".join(word or "" for word in text)
