"""What a healthy call executes under a store: the same bytecode as without one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from resilient_llm import Target, breaker, configure, failover, store_status
from resilient_llm.testing import isolated
from tests.support.valkey import Server

Opcodes = list[tuple[str, str, int]]
_TOOL = 3


def executed(call: Callable[[], object]) -> Opcodes:
    """Return every opcode of Python code that a call executes in this thread."""
    found: Opcodes = []
    thread = threading.get_ident()

    def before(code: CodeType, offset: int) -> None:
        if threading.get_ident() == thread and code.co_filename != __file__:
            found.append((code.co_filename, code.co_qualname, offset))

    with _monitored(before) if sys.version_info >= (3, 12) else _traced(before):
        call()
    return found


@contextmanager
def _monitored(before: Callable[[CodeType, int], None]) -> Iterator[None]:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    monitoring.use_tool_id(_TOOL, "healthy calls")
    monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, before)
    monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
    try:
        yield
    finally:
        monitoring.set_events(_TOOL, 0)
        monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(_TOOL)


@contextmanager
def _traced(before: Callable[[CodeType, int], None]) -> Iterator[None]:
    """The same for 3.11; later, a trace function does not see all opcodes."""

    def traced(frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if event == "opcode":
            before(frame.f_code, frame.f_lasti)
        return traced

    earlier = sys.gettrace()
    sys.settrace(traced)
    try:
        yield
    finally:
        sys.settrace(earlier)


def sync_call() -> Callable[[], object]:
    @failover(chain=["openai/a", "groq/b"])
    def ask(target: Target) -> str:
        return target.key

    return ask


def async_call() -> Callable[[], object]:
    @failover(chain=["openai/a", "groq/b"])
    async def ask(target: Target) -> str:
        return target.key

    def run() -> object:
        try:
            ask().send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("it has waited")

    return run


def guarded() -> Callable[[], object]:
    guard = breaker("openai/a")

    def call() -> None:
        with guard:
            pass

    return call


@pytest.fixture(params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a store that is empty."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/app.db"
        return
    server = Server()
    yield server.url
    server.close()


@pytest.mark.parametrize("make", [sync_call, async_call, guarded])
def test_a_store_adds_no_opcode_to_a_healthy_call(
    make: Callable[[], Callable[[], object]], url: str
) -> None:
    """Nor does it take one away: the call does not look whether there is a store."""
    found: list[Opcodes] = []
    for store in (None, url):
        with isolated():
            configure(state=store)
            call = make()
            for _ in range(50):  # the first calls bind, and a period of counts begins
                call()
            if store is not None:
                assert store_status(wait=10.0).connected
            # The shortest of some: one may fall on the end of a bucket.
            found.append(min((executed(call) for _ in range(5)), key=len))

    without, under = found
    assert len(without) > 5
    assert without == under
