"""The first attempt of a call, before there is a `Call`, and what may come of it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from resilient_llm._core.call.capabilities import NO_LACKS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resilient_llm._binding.ordering import Draw
    from resilient_llm._core.call.call import Call, Candidate, Outcome
    from resilient_llm._core.call.call_deps import CallDeps
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.hooks import AttemptHook, CallHook
    from resilient_llm._core.call.steps import Step
    from resilient_llm._core.circuit.window import Generation
    from resilient_llm._core.limits.held import Held
    from resilient_llm._core.spending.estimates import Estimate
    from resilient_llm._runtime.call_ids import Entered
    from resilient_llm._values.policy import Options
    from resilient_llm._values.target import Target


class EstimatesAttempts(Protocol):
    """Estimates the tokens of the attempts of one function; see `Demands`."""

    def of_attempts(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], tokens: int | None, /
    ) -> Callable[[Target], Estimate]: ...


class FirstAttempt:
    """What is known of a call before its first attempt, and needed if that does not answer.

    Attributes:
        candidate: The target that is called.
        kwargs: Keyword arguments without those that pin the call to one target.
        lacks: ``{key: why that target cannot take the call}``.
        generation: The closed period that admits the attempt; None if the call flow makes it.
        held: What it holds of limits, if its wrapper took that; else None.
        hedge_after: Seconds after which the attempt is slow and gets another beside it, or None.
        entered_at: When it was admitted.
        call_id: Name of the call, if it was named already; else empty.
        limit: Seconds that the attempt may take, or None.
        limits: Seconds that the attempt may take, and whether that is the end of the whole
            deadline; None if the attempt is made without knowing its limit.
        options: Options of the call, which a later change of the defaults leaves alone.
        demands: Estimates the tokens of further attempts; None if that is what the binding has.
        deps: What the call needs of the state of the process.
        entered: What ends the code that belongs to the call, if calls carry their names.
        outcome: Where a trace around the call expects the outcome, or None.
        hook: What is entered and left around the call and told of it, or None.
        inside: What is entered and left around this attempt, once it is begun, or None.
        spend_key: On whose account the call spends, if it is booked; or None.
        tokens: What ``tokens=`` gave for the call, if it was asked; else None.
    """

    __slots__ = (
        "_candidates",
        "call_id",
        "candidate",
        "demands",
        "deps",
        "entered",
        "entered_at",
        "generation",
        "hedge_after",
        "held",
        "hook",
        "inside",
        "kwargs",
        "lacks",
        "limit",
        "limits",
        "options",
        "outcome",
        "spend_key",
        "tokens",
    )

    number = 1

    def __init__(
        self,
        candidates: tuple[Candidate, ...] | Draw,
        candidate: Candidate,
        kwargs: dict[str, Any],
        options: Options,
        deps: CallDeps | None,
    ) -> None:
        self.options = options
        self.deps = deps
        self._candidates = candidates
        self.candidate = candidate
        self.kwargs = kwargs
        self.lacks = NO_LACKS
        self.demands: EstimatesAttempts | None = None
        self.tokens: int | None = None
        self.spend_key: str | None = None
        self.generation: Generation | None = None
        self.hedge_after: float | None = None
        self.entered_at = 0.0
        self.call_id = ""
        self.limits: tuple[float | None, bool] | None = None
        self.limit: float | None = None
        self.outcome: Outcome | None = None
        self.entered: Entered | None = None
        self.hook: CallHook | None = None
        self.inside: AttemptHook | None = None
        self.held: Held | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The targets of the call, in order; a strategy that draws draws the rest now."""
        candidates = self._candidates
        if not isinstance(candidates, tuple):
            candidates = self._candidates = candidates.whole()
        return candidates

    def following(self) -> list[Candidate]:
        """Return the next target after this one that can take the call, if there is one."""
        following = iter(self.candidates)
        for each in following:
            if each is self.candidate:
                break
        return [each for each in following if each.target.key not in self.lacks][:1]

    def count_begin(self) -> None:
        """Count that the attempt begins, if its call is counted."""
        if self.deps is not None and self.deps.counts is not None:
            self.deps.counts.target(self.candidate.target.key).begin()

    def count_withdrawn(self) -> None:
        """Take back that the attempt begins, if its call is counted: it begins later, or never."""
        if self.deps is not None and self.deps.counts is not None:
            self.deps.counts.target(self.candidate.target.key).end()

    def begin_inside(self) -> AttemptHook | None:
        """Begin what is entered and left around this attempt, if a hook is installed."""
        if self.hook is not None:
            self.inside = self.hook.attempt(self.candidate.target, self.number)
        return self.inside


class PendingAnswer:
    """An answer of an asynchronous function that has to be awaited once more.

    A stream up to its first content, or what replaces a rejected answer.
    """

    __slots__ = ("_go",)

    def __init__(self, go: Callable[[], Awaitable[Any]]) -> None:
        self._go = go

    def __call__(self) -> Awaitable[Any]:
        return self._go()


class PendingCall:
    """A call flow that goes on after a first attempt that the healthy path made."""

    __slots__ = ("call", "flow", "step")

    def __init__(self, call: Call, flow: CallFlow, step: Step) -> None:
        self.call = call
        self.flow = flow
        self.step: Step | None = step


class NoAnswer:
    """The class that no answer has: as plain type of a wrapper it has each answer looked at."""
