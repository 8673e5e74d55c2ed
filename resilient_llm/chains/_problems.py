"""The problems that `check` and ``resilient-llm doctor`` find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from resilient_llm._core.spending.accounts import covers
from resilient_llm._core.spending.prices import ANY, rates_for
from resilient_llm._runtime.chains import living_policies
from resilient_llm._runtime.names import with_two_sets_of_options
from resilient_llm._runtime.profiles import profile_here
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.spending import published
from resilient_llm._runtime.unused_keys import unused_keys
from resilient_llm._values.names import unknown, unknown_in
from resilient_llm._values.policy import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resilient_llm._runtime.chains import LivingPolicy
    from resilient_llm._runtime.unused_keys import UnusedKey
    from resilient_llm._values.target import Target

_FACTS: Final = ("price", "tags", "context_window", "max_output", "supports")
"""Options that say what a target is, wherever it is called, and not how one function calls it."""
_WHY_NOT: Final = {
    "attempt_timeout": "nothing can interrupt a synchronous function that takes no Attempt",
    "hedge": "only asynchronous attempts can be stopped once another one has answered",
}


def problems() -> list[str]:
    """Return what `check` returns."""
    policies = living_policies()
    return [
        *(_said(each) for each in unused_keys()),
        *_unknown_names(policies),
        *_without_effect(policies),
    ]


def policy_problems() -> tuple[list[str], list[str]]:
    """Return the same without keys that nothing has: what calls raise, and what has no effect."""
    policies = living_policies()
    return list(_unknown_names(policies)), list(_without_effect(policies))


def _without_effect(policies: list[LivingPolicy]) -> Iterator[str]:
    yield from _two_sets_in_one_chain(policies)
    yield from _two_sets_of_options(policies)
    yield from _unusable_options(policies)
    yield from _unusable_defaults(policies)


def price_source(target: Target) -> Literal["own", "genai-prices", "*"] | None:
    """Return where the ledger has the price of a target from; None if it has none."""
    prices = runtime.settings.prices
    if rates_for(target, prices, published) is None:
        return None
    if rates_for(target, {key: price for key, price in prices.items() if key != ANY}) is not None:
        return "own"
    return "*" if published(target) is None else "genai-prices"


def unpriced_budgets(target: Target) -> list[str]:
    """Return the names of the budgets that need a price of a target."""
    budgets = runtime.settings.budgets
    return [each.name for each in budgets if each.unit == "usd" and covers(each, target)]


def _said(unused: UnusedKey) -> str:
    near = " or ".join(map(repr, unused.near))
    hint = f"did you mean {near}?" if near else "look at its name"
    of = "" if repr(unused.key) in unused.entry else f" of {unused.key!r}"
    return f"{unused.entry}{of} is of no target of a policy: {hint}"


def _two_sets_in_one_chain(policies: list[LivingPolicy]) -> Iterator[str]:
    for policy in policies:
        for key in with_two_sets_of_options(policy.plan):
            yield (
                f"{_name(policy)}: names in its chain give {key!r} two sets of options, and those "
                "of the first one count: write the options once"
            )


def _two_sets_of_options(policies: list[LivingPolicy]) -> Iterator[str]:
    known: dict[str, tuple[Target, str]] = {}
    told: set[tuple[str, str]] = set()
    for policy in policies:
        for target in policy.chain:
            first, where = known.setdefault(target.key, (target, _name(policy)))
            for name in _FACTS:
                values = getattr(first, name), getattr(target, name)
                if values[0] == values[1] or (target.key, name) in told:
                    continue
                told.add((target.key, name))
                yield (
                    f"target {target.key!r} has {name}={_shown(values[0])} in {where} and "
                    f"{name}={_shown(values[1])} in {_name(policy)}: write one Target and use it "
                    "in both chains"
                )


def _unknown_names(policies: list[LivingPolicy]) -> Iterator[str]:
    chains = runtime.in_force.chains_under(profile_here())
    for policy in policies:
        for name in unknown_in(policy.plan, chains):
            yield f"{_name(policy)}: {unknown(name, chains)}"


def _unusable_options(policies: list[LivingPolicy]) -> Iterator[str]:
    """Return what names and files say of targets and calls leave out."""
    for policy in policies:
        for function, abilities in policy.functions.items():
            for target in policy.chain:
                for option in abilities.lost_options(target):
                    why = (
                        _WHY_NOT["attempt_timeout"]
                        if option == "attempt_timeout"
                        else "the function takes no such argument, and no Target"
                    )
                    yield f"{option} of {target.key!r} does not hold for {function}: {why}"


def _unusable_defaults(policies: list[LivingPolicy]) -> Iterator[str]:
    settings = runtime.settings
    for name, why_not in _WHY_NOT.items():
        value = getattr(settings, name)
        if value == getattr(BUILT_IN, name):
            continue
        for policy in policies:
            for function, abilities in policy.functions.items():
                if name in abilities.unusable and name not in policy.named:
                    yield f"configure({name}={value!r}) does not hold for {function}: {why_not}"


def _name(policy: LivingPolicy) -> str:
    return next(iter(policy.functions), "a policy of no function")


def _shown(value: Any) -> str:
    return repr(sorted(value)) if isinstance(value, frozenset) else repr(value)  # pyright: ignore[reportUnknownArgumentType]  # of words
