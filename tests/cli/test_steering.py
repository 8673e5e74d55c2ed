"""The commands against a running service: its admin app behind a real server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import weakref
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from resilient_llm import (
    Target,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    unbench_model,
)
from resilient_llm import chains as chains_by_name
from resilient_llm._runtime import chains
from resilient_llm.cli._output import Cell, table_of
from resilient_llm.probes import HealthProbe
from tests.cli.conftest import PATIENCE, TOKEN, Run

ROOT = Path(__file__).parents[2]
CHAIN = ["groq/llama", "openai/gpt"]
HOSTILE = "red \x1b[31m \x9b2J [bold]no[/] \u202e\nsecond line"


@pytest.fixture(autouse=True)
def _no_chains_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "_policies", weakref.WeakSet())


def a_service(down: str = "") -> object:
    """Return a decorated function that is called once; a provider of it is down."""

    @failover(CHAIN, attempts=2, backoff=lambda _: 0.0, reraise=True)
    def ask(target: Target) -> str:
        if target.provider in down:
            raise ConnectionRefusedError
        return target.key

    if down != "groq openai":
        assert ask()
    else:
        with pytest.raises(ConnectionRefusedError):
            ask()
    return ask


def cells(line: str) -> list[str]:
    """Return the cells of a plain row."""
    return re.split(r" {2,}", line)


# Benches.


def test_benches_are_listed(service: str, run: Run) -> None:
    """A row a bench: key, time left, until, since, kind, by whom and why; the soonest back first."""
    bench_model("mistral", reason="until the invoice is paid", by="alice")
    bench_model("groq", 5430, reason="incident 7")

    status, out, err = run("benches")

    heading, first, second = out.splitlines()
    assert (0, "") == (status, err)
    assert ["KEY", "LEFT", "UNTIL", "SINCE", "KIND", "BY", "REASON"] == cells(heading)
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"
    assert re.fullmatch(rf"groq +1h 30m +{moment}  {moment}  by hand +incident 7", first)
    assert re.fullmatch(
        rf"mistral  until unbenched +{moment}  by hand  alice  until the invoice is paid", second
    )


def test_an_automatic_bench_shows_its_kind(service: str, run: Run) -> None:
    """What the breaker benched has the kind and the reason of the error."""
    keep = a_service(down="groq")

    status, out, _ = run("benches")

    assert 0 == status
    assert re.search(r"^groq +\d+s .* transient +network$", out, re.MULTILINE)
    del keep


def test_nothing_benched_is_said_beside_the_output(service: str, run: Run) -> None:
    """Without a bench nothing is printed that a script could take for one."""
    assert (0, "", "nothing is benched\n") == run("benches")


def test_json_is_what_the_api_answers(service: str, run: Run) -> None:
    """``--json`` prints the array of the API, in ASCII."""
    bench_model("groq", reason="ö \x1b[31m")

    status, out, _ = run("benches", "--json")

    (bench,) = json.loads(out)
    assert 0 == status
    assert out.isascii()
    assert "\x1b" not in out
    assert ("groq", None, "ö \x1b[31m", True) == (
        bench["model"],
        bench["remaining"],
        bench["reason"],
        bench["manual"],
    )


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1h30m", 5400), ("90", 90), ("90s", 90), ("15m", 900), ("2d", 172_800), ("1.5h", 5400)],
)
def test_bench_for_a_time(service: str, run: Run, written: str, seconds: float) -> None:
    """``--for`` takes days, hours, minutes and seconds."""
    status, out, _ = run("bench", "groq", "--for", written, "--reason", "maintenance")

    (bench,) = list_benched()
    assert bench.remaining is not None
    assert 0 == status
    assert ("groq", True, "maintenance") == (bench.model, bench.manual, bench.reason)
    assert seconds - 30 < bench.remaining <= seconds
    assert "groq" in out
    assert "maintenance" in out


def test_bench_until_a_moment(service: str, run: Run) -> None:
    """``--until`` takes RFC 3339, in any zone."""
    status, out, _ = run("bench", "groq", "--until", "2100-01-01T02:00:00+02:00")

    (bench,) = list_benched()
    assert 0 == status
    assert bench.until is not None
    assert abs(bench.until - datetime(2100, 1, 1, tzinfo=UTC)) < timedelta(seconds=1)
    assert "2100-01-01 00:00:00Z" in out


def test_bench_without_an_end(service: str, run: Run) -> None:
    """Without a time it holds until it is unbenched; --json prints the bench."""
    status, out, _ = run("bench", "Groq/llama", "--json")

    (bench,) = list_benched()
    assert 0 == status
    assert ("groq/llama", None) == (bench.model, bench.until)
    assert ("groq/llama", None) == (json.loads(out)["model"], json.loads(out)["until"])


@pytest.mark.parametrize(
    "options",
    [
        ["--for", "1h", "--until", "2100-01-01T00:00:00Z"],
        ["--for", "0"],
        ["--for", "h"],
        ["--for", ""],
        ["--for", "nan"],
        ["--for", "-1"],
        ["--for", "1e99"],
        ["--for", "99999d"],
        ["--until", "2100-01-01"],
        ["--until", "2100-01-01T00:00:00"],
        ["--until", "tomorrow"],
        ["--until", "2020-01-01T00:00:00Z"],
        ["--reason", "x" * 201],
        ["and", "another"],
        [],
    ],
)
def test_a_bench_that_is_written_wrongly(service: str, run: Run, options: list[str]) -> None:
    """Two ends, no time, a time that is over, a moment without a zone: exit 2, and nothing is benched."""
    key = ["groq"] if options else []

    status, out, err = run("bench", *key, *options)

    assert (2, "") == (status, out)
    assert "usage: resilient-llm bench" in err
    assert [] == list_benched()


@pytest.mark.parametrize(
    "options",
    [
        ["--for", "1h", "--until", "2100-01-01T00:00:00Z"],
        ["--for", "0"],
        ["--until", "2100-01-01T00:00:00"],
    ],
)
def test_a_bench_that_is_written_wrongly_is_not_sent(run: Run, options: list[str]) -> None:
    """What can be seen here to be wrong needs no service to say so."""
    assert 2 == run("bench", "groq", *options, "--admin", "http://127.0.0.1:1").status


@pytest.mark.parametrize("key", ["", "groq/", "x" * 513, "a\x1bb", "@/x"])
def test_a_key_that_is_none(service: str, run: Run, key: str) -> None:
    """What the service does not take for a key is wrong use, and is shown escaped."""
    status, _, err = run("bench", key)

    assert 2 == status
    assert "\x1b" not in err


def test_by_is_what_the_service_says(service: str, run: Run) -> None:
    """``--by`` is taken, and it is said that the service knows better."""
    status, _, err = run("bench", "groq", "--by", "mallory")

    (bench,) = list_benched()
    assert 0 == status
    assert "mallory" != bench.by
    assert "--by has no effect" in err


def test_a_key_of_no_chain_is_warned_of(service: str, run: Run) -> None:
    """A slip of the hand benches nothing that anybody calls, so it is said, with what is like it."""
    keep = a_service()

    misspelt = run("bench", "gorq/llama")
    right = run("bench", "groq")
    model = run("bench", "openai/gpt")

    assert 0 == misspelt.status
    assert "no chain of the service has gorq/llama: did you mean groq/llama?" in misspelt.err
    assert ("", "") == (right.err, model.err)
    del keep


def test_unbench(service: str, run: Run) -> None:
    """What is benched is put back: exit 0."""
    bench_model("groq")

    status, out, _ = run("unbench", "groq")

    assert (0, "groq is not benched any more\n") == (status, out)
    assert not is_benched("groq")


def test_unbench_takes_odd_keys(service: str, run: Run) -> None:
    """Slashes, dots, percent signs and blanks in a key arrive as they are."""
    for key in ("groq@a/meta/../x", "x/%2f", "x/a&b=c d", "x/ü"):
        bench_model(key)

        assert 0 == run("unbench", key).status
        assert not is_benched(key)


def test_unbench_what_is_not_benched(service: str, run: Run) -> None:
    """Exit 1, and what may have been meant: its provider, or a key that is like it."""
    bench_model("groq")

    provider = run("unbench", "groq/llama")
    misspelt = run("unbench", "gorq")
    other = run("unbench", "mistral")

    assert [1, 1, 1] == [each.status for each in (provider, misspelt, other)]
    assert "its provider is: resilient-llm unbench groq" in provider.err
    assert "did you mean groq?" in misspelt.err
    assert "mistral is not benched\n" in other.err
    assert is_benched("groq")


def test_unbench_a_provider_whose_models_are_benched(service: str, run: Run) -> None:
    """Exit 1, and the keys that are benched: an outage often benches the models alone."""
    bench_model("groq/llama-3.3-70b")
    one = run("unbench", "groq")
    for number in range(4):
        bench_model(f"groq/model-{number}")
    many = run("unbench", "groq")

    assert (one.status, many.status) == (1, 1)
    assert "its model is: resilient-llm unbench groq/llama-3.3-70b\n" in one.err
    assert "models of it are: groq/llama-3.3-70b, groq/model-0, groq/model-1 and 2 more" in many.err


# Health and chains.


def test_health(service: str, run: Run) -> None:
    """The status of the service, then a row a key, the worst first."""
    keep = a_service(down="groq")

    status, out, _ = run("health")

    said, heading, first, *others = out.splitlines()
    assert (0, "degraded") == (status, said)
    assert ["KEY", "STATUS", "STATE", "ERRORS"] == cells(heading)[:4]
    assert re.match(r"groq(/llama)? +down +", first)
    assert re.search(r"^groq +down +open +2 of 2 .* network +network$", out, re.MULTILINE)
    assert re.search(r"^groq/llama +down .* network \(groq\)", out, re.MULTILINE)
    assert re.match(r"openai/gpt +healthy +closed +0 of 1 ", others[-1])
    del keep


def test_health_shows_the_last_results_of_health_probes(service: str, run: Run) -> None:
    """In a column that is there if there are any."""
    probes = {"groq": lambda: True, "openai": lambda: False, "mistral": lambda: "text"}
    asyncio.run(HealthProbe(probes).tick())
    breaker("local").record(None, 0.1)

    _, out, _ = run("health")

    lines = out.splitlines()
    assert "PROBE" == cells(lines[1])[-1]
    assert re.search(r"^groq .*  well, \d\.\d\ds$", out, re.MULTILINE)
    assert re.search(r"^openai .*  probe$", out, re.MULTILINE)
    assert re.search(r"^mistral .*  broken$", out, re.MULTILINE)
    assert re.search(r"^local .* 0.10s$", out, re.MULTILINE)


def test_health_fails_when_no_target_is_left(service: str, run: Run) -> None:
    """``down`` is exit 1, with the same output."""
    keep = a_service()
    for provider in ("groq", "openai"):
        bench_model(provider, reason="flood")

    status, out, err = run("health")
    as_json = run("health", "--json")

    assert (1, "", "down") == (status, err, out.splitlines()[0])
    assert "by hand: flood" in out
    assert (1, "down") == (as_json.status, json.loads(as_json.out)["status"])
    assert {*health()} == {each["key"] for each in json.loads(as_json.out)["targets"]}
    del keep


def test_health_of_a_service_that_is_well(service: str, run: Run) -> None:
    """``healthy`` is exit 0, also before the first call."""
    assert (0, "healthy\n") == run("health")[:2]


def test_chains_are_in_their_present_order(service: str, run: Run) -> None:
    """Each chain with its targets in order, which of them are live, and when the others are back."""
    keep = a_service()
    bench_model("groq", 3600)

    status, out, _ = run("chains")
    as_json = run("chains", "--json")

    rows = [cells(line) for line in out.splitlines()[1:]]
    assert 0 == status
    assert [["1.", "groq/llama", "closed", "no"], ["2.", "openai/gpt", "closed", "yes"]] == [
        row[1:5] for row in rows
    ]
    assert re.fullmatch(r"1h|59m \d+s", rows[0][5])
    assert all("ask" in row[0] for row in rows)
    assert CHAIN == [each["key"] for each in json.loads(as_json.out)[0]["targets"]]
    del keep


def test_a_chain_with_names_is_shown_as_it_was_written(service: str, run: Run) -> None:
    """A chain with names has a column for them, and for the profile of the process."""
    chains_by_name.define({"fast": CHAIN})
    chains_by_name.define_profile("cheap", chains={"fast": "groq/llama"})
    configure(profile="cheap")

    @failover(["@fast", "anthropic/claude"])
    def ask(target: Target) -> str:
        return target.key

    status, out, _ = run("chains")

    heading, first, second = out.splitlines()
    assert 0 == status
    assert ["CHAIN", "WRITTEN", "PROFILE", "TARGET"] == cells(heading)[:4]
    assert ["@fast, anthropic/claude", "cheap", "1.", "groq/llama"] == cells(first)[1:5]
    assert ["@fast, anthropic/claude", "cheap", "2.", "anthropic/claude"] == cells(second)[1:5]
    del ask


def test_a_service_without_chains(service: str, run: Run) -> None:
    """It is said beside the output."""
    assert (0, "", "the service has no chain\n") == run("chains")


# Events.


def test_events_prints_what_is_kept_and_ends(service: str, run: Run) -> None:
    """A line an event: when, what, where, and its fields; then it ends by itself."""
    run("events")  # so that the service listens
    bench_model("groq", 3600, reason="because of this", by="alice")
    unbench_model("groq")

    status, out, _ = run("events")
    as_json = run("events", "--json")

    lines = [line for line in out.splitlines() if "enched" in line]
    assert 0 == status
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ TargetBenched     groq .*reason="because of this".*by=alice',
        lines[0],
    )
    assert re.search(r" TargetUnbenched   groq reason=manual$", lines[1])
    events = [json.loads(line) for line in as_json.out.splitlines()]
    assert ["TargetBenched", "TargetUnbenched"] == [
        each["type"] for each in events if "enched" in each["type"]
    ]
    assert {"type", "at", "pid", "target", "call_id"} <= events[0].keys()


def _start(*arguments: str, unbuffered: str = "", **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "resilient_llm", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "COLUMNS": "120"},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},  # type: ignore[arg-type]
    )


def test_events_are_followed_until_ctrl_c(service: str, run: Run) -> None:
    """With ``--follow`` events come as they happen, whole and at once; Ctrl-C is exit 130 and quiet."""
    run("events")
    bench_model("groq")
    process = _start("events", "--follow", "--json")
    assert process.stdout is not None

    first = json.loads(process.stdout.readline())
    while first["type"] != "TargetBenched":
        first = json.loads(process.stdout.readline())
    unbench_model("groq")
    then = json.loads(process.stdout.readline())
    while then["type"] != "TargetUnbenched":
        then = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)

    assert (130, "") == (process.returncode, err)
    assert ("groq", "groq") == (first["target"], then["target"])


# Terminals and pipes.


def test_control_characters_are_escaped(service: str, run: Run) -> None:
    """What an operator wrote moves no cursor, clears no screen and turns no line."""
    run("events")
    run("bench", "groq", "--reason", HOSTILE)

    for command in ("benches", "health", "events", "chains"):
        status, out, err = run(command)

        assert 0 == status
        assert [] == [each for each in out + err if not each.isprintable() and each != "\n"]
    assert r"red \x1b[31m \x9b2J [bold]no[/] \u202e\nsecond line" in run("benches").out


def _on_terminal(*arguments: str) -> str:
    """Return what a command writes to a terminal."""
    here, there = pty.openpty()
    process = _start(*arguments, stdout=there, stdin=there, stderr=there)
    os.close(there)
    written = b""
    while select.select([here], [], [], PATIENCE)[0]:
        try:
            part = os.read(here, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(here)
    process.wait(PATIENCE)
    return written.decode()


def test_a_terminal_gets_a_table(service: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal rich draws the table, and markup in a reason is text."""
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    run("bench", "groq", "--reason", HOSTILE)

    drawn = _on_terminal("benches")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", drawn)

    assert "────" in plain
    assert "\x1b[1mgroq" in drawn
    assert "[bold]no[/]" in plain
    assert "\x1b[31m" not in drawn
    assert "\x1b" not in plain


def test_a_dumb_terminal_gets_plain_text(
    service: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``TERM=dumb`` nothing is drawn."""
    monkeypatch.setenv("TERM", "dumb")
    run("bench", "groq")

    drawn = _on_terminal("benches")

    assert drawn.startswith("KEY ")
    assert "\x1b" not in drawn


@pytest.mark.parametrize("command", [["benches"], ["events"], ["health", "--json"]])
def test_a_closed_pipe_is_quiet(service: str, run: Run, command: list[str]) -> None:
    """When whoever reads the output has gone, nothing is complained of."""
    run("events")
    for number in range(200):
        bench_model(f"provider-{number}", reason="x" * 200)
    process = _start(*command)
    assert process.stdout is not None
    process.stdout.close()

    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()

    assert (1, "") == (process.wait(PATIENCE), err)


# Who is let in.


@pytest.mark.parametrize(
    "command", [["benches"], ["bench", "groq"], ["unbench", "groq"], ["events"]]
)
def test_a_wrong_token_is_refused(service: str, run: Run, command: list[str]) -> None:
    """A token that the service does not know is exit 1, and is not printed."""
    wrong = "another-token-than-that"

    status, out, err = run(*command, "--token", wrong)

    assert (1, "") == (status, out)
    assert "does not take this token" in err
    assert wrong not in err
    assert [] == list_benched()


@pytest.mark.parametrize(
    "authorize", [lambda request, action: "carol" if action == "write" else True]
)
def test_by_is_whom_the_service_let_in(service: str, run: Run) -> None:
    """What ``authorize`` returns is written to the bench, and shown."""
    status, out, _ = run("bench", "groq", "--by", "mallory")

    (bench,) = list_benched()
    assert (0, "carol") == (status, bench.by)
    assert "carol" in out
    assert "mallory" not in out


@pytest.mark.parametrize("authorize", [lambda request, action: action == "read"])
def test_who_may_only_look_is_refused(service: str, run: Run) -> None:
    """A write that the service refuses is exit 1, and says that it was refused."""
    bench_model("groq")

    bench = run("bench", "mistral")
    unbench = run("unbench", "groq")
    benches = run("benches")

    assert [1, 1, 0] == [each.status for each in (bench, unbench, benches)]
    assert [f"{service}/ refused: "] * 2 == [
        each.err.partition(": ")[2][: len(service) + 11] for each in (bench, unbench)
    ]
    assert ["groq"] == [each.model for each in list_benched()]


def test_a_missing_token_is_asked_for(
    service: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token the message says where it is written."""
    monkeypatch.delenv("RESILIENT_LLM_TOKEN")

    status, _, err = run("benches")

    assert 1 == status
    assert "RESILIENT_LLM_TOKEN" in err


def test_options_win_over_the_environment(
    service: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--admin`` and ``--token`` are taken before the variables; a slash at the end is fine."""
    monkeypatch.setenv("RESILIENT_LLM_ADMIN", "http://127.0.0.1:1/")
    monkeypatch.setenv("RESILIENT_LLM_TOKEN", "wrong")

    assert 0 == run("benches", "--admin", f"{service}/", "--token", TOKEN).status
    assert 1 == run("benches", "--token", TOKEN).status
    assert 1 == run("benches", "--admin", service).status


def test_a_wrong_path_is_explained(service: str, run: Run) -> None:
    """A service that has the page elsewhere is not taken for one where nothing is benched."""
    elsewhere = service.removesuffix("/llm")

    for command in (["benches"], ["unbench", "groq"], ["bench", "groq"], ["health"], ["events"]):
        status, _, err = run(*command, "--admin", elsewhere)

        assert 1 == status
        assert "is --admin the URL at which the page is mounted?" in err


# What cannot be written, and what is empty.


@pytest.mark.parametrize("arguments", [["bench"], ["unbench"], ["journal", "no.jsonl", "--target"]])
def test_a_key_that_no_encoding_takes_is_wrong_use(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    r"""``$'groq/\xff'`` is no key for any command, and is shown escaped."""
    monkeypatch.setenv("RESILIENT_LLM_ADMIN", "http://127.0.0.1:1")

    status, _, err = run(*arguments, "groq/\udcff")

    assert 2 == status
    assert r"'groq/\udcff' has lone surrogates, which no key may have" in err


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "command", ["benches", "health --json", "events", "journal", "events --help", "--help"]
)
def test_an_output_that_cannot_be_written(
    service: str, run: Run, tmp_path: Path, command: str, unbuffered: str
) -> None:
    """One line that blames the output, exit 1: neither a traceback nor the file that is read."""
    run("events")
    run("bench", "groq")
    journal = tmp_path / "journal.jsonl"
    journal.write_text(
        '{"type":"CallFailed","at":"2026-01-01T00:00:00Z","pid":1,"target":"","call_id":""}\n'
    )
    arguments = [*command.split(), *([str(journal)] if command == "journal" else [])]
    name = "" if command == "--help" else f" {arguments[0]}"
    with FULL.open("w") as full:
        process = _start(*arguments, stdout=full, unbuffered=unbuffered)
        _, err = process.communicate(timeout=PATIENCE)

    said = f"resilient-llm{name}: cannot write the output (No space left on device)\n"
    assert (1, said) == (process.returncode, err)


@pytest.mark.parametrize("command", [["benches"], ["health"], ["events"], ["bench", "openai"]])
def test_an_output_that_is_closed(service: str, run: Run, command: list[str]) -> None:
    """``>&-`` is no terminal: the command does what it is for, and what it prints goes nowhere."""
    run("events")
    run("bench", "groq")
    process = _start(*command, preexec_fn=lambda: os.close(1))
    _, err = process.communicate(timeout=PATIENCE)

    assert (0, "") == (process.returncode, err)


def test_warnings_do_not_go_where_the_output_goes(service: str, run: Run) -> None:
    """With standard error closed, JSON stays JSON."""
    keep = a_service()
    process = _start("bench", "gorq", "--json", preexec_fn=lambda: os.close(2))
    out, _ = process.communicate(timeout=PATIENCE)

    assert 0 == process.returncode
    assert "gorq" == json.loads(out)["model"]
    del keep


@pytest.mark.parametrize("value", ["", "  "])
@pytest.mark.parametrize("option", ["--admin", "--token"])
def test_an_empty_option_is_wrong_use(service: str, run: Run, option: str, value: str) -> None:
    """It is not taken for one that was left out: the environment may name another service."""
    status, _, err = run("benches", option, value)

    assert 2 == status
    assert f"{option} is empty" in err


FORGED = 'x" trigger=failures by="root'
ESCAPED = r'reason="x\" trigger=failures by=\"root"'


def test_no_reason_looks_like_further_fields(service: str, run: Run) -> None:
    """Quotation marks and backslashes in a value are escaped, and a key with blanks is quoted."""
    run("events")
    bench_model("groq", reason=FORGED, by='a"b')
    bench_model("groq/x trigger=failures", reason="ends with \\")
    bench_model("openai", reason="a\\nb")

    out = run("events").out

    assert ESCAPED in out
    assert r'by="a\"b"' in out
    assert ' "groq/x trigger=failures" ' in out
    assert r'reason="ends with \\"' in out
    assert r'reason="a\\nb"' in out


@pytest.mark.parametrize(
    ("key", "is_whole"), [("groq/llama-3.3-70b-versatile", True), ("x" * 70, False)]
)
def test_a_key_stays_in_one_line_of_a_terminal(key: str, is_whole: bool) -> None:
    """A key that takes up to half of a line is not folded, and a longer one is folded, not cut."""
    console = pytest.importorskip("rich.console")
    cells = [Cell(key), *(Cell("some words that take room " * 2) for _ in range(4))]
    screen = console.Console(width=80, record=True, file=io.StringIO())

    screen.print(table_of(["key", "a", "b", "c", "d"], [cells], 80))

    text = screen.export_text()
    assert (key in text) is is_whole
    assert "…" not in text
