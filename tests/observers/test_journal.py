"""The journal: what it writes, what it does when it cannot, and what its calls pay for it."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    AttemptSucceeded,
    CallFailed,
    ChainExhaustedError,
    ConfigurationError,
    ObserverFailed,
    Target,
    TargetBenched,
    TargetUnbenched,
    bench_model,
    configure,
    failover,
    observe,
    unbench_model,
)
from resilient_llm.observers import Exporter, jsonl
from resilient_llm.testing import FakeClock, capture_events, fake_clock, http_error, isolated

PATIENCE = 40.0
ROOT = Path(__file__).parents[2]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def reasons(path: Path) -> list[str]:
    return [each["reason"] for each in read(path) if each["type"] == "TargetBenched"]


def bench(reason: object, key: str = "groq/llama") -> None:
    bench_model(key, 60, reason=str(reason))


@failover(chain=["groq/llama", "openai/gpt"])
def ask(target: Target) -> str:
    if target.provider == "groq":
        raise http_error(503)
    return "answer"


# What is written.


def test_a_line_has_the_fields_of_its_event(path: Path) -> None:
    """Type, moment as RFC 3339, pid, target and call first; then what the class has."""
    jsonl.install(path)
    with capture_events() as events:
        ask()
        bench("why", "openai/gpt")
    with isolated():
        pass
    jsonl.install(path.with_name("other"))()

    import resilient_llm.observers._exporter as module

    assert module.installed()[0].flush()
    lines = read(path)
    assert [type(event).__name__ for event in events] == [line["type"] for line in lines]
    for event, line in zip(events, lines, strict=True):
        assert list(line)[:5] == ["type", "at", "pid", "target", "call_id"]
        assert event.at == datetime.fromisoformat(line["at"])
        assert (os.getpid(), event.target, event.call_id) == (
            line["pid"],
            line["target"],
            line["call_id"],
        )
        assert set(line) == {"type", "pid", *event.__dataclass_fields__}
    failed = next(line for line in lines if line["type"] == "AttemptFailed")
    assert ("transient", 503, 1) == (failed["kind"], failed["status"], failed["number"])
    benched = [line for line in lines if line["type"] == "TargetBenched"][-1]
    assert "why" == benched["reason"]
    assert benched["until"].endswith("Z")


def test_only_the_named_types_are_written(path: Path) -> None:
    """Types of events as arguments, as for `observe`."""
    exporter = jsonl.install(path, TargetBenched, TargetUnbenched)
    bench("one", "cohere/command")
    unbench_model("cohere/command")
    bench_model("mistral/large")
    ask()

    assert exporter.flush()
    assert {"TargetBenched", "TargetUnbenched"} == {line["type"] for line in read(path)}


def test_a_reason_stays_on_its_line(path: Path) -> None:
    """Newlines, control characters, quotes and what is no text in any encoding are escaped."""
    reason = 'a\nb\r\u2028\x1b[31m"\\\x00é\ud800'
    exporter = jsonl.install(path, TargetBenched)
    bench(reason)

    exporter.flush()

    raw = path.read_bytes()
    assert 1 == raw.count(b"\n")
    assert raw.isascii()
    assert [reason] == reasons(path)


def test_the_file_is_private(path: Path) -> None:
    """Mode 0600 for what it makes; a file that exists keeps its mode."""
    jsonl.install(path)()
    assert 0o600 == path.stat().st_mode & 0o777
    path.chmod(0o640)
    jsonl.install(path)()
    assert 0o640 == path.stat().st_mode & 0o777


def test_the_thread_writes_without_a_flush(path: Path) -> None:
    """Soon after the event."""
    jsonl.install(path)
    bench("one")

    until = time.monotonic() + PATIENCE
    while not path.read_bytes() and time.monotonic() < until:
        time.sleep(0.001)

    assert ["one"] == reasons(path)


def test_a_flush_writes_under_the_fake_clock(clock: FakeClock, path: Path) -> None:
    """At once, in the caller."""
    exporter = jsonl.install(path)
    bench("one")

    assert exporter.flush()

    assert ["one"] == reasons(path)
    assert exporter.flush(0)
    with pytest.raises(ConfigurationError, match="timeout=-1"):
        exporter.flush(-1)


# Install and uninstall.


def test_calling_the_exporter_uninstalls_it(path: Path) -> None:
    """What waits is written before; a second call does nothing."""
    exporter = jsonl.install(path)
    assert isinstance(exporter, Exporter)
    bench("one")

    exporter()
    bench("two")
    exporter()

    assert ["one"] == reasons(path)
    assert exporter.is_over
    assert exporter.flush()
    assert "<Exporter journal, uninstalled, 0 dropped>" == repr(exporter)


def test_a_function_decorated_before_is_seen(path: Path) -> None:
    """Calls that start after install are written, whenever their function was decorated."""
    for _ in range(3):
        ask()
    exporter = jsonl.install(path, AttemptFailed, AttemptSucceeded)
    ask()
    exporter()
    ask()

    assert 1 == len({line["call_id"] for line in read(path)})


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("other", [False, True], ids=["alone", "with an observer"])
def test_a_call_that_runs_at_install_is_not_written(
    clock: FakeClock, path: Path, failing: bool, other: bool
) -> None:
    """None of what it does is, but what it does to targets; all of the next call is."""
    exporters: list[Exporter] = []

    @failover(chain=["groq/llama", "openai/gpt"])
    def slow(target: Target) -> str:
        if not exporters:
            exporters.append(jsonl.install(path))
        if failing and target.provider == "groq":
            raise http_error(503)
        return "answer"

    if other:
        observe(lambda event: None)
    slow()
    (exporter,) = exporters
    exporter.flush()
    assert {"TargetBenched", "HealthChanged"} >= {line["type"] for line in read(path)}

    slow()
    exporter.flush()
    assert 1 + failing == len({line["call_id"] for line in read(path) if line["call_id"]})


def test_a_call_that_runs_at_install_is_not_written_after_another(
    clock: FakeClock, path: Path
) -> None:
    """A later call of the same function is written, and it does not bring in the earlier one."""
    exporters: list[Exporter] = []

    @failover(chain=["openai/gpt"])
    def nested(target: Target, depth: int) -> int:
        if depth:
            exporters.append(jsonl.install(path))
            nested(0)
        return depth

    assert 1 == nested(1)
    exporters[0].flush()

    assert ["AttemptSucceeded"] == [line["type"] for line in read(path)]


def test_it_sees_only_the_state_it_was_installed_in(path: Path) -> None:
    """One of an isolated state ends with it; one outside sees nothing of it, and goes on."""
    outer = jsonl.install(path)
    with isolated():
        inner = jsonl.install(path.with_name("inner"))
        bench("inside")
    bench("outside")
    outer.flush()

    assert ["outside"] == reasons(path)
    assert inner.is_over
    assert ["inside"] == reasons(path.with_name("inner"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"max_bytes": 1.5}, "max_bytes=1.5"),
        ({"backups": -1}, "backups=-1"),
        ({"backups": None}, "backups=None"),
        ({"path": ""}, "path=''"),
        ({"path": "a\0b"}, "path="),
        ({"path": b"journal"}, "path=bytes"),
        ({"path": 3}, "path=int"),
        ({"path": "."}, "path=.* cannot be opened"),
        ({"path": "no/such/directory"}, r"cannot be opened \(No such file or directory\)"),
    ],
)
def test_a_wrong_option_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Where it is written, with what is allowed; nothing is installed then."""
    with pytest.raises(ConfigurationError, match=message):
        jsonl.install(**{"path": tmp_path / "journal", **options})
    with pytest.raises(ConfigurationError, match="is no type of event"):
        jsonl.install(tmp_path / "journal", "TargetBenched")  # type: ignore[arg-type]


def test_a_change_of_directory_leaves_the_journal_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is that of the time of the install."""
    monkeypatch.chdir(tmp_path)
    exporter = jsonl.install("journal", max_bytes=1)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    bench(1)
    exporter.flush()
    bench(2)
    exporter()

    assert [] == list((tmp_path / "sub").iterdir())


# More events than the thread can write.


def test_the_oldest_are_dropped_when_too_many_wait(path: Path) -> None:
    """10,000 wait; then the oldest give way and are counted."""
    exporter = jsonl.install(path, TargetBenched)
    background = exporter.background
    assert background is not None
    assert background.flush()
    background.is_woken = True  # nothing wakes the thread
    count = jsonl.MOST_WAITING + 25
    for number in range(count):
        bench(number)

    assert 10_000 == jsonl.MOST_WAITING
    assert 25 == exporter.dropped
    assert exporter.flush(PATIENCE)
    assert [str(number) for number in range(25, count)] == reasons(path)


def test_events_of_many_threads_are_all_written(path: Path) -> None:
    """With the smallest switch interval, while the thread works."""
    exporter = jsonl.install(path, AttemptSucceeded)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(number: int) -> None:
        @failover(chain=[f"provider{number}/model"])
        def quick(target: Target) -> str:
            return "answer"

        for _ in range(500):
            quick()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert exporter.flush(PATIENCE)

    lines = read(path)
    assert 2000 == len(lines) + exporter.dropped == len({line["call_id"] for line in lines})


def test_an_event_that_cannot_be_written_is_dropped_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no other with it."""
    exporter = jsonl.install(path, TargetBenched)
    line_of = jsonl.line_of

    def failing(event: Any) -> str:
        if event.reason == "bad":
            raise ValueError
        return line_of(event)

    monkeypatch.setattr(jsonl, "line_of", failing)
    for reason in ("one", "bad", "two"):
        bench(reason)

    assert exporter.flush()
    assert ["one", "two"] == reasons(path)
    assert 1 == exporter.dropped


# Files that fill up, move and fail.


def _all(path: Path) -> list[str]:
    """Return the reasons in all files, oldest first."""
    older = sorted(path.parent.glob(f"{path.name}.*"), key=lambda each: -int(each.suffix[1:]))
    return [reason for each in (*older, path) for reason in reasons(each)]


def test_a_full_file_is_rotated(path: Path) -> None:
    """`path.1` is the youngest; no file is larger, and the oldest is deleted."""
    exporter = jsonl.install(path, TargetBenched, max_bytes=1000, backups=3)
    for number in range(40):
        bench(number)
        if number % 3 == 0:
            exporter.flush()
    exporter.flush()

    files = sorted(each.name for each in path.parent.iterdir())
    assert ["journal.jsonl", *(f"journal.jsonl.{number}" for number in (1, 2, 3))] == files
    assert all(500 < each.stat().st_size <= 1000 for each in path.parent.iterdir() if each != path)
    kept = [int(reason) for reason in _all(path)]
    assert kept == list(range(kept[0], 40))
    assert 0 == exporter.dropped
    assert 0o600 == path.with_name("journal.jsonl.1").stat().st_mode & 0o777


def test_a_line_above_the_limit_has_a_file_of_its_own(path: Path) -> None:
    """Nothing is cut."""
    exporter = jsonl.install(path, TargetBenched, max_bytes=1, backups=2)
    for number in range(3):
        bench(number)
    exporter.flush()

    assert ["0", "1", "2"] == _all(path)


def test_without_backups_a_full_file_is_deleted(path: Path) -> None:
    """`backups=0`: only the present file."""
    exporter = jsonl.install(path, TargetBenched, max_bytes=1, backups=0)
    for number in range(3):
        bench(number)
    exporter.flush()

    assert ["journal.jsonl"] == [each.name for each in path.parent.iterdir()]
    assert ["2"] == reasons(path)


def test_a_file_that_somebody_moved_is_opened_anew(path: Path) -> None:
    """As logrotate does; also one that was deleted."""
    exporter = jsonl.install(path, TargetBenched)
    bench(1)
    exporter.flush()
    path.rename(path.with_name("moved"))
    bench(2)
    exporter.flush()
    assert ["1"] == reasons(path.with_name("moved"))
    assert ["2"] == reasons(path)
    path.unlink()
    bench(3)
    exporter.flush()

    assert ["3"] == reasons(path)
    assert 0o600 == path.stat().st_mode & 0o777
    assert 0 == exporter.dropped


def test_a_removed_directory_drops_and_counts(
    clock: FakeClock, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One log line, also with `logging=False`; when it is back, so is the journal."""
    configure(logging=False)
    directory = path.parent / "sub"
    directory.mkdir()
    exporter = jsonl.install(directory / "journal", TargetBenched)
    (directory / "journal").unlink()
    directory.rmdir()
    caplog.set_level(logging.DEBUG, "resilient_llm")

    for number in range(5):
        bench(number)
        assert not exporter.flush()

    assert 5 == exporter.dropped
    (record,) = caplog.records
    assert (logging.WARNING, True) == (record.levelno, "No such file" in record.getMessage())
    directory.mkdir()
    clock.advance(1.0)
    bench("back")
    assert exporter.flush()
    assert ["back"] == reasons(directory / "journal")
    assert 5 == exporter.dropped


def test_each_second_is_a_new_try(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread does not try at each event: it waits a second, and then it tries."""
    directory = path.parent / "sub"
    directory.mkdir()
    with fake_clock() as clock:
        exporter = jsonl.install(directory / "journal", TargetBenched)
        (directory / "journal").unlink()
        directory.rmdir()
        bench(1)
        assert not exporter.flush()
        assert exporter.background is not None
        journal: Any = exporter.background._work.__self__  # type: ignore[attr-defined]
        directory.mkdir()
        bench(2)

        assert not journal.work(float("inf"))
        assert 0.0 < journal.due() <= 1.0
        assert [] == list(directory.iterdir())
        clock.advance(1.0)
        assert journal.due() <= 0.0
        assert journal.work(float("inf"))

        assert ["2"] == reasons(directory / "journal")
        assert 1 == exporter.dropped


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_device_drops_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    """Calls go on and raise nothing; the observer does not count as failed."""
    configure(logging=False)
    exporter = jsonl.install("/dev/full")
    with capture_events(ObserverFailed) as failed:
        for _ in range(10):
            assert "answer" == ask()
        exporter.flush()

    assert exporter.dropped >= 20
    assert [] == failed
    assert 1 == len(caplog.records)


def test_a_full_disk_keeps_whole_lines(path: Path) -> None:
    """What fits is written; the torn rest does not spoil the next line, and the count is exact."""
    code = f"""
import json, resource, sys
from resilient_llm import TargetBenched, bench_model
from resilient_llm.observers import jsonl
exporter = jsonl.install({str(path)!r}, TargetBenched)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
def bench(n):
    bench_model("groq/llama", 60, reason=str(n))
for n in range(20): bench(n)
full = exporter.flush()
lines = open({str(path)!r}).read().splitlines()
first = exporter.dropped
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
bench("more")
print(json.dumps([full, len(lines), first, exporter.flush(), exporter.dropped]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )

    full, count, first, again, dropped = json.loads(done.stdout)
    lines = path.read_text().splitlines()
    torn = lines.pop(count - 1)
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)
    assert [*map(str, range(count - 1)), "more"] == [json.loads(line)["reason"] for line in lines]
    assert (False, True) == (full, again)
    assert 20 - (count - 1) == first == dropped
    assert 1 == done.stderr.count("cannot be written (File too large)")


def test_after_a_torn_line_the_next_begins_on_a_new_one(path: Path) -> None:
    """A process that was killed in the midst of a line, also while others write."""
    path.write_text('{"type":"TargetBe')
    exporter = jsonl.install(path, TargetBenched)
    bench(1)
    exporter.flush()
    with path.open("a") as file:
        file.write("torn")
    bench(2)
    bench(3)
    exporter.flush()

    lines = path.read_text().split("\n")
    assert ['{"type":"TargetBe', "torn", ""] == [lines[0], lines[2], lines[5]]
    assert ["1", "2", "3"] == [json.loads(lines[number])["reason"] for number in (1, 3, 4)]


def test_a_directory_that_cannot_be_written_lets_the_file_grow(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A rotation that fails loses no event; one log line."""

    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    exporter = jsonl.install(path, TargetBenched, max_bytes=100)
    monkeypatch.setattr(jsonl.os, "replace", refuse)
    configure(logging=False)
    for number in range(5):
        bench(number)
        assert exporter.flush()

    assert ["0", "1", "2", "3", "4"] == reasons(path)
    assert ["Permission denied" in record.getMessage() for record in caplog.records] == [True]


def test_a_pipe_that_nobody_reads_stops_nobody(path: Path) -> None:
    """Neither the install nor a flush waits for a reader; a pipe that is read gets whole lines."""
    os.mkfifo(path)
    with pytest.raises(ConfigurationError, match=r"cannot be opened|path="):
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.close(reader)
        path.chmod(0)
        path.unlink()
        path.mkdir()
        jsonl.install(path)
    path.rmdir()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    exporter = jsonl.install(path, TargetBenched)
    bench("one")
    assert exporter.flush()
    assert b'"one"' in os.read(reader, 10_000)
    for _ in range(1000):
        bench("x" * 200)

    assert not exporter.flush(0.05)

    os.close(reader)


# Several processes.


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_starts_with_nothing(path: Path) -> None:
    """Neither the queue nor the count nor the file of the parent; it writes its own lines."""
    exporter = jsonl.install(path, TargetBenched)
    exporter.drop(3)
    assert exporter.background is not None
    exporter.background.is_woken = True  # what is benched now waits
    bench("parent")

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with contextlib.suppress(BaseException):
                assert 0 == exporter.dropped
                bench("child")
                assert exporter.flush()
                code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert exporter.flush()

    assert 0 == os.waitstatus_to_exitcode(status)
    assert 3 == exporter.dropped
    assert [("child", child), ("parent", os.getpid())] == [
        (line["reason"], line["pid"]) for line in read(path)
    ]


def _write_many(path: Path, count: int, options: dict[str, int]) -> None:
    with isolated():
        exporter = jsonl.install(path, TargetBenched, **options)
        for number in range(count):
            bench(f"{os.getpid()} {number}")
            if number % 7 == 0:
                exporter.flush(PATIENCE)
        exporter.flush(PATIENCE)
        assert 0 == exporter.dropped


@pytest.mark.parametrize("options", [{}, {"max_bytes": 3000, "backups": 1000}])
def test_processes_share_a_file(path: Path, options: dict[str, int]) -> None:
    """Whole lines, none lost and none twice, in order for each process, also while it rotates."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_many, args=(path, 300, options)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE * 2)
        assert 0 == process.exitcode

    found: dict[str, list[int]] = {}
    for reason in _all(path):
        pid, number = reason.split()
        found.setdefault(pid, []).append(int(number))
    assert 3 == len(found)
    for numbers in found.values():
        assert list(range(300)) == sorted(numbers)
        if not options:
            assert numbers == sorted(numbers)


def test_the_exit_of_the_process_writes_what_waits(path: Path) -> None:
    """The last events before an exit are those that somebody looks for."""
    code = f"""
from resilient_llm import TargetBenched, bench_model
from resilient_llm.observers import jsonl
jsonl.install({str(path)!r}, TargetBenched)
bench_model("groq/llama", 60, reason="last words")
"""
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        timeout=PATIENCE * 2,
        check=True,
        stderr=subprocess.DEVNULL,
    )

    assert ["last words"] == reasons(path)


def test_no_prompt_is_in_the_journal(path: Path) -> None:
    """Neither arguments nor answers nor texts of the provider."""

    @failover(chain=["groq/llama"])
    def leaky(target: Target, prompt: str) -> str:
        raise http_error(400, body={"error": {"message": "the secret prompt"}})

    exporter = jsonl.install(path)
    with pytest.raises(ChainExhaustedError):
        leaky("the secret prompt")
    exporter.flush()

    assert {"AttemptFailed", "CallFailed"} <= {line["type"] for line in read(path)}
    assert "secret" not in path.read_text()
    assert CallFailed.__name__ in path.read_text()
