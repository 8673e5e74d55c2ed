"""`Finding`: what one check found about one target."""

from __future__ import annotations

from typing import Literal, NamedTuple

Status = Literal["ok", "warning", "error", "skipped"]


class Finding(NamedTuple):
    """What one check found about one target.

    Attributes:
        target: Key of the target; what a limit, a budget, a price or an option of a breaker
            names that fits no target; the place in a configuration file; ``*`` for what holds for
            all.
        check: ``config``, ``chains``, ``key``, ``host``, ``clock``, ``retries``, ``timeout``,
            ``price``, ``limits``, ``budgets``, ``prices``, ``breakers``, ``state`` or ``live``.
        status: ``skipped`` if the check cannot know.
        message: What was found and, unless it is fine, what to do. Holds no key.
    """

    target: str
    check: str
    status: Status
    message: str
