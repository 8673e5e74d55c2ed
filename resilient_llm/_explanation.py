"""Not the code (``_values/explanation.py``): forwards pickles of 0.1.0, until the next release."""

from typing import Any

from resilient_llm._values import explanation as _moved


def __getattr__(name: str) -> Any:
    return getattr(_moved, name)
