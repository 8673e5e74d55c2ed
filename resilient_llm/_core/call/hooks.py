"""What is entered and left around each call and each attempt, and told what comes of them.

Observers receive events after the fact and from any thread. A hook is called by the code that
makes the call, in the context in which the function runs: what it sets in context variables is
seen by the function. Tracing needs that, so that the spans of an SDK become children of the
span of their attempt. It is told every fact of its calls, in order, and nothing is dropped.

A `Hook` is asked for a `CallHook` per call, and that for an `AttemptHook` per attempt. Nothing
of this exists while no hook is installed. The core only passes facts on, and catches nothing
that a hook raises: none of these methods may raise an Exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from resilient_llm._values import event_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from resilient_llm._values.event_names import EventName
    from resilient_llm._values.target import Target
    from resilient_llm._values.verdict import Verdict


class Scope(Protocol):
    """What can be entered as often as is needed, and is left in the context it was entered in."""

    def enter(self) -> Any:
        """Begin to hold for the code of this context; return what `leave` needs."""
        ...

    def leave(self, entered: Any, /) -> None:
        """End that; does nothing in another context, where a finaliser may close a generator."""
        ...


class AttemptHook(Scope, Protocol):
    """Around one attempt: the run of the function, and each read of its stream."""

    def answered(self, answer: object, /) -> None:
        """Take the answer that is not a stream, before it is judged."""
        ...

    def read(self, items: Iterable[Any], /) -> None:
        """Take the first items, or the last, of its stream."""
        ...

    def opened(self) -> None:
        """Take that it has given a stream, which `closed` follows."""
        ...

    def closed(self) -> None:
        """Take that none of its stream's code runs any more; may come twice, from any thread.

        The call may be over by then: how it ended is known before its stream is closed.
        """
        ...


class CallHook(Scope, Protocol):
    """Around one call: what is done for it outside its attempts."""

    def attempt(self, target: Target, number: int, /) -> AttemptHook:
        """Return what is entered and left around a new attempt."""
        ...

    def turn_to(self, attempt: AttemptHook, /) -> None:
        """Take that what is told next is of this attempt, as several run side by side."""
        ...

    def note(self, kind: EventName, target: str, details: Mapping[str, Any], /) -> None:
        """Take a fact of the call, as the event of this name says it."""
        ...

    def failed(self, verdict: Verdict, type_name: str, /) -> None:
        """Take that the last attempt failed, before observers are told.

        Args:
            verdict: What its error means.
            type_name: Name of the error's class.
        """
        ...

    def settled(self, benched_until: float | None, /) -> None:
        """Take that all which follows from the failure of the last attempt is done.

        Args:
            benched_until: When its target may be called again, monotonic seconds; None if it may
                be called now, or if nobody knows when.
        """
        ...

    def over(self) -> None:
        """Take that the call has ended. An attempt of which nothing came was cancelled."""
        ...


class Hook(Protocol):
    """Makes the `CallHook` of each call."""

    def __call__(self, call_id: str, function: str, chain: Sequence[Target], /) -> CallHook:
        """Begin a call.

        Args:
            call_id: Name of the call.
            function: ``module.qualname`` of its function, or ``(loop)``.
            chain: The targets of its policy, in declared order.
        """
        ...


def begun(hooks: Sequence[Hook], call_id: str, function: str, chain: Sequence[Target]) -> CallHook:
    """Return the one `CallHook` of a call that all hooks begin."""
    calls = [hook(call_id, function, chain) for hook in hooks]
    return calls[0] if len(calls) == 1 else _SeveralCalls(calls)


def answered_at_once(hook: CallHook, key: str, seconds: float) -> None:
    """Tell the hook of a call that its first attempt has answered, and that it is over."""
    hook.note(event_names.AttemptSucceeded, key, {"number": 1, "seconds": seconds})
    hook.over()


class _Several:
    """Several hooks as one; they are left in the reverse order in which they are entered."""

    def __init__(self, inside: Sequence[Any]) -> None:
        self.inside = inside

    def enter(self) -> Any:
        return [each.enter() for each in self.inside]

    def leave(self, entered: Any) -> None:
        for each, token in zip(reversed(self.inside), reversed(entered), strict=True):
            each.leave(token)


class _SeveralAttempts(_Several):
    def answered(self, answer: object) -> None:
        for each in self.inside:
            each.answered(answer)

    def read(self, items: Iterable[Any]) -> None:
        for each in self.inside:
            each.read(items)

    def opened(self) -> None:
        for each in self.inside:
            each.opened()

    def closed(self) -> None:
        for each in reversed(self.inside):
            each.closed()


class _SeveralCalls(_Several):
    def attempt(self, target: Target, number: int) -> AttemptHook:
        return _SeveralAttempts([each.attempt(target, number) for each in self.inside])

    def turn_to(self, attempt: Any) -> None:
        for each, inside in zip(self.inside, attempt.inside, strict=True):
            each.turn_to(inside)

    def note(self, kind: EventName, target: str, details: Mapping[str, Any]) -> None:
        for each in self.inside:
            each.note(kind, target, details)

    def failed(self, verdict: Verdict, type_name: str) -> None:
        for each in self.inside:
            each.failed(verdict, type_name)

    def settled(self, benched_until: float | None) -> None:
        for each in self.inside:
            each.settled(benched_until)

    def over(self) -> None:
        for each in self.inside:
            each.over()
