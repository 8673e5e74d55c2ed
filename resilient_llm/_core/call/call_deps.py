"""What the calls of one function need from the process, put together when it is bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from resilient_llm._core.backoff import Backoff
    from resilient_llm._core.call.spending import Spending
    from resilient_llm._core.figures import PolicyFigures
    from resilient_llm._core.in_flight import Counts
    from resilient_llm._core.limits.held import Held, TargetLimits
    from resilient_llm._core.retry_budget import RetryBudgets
    from resilient_llm._core.stream.stream_state import ItemInspector
    from resilient_llm._values.settings import Settings
    from resilient_llm._values.verdict import Verdict


class CallDeps:
    """What a call needs from the process: rules, budgets, settings and randomness."""

    __slots__ = (
        "backoff",
        "budgets",
        "classify",
        "clock",
        "counts",
        "fails_first",
        "figures",
        "hear",
        "item_inspector",
        "keeps_figures",
        "notice",
        "rng",
        "settings",
        "spending",
        "tell_unhedged",
    )

    def __init__(
        self,
        *,
        classify: Callable[[BaseException], Verdict],
        notice: Callable[[str, BaseException], None],
        fails_first: Callable[[Callable[..., object]], bool],
        backoff: Backoff,
        budgets: RetryBudgets,
        settings: Settings,
        rng: Random,
        item_inspector: Callable[[], ItemInspector],
        clock: Callable[[], float],
        counts: Counts | None = None,
        figures: PolicyFigures | None = None,
        spending: Spending | None = None,
        hear: Callable[[object, str, float, Held | None], None] | None = None,
        tell_unhedged: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self.tell_unhedged = tell_unhedged
        """``(key of a target, why)``: tells operators that no hedge starts there."""
        self.hear = hear
        """``(error or answer, key of its target, when its attempt began, what that held)``: reads
        what headers in it report of the provider's limits; None if nothing is read."""
        self.spending = spending
        """Where its attempts are booked and settled; None if nobody asks what they use."""
        self.item_inspector = item_inspector
        """Gives the inspector of stream items; loaded with the first stream."""
        self.classify = classify
        self.notice = notice
        """``(provider, error)``: looks for what operators should know besides, as SDK retries."""
        self.fails_first = fails_first
        """Whether this is the first failure of a function of the user, which is then emitted."""
        self.backoff = backoff
        self.budgets = budgets
        self.settings = settings
        self.rng = rng
        self.clock = clock
        """Asked only where no reply of a driver says what time it is: when a flow is dropped, or
        a function of the user raises inside it."""
        self.counts = counts
        """Where its calls are counted, if an exporter of metrics was installed when they began, or
        a policy chooses by what is in flight."""
        self.figures = figures
        """Where samples of its attempts are kept, if its policy needs them."""
        self.keeps_figures = counts is not None or figures is not None
        """Whether each answer is kept or counted in one of the two."""

    def needs_estimate(self, limits: TargetLimits | None) -> bool:
        """Return whether somebody asks what an attempt on a target with these limits may use."""
        if limits is not None and limits.needs_estimate:
            return True
        return self.spending is not None and self.spending.ledger is not None

    def counted_by(self, counts: Counts | None) -> CallDeps:
        """Return the same for calls that are counted elsewhere, or nowhere."""
        if counts is self.counts:
            return self
        given: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        del given["keeps_figures"]
        given["counts"] = counts
        return CallDeps(**given)
