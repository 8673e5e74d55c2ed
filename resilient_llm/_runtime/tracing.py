"""`Trace`, which collects the calls made inside a block, and marks that other blocks leave.

Owns the context variable, and the set of the traces and marks that are open anywhere in the
process. A call looks at the set first: to look into an empty set takes a sixth of the time that
the variable takes.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Self

from resilient_llm._core.call.call import Outcome
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported
from resilient_llm._values.kinds import AttemptRecord

_open_trace: ContextVar[Trace | Mark | None] = ContextVar("resilient_llm_trace", default=None)
open_traces: Final[set[int]] = set()
"""The ids of all open traces and marks. Adding and discarding are atomic, also in a finaliser."""


class Mark:
    """Has the calls of a context not made by their wrappers, which look for traces only.

    It is in force in its context and the copies of that, as long as one of them exists.
    """

    _is_open = False  # as a trace

    def __init__(self) -> None:
        self._outer: Trace | Mark | None = None
        self.is_over = False
        """Whether it was left in another context than it was entered in, and is over in all."""
        open_traces.add(id(self))

    def begin(self) -> None:
        """Mark the calls that start from now on in this context."""
        self._outer = _open_trace.get()
        _open_trace.set(self)

    def end(self) -> None:
        """Mark no more calls in this context."""
        inner = _open_trace.get()
        if inner is self:
            _open_trace.set(_without_closed(self._outer))
            return
        while inner is not None and inner._outer is not self:
            inner = inner._outer
        if inner is None:
            self.is_over = True
        else:
            inner._outer = self._outer

    def __del__(self) -> None:
        open_traces.discard(id(self))


@exported
class TracedCall:
    """One call that was made inside a `Trace`.

    Attributes:
        call_id: Its name, the same in its events.
        served_by: Key of the target that answered, or None.
        attempts: Attempts and skips, oldest first.
    """

    __slots__ = ("_outcome",)

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    @property
    def call_id(self) -> str:
        return self._outcome.call_id

    @property
    def served_by(self) -> str | None:
        return self._outcome.served_by

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        return tuple(self._outcome.records)

    def __repr__(self) -> str:
        return (
            f"TracedCall(call_id={self.call_id!r}, served_by={self.served_by!r}, "
            f"attempts={len(self.attempts)})"
        )


@exported
class Trace:
    """Collects the calls that are made inside its ``with`` block.

    Calls of tasks and threads that are started in the block with its context are collected as
    well. Traces may be nested: each one also has the calls of the inner ones.

    Examples:
        >>> with Trace() as trace:
        ...     ask("Hello")
        >>> trace.served_by
        'openai/gpt-5-mini'
        >>> [(record.target, record.reason) for record in trace.attempts]
        [('groq/llama-3.3-70b', 'overloaded'), ('openai/gpt-5-mini', '')]

    Args:
        call_id: Name of the calls that are made inside; None makes a name for each call.

    Raises:
        ConfigurationError: If ``call_id`` is not a text or is empty.
    """

    def __init__(self, *, call_id: str | None = None) -> None:
        if call_id is not None and (not isinstance(call_id, str) or not call_id):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
            raise ConfigurationError(
                "call_id is not allowed: write a text that is not empty, or None"
            )
        self.call_id = call_id
        self._calls: list[TracedCall] = []
        self._outer: Trace | Mark | None = None
        self._is_open = False

    def __enter__(self) -> Self:
        if self._is_open:
            raise RuntimeError("this trace is open already: make a new one")
        self._outer = _without_closed(_open_trace.get())
        self._is_open = True
        open_traces.add(id(self))
        _open_trace.set(self)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        open_traces.discard(id(self))
        # In another context than it was entered in, or before a trace inside it, this trace stays
        # in the variable or in the chain, and is passed over there.
        if _open_trace.get() is self:
            _open_trace.set(_without_closed(self))

    def __del__(self) -> None:
        open_traces.discard(id(self))  # it was never left

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
    """Return the innermost open trace around this code, or None."""
    return _open(_open_trace.get())


def _open(trace: Trace | Mark | None) -> Trace | None:
    while trace is not None and not (trace._is_open and isinstance(trace, Trace)):
        trace = trace._outer
    return trace


def _without_closed(trace: Trace | Mark | None) -> Trace | Mark | None:
    """Return the innermost of these that is an open trace, or a mark that is not over."""
    while trace is not None and (not trace._is_open if isinstance(trace, Trace) else trace.is_over):
        trace = trace._outer
    return trace


def named_call_id(trace: Trace | None) -> str | None:
    """Return the name that an open trace, or one around it, gives to calls."""
    while trace is not None:
        if trace.call_id is not None:
            return trace.call_id
        trace = _open(trace._outer)
    return None


def note_call(trace: Trace | None, call_id: str) -> Outcome:
    """Add a call to an open trace and to those around it; return where its outcome goes."""
    outcome = Outcome(call_id)
    while trace is not None:
        trace._calls.append(TracedCall(outcome))
        trace = _open(trace._outer)
    return outcome


class _Getter(functools.partial["Trace | Mark | None"]):
    """The variable's ``get``, which alone cannot be pickled; wrappers refer to it."""

    def __reduce__(self) -> str:
        return "has_trace"


has_trace = _Getter(_open_trace.get)
"""Returns a trace or a mark, if there may be one around this code; for the healthy path."""
