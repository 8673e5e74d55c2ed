"""Not the code (``_values/stream_policy.py``): forwards old pickles, until the next release."""

from typing import Any

from resilient_llm._values import stream_policy

__all__ = ["_rebuild"]


def _rebuild(given: dict[str, Any]) -> Any:
    return stream_policy.StreamPolicy(**given)


def __getattr__(name: str) -> Any:
    return getattr(stream_policy, name)
