"""Parses TOML and JSON into a tree, and finds what the parsers of Python would take too long for.

Nesting is measured before they see the text: they are recursive, and TOML's takes time in the
square of the number of dots in a key.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.config._syntax_hints import LONGEST_HINTED, json_hint, toml_hint
from resilient_llm.config._tree import Table

if TYPE_CHECKING:
    from resilient_llm.config._tree import Problems

DEEPEST: Final = 16
"""Tables and lists that may be in one another, the whole file included."""
LONGEST_NUMBER: Final = 400
"""Digits of the longest whole number; no float can hold a longer one."""

_TOML_TOKENS: Final = re.compile(
    r"""
      (?P<text> \"{3} (?: [^"\\]++ | \\. | "{1,2}(?!") )*+ (?: \"{3,5} )?
              | '{3}  (?: [^']++ | '{1,2}(?!')         )*+ (?: '{3,5} )?
              | " (?: [^"\\\n]++ | \\. )*+ "?
              | ' [^'\n]*+ '? )
    | (?P<comment> \#[^\n]* )
    | (?P<open> [\[{] )
    | (?P<close> [\]}] )
    | (?P<dot> \. )
    | (?P<end> [=,\n] )
    """,
    re.VERBOSE | re.DOTALL,
)
_JSON_TOKENS: Final = re.compile(
    r"""
      (?P<text> " (?: [^"\\]++ | \\. )*+ "? )
    | (?P<open> [\[{] )
    | (?P<close> [\]}] )
    | (?P<word> -?(?:NaN|Infinity) )
    """,
    re.VERBOSE | re.DOTALL,
)
_TOML_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_REWORDED: Final = (
    (re.compile(r"Cannot overwrite a value"), "a key is written twice"),
    (re.compile(r"Duplicate inline table key .*"), "a key is written twice"),
    (re.compile(r"Cannot declare .* twice"), "a table is written twice"),
    (re.compile(r"Cannot redefine namespace .*"), "a table is written twice"),
    (
        re.compile(r"Cannot mutate immutable namespace .*"),
        "a table or list that is complete on one line is added to",
    ),
)
"""What messages of `tomllib` mean to somebody who has not read its code."""


def toml_tree(text: str, problems: Problems) -> Any:
    """Return the tree of a text in TOML."""
    _check_depth_of_toml(text, problems)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = _of_toml(str(error), text)
        raise problems.stop(f"the file is not TOML: {message}", line) from None
    except ValueError:  # of `int`, which does not tell where
        raise problems.stop(_TOO_LONG, _line_of_digits(text)) from None


def json_tree(text: str, problems: Problems) -> Any:
    """Return the tree of a text in JSON."""
    _check_depth_of_json(text, problems)
    try:
        return json.loads(text, object_pairs_hook=_table, parse_int=_whole)
    except json.JSONDecodeError as error:
        hint = json_hint(error.msg, text[error.pos : error.pos + LONGEST_HINTED])
        message = error.msg[:1].lower() + error.msg[1:] + hint
        raise problems.stop(f"the file is not JSON: {message}", error.lineno) from None
    except _TooLongError:
        raise problems.stop(_TOO_LONG, _line_of_digits(text)) from None


_TOO_LONG: Final = f"the file has a number of more than {LONGEST_NUMBER} digits"


class _TooLongError(Exception):
    """A whole number is too long to be read in reasonable time."""


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise _TooLongError
    return int(digits)


def _line_of_digits(text: str) -> int:
    found = re.search(rf"\d[\d_]{{{LONGEST_NUMBER},}}", text)
    return text.count("\n", 0, found.start() if found else 0) + 1


def _table(pairs: list[tuple[str, Any]]) -> Table:
    table = Table(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                table.repeated.append(key)
            seen.add(key)
    return table


def _of_toml(said: str, text: str) -> tuple[str, int]:
    """Return what TOML's parser says, without the line, and the line."""
    place = _TOML_PLACE.search(said)
    message = said if place is None else said[: place.start()]
    at_end = text.rstrip("\n").count("\n") + 1
    line = int(place[1]) if place and place[1] else at_end
    for pattern, meaning in _REWORDED:
        if pattern.fullmatch(message):
            return meaning, line
    hint = ""
    if place and place[1]:
        hint = toml_hint(message, text.split("\n")[line - 1][int(place[2]) - 1 :])
    return message[:1].lower() + message[1:] + hint, line


def too_deep(problems: Problems, line: int | None = None) -> Exception:
    return problems.stop(
        f"tables and lists are nested deeper than {DEEPEST}, which is the most allowed", line
    )


def _check_depth_of_toml(text: str, problems: Problems) -> None:
    # A key with more dots than are allowed is as deep as it has dots. A table and a key in it may
    # still be deeper together, which is found when the tree is walked.
    depth = dots = 0
    for token in _TOML_TOKENS.finditer(text):
        kind = token.lastgroup
        if kind == "dot":
            dots += 1
        elif kind == "open":
            depth += 1
            dots = 0
        elif kind == "close":
            depth = max(0, depth - 1)
        elif kind == "end":
            dots = 0
        if depth >= DEEPEST or dots >= DEEPEST:  # the file itself is one more
            raise too_deep(problems, text.count("\n", 0, token.start()) + 1)


def _check_depth_of_json(text: str, problems: Problems) -> None:
    depth = 0
    for token in _JSON_TOKENS.finditer(text):
        kind = token.lastgroup
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth = max(0, depth - 1)
        elif kind == "word":
            line = text.count("\n", 0, token.start()) + 1
            raise problems.stop(
                f"the file is not JSON: {token[0]} is no number that JSON has", line
            )
        if depth > DEEPEST:
            raise too_deep(problems, text.count("\n", 0, token.start()) + 1)
