"""A file of 256 KiB is read, or refused, in a second and in 100 MB, whatever is in it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from resilient_llm.config import InvalidConfigError
from resilient_llm.config._reading import read
from resilient_llm.config._source import LARGEST

LONGEST: Final = 3.0
"""Seconds of processor time. Each takes less than one where nothing else is measured."""
MOST: Final = 100e6
"""Bytes."""
ENVIRON: Final = {"BIG": "x" * 100_000}


def full(before: str, part: str | Callable[[int], str], after: str = "") -> str:
    """Return a text of just 256 KiB."""
    left = LARGEST - len(before) - len(after)
    parts: list[str] = []
    while True:
        each = part if isinstance(part, str) else part(len(parts))
        left -= len(each)
        if left < 0:
            return before + "".join(parts) + after
        parts.append(each)


def laughs(of: str) -> str:
    first = f"a0: &a0 [{','.join([of] * 9)}]\n"
    more = (f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 11))
    return first + "".join(more)


CASES: dict[str, tuple[str, str]] = {
    "unknown options": ("toml", full("[settings]\n", lambda n: f"a{n}=1\n")),
    "misspelt options": ("toml", full("[settings]\n", lambda n: f"attempt{n}=1\n")),
    "unknown sections": ("json", full("{", lambda n: f'"chain{n}":1,', '"x":1}')),
    "unknown options in YAML": ("yaml", full("settings:\n", lambda n: f" a{n}: 1\n")),
    "chains": ("toml", full("[chains]\n", lambda n: f'a{n}="b/c{n}"\n')),
    "misspelt names": (
        "toml",
        full("[chains]\n", lambda n: f'name{n}="@names{n}"\n' if n < 9000 else "#"),
    ),
    "bad specs": ("toml", full("[chains]\n", lambda n: f'a{n}="b"\n' if n < 9000 else "#")),
    "a line of names": (
        "toml",
        full("[chains]\n", lambda n: f'a{n}="@a{n + 1}"\n' if n < 9000 else "#"),
    ),
    "a circle of names": (
        "toml",
        full("[chains]\n", lambda n: f'a{n}="@a{(n + 1) % 9000}"\n' if n < 9000 else "#"),
    ),
    "many circles of names": (
        "toml",
        full("[chains]\n", lambda n: f'a{n}="@a{n + 1},@a0"\n' if n < 4500 else "#"),
    ),
    "one long chain": ("toml", full('[chains]\na="', lambda n: f"b/{n},", 'b/c"')),
    "profiles over many names": (
        "toml",
        full(
            "[chains]\n" + "".join(f'a{n}="@a{n + 1}"\n' for n in range(4000)) + 'a4000="x/y"\n',
            lambda n: f'[profiles.p{n}]\nchains.x="@a0"\n',
        ),
    ),
    "profiles": ("toml", full("", lambda n: f'[profiles.p{n}.chains]\nx="a/b"\n')),
    "limits": ("toml", full("", lambda n: f"[limits.a{n}]\nrequests=1\n")),
    "bad limits": ("toml", full("", lambda n: f'[limits.a{n}]\nper="minut"\n')),
    "bad breakers": ("toml", full("", lambda n: f'[breakers.a{n}]\nmode="enforced"\n')),
    "bad zones": ("toml", full("", lambda n: f'[[budgets]]\nzone="Europe/Berl{n}"\n')),
    "budgets": ("toml", full("", lambda n: f'[[budgets]]\ncalls=1\nname="{n}"\n')),
    "prices": ("json", full('{"prices":{', lambda n: f'"a{n}":[1,2],', '"x":[1,1]}}')),
    "targets": ("toml", full("", lambda n: f'[targets."a/{n}"]\nweight=1\n')),
    "routes": ("toml", full("", lambda n: f'[routes.a{n}]\notherwise="a/b"\n')),
    "rules": (
        "toml",
        full(
            '[routes.a]\notherwise="a/b"\n',
            lambda n: f'[[routes.a.rules]]\nchain="a/b"\nmodel="*{n}*"\n',
        ),
    ),
    "patterns": (
        "toml",
        full(
            '[routes.a]\notherwise="a/b"\n',
            lambda n: f'[[routes.a.rules]]\nchain="a/b"\nregex="(a{{99}}){{9}}{n}"\n',
        ),
    ),
    "a long spec": ("toml", full('[chains]\na="', "x", '"')),
    "a long value": ("toml", full('[settings]\ntimeout="', "x", '"')),
    "a long word": ("toml", full('[settings]\nstrategy="', "x", '"')),
    "a long key": ("toml", full('[settings]\n"', "x", '"=1')),
    "a key with dots": ("toml", full("", "a.", "a=1")),
    "a header with dots": ("toml", full("[", "a.", "a]")),
    "brackets": ("toml", full("a=", "[")),
    "brackets in JSON": ("json", full('{"a":', "[")),
    "brackets in YAML": ("yaml", full("", "[")),
    "dashes in YAML": ("yaml", full("", "- ")),
    "braces in YAML": ("yaml", full("", "{a: ")),
    "question marks in YAML": ("yaml", full("", "? ")),
    "anchors": ("yaml", full("", lambda n: f"- &a{n} x\n")),
    "numbers": ("json", full('{"targets":{"a/b":{"params":{"x":[', "0,", "0]}}}}")),
    "numbers in YAML": ("yaml", full("a: [", "0,", "0]")),
    "billion laughs": ("yaml", laughs("lol")),
    "billion laughs of specs": ("yaml", "chains:\n  x: &c a/b\n" + laughs("*c")),
    "a long chain, aliased": (
        "yaml",
        'x: &a "' + "b/c," * 2000 + 'b/c"\nchains:\n' + "".join(f" c{n}: *a\n" for n in range(90)),
    ),
    "a long variable": ("toml", full("[chains]\n", lambda n: f'a{n}="${{BIG}}"\n')),
    "missing variables": ("toml", full("[chains]\n", lambda n: f'a{n}="${{N{n}}}"\n')),
    "open variables": ("toml", full("chains.a='", "${", "'")),
    "open defaults": ("toml", full("chains.a='", "${A:-", "}'")),
    "open strings": ("toml", full('a="""', '\\"', "")),
    "quotes": ("toml", full("", '"')),
    "quotes in a string": ("toml", full("a='''", "''x", "'''")),
    "tables": ("toml", full("", "[[a]]\n")),
    "a long number": ("json", full('{"a":', "1", "}")),
    "a long number in TOML": ("toml", full("a=", "1")),
    "a long number in YAML": ("yaml", full("a: ", "1")),
    "a long hexadecimal number": ("toml", full("settings.attempts=0x", "f")),
    "halves of characters": (
        "json",
        full('{"chains":{', lambda n: f'"c{n}":"\\ud800",', '"x":"y/z"}}'),
    ),
    "empty lines": ("toml", full("", "\r\n")),
}


@pytest.mark.parametrize("name", CASES)
def test_the_time_and_the_memory_of(name: str, tmp_path: Path) -> None:
    """Reading it gives a layer or problems; the messages count, too."""
    kind, text = CASES[name]
    path = tmp_path / f"config.{kind}"
    path.write_text(text, encoding="utf-8")
    assert path.stat().st_size <= LARGEST

    def run() -> None:
        try:
            read(path, environ=ENVIRON)
        except InvalidConfigError as error:
            str(error)

    began = time.process_time()
    run()
    seconds = time.process_time() - began
    tracemalloc.start()
    try:
        run()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert seconds < LONGEST
    assert peak < MOST


def test_all_problems_are_kept(tmp_path: Path) -> None:
    """However many there are; the message of the error shows the first twenty."""
    path = tmp_path / "config.toml"
    path.write_text(CASES["unknown options"][1])

    with pytest.raises(InvalidConfigError) as caught:
        read(path)

    problems = caught.value.problems
    assert 30_000 < len(problems)
    assert {"a number of options"} != {each.message for each in problems}
    assert 22 == len(str(caught.value).splitlines())
    assert f"and {len(problems) - 20:,} more" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chains", "more than 10,000 entries"),
        ("numbers", "more than 50,000 values"),
        ("rules", "more than 1,000 rules"),
        ("patterns", "more than 50 conditions 'regex'"),
        ("billion laughs", "more than 50,000 values"),
        ("a long variable", "variables have more than 256 KiB"),
        ("a long chain, aliased", "more than 10,000 entries"),
    ],
)
def test_what_is_too_much_is_said(name: str, said: str, tmp_path: Path) -> None:
    """Each bound has a message of its own, which is the last one."""
    kind, text = CASES[name]
    path = tmp_path / f"config.{kind}"
    path.write_text(text)

    with pytest.raises(InvalidConfigError) as caught:
        read(path, environ=ENVIRON)

    assert said in caught.value.problems[-1].message


def test_names_that_too_many_profiles_refer_to() -> None:
    """What cannot be looked up in time is refused, and not taken for free of loops."""
    given = {
        "chains": {**{f"a{n}": f"@a{n + 1}" for n in range(1000)}, "a1000": "x/y"},
        "profiles": {f"p{n}": {"chains": {"x": "@a0"}} for n in range(500)},
    }

    with pytest.raises(InvalidConfigError, match="all profiles together refer to too many names"):
        read(given)


def test_ten_thousand_entries_are_allowed() -> None:
    """A chain may be as long as one in code."""
    layer = read({"chains": {"a": [f"b/{n}" for n in range(10_000)]}})

    assert 10_000 == len(layer.names["a"].entries)  # type: ignore[union-attr]
