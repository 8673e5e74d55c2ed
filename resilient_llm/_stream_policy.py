"""Forwards pickles that earlier releases made; goes with the next release."""

from typing import Any

from resilient_llm._values import stream_policy

__all__ = ["_rebuild"]


def _rebuild(given: dict[str, Any]) -> Any:
    return stream_policy.StreamPolicy(**given)


def __getattr__(name: str) -> Any:
    return getattr(stream_policy, name)
