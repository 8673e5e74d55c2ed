"""The commands themselves: their table, their help, what is misspelt, and what their start loads."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resilient_llm import cli
from resilient_llm.cli import _output
from resilient_llm.cli._output import lasting, moment, shown
from tests.cli.conftest import Run

ROOT = Path(cli.__file__).parents[2]
STEERING = ("benches", "bench", "unbench", "health", "chains", "events")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_has_a_module_and_a_help(run: Run, name: str) -> None:
    """Each line of the table stands for a module, whose help describes it and its exit statuses."""
    module = importlib.import_module(f"resilient_llm.cli.{name.replace('-', '_')}")

    status, out, err = run(name, "--help")

    assert callable(module.run)
    assert (0, "") == (status, err)
    assert out.startswith(f"usage: resilient-llm {name} ")
    assert max(map(len, out.splitlines())) <= 100
    if name in STEERING:
        assert {"--admin", "--token", "--state", "--namespace", "--json"} <= set(
            re.findall(r"--\w+", out)
        )
        assert "exit status: 0" in out


def test_the_help_lists_all_commands(run: Run) -> None:
    """``--help`` has a line a command, also where it ends by a missing command."""
    status, out, _ = run("--help")
    without = run()

    assert 0 == status
    assert list(cli.COMMANDS) == re.findall(r"^  ([a-z][\w-]+) ", out, re.MULTILINE)
    assert (2, "") == without[:2]
    assert all(name in without.err for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["benchs"], "there is no command 'benchs': did you mean benches or bench?"),
        (["helth"], "did you mean health?"),
        (["event"], "did you mean events or serve?"),
        (["zzz"], "there is no command 'zzz': there are benches, bench, unbench"),
        (["benches", "--jsn"], "there is no option '--jsn': did you mean --json?"),
        (["bench", "groq", "--util", "x"], "did you mean --until?"),
        (["events", "--follwo"], "did you mean --follow?"),
        (["benches", "--js"], "there is no option '--js': did you mean --json?"),
        (["--verison"], "did you mean --version?"),
        (["--"], "a command is expected first"),
        (["benches", "one"], "too many arguments"),
        (["spned"], "there is no command 'spned': did you mean spend?"),
        (["serv"], "there is no command 'serv': did you mean serve?"),
        (["benches", "--stat", "redis://x"], "there is no option '--stat': did you mean --state?"),
    ],
)
def test_what_is_misspelt(run: Run, arguments: list[str], said: str) -> None:
    """Commands and options that there are not are exit 2, with what is like them."""
    status, out, err = run(*arguments)

    assert (2, "") == (status, out)
    assert said in err
    assert err.startswith("usage: resilient-llm")


def test_what_follows_a_misspelt_option_is_not_shown(run: Run) -> None:
    """It may be a token."""
    for arguments in (["--tokne=hunter2"], ["--tokne", "hunter2"], ["hunter2"]):
        status, out, err = run("benches", *arguments)

        assert 2 == status
        assert "hunter2" not in out + err


HEAVY = {
    "anyio", "asyncio", "concurrent", "http", "logging", "openai", "rich", "ssl", "starlette",
    "tenacity", "urllib", "uvicorn", "wrapt",
}  # fmt: skip


def _loaded_by(*arguments: str) -> set[str]:
    """Return the top-level modules that a command loads in a fresh interpreter."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from resilient_llm.cli import main\n"
        f"try: main({list(arguments)!r})\n"
        "except SystemExit: pass\n"
        "import json; print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["bensh"]])
def test_the_start_is_light(arguments: list[str]) -> None:
    """Help, version and a misspelt command load no command, and neither network nor event loop."""
    assert set() == _loaded_by(*arguments) & HEAVY


def test_the_help_of_a_command_loads_no_event_loop() -> None:
    """The help of a command loads what it needs to ask a service, at most."""
    allowed = {"http", "urllib", "ssl"}

    assert set() == _loaded_by("benches", "--help") & (HEAVY - allowed - {"concurrent", "logging"})


def test_output_that_cannot_be_encoded() -> None:
    """A terminal without these letters gets their escapes, and not a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "resilient_llm", "bénch"],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )

    assert 2 == done.returncode
    assert b"Traceback" not in done.stderr


# The commands of the exporters.


@pytest.mark.parametrize("name", ["prometheus-rules", "grafana-dashboard"])
def test_what_prometheus_and_grafana_read_is_printed(run: Run, name: str) -> None:
    """The texts of the exporter are printed, under the namespace that is asked for."""
    prometheus = pytest.importorskip("resilient_llm.observers.prometheus")
    text = {"prometheus-rules": prometheus.rules, "grafana-dashboard": prometheus.dashboard}[name]

    status, out, err = run(name)
    named = run(name, "--namespace", "shop")
    wrong = run(name, "--namespace", "a-b")

    assert (0, "") == (status, err)
    assert text().rstrip("\n") + "\n" == out
    assert "shop_benched" in named.out
    assert "resilient_llm_benched" not in named.out
    assert (2, "") == wrong[:2]


# How values are printed.


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-1.0, "0s"),
        (0.4, "0s"),
        (59.4, "59s"),
        (60, "1m"),
        (61, "1m 1s"),
        (3600, "1h"),
        (5400, "1h 30m"),
        (5430, "1h 30m"),
        (90_000, "1d 1h"),
        (31_536_000, "365d"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    """A duration is shown in its two largest units."""
    assert text == lasting(seconds)


def test_moments() -> None:
    """A moment is shown in UTC, to the second; what is none as it is."""
    assert "2026-11-29 06:00:00Z" == moment("2026-11-29T07:59:59.999990+02:00")
    assert ["", "soon", "{}", "5"] == [moment(each) for each in (None, "soon", {}, 5)]
    assert "9999-12-31T23:59:59.9Z" == moment("9999-12-31T23:59:59.9Z")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("plain, grün, 日本 🙂", "plain, grün, 日本 🙂"),
        ("a\tb\r\nc", r"a\tb\r\nc"),
        ("\x00\x07\x1b[2J\x7f\x9b", r"\x00\x07\x1b[2J\x7f\x9b"),
        ("\u202e\u2066\u200b\ufeff\u2028", r"\u202e\u2066\u200b\ufeff\u2028"),
        ("\ud800", r"\ud800"),
        (None, ""),
        (5, "5"),
    ],
)
def test_what_is_not_printable_is_escaped(text: object, printed: str) -> None:
    """Control characters, directions of writing and invisible characters are shown as escapes."""
    assert printed == shown(text)


def test_empty_columns_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A column in which no row has anything is not printed."""
    _output.print_table(("a", "b", "c"), [("1", "", "3"), ("10", "", "")])

    assert "A   C\n1   3\n10\n" == capsys.readouterr().out


@pytest.mark.slow
def test_the_picture_of_the_documentation_is_drawn(tmp_path: Path) -> None:
    """The script that draws it runs the commands, and the picture loads nothing from elsewhere."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("rich")
    picture = tmp_path / "terminal.svg"

    subprocess.run(
        [sys.executable, ROOT / "docs/img/terminal.py", picture],
        check=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    text = picture.read_text(encoding="utf-8").replace("&#160;", " ")
    assert all(each in text for each in ("degraded", "network", "by hand", "openai/gpt-5-mini"))
    assert "url(http" not in text
    assert "href" not in text
