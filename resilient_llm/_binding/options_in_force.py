"""Which options the calls of one function have: those of its policy over process-wide defaults.

Owns the options of earlier bindings. A call that the healthy path admitted is known to the
`Caller` only when it fails, perhaps after a change of the defaults, and keeps those with which
it began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._binding.asking import takes_call
from resilient_llm._binding.demands import Demands
from resilient_llm._binding.injection import can_be_hedged, keeps_limits
from resilient_llm._binding.tool_loops import ToolLoops, has_conversation
from resilient_llm._core.backoff import as_backoff
from resilient_llm._core.call.capabilities import NO_LACKS
from resilient_llm._values.policy import DEFAULTS
from resilient_llm._values.tool_loop import tool_loop_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm._binding.injection import Injection
    from resilient_llm._core.call.call_deps import CallDeps
    from resilient_llm._runtime.clock import Clock
    from resilient_llm._values.policy import Options, Policy
    from resilient_llm._values.settings import Settings
    from resilient_llm._values.target import Target

_MOST_REPLACED: Final = 32
"""Earlier bindings that are kept for calls that began under them."""


class OptionsEffect:
    """What options mean for the calls of one function; never changed.

    Attributes:
        options: The options.
        backoff: Their backoff.
        demands: Finds out what each call needs of a target; None if no policy says.
        lacks: ``{key: why that target cannot take any call}``.
        limits: ``{key: seconds that an attempt may take, within the deadline}``.
        is_hedged: Whether slow attempts get others beside them.
        is_stream: Whether results are known to be streams.
        has_limits: Whether an attempt or a call has a limit.
        needs_limits: Whether a first attempt must know its limit, to keep it or to pass it on.
        needs_figures: Whether samples of its attempts are kept.
        is_inlined: Whether the wrapper may make the first attempt by itself. This is the only
            list of what it cannot do.
        takes_call: Whether a function of the user asks for the arguments of a call as passed.
        tool_loops: Finds calls whose conversation repeats one tool call; None if nothing is read.
    """

    __slots__ = (
        "backoff",
        "demands",
        "has_limits",
        "is_hedged",
        "is_inlined",
        "is_simple",
        "is_stream",
        "lacks",
        "limits",
        "needs_figures",
        "needs_limits",
        "options",
        "takes_call",
        "tool_loops",
    )

    def __init__(
        self,
        options: Options,
        injection: Injection,
        chain: Sequence[Target],
        *,
        takes_attempt: bool,
    ) -> None:
        self.options = options
        self.backoff = as_backoff(options.backoff)
        self.limits: dict[str, float | None] = {
            target.key: (
                options.attempt_timeout
                if target.attempt_timeout is None
                else target.attempt_timeout
            )
            for target in chain
        }
        self.demands = (
            None
            if options.needs is None and options.tokens is None
            else Demands(options, injection, chain)
        )
        self.lacks = NO_LACKS if self.demands is None else self.demands.constant_lacks
        self.is_stream = bool(injection.gives_items) or any(
            each is not None for each in (options.stream, *(target.stream for target in chain))
        )
        self.has_limits = options.timeout is not None or any(
            limit is not None for limit in self.limits.values()
        )
        self.needs_limits = self.has_limits and (injection.is_async or takes_attempt)
        self.needs_figures = (
            options.adaptive is not False
            or options.strategy == "least_latency"
            or isinstance(options.hedge, str)
        )
        self.is_hedged = (
            options.hedge is not None
            and len(chain) > 1
            and options.max_attempts != 1
            and can_be_hedged(injection, chain)  # a name may stand for a target that cannot
        )
        self.is_simple = not (
            self.is_stream
            or takes_attempt
            or self.has_limits
            or options.observers
            or options.classify is not None
            or self.demands is not None
            or options.max_attempts == 1
        )
        """Whether a failure may be all that is known of an attempt: see `SecondAttempt`."""
        loop = tool_loop_of(options.tool_loop)
        self.tool_loops = None if loop is None else ToolLoops(loop, injection)
        cuts_off = self.has_limits and injection.is_async
        self.takes_call = takes_call(options, options.strategy)
        self.is_inlined = not (
            self.is_stream
            or takes_attempt
            or cuts_off
            or self.is_hedged
            or self.tool_loops is not None
            or not isinstance(options.strategy, str)
            or (self.demands is not None and not self._is_same_order(options, self.demands))
        )

    @staticmethod
    def _is_same_order(options: Options, demands: Demands) -> bool:
        """Return whether all calls skip the same targets of the same order."""
        return demands.is_constant and options.strategy == "priority" and options.adaptive is False


def unusable_defaults(injection: Injection, chain: Sequence[Target]) -> frozenset[str]:
    """Return the process-wide defaults that do not hold for a function, whatever their value.

    ``failover`` refuses to name them there: attempts could not keep an ``attempt_timeout``, or
    could not be stopped once a hedge has answered.
    """
    holds = {
        "attempt_timeout": keeps_limits(injection, chain, 1.0),  # any number stands for it
        "hedge": can_be_hedged(injection, chain),
    }
    return frozenset(name for name in holds if not holds[name])


class OptionsInForce:
    """The options of new calls, and of calls that began before the last changes.

    Attributes:
        options: The options of calls that begin now.
        unusable: Process-wide defaults that do not hold for the function, whatever their value.
    """

    def __init__(self, policy: Policy, injection: Injection) -> None:
        self.options: Options = policy.options
        self._policy = policy
        self.unusable = unusable_defaults(injection, policy.chain)
        self._injection = injection
        self._replaced: list[tuple[float, Options, CallDeps]] = []
        """``(until when, options, deps)`` of earlier bindings, oldest first."""
        self._clock: Clock | None = None
        """The clock that these moments are of."""

    def under(self, defaults: Settings) -> Options:
        """Return the options that hold under these defaults; changes nothing.

        Options with equal values stay the same object, and with it what is known of their
        functions.
        """
        present, without = self.options, self.unusable
        if not has_conversation(defaults.tool_loop, self._injection):
            without |= {"tool_loop"}
        options = self._policy.in_force(defaults, without)
        if all(getattr(options, name) is getattr(present, name) for name in DEFAULTS):
            return present
        return options

    def use(
        self, options: Options, defaults: Settings, bound: CallDeps | None, clock: Clock
    ) -> None:
        """Give calls these options from now on. Called under the runtime's lock.

        Args:
            options: What `under` returned for the defaults.
            defaults: The process-wide defaults.
            bound: What calls were given until now; None at the first binding.
            clock: The present clock. Moments of an earlier one are not comparable with its own.
        """
        now = clock.monotonic()
        if clock is not self._clock:
            self._clock, self._replaced = clock, []
        if bound is not None and bound.settings is not defaults:
            self._replaced = [*self._replaced[1 - _MOST_REPLACED :], (now, self.options, bound)]
        self.options = options

    def began_with(
        self, entered_at: float, present: CallDeps, *, was_bound: bool
    ) -> tuple[Options, CallDeps]:
        """Return the options and deps of a call that the healthy path admitted.

        Args:
            entered_at: When it was admitted.
            present: What calls that begin now are given.
            was_bound: Whether the function was still bound when the call failed. If it was not,
                the call began before the last change, even if the clock has not moved since.
        """
        for until, options, deps in self._replaced:
            if entered_at < until:
                return options, deps
        if self._replaced and not was_bound:
            until, options, deps = self._replaced[-1]
            if entered_at == until:
                return options, deps
        return self.options, present
