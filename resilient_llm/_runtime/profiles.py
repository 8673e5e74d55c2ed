"""Which profile holds in the present context.

Owns the context variable, and counts the blocks that may hold anywhere in the process: a task or
a thread that was started inside a block has the profile after the block is left, so a block is
open as long as a context refers to it. A block that is left in another context than it was entered
in, as asyncio does with generators that are left early, ends everywhere, since the context that it
was entered in cannot be reached.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from resilient_llm._runtime.configuration import PROCESS, Process, profile_name
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.tracing import Mark
from resilient_llm._values.names import unknown

if TYPE_CHECKING:
    from resilient_llm._values.settings import Settings


class Block(Mark):
    """One ``with profile(…):`` block.

    Attributes:
        name: The profile; None for no profile, also where the process has one.
        outer: The block around it, or None.
        task: The task of asyncio that entered it, by its number; None if there was none.
    """

    def __init__(self, name: str | None, outer: Block | None) -> None:
        super().__init__()
        self.name = name
        self.outer = outer
        self.task = _task()
        open_blocks[id(self)] = name

    def __del__(self) -> None:
        super().__del__()
        open_blocks.pop(id(self), None)


open_blocks: Final[dict[int, str | None]] = {}
"""``{id of a block that a context refers to: its profile}``. Adding and removing are atomic."""
_block: ContextVar[Block | None] = ContextVar("resilient_llm_profile", default=None)


def _task() -> int | None:
    """Return the number of the present task of asyncio; None if there is none."""
    asyncio = sys.modules.get("asyncio")
    try:
        return None if asyncio is None else id(asyncio.current_task())
    except RuntimeError:  # no loop runs here
        return None


def profile_here() -> str | Process | None:
    """Return the profile of the block around this code; `PROCESS` if there is no block."""
    if not open_blocks:
        return PROCESS
    block = _open(_block.get())
    return PROCESS if block is None else block.name


def _open(block: Block | None) -> Block | None:
    """Return the innermost of these blocks that holds: that was not left in another context."""
    while block is not None and block.is_over:
        block = block.outer
    return block


def settings_here() -> Settings:
    """Return the process-wide defaults of calls that start here."""
    return runtime.in_force.settings_under(profile_here())


class ProfileBlock:
    """Has a profile hold for calls that start inside it; entered once, with ``with``."""

    __slots__ = ("_block", "_is_used", "_name")

    def __init__(self, name: str | None) -> None:
        known = runtime.in_force.names.profiles
        if profile_name(name) is not None and name not in known:
            raise unknown(str(name), known, "profile")
        self._name = name
        self._is_used = False
        self._block: Block | None = None

    def __enter__(self) -> None:
        if self._is_used:
            raise RuntimeError("this profile block was entered before: make a new one")
        self._is_used = True
        self._block = Block(self._name, _open(_block.get()))
        self._block.begin()
        _block.set(self._block)

    def __exit__(self, *error: object) -> None:
        block, self._block = self._block, None
        if block is None:
            return
        if _task() != block.task:  # in a copy of the context, as asyncio closes generators
            block.is_over = True
        inner = _block.get()
        if inner is block:
            _block.set(_open(block.outer))
        while inner is not None and inner.outer is not block:
            inner = inner.outer
        if inner is not None:  # it is left before a block inside it, as those of generators are
            inner.outer = block.outer
        block.end()
