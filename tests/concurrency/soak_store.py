"""A soak of a store: processes that share it are killed, and it fares no better.

    python tests/concurrency/soak_store.py --store valkey --seconds 60 --seed 1

Six processes of three kinds (threads, asyncio, a forked child of a prefork server) call fake
providers, whose circuits open and recover, spend from one budget, and bench keys by hand. Three of
them are killed in turn, one each second, and others take their place; the other three live as long
as the soak. An operator, who lives as long, benches and unbenches, too. Meanwhile

* a Valkey server is killed and restarted, flushed and stopped, behind a proxy that drops, delays
  and truncates;
* a file of SQLite is copied, removed, and replaced by an old copy of itself.

Each process says what it is about to do before it does it, so the account of a process that was
killed is complete. Once it is quiet

* every bench by hand that a living process knew is in force in each of them, and none that was
  ended is: not even for a moment;
* the paid calls that were sent are within the cap, and what was in flight at the kills and what
  no living process had seen when the store lost its data;
* each process has booked the same, and no paid call of a living process is missing;
* every circuit has recovered, and nothing waits to be sent;
* threads, file descriptors and memory were flat in the second half;
* the database was whole after each kill, and each copy of it.

A violation is one sentence; any of them makes the exit code 1. No test module: it takes as long as
it is told to.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

if __package__ in (None, ""):  # run as a file: the package beside this directory is meant
    sys.path.insert(0, str(Path(__file__).parents[2]))

from resilient_llm import bench_model, configure, store_status, unbench_model
from resilient_llm.testing import isolated
from tests.concurrency import soak_store_worker
from tests.concurrency.soak_store_places import PLACES, Place
from tests.concurrency.soak_store_worker import (
    KINDS,
    MOST_BY_HAND,
    POLL,
    booked,
    budget,
    by_hand,
)

PATIENCE: Final = 30.0
"""Seconds in which all processes have to agree, once it is quiet, and to start."""
ALLOWED: Final[dict[str, float]] = {"threads": 2.0, "descriptors": 8.0, "memory kB": 6_000.0}
"""What the last quarter of a run may have more than the third."""
CAP_PER_SECOND: Final = 3.0
"""Paid calls that the budget admits, for each second of the soak; without it there would be ten."""
UNSEEN: Final = 2.0
"""Seconds of spending of a killed process that no other may have seen: a step of the store that is
under way, and those that wait until the store is tried again."""


class Process:
    """One of the six, as the controller sees it."""

    def __init__(self, soak: Soak, kind: str, *, is_mortal: bool) -> None:
        self.kind = kind
        self.is_mortal = is_mortal
        self.pid = 0
        self.latest: dict[str, Any] = {}
        self.usages: list[dict[str, float]] = []
        self.knows: set[str] = set()
        """Benches by hand that it has ever known."""
        self.paid: list[float] = []
        """When it has sent each of its paid calls."""
        self._soak = soak
        self._popen = subprocess.Popen(
            [
                *(sys.executable, str(soak_store_worker.__file__)),
                *(kind, soak.place.url, str(soak.seed), str(soak.cap)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "RESILIENT_LLM_STATE": ""},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            with contextlib.suppress(ValueError):  # cut off by a kill
                self._heard(json.loads(line))

    def _heard(self, facts: dict[str, Any]) -> None:
        soak = self._soak
        self.pid = facts.get("pid", self.pid)
        if "pid" in facts:
            # A child that was forked anew knows nothing of what the killed one knew.
            self.latest, self.knows, self.paid = {}, set(), []
        if "sent" in facts:
            soak.sent += 1
            self.paid.append(time.monotonic())
        if "wrong" in facts:
            soak.wrong(f"{self.kind}: {facts['wrong']}")
        if "benches" in facts:
            soak.said_benches.add(facts["benches"])
        if "unbenches" in facts:
            soak.said_unbenches.add(facts["unbenches"])
        if "knows" in facts:
            soak.calls[self.pid] = facts["calls"]
            soak.slowest = max(soak.slowest, facts["slowest"])
            self.latest = facts
            self.knows.update(facts["knows"])
            self.usages.append(facts["usage"])

    def tell(self, line: str) -> None:
        """Tell it something."""
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):
            self._popen.stdin.write(line.encode() + b"\n")
            self._popen.stdin.flush()

    def kill(self) -> None:
        """Kill it in the midst of what it does; the master of a child only sometimes."""
        if self.kind == "prefork" and self.pid and self._soak.rng.random() < 0.7:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            return
        self._popen.kill()
        self.wait()

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def wait(self, seconds: float = 10.0) -> int | None:
        """Wait for its end; return its exit code, None if it did not end."""
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
            code = None
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):
            self._popen.stdin.close()
        self._reader.join(5.0)
        return code


class Soak:
    """All processes, the store, and what was said and seen of benches by hand."""

    def __init__(self, place: Place, seconds: float, seed: int, rng: random.Random) -> None:
        self.place = place
        self.seconds = seconds
        self.seed = seed
        self.cap = cap_of(seconds)
        self.rng = rng
        self.violations: list[str] = []
        self.deeds: Counter[str] = Counter()
        self.kills = 0
        self.sent = 0
        """Paid calls of all processes, ever."""
        self.unseen = 0
        """Those of killed processes that no other may have seen."""
        self.calls: dict[int, int] = {}
        self.slowest = 0.0
        self.said_benches: set[str] = set()
        self.said_unbenches: set[str] = set()
        self.seen: set[str] = set()
        """Benches by hand that the operator has ever known."""
        self.gone: set[str] = set()
        """Those that were ended, as the operator knows."""
        self._operators: list[str] = []
        self._is_over = threading.Event()
        self.processes = [
            Process(self, kind, is_mortal=is_mortal)
            for is_mortal in (True, False)
            for kind in KINDS
        ]

    def wrong(self, sentence: str) -> None:
        """Note a violation; the same sentence once."""
        if sentence not in self.violations:
            self.violations.append(sentence)

    # What happens while it lasts.

    def run(self) -> None:
        """Let everything happen at once for its time, then wait until it is quiet."""
        parts = [self.kill, self.harm, self.operate]
        threads = [threading.Thread(target=self._part, args=(part,)) for part in parts]
        self._wait_until_all_speak()
        for thread in threads:
            thread.start()
        time.sleep(self.seconds)
        self._is_over.set()
        for thread in threads:
            thread.join()
        self.place.heal()
        self.settle()

    def _wait_until_all_speak(self) -> None:
        until = time.monotonic() + PATIENCE
        while not all(each.latest for each in self.processes):
            if time.monotonic() > until:
                self.wrong(f"a process has not started within {PATIENCE:g} s")
                return
            time.sleep(0.05)

    def _part(self, part: Callable[[], None]) -> None:
        try:
            part()
        except Exception as error:
            self.wrong(f"the part {part.__name__!r} has ended: {error!r}")

    def kill(self) -> None:
        """Kill one of the mortal processes each second, and look at the database."""
        next_at = time.monotonic()
        while not self._is_over.wait(max(next_at - time.monotonic(), 0.0)):
            next_at = max(next_at + 1.0, time.monotonic())
            # One that has done nothing yet is no loss.
            ready = [n for n, each in enumerate(self.processes) if each.is_mortal and each.latest]
            if not ready:
                continue
            number = self.rng.choice(ready)
            before = self.processes[number]
            since = time.monotonic() - UNSEEN
            before.kill()
            self.kills += 1
            self.unseen += 1 + sum(sent_at > since for sent_at in before.paid)
            found = self.place.after_kill()
            if found != "ok":
                self.wrong(f"after a kill the database is not whole: {found}")
            if not before.is_alive:
                self.processes[number] = Process(self, before.kind, is_mortal=True)

    def harm(self) -> None:
        """Do things to the store."""
        deeds = self.place.deeds
        while not self._is_over.wait(self.rng.uniform(0.3, 2.0)):
            name = self.rng.choice(list(deeds))
            deeds[name]()
            self.deeds[name] += 1

    def operate(self) -> None:
        """Bench and unbench as an operator; look at what becomes of all benches by hand."""
        next_at = time.monotonic()
        while not self._is_over.wait(0.02):
            self.look()
            if time.monotonic() < next_at:
                continue
            next_at = time.monotonic() + self.rng.uniform(0.1, 0.6)
            left_over = sorted(self.seen - self.gone - self.said_unbenches - self._of_the_living())
            if len(self._operators) < MOST_BY_HAND and self.rng.random() < 0.6:
                key = f"operator/{len(self.said_benches)}"
                self._operators.append(key)
                self.said_benches.add(key)
                bench_model(key, reason="by hand", by="operator")
                self.seen.add(key)
            elif left_over:
                key = self.rng.choice(left_over)
                if key in self._operators:
                    self._operators.remove(key)
                self.said_unbenches.add(key)
                unbench_model(key, by="operator")

    def _of_the_living(self) -> set[str]:
        """Return benches that processes may still end themselves."""
        names = {f"hand/{each.kind}-{each.pid}-" for each in list(self.processes)}
        return {key for key in self.seen if key.rpartition("-")[0] + "-" in names}

    def look(self) -> None:
        """Look at benches by hand; what was ended must not come back, and the rest must stay."""
        said_unbenches = set(self.said_unbenches)  # before: who ends one says so first
        known = set(by_hand())
        self.seen |= known
        for key in sorted(known & self.gone):
            self.wrong(f"the bench of {key} was ended, and came back")
        gone = self.seen - known
        self.gone |= gone
        # What a process says may be read later than what it does is applied.
        self._unexplained = gone - said_unbenches

    # What must hold when it is quiet.

    def settle(self) -> None:
        """Wait until all processes agree."""
        for each in self.processes:
            each.tell("settle")
        until = time.monotonic() + PATIENCE
        while (differences := self._differences()) and time.monotonic() < until:
            self.look()
            time.sleep(0.1)
        for sentence in differences:
            self.wrong(f"{sentence}, {PATIENCE:g} s after everything was well")
        self.check_benches()
        self.check_spending()
        for each in self.processes:
            each.tell("end")
        for each in self.processes:
            code = each.wait()
            if code != 0:
                self.wrong(f"a process of kind {each.kind} ended with {code}")
        for each in self.processes:
            if not each.is_mortal:
                self.check_flatness(each)

    def _differences(self) -> list[str]:
        """Return in what processes differ from the operator."""
        known, spent, found = set(by_hand()), booked(), []
        for each in self.processes:
            name, latest = f"{each.kind}-{each.pid}", each.latest
            if not latest.get("has_settled"):
                found.append(f"{name} has not settled")
                continue
            if differing := sorted(known ^ set(latest["knows"])):
                found.append(f"{name} and the operator differ in the bench of {differing[0]}")
            if latest["booked"] != spent:
                found.append(f"{name} has booked {latest['booked']}, the operator {spent}")
            if not latest["closed"]:
                found.append(f"a circuit of {name} has not recovered")
            if latest["pending"] or not latest["connected"]:
                found.append(f"{name} has {latest['pending']} changes that it has not sent")
        if store_status().pending:
            found.append("the operator has changes that it has not sent")
        return found

    def check_benches(self) -> None:
        """Compare what was done by hand with what is in force."""
        self.look()
        for key in sorted(self._unexplained - self.said_unbenches):
            self.wrong(f"the bench of {key} was lost")
        known = set(by_hand())
        living: set[str] = set().union(*(each.knows for each in self.processes))
        for key in sorted((living - self.said_unbenches) - known):
            self.wrong(f"the bench of {key} was lost, though a living process knew it")
        for key in sorted(known & self.said_unbenches - self._of_the_killed()):
            self.wrong(f"the bench of {key} was ended, and is in force")
        for key in sorted(known - self.said_benches):
            self.wrong(f"{key} is benched, and nobody has done that")

    def check_spending(self) -> None:
        """Compare the paid calls that were sent with the cap, and with what is booked."""
        if self.sent > self.cap + self.unseen:
            self.wrong(
                f"{self.sent} paid calls were sent; the cap is {self.cap}, and no more than "
                f"{self.unseen} can have been lost with killed processes"
            )
        if booked() < self.sent - self.unseen:
            self.wrong(
                f"{booked()} paid calls are booked of {self.sent}; no more than {self.unseen} can "
                "have been lost with killed processes"
            )
        if booked() > self.sent + self.unseen:
            self.wrong(f"{booked()} paid calls are booked, and {self.sent} were sent")

    def _of_the_killed(self) -> set[str]:
        """Return benches of processes that may have been killed before they had ended them."""
        names = {f"hand/{each.kind}-{each.pid}-" for each in self.processes}
        return {
            key
            for key in self.said_unbenches - self.gone
            if key.startswith("hand/") and key.rpartition("-")[0] + "-" not in names
        }

    def check_flatness(self, process: Process) -> None:
        """Check that a process that lived as long as the soak has not grown."""
        for name, allowed in ALLOWED.items():
            third, last = quarters([each[name] for each in process.usages])
            if last > third + allowed:
                self.wrong(f"{name} of {process.kind} grew from {third:.0f} to {last:.0f}")

    def summary(self) -> list[str]:
        """Return what was done."""
        sent = {key for key in self.said_benches if key in self.seen}
        lines = [
            f"processes {len(self.calls)}, killed {self.kills}, calls {sum(self.calls.values())}, "
            f"slowest {self.slowest:.2f} s",
            f"benches by hand {len(self.said_benches)}, of which {len(sent)} came to the operator, "
            f"{len(self.said_unbenches)} ended; in force at the end {len(by_hand())}",
            f"paid calls {self.sent}, cap {self.cap}, booked {booked()}, "
            f"at most {self.unseen} unseen",
            "  ".join(f"{name}: {times}" for name, times in sorted(self.deeds.items())),
            f"{'living as long as the soak':28} {'figure':14} {'third quarter':>14} {'last':>8}",
        ]
        for each in self.processes:
            for name in ALLOWED if not each.is_mortal else ():
                third, last = quarters([usage[name] for usage in each.usages])
                lines.append(f"{each.kind:28} {name:14} {third:14.0f} {last:8.0f}")
        return lines


def cap_of(seconds: float) -> int:
    """Return the cap on paid calls of a soak that lasts so long."""
    return round(CAP_PER_SECOND * seconds)


def quarters(samples: list[float]) -> tuple[float, float]:
    """Return the medians of the third quarter and of the last one."""
    quarter = max(len(samples) // 4, 1)
    third, last = samples[2 * quarter : 3 * quarter], samples[3 * quarter :]
    return statistics.median(third or samples or [0]), statistics.median(last or samples or [0])


def soak(store: str, seconds: float, seed: int) -> list[str]:
    """Soak one store for so long; return what is wrong, one sentence each."""
    rng = random.Random(seed)
    place = PLACES[store](rng)
    try:
        configure(
            state=place.url,
            state_options={"poll": POLL},
            state_name="operator",
            logging=False,
            budgets=[budget(cap_of(seconds))],
        )
        store_status(wait=10.0)
        soak = Soak(place, seconds, seed, rng)
        soak.run()
        for line in soak.summary():
            say(line)
        if not (soak.kills and soak.deeds and soak.said_unbenches):
            soak.wrong("nothing was killed, harmed or ended by hand; this was no soak")
        configure(state=None)
        return soak.violations
    finally:
        place.close()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", choices=[*PLACES, "both"], default="both")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="how long each store is soaked (default: 30)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all that happens (default: 1)")
    given = parser.parse_args(arguments)
    violations: list[str] = []
    for store in PLACES if given.store == "both" else [given.store]:
        say(f"CPython {platform.python_version()}, {store}, seed {given.seed}, {given.seconds:g} s")
        with isolated():  # else what is benched goes on to the next store
            found = soak(store, given.seconds, given.seed)
        violations += [f"{store}: {sentence}" for sentence in found]
    for sentence in violations:
        say(f"WRONG: {sentence}")
    say(
        f"again: python tests/concurrency/soak_store.py --store {given.store} "
        f"--seconds {given.seconds:g} --seed {given.seed}"
    )
    say("all accounts agree" if not violations else f"{len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
