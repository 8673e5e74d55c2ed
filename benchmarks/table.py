"""Print what this library costs, beside others that do a part of the same, as tables.

    python -m pip install -r benchmarks/requirements-peers.txt
    python benchmarks/table.py                      everything, some minutes
    python benchmarks/table.py --section healthy    one part of it
    python benchmarks/table.py --quick              a smoke test of the same
    python benchmarks/table.py --json figures.json  the figures as well

The tables are those that the documentation quotes, in the Markdown of GitHub. What a
library has no form for is a dash with the reason; a library that is not installed, or does
not guard when put to the proof, is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import healthy
import peers
import streams
from _timing import (
    FULL,
    QUICK,
    Effort,
    EmptyManager,
    Function,
    Ratio,
    Timer,
    answer,
    answer_async,
    async_stream_timer,
    async_timer,
    bytes_held,
    compare,
    counted_locks,
    empty,
    empty_async,
    empty_async_stream,
    empty_stream,
    fresh_timer,
    import_costs,
    is_installed,
    locks_taken,
    machine,
    memory_of,
    processor,
    statement_timer,
    stream_timer,
    sync_timer,
    threads_timer,
    turns_timer,
    words,
    words_async,
)
from failing import Unavailable, errors, failing_over
from peers import OURS, TIMEOUT, Block, Peer

from resilient_llm import breaker, classify, failover
from resilient_llm.testing import isolated

DASH = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
FIGURES = f"0123456789{DASH}"


@dataclass
class Table:
    """One table, its figures and what is said above it."""

    title: str
    text: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, cells: list[str], **figures: Any) -> None:
        """Add a row, and the same unrounded."""
        self.rows.append(cells)
        self.figures.append({"row": cells[0], **figures})

    def markdown(self) -> str:
        """Return it as text; columns after the first are aligned to the right where they hold figures."""
        right = [
            name not in ("library", "version", "remark")
            and all(row[index][:1] in FIGURES for row in self.rows)
            for index, name in enumerate(self.header)
        ]
        lines = [f"### {self.title}", "", self.text, "", f"| {' | '.join(self.header)} |"]
        lines.append("|" + "|".join("--:" if each else "---" for each in right) + "|")
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Missing:
    """A library that cannot be measured, and why."""

    name: str
    why: str


Library = Peer | Missing
Section = Callable[[Effort, Mapping[str, Library]], Iterator[Table]]


def libraries(*, prove: bool = True) -> dict[str, Library]:
    """Return every library by name, or why it is not measured.

    Args:
        prove: Whether each must show that it guards.
    """
    found: dict[str, Library] = {}
    for name, make in peers.PEERS.items():
        try:
            peer = make()
        except ImportError as error:
            found[name] = Missing(name.partition(",")[0], f"not installed ({error})")
            continue
        with isolated():
            flaws = peers.flaws(peer) if prove else []
        found[name] = (
            Missing(peer.name, f"left out, since it does not guard: {'; '.join(flaws)}")
            if flaws
            else peer
        )
    return found


# The parts of a row.


def per_call(seconds: float) -> str:
    """Return a time with its unit, at three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def times(ratio: float) -> str:
    """Return a ratio at about three digits."""
    return f"{ratio:.2f}" if ratio < 20 else f"{ratio:.0f}"


def cells_of(ratio: Ratio) -> list[str]:
    """Return median, quartiles and the call's own cost."""
    return [
        f"{times(ratio.median)} {TIMES}",
        f"{times(ratio.low)}{DASH}{times(ratio.high)}",
        per_call(ratio.seconds),
    ]


def label(peer: Peer) -> list[str]:
    """Return the cells that begin the row of a library."""
    return [peer.name, peer.version, peer.does]


def ratios(
    table: Table,
    form: str,
    baseline: Timer,
    timer_of: Callable[[Any], Timer],
    effort: Effort,
    found: Mapping[str, Library],
    also: Mapping[str, Timer] | None = None,
) -> Table:
    """Fill a table with the ratios of every library that has a form of something.

    Args:
        table: To fill; its columns are those of `HEADER`.
        form: The field of `Peer` that holds it.
        baseline: What all are compared with.
        timer_of: Makes a timer of what the field holds.
        effort: How much work it is worth.
        found: The libraries.
        also: ``{remark: timer}`` of further rows of ours, which come first.
    """
    also = also or {}
    forms = {name: getattr(each, form) for name, each in found.items() if isinstance(each, Peer)}
    timers = {name: timer_of(each) for name, each in forms.items() if each is not None}
    measured = compare(baseline, {**also, **timers}, effort)
    table.text += f" Baseline: {per_call(next(iter(measured.values())).baseline)}."
    for remark in also:
        _row(table, found[OURS], measured[remark], remark)
    for name, each in found.items():
        _row(
            table,
            each,
            measured.get(name),
            each.remarks.get(form, "") if isinstance(each, Peer) else each.why,
        )
    return table


def _row(table: Table, library: Library, ratio: Ratio | None, remark: str) -> None:
    """Add the row of one library, unless it has nothing to do with what is measured."""
    if isinstance(library, Missing):
        table.add([library.name, *[DASH] * 5, remark], remark=remark)
    elif ratio is not None:
        table.add(
            [*label(library), *cells_of(ratio), remark],
            version=library.version,
            remark=remark,
            **asdict(ratio),
        )
    elif remark:
        table.add([*label(library), *[DASH] * 3, remark], version=library.version, remark=remark)


HEADER = ["library", "version", "guards by", "ratio", "quartiles", "per call", "remark"]


# The sections.


def limits(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """Ours alone, against what it must hold."""
    table = Table(
        "Against the limits",
        "Each row is a ratio to its own baseline; a closure is an empty one of `functools.wraps`. "
        'The limit is what the design asks for; a row above it says "exceeded".',
        ["work", "baseline", "ratio", "quartiles", "limit", "per call"],
    )
    names = [
        ("`@failover`, sync, target first", "closure"),
        ("`@failover`, sync, target by name", "closure"),
        ("`@failover`, sync, with `timeout=`", "closure"),
        ("`@failover`, async", "async closure"),
        ("`@failover`, async, with `timeout=`", "plain call in `anyio.fail_after`"),
        ('`with breaker("groq")`', "empty context manager from a dict"),
        ("a benched target skipped, the next called", "our healthy call"),
    ]
    rows: list[tuple[str, str, Timer, Timer, float | None]] = [
        (what, beside, baseline, subject, limit)
        for (what, beside), (_, baseline, subject, limit) in zip(names, healthy.rows(), strict=True)
    ]
    closure = sync_timer(healthy.plain)
    for kind, error in errors().items():
        call = failing_over(error)
        rows.append(
            (
                f"{kind}, classified, and the next target called",
                "closure",
                closure,
                sync_timer(call),
                85.0,
            )
        )
    raised = sync_timer(_raised)
    for kind, error in errors().items():
        rows.append(
            (
                f"a verdict on {kind}",
                "an exception raised and caught",
                raised,
                sync_timer(_judged(error())),
                20.0,
            )
        )
    apart = "10 ms between calls, so each is timed"
    rows.append(
        (
            f"`@failover`, sync, target first; {apart}",
            "closure",
            closure,
            _apart(sync_timer(healthy.first())),
            None,
        )
    )
    rows.append(
        (
            f'`with breaker("groq")`; {apart}',
            "empty context manager from a dict",
            healthy.empty_with(),
            _apart(healthy.breaker_with()),
            None,
        )
    )
    by_hand = peers.by_hand(peers.fail, Unavailable, answer)
    rows.append(
        (
            "the same by hand: `try`, `except`, call the next",
            "closure",
            closure,
            sync_timer(by_hand),
            None,
        )
    )
    for what, beside, baseline, subject, limit in rows:
        _held(table, what, f"{beside}, ", compare(baseline, {what: subject}, effort)[what], limit)
    yield table


def _held(table: Table, what: str, beside: str, ratio: Ratio, limit: float | None) -> None:
    """Add a row of ours, with its baseline and its limit."""
    middle, spread, cost = cells_of(ratio)
    allowed = DASH if limit is None else f"{limit:g} {TIMES}"
    if limit is not None and ratio.median > limit:
        allowed += ", exceeded"
    cells = [what, f"{beside}{per_call(ratio.baseline)}", middle, spread, allowed, cost]
    table.add(cells, limit=limit, **asdict(ratio))


def _raised(prompt: str) -> str:
    """Raise and catch an exception that is made anew."""
    try:
        raise Unavailable
    except Unavailable:
        return prompt


def _judged(error: Exception) -> Function:
    """Return a function that asks for the verdict on an error of a class that was seen before."""

    def judge(prompt: str) -> str:
        classify(error)
        return prompt

    return judge


def _apart(timer: Timer) -> Timer:
    """Time the same by a clock that moves 10 ms from call to call."""

    def run(times: int) -> float:
        # In a state of its own: the next clock begins in the present again, and what this one
        # has left behind would lie in its future.
        with isolated(), healthy.moving_clock(0.01):
            timer(100)
            return timer(times)

    return run


def calls(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """A decorated function whose provider answers."""
    yield ratios(
        Table(
            "A healthy call, sync", "In multiples of an empty closure of `functools.wraps`.", HEADER
        ),
        "sync",
        sync_timer(empty(answer)),
        lambda guard: sync_timer(guard(answer)),
        effort,
        found,
        {"target as first parameter": sync_timer(healthy.first())},
    )
    yield ratios(
        Table(
            "A healthy call, async",
            "In multiples of an empty async closure of `functools.wraps`.",
            HEADER,
        ),
        "asynchronous",
        async_timer(empty_async(answer_async)),
        lambda guard: async_timer(guard(answer_async)),
        effort,
        found,
        {"target as first parameter": async_timer(healthy.first_async())},
    )


def timeouts(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """The same under a deadline that is not reached."""
    yield ratios(
        Table(
            "With a deadline, sync",
            "In multiples of an empty closure. Where a thread is used, its time counts.",
            HEADER,
        ),
        "timed",
        sync_timer(empty(answer)),
        lambda timed: sync_timer(timed(TIMEOUT)(answer)),
        effort,
        found,
    )
    yield ratios(
        Table(
            "With a deadline, async",
            "In multiples of the plain call inside `anyio.fail_after`.",
            HEADER,
        ),
        "async_timed",
        healthy.timed(healthy.plain_in_time),
        lambda timed: healthy.timed(timed(TIMEOUT)(answer_async)),
        effort,
        found,
    )


def blocks(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """A block of code under a guard."""

    def timer(block: Block, *, is_async: bool = False) -> Timer:
        return statement_timer(block.around("pass"), block.names, is_async=is_async)

    managers = {"managers": {"groq": EmptyManager()}}
    what = "In multiples of an empty reusable context manager taken from a dict."
    yield ratios(
        Table("`with`", what, HEADER),
        "block",
        timer(Block("with managers['groq']:", managers)),
        lambda make: timer(make()),
        effort,
        found,
    )
    yield ratios(
        Table("`async with`", what, HEADER),
        "async_block",
        timer(Block("async with managers['groq']:", managers), is_async=True),
        lambda make: timer(make(), is_async=True),
        effort,
        found,
    )
    yield ratios(
        Table("The loop", "In multiples of a loop over one empty context manager.", HEADER),
        "loop",
        timer(Block("for attempt in once:\n    with attempt:", {"once": (EmptyManager(),)})),
        lambda make: timer(make()),
        effort,
        found,
    )


def failures(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """Calls whose first attempt fails, or is not made."""
    closure = sync_timer(empty(answer))
    yield ratios(
        Table(
            "One failure, then an answer, sync",
            "Retried at once, without a wait, in multiples of an empty closure that does not fail.",
            HEADER,
        ),
        "retry",
        closure,
        # Every other call of the provider fails, so each call of the guard makes two.
        lambda guard: sync_timer(guard(peers.every_other())),
        effort,
        found,
    )
    yield ratios(
        Table(
            "One failure, then an answer, async",
            "As above, in multiples of an empty async closure.",
            HEADER,
        ),
        "async_retry",
        async_timer(empty_async(answer_async)),
        lambda guard: async_timer(guard(peers.every_other_async())),
        effort,
        found,
    )
    yield ratios(
        Table(
            "One failure, then the next provider",
            "Each provider under a guard that counts, in multiples of an empty closure that does not fail.",
            HEADER,
        ),
        "fallback",
        closure,
        lambda chain: sync_timer(chain(peers.fail, answer)),
        effort,
        found,
    )
    yield ratios(
        Table(
            "An open circuit skipped, the next provider called",
            "In multiples of an empty closure.",
            HEADER,
        ),
        "skip",
        closure,
        lambda chain: sync_timer(chain(peers.fail, answer)),
        effort,
        found,
    )


def items(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """What an item of a stream costs after the first, and what a stream keeps."""
    table = Table(
        "An item of a stream",
        "After the first content, in multiples of the same source given on by an empty generator, `for item in source: "
        "yield item`. If not noted otherwise, it is `@failover` with default settings.",
        ["work", "baseline", "ratio", "quartiles", "limit", "per item"],
    )
    whole = Table(
        "A whole stream",
        f"From the call to the end of {streams.WHOLE} chunks of openai's: what opening, the first content and the end "
        "cost, in multiples of an empty generator around the same.",
        ["work", "baseline", "ratio", "quartiles", "limit", "per stream"],
    )
    for rows, into in ((streams.rows(), table), (streams.wholes(), whole)):
        for row in rows:
            _held(
                into,
                row.what,
                "",
                compare(row.baseline, {row.what: row.subject}, effort)[row.what],
                row.limit,
            )
        yield into
    header = ["per item" if name == "per call" else name for name in HEADER]
    yield ratios(
        Table(
            "Streams of others, sync",
            "As above: a generator function, after its first item.",
            header,
        ),
        "stream",
        stream_timer(empty_stream(words)),
        lambda guard: stream_timer(guard(words)),
        effort,
        found,
    )
    yield ratios(
        Table("Streams of others, async", "As above: an asynchronous generator function.", header),
        "async_stream",
        async_stream_timer(empty_async_stream(words_async)),
        lambda guard: async_stream_timer(guard(words_async)),
        effort,
        found,
    )
    numbers = [min(1_000, effort.most), effort.most]
    kept = Table(
        "Memory of a stream",
        "Bytes that a stream needs at most between its 100th item and its end, by `tracemalloc`; each item is a string "
        "of its own of 100 characters.",
        ["work", *[f"{number:,} items" for number in numbers]],
    )
    for what, call in streams.streams_held().items():
        peaks = [streams.peak_of_stream(call, number) for number in numbers]
        kept.add([what, *[f"{peak:,}" for peak in peaks]], peaks=peaks)
    yield kept


def threads(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """One guard in many threads, by the wall."""
    numbers = (1, 8, 64)
    shorter = replace(
        effort,
        slices=max(2, effort.slices // 4),
        slice_seconds=effort.slice_seconds * (1 if effort.is_quick else 8),
    )

    def waiting(prompt: str, *, model: str | None = None) -> str:
        time.sleep(0.001)
        return prompt

    table = Table(
        "Threads",
        "One guarded function called by so many threads, in multiples of an empty closure called by as many, by the "
        "wall. At once: the provider answers at once, so all wait for the interpreter. 1 ms: it waits for 1 ms, so "
        "that a lock that is held across the call shows.",
        [
            "library",
            "version",
            "guards by",
            *[f"at once, {number}" for number in numbers],
            "1 ms, 8",
            "1 ms, 64",
        ],
    )
    settings = [(answer, number) for number in numbers] + [(waiting, 8), (waiting, 64)]
    guards = {
        name: each.sync for name, each in found.items() if isinstance(each, Peer) and each.sync
    }
    columns: list[dict[str, Ratio]] = []
    for provider, number in settings:
        guarded = {name: threads_timer(guard(provider), number) for name, guard in guards.items()}
        columns.append(compare(threads_timer(empty(provider), number), guarded, shorter))
    for name in guards:
        peer = found[name]
        assert isinstance(peer, Peer)
        cells = [f"{times(column[name].median)} {TIMES}" for column in columns]
        table.add([*label(peer), *cells], ratios=[asdict(column[name]) for column in columns])
    yield table


def keys(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """One key, and very many."""
    many = min(10_000, effort.most)
    table = Table(
        "Keys",
        f"A healthy call of one guarded function, and of {many:,} with a circuit each, called in turn, in multiples "
        f"of one and of {many:,} empty closures. Bytes are those of a guarded function with its circuit.",
        ["library", "version", "guards by", "1 key", f"{many:,} keys", "growth", "bytes per key"],
    )
    guards = {
        name: each.copies or each.sync
        for name, each in found.items()
        if isinstance(each, Peer) and each.sync and "breaker" in each.does
    }
    few = compare(
        sync_timer(empty(answer)),
        {n: sync_timer(guard(answer)) for n, guard in guards.items()},
        effort,
    )
    longer = replace(
        effort, slice_seconds=effort.slice_seconds * 2, slices=max(2, effort.slices // 2)
    )
    empties = [empty(answer) for _ in range(many)]
    for name, guard in guards.items():
        peer = found[name]
        assert isinstance(peer, Peer)
        functions = [guard(answer) for _ in range(many)]
        ratio = compare(turns_timer(empties), {name: turns_timer(functions)}, longer)[name]
        del functions
        held = bytes_held(lambda guard=guard: _called([guard(answer) for _ in range(many)])) / many
        growth = ratio.median / few[name].median
        cells = [
            f"{times(few[name].median)} {TIMES}",
            f"{times(ratio.median)} {TIMES}",
            f"{times(growth)} {TIMES}",
            f"{held:,.0f}",
        ]
        table.add(
            [*label(peer), *cells], one=asdict(few[name]), many=asdict(ratio), bytes_per_key=held
        )
    yield table
    yield _long_chain(effort, many)


def _called(functions: list[Function]) -> list[Function]:
    for call in functions:
        call("hi")
    return functions


def _long_chain(effort: Effort, many: int) -> Table:
    """Ours alone: what else may grow with the number of targets."""
    table = Table(
        "Our targets",
        "In multiples of an empty closure, and of an empty context manager out of a dict of as many, in turn.",
        ["work", "one", "many", "growth"],
    )

    def chained(number: int) -> Timer:
        return sync_timer(failover(chain=[f"groq/model{index}" for index in range(number)])(answer))

    def in_turn(names: list[str], lines: str, **values: Any) -> Timer:
        timer = statement_timer(
            f"for name in names:\n    {lines}\n        pass", {"names": names, **values}
        )

        def run(number: int) -> float:
            rounds = max(1, number // len(names))
            return timer(rounds) * number / (rounds * len(names))

        return run

    ratio = compare(sync_timer(empty(answer)), {"one": chained(1), "many": chained(many)}, effort)
    _growth(
        table, f"`@failover`, a chain of 1 and of {many:,} targets", ratio["one"], ratio["many"]
    )
    # Circuits that nobody else holds: half the number above which idle ones are dropped.
    half = many // 2
    names = [f"name{index}" for index in range(half)]
    managers = {name: EmptyManager() for name in names}
    ratios_of = [
        compare(
            in_turn(each, "with managers[name]:", managers=managers),
            {"guard": in_turn(each, "with breaker(name):", breaker=breaker)},
            effort,
        )["guard"]
        for each in (names[:1] * half, names)
    ]
    _growth(table, f"`with breaker(name)`, 1 and {half:,} names in turn", *ratios_of)
    return table


def _growth(table: Table, what: str, one: Ratio, many: Ratio) -> None:
    growth = many.median / one.median
    cells = [
        what,
        f"{times(one.median)} {TIMES}",
        f"{times(many.median)} {TIMES}",
        f"{times(growth)} {TIMES}",
    ]
    table.add(cells, one=asdict(one), many=asdict(many), growth=growth)


def window(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """Few calls in the window, and very many."""
    table = Table(
        "Calls in the window",
        f"A healthy call when the window holds 10 calls and when it holds {effort.most:,}, in multiples of an empty "
        "closure, timed a hundred calls at a time. Libraries that keep no window count failures in a row, and have "
        "nothing that could grow. Bytes are those of the guarded function, its circuit and its window.",
        [
            "library",
            "version",
            "window",
            "10 calls",
            f"{effort.most:,} calls",
            "growth",
            "bytes then",
            "bytes now",
        ],
    )
    short = replace(effort, slice_seconds=min(effort.slice_seconds, 0.000_5))
    baseline = sync_timer(empty(answer))
    for each in found.values():
        if isinstance(each, Missing) or each.window is None:
            continue
        make = partial(each.window(effort.most), answer)
        _called_often(make, 10)  # makes what all share
        held = [bytes_held(partial(_called_often, make, number)) for number in (10, effort.most)]
        full = _called_often(make, effort.most)
        ratio = compare(
            baseline, {"10": fresh_timer(make, 10), "full": sync_timer(full)}, short, most_times=100
        )
        growth = ratio["full"].median / ratio["10"].median
        cells = [
            f"{times(number)} {TIMES}"
            for number in (ratio["10"].median, ratio["full"].median, growth)
        ]
        table.add(
            [
                each.name,
                each.version,
                each.remarks["window"],
                *cells,
                *[f"{count:,}" for count in held],
            ],
            few=asdict(ratio["10"]),
            full=asdict(ratio["full"]),
            bytes_held=held,
        )
    yield table


def _called_often(make: Callable[[], Function], number: int) -> Function:
    call = make()
    for _ in range(number):
        call("hi")
    return call


def memory(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """What a healthy call allocates, keeps and locks."""
    number = 500 if effort.is_quick else 20_000
    table = Table(
        "Memory and locks of a healthy call, sync",
        "Kept: blocks that a call leaves behind, by `sys.getallocatedblocks` over many calls; it sees what stays, as a "
        "record per call would. Peak: bytes that one call needs while it runs, by `tracemalloc`; it sees what comes "
        "and goes, but not what CPython takes from its free lists and its stack of frames. Locks: locks of `threading` "
        "that belong to the guard and are taken in a call.",
        ["library", "version", "guards by", "blocks kept", "peak bytes", "locks taken"],
    )
    plain = memory_of(empty(answer), number)
    table.add(
        ["an empty closure", *[DASH] * 2, f"{plain.kept:.3f}", f"{plain.peak}", "0"],
        **asdict(plain),
    )
    for name, each in found.items():
        if isinstance(each, Missing) or each.sync is None:
            continue
        use = memory_of(each.sync(answer), number)
        with counted_locks(), isolated():
            fresh = peers.PEERS[name]().sync
            assert fresh is not None
            locks = locks_taken(fresh(answer), number) / number
        table.add(
            [*label(each), f"{use.kept:.3f}", f"{use.peak}", f"{locks:g}"],
            locks=locks,
            **asdict(use),
        )
    yield table


IMPORTS = {
    "`import resilient_llm`": "import resilient_llm",
    "`from resilient_llm import failover, breaker`": "from resilient_llm import failover, breaker",
    **{
        f"`import {module}`": f"import {module}"
        for module in (
            *(
                "tenacity",
                "stamina",
                "backoff",
                "pybreaker",
                "circuitbreaker",
                "aiobreaker",
                "purgatory",
            ),
            *("hyx.circuitbreaker", "pyresilience", "nopanic", "interlock"),
            *("wrapt", "anyio", "asyncio", "openai", "anthropic", "litellm"),
        )
    },
}


def imports(effort: Effort, found: Mapping[str, Library]) -> Iterator[Table]:
    """What an import costs."""
    table = Table(
        "Imports",
        "Processor time of a fresh interpreter beyond a bare one, with compiled files in place.",
        ["statement", "ms", "quartiles"],
    )
    there = {
        what: code
        for what, code in IMPORTS.items()
        if is_installed(code.split()[1].partition(".")[0])
    }
    costs = import_costs(there, effort.imports)
    for what in IMPORTS:
        if what in costs:
            middle, low, high = costs[what]
            table.add(
                [what, f"{middle:.1f}", f"{low:.1f}{DASH}{high:.1f}"],
                milliseconds=middle,
                low=low,
                high=high,
            )
        else:
            table.add([what, DASH, "not installed"], missing="not installed")
    yield table


SECTIONS: dict[str, Section] = {
    "limits": limits,
    "calls": calls,
    "timeouts": timeouts,
    "blocks": blocks,
    "failures": failures,
    "streams": items,
    "threads": threads,
    "keys": keys,
    "window": window,
    "memory": memory,
    "imports": imports,
}


def about(command: str) -> dict[str, str]:
    """Return where and how the figures were made."""
    return {
        "machine": machine(),
        "processor": processor(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean little")
    parser.add_argument(
        "--section", action="append", choices=SECTIONS, help="only this one; may be repeated"
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the figures to a file as well"
    )
    options = parser.parse_args()
    # What a library warns of or logs is not what is measured, and would be in the table.
    warnings.simplefilter("ignore")
    logging.getLogger("resilient_llm").addHandler(logging.NullHandler())
    effort = QUICK if options.quick else FULL
    facts = about(" ".join(["python", "benchmarks/table.py", *sys.argv[1:]]))
    print(
        "\n".join(
            f"- {name}: {f'`{fact}`' if name == 'command' else fact}"
            for name, fact in facts.items()
        )
    )
    found = libraries()
    sections: dict[str, list[dict[str, Any]]] = {}
    for name in options.section or SECTIONS:
        with isolated():
            for table in SECTIONS[name](effort, found):
                print(f"\n{table.markdown()}", end="", flush=True)
                sections.setdefault(name, []).append({"title": table.title, "rows": table.figures})
    if options.json is not None:
        options.json.write_text(
            json.dumps({"about": facts, "sections": sections}, indent=1, ensure_ascii=False)
        )


if __name__ == "__main__":
    main()
