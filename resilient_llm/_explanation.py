"""Forwards pickles that earlier releases made; goes with the next release."""

from typing import Any

from resilient_llm._values import explanation


def __getattr__(name: str) -> Any:
    return getattr(explanation, name)
