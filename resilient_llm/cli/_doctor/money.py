"""The checks of ``resilient-llm doctor`` about budgets and limits: prices, and names that miss."""

from __future__ import annotations

import difflib
import gc
import importlib
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import Failover, settings
from resilient_llm.cli._doctor.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resilient_llm import Budget, Target
    from resilient_llm.cli._doctor.findings import Status

_TAG: Final = "tag:"
_ANY: Final = "*"
_EVERYTHING: Final = ("all", "key")
"""What a budget is for that holds for every target."""


class Prices:
    """Which targets have a price where a budget needs one."""

    def __init__(self) -> None:
        self._in_usd = [each for each in settings().budgets if each.usd is not None]
        self._prices = settings().prices

    def of(self, target: Target) -> tuple[Status, str]:
        """Return what is found about a target."""
        keys = (target.key, target.spec, target.provider_key, target.provider, _ANY)
        if target.price is not None or any(key in self._prices for key in keys):
            return "ok", "it has one"
        if _is_published(target):
            return "ok", "genai-prices has one"
        budgets = [each.name for each in self._in_usd if _is_covered(target, each)]
        if not budgets:
            return "ok", "it has none, and no budget in USD needs one"
        named = " and ".join(map(repr, budgets))
        return "error", (
            f"it has none, so budget {named} refuses every call: write Target(…, price=…) or "
            f"configure(prices={{{target.key!r}: (input, output)}})"
        )


def unused() -> Iterator[Finding]:
    """Yield which limits and budgets hold for no chain of this process."""
    # There is no other list of all policies that importing a module has made.
    policies = [each for each in gc.get_objects() if type(each) is Failover]
    targets = [target for policy in policies for target in policy.chain]
    limited = {name for each in targets for name in (each.key, each.provider_key, *_tags_of(each))}
    known = limited | {each.provider for each in targets}
    for key in settings().limits:
        if key != _ANY and key not in limited:
            yield Finding(key, "limits", "warning", _missed(f"limits[{key!r}]", key, limited))
    for budget in settings().budgets:
        if not any(_is_covered(each, budget) for each in targets):
            said = _missed(f"budget {budget.name!r}", budget.of, known)
            yield Finding(budget.of, "budgets", "warning", said)


def _is_covered(target: Target, budget: Budget) -> bool:
    names = (*_EVERYTHING, target.key, target.provider_key, target.provider, *_tags_of(target))
    return budget.of in names


def _tags_of(target: Target) -> set[str]:
    return {_TAG + tag.strip() for tag in target.tags}


def _is_published(target: Target) -> bool:
    try:
        package: Any = importlib.import_module("genai_prices")
        nothing = package.Usage(input_tokens=0, output_tokens=0)
        package.calc_price(nothing, target.model, provider_id=target.provider)
    except Exception:  # noqa: BLE001  # it is not there, does not know it, or does not work
        return False
    return True


def _missed(what: str, name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.75)
    meant = f"did you mean {' or '.join(map(repr, near))}?" if near else "look at its name"
    return f"{what} holds for no chain that importing this module made: {meant}"
