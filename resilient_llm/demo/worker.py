"""One worker of `resilient_llm.demo.fleet`: a process that shares the store and calls when asked.

    python -m resilient_llm.demo.worker NAME STORE PORTS

The process reads commands from its input, one word per line, and writes what has happened to its
output, one JSON object per line. It ends when its input is closed, so it never outlives the process
that started it. It calls with the standard library, since several processes that import an SDK at
once take longer for the import than for the rest of the demo.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import (
    Attempt,
    AttemptFailed,
    ResilientLLMError,
    Target,
    TargetBenched,
    TargetUnbenched,
    Trace,
    configure,
    failover,
    observe,
    store_status,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm import Event

CHAIN: Final = ("groq/llama-3.3-70b", "mistral/mistral-small")
FAILURES: Final = 3
COOLDOWN: Final = 2.0
POLL: Final = 0.2
CONNECT_WITHIN: Final = 10.0
DEADLINE: Final = 8.0
_PROMPT: Final = "Why is the sky blue?"


def settings(store: str, name: str) -> dict[str, Any]:
    """Return what all processes of the demo give to ``configure``.

    Args:
        store: URL of the store.
        name: The source that other processes report for a bench of this one.
    """
    return {
        "state": store,
        "state_options": {"poll": POLL},
        "state_name": name,
        "breakers": {"*": {"failures": FAILURES, "cooldown": COOLDOWN}},
        "logging": False,  # the events are shown
    }


class Worker:
    """What one process does.

    Args:
        ports: ``{provider: its port on loopback}``.
    """

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = ports
        self._ask: Callable[[str], str] = failover(CHAIN, timeout=DEADLINE)(self._send)
        self._lock = threading.Lock()
        """Held while a line is written: the thread of the store emits events as well."""

    def _send(self, target: Target, prompt: str, *, attempt: Attempt | None = None) -> str:
        left = None if attempt is None else attempt.remaining
        port = self._ports[target.provider]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=left)
        body = {"model": target.model, "messages": [{"role": "user", "content": prompt}]}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            reply = json.load(connection.getresponse())
        finally:
            connection.close()
        return str(reply["choices"][0]["message"]["content"])

    def report(self, what: str, **more: Any) -> None:
        """Write one line for the process that has started this one."""
        line = json.dumps({"what": what, **more})
        with self._lock:
            print(line, flush=True)

    def on_event(self, event: Event) -> None:
        """Report an event: an observer."""
        at = event.at.isoformat()
        match event:
            case AttemptFailed():
                self.report("failed", at=at, key=event.target, text=event.reason)
            case TargetBenched():
                until = event.until and event.until.isoformat()
                why = event.trigger if event.source == "local" else event.reason
                self.report(
                    "benched", at=at, key=event.target, source=event.source, until=until, text=why
                )
            case TargetUnbenched():
                self.report(
                    "restored", at=at, key=event.target, source=event.source, text=event.reason
                )
            case _:
                pass

    def ask(self) -> None:
        """Make one call, and report which target answered it; None if it failed."""
        with Trace() as trace:
            try:
                self._ask(_PROMPT)
                served_by = trace.served_by
            except ResilientLLMError:
                served_by = None
        self.report("answered", served_by=served_by)

    def run(self) -> None:
        """Execute the commands until the input ends."""
        observe(self.on_event, AttemptFailed, TargetBenched, TargetUnbenched)
        connected = store_status(wait=CONNECT_WITHIN).connected
        self.report("ready", connected=connected)
        for line in sys.stdin:
            if line.strip() == "ask":
                self.ask()


def main() -> None:
    """Run one worker."""
    # Ctrl-C is sent to every process of a terminal; this one ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name, store, ports = sys.argv[1:]
    configure(**settings(store, name))
    Worker(json.loads(ports)).run()


if __name__ == "__main__":
    main()
