"""Scalars of YAML, which follow the core schema of version 1.2, and what of YAML is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from resilient_llm.config import validate
from resilient_llm.config._reading import read


def value(written: str, tmp_path: Path) -> Any:
    """Return what a scalar stands for."""
    path = tmp_path / "config.yaml"
    path.write_text(f"targets:\n  a/b:\n    params:\n      x: {written}\n", encoding="utf-8")
    return read(path, environ={}).targets["a/b"]["params"]["x"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        *((each, each) for each in ("no", "yes", "on", "off", "y", "N", "No", "OFF", "trUe")),
        *((each, each) for each in ("1:30", "190:20:30", "2001-12-14", "1_000", "0b101", "0o9")),
        *((each, each) for each in ("=", "-a", "+", ".", "1e", "e3", "0x", "--1", "1.2.3", "nULL")),
        *((each, None) for each in ("", "~", "null", "Null", "NULL")),
        *((each, True) for each in ("true", "True", "TRUE")),
        *((each, False) for each in ("false", "False", "FALSE")),
        *(("12", 12), ("-12", -12), ("+12", 12), ("010", 10), ("0o17", 15), ("0xfF", 255)),
        *(("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-1.5E-3", -0.0015)),
        *(('"no"', "no"), ("'12'", "12"), ('"true"', "true"), ('""', ""), ("'~'", "~")),
        ("|\n        a\n        b\n", "a\nb\n"),
        ("{a: no, b: [1, off]}", {"a": "no", "b": [1, "off"]}),
    ],
)
def test_what_a_scalar_stands_for(written: str, expected: Any, tmp_path: Path) -> None:
    """Words of YAML 1.1 are text; numbers and booleans are those of the core schema."""
    found = value(written, tmp_path)

    assert (type(expected), expected) == (type(found), found)


@pytest.mark.parametrize("written", [".inf", "-.INF", "+.Inf", ".nan", ".NaN"])
def test_numbers_that_are_not_finite(written: str, tmp_path: Path) -> None:
    """They are numbers, which nothing takes."""
    path = tmp_path / "config.yaml"
    path.write_text(f"settings:\n  timeout: {written}\n")

    (problem,) = validate(path)

    expected = repr(float(written.replace(".", "", 1)))
    assert f"timeout={expected} is not allowed" in problem.message
    assert not math.isfinite(float(expected))


def test_keys_are_text(tmp_path: Path) -> None:
    """A chain may have the name of a word that is a value elsewhere."""
    path = tmp_path / "config.yaml"
    path.write_text("chains:\n  no: a/b\n  1: a/b\n  true: a/b\n  1.50: a/b\n  null: a/b\n")

    assert ["no", "1", "true", "1.50", "null"] == list(read(path).names)


def test_aliases_are_copied(tmp_path: Path) -> None:
    """A hundred of them are allowed."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "chains:\n  a: &chain [a/b, c/d]\n"
        + "".join(f"  c{number}: *chain\n" for number in range(99))
        + "  &name e: a/b\nprofiles: {p: {chains: {a: *chain}}}\n"
    )

    layer = read(path)

    assert layer.names["a"] == layer.names["c98"] == layer.profiles["p"].chains["a"]
    assert "e" in layer.names


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: !!python/object/apply:os.system [x]", 1, "tags such as '!!python/object"),
        ("a: !!str x", 1, "tags such as '!!str' are not allowed"),
        ("a: !local x", 1, "tags such as '!local' are not allowed"),
        ("a: ! x", 1, "tags such as '!' are not allowed"),
        ("a: !!set {x}", 1, "tags such as '!!set' are not allowed"),
        ("!!map {a: 1}", 1, "tags such as '!!map' are not allowed"),
        ("a: &x [*x]", 1, "refers to no value that is complete before it"),
        ("? [a]\n: b", 1, "a key of a table is no text"),
        ("a:\n  <<: {b: 1}", 2, "'<<' merges tables in YAML 1.1"),
        ("a: 1\n--- 2", 2, "more than one YAML document"),
        ("a: 1\n...\n---\nb: 1", 3, "more than one YAML document"),
        ("%YAML 3.0\n---\na: 1", 1, "the file is not YAML"),
        ("a: \x00", 1, "the file is not YAML"),
        ("a\tb:\n\t- c", 2, "the file is not YAML"),
    ],
)
def test_what_is_refused(text: str, line: int, said: str, tmp_path: Path) -> None:
    """It is a problem with a line, and nothing of it is run."""
    path = tmp_path / "config.yaml"
    path.write_text(text)

    (problem,) = validate(path)

    assert said in problem.message
    assert line == problem.line


def test_a_quoted_merge_key_is_a_key(tmp_path: Path) -> None:
    """Only the plain one would be taken for one."""
    path = tmp_path / "config.yaml"
    path.write_text('targets: {a/b: {params: {"<<": 1}}}')

    assert {"<<": 1} == read(path).targets["a/b"]["params"]


QUOTED_IN_BRACES = "; a text with ${…} needs quotes where it stands in {…} or […]"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("chains:\n  default: @fast\n", "; a text that begins with @ needs quotes"),
        ("chains:\n  default: [groq/a, @fast]\n", "; a text that begins with @ needs quotes"),
        ("chains:\n  default:\n  - @fast\n", "; a text that begins with @ needs quotes"),
        ("chains:\n  default: `fast`\n", "; a text that begins with ` needs quotes"),
        ("chains:\n  default: %fast\n", "; a text that begins with % needs quotes"),
        ("chains: {default: ${M:-x}}\n", QUOTED_IN_BRACES),
        ("chains:\n  default: [groq/a, ${M}]\n", QUOTED_IN_BRACES),
        ("chains:\n  default: [groq/a,\n ${M}/x]\n", QUOTED_IN_BRACES),
        ("chains: {default: $${M}}\n", QUOTED_IN_BRACES),
        ("chains: {default: {a}b}\n", ""),
        ("chains: {default: ['${M}', x}\n", ""),
        ("chains: [a\n", ""),
    ],
)
@pytest.mark.parametrize("parser", ["C", "Python"])
def test_a_hint_at_quotes(
    parser: str, text: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts that people write without quotes, and only those, with either parser."""
    import yaml

    if parser == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    path = tmp_path / "config.yaml"
    path.write_text(text)

    (problem,) = validate(path)

    assert problem.message.startswith("the file is not YAML: ")
    assert hint == "".join(problem.message.partition("; a text")[1:])


@pytest.mark.parametrize("text", ["chains:\n  a: ${M:-x/y}\n", "chains: {a: '${M:-x/y}'}\n"])
def test_a_variable_where_it_needs_no_quotes(text: str, tmp_path: Path) -> None:
    """Without braces around, and in quotes."""
    path = tmp_path / "config.yaml"
    path.write_text(text)

    assert ["a"] == list(read(path, environ={}).names)
