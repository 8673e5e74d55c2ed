"""What kind of function a command was given, as far as its signature tells."""

from __future__ import annotations

import inspect
from typing import Any

from resilient_llm import Attempt


def can_be_cut_off(fn: Any) -> bool:
    """Return whether a policy can end an attempt of a function, or tell it how long it may take.

    Asynchronous functions are cancelled and streams cut off; others must take an `Attempt`.
    """
    plain = inspect.unwrap(fn)
    if any(
        test(plain)
        for test in (
            inspect.iscoroutinefunction,
            inspect.isasyncgenfunction,
            inspect.isgeneratorfunction,
        )
    ):
        return True
    try:
        parameters = inspect.signature(plain).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        each.annotation is Attempt or str(each.annotation).rpartition(".")[2] == "Attempt"
        for each in parameters
    )
