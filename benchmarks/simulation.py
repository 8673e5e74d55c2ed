"""Runs policies through faults of providers in virtual time, and writes table and picture.

    python benchmarks/simulation.py                 all of it, a few minutes of all processors
    python benchmarks/simulation.py --seeds 2       quickly, to look at it; writes nothing

Writes ``benchmarks/simulation.json``, the tables of ``docs/explanation/simulation.md`` and
``docs/img/simulation.svg``. Equal code gives equal files.
"""

from __future__ import annotations

import argparse
import json
import random
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from simulated_peers import ATTEMPT_TIMEOUT, CHAIN, PEERS, TIMEOUT
from simulation_page import RESULTS, TITLES, Results, table, write

from resilient_llm import failover
from resilient_llm.testing import Fault, Report, Weather, simulate
from resilient_llm.testing._simulation import run

RATE, SECONDS, SEEDS = 5.0, 600.0, 10
START = 120.0
LASTS = (120.0, 300.0)
"""Seconds that a fault lasts, at least and at most. Drawn for each seed: a fault of exactly three
minutes would end when the third cooldown of 60 s does, and the sixth of 30 s."""
ALL_DOWN = (45.0, 75.0)
"""The same for the outage of all targets."""

OURS: dict[str, dict[str, Any]] = {
    "resilient_llm, defaults": {},
    "resilient_llm, hedged": {"adaptive": True, "hedge": "p95"},
}
"""``{name in the table: options beside the timeouts}``"""
NAMES = (*OURS, *PEERS)


def weather(fault: str, seed: int) -> dict[str, Weather]:
    """Return the weather of the three targets."""
    luck = random.Random(f"{seed} fault")
    end, all_up = START + luck.uniform(*LASTS), START + luck.uniform(*ALL_DOWN)
    if fault == "all down":
        return {key: Weather(faults=Fault("outage", START, all_up)) for key in CHAIN}
    faults = {
        "outage": Fault("outage", START, end),
        "brown-out": Fault("slow", START, end, factor=10.0),
        "errors": Fault("errors", START, end, share=0.3),
        "rate limit": Fault("rate_limit", START, end, retry_after=20.0),
        "flapping": Fault("flapping", START, end, period=20.0),
        "hang": Fault("hang", START, end),
    }
    return {CHAIN[0]: Weather(faults=faults[fault]), CHAIN[1]: Weather(), CHAIN[2]: Weather()}


FAULTS = tuple(TITLES)

FIGURES = ("served", "p50", "p99", "attempts_per_call", "wasted", "to_leave", "to_return")


def report(name: str, fault: str, seed: int, *, seconds: float = SECONDS) -> Report:
    """Simulate one policy in one fault."""
    sky = weather(fault, seed)
    if name in OURS:
        policy = failover(CHAIN, timeout=TIMEOUT, attempt_timeout=ATTEMPT_TIMEOUT, **OURS[name])
        return simulate(policy, sky, rate=RATE, seconds=seconds, seed=seed)
    return run(PEERS[name], sky, rate=RATE, seconds=seconds, seed=seed)


def figures(name: str, fault: str, seed: int) -> dict[str, float | None]:
    """Return the figures of the table for one seed."""
    made = report(name, fault, seed)
    return {
        **{each: getattr(made, each) for each in FIGURES[:5]},
        "to_leave": made.seconds_to_leave[CHAIN[0]],
        "to_return": made.seconds_to_return[CHAIN[0]],
    }


def _figures(work: tuple[str, str, int]) -> dict[str, float | None]:
    return figures(*work)


def mean(values: list[float | None]) -> float | None:
    """Return the mean of the seeds in which there is a value."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if known else None


def measure(seeds: int) -> dict[str, Results]:
    """Return what was found: the mean of the seeds, and the first seed alone."""
    work = [(name, fault, seed) for fault in FAULTS for name in NAMES for seed in range(seeds)]
    with ProcessPoolExecutor() as pool:
        found = dict(zip(work, pool.map(_figures, work, chunksize=2), strict=True))

    def rows(seeds: int) -> Results:
        return {
            fault: {
                name: {
                    each: mean([found[name, fault, seed][each] for seed in range(seeds)])
                    for each in FIGURES
                }
                for name in NAMES
            }
            for fault in FAULTS
        }

    return {"mean": rows(seeds), "seed 0": rows(1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    results = measure(seeds)
    for fault, rows in results["mean"].items():
        print(f"\n{fault}\n\n{table(rows)}")
    if seeds == SEEDS:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        write(results["mean"])


if __name__ == "__main__":
    main()
