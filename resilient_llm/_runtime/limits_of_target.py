"""`limits_on`: the limits that attempts on one target must pass, configured and reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.limits.held import TargetLimits
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Iterable


def limits_on(key: str, provider_key: str, tags: Iterable[str] = ()) -> TargetLimits | None:
    """Return the limits that attempts on a target must pass, or None if there are none.

    Args:
        key: Key of the target.
        provider_key: Key of its provider, with its account.
        tags: Tags of the target.
    """
    limits = runtime.limits.of(key, provider_key, tags)
    if not runtime.settings.listen or not (runtime.is_listening or runtime.reported):
        return limits
    from resilient_llm._runtime.hearing import hearing  # loaded when there is something

    heard = hearing.limits_of(key)
    if heard is None:
        return limits
    return TargetLimits(() if limits is None else limits.all, heard)
