"""Forwards pickles that earlier releases made; goes with the next release."""

from typing import Any

from resilient_llm._api import failover


def __getattr__(name: str) -> Any:
    return getattr(failover, name)
