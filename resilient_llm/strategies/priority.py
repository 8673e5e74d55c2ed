"""The strategy ``priority``: lowest ``priority`` first, equal ones in declared order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm._values.target import Target


def priority(targets: Sequence[Target], /) -> Sequence[Target]:
    """Return the targets by their priority, stable."""
    return sorted(targets, key=lambda target: target.priority)
