"""What is said about each file that has problems, word by word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config import bad_files
from tests.fuzz.fuzz_config import is_one_line

FILES = bad_files.files()


@pytest.fixture(autouse=True)
def _in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in messages are those that were given, so they are short ones here."""
    monkeypatch.chdir(bad_files.FOLDER)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_messages_of_a_file(file: Path) -> None:
    """All problems are told, each with its place, and with the words that were reviewed."""
    said = [str(each) for each in bad_files.problems_of(file)]

    assert bad_files.expected(file).read_text("utf-8").splitlines() == said
    assert said


def test_each_list_of_messages_has_a_file() -> None:
    """No list is left of a file that is gone."""
    lists = {each.name for each in bad_files.FOLDER.glob("*.txt")}

    assert {bad_files.expected(each).name for each in FILES} == lists


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_message_has_the_value_of_a_variable(file: Path) -> None:
    """Neither the words nor their parts for programs show what is in the environment."""
    for problem in bad_files.problems_of(file):
        shown = f"{problem!r} {problem}".lower()
        for value in filter(None, bad_files.ENVIRON.values()):
            assert value.lower() not in shown
        assert "hunter2" not in shown


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_message_is_one_line(file: Path) -> None:
    """Nothing that is written in a file breaks or forges a line."""
    for problem in bad_files.problems_of(file):
        assert is_one_line(str(problem))


SYNTAX = [
    each
    for each in FILES
    if each.suffix in (".toml", ".json")
    if each.stem.startswith(("syntax", "nan", "infinity", "added", "long_number", "latin1"))
    or each.name in ("twice.toml", "twice_inline.toml", "twice_table.toml")
]


@pytest.mark.parametrize("file", SYNTAX, ids=lambda file: file.name)
def test_a_syntax_error_has_a_line(file: Path) -> None:
    """That of TOML and JSON always, from 1."""
    (problem,) = bad_files.problems_of(file)

    assert problem.line is not None
    assert problem.line >= 1
    assert file.name == problem.where


def test_problems_of_names_have_their_parts() -> None:
    """What is allowed and the nearest name are there for programs, too."""
    by_where = {
        each.where.partition(": ")[2]: each
        for each in bad_files.problems_of(bad_files.FOLDER / "unknown_options.toml")
    }

    assert "attempts" == by_where["settings.attemps"].suggestion
    assert (by_where["settings.attemps"].allowed or "").startswith("attempts, max_attempts")
    assert None is by_where["limits.groq.rpm"].suggestion
    assert "attempts" == by_where["settings.num_retries"].suggestion


def test_problems_of_values_have_their_parts() -> None:
    """The same for words and ranges."""
    by_where = {
        each.where.partition(": ")[2]: each
        for name in ("wrong_words.toml", "wrong_ranges.toml", "unknown_names.toml")
        for each in bad_files.problems_of(bad_files.FOLDER / name)
    }

    assert "next" == by_where["settings.on_unknown"].suggestion
    assert "'next' or 'raise' or 'transient'" == by_where["settings.on_unknown"].allowed
    assert "Europe/Berlin" == by_where["budgets[0].zone"].suggestion
    assert "a whole number, 1 or more" == by_where["settings.attempts"].allowed
    assert "@fast" == by_where["chains.fast[1]"].suggestion
    assert "@fast, @main, @mixed" == by_where["chains.fast[1]"].allowed
