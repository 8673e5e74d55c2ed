"""Errors as HTTP answers and streams as server-sent events, for Starlette and FastAPI.

    from fastapi import FastAPI, Request
    from resilient_llm.integrations import starlette

    app = FastAPI()
    starlette.add_exception_handlers(app)

    @app.post("/chat")
    async def chat(request: Request, body: Chat):
        return await starlette.stream_response(request, words(body.prompt))

An error that this library raises becomes an RFC 9457 body of ``type``, ``title`` and ``status``.
Nothing else of the error reaches the client: neither its message nor what a provider sent.
"""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket, WebSocketState

from resilient_llm import (
    BudgetExceededError,
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    DeadlineExceededError,
    NoCapableTargetError,
    ResponseRejectedError,
    StreamInterruptedError,
)
from resilient_llm.integrations._reading import Reading

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["add_exception_handlers", "stream_response"]

_Items: TypeAlias = AsyncIterable[Any] | Iterable[Any]
_Managed: TypeAlias = AbstractAsyncContextManager[Any] | AbstractContextManager[Any]
Streamed: TypeAlias = _Items | _Managed | Awaitable[_Items | _Managed]
"""What `stream_response` reads."""

_STATUSES: Final[tuple[tuple[type[Exception], int], ...]] = (
    (BudgetExceededError, 429),
    (NoCapableTargetError, 422),
    (CallRejectedError, 503),
    (ChainExhaustedError, 503),
    (DeadlineExceededError, 504),
    (ResponseRejectedError, 502),
    (StreamInterruptedError, 502),
)
"""The first line that fits decides: an error may be of two classes."""

_HANDLED: Final[tuple[type[Exception], ...]] = (
    CallRejectedError,
    ChainExhaustedError,
    DeadlineExceededError,
    ResponseRejectedError,
    StreamInterruptedError,
    ExceptionGroup,  # a task group wraps what is raised in its tasks
)
"""Few classes, so that a handler of the application for one of them serves its subclasses, too."""

# The words of RFC 9110. Those of `http.HTTPStatus` differ between releases of Python.
_TITLES: Final = {
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_TRY_AGAIN: Final = (429, 503)
_GONE: Final = 499
"""What proxies log for a client that has disconnected. No client receives it."""
_INTERNAL_ERROR, _TRY_AGAIN_LATER = 1011, 1013  # codes of RFC 6455 and of its registry


@dataclass(frozen=True, slots=True)
class _Problem:
    """What a client is shown of an error."""

    status: int
    retry_after: float | None = None

    @property
    def title(self) -> str:
        return _TITLES[self.status]

    @property
    def body(self) -> str:
        """The members of RFC 9457, as JSON."""
        shown = {"type": "about:blank", "title": self.title, "status": self.status}
        return json.dumps(shown, separators=(",", ":"))

    @property
    def headers(self) -> dict[str, str]:
        wait = self.retry_after
        if self.status not in _TRY_AGAIN or wait is None or not 0 < wait < math.inf:
            return {}
        return {"retry-after": str(math.ceil(wait))}


def _problem_of(error: BaseException) -> _Problem | None:
    """Return what a client is shown of an error of this library, None of any other error.

    A group that holds nothing else is shown as its first member.
    """
    for cls, status in _STATUSES:
        if isinstance(error, cls):
            return _Problem(status, getattr(error, "retry_after", None))
    if not isinstance(error, BaseExceptionGroup):
        return None
    members = cast("BaseExceptionGroup[BaseException]", error).exceptions
    problems = [_problem_of(member) for member in members]
    return None if None in problems else problems[0]


# --- exception handlers ------------------------------------------------------------------------


def add_exception_handlers(app: Starlette) -> None:
    """Answer requests that end in an error of this library with a problem, as RFC 9457 writes it.

    Handlers that the application has already are kept, and so nothing changes the second time. A
    mounted application answers its own errors: call this for each of them. An open WebSocket is
    closed with 1013 where a request gets a 429 or 503, else with 1011.

    Args:
        app: A Starlette or FastAPI application that has not started.

    Raises:
        ConfigurationError: If it is not such an application, or if it has started.
    """
    if not isinstance(app, Starlette):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
        raise ConfigurationError(
            f"app of type {type(app).__name__}: expected a Starlette or FastAPI application; "
            "a router has the handlers of the application that it is part of"
        )
    missing = [cls for cls in _HANDLED if cls not in app.exception_handlers]
    if missing and app.middleware_stack is not None:
        raise ConfigurationError(
            "the application has started, and Starlette reads its exception handlers before that: "
            "call add_exception_handlers where the application is built, not in its lifespan"
        )
    for cls in missing:
        app.add_exception_handler(cls, _answer)


async def _answer(connection: HTTPConnection, error: Exception) -> Any:
    """Return the problem as an answer; close a WebSocket, which has none."""
    problem = _problem_of(error)
    if problem is None:  # a group with an error that is not ours
        raise error
    if isinstance(connection, WebSocket):
        if WebSocketState.DISCONNECTED not in (
            connection.application_state,
            connection.client_state,
        ):
            code = _TRY_AGAIN_LATER if problem.status in _TRY_AGAIN else _INTERNAL_ERROR
            await connection.close(code, problem.title)
        return None
    return Response(
        problem.body, problem.status, problem.headers, media_type="application/problem+json"
    )


# --- streams -----------------------------------------------------------------------------------


async def stream_response(request: Request, stream: Streamed) -> StreamingResponse:
    """Return a response that sends the items of a stream as server-sent events.

    The first item is awaited here, before there are headers, so that an error until then leaves as
    it is; `add_exception_handlers` makes a 503 of an outage. An error after that ends the stream in
    one event of the type ``error``, whose data is the problem. An error that is not of this library
    is raised as well, once the client has that event.

    A disconnect of the client ends the call, also while an item is awaited: an asynchronous stream
    is cancelled, a synchronous one is closed from another thread. Background tasks of the response
    still run.

    Args:
        request: The request that is answered.
        stream: An asynchronous or synchronous iterable, a context manager of one, or an awaitable
            of one of these: what a guarded function returns. Synchronous ones are read in threads.
            A text is sent as it is, one ``data:`` line for each of its lines; any other item as
            JSON.

    Raises:
        TypeError: If ``stream`` is not a stream, or if the first item is neither a text that UTF-8
            can express nor fit for JSON.
    """
    reading = Reading(stream)
    try:
        await _read_body(request)
    except ClientDisconnect:
        await _stop(reading)
        return _Gone()
    except BaseException:
        await _stop(reading)
        raise
    reading.start()
    first: bytes | None = None
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_stop_when_gone, request.receive, reading)
            first = await reading.next()
            group.cancel_scope.cancel()
    except BaseException:
        await _stop(reading)
        raise
    if reading.is_stopped:
        return _Gone()
    if first is None and reading.error is not None:
        raise reading.take_error()
    return _EventStream(reading, first)


async def _read_body(request: Request) -> None:
    """Read the body of the request, which waits in front of the news that the client is gone.

    The request keeps it, so that a stream may read it later.
    """
    try:
        await request.body()
    except RuntimeError:  # it was read as a stream or as a form
        pass


async def _stop_when_gone(receive: Receive, reading: Reading) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    await reading.stop()


async def _stop(reading: Reading) -> None:
    with anyio.CancelScope(shield=True):
        await reading.stop()


class _Gone(StreamingResponse):
    """Ends a request whose client has gone, for middlewares that wait for a status."""

    def __init__(self) -> None:
        super().__init__((), _GONE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Its class would stop at the disconnect before its body. A middleware that holds the start
        # back until there is a body, as the one for gzip does, would send neither.
        try:
            await self.stream_response(send)
        except OSError:  # how newer servers tell that the client is gone
            pass
        if self.background is not None:
            await self.background()


class _EventStream(StreamingResponse):
    """Sends what is read until the stream ends or the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, reading: Reading, first: bytes | None) -> None:
        super().__init__(
            _events(reading, first),
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        self._reading = reading
        self._failure: Exception | None = None
        # A middleware or the endpoint may drop the response: the call must not go on for nobody.
        weakref.finalize(self, reading.abandon).atexit = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_stop_when_gone, receive, self._reading)
                await self._send_all(send)
                group.cancel_scope.cancel()
        finally:
            await _stop(self._reading)
        failure, self._failure = self._failure or self._reading.take_foreign_error(), None
        try:
            if failure is not None and not isinstance(failure, ClientDisconnect):
                raise failure
        finally:
            del failure
        if self.background is not None:
            await self.background()

    async def _send_all(self, send: Send) -> None:
        """Send the events; keep an error, which the task group would wrap."""
        try:
            await self.stream_response(send)
        except OSError:  # how newer servers tell that the client is gone
            pass
        except Exception as error:  # noqa: BLE001  # it is raised later
            self._failure = error


async def _events(reading: Reading, first: bytes | None) -> AsyncGenerator[bytes]:
    event = first
    while event is not None:
        yield event
        event = await reading.next()
    if reading.error is not None:
        problem = _problem_of(reading.error)
        if problem is not None:
            reading.take_error()
        yield f"event: error\ndata: {(problem or _Problem(500)).body}\n\n".encode()
