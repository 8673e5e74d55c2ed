"""`Trace`, which collects the calls made inside a block. Owns the context variable."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType
    from typing import Self

    from resilient_llm._core.call.call import Call
    from resilient_llm._values.kinds import AttemptRecord

_open_trace: ContextVar[Trace | None] = ContextVar("resilient_llm_trace", default=None)


@exported
class TracedCall:
    """One call made inside a trace.

    Attributes:
        call_id: Its name, the same in its events.
        served_by: Key of the target that answered, or None.
        attempts: Attempts and skips, oldest first.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    @property
    def call_id(self) -> str:
        return self._call.tag.call_id

    @property
    def served_by(self) -> str | None:
        return self._call.served_by

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        return tuple(self._call.records)

    def __repr__(self) -> str:
        return (
            f"TracedCall(call_id={self.call_id!r}, served_by={self.served_by!r}, "
            f"attempts={len(self.attempts)})"
        )


@exported
class Trace:
    """Collects the calls made inside it, across tasks and threads started there with the context.

    ``with Trace() as trace:`` around code; afterwards ``trace.calls`` and, for exactly one
    call, ``trace.served_by``. ``Trace(call_id="…")`` names the calls made inside. Traces may
    be nested; each collects its own and those of the inner ones.
    """

    def __init__(self, *, call_id: str | None = None) -> None:
        if call_id is not None and (not isinstance(call_id, str) or not call_id):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
            raise ConfigurationError(
                "call_id is not allowed: write a text that is not empty, or None"
            )
        self.call_id = call_id
        self._calls: list[TracedCall] = []
        self._outer: Trace | None = None
        self._token: Token[Trace | None] | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("this trace is open already: make a new one")
        self._outer = _open_trace.get()
        self._token = _open_trace.set(self)
        runtime.trace_opened()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            runtime.trace_closed()
            try:
                _open_trace.reset(token)
            except ValueError:
                pass  # left in another task than it was entered in, which has another context

    @property
    def calls(self) -> tuple[TracedCall, ...]:
        """The calls made so far, in the order they began."""
        return tuple(self._calls)

    @property
    def served_by(self) -> str | None:
        """Key of the target that answered the one call of this trace.

        Raises:
            RuntimeError: If there was no call, or more than one.
        """
        if len(self._calls) != 1:
            raise RuntimeError(f"the trace holds {len(self._calls)} calls: look at .calls")
        return self._calls[0].served_by

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """Attempts and skips of all calls, by call."""
        return tuple(record for call in self._calls for record in call.attempts)

    def __repr__(self) -> str:
        return f"Trace(calls={len(self._calls)})"


def open_trace() -> Trace | None:
    """Return the trace around this code, or None."""
    return _open_trace.get() if runtime.open_traces else None


def named_call_id(trace: Trace | None) -> str | None:
    """Return the name that a trace around this code gives to calls."""
    while trace is not None:
        if trace.call_id is not None:
            return trace.call_id
        trace = trace._outer
    return None


def note_call(trace: Trace | None, call: Call) -> None:
    """Add a call to the traces around this code."""
    call.traced = trace is not None
    while trace is not None:
        trace._calls.append(TracedCall(call))
        trace = trace._outer
