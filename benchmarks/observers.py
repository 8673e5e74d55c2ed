"""Print how long the slowest call takes where many threads share an observer or a log handler.

    python benchmarks/observers.py            the table
    python benchmarks/observers.py --quick    a smoke test of the same

What is measured is the wall clock, since waiting is the subject. Every row has a baseline in the
same run: the same threads around an empty wrapper, or around an error and a log line written by
hand. A thread loses the processor to the others for some milliseconds in all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator

from _timing import empty

from resilient_llm import ChainExhaustedError, Target, failover, observe
from resilient_llm.testing import isolated

THREADS = 16
HANDLER_SECONDS = 0.005
"""What a log handler takes that writes to a busy pipe or a socket."""
CALL_SECONDS = 0.01
"""What a provider takes to refuse, during an outage."""

Call = Callable[[], object]


@empty
def plain() -> str:
    return "answer"


def seconds_of_calls(call: Call, calls: int) -> list[float]:
    """Return the seconds of each call of all threads, shortest first."""
    seconds: list[float] = []
    start = threading.Barrier(THREADS)

    def work() -> None:
        mine: list[float] = []
        start.wait()
        for _ in range(calls):
            began = time.perf_counter()
            call()
            mine.append(time.perf_counter() - began)
        seconds.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(seconds)


class SlowHandler(logging.Handler):
    """Takes its time for each record, as one does that writes to a socket."""

    def emit(self, record: logging.LogRecord) -> None:
        time.sleep(HANDLER_SECONDS)


@contextlib.contextmanager
def slow_log(name: str) -> Iterator[logging.Logger]:
    """Give a logger a slow handler."""
    logger, handler = logging.getLogger(name), SlowHandler()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def observed() -> Call:
    """Return a healthy call; an observer of all events listens."""

    @failover(chain=["groq/llama-3.3-70b"])
    def ask(target: Target) -> str:
        return "answer"

    observe(lambda event: None)
    return ask


def refused() -> Call:
    """Return a call that fails, and whose failure the default observer logs."""

    @failover(chain=["groq/llama-3.3-70b"], attempts=1)
    def ask(target: Target) -> None:
        time.sleep(CALL_SECONDS)
        raise ConnectionRefusedError

    def call() -> None:
        with contextlib.suppress(ChainExhaustedError):
            ask()

    return call


def refused_by_hand(logger: logging.Logger) -> Call:
    """Return the same without this library: an error, and one line for it."""

    def call() -> None:
        time.sleep(CALL_SECONDS)
        logger.warning("the provider refuses")

    return call


def row(name: str, seconds: list[float]) -> str:
    """Return one line of the table."""
    figures = (statistics.median(seconds), seconds[len(seconds) * 99 // 100], seconds[-1])
    return f"| {name} | " + " | ".join(f"{each * 1e3:.3g} ms" for each in figures) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    quick = parser.parse_args().quick
    calls, outage_calls = (20, 3) if quick else (2_000, 40)
    print(f"{THREADS} threads, Python {platform.python_version()}\n")
    print("| what each thread calls | median | 99 of 100 | slowest |")
    print("|---|--:|--:|--:|")
    # As long as the next row takes: shorter threads end before they meet.
    print(row("an empty wrapper", seconds_of_calls(plain, calls * 40)))
    with isolated():
        print(
            row("a healthy call, one observer of all events", seconds_of_calls(observed(), calls))
        )
    with slow_log("by_hand") as logger:
        by_hand = seconds_of_calls(refused_by_hand(logger), outage_calls)
    print(row("an error, and a log line by hand to a handler of 5 ms", by_hand))
    with isolated(), slow_log("resilient_llm"):
        ours = seconds_of_calls(refused(), outage_calls)
    print(row("an outage, the same handler at the default observer", ours))


if __name__ == "__main__":
    main()
