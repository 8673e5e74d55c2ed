"""Not the code (``_values/stream_policy.py``): forwards old pickles, until the next release."""

from typing import Any

from resilient_llm._values import stream_policy as _moved

__all__ = ["_rebuild"]


def _rebuild(given: dict[str, Any]) -> Any:
    return _moved.StreamPolicy(**given)


def __getattr__(name: str) -> Any:
    return getattr(_moved, name)
