"""Print what a healthy call costs while metrics are exported, beside the same written by hand.

    python benchmarks/metrics.py            the table
    python benchmarks/metrics.py --quick    a smoke test of the same

Each row is the ratio to an empty wrapper, measured in turns with it in the same run, beside the
most that it may be; `_timing.py` says how it is measured. By hand means a counter of calls, a
counter of attempts and a histogram of prometheus_client around the plain call. The rows of its
multiprocess mode come from a process of their own, since a variable of the environment chooses it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from _timing import Function, Timer, async_timer, compare, empty, empty_async, sync_timer
from configurations import row
from healthy import FULL, QUICK, first, first_async, plain, plain_async

from resilient_llm.testing import isolated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _timing import Effort

LIMIT, LIMIT_ASYNC = 6.0, 4.0


@contextlib.contextmanager
def exported() -> Iterator[None]:
    """Have an exporter for Prometheus count."""
    from prometheus_client import CollectorRegistry

    from resilient_llm.observers import prometheus

    with isolated():
        prometheus.install(CollectorRegistry())
        yield


def by_hand() -> tuple[Function, Function]:
    """Return a plain call and its asynchronous twin, counted with prometheus_client by hand."""
    from prometheus_client import CollectorRegistry, Counter, Histogram

    registry = CollectorRegistry()
    calls = Counter("calls", "", ["function", "outcome"], registry=registry)
    attempts = Counter("attempts", "", ["target", "outcome"], registry=registry)
    seconds = Histogram("seconds", "", ["target"], registry=registry)
    # Whoever counts by hand for speed keeps the children.
    calls_ok = calls.labels("ask", "ok")
    attempts_ok = attempts.labels("groq/llama", "ok")
    seconds_of = seconds.labels("groq/llama")
    clock = time.monotonic

    def ask(prompt: str) -> str:
        began = clock()
        answer = prompt
        seconds_of.observe(clock() - began)
        attempts_ok.inc()
        calls_ok.inc()
        return answer

    async def ask_async(prompt: str) -> str:
        return ask(prompt)

    return empty(ask), empty_async(ask_async)


def rows(effort: Effort, mode: str) -> None:
    """Print the rows of the present mode of prometheus_client."""
    hand, hand_async = by_hand()
    with exported():
        subject: dict[str, Timer] = {"ours": sync_timer(first()), "hand": sync_timer(hand)}
        ratios = compare(sync_timer(plain), subject, effort)
        subject = {"ours": async_timer(first_async()), "hand": async_timer(hand_async)}
        ratios_async = compare(async_timer(plain_async), subject, effort)
    print(row(f"Prometheus{mode}", ratios["ours"], LIMIT))
    print(row(f"  prometheus_client by hand{mode}", ratios["hand"], float("inf")))
    print(row(f"Prometheus, async{mode}", ratios_async["ours"], LIMIT_ASYNC))
    print(row(f"  prometheus_client by hand, async{mode}", ratios_async["hand"], float("inf")))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean little")
    parser.add_argument("--in-files", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    if options.in_files:
        rows(effort, ", multiprocess")
        return
    print(f"CPython {platform.python_version()} on {platform.machine()}, {platform.system()}")
    print(
        f"{'exported':52} {'ratio':>6} {'quartiles':>15} {'at most':>8} {'baseline':>10}",
        flush=True,
    )
    rows(effort, "")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as directory:
        command: list[Any] = [sys.executable, __file__, "--in-files", *sys.argv[1:]]
        subprocess.run(
            command, check=True, env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": directory}
        )


if __name__ == "__main__":
    main()
