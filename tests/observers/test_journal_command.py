"""``resilient-llm journal``: what it prints of the files of a journal, and what it survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import TargetBenched, bench_model
from resilient_llm.cli import main
from resilient_llm.observers import jsonl
from resilient_llm.testing import FakeClock

PATIENCE = 40.0
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def line(reason: str = "", target: str = "groq/llama", ago: float = 0.0, **fields: Any) -> str:
    at = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat()
    event = {"type": "TargetBenched", "at": at, "pid": 7, "target": target, "call_id": ""}
    return json.dumps({**event, "reason": reason, **fields}) + "\n"


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert 0 == main(["journal", *map(str, arguments), "--json"])
    return [json.loads(each) for each in capsys.readouterr().out.splitlines()]


def reasons(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    return [each["reason"] for each in printed(capsys, *arguments)]


def test_it_prints_what_a_journal_has_written(
    clock: FakeClock, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line an event: moment, type, target, fields; with `--json` the lines themselves."""
    exporter = jsonl.install(path, TargetBenched)
    bench_model("groq/llama", 60, reason="too slow")
    exporter()

    assert 0 == main(["journal", str(path)])
    (text,) = capsys.readouterr().out.splitlines()
    assert path.read_text() == "".join(
        json.dumps(each, separators=(",", ":")) + "\n" for each in printed(capsys, path)
    )
    at = json.loads(path.read_text())["at"]
    assert text.startswith(f'{at} TargetBenched groq/llama kind=null reason="too slow" ')
    assert f"pid={os.getpid()}" in text


def test_rotated_files_are_read_too(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The oldest first, by number; other files that are there are not."""
    for number, name in enumerate(["journal.jsonl.10", "journal.jsonl.2", "journal.jsonl.1"]):
        path.with_name(name).write_text(line(str(number)))
    path.write_text(line("3"))
    for name in ("journal.jsonl.gz", "journal.jsonl.01", "journal.jsonl.0", "ajournal.jsonl.1"):
        path.with_name(name).write_text(line("no"))

    assert ["0", "1", "2", "3"] == reasons(capsys, path)


@pytest.mark.parametrize(
    ("since", "expected"),
    [("90s", "cd"), ("1h30m", "bcd"), ("2d", "abcd"), ("1m", "d"), ("1d1h1m1s", "abcd")],
)
def test_since_leaves_out_what_is_older(
    path: Path, capsys: pytest.CaptureFixture[str], since: str, expected: str
) -> None:
    """A duration of days, hours, minutes and seconds."""
    for reason, ago in zip("abcd", (80_000, 5_000, 80, 1), strict=True):
        with path.open("a") as file:
            file.write(line(reason, ago=ago))

    assert list(expected) == reasons(capsys, path, "--since", since)


@pytest.mark.parametrize(
    "since", ["", "h", "1", "1.5h", "-1h", "1h 2m", "1m1h", "0s", "99999999999d", "9" * 5000 + "s"]
)
def test_a_wrong_duration_is_refused(
    path: Path, capsys: pytest.CaptureFixture[str], since: str
) -> None:
    """With what is allowed; exit status 2."""
    with pytest.raises(SystemExit) as caught:
        main(["journal", str(path), f"--since={since}"])

    assert 2 == caught.value.code
    assert "write a duration such as 90s, 15m, 1h30m or 2d" in capsys.readouterr().err


def test_target_picks_a_key(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly this key: a provider is not its models."""
    path.write_text(line("a", "groq") + line("b", "groq/llama") + line("c", "openai"))

    assert ["a"] == reasons(capsys, path, "--target", "groq")
    assert ["b"] == reasons(capsys, path, "--target", "groq/llama")
    assert [] == reasons(capsys, path, "--target", "cohere")


def test_broken_lines_are_skipped_and_counted(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, so that the output stays what it is; blank lines count as well."""
    broken = [
        '{"type":"Targ',
        "",
        "[]",
        "3",
        '{"type":3,"at":"2026-01-01T00:00:00Z","target":""}',
        '{"type":"X","at":"yesterday","target":""}',
        '{"type":"X","at":3,"target":""}',
        "[" * 100_000,
        '{"type":"X","at":"0001-01-01T00:00:00+23:59","target":""}',
    ]
    raw = "\n".join([line("a").strip(), *broken, line("b").strip()]).encode()
    path.write_bytes(raw + b"\n\xff\xfe\n" + line("c").encode() + line("torn").encode()[:30])

    assert 0 == main(["journal", str(path), "--json"])

    out, err = capsys.readouterr()
    assert ["a", "b", "c"] == [json.loads(each)["reason"] for each in out.splitlines()]
    assert "11 broken lines were skipped\n" == err


def test_control_characters_are_escaped(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No reason of anybody steers the terminal, in no field and with no option."""
    evil = "\x1b[2J\x07\r\x9b31m\u202e\u2028\x7f\ud800"
    path.write_text(line(f"a{evil}", f"t{evil}", **{f"f{evil}": [evil]}))

    for arguments in ([], ["--json"]):
        assert 0 == main(["journal", str(path), *arguments])
        out = capsys.readouterr().out
        assert out.endswith("\n")
        assert out[:-1].isprintable()
        assert 1 == out.count("\n")


def test_a_journal_that_is_not_there_is_an_error(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1, and why."""
    assert 1 == main(["journal", str(path)])
    assert "cannot be read (No such file or directory)" in capsys.readouterr().err
    path.mkdir()
    assert 1 == main(["journal", str(path)])
    assert "cannot be read (Is a directory)" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_traceback(path: Path) -> None:
    """`resilient-llm journal … | head` ends quietly."""
    path.write_text(line("x" * 200) * 5_000)
    command = [sys.executable, "-m", "resilient_llm", "journal", str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as head:
        assert head.stdout is not None
        assert head.stderr is not None
        head.stdout.readline()
        head.stdout.close()
        assert b"" == head.stderr.read()
        assert 1 == head.wait(PATIENCE)


def test_follow_goes_on_over_rotations(path: Path) -> None:
    """Whole lines as they come, none lost and none twice; Ctrl-C ends it with status 130."""
    path.write_text(line("first"))
    command = [sys.executable, "-m", "resilient_llm", "journal", str(path), "--follow", "--json"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None

        def next_reason() -> str:
            assert follower.stdout is not None
            return json.loads(follower.stdout.readline())["reason"]

        assert "first" == next_reason()
        with path.open("a") as file:
            half = line("second")
            file.write(half[:20])
            file.flush()
            file.write(half[20:] + "broken\n" + line("third"))
        assert ["second", "third"] == [next_reason(), next_reason()]
        with path.open("a") as file:
            file.write(line("before the rotation"))
        path.rename(path.with_name("journal.jsonl.2"))
        path.with_name("journal.jsonl.1").write_text(line("between"))
        path.write_text(line("after"))
        assert ["before the rotation", "between", "after"] == [next_reason() for _ in range(3)]
        path.unlink()
        path.write_text(line("anew"))
        assert "anew" == next_reason()

        follower.send_signal(signal.SIGINT)
        assert 130 == follower.wait(PATIENCE)
        assert "1 broken line was skipped\n" == follower.stderr.read()


def test_follow_reads_what_a_rotating_journal_writes(path: Path) -> None:
    """The real writer, which rotates every few lines."""
    exporter = jsonl.install(path, TargetBenched, max_bytes=700, backups=500)
    command = [sys.executable, "-m", "resilient_llm", "journal", str(path), "--follow", "--json"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        got: list[str] = []
        for number in range(60):
            bench_model("groq/llama", 60, reason=str(number))
            if number % 5 == 0:
                assert exporter.flush(PATIENCE)
                if number % 20 == 0:
                    got.append(json.loads(follower.stdout.readline())["reason"])
        assert exporter.flush(PATIENCE)
        while len(got) < 60:
            got.append(json.loads(follower.stdout.readline())["reason"])
        follower.send_signal(signal.SIGINT)
        assert 130 == follower.wait(PATIENCE)

    assert [str(number) for number in range(60)] == got


def test_no_text_looks_like_further_fields(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Quotation marks and backslashes are escaped, also in keys and in names of fields."""
    forged = 'x" trigger=failures by="root'
    path.write_text(
        line(forged, "groq/x by=root", **{"odd name": 1, "more": "a\\"}), encoding="utf-8"
    )

    assert 0 == main(["journal", str(path)])

    out = capsys.readouterr().out
    assert r'reason="x\" trigger=failures by=\"root" "odd name"=1 more="a\\" ' in out
    assert ' "groq/x by=root" reason=' in out
