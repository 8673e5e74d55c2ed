"""What a configuration is once it is parsed, and the problems that are found in it.

A parsed configuration is a tree of tables, lists and plain values. `Problems` collects what is
wrong in one, and bounds what that costs: a file of 256 KiB may have tens of thousands of problems.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from resilient_llm._values.checks import near_names
from resilient_llm._values.configuration import ConfigProblem
from resilient_llm._values.escaping import escaped
from resilient_llm._values.keys import shown

Path = tuple[str | int, ...]
"""Keys of tables and indexes of lists, from the root to a place."""

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_LONGEST_KEY: Final = 60
_LONGEST_MESSAGE: Final = 1_000
_LONGEST_WORD: Final = 100
"""Characters of the longest word for which a near name is looked for."""
_MOST_COMPARED: Final = 5_000
"""Pairs of words that are compared for suggestions, in one configuration."""
_MOST_IN_DETAIL: Final = 500
"""Problems above which messages are made without suggestions."""


class Table(dict[str, Any]):
    """A table as a parser made it.

    Attributes:
        lines: ``{key: its line}``, from 1, if the parser tells.
        repeated: Keys that are written more than once, in order.
    """

    __slots__ = ("lines", "repeated")

    def __init__(self, entries: Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__(entries)
        self.lines: dict[str, int] = {}
        self.repeated: list[str] = []


class Items(list[Any]):
    """A list as a parser made it; ``lines`` has the line of each item, if the parser tells."""

    __slots__ = ("lines",)

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(items)
        self.lines: list[int] = []


class Written:
    """A text with variables of the environment in it.

    Attributes:
        text: As it is written, which is what messages show.
        value: With the values of the variables; None if one of them is missing.
        is_one: Whether it is one variable and nothing else, so that it may be a number.
    """

    __slots__ = ("is_one", "text", "value")

    def __init__(self, text: str, value: str | None, *, is_one: bool) -> None:
        self.text = text
        self.value = value
        self.is_one = is_one

    def __repr__(self) -> str:
        return f"<{self.text}>"


def as_written(node: Any) -> Any:
    """Return a part of a tree as plain values, texts with variables as they are written."""
    if isinstance(node, Written):
        return node.text
    if isinstance(node, Table):
        return {name: as_written(each) for name, each in node.items()}
    if isinstance(node, Items):
        return [as_written(each) for each in node]
    return node


class UnreadableError(Exception):
    """Nothing more can be found out about a configuration; the problems tell why."""


def place(path: Path) -> str:
    """Return a path as TOML would write it: ``targets."groq/llama".params``."""
    parts: list[str] = []
    for each in path:
        if isinstance(each, int):
            parts.append(f"[{each}]")
            continue
        key = each if _BARE.fullmatch(each) else json.dumps(each, ensure_ascii=False)
        key = key if len(key) <= _LONGEST_KEY else f"{key[:40]}…"
        parts.append(f".{key}" if parts else key)
    return escaped("".join(parts))


class Problems:
    """Collects the problems of one configuration.

    Args:
        source: The path as it was given, or ``"mapping"``.
    """

    def __init__(self, source: str) -> None:
        self.source = escaped(source)
        self.root: Any = None
        """The tree as the parser made it, for the lines in it."""
        self.found: list[ConfigProblem] = []
        self._compared = 0

    @property
    def is_toml(self) -> bool:
        """Whether the source is a file in TOML, where a dot in a key makes a table in a table."""
        return self.source.lower().endswith(".toml")

    @property
    def is_detailed(self) -> bool:
        """Whether there are so few problems that each may cost a search for near names."""
        return len(self.found) < _MOST_IN_DETAIL

    def add(
        self,
        path: Path,
        message: str,
        *,
        allowed: str | None = None,
        suggestion: str | None = None,
        line: int | None = None,
    ) -> None:
        """Add one; its line is looked up unless it is given."""
        message = escaped(message)
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]}…"
        where = f"{self.source}: {place(path)}" if path else self.source
        line = self._line(path) if line is None else line
        self.found.append(ConfigProblem(where, message, allowed, suggestion, line))

    def stop(self, message: str, line: int | None = None) -> UnreadableError:
        """Add a problem of the whole source, after which nothing can be read."""
        self.add((), message, line=line)
        return UnreadableError()

    def near(self, name: str, known: Iterable[str]) -> str | None:
        """Return the known name that is most like one, as long as there is time to look for it."""
        names = list(known)
        self._compared += len(names)
        if self._compared > _MOST_COMPARED or len(name) > _LONGEST_WORD:
            return None
        found = near_names(name, names)
        return found[0] if found else None

    def _line(self, path: Path) -> int | None:
        node, line = self.root, None
        for each in path:
            if isinstance(node, Table) and isinstance(each, str):
                line, node = node.lines.get(each, line), node.get(each)
            elif isinstance(node, Items) and isinstance(each, int) and each < len(node):
                line, node = (node.lines[each] if node.lines else line), node[each]
            else:
                break
        return line


def described(value: Any) -> str:
    """Return what a value of the wrong type is, for messages; a text is not quoted.

    >>> described(3), described({}), described("groq")
    ('3', 'a table', 'a text')
    """
    if isinstance(value, Written):
        return cut(value.text)
    if isinstance(value, str):  # which may be a password in the wrong place
        return "a text"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    return repr(value) if isinstance(value, (int, float)) else f"of type {type(value).__name__}"


def cut(text: str) -> str:
    """Return a text as messages show it, without quotes."""
    return text if len(text) <= _LONGEST_KEY else f"{text[:40]}…"


def key_shown(key: str) -> str:
    """Return a key as messages show it, in quotes."""
    return shown(key)
