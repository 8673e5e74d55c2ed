"""`rate_limits`: what is left of the limits of providers, as their headers have reported."""

from __future__ import annotations

from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.rate_limit_state import RateLimitState


def rate_limits() -> dict[str, RateLimitState]:
    """Return ``{key: what is left}`` of each target and provider whose headers were read, sorted.

    The figures are those of the newest answer, grown by what has come back since. They are the
    provider's own: calls of other processes with the same credentials are in them.
    """
    if not runtime.reported:
        return {}
    from resilient_llm._runtime.hearing import hearing

    return hearing.states()
