"""The demo of several processes that share a store: what it shows, counts, exits with and leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import cli
from resilient_llm.demo import fleet, fleet_view, worker
from resilient_llm.demo.fleet import Fleet, FleetSummary
from resilient_llm.demo.log_lines import Line

rich_console = pytest.importorskip("rich.console")

ROOT = Path(cli.__file__).parents[2]
OTHERS = ["worker-2", "worker-3", "worker-4"]
GOOD = FleetSummary(
    workers=2,
    seconds=6.0,
    interrupted=False,
    missing="",
    calls_made=9,
    calls_served=9,
    found_by="worker-1",
    failures={"worker-1": 3},
    benched_within={"worker-2": 0.1},
    probes=1,
    operator_benched_within={"worker-1": 0.1, "worker-2": 0.1},
    served_by={fleet.FIRST: 5, fleet.SECOND: 4},
)


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"},
    )


def _ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()  # nothing if it has ended; else it must not outlive the test
    return process.returncode, out, err


@pytest.fixture(scope="module")
def as_json() -> tuple[int, str, str]:
    """A run of four processes that prints nothing but the summary."""
    return _ended(_start("-m", "resilient_llm", "demo", "--workers", "4", "--json"))


@pytest.mark.slow
def test_one_process_meets_the_outage_and_all_leave_the_target(
    as_json: tuple[int, str, str],
) -> None:
    """No call is lost, no other worker has a failure of its own, and one probe ends it."""
    status, out, errors = as_json
    summary = json.loads(out)

    assert (0, "") == (status, errors)
    assert 4 == summary["workers"]
    assert summary["calls_made"] == summary["calls_served"] == sum(summary["served_by"].values())
    assert ("worker-1", {"worker-1": 3}) == (summary["found_by"], summary["failures"])
    assert OTHERS == list(summary["benched_within"])
    assert 1 == summary["probes"]
    assert ["worker-1", *OTHERS] == list(summary["operator_benched_within"])
    # What it takes on a machine with other work; 0.7 s is what the contract of SQLite gives.
    assert all(
        seconds < 5.0
        for each in ("benched_within", "operator_benched_within")
        for seconds in summary[each].values()
    )
    assert not summary["interrupted"]


@pytest.mark.slow
def test_a_run_tells_its_story_and_leaves_nothing() -> None:
    """A line for each thing that happens, in order; no process, thread, file or store stays."""
    before = set(threading.enumerate())
    lines: list[Line] = []
    demo = Fleet(2, 0, lines.append)

    demo.run()

    assert (0, True) == (demo.summary().exit_status, demo.has_ended)
    assert [
        "sharing", "answers", "fault", "failed", "benched", "benched", "answers", "fault",
        "probed", "restored", "restored", "answers", "benched", "benched", "benched",
        "restored", "answers",
    ] == [each.word for each in lines]  # fmt: skip
    told = "\n".join(each.plain() for each in lines)
    assert 80 >= max(len(each.plain()) for each in lines)
    assert re.search(
        r"failed +worker-1: groq/llama-3.3-70b failed: network x3$", told, re.MULTILINE
    )
    assert re.search(r"benched +worker-1 skips groq for \d s: failures 3/3", told)
    assert re.search(r"benched +worker-2 skips groq too, \d\.\d\d s later \(from worker-1\)", told)
    assert re.search(r"probed +worker-\d probes groq; the others call mistral", told)
    assert 1 == len(
        re.findall(r"restored +worker-\d uses groq again: recovered$", told, re.MULTILINE)
    )
    assert re.search(r"benched +worker-2 skips groq too, \d\.\d\d s later \(from operator\)", told)
    assert worker._PROMPT not in told
    assert all(each._running.returncode == 0 for each in demo._workers)
    assert set() == set(threading.enumerate()) - before
    assert not Path(lines[0].key.removeprefix("sqlite://")).parent.exists()


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_demo() -> None:
    """It says which one, and exits with 1 instead of waiting."""

    def kill(line: Line) -> None:
        if line.word == "fault":
            demo._workers[1]._running.kill()

    demo = Fleet(2, 0, kill)
    demo.run()

    summary = demo.summary()
    assert ("worker-2 has ended", 1) == (summary.missing, summary.exit_status)
    assert not summary.interrupted
    assert all(each._running.returncode is not None for each in demo._workers)


@pytest.mark.slow
def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """The end of its input is the end of it, so that none is left after a kill."""
    process = _start(
        "-m", "resilient_llm.demo.worker", "worker-1", f"sqlite://{tmp_path}/state.db", "{}"
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())

    status, out, errors = _ended(process)

    assert {"what": "ready", "connected": True} == ready
    assert (0, "", "") == (status, out, errors)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no Ctrl-C to send")
def test_ctrl_c_ends_it_with_what_was_counted() -> None:
    """Interrupted, it ends its workers, prints the summary so far and exits as a shell expects."""
    process = _start("-m", "resilient_llm", "demo", "--workers", "2")
    assert process.stdout is not None
    first = process.stdout.readline() + process.stdout.readline()

    process.send_signal(signal.SIGINT)
    status, out, errors = _ended(process)

    assert "sharing" in first
    assert (cli.INTERRUPTED, "") == (status, errors)
    assert "Ended early. Until then:" in out
    assert first.startswith("Starting 2 workers and 2 fake providers: offline, no API keys.\n")


@pytest.mark.slow
def test_it_needs_no_client_package() -> None:
    """Only rich; without it there is one clear line."""
    code = (
        "import sys; sys.modules[{!r}] = None; from resilient_llm.cli import main; sys.exit(main())"
    )

    status, out, err = _ended(_start("-c", code.format("rich"), "demo", "--workers", "2"))
    found = _ended(
        _start("-c", "import sys; from resilient_llm.demo import fleet, fleet_view; print('openai' in sys.modules)")
    )  # fmt: skip

    needed = "The demo needs rich: pip install 'resilient-llm[demo]'\n"
    assert (2, "", needed) == (status, out, err)
    assert (0, "False\n", "") == found


@pytest.mark.parametrize("number", ["1", "17", "four", "-2", "2.0"])
def test_a_number_of_workers_is_checked(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage exits with 2 and says what is allowed."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", f"--workers={number}"])

    assert 2 == ended.value.code
    assert "write a whole number, 2 to 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 0),
        ({"calls_served": 8}, 1),
        ({"failures": {"worker-1": 3, "worker-2": 1}}, 1),
        ({"probes": 2}, 1),
        ({"missing": "worker-2 has ended"}, 1),
    ],
    ids=["good", "a call lost", "two met it", "two probes", "a worker gone"],
)
def test_the_exit_status_is_about_what_is_shown(change: dict[str, Any], status: int) -> None:
    """A run in which the processes did not act as one is a failure of the demo."""
    assert status == dataclasses.replace(GOOD, **change).exit_status


@pytest.mark.parametrize("number", [2, 16])
def test_the_summary_has_at_most_12_lines_of_80_columns(number: int) -> None:
    """Also with the most workers, and it names what is not a default and what to read next."""
    names = [f"worker-{each}" for each in range(1, number + 1)]
    summary = dataclasses.replace(
        GOOD,
        workers=number,
        calls_made=999,
        interrupted=True,
        benched_within=dict.fromkeys(names, 10.123),
        operator_benched_within=dict.fromkeys(names, 10.123),
        served_by={fleet.FIRST: 999, fleet.SECOND: 999},
    )

    lines = [line.plain for line in fleet_view.summary_lines(summary)]

    assert len(lines) < 12  # an empty line is above them
    assert [] == [line for line in lines if len(line) > 80]
    text = "\n".join(lines)
    options = worker.settings("sqlite:///x", "worker-1")
    assert f"failures={options['breakers']['*']['failures']}" in text
    assert f"cooldown={options['breakers']['*']['cooldown']:g}" in text
    assert f"poll={options['state_options']['poll']:g}" in text
    assert f"logging={options['logging']}" in text
    page = re.findall(r"docs/\S+\.md", lines[-1])
    assert [True] == [(ROOT / each).exists() for each in page]
