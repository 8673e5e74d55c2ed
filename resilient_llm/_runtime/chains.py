"""The chains of this process: which keys they name, which functions use them, in which order."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from resilient_llm._values.policy import Policy
    from resilient_llm._values.target import Target


class Chained(Protocol):
    """The public object of a policy."""

    @property
    def chain(self) -> tuple[Target, ...]: ...
    @property
    def _policy(self) -> Policy: ...


_policies: Final[weakref.WeakSet[Chained]] = weakref.WeakSet()
_functions: Final[weakref.WeakKeyDictionary[Any, dict[str, None]]] = weakref.WeakKeyDictionary()
"""``{policy: names of the functions that it decorates}``"""


def note_policy(policy: Chained) -> None:
    """Remember a policy as long as it exists."""
    _policies.add(policy)


def note_function(policy: object, fn: Any) -> None:
    """Remember that a policy decorates a function, by its module and qualified name."""
    inner = getattr(fn, "func", fn)  # of a partial
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    module = getattr(inner, "__module__", None) or type(inner).__module__
    _functions.setdefault(policy, {})[f"{module}.{name}"] = None


def named_keys() -> set[str]:
    """Return the keys of all targets in chains, and of their providers."""
    keys: set[str] = set()
    for policy in _policies.copy():
        for target in policy.chain:
            keys |= {target.key, target.provider_key}
    return keys


def living_chains() -> list[tuple[list[str], tuple[Target, ...]]]:
    """Return ``(names of functions, targets in the order they are tried)`` for each chain.

    Of policies with the same functions and the same order one is returned: an application may
    make a copy of a policy for every call. A policy that decorates no function, such as that of
    a loop, has no names.
    """
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[Target, ...]] = {}
    for policy in _policies.copy():
        targets = policy._policy.in_priority
        names = tuple(sorted(_functions.get(policy, ())))
        found.setdefault((names, tuple(target.key for target in targets)), targets)
    # Chains without a name come last.
    ordered = sorted(found.items(), key=lambda each: (not each[0][0], each[0]))
    return [(list(names), targets) for (names, _), targets in ordered]
