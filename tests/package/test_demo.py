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
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resilient_llm import (
    BudgetExceeded,
    StreamPolicy,
    Target,
    TargetBenched,
    bench_model,
    cli,
    failover,
    observe,
)
from resilient_llm.demo import run
from resilient_llm.demo.clients import Clients
from resilient_llm.demo.servers import WORDS, Condition, Server
from resilient_llm.demo.tally import Summary, Tally
from resilient_llm.demo.view import LiveView, Silence, print_summary
from resilient_llm.demo.weather import Turn, Weather
from resilient_llm.testing import capture_events

rich_console = pytest.importorskip("rich.console")

RECORDED = os.environ.get("RESILIENT_LLM_DEMO")
ROOT = Path(cli.__file__).parents[2]
SECRETS = (*run.PROMPTS, "not-a-key")
ESCAPE = "\x1b"

EMPTY = Summary(
    seconds=20.0,
    interrupted=False,
    calls_made=0,
    calls_served=0,
    servable_calls_lost=0,
    plain_client_lost=0,
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
    """In all that weather every call gets its answer, and the demo exits with 0."""
    summary = runs.summary

    assert (0, "") == (runs.status, runs.errors)
    assert 0 == summary["servable_calls_lost"]
    assert (
        summary["calls_made"] == summary["calls_served"] == sum(summary["served_by"].values()) > 0
    )
    assert not summary["interrupted"]


@pytest.mark.slow
def test_a_plain_client_would_have_lost_calls(runs: Runs) -> None:
    """The twins of the calls show what the weather does to a client of one target."""
    assert 0 < runs.summary["plain_client_lost"] < runs.summary["calls_made"]


@pytest.mark.slow
def test_every_kind_of_weather_is_seen(runs: Runs) -> None:
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
    assert re.search(r"(?m)^\S+  budget +groq +its budget is \$0\.0\d+ now, of which", runs.plain)
    assert re.search(r"(?m)^\S+  spent +groq/llama-3.3-70b +groq this month: \$", runs.plain)
    assert re.search(r"(?m)^Over budget: groq/llama-3.3-70b [1-9]", runs.plain)
    assert re.search(r"(?m)^Spent: groq/llama-3.3-70b \$0\.0\d+, ", runs.plain)


@pytest.mark.slow
def test_a_limit_is_seen_in_headers(runs: Runs) -> None:
    """A target whose headers say that no request is left is passed over until its reset, without a 429."""
    said = r"(?m)^\S+  weather +anthropic +has no request left, its headers say$"
    paused = (
        r"(?m)^\S+  benched +anthropic/claude-haiku +until \S+ \(\d+ s\) headers, until its reset$"
    )
    limited = r"(?m)^\S+  weather +anthropic +limits the rate"
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
    assert re.search(
        r"(?m)^\d\d:\d\d:\d\d  benched +groq +until \d\d:\d\d:\d\d \(\d+ s\) network, ", runs.plain
    )
    assert re.search(r"(?m)^\d\d:\d\d:\d\d  back +groq +recovered$", runs.plain)
    assert re.search(
        r"(?m)^\d\d:\d\d:\d\d  broke +deepseek/deepseek-chat +network, after 6 items$", runs.plain
    )
    assert re.search(r"(?m)^ +0  streams that were not whole$", runs.plain)
    assert re.search(r"(?m)^ +0  calls lost that could have been served$", runs.plain)
    assert re.search(r"(?m)^ +[1-9]\d*  calls that a plain client lost", runs.plain)


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
        """Let the first provider be in some condition, and the second be well."""
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
            self.servers["deepseek"].turn(condition)
            ask = failover(chain, attempts=1, stream=run.RESTARTS)(run.streaming(clients))
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
        """Every word with the model that said it; None where the stream was begun anew."""
        said: list[str | None] = []
        for item in self.items:
            if item is run.RESTARTED:
                said.append(None)
            elif item.choices[0].delta.content:
                said.append(f"{item.model}: {item.choices[0].delta.content.strip()}")
        return said


def _all_of(model: str) -> list[str]:
    return [f"{model}: {word}" for word in WORDS]


@pytest.mark.slow
def test_a_stream_that_dies_in_the_middle_is_begun_anew() -> None:
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
    ids=["cut", "one word twice", "begun anew without a marker", "nothing"],
)
def test_a_torn_stream_is_noticed(words: list[str]) -> None:
    """A reader that has a word too few or too many does not count its stream as whole."""
    torn, whole, mixed = run.Reader(), run.Reader(), run.Reader()
    for word in words:
        torn.take(_chunk(word))
    for number, word in enumerate(WORDS):
        whole.take(_chunk(word))
        mixed.take(_chunk(word, model="one" if number < 5 else "two"))

    assert [False, True, False] == [torn.has_all, whole.has_all, mixed.has_all]


def _chunk(word: str, model: str = "one") -> Any:
    delta = SimpleNamespace(content=f"{word} ")
    return SimpleNamespace(model=model, choices=[SimpleNamespace(delta=delta)])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no Ctrl-C to send")
def test_ctrl_c_ends_it_with_what_was_counted() -> None:
    """Interrupted, it cleans up, prints the summary so far and exits as a shell expects."""
    process = _start("demo", "--seconds", "60")
    assert process.stdout is not None
    first = process.stdout.readline()

    process.send_signal(signal.SIGINT)
    status, out, err = _ended(process)

    assert "weather" in first
    assert (cli.INTERRUPTED, "") == (status, err)
    assert "Ended early. Until then:" in out


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


@pytest.mark.parametrize(("servable", "status"), [(True, 1), (False, 0)])
def test_the_exit_status_is_about_calls_that_could_be_served(servable: bool, status: int) -> None:
    """A lost call that somebody could have served is a failure of the demo; one that nobody could serve is not."""
    tally = Tally()
    tally.call_ended(served=True, servable=True, plain_served=True)
    tally.call_ended(served=False, servable=servable, plain_served=False)

    summary = tally.summary(20.0, interrupted=False)

    assert status == summary.exit_status
    assert (2, 1, 1) == (summary.calls_made, summary.calls_served, summary.plain_client_lost)


@pytest.mark.parametrize(("whole", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_is_about_torn_streams(whole: bool, status: int) -> None:
    """A stream that did not come whole is a failure of the demo, however it ended."""
    tally = Tally()
    tally.stream_ended(whole=whole, restarted=True, lost=False)

    summary = tally.summary(20.0, interrupted=False)

    assert status == summary.exit_status
    assert (1, 1, 0) == (summary.streams_read, summary.streams_restarted, summary.streams_lost)


def test_the_command_exits_with_the_status_of_the_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that lost a servable call makes the command exit with 1, whatever it prints."""

    async def lose_a_call(demo: run.Demo, view: run.View) -> None:
        demo.tally.call_ended(served=False, servable=True, plain_served=False)
        demo.has_ended = True

    monkeypatch.setattr(run.Demo, "run", lose_a_call)

    status = cli.main(["demo", "--json"])

    assert 1 == status
    assert 1 == json.loads(capsys.readouterr().out)["servable_calls_lost"]


@pytest.mark.parametrize(
    ("began", "ended", "fair"),
    [
        (0.0, 9.0, True),
        (9.0, 11.0, False),
        (12.0, 13.0, False),
        (19.0, 21.0, False),
        (21.0, 22.0, True),
    ],
)
def test_fair_weather_lasts_the_whole_call(began: float, ended: float, fair: bool) -> None:
    """Only a provider that was well from beginning to end of a call could have served it."""
    weather = Weather({"groq": Server("openai")}, 20.0, lambda turn: None)
    weather.turns = [
        Turn(10.0, "groq", Condition.REFUSED, "down"),
        Turn(20.0, "groq", Condition.FAIR, "well"),
    ]

    assert fair is weather.could_serve(["groq"], began, ended)
    assert not weather.could_serve([], began, ended)


def test_the_live_view_shows_benches_and_events_in_100_by_30(clock: object) -> None:
    """In a common terminal one sees who is benched until when and why, and the picture fits."""
    screen = io.StringIO()
    console = rich_console.Console(
        file=screen,
        force_terminal=True,
        color_system=None,
        width=100,
        height=30,
        legacy_windows=False,
    )
    demo = run.Demo(20.0, seed=0)
    stop = observe(demo.tally.see, TargetBenched)
    bench_model("openai", 4.0, reason="invalid_credentials")
    bench_model("anthropic/claude-haiku", reason="maintenance")
    demo.tally.see(
        BudgetExceeded(
            at=datetime.now(UTC), call_id="", target="groq/llama-3.3-70b",
            budget="groq this month", key=None, spent=Decimal("0.000251"), cap=Decimal("0.00025"),
            resets_at=datetime(2026, 12, 1, tzinfo=UTC),
        )
    )  # fmt: skip

    with LiveView(console) as view:
        view.draw(demo)
        lines = screen.getvalue().splitlines()
    stop()

    assert len(lines) <= 30
    assert any(
        re.search(r"openai/gpt.* until [\d:]{8} \(4 s\) openai: invalid_credentials *$", line)
        for line in lines
    )
    assert any(
        re.search(r"anthropic/claude-haiku .* until unbenched maintenance", line) for line in lines
    )
    assert any(re.search(r"deepseek/deepseek-chat +fair +0 +0 +closed", line) for line in lines)
    assert any(
        re.search(r"groq/llama.* budget groq this month spent, until 2026-12-01 *$", line)
        for line in lines
    )
    assert any(re.search(r"^streams 0 +whole 0 +torn 0 ", line) for line in lines)
    assert any(
        re.search(r"^[\d:]{8} benched +openai +until [\d:]{8} \(4 s\) invalid_cred", line)
        for line in lines
    )


def test_the_summary_is_plain_text_without_a_terminal() -> None:
    """The summary of a run that counted nothing is complete, too."""
    screen = io.StringIO()

    print_summary(rich_console.Console(file=screen, force_terminal=False, width=1000), EMPTY)

    assert ESCAPE not in screen.getvalue()
    assert "Served by: none" in screen.getvalue()
