"""Not the code (``_values/explanation.py``): forwards pickles of 0.1.0, until the next release."""

from typing import Any

from resilient_llm._values import explanation


def __getattr__(name: str) -> Any:
    return getattr(explanation, name)
