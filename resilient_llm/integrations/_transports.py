"""What the transports for httpx and httpx2 share: one request, guarded until its answer is over.

The two libraries are separate packages with the same shape, so this module imports neither.
`integrations.httpx` and `integrations.httpx2` give it their classes in a `Library`.

A request enters the circuit of its key, and leaves it once: with the error that the transport
raised, or with an `Answer`, which the body of the response reports when it ends. A status that
means a failure is reported with the body, because that may name a wait. The circuit classifies
and counts; this module decides nothing but when an answer is over.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from resilient_llm import (
    Breaker,
    BreakerOpenError,
    ConfigurationError,
    ErrorKind,
    Verdict,
    breaker,
    classify,
)
from resilient_llm._api.breaker import report_outcome
from resilient_llm._core.circuit.answers import CHARGED
from resilient_llm._drive.cancellation import was_cancelled
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.settings import checked_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from resilient_llm._core.circuit.permit import Permit

_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500
_LONGEST_BODY: Final = 65_536
"""Bytes of the body of a refusal that are kept to be classified."""
_FAILURES: Final = frozenset(
    (ErrorKind.TRANSIENT, ErrorKind.RATE_LIMITED, ErrorKind.MEMORY_PRESSURE)
)

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True, slots=True)
class Library:
    """The classes of httpx or of httpx2.

    Attributes:
        name: ``"httpx"`` or ``"httpx2"``.
        response: Makes a response of a status, ``headers=`` and ``content=``.
        status_error: Makes an error of a message, ``request=`` and ``response=``.
        open_error: Makes the error of an open circuit of its key, reason and wait in seconds.
        body: Wraps a stream: ``body(stream, answer)``.
        async_body: The same for an asynchronous stream.
        transport: The class of transports.
        async_transport: The class of asynchronous transports.
    """

    name: str
    response: Callable[..., Any]
    status_error: Callable[..., Exception]
    open_error: Callable[[str, str, float | None], Any]
    body: Callable[[Any, Answer], Any]
    async_body: Callable[[Any, Answer], Any]
    transport: type
    async_transport: type


class Requests:
    """Guards the requests of one transport.

    Args:
        library: The library of the transport.
        transport: The inner transport, or None.
        key: Gives the key of a request, or None for a request that is not guarded; None for the
            host.
        options: Options of `breaker`.
        is_async: Whether the transport is asynchronous.

    Raises:
        ConfigurationError: If one of them is not what it should be.
    """

    __slots__ = ("_body", "_key", "_library", "_options")

    def __init__(
        self,
        library: Library,
        transport: Any,
        key: Any,
        options: Mapping[str, Any],
        *,
        is_async: bool,
    ) -> None:
        self._library = library
        self._body = library.async_body if is_async else library.body
        self._key: Callable[[Any], Any] = _host if key is None else _checked_key(key)
        self._options = checked_options(options)
        if transport is not None:
            _check_transport(library, transport, is_async=is_async)

    def send(self, request: _Request, inner: Callable[[_Request], _Response]) -> _Response:
        """Send a request through the inner transport, if its circuit is not open.

        Args:
            request: The request.
            inner: ``handle_request`` of the inner transport.

        Raises:
            ConfigurationError: If the key function gives no key.
            BreakerOpenError: If the circuit is open: the class of the library.
        """
        guard = self._guard(request)
        if guard is None:
            return inner(request)
        try:
            guard.__enter__()
        except BreakerOpenError as refusal:
            raise self._refused(refusal, request) from None
        try:
            response = inner(request)
        except BaseException as error:
            guard.__exit__(type(error), error, error.__traceback__)
            raise
        return self._answered(guard, request, response)

    async def asend(
        self, request: _Request, inner: Callable[[_Request], Awaitable[_Response]]
    ) -> _Response:
        """Do the same as `send`, with ``handle_async_request``."""
        guard = self._guard(request)
        if guard is None:
            return await inner(request)
        try:
            await guard.__aenter__()
        except BreakerOpenError as refusal:
            raise self._refused(refusal, request) from None
        try:
            response = await inner(request)
        except BaseException as error:
            await guard.__aexit__(type(error), error, error.__traceback__)
            raise
        return self._answered(guard, request, response)

    def _guard(self, request: Any) -> Breaker | None:
        """Return a guard on the circuit of a request, not entered; None if it is not guarded."""
        key = self._key(request)
        if key is None:
            return None
        if not isinstance(key, str):
            raise ConfigurationError(_no_key(key))
        return breaker(key, **self._options)

    def _refused(self, refusal: BreakerOpenError, request: Any) -> Any:
        """Return the error of the library for a request that an open circuit refuses."""
        error = self._library.open_error(refusal.target, refusal.reason, refusal.retry_after)
        error.request = request
        return error

    def _answered(self, guard: Breaker, request: Any, response: Any) -> Any:
        """Return a response whose end is reported; the guard is left without a report."""
        library, status = self._library, response.status_code
        answer = Answer(guard.taken(), library, response.extensions)
        is_refusal = status >= _SERVER_ERROR or status == _TOO_MANY_REQUESTS
        if response.is_closed or response.is_stream_consumed:  # a body that was read already
            if is_refusal:
                answer.failed(_status_error(library, request, response))
            else:
                answer.ended()
            return response
        if is_refusal:
            answer.refusal = _Refusal(status, response.headers, request)
        response.stream = self._body(response.stream, answer)
        return response


class _Refusal:
    """An answer whose status means a failure, while its body is read.

    It does not refer to the response, which refers to it.
    """

    __slots__ = ("body", "headers", "request", "status")

    def __init__(self, status: int, headers: Any, request: Any) -> None:
        self.status = status
        self.headers = headers
        self.request = request
        self.body = b""


class Answer:
    """What an answer holds of its circuit until it is over; it is reported once.

    Threads and tasks may share it. If it is collected unreported, the permit is given back.
    """

    __slots__ = (
        "_entered_at",
        "_extensions",
        "_first_at",
        "_last_at",
        "_library",
        "_permits",
        "refusal",
    )

    def __init__(self, permit: Permit, library: Library, extensions: dict[str, Any]) -> None:
        self._permits = [permit]  # taking the only member of a list is atomic
        self._library = library
        self._extensions = extensions
        self._entered_at = permit.entered_at
        self._first_at: float | None = None
        self._last_at = permit.entered_at
        self.refusal: _Refusal | None = None

    def received(self, chunk: bytes) -> None:
        """Note a piece of the body."""
        if not chunk:
            return
        self._last_at = runtime.clock()
        if self._first_at is None:
            self._first_at = self._last_at
        refusal = self.refusal
        if refusal is not None and len(refusal.body) < _LONGEST_BODY:
            refusal.body += chunk

    def ended(self) -> None:
        """Report an answer whose body was read, or closed by its reader."""
        if self.refusal is not None:
            self._report_refusal(self.refusal)
            return
        permit = self._take()
        if permit is None:
            return
        now = runtime.clock()
        # As for every stream, the first content decides whether an answer is slow.
        response_time = None if self._first_at is None else self._first_at - self._entered_at
        permit.succeeded(now, now - self._entered_at, response_time)

    def failed(self, error: Exception) -> None:
        """Report an answer whose status means a failure."""
        verdict = _verdict(self._library, error)
        permit = self._take()
        if permit is not None:
            permit.failed(error, runtime.clock(), verdict)
            self._extensions[CHARGED] = error  # a guard around the client does not charge it again

    def broken(self, error: BaseException) -> None:
        """Report an answer whose body could not be read to its end."""
        if self.refusal is not None:  # what is known already weighs more
            self._report_refusal(self.refusal)
            return
        permit = self._take()
        if permit is None:
            return
        now = runtime.clock()
        cancelled = (
            was_cancelled(error, since=self._entered_at)
            or classify(error).kind is ErrorKind.CANCELLED
        )
        if cancelled and not permit.is_hung(now, self._last_at):
            permit.abandoned()
        else:
            report_outcome(permit, error, now, cancelled=cancelled)

    def _take(self) -> Permit | None:
        try:
            return self._permits.pop()
        except IndexError:
            return None

    def _report_refusal(self, refusal: _Refusal) -> None:
        if not self._permits:  # reported when its body ended; now it is closed as well
            return
        status, library = refusal.status, self._library
        try:
            response = library.response(status, headers=refusal.headers, content=refusal.body)
        except Exception:  # noqa: BLE001  # half of a compressed body cannot be decoded
            response = library.response(status, headers=_uncoded(refusal.headers))
        self.failed(_status_error(library, refusal.request, response))

    def __del__(self) -> None:
        permit = self._take()
        if permit is not None:
            permit.abandoned()


class Body:
    """The body of a response, for ``for``: reports how it ended."""

    def __init__(self, stream: Any, answer: Answer) -> None:
        self._stream = stream
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        answer = self._answer
        try:
            for chunk in self._stream:
                answer.received(chunk)
                yield chunk
        except GeneratorExit:  # the reader has stopped; what it does then is close the response
            raise
        except BaseException as error:
            answer.broken(error)
            raise
        answer.ended()

    def close(self) -> None:
        """Close the inner stream; a body that is closed early counts as read."""
        try:
            self._answer.ended()
        finally:
            self._stream.close()


class AsyncBody:
    """The same for ``async for``."""

    def __init__(self, stream: Any, answer: Answer) -> None:
        self._stream = stream
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        answer = self._answer
        chunks = aiter(self._stream)
        try:
            async for chunk in chunks:
                answer.received(chunk)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            answer.broken(error)
            raise
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()
        answer.ended()

    async def aclose(self) -> None:
        """Close the inner stream; a body that is closed early counts as read."""
        try:
            self._answer.ended()
        finally:
            await self._stream.aclose()


def _verdict(library: Library, error: Any) -> Verdict:
    """Return what a refusal means for its host.

    Its body may name a dead key or a wrong request, which says nothing about the host: then the
    headers alone count, and at last the status.
    """
    verdict = classify(error)
    if verdict.kind in _FAILURES:
        return verdict
    response = error.response
    status: int = response.status_code
    bare = library.response(status, headers=_uncoded(response.headers))
    verdict = classify(_status_error(library, error.request, bare))
    if verdict.kind in _FAILURES:
        return verdict
    if status == _TOO_MANY_REQUESTS:
        return Verdict(ErrorKind.RATE_LIMITED, "rate_limit", status=status)
    return Verdict(ErrorKind.TRANSIENT, "server_error", status=status)


def _status_error(library: Library, request: Any, response: Any) -> Exception:
    return library.status_error(
        f"status {response.status_code}", request=request, response=response
    )


def _uncoded(headers: Any) -> list[tuple[bytes, bytes]]:
    """Return headers for a response without a body.

    As bytes: the libraries read a text that is not ASCII, and do not take it back.
    """
    return [(name, value) for name, value in headers.raw if name.lower() != b"content-encoding"]


def _host(request: Any) -> str | None:
    """Return the host of a request, with its port unless that is the scheme's own."""
    return request.url.netloc.decode("ascii") or None


def _checked_key(key: Any) -> Callable[[Any], Any]:
    if not callable(key):
        raise ConfigurationError(
            f"key={key!r} is not a function: write one that takes the request and returns a key or "
            'None, such as key=lambda request: "search-api"'
        )
    called: Any = key if inspect.isroutine(key) else type(key).__call__
    if inspect.iscoroutinefunction(called):
        raise ConfigurationError(
            "key is asynchronous: write a function that is not, since it is asked in both kinds "
            "of clients"
        )
    return key


def _check_transport(library: Library, transport: Any, *, is_async: bool) -> None:
    wanted = library.async_transport if is_async else library.transport
    if not isinstance(transport, wanted):
        raise ConfigurationError(
            f"transport of type {type(transport).__module__}.{type(transport).__qualname__} is not "
            f"allowed: write a {library.name}.{wanted.__name__}, or None for the transport that "
            f"{library.name} uses by default"
        )


def _no_key(key: Any) -> str:
    """Return the message on what a key function returned; a coroutine is closed."""
    if inspect.iscoroutine(key):
        key.close()
        return "key(request) returned a coroutine: write a function that is not async"
    return (
        f"key(request) returned an object of type {type(key).__name__}: return a text such as "
        "'openai', or None for a request that is not guarded"
    )
