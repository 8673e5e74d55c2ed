"""The chains of this process: which keys they name, which functions use them, in which order."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from resilient_llm._runtime.names import known_targets
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.plan import Plan
    from resilient_llm._values.policy import Declared
    from resilient_llm._values.target import Target


class Chained(Protocol):
    """The public object of a policy."""

    @property
    def _declared(self) -> Declared: ...


_policies: Final[weakref.WeakSet[Chained]] = weakref.WeakSet()
_functions: Final[weakref.WeakKeyDictionary[Any, dict[str, Abilities]]] = (
    weakref.WeakKeyDictionary()
)
"""``{policy: {name of a function that it decorates: what it can use}}``"""


class Abilities(NamedTuple):
    """Which options a decorated function can use. It does not refer to the function.

    Attributes:
        unusable: Process-wide defaults that do not hold for it.
        keeps_limits: Whether it can keep the ``attempt_timeout`` of a target.
        accepts: Keywords that it takes, of the ``params`` of a target; None if it takes all, or is
            given the target.
    """

    unusable: frozenset[str]
    keeps_limits: bool
    accepts: frozenset[str] | None

    def lost_options(self, target: Target) -> list[str]:
        """Return the options of a target that calls of the function cannot use."""
        if target.call is not None:
            return []
        lost = [] if self.keeps_limits or target.attempt_timeout is None else ["attempt_timeout"]
        if self.accepts is not None:
            lost += [f"params[{name!r}]" for name in sorted(target.params.keys() - self.accepts)]
        return lost


def note_policy(policy: Chained) -> None:
    """Remember a policy as long as it exists."""
    _policies.add(policy)


def note_function(policy: object, fn: Any, abilities: Abilities) -> None:
    """Remember that a policy decorates a function, by its module and qualified name."""
    inner = getattr(fn, "func", fn)  # of a partial
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    module = getattr(inner, "__module__", None) or type(inner).__module__
    _functions.setdefault(policy, {})[f"{module}.{name}"] = abilities


def living_plans() -> list[tuple[str, Plan]]:
    """Return the plan of each policy that has names or routes, and a function that it decorates."""
    return [
        (min(_functions.get(holder, {}), default="a policy of no function"), holder._declared.plan)
        for holder in _holders()
        if holder._declared.plan.is_late
    ]


class LivingPolicy(NamedTuple):
    """A policy that exists.

    Attributes:
        chain: Its targets, as declared: of routes all that they can choose, of names that are not
            defined none.
        plan: Its chain, as it was written.
        named: The options that it names.
        functions: ``{name of a function that it decorates: which options that can use}``
    """

    chain: tuple[Target, ...]
    plan: Plan
    named: frozenset[str]
    functions: Mapping[str, Abilities]


def _holders() -> list[Chained]:
    while True:
        try:
            return list(_policies)
        except RuntimeError:  # another thread or a signal handler made a policy meanwhile
            continue


def living_policies() -> list[LivingPolicy]:
    """Return each policy, those of functions first, sorted by these."""
    found = [
        LivingPolicy(
            known_targets(holder._declared.plan),
            holder._declared.plan,
            holder._declared.named,
            dict(_functions.get(holder, {})),
        )
        for holder in _holders()
    ]
    return sorted(found, key=lambda each: (not each.functions, sorted(each.functions)))


def named_keys() -> set[str]:
    """Return the keys of all targets in chains, and of their providers."""
    keys: set[str] = set()
    for policy in _holders():
        for target in known_targets(policy._declared.plan):
            keys |= {target.key, target.provider_key}
    return keys


def named_targets() -> set[Target]:
    """Return all targets in chains; two of one key that have other options are two."""
    return {target for policy in _holders() for target in known_targets(policy._declared.plan)}


class LivingChain(NamedTuple):
    """The chain of a policy.

    Attributes:
        functions: Names of the functions that the policy decorates; none for that of a loop.
        written: The entries of its chain as they were written, such as ``"@fast"``.
        targets: Its targets in the order in which the next call tries them, as far as `priority`
            and ``adaptive=`` decide that.
        penalties: ``{key: places by which ``adaptive=`` moves the target back}``, of those moved.
    """

    functions: list[str]
    written: tuple[str, ...]
    targets: tuple[Target, ...]
    penalties: Mapping[str, int]


def living_chains() -> list[LivingChain]:
    """Return the chain of each policy, those of no function last.

    Of policies with the same functions and the same order one is returned: an application may
    make a copy of a policy for every call.
    """
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], LivingChain] = {}
    for holder in _holders():
        policy = holder._declared.policy(known_targets(holder._declared.plan))
        targets, penalties = policy.in_priority, dict[str, int]()
        order = runtime.known_order_of(policy)
        if order is not None:
            targets = tuple(order.placed(targets, lambda target: target))
            penalties = dict(order.penalties)
        names = tuple(sorted(_functions.get(holder, ())))
        keys = tuple(target.key for target in targets)
        written = holder._declared.plan.shown
        found.setdefault((names, keys), LivingChain(list(names), written, targets, penalties))
    ordered = sorted(found.items(), key=lambda each: (not each[0][0], each[0]))
    return [chain for _, chain in ordered]
