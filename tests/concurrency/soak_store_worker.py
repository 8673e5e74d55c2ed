"""One process of the soak of a store: what it does, and what it says of that.

    python tests/concurrency/soak_store_worker.py threads sqlite:////tmp/app.db 1 100

It calls fake providers, some of them under a budget, benches keys by hand and ends that, until its
standard input says ``end``. Each fact is a line of JSON on its standard output. What it is about to
do by hand it says before, and a paid call when it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from resilient_llm._values.settings import BreakerOptions

if __package__ in (None, ""):  # run as a file: the package beside this directory is meant
    sys.path.insert(0, str(Path(__file__).parents[2]))

from resilient_llm import (
    Budget,
    ResilientLLMError,
    Target,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    list_benched,
    spend,
    store_status,
    unbench_model,
)

CHAIN: Final = ("storm1/a", "storm2/b", "calm/c")
"""Targets whose circuits open and recover all the time, and one that always answers."""
PAID: Final = "paid/a"
"""The target that a budget is for; nothing else is called there."""
KINDS: Final = ("threads", "asyncio", "prefork")
POLL: Final = 0.1
SAYS_EVERY: Final = 0.25
"""Seconds between two reports of a process."""
LATENCY: Final = 0.01
"""Seconds that a provider takes for an answer."""
MOST_BY_HAND: Final = 4
"""Benches by hand that one process keeps."""
SLOWEST_CALL: Final = 5.0
"""Seconds that a call may take on a busy machine. It waits for a place at most three times."""

MOST_PAID: Final = 0.6
"""Seconds between two paid calls of a process, at most."""

BREAKERS: Final[dict[str, BreakerOptions | None]] = {
    "*": {"failures": 3, "min_calls": 5, "window": 2.0, "cooldown": 0.3, "max_cooldown": 1.0}
}


def budget(cap: int) -> Budget:
    """Return what caps the paid calls of all processes, in a day that does not end soon."""
    zone = "UTC" if 1 <= datetime.now(UTC).hour < 22 else "Asia/Tokyo"
    return Budget(calls=cap, per="day", zone=zone, of=PAID, name="soak")


class ServiceUnavailableError(Exception):
    """What a client of a provider raises when that answers 503."""

    status_code = 503


class Worker:
    """What one process does, and what it says of that, a line of JSON each."""

    def __init__(self, kind: str, url: str, seed: int, cap: int) -> None:
        self.kind = kind
        self.url = url
        self.seed = seed
        self.cap = cap
        self.is_settled = False
        self.is_quiet = False
        self.is_over = threading.Event()

    def configure(self) -> None:
        """Share the store; no connection and no thread yet."""
        configure(
            state=self.url,
            state_options={"poll": POLL},
            breakers=BREAKERS,
            max_wait=1.0,
            logging=False,
            budgets=[budget(self.cap)],
            on_store_down="refuse",
        )

    def begin(self) -> None:
        """Make everything that belongs to this process alone."""
        self._lock = threading.Lock()
        self._by_hand: list[str] = []
        self._count = 0
        self._slowest = 0.0
        self._calls = 0
        self._name = f"{self.kind}-{os.getpid()}"
        self._rng = random.Random(f"{self.seed}:{self._name}")
        logging.getLogger("resilient_llm").addHandler(Complaints(self))
        threading.excepthook = lambda args: self.say(wrong=f"a thread died of {args.exc_value!r}")
        sys.unraisablehook = lambda args: self.say(wrong=f"lost: {args.exc_value!r}")
        self.say(pid=os.getpid())

    def say(self, **facts: Any) -> None:
        """Say something at once, so that it is said even if the process is killed next."""
        with self._lock:
            os.write(1, json.dumps(facts).encode() + b"\n")

    def run(self) -> None:
        """Play all parts of this process until it is told to end."""
        self.begin()
        parts = [self.listen, self.use_hands, self.report]
        if self.kind == "asyncio":
            parts.append(lambda: asyncio.run(self.call_in_tasks()))
        else:
            parts += [self.call] * (3 if self.kind == "threads" else 1)
            parts.append(self.spend)
        threads = [threading.Thread(target=part, daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        self.is_over.wait()
        for thread in threads[1:]:
            thread.join(10.0)
            if thread.is_alive():
                self.say(wrong="a thread did not end")

    # Calls.

    def serve(self, target: Target) -> None:
        """Do what a provider does; its weather is the same for all processes."""
        key = target.key
        phase = int(time.time() / 0.7)
        is_failing = random.Random(f"{self.seed}:{key}:{phase}").random() < 0.4
        if is_failing and key.startswith("storm") and not self.is_settled:
            raise ServiceUnavailableError

    def call(self) -> None:
        """Call the providers until it is quiet."""

        @failover(chain=CHAIN, attempts=1)
        def ask(target: Target) -> int:
            self.serve(target)
            time.sleep(LATENCY)
            return 1

        while not self.is_quiet:
            began = time.monotonic()
            with contextlib.suppress(ResilientLLMError, ServiceUnavailableError):
                ask()
            self.called(began)

    async def call_in_tasks(self) -> None:
        """Call the providers in some tasks of one loop."""

        @failover(chain=CHAIN, attempts=1)
        async def ask(target: Target) -> int:
            await asyncio.sleep(LATENCY)
            self.serve(target)
            return 1

        async def work() -> None:
            while not self.is_quiet:
                began = time.monotonic()
                with contextlib.suppress(ResilientLLMError, ServiceUnavailableError):
                    await ask()
                self.called(began)

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(work())
            group.create_task(self.spend_in_a_task())

    # Paid calls: each is said when it is sent.

    def spend(self) -> None:
        """Make paid calls, as far as the budget of all processes admits them."""

        @failover(chain=[PAID], attempts=1)
        def ask(target: Target) -> int:
            self.say(sent=1)
            time.sleep(LATENCY)
            return 1

        while not (self.is_settled or self.is_over.wait(self._rng.uniform(0.1, MOST_PAID))):
            began = time.monotonic()
            with contextlib.suppress(ResilientLLMError):
                ask()
            self.called(began)

    async def spend_in_a_task(self) -> None:
        """The same in a task."""

        @failover(chain=[PAID], attempts=1)
        async def ask(target: Target) -> int:
            self.say(sent=1)
            await asyncio.sleep(LATENCY)
            return 1

        while not self.is_settled:
            await asyncio.sleep(self._rng.uniform(0.1, MOST_PAID))
            began = time.monotonic()
            with contextlib.suppress(ResilientLLMError):
                await ask()
            self.called(began)

    def called(self, began: float) -> None:
        seconds = time.monotonic() - began
        self._calls += 1
        self._slowest = max(self._slowest, seconds)
        if seconds > SLOWEST_CALL:
            self.say(wrong=f"a call of {self._name} took {seconds:.1f} s")

    # What is done by hand.

    def use_hands(self) -> None:
        """Bench keys of its own and unbench them; each is benched once."""
        while not self.is_over.wait(self._rng.uniform(0.1, 0.5)):
            if self.is_settled:
                continue
            if len(self._by_hand) < MOST_BY_HAND and self._rng.random() < 0.7:
                self._count += 1
                key = f"hand/{self._name}-{self._count}"
                self._by_hand.append(key)
                self.say(benches=key)
                bench_model(key, reason="by hand", by=self._name)
            elif self._by_hand:
                key = self._by_hand.pop(self._rng.randrange(len(self._by_hand)))
                self.say(unbenches=key)
                unbench_model(key)

    # What it says and is told.

    def report(self) -> None:
        """Say what it knows, again and again."""
        while not self.is_over.wait(SAYS_EVERY):
            status = store_status()
            for key in CHAIN if self.is_settled else ():
                # The first that answers takes all calls, so the others would stay half-open.
                with contextlib.suppress(ResilientLLMError), breaker(key):
                    pass
            self.say(
                knows=by_hand(),
                closed=all(health(expected=CHAIN)[key].state == "closed" for key in CHAIN),
                pending=status.pending,
                connected=status.connected,
                calls=self._calls,
                slowest=self._slowest,
                booked=booked(),
                usage=usage(),
                has_settled=self.is_settled,
            )

    def listen(self) -> None:
        """Do what the controller says, a line each."""
        while line := read_line():
            self.is_settled = True
            self.is_quiet = self.is_quiet or line == "quiet"
            if line == "end":
                break
        self.is_quiet = True
        self.is_over.set()


class Complaints(logging.Handler):
    """Says what a thread of the library could not do."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.WARNING)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "failed with" in text or "can be started" in text:
            self._worker.say(wrong=f"the log has: {text}")


def read_line() -> str:
    """Return a line of the standard input; nothing is read ahead, which a fork would double."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


def by_hand() -> list[str]:
    """Return the keys that are benched by hand, as this process knows them."""
    return sorted(each.model for each in list_benched() if each.manual)


def booked() -> int:
    """Return the paid calls that are booked or in flight, as this process knows them."""
    return sum(int(each.spent + each.reserved) for each in spend())


def usage() -> dict[str, float]:
    """Return what this process uses."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # Path.iterdir would keep one open, too
        "memory kB": pages * os.sysconf("SC_PAGE_SIZE") / 1024,
    }


def work(kind: str, url: str, seed: int, cap: int) -> int:
    """Be one of the processes; a prefork server is configured before it forks."""
    worker = Worker(kind, url, seed, cap)
    worker.configure()
    if kind != "prefork":
        worker.run()
        return 0
    master = os.getpid()
    while True:
        child = os.fork()
        if not child:
            threading.Thread(target=end_with, args=(master,), daemon=True).start()
            worker.run()
            return 0
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return 0


def end_with(master: int) -> None:
    """End this child when the master is gone."""
    while os.getppid() == master:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(work(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
