"""Not the code (``_values/events.py``): forwards pickles of 0.1.0, until the next release."""

from typing import Any

from resilient_llm._values import events as _moved


def __getattr__(name: str) -> Any:
    return getattr(_moved, name)
