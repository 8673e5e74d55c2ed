"""Finds loops in which an interrupt skips `__exit__`, `finally` and `except` of their own function.

A handler of signals may raise: `KeyboardInterrupt`, the soft time limit of a task queue. CPython
runs it only at a few places, one of which is `JUMP_BACKWARD`, the end of a turn of a loop. The
exception is then looked up in the exception table of the function, by the place at which it was
raised. From 3.12 on the compiler makes two jumps of a conditional jump backwards, after it has
noted what is covered: the second of them, the `JUMP_BACKWARD`, has no entry. 3.13 looks up the
jump itself, finds nothing, and leaves the function: the lock of a ``with`` is held for ever.
(3.12 looks up what stands before the target of the jump, which is covered.)

Without an entry are a turn that ends with ``if`` without ``else``, the filter of a comprehension,
and ``while`` with a condition::

    with lock:
        for each in found:
            if each.is_old:  # False: jumps back, and is not covered
                each.close()

With an entry are ``continue``, ``while True`` with ``break``, and whatever is called: a loop in a
function of its own has nothing that could be skipped, and an exception from a call is covered.
"""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import NamedTuple, Protocol

_PADDING = {"EXTENDED_ARG", "NOP", "NOT_TAKEN"}
_CHECKS_MATCHES = {"CHECK_EXC_MATCH", "CHECK_EG_MATCH"}
# What only catches errors lets an interrupt pass anyway.
_CATCHES_INTERRUPTS = {"BaseException", "KeyboardInterrupt", "GeneratorExit", "SystemExit"}


class Hole(NamedTuple):
    """A jump backwards that is not covered.

    Attributes:
        path: The file.
        line: In which the condition stands that ends the turn.
        function: Qualified name of the function.
        offset: Of the jump, in its code.
    """

    path: str
    line: int
    function: str
    offset: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.function}"


class _Entry(Protocol):
    start: int
    end: int
    target: int


def holes_in(folder: Path) -> list[Hole]:
    """Return the uncovered jumps of all modules below a folder."""
    return [
        hole
        for path in sorted(folder.rglob("*.py"))
        for hole in holes_of(path.read_text(encoding="utf-8"), str(path))
    ]


def holes_of(source: str, path: str = "<source>") -> list[Hole]:
    """Return the uncovered jumps of one module; none before 3.12, which does not split jumps."""
    return [
        Hole(path, line, code.co_qualname, offset)
        for code in _nested(compile(source, path, "exec", dont_inherit=True))
        for offset, line in uncovered_jumps(code)
    ]


def uncovered_jumps(code: CodeType) -> Iterator[tuple[int, int]]:
    """Yield offset and line of the jumps after which an exception skips what stands around them."""
    read = dis.Bytecode(code)
    table: list[_Entry] = list(read.exception_entries)  # type: ignore[attr-defined, unused-ignore]  # no stub
    if not table:
        return
    instructions = list(read)
    for index, jump in enumerate(instructions):
        if jump.opname != "JUMP_BACKWARD" or _handler_of(table, jump.offset) is not None:
            continue
        head = next(
            each.offset
            for each in instructions
            if each.offset >= jump.argval and each.opname not in _PADDING
        )
        before = (each.offset for each in reversed(instructions[:index]))
        around_the_loop = _handlers_around(table, head)
        around_the_jump = _handlers_around(
            table, next((each for each in before if _handler_of(table, each) is not None), -1)
        )
        if any(
            _acts_on_interrupts([each for each in instructions if each.offset >= handler])
            for handler in around_the_loop
            if handler in around_the_jump
        ):
            line = jump.positions.lineno if jump.positions is not None else None
            yield jump.offset, line or code.co_firstlineno


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _nested(each)


def _handler_of(table: Iterable[_Entry], offset: int) -> int | None:
    return next((each.target for each in table if each.start <= offset < each.end), None)


def _handlers_around(table: list[_Entry], offset: int) -> list[int]:
    """Return the handlers around an instruction, from the inside."""
    handlers: list[int] = []
    handler = _handler_of(table, offset)
    while handler is not None:
        handlers.append(handler)
        handler = _handler_of(table, handler)
    return handlers


def _acts_on_interrupts(handler: list[dis.Instruction]) -> bool:
    first = handler[0].opname
    if first != "PUSH_EXC_INFO":
        # The end of a generator, of an inlined comprehension, or of an `except` itself: what they
        # restore matters only to a frame that goes on, and this one ends unless another handler
        # catches the interrupt.
        return False
    for index, each in enumerate(handler):
        if each.opname == "WITH_EXCEPT_START":
            return True
        if each.opname in _CHECKS_MATCHES:
            names = {one.argval for one in handler[:index] if one.opname.startswith("LOAD_")}
            return bool(names & _CATCHES_INTERRUPTS)
        if each.opname in ("RERAISE", "POP_EXCEPT"):
            break
    return True  # `finally`, or a bare `except`
