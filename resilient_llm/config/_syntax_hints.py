"""Hints for syntax errors that people make who know another format better than this one.

A hint shows nothing of what is written, which may be a password.
"""

from __future__ import annotations

import re
from typing import Final

QUOTED_KEY: Final = 'a key with a dot or a slash needs quotes, as in "openai/gpt-4.1"'
"""Hint for TOML, where a dot in a key makes a table in a table."""
_QUOTED_KEY: Final = (
    'a key with other characters than letters, digits, _ and - needs quotes, as in "openai/gpt-4.1"'
)
LONGEST_HINTED: Final = 20
"""Characters after the place of an error that a hint may depend on."""

_WORD: Final = re.compile(r"[A-Za-z]+(?![\w/@.:-])")
_TRUE_OR_FALSE: Final = frozenset(("true", "false"))
_YES_OR_NO: Final = frozenset(("yes", "no", "on", "off"))
_NULL: Final = frozenset(("none", "null", "nil"))
_BEGINS_TEXT: Final = re.compile(r"[A-Za-z@$/*]")
_KEY_ERRORS: Final = frozenset(
    (
        "Expected '=' after a key in a key/value pair",
        "Expected ']' at the end of a table declaration",
        "Expected ']]' at the end of an array declaration",
        "Invalid initial character for a key part",
        "Invalid statement",
    )
)
_IN_A_KEY: Final = frozenset("/@:*")


def toml_hint(message: str, rest: str) -> str:
    """Return a hint for a syntax error of TOML, or nothing.

    Args:
        message: What the parser of TOML says.
        rest: The line from the place of the error.
    """
    if message in _KEY_ERRORS and rest[:1] in _IN_A_KEY:
        return f"; {_QUOTED_KEY}"
    if message != "Invalid value":
        return ""
    found = _constant(rest, "TOML")
    if found:
        return found
    if _word(rest) in _NULL:
        return "; TOML has no null: leave the option out"
    return "; a text needs quotes" if _BEGINS_TEXT.match(rest) else ""


def json_hint(message: str, rest: str) -> str:
    """Return a hint for a syntax error of JSON, or nothing; ``rest`` begins at its place."""
    if message != "Expecting value":
        return ""
    found = _constant(rest, "JSON")
    if found:
        return found
    if _word(rest) in _NULL:
        return "; JSON writes null"
    return "; a text needs double quotes" if _BEGINS_TEXT.match(rest) or rest[:1] == "'" else ""


def yaml_hint(problem: str, rest: str, before: str) -> str:
    """Return a hint for a syntax error of YAML, or nothing.

    Args:
        problem: What the parser says.
        rest: The text from the place of the error.
        before: The character before that.
    """
    if "cannot start any token" in problem and rest[:1] in ("@", "`", "%"):
        return f"; a text that begins with {rest[0]} needs quotes"
    if rest[:1] == "{" and before == "$":
        return "; a text with ${…} needs quotes where it stands in {…} or […]"
    return ""


def _word(rest: str) -> str:
    found = _WORD.match(rest)
    return "" if found is None else found[0].lower()


def _constant(rest: str, name: str) -> str:
    word = _word(rest)
    if word in _TRUE_OR_FALSE:
        return f"; {name} writes true and false in small letters"
    return "; write true or false, or a text in quotes" if word in _YES_OR_NO else ""
