"""Not the code (``_values/events.py``): forwards pickles of 0.1.0, until the next release."""

from typing import Any

from resilient_llm._values import events


def __getattr__(name: str) -> Any:
    return getattr(events, name)
