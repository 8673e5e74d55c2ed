"""Detects SDK clients that retry by themselves, which multiplies our retries, and warns."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.built_in import is_raised_by

if TYPE_CHECKING:
    from resilient_llm._values.target import Target

MOST_LINES: Final = 1000
"""Of those that the log has once; what comes after these is not told."""
_COUNT: Final = "x-stainless-retry-count"
_RAW_COUNT: Final = _COUNT.encode()
_ADVICE: Final = "its retries multiply with those of the chain; build the client with max_retries=0"


def warn_of_client_retries(target: Target) -> None:
    """Warn at the declaration if a target's ``call=`` belongs to a client that retries."""
    owner: Any = getattr(target.call, "__self__", None)
    client: Any = getattr(owner, "_client", None)
    retries: Any = getattr(client, "max_retries", 0)
    if isinstance(retries, int) and retries > 0:
        warnings.warn(
            f"the client of {target.key} has max_retries={retries}: {_ADVICE}", stacklevel=4
        )


def notice_client_retries(provider: str, error: BaseException) -> None:
    """Log, once per provider, that the failed request was a retry by the SDK's client."""
    dispatcher = runtime.dispatcher
    told = dispatcher.told_once
    line = "client retries", provider
    if line in told or dispatcher.log_line is None or not _sdk_retried(error):
        return
    if len(told) < MOST_LINES:
        told.add(line)
        dispatcher.log_line(f"the client of {provider} retried by itself: {_ADVICE}", warning=True)


def _sdk_retried(error: BaseException) -> bool:
    try:
        request: Any = getattr(error, "request", None)  # httpx raises if it was not set
        headers: Any = getattr(request, "headers", None)
        if headers is None or _surely_lacks(headers):
            return False
        return int(headers.get(_COUNT, 0)) > 0
    except BaseException as failure:
        if not is_raised_by(error, failure):
            raise
        return False


def _surely_lacks(headers: Any) -> bool:
    """Return whether it is sure that the header is not among these.

    Only for httpx, which keeps the names lower-cased: to ask it for a header takes ten times as
    long, in every attempt that fails.
    """
    try:
        return _RAW_COUNT not in [low for _, low, _ in headers._list]
    except Exception:  # noqa: BLE001  # another client, or another release
        return False
