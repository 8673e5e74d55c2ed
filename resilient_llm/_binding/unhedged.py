"""Tells operators of targets on which no hedge starts, since a budget cannot reserve for it."""

from __future__ import annotations

from resilient_llm._binding.client_retries import MOST_LINES
from resilient_llm._runtime.runtime import runtime


def tell_unhedged(called: str, key: str, error: BaseException) -> None:
    """Log, once for each function and target, that its hedges do not start there, and why.

    Args:
        called: Name of the decorated function.
        key: Key of the target.
        error: What would leave the call if the target were needed; it says what to write.
    """
    dispatcher = runtime.dispatcher
    log_line, told, line = dispatcher.log_line, dispatcher.told_once, ("no hedge", called, key)
    if log_line is not None and line not in told and len(told) < MOST_LINES:
        told.add(line)
        log_line(f"no hedge of {called} starts on {key}: {error}", warning=True)
