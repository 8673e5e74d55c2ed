"""The estimate of one call's tokens, for limits of tokens: its input once, its output by target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.spending.estimates import Estimate, longest_answer

if TYPE_CHECKING:
    from resilient_llm._binding.demands import Demands
    from resilient_llm._values.target import Target


class CallEstimate:
    """Estimates what attempts of one call use; the arguments are read when it is first asked."""

    __slots__ = ("_args", "_demands", "_input", "_kwargs")

    def __init__(
        self,
        demands: Demands,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known: int | None = None,
    ) -> None:
        """Start with nothing asked.

        Args:
            demands: Knows the parameters of the function, and ``tokens=`` of its policy.
            args: As the caller passed them.
            kwargs: The same, without those that pin the call to a target.
            known: What ``tokens=`` gave for the call, if it was asked already.
        """
        self._demands = demands
        self._args = args
        self._kwargs = kwargs
        self._input = known

    def __call__(self, target: Target) -> Estimate:
        """Return what an attempt on a target may use."""
        demands, args, kwargs = self._demands, self._args, self._kwargs
        if self._input is None:
            self._input = demands.input_of(args, kwargs)
        longest = longest_answer(
            lambda name: demands.argument(name, target, args, kwargs), target.max_output
        )
        return Estimate(self._input, longest)
