"""Other processes that share a store, inside this one: a state of its own each, with its thread.

They run on real time, so tests wait for what has to come, and fail when it does not come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.circuit.permit import Permit, admit
from resilient_llm._core.circuit.state import FOREVER
from resilient_llm._runtime.runtime import Runtime, runtime
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
from resilient_llm.stores import Store

PATIENCE = 40.0
DOWN = Verdict(ErrorKind.TRANSIENT, "server_error")


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return what a condition returns once that is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it has not come"
        time.sleep(0.001)
    return found


def never(condition: Callable[[], Any], seconds: float = 0.3) -> None:
    """Assert that a condition stays false for as long as a change needs to come, and longer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert not condition()
        time.sleep(0.005)


def cooled_down(circuit: Circuit) -> None:
    """Let the cooldown of an open circuit be over, so that it is half-open."""
    opened = circuit._state.opened
    assert opened is not None
    opened.until = runtime.clock()
    assert circuit.state(runtime.clock()) == "half_open"


class Peer:
    """Another process, as far as the store can tell."""

    def __init__(self, store: Store, name: str, **settings: Any) -> None:
        self.state = Runtime()
        self.state.open_store, self.state.share = runtime.open_store, runtime.share
        self.state.configure({"state": store, "state_name": name, **settings})
        self.sharing = self.state.begin_sharing()
        self.sharing.wait_until_read(PATIENCE)
        assert self.sharing.status_now().connected

    def circuit(self, key: str) -> Circuit:
        """Return the circuit of a key there."""
        return self.state.registry.circuit(key)

    def bench(self, key: str, seconds: float = FOREVER, reason: str = "", by: str = "") -> None:
        """Bench a key by hand there."""
        now = runtime.clock()
        self.circuit(key).bench(now, now + seconds, reason, by)

    def unbench(self, key: str, by: str = "") -> None:
        """End the bench of a key there."""
        self.circuit(key).unbench(runtime.clock(), by)

    def fails(self, key: str, verdict: Verdict = DOWN, times: int = 5) -> None:
        """Let calls on a key fail there."""
        for _ in range(times):
            permit = admit(self.circuit(key), runtime.clock())
            assert isinstance(permit, Permit)
            permit.failed(None, runtime.clock(), verdict)

    def state_of(self, key: str) -> str:
        """Return the state of a key there."""
        return self.circuit(key).state(runtime.clock())

    def close(self) -> None:
        """End its thread."""
        self.sharing.end()


@contextmanager
def peer(store: Store, name: str = "other:1", **settings: Any) -> Generator[Peer, None, None]:
    """Give another process that shares a store."""
    made = Peer(store, name, **settings)
    try:
        yield made
    finally:
        made.close()
