"""Strategies order the targets of a chain for one call, one file each.

To add one: a file here with a function ``(targets) -> targets in order``, and its name in
``BUILT_IN``. A strategy is called once per call and keeps no cursor between calls, so the
failure of one call does not change the order of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from resilient_llm.strategies.priority import priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resilient_llm._values.target import Target


class Strategy(Protocol):
    """Orders the targets of a chain for one call; targets that it leaves out are not tried."""

    def __call__(self, targets: Sequence[Target], /) -> Iterable[Target]: ...


BUILT_IN: Final[dict[str, Strategy]] = {"priority": priority}
