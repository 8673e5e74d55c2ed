"""Forwards pickles that earlier releases made; goes with the next release."""

from typing import Any

from resilient_llm._values import settings


def __getattr__(name: str) -> Any:
    return getattr(settings, name)
