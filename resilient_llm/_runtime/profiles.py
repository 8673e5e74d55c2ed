"""Which profile holds in the present context.

Owns the context variable, and counts the blocks that may hold anywhere in the process: a task or
a thread that was started inside a block has the profile after the block is left, so a block is
open as long as a context refers to it.
"""

from __future__ import annotations

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
    """

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self.name = name
        open_blocks[id(self)] = name

    def __del__(self) -> None:
        super().__del__()
        open_blocks.pop(id(self), None)


open_blocks: Final[dict[int, str | None]] = {}
"""``{id of a block that a context refers to: its profile}``. Adding and removing are atomic."""
_block: ContextVar[Block | None] = ContextVar("resilient_llm_profile", default=None)


def profile_here() -> str | Process | None:
    """Return the profile of the block around this code; `PROCESS` if there is no block."""
    if not open_blocks:
        return PROCESS
    block = _block.get()
    return PROCESS if block is None else block.name


def settings_here() -> Settings:
    """Return the process-wide defaults of calls that start here."""
    return runtime.in_force.settings_under(profile_here())


class ProfileBlock:
    """Has a profile hold for calls that start inside it; entered once, with ``with``."""

    __slots__ = ("_block", "_is_used", "_name", "_outer")

    def __init__(self, name: str | None) -> None:
        known = runtime.in_force.names.profiles
        if profile_name(name) is not None and name not in known:
            raise unknown(str(name), known, "profile")
        self._name = name
        self._is_used = False
        self._block: Block | None = None
        self._outer: Block | None = None

    def __enter__(self) -> None:
        if self._is_used:
            raise RuntimeError("this profile block was entered before: make a new one")
        self._is_used, self._outer = True, _block.get()
        self._block = Block(self._name)
        self._block.begin()
        _block.set(self._block)

    def __exit__(self, *error: object) -> None:
        block, self._block = self._block, None
        outer, self._outer = self._outer, None
        if block is None:
            return
        if _block.get() is block:  # else it is left in another context than it was entered in
            _block.set(outer)
        block.end()
