"""Which options the calls of one function have: those of its policy over process-wide defaults.

Owns the options of earlier bindings. A call that the healthy path admitted is known to the
`Caller` only when it fails, perhaps after a change of the defaults, and keeps those with which
it began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._binding.injection import keeps_limits
from resilient_llm._values.policy import DEFAULTS

if TYPE_CHECKING:
    from resilient_llm._binding.injection import Injection
    from resilient_llm._core.call.call import CallDeps
    from resilient_llm._values.policy import Options, Policy
    from resilient_llm._values.settings import Settings

_MOST_REPLACED: Final = 32
"""Earlier bindings that are kept for calls that began under them."""


class OptionsInForce:
    """The options of new calls, and of calls that began before the last changes.

    Attributes:
        options: The options of calls that begin now.
    """

    def __init__(self, policy: Policy, injection: Injection) -> None:
        self.options: Options = policy.options
        self._policy = policy
        self._keeps_limits = keeps_limits(injection, policy.chain, 1.0)
        """Whether a default ``attempt_timeout`` holds for it; any number may stand for that."""
        self._replaced: list[tuple[float, Options, CallDeps]] = []
        """``(until when, options, deps)`` of earlier bindings, oldest first."""

    def use(self, defaults: Settings, bound: CallDeps | None, now: float) -> bool:
        """Use these defaults from now on; return whether that changes the options.

        Args:
            defaults: The process-wide defaults.
            bound: What calls were given until now; None at the first binding.
            now: Monotonic seconds.
        """
        if bound is not None:
            if bound.settings is defaults:
                return False
            kept = self._replaced[1 - _MOST_REPLACED :]
            self._replaced = [*kept, (now, self.options, bound)]
        options = self._policy.in_force(defaults, keeps_limits=self._keeps_limits)
        # Options with equal values stay, and with them what is known of their functions.
        if all(getattr(options, name) is getattr(self.options, name) for name in DEFAULTS):
            return False
        self.options = options
        return True

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
