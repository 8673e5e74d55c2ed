"""In which order the targets of a chain are tried.

To add one: a file here with a function ``(targets) -> targets in order``, and its name in
``BUILT_IN``. A strategy is asked once per call and shares no cursor between calls, so one
call's failure moves nothing for another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from resilient_llm.strategies.priority import priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resilient_llm._values.target import Target


class Strategy(Protocol):
    """Puts the targets of a chain in order for one call; what it leaves out is not tried."""

    def __call__(self, targets: Sequence[Target], /) -> Iterable[Target]: ...


BUILT_IN: Final[dict[str, Strategy]] = {"priority": priority}
