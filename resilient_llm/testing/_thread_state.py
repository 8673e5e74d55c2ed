"""A state of the process that one thread uses, while all others go on with the real one.

Everything reads the state from the one `Runtime`, by its attributes. While a thread has a state of
its own, the class of that object is one that gives each thread the attributes of its own state.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from resilient_llm._runtime.runtime import Runtime, runtime


class _Divided(Runtime):
    """The class of `runtime` while one thread has a state of its own."""

    def __getattribute__(self, name: str) -> Any:
        own = _own.get(threading.get_ident())
        # Not by `super`, which refuses once the block has ended in its thread meanwhile.
        return object.__getattribute__(self, name) if own is None else getattr(own, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = _own.get(threading.get_ident())
        if own is None:
            object.__setattr__(self, name, value)
        else:
            setattr(own, name, value)


_own: Final[dict[int, Runtime]] = {}
"""``{thread: the state that it uses}``, of one thread at most."""


@contextmanager
def in_this_thread(state: Runtime) -> Generator[None, None, None]:
    """Have this thread, and no other one, use a state inside the block.

    There must be one such block at a time in the process.
    """
    thread = threading.get_ident()
    try:
        _own[thread] = state
        object.__setattr__(runtime, "__class__", _Divided)
        yield
    finally:
        _own.pop(thread, None)
        object.__setattr__(runtime, "__class__", Runtime)


def is_divided() -> bool:
    """Return whether this thread has a state of its own."""
    return threading.get_ident() in _own


def _after_fork() -> None:
    """Forget the thread if it does not exist in the child: a new one may get its number."""
    if not is_divided():
        _own.clear()
        object.__setattr__(runtime, "__class__", Runtime)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
