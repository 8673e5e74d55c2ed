"""The demo and the command line: what they print, count and exit with."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from resilient_llm import (
    BudgetExceeded,
    StreamPolicy,
    Target,
    bench_model,
    cli,
    failover,
    settings,
)
from resilient_llm.demo import PROVIDERS, log_lines, picture, run, scenario, view
from resilient_llm.demo.clients import Clients
from resilient_llm.demo.counters import (
    DEFAULT_RETRIES,
    FAILOVER,
    NO_RETRIES,
    WAYS,
    Counters,
    Summary,
    WayCounts,
)
from resilient_llm.demo.faults import SCHEDULE, FaultChange, FaultInjector
from resilient_llm.demo.log_lines import Line, Log
from resilient_llm.demo.servers import WORDS, Condition, Server
from resilient_llm.demo.view import LiveView, Silence, print_summary, summary_lines
from resilient_llm.testing import capture_events

rich_console = pytest.importorskip("rich.console")

RECORDED = os.environ.get("RESILIENT_LLM_DEMO")
ROOT = Path(cli.__file__).parents[2]
SECRETS = (*scenario.PROMPTS, "not-a-key")
ESCAPE = "\x1b"

EMPTY = Summary(
    seconds=20.0,
    interrupted=False,
    calls_made=0,
    calls_served=0,
    servable_calls_lost=0,
    plain_client_lost=0,
    ways=dict.fromkeys(WAYS, WayCounts()),
    default_max_retries=2,
    streams_read=0,
    streams_whole=0,
    streams_restarted=0,
    streams_lost=0,
    served_by={},
    streamed_by={},
    failures={},
    benches={},
    spent={},
    over_budget={},
    events={},
)


def _start(*arguments: str, code: str = "") -> subprocess.Popen[str]:
    program = ["-c", code] if code else ["-m", "resilient_llm"]
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"},
    )


def _ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=150)
    finally:
        process.kill()  # nothing if it has ended; else it must not outlive the test
    return process.returncode, out, err


class Runs:
    """One run as JSON and one in plain lines, side by side.

    ``RESILIENT_LLM_DEMO`` may name a file with what a run that has ended well printed as JSON.
    """

    def __init__(self) -> None:
        plain = _start("demo", "--seconds", "12")
        if RECORDED:
            self.status, self.text, self.errors = 0, Path(RECORDED).read_text("utf-8"), ""
        else:
            as_json = _start("demo", "--seconds", "12", "--json")
            self.status, self.text, self.errors = _ended(as_json)
        self.plain_status, self.plain, self.plain_errors = _ended(plain)

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.text)


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs()


@pytest.mark.slow
def test_nothing_that_could_be_served_is_lost(runs: Runs) -> None:
    """During all faults every call is answered, and the demo exits with 0."""
    summary = runs.summary

    assert (0, "") == (runs.status, runs.errors)
    assert 0 == summary["servable_calls_lost"]
    assert (
        summary["calls_made"] == summary["calls_served"] == sum(summary["served_by"].values()) > 0
    )
    assert not summary["interrupted"]


@pytest.mark.slow
def test_three_ways_are_compared_with_the_same_calls(runs: Runs) -> None:
    """Each call is made in three ways; retries help a client of one provider, and are not enough."""
    ways = runs.summary["ways"]
    made = runs.summary["calls_made"]

    assert {FAILOVER: made, DEFAULT_RETRIES: made, NO_RETRIES: made} == {
        way: counts["calls"] for way, counts in ways.items()
    }
    assert 0 == ways[FAILOVER]["failed"]
    assert 0 < ways[DEFAULT_RETRIES]["failed"] < ways[NO_RETRIES]["failed"] < made
    assert runs.summary["plain_client_lost"] == ways[NO_RETRIES]["failed"]
    assert all(
        counts["failed_share"] == pytest.approx(counts["failed"] / made, abs=1e-4)
        for counts in ways.values()
    )
    # The retries of the client take longer than its first attempt.
    assert ways[DEFAULT_RETRIES]["slowest"] > 0.5
    assert all(counts["slowest"] > 0 for counts in ways.values())


@pytest.mark.slow
def test_the_default_retries_are_those_of_the_client(runs: Runs) -> None:
    """The number of retries that is printed is read from a client that was built without it."""
    import openai

    default = openai.AsyncOpenAI(api_key="not-a-key").max_retries

    assert default == runs.summary["default_max_retries"]
    assert f"openai client, max_retries={default} (default)" in runs.plain


@pytest.mark.slow
def test_every_kind_of_fault_is_seen(runs: Runs) -> None:
    """An outage, an overload, a rate limit and a dead key all happened, were benched, and those that end ended."""
    summary = runs.summary

    assert {"network", "overloaded", "rate_limit", "invalid_credentials"} <= summary[
        "failures"
    ].keys()
    assert {"groq", "anthropic/claude-haiku", "openai"} <= summary["benches"].keys()
    assert {"FailedOver", "TargetBenched", "TargetUnbenched", "RetryScheduled"} <= summary[
        "events"
    ].keys()
    assert {"groq/llama-3.3-70b", "anthropic/claude-haiku", "mistral/mistral-small"} == summary[
        "served_by"
    ].keys()


@pytest.mark.slow
def test_a_budget_runs_out(runs: Runs) -> None:
    """Calls pass its target over, nothing is lost, and the summary has what was spent."""
    summary = runs.summary

    assert {"groq/llama-3.3-70b"} == summary["over_budget"].keys()
    assert 1 == summary["events"]["BudgetExceeded"]
    # With genai-prices installed the models that stream have a price as well.
    assert {"groq/llama-3.3-70b", "anthropic/claude-haiku", "mistral/mistral-small"} <= summary[
        "spent"
    ].keys()
    assert all(0 < usd < 0.1 for usd in summary["spent"].values())
    assert re.search(r"(?m)^\S+  budget    The budget of groq is \$0\.0\d+ now; \$", runs.plain)
    assert re.search(
        r"(?m)^\S+  budget    groq is skipped: too little of its \$\S+ is left\.$", runs.plain
    )


@pytest.mark.slow
def test_a_limit_is_seen_in_headers(runs: Runs) -> None:
    """A target whose headers report that no request is left is skipped until its reset, without a 429."""
    said = r"(?m)^\S+  fault     anthropic reports in its headers: no request is left\.$"
    paused = r"(?m)^\S+  benched   anthropic/claude-haiku is skipped for \d+ s: limit used up$"
    limited = r"(?m)^\S+  fault     anthropic limits the rate"
    places = [re.search(each, runs.plain) for each in (said, paused, limited)]

    assert all(places)
    assert sorted(places, key=lambda each: each.start() if each else 0) == places


@pytest.mark.slow
def test_every_stream_is_whole(runs: Runs) -> None:
    """One provider dies in the middle, the next never starts, and every reader has all words once and of one model."""
    summary = runs.summary

    assert (
        summary["streams_read"]
        == summary["streams_whole"]
        == sum(summary["streamed_by"].values())
        > 0
    )
    assert 0 == summary["streams_lost"]
    assert 0 < summary["streams_restarted"] <= summary["events"]["StreamInterrupted"]
    assert "timeout" in summary["failures"]
    assert {"deepseek/deepseek-chat", "cerebras/gpt-oss-120b"} <= summary["streamed_by"].keys()


@pytest.mark.slow
def test_plain_lines_when_the_output_is_no_terminal(runs: Runs) -> None:
    """Without a terminal there is a line for each thing that happens, and no control codes."""
    assert (0, "") == (runs.plain_status, runs.plain_errors)
    assert ESCAPE not in runs.plain
    at = r"(?m)^\d\d:\d\d:\d\d  "
    assert re.search(rf"{at}fault     groq is down: it refuses connections\.$", runs.plain)
    assert re.search(rf"{at}benched   groq is skipped for \d+ s: network$", runs.plain)
    assert re.search(rf"{at}restored  groq is used again: recovered$", runs.plain)
    assert re.search(
        rf"{at}broken    deepseek/deepseek-chat broke a stream after 6 items$", runs.plain
    )
    assert re.search(r"(?m)^\d+ streams: 0 broken, ", runs.plain)
    assert "Lost although a provider was ok: 0." in runs.plain


@pytest.mark.slow
def test_repeated_failures_are_folded(runs: Runs) -> None:
    """A failure that repeats is printed once, and once more with its number when the fault ends."""
    during = runs.plain.partition("groq is down")[2].partition("groq works again")[0]

    printed = re.findall(r"groq/llama-3.3-70b failed: network(?: x\d+)?$", during, re.MULTILINE)

    assert 2 == len(printed)
    assert re.fullmatch(r"groq/llama-3.3-70b failed: network", printed[0])
    assert re.fullmatch(r"groq/llama-3.3-70b failed: network x([2-9]|\d\d+)", printed[1])


@pytest.mark.slow
def test_every_line_fits_80_columns(runs: Runs) -> None:
    """Also without a terminal, and the guarded code and its callers are printed first."""
    lines = runs.plain.splitlines()

    assert [] == [line for line in lines if len(line) > 80]
    assert f"Starting {len(PROVIDERS)} fake providers on this machine: offline" in lines[0]
    assert [scenario.code_line(), scenario.traffic_line()] == lines[1:3]
    assert "4 workers" in lines[2]


@pytest.mark.slow
def test_no_prompt_or_key_is_printed(runs: Runs) -> None:
    """What was asked, and with which key, appears nowhere."""
    assert [] == [secret for secret in SECRETS if secret in runs.text + runs.plain]


@pytest.mark.slow
def test_nothing_is_left_running() -> None:
    """After a run in this process there is no thread of it, and no open socket to warn of."""
    before = set(threading.enumerate())
    demo = run.Demo(2.0, seed=3)

    asyncio.run(demo.run(Silence()))

    assert demo.has_ended
    assert set() == set(threading.enumerate()) - before


class Streamed:
    """What a reader was given by two providers, and what happened."""

    def __init__(self, condition: Condition) -> None:
        """Give the first provider a condition; the second one is ok."""
        self.items: list[Any] = []
        self.reader = run.Reader()
        self.servers = {"deepseek": Server("openai"), "cerebras": Server("openai")}
        with self.servers["deepseek"], self.servers["cerebras"], capture_events() as events:
            asyncio.run(self._read(condition))
        self.events = [(type(event).__name__, event.target) for event in events]

    async def _read(self, condition: Condition) -> None:
        chain = [
            Target("deepseek/one", stream=StreamPolicy(first_item_timeout=0.4)),
            Target("cerebras/two"),
        ]
        async with Clients(self.servers) as clients:
            for target in chain:  # a client's first request takes far longer than all later ones
                async with await clients.stream(target, "Hello?") as warm:
                    assert [chunk async for chunk in warm]
                self.servers[target.provider].requests.clear()
            self.servers["deepseek"].switch(condition)
            ask = failover(chain, attempts=1, stream=scenario.RESTARTS)(run.streaming(clients))
            async with await ask("Will it rain?") as stream:
                async for item in stream:
                    self.items.append(item)
                    self.reader.take(item)

    @property
    def story(self) -> list[tuple[str, str]]:
        """What happened, without what it cost and what it says about health."""
        return [each for each in self.events if each[0] not in ("HealthChanged", "SpendRecorded")]

    @property
    def words(self) -> list[str | None]:
        """Every word with its model; None where the stream was restarted."""
        said: list[str | None] = []
        for item in self.items:
            if item is scenario.RESTARTED:
                said.append(None)
            elif item.choices[0].delta.content:
                said.append(f"{item.model}: {item.choices[0].delta.content.strip()}")
        return said


def _all_of(model: str) -> list[str]:
    return [f"{model}: {word}" for word in WORDS]


@pytest.mark.slow
def test_a_stream_that_is_cut_in_the_middle_is_restarted() -> None:
    """The reader sees what came, a marker, and the whole answer of the next; both are in the events."""
    streamed = Streamed(Condition.BREAKS_OFF)

    assert [*_all_of("one")[:5], None, *_all_of("two")] == streamed.words
    assert streamed.reader.has_all
    assert 1 == streamed.reader.restarts
    assert [
        ("StreamCommitted", "deepseek/one"),
        ("AttemptFailed", "deepseek/one"),
        ("StreamInterrupted", "deepseek/one"),
        ("FailedOver", "deepseek/one"),
        ("StreamCommitted", "cerebras/two"),
        ("AttemptSucceeded", "cerebras/two"),
    ] == streamed.story


@pytest.mark.slow
def test_a_stream_that_never_starts_is_left_behind() -> None:
    """Keep-alives and empty deltas are no content: the reader sees the next provider's answer only."""
    streamed = Streamed(Condition.STALLED)

    assert _all_of("two") == streamed.words
    assert streamed.reader.has_all
    assert 0 == streamed.reader.restarts
    assert [1, 1] == [len(server.requests) for server in streamed.servers.values()]
    assert [
        ("AttemptFailed", "deepseek/one"),
        ("FailedOver", "deepseek/one"),
        ("StreamCommitted", "cerebras/two"),
        ("AttemptSucceeded", "cerebras/two"),
    ] == streamed.story


@pytest.mark.parametrize(
    "words",
    [WORDS[:-1], [*WORDS, WORDS[-1]], [*WORDS[:5], *WORDS], []],
    ids=["cut", "one word twice", "restarted without a marker", "nothing"],
)
def test_a_broken_stream_is_noticed(words: list[str]) -> None:
    """A reader that has a word too few or too many does not count its stream as whole."""
    broken, whole, mixed = run.Reader(), run.Reader(), run.Reader()
    for word in words:
        broken.take(_chunk(word))
    for number, word in enumerate(WORDS):
        whole.take(_chunk(word))
        mixed.take(_chunk(word, model="one" if number < 5 else "two"))

    assert [False, True, False] == [broken.has_all, whole.has_all, mixed.has_all]


def _chunk(word: str, model: str = "one") -> Any:
    delta = SimpleNamespace(content=f"{word} ")
    return SimpleNamespace(model=model, choices=[SimpleNamespace(delta=delta)])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no Ctrl-C to send")
def test_ctrl_c_ends_it_with_what_was_counted() -> None:
    """Interrupted, it cleans up, prints the summary so far and exits as a shell expects."""
    process = _start("demo", "--seconds", "60")
    assert process.stdout is not None
    before = list(iter(process.stdout.readline, f"{scenario.traffic_line()}\n"))

    process.send_signal(signal.SIGINT)
    status, out, err = _ended(process)

    assert 2 == len(before)
    assert (cli.INTERRUPTED, "") == (status, err)
    assert "Ended early. Until then " in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rich", "openai", "anthropic"])
def test_a_missing_package_is_one_clear_line(name: str) -> None:
    """Without the extra the demo says what to install, and exits with 2."""
    code = f"import sys; sys.modules[{name!r}] = None; from resilient_llm.cli import main; sys.exit(main())"

    status, out, err = _ended(_start("demo", code=code))

    assert (2, "", f"The demo needs {name}: pip install 'resilient-llm[demo]'\n") == (
        status,
        out,
        err,
    )


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The version and the help are printed, and the help names the command."""
    for arguments, words in (
        (["--version"], "resilient-llm "),
        (["--help"], "demo"),
        (["demo", "--help"], "--seconds"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)

        assert 0 == ended.value.code
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["demo", "--seconds", "0.5"], ["demo", "--seconds", "long"], ["admin"]]
)
def test_wrong_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage exits with 2 and says so on the error output only."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)

    printed = capsys.readouterr()
    assert (2, "") == (ended.value.code, printed.out)
    assert "error: " in printed.err


@pytest.mark.parametrize(("could_be_answered", "status"), [(True, 1), (False, 0)])
def test_the_exit_status_is_about_calls_that_could_be_answered(
    could_be_answered: bool, status: int
) -> None:
    """A call that fails although a provider is ok is a failure of the demo, and no other call is."""
    counters = Counters()
    counters.call_ended(answered=True, could_be_answered=True)
    counters.call_ended(answered=False, could_be_answered=could_be_answered)
    counters.plain_call_ended(NO_RETRIES, answered=False)

    summary = counters.summary(20.0, interrupted=False)

    assert status == summary.exit_status
    assert (2, 1, 1) == (summary.calls_made, summary.calls_served, summary.plain_client_lost)


@pytest.mark.parametrize(("whole", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_is_about_broken_streams(whole: bool, status: int) -> None:
    """A stream that is not complete is a failure of the demo, however it ended."""
    counters = Counters()
    counters.stream_ended(whole=whole, restarted=True, lost=False)

    summary = counters.summary(20.0, interrupted=False)

    assert status == summary.exit_status
    assert (1, 1, 0) == (summary.streams_read, summary.streams_restarted, summary.streams_lost)


def test_the_command_exits_with_the_status_of_the_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that lost a servable call makes the command exit with 1, whatever it prints."""

    async def lose_a_call(demo: run.Demo, *views: run.View) -> None:
        demo.counters.call_ended(answered=False, could_be_answered=True)
        demo.has_ended = True

    monkeypatch.setattr(run.Demo, "run", lose_a_call)

    status = cli.main(["demo", "--json"])

    assert 1 == status
    assert 1 == json.loads(capsys.readouterr().out)["servable_calls_lost"]


@pytest.mark.parametrize(
    ("began", "ended", "is_ok"),
    [
        (0.0, 9.0, True),
        (9.0, 11.0, False),
        (12.0, 13.0, False),
        (19.0, 21.0, False),
        (21.0, 22.0, True),
    ],
)
def test_a_provider_could_answer_if_it_was_ok_for_the_whole_call(
    began: float, ended: float, is_ok: bool
) -> None:
    """A fault at any moment of a call means that the provider could not have answered it."""
    faults = FaultInjector({"groq": Server("openai")}, 20.0, lambda change: None)
    faults.changes = [
        FaultChange(10.0, "groq", Condition.REFUSED, "down"),
        FaultChange(20.0, "groq", Condition.OK, "ok"),
    ]

    assert is_ok is faults.could_answer(["groq"], began, ended)
    assert not faults.could_answer([], began, ended)


def test_equal_lines_are_one_line_until_the_fault_changes() -> None:
    """A log folds what repeats during a phase of its provider, in its place, with the newest text."""
    log = Log()
    at = datetime.now(UTC)
    for seconds in (1, 2, 3):
        log.add(Line(at, "benched", "groq/x", f"skipped for {seconds} s", folds_as="network"))
        log.add(Line(at, "failed", "openai/y", "401", folds_as="401"))
    first = [line.sentence for line in log.lines]
    log.end_phase("groq")
    log.add(Line(at, "benched", "groq/x", "skipped for 1 s", folds_as="network"))
    log.add(Line(at, "failed", "openai/y", "401", folds_as="401"))

    assert ["skipped for 3 s x3", "401 x3"] == first
    assert ["skipped for 3 s x3", "401 x4", "skipped for 1 s"] == [
        line.sentence for line in log.lines
    ]
    assert ["skipped for 1 s", "401", "skipped for 3 s x3", "skipped for 1 s"] == [
        line.sentence for line in log.unprinted
    ]


def test_every_sentence_of_a_fault_fits_and_names_its_provider() -> None:
    """A fault is a full sentence that fits beside its time and word in 80 columns."""
    lines = [
        Line(datetime.now(UTC), "fault", fault.provider, fault.sentence).plain()
        for fault in SCHEDULE
    ]

    assert [] == [line for line in lines if len(line) > log_lines.WIDTH]
    assert all(fault.sentence.startswith(fault.provider) for fault in SCHEDULE)
    assert all(fault.sentence.endswith(".") for fault in SCHEDULE)


def test_red_is_for_benched_only() -> None:
    """No other word of the log is red."""
    assert ["benched"] == [word for word, style in log_lines.STYLES.items() if "red" in style]


def test_the_first_line_is_printed_before_an_sdk_is_imported() -> None:
    """Neither an SDK, nor rich, nor asyncio is imported before the first line is out."""
    code = (
        "import sys\n"
        "from resilient_llm import cli\n"
        "class Output:\n"
        "    encoding = 'utf-8'\n"
        "    def write(self, text):\n"
        "        loaded = [name for name in ('openai', 'anthropic', 'rich.console', 'asyncio')\n"
        "                  if name in sys.modules]\n"
        "        sys.__stdout__.write(f'{text.strip()} {loaded}\\n')\n"
        "        sys.__stdout__.flush()\n"
        "        raise KeyboardInterrupt\n"
        "    def flush(self): pass\n"
        "    def isatty(self): return False\n"
        "sys.stdout = Output()\n"
        "cli.main()\n"
    )

    _, out, err = _ended(_start("demo", code=code))
    _, with_workers, _ = _ended(_start("demo", "--workers", "3", code=code))

    assert ("Starting 7 fake providers on this machine: offline, no API keys. []\n", "") == (
        out,
        err,
    )
    assert "Starting 3 workers and 2 fake providers: offline, no API keys. []\n" == with_workers


def test_the_first_line_counts_the_providers_that_start() -> None:
    """The providers that are counted before the imports are those of the chains."""
    targets = (*scenario.CHAIN, *scenario.STREAMING)

    assert set(PROVIDERS) == {target.provider for target in targets}
    assert len(PROVIDERS) == len(targets)


class Terminal:
    """A terminal of some size that keeps what is written to it, without control codes."""

    def __init__(self, width: int, height: int) -> None:
        self._screen = io.StringIO()
        self.console = rich_console.Console(
            file=self._screen,
            force_terminal=True,
            color_system=None,
            width=width,
            height=height,
            legacy_windows=False,
        )

    @property
    def lines(self) -> list[str]:
        return self._without_codes(self._screen.getvalue())

    @property
    def lines_since_redrawn(self) -> list[str]:
        """What was written since a live picture was erased for the last time."""
        return self._without_codes(self._screen.getvalue().rpartition("\x1b[2K")[2])

    def _without_codes(self, text: str) -> list[str]:
        return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", text).splitlines()


def _busy_demo() -> run.Demo:
    """Return a run with long numbers, in which each target has something to show."""
    demo = run.Demo(20.0, seed=0)
    counters = demo.counters
    counters.default_max_retries = 2
    counters.ways = {way: WayCounts(9999, 999, 0.0999, 10.04) for way in WAYS}
    counters.streams_read = counters.streams_whole = 1234
    counters.streams_restarted = 123
    counters.events["FailedOver"] = 1234
    for fault in SCHEDULE:
        counters.fault_changed(FaultChange(0.0, fault.provider, fault.condition, fault.sentence))
        demo.faults.changes.append(
            FaultChange(0.0, fault.provider, fault.condition, fault.sentence)
        )
    longest = max(Condition, key=lambda each: len(each.value))
    demo.faults.changes.append(FaultChange(0.0, "cerebras", longest, ""))
    for target in (*scenario.CHAIN, *scenario.STREAMING):
        answered = counters.served_by if target in scenario.CHAIN else counters.streamed_by
        answered[target.key] = counters.failed_at[target.key] = 9999
        text = f"{target.key} failed: 401 invalid_credentials"
        for _ in range(123):
            counters.log.add(Line(datetime.now(UTC), "failed", target.key, text, folds_as=text))
        counters.log.add(log_lines.of_answering(target.key))
    counters.log.add(log_lines.of_budget("groq", Decimal("0.000251"), Decimal("0.000264")))
    counters.on_event(_spent_budget())
    return demo


def _spent_budget() -> BudgetExceeded:
    return BudgetExceeded(
        at=datetime.now(UTC), call_id="", target="groq/llama-3.3-70b",
        budget="groq this month", key=None, spent=Decimal("0.000251"), cap=Decimal("0.000264"),
        resets_at=datetime(2026, 12, 1, tzinfo=UTC),
    )  # fmt: skip


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_picture_fits_the_terminal(width: int, height: int, clock: object) -> None:
    """At 80x24 and 120x40 no row is cut, wrapped or scrolled off, however long the numbers are."""
    demo = _busy_demo()
    for provider in ("openai", "anthropic", "deepseek"):
        bench_model(provider, 250.0, reason="invalid_credentials")
    bench_model("mistral/mistral-small", reason="maintenance")
    terminal = Terminal(width, height)

    terminal.console.print(view.picture(demo, width, height))

    text = "\n".join(terminal.lines)
    assert len(terminal.lines) < height
    assert max(map(len, terminal.lines)) <= width
    assert "…" not in text
    assert scenario.code_line() == terminal.lines[0].rstrip()
    assert terminal.lines[1].startswith("4 workers call ask(), 2 readers read streams")
    assert re.search(r"(?m)^@failover +lost 999 of 9999 +10 % +10\.0 s *$", text)
    assert re.search(r"(?m)^streams 1234   broken 0   restarted after .* 123  failovers 1234", text)
    assert re.search(r"openai/gpt-5-mini +dead key +9999 +9999 +benched 250 s \(provider\)", text)
    assert re.search(r"mistral/mistral-small +ok +9999 +9999 +benched by hand", text)
    assert re.search(r"groq/llama-3.3-70b +overloaded +9999 +9999 +budget spent", text)
    assert (width >= 110) is bool(re.search(r"250 s \(provider\): invalid_credentials", text))


def test_the_end_of_the_demo_fits_24_rows(clock: object) -> None:
    """The last picture and the summary are on the screen together, below the command."""
    demo = _busy_demo()
    terminal = Terminal(80, 24)

    with LiveView(terminal.console) as shown:
        shown.draw(demo)
    print_summary(terminal.console, demo.summary())

    last = terminal.lines_since_redrawn
    assert len(last) <= 23
    assert max(map(len, last)) <= 80
    assert scenario.code_line() == last[0].rstrip()
    assert any(line.startswith("  cerebras/gpt-oss-120b") for line in last)
    assert last[-1].startswith("Read next: ")


def test_the_lost_calls_shine() -> None:
    """The row of ``@failover`` is highlighted, and differently if a call was lost."""
    shown: list[str] = []
    for failed in (0, 1):
        ways = {**EMPTY.ways, FAILOVER: WayCounts(9, failed, failed / 9, 0.1)}
        console = picture.recording_console()
        console.print(view.comparison(ways, 2))
        shown += console.export_text(styles=True).splitlines()
    green, yellow = "48;2;26;127;55m", "43m"

    assert ["lost 0 of 9"] == re.findall(rf"{green} *(lost.*?)\x1b", "\n".join(shown))
    assert ["lost 1 of 9"] == re.findall(rf"{yellow} *(lost.*?)\x1b", "\n".join(shown))


def test_shares_are_printed_and_never_rounded_to_nothing() -> None:
    """A few lost calls of many are not shown as 0 %."""
    ways = {
        FAILOVER: WayCounts(1000, 0),
        DEFAULT_RETRIES: WayCounts(1000, 3),
        NO_RETRIES: WayCounts(1000, 384),
    }
    terminal = Terminal(80, 24)

    terminal.console.print(view.comparison(ways, 2))

    assert ["0 %", "0.3 %", "38 %"] == re.findall(
        r"lost \d+ of 1000 +(\S+ %)", "\n".join(terminal.lines)
    )


def test_the_summary_has_at_most_12_lines_of_80_columns() -> None:
    """It compares, names what is not a default, and ends in what was shown and what to read next."""
    reasons = ("invalid_credentials", "network", "overloaded", "rate_limit", "timeout")
    summary = replace(_busy_demo().summary(), failures=dict.fromkeys(reasons, 9))

    lines = [line.plain for line in summary_lines(summary)]

    assert len(lines) < 12  # an empty line is above them
    assert [] == [line for line in lines if len(line) > 80]
    for name, line in zip(
        ("@failover", "openai client, max_retries=2 (default)", "openai client, max_retries=0"),
        lines[1:4],
        strict=True,
    ):
        assert re.fullmatch(rf"{re.escape(name)} +lost 999 of 9999 +10 %  slowest 10\.0 s ", line)
    assert lines[-2].startswith("Shown: revoked key, ")
    assert lines[-2].endswith("silent streams, spent budget.")
    assert "Shown: nothing yet." == summary_lines(EMPTY)[-2].plain
    assert lines[-1].startswith("Read next: ")
    page = re.findall(r"docs/\S+\.md", lines[-1])
    assert page
    assert all((ROOT / each).exists() for each in page)


@pytest.mark.slow
def test_the_summary_names_every_option_that_is_not_a_default() -> None:
    """What is in force during a run, and differs from the defaults, is in the summary."""
    options: dict[str, Any] = {}

    class Settings:
        def draw(self, demo: run.Demo) -> None:
            options.update(settings().breakers["*"])
            options["logging"] = settings().logging
            options["a budget"] = settings().budgets
            demo.counters.log.unprinted.clear()

    demo = run.Demo(2.0, seed=1)
    asyncio.run(demo.run(Settings()))
    text = " ".join(line.plain for line in summary_lines(demo.summary()))

    assert {"failures", "cooldown", "max_cooldown", "logging", "a budget"} == options.keys()
    for name in ("failures", "cooldown", "max_cooldown"):
        assert f"{name}={options[name]:g}" in text
    assert f"logging={options['logging']}" in text
    assert options["a budget"]
    assert "a budget" in text
    assert f'StreamPolicy(on_interrupt="{scenario.RESTARTS.on_interrupt}")' in text
    assert "timeout=10" in text
    assert "first_item_timeout=0.4" in text


def test_the_summary_is_plain_text_without_a_terminal() -> None:
    """The summary of a run that counted nothing is complete, too."""
    screen = io.StringIO()

    print_summary(rich_console.Console(file=screen, force_terminal=False, width=1000), EMPTY)

    assert ESCAPE not in screen.getvalue()
    assert "Answered by: none" in screen.getvalue()


@pytest.mark.slow
def test_the_picture_refers_to_no_other_host(tmp_path: Path) -> None:
    """``--svg`` writes an SVG with the outage and the summary that loads nothing from elsewhere."""
    file = tmp_path / "demo.svg"

    status, out, err = _ended(_start("demo", "--seconds", "5", "--json", "--svg", str(file)))

    assert (0, "") == (status, err)
    assert json.loads(out)["calls_made"] > 0
    _check_picture(file.read_text(encoding="utf-8"))


def test_the_committed_picture_refers_to_no_other_host() -> None:
    """The picture of the documentation was made by ``--svg``."""
    _check_picture((ROOT / "docs/img/demo.svg").read_text(encoding="utf-8"))


def _check_picture(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    text = " ".join("".join(root.itertext()).split())

    assert ["http://www.w3.org/2000/svg"] == re.findall(r"\w+://[^\"'\s)<]+", svg)
    assert [] == re.findall(r"@font-face|@import|url\((?!#)|href|<!--", svg)
    for words in ("resilient-llm demo", scenario.code_line(), "benched", "Read next: "):
        assert words in text.replace("\xa0", " ")
    assert not any(secret in text for secret in SECRETS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "2", "--svg", "x.svg"], "--svg is not allowed with --workers"),
        (["--svg", "no-such-folder/x.svg"], "'no-such-folder/x.svg': there is no such folder"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_at_once(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong uses of ``--svg`` exit with 2 before anything starts."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", *arguments])

    printed = capsys.readouterr()
    assert (2, "") == (ended.value.code, printed.out)
    assert said in printed.err


def test_a_picture_that_fails_to_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """If the file cannot be written at the end, the command exits with 1 and names the file."""

    async def end_at_once(demo: run.Demo, *views: run.View) -> None:
        demo.has_ended = True

    monkeypatch.setattr(run.Demo, "run", end_at_once)

    status = cli.main(["demo", "--json", "--svg", str(tmp_path)])

    assert cli.FAILED == status
    assert f"{str(tmp_path)!r} cannot be written" in capsys.readouterr().err
