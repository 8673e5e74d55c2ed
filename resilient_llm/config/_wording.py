"""Says in the words of a file what checks of the library say in those of Python.

The checks are the same for code and for files. TOML, JSON and YAML write ``true`` and ``false``,
and TOML has no null: what may be None in code can be left out of a file.
"""

from __future__ import annotations

import re
from typing import Final

LEFT_OUT: Final = ", or leave the option out"
"""What a message adds to what may be written, for an option that may be None in code."""

_WRITE: Final = ": write "
_OR_NONE: Final = re.compile(r",? or None(?=$|;)")
_PHRASES: Final = (
    ("True or False", "true or false"),
    ("a sequence of words", "a list of words"),
    ("a mapping of keywords to values", "a table of keyword arguments"),
)
_GIVEN: Final = re.compile(r"(\w+=|[a-z ]+ of )(True|False|None)(?= )")
_CONSTANTS: Final = {"True": "true", "False": "false", "None": "null"}


def allowed_in_a_file(allowed: str) -> str:
    """Return what may be written in a file, without that an option can be left out.

    >>> allowed_in_a_file("True or False, or None")
    'true or false'
    """
    allowed = _OR_NONE.sub("", allowed)
    for in_code, written in _PHRASES:
        allowed = allowed.replace(in_code, written)
    return allowed


def may_be_left_out(allowed: str) -> bool:
    """Return whether a phrase of code says that None is allowed."""
    return _OR_NONE.search(allowed) is not None


def said_of_a_file(said: str) -> str:
    """Return what a check said, for the problem of a file; a text that it quotes stays as it is.

    >>> said_of_a_file("slow_call=True is not allowed: write a number above 0, or None")
    'slow_call=true is not allowed: write a number above 0, or leave the option out'
    """
    given = _GIVEN.match(said)
    if given is not None:
        said = f"{given[1]}{_CONSTANTS[given[2]]}{said[given.end() :]}"
    what, write, allowed = said.rpartition(_WRITE)
    if not write:
        return said
    allowed = _OR_NONE.sub(LEFT_OUT, allowed)
    return f"{what}{write}{allowed_in_a_file(allowed)}"
