"""The checks of ``resilient-llm doctor`` about budgets and limits: prices, and names that miss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm import settings
from resilient_llm.chains._problems import price_source, unpriced_budgets, unused_keys
from resilient_llm.cli._doctor.findings import Finding
from resilient_llm.cli._doctor.sharing import is_shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resilient_llm import Target
    from resilient_llm.cli._doctor.findings import Status

_OK: Final = {
    "own": "it has one",
    "genai-prices": "genai-prices has one",
    "*": "it has that of prices['*']",
}
"""``{where a price is from: what is said of it}``"""


def price_of(target: Target) -> tuple[Status, str]:
    """Return whether a target has a price where a budget needs one."""
    source = price_source(target)
    if source is not None:
        return "ok", _OK[source]
    budgets = unpriced_budgets(target)
    if not budgets:
        return "ok", "it has none, and no budget in USD needs one"
    named = " and ".join(map(repr, budgets))
    return "error", (
        f"it has none, so budget {named} refuses every call: write Target(…, price=…) or "
        f"configure(prices={{{target.key!r}: (input, output)}})"
    )


def unused() -> Iterator[Finding]:
    """Yield which limits, budgets, prices and options of breakers hold for no chain."""
    for each in unused_keys():
        if each.is_doubtful:
            near = " or ".join(map(repr, each.near))
            meant = f"did you mean {near}?" if near else "look at its name"
            said = f"{each.entry} holds for no chain that importing this module made: {meant}"
            yield Finding(each.key, each.option, "warning", said)


def where_kept() -> Iterator[Finding]:
    """Yield where limits and spending are kept, if there are some."""
    present = settings()
    if present.state is None and not is_shared() and (present.limits or present.budgets):
        said = "limits and spending are in memory, of this process only: each process has its own"
        yield Finding("*", "state", "ok", said)
