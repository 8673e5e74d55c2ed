"""Code that is interrupted before one of its opcodes, as by a signal handler or a finaliser."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from tests.support.schedules import EVERY_OPCODE, Points

_HAS_MONITORING = sys.version_info >= (3, 12)
_TOOL = 3


@contextmanager
def interrupted_at(
    step: int,
    handler: Callable[[], object],
    *modules: ModuleType,
    points: Points = EVERY_OPCODE,
) -> Iterator[list[int]]:
    """Run a handler, which may raise, before one opcode of some modules; give a count of the steps.

    Callbacks of weak references are left out, since what they raise goes nowhere. The collector
    rests meanwhile: what it finalises has nothing to do with the code that is interrupted, and an
    interrupt in there would be an unraisable error.

    Args:
        step: The opcode, from 1.
        handler: What interrupts it.
        modules: Modules whose functions are interrupted, in this thread.
        points: Which of their opcodes are steps.
    """
    steps = [0]
    thread = threading.get_ident()

    def before(code: CodeType, offset: int) -> None:
        if threading.get_ident() == thread and points(code, offset):
            steps[0] += 1
            if steps[0] == step:
                handler()

    codes = {code for module in modules for code in _codes_of(module)}
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with _monitored(codes, before) if _HAS_MONITORING else _traced(codes, before):
            yield steps
    finally:
        if was_enabled:
            gc.enable()


def _codes_of(module: ModuleType) -> Iterator[CodeType]:
    for each in vars(module).values():
        members = vars(each).values() if isinstance(each, type) else (each,)
        for member in members:
            function = member.fget if isinstance(member, property) else member
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield from _nested(function.__code__)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType) and each.co_name != "<lambda>":
            yield from _nested(each)


@contextmanager
def _traced(codes: set[CodeType], before: Callable[[CodeType, int], None]) -> Iterator[None]:
    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            before(frame.f_code, frame.f_lasti)
        return trace

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(tracing)


@contextmanager
def _monitored(codes: set[CodeType], before: Callable[[CodeType, int], None]) -> Iterator[None]:
    """The same where a trace function sees opcodes only of functions that it has seen before."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    monitoring.use_tool_id(_TOOL, "interrupts")
    monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, before)
    for code in codes:
        monitoring.set_local_events(_TOOL, code, monitoring.events.INSTRUCTION)
    try:
        yield
    finally:
        for code in codes:
            monitoring.set_local_events(_TOOL, code, 0)
        monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(_TOOL)
