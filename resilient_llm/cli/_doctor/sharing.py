"""The checks of ``resilient-llm doctor`` about the store that processes share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from resilient_llm import settings
from resilient_llm.cli import _store
from resilient_llm.cli._doctor.findings import Finding
from resilient_llm.cli._doctor.hosts import MOST_SKEW
from resilient_llm.cli._output import lasting, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_SLOW: Final = 0.5
"""Share of ``state_timeout`` from which on a step is too slow for a bad minute."""


def is_shared() -> bool:
    """Return whether this process is to share a store."""
    return settings().state is not None or bool(os.environ.get(_store.URL_VARIABLE))


def of_store() -> Iterator[Finding]:
    """Yield whether the store can be read and written, and its clock; nothing without one."""
    from resilient_llm.admin._store_check import check_store

    found = check_store()
    if found is None:
        return
    if found.wrong:
        yield Finding("*", "state", "error", shown(found.wrong))
        return
    url = shown(found.url)
    if found.fault is None and not found.is_read:
        yield Finding("*", "state", "skipped", f"{url} is in use by this process already")
        return
    if found.fault is not None:
        why = _store.why_not(url, found.fault, found.type_name)
        effect = (
            "benches of others hold here, and none of this machine is shared"
            if found.is_read
            else "nothing is shared until it can be"
        )
        yield Finding("*", "state", "error", f"{why}; {effect}")
    else:
        limit = settings().state_timeout
        took = f"{url} can be read, and written in {found.seconds:.3f} s"
        if found.seconds > limit * _SLOW:
            took += f", near the state_timeout of {limit:g} s: raise that, or move them together"
        is_slow = found.seconds > limit * _SLOW
        yield Finding("*", "state", "warning" if is_slow else "ok", took)
    if found.is_read:
        yield _clock(url, found.skew)


def _clock(url: str, skew: float) -> Finding:
    if abs(skew) <= MOST_SKEW:
        return Finding("*", "clock", "ok", f"within {MOST_SKEW:g} s of {url}")
    direction = "ahead of" if skew > 0 else "behind"
    return Finding(
        "*",
        "clock",
        "warning",
        f"this machine is {lasting(abs(skew))} {direction} {url}: benches hold as they should, "
        "but its moments are shown wrongly; set the clock that is wrong",
    )
