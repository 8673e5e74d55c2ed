"""Which keys the chains of this process name: for what is said of a key that none of them does."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from resilient_llm._values.target import Target


class Chained(Protocol):
    """The public object of a policy."""

    @property
    def chain(self) -> tuple[Target, ...]: ...


_policies: Final[weakref.WeakSet[Chained]] = weakref.WeakSet()


def note_policy(policy: Chained) -> None:
    """Remember a policy as long as it exists."""
    _policies.add(policy)


def named_keys() -> set[str]:
    """Return the keys of all targets in chains, and of their providers."""
    keys: set[str] = set()
    for policy in _policies.copy():
        for target in policy.chain:
            keys |= {target.key, target.provider_key}
    return keys
