"""The checks of ``resilient-llm doctor`` about budgets and limits: prices, and names that miss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm import settings
from resilient_llm._core.spending.accounts import covers
from resilient_llm._runtime.chains import living_chains
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.spending import spending_in
from resilient_llm._values.checks import near_names
from resilient_llm._values.limit import OTHERS, applied_limits
from resilient_llm._values.money import ALL, EACH_KEY
from resilient_llm.cli._doctor.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from resilient_llm import Target
    from resilient_llm.cli._doctor.findings import Status

_TAG = "tag:"


class Prices:
    """Which targets have a price, as the budgets look it up."""

    def __init__(self) -> None:
        self._in_usd = [each for each in settings().budgets if each.unit == "usd"]
        self._rates_of = spending_in(runtime.ledger, settings(), runtime.wall, None).rates_of

    def of(self, target: Target) -> tuple[Status, str]:
        """Return what is found about a target."""
        budgets = [each.name for each in self._in_usd if covers(each, target)]
        if self._rates_of(target) is not None:
            return "ok", "it has one"
        if not budgets:
            return "ok", "it has none, and no budget in USD needs one"
        named = " and ".join(map(repr, budgets))
        return "error", (
            f"it has none, so budget {named} refuses every call: write Target(…, price=…) or "
            f"configure(prices={{{target.key!r}: (input, output)}})"
        )


def unused() -> Iterator[Finding]:
    """Yield which limits and budgets hold for no chain of this process."""
    targets = [target for chain in living_chains() for target in chain.targets]
    known = _names_of(targets)
    limits = settings().limits
    used = {
        each.key
        for target in targets
        for each in applied_limits(limits, target.key, target.provider_key, target.tags)
    }
    for key in limits:
        if key not in used and key != OTHERS:
            yield Finding(key, "limits", "warning", _missed(f"limits[{key!r}]", key, known))
    for budget in settings().budgets:
        if budget.of not in (ALL, EACH_KEY) and not any(covers(budget, each) for each in targets):
            yield Finding(
                budget.of,
                "budgets",
                "warning",
                _missed(f"budget {budget.name!r}", budget.of, known),
            )


def _names_of(targets: Iterable[Target]) -> set[str]:
    """Return what a limit or a budget may name."""
    names: set[str] = set()
    for target in targets:
        names |= {target.key, target.provider_key, target.provider}
        names |= {_TAG + tag for tag in target.tags}
    return names


def _missed(what: str, name: str, known: Iterable[str]) -> str:
    near = near_names(name, known)
    meant = f"did you mean {' or '.join(map(repr, near))}?" if near else "look at its name"
    return f"{what} holds for no chain that importing this module made: {meant}"
