"""Makes a checked tree of a parsed one: plain values only, with variables of the environment.

``${NAME}`` and ``${NAME:-default}`` are replaced once, in values and not in keys; ``$${`` is
``${``. A text with a variable becomes `Written`, so that no message shows what it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.config._parsing import DEEPEST, too_deep
from resilient_llm.config._tree import Items, Table, Written, cut

if TYPE_CHECKING:
    from resilient_llm.config._tree import Path, Problems

PROFILE_VARIABLE: Final = "RESILIENT_LLM_PROFILE"
"""The variable that selects a profile of the process."""
MOST_VALUES: Final = 50_000
"""Values of one configuration; with aliases there may be more than a file has room for."""
LONGEST: Final = 256 * 1024
"""Characters of the values of all variables together, each as often as it is used."""

VARIABLE: Final = r"[A-Za-z_][A-Za-z0-9_]*"
"""Name of a variable, as a pattern."""
_REFERENCES: Final = re.compile(r"\$\$\{|\$\{[^{}]*\}|\$\{")
_BEGIN: Final = re.compile(r"\$\{[A-Za-z0-9_]*")
_BRACE_IN_DEFAULT: Final = re.compile(rf"\$\{{{VARIABLE}:-[^{{}}]*\{{")
_NAMED: Final = re.compile(rf"\$\{{({VARIABLE})(?::-(.*))?\}}", re.DOTALL)
_PLAIN: Final = (str, bool, int, float)


def selected_profile(environ: Mapping[str, str]) -> str | None:
    """Return the profile that the environment selects, without blanks around; None if it is none.

    Args:
        environ: ``{name of a variable: its value}``
    """
    return environ.get(PROFILE_VARIABLE, "").strip() or None


class Preparation:
    """Prepares one tree.

    Args:
        problems: Takes what is wrong.
        environ: ``{name of a variable: its value}``
    """

    def __init__(self, problems: Problems, environ: Mapping[str, str]) -> None:
        self._problems = problems
        self._environ = environ
        self._values = 0
        self._length = 0

    def tree(self, node: Any) -> Any:
        """Return the tree with `Written` where a text has variables.

        Values that are not allowed anywhere are left out, with a problem each.
        """
        if isinstance(node, Mapping):
            return self._table(node, ())  # pyright: ignore[reportUnknownArgumentType]  # users' input
        return node

    def _node(self, node: Any, path: Path) -> Any:
        self._values += 1
        if self._values > MOST_VALUES:
            raise self._problems.stop(
                f"there are more than {MOST_VALUES:,} values, which is the most allowed"
            )
        if isinstance(node, str):
            return self._text(node, path)
        if isinstance(node, Mapping):
            return self._table(node, path)  # pyright: ignore[reportUnknownArgumentType]  # users' input
        if isinstance(node, (list, tuple)):
            return self._list(node, path)  # pyright: ignore[reportUnknownArgumentType]  # users' input
        if node is None or isinstance(node, _PLAIN):
            return node
        self._problems.add(
            path,
            f"a value of type {type(node).__name__} is not allowed: "
            "write a text, a number, a boolean, a list or a table",
        )
        return _MISSING

    def _table(self, node: Mapping[Any, Any], path: Path) -> Table:
        self._check_depth(path)
        table = Table()
        for key in getattr(node, "repeated", ()):
            self._problems.add((*path, key), "this key is written twice: keep one of them")
        for key, value in node.items():
            if not isinstance(key, str):
                self._problems.add(path, f"a key of type {type(key).__name__} is no text")
            else:
                table[key] = self._node(value, (*path, key))
        return table

    def _list(self, node: list[Any] | tuple[Any, ...], path: Path) -> Items:
        self._check_depth(path)
        return Items(self._node(each, (*path, index)) for index, each in enumerate(node))

    def _check_depth(self, path: Path) -> None:
        if len(path) >= DEEPEST:
            raise too_deep(self._problems)

    def _text(self, text: str, path: Path) -> Any:
        if not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text):
            self._problems.add(
                path, "the text has half of a character, which no encoding can write"
            )
            return _MISSING
        if "${" not in text:
            return text
        if text.count("$${") == text.count("${"):
            return text.replace("$${", "${")
        return self._replaced(text, path)

    def _replaced(self, text: str, path: Path) -> Written:
        parts: list[str] = []
        begin, missing = 0, dict[str, None]()
        for found in _REFERENCES.finditer(text):
            parts.append(text[begin : found.start()])
            begin = found.end()
            if found[0] == "$${":
                parts.append("${")
                continue
            named = _NAMED.fullmatch(found[0])
            if named is None:
                self._refuse(text, found.start(), path)
                return Written(text, None, is_one=False)
            value = self._environ.get(named[1])
            if named[2] is not None:
                value = value or named[2]  # if it is empty, too, as in a shell
            elif value is None:
                missing[named[1]] = None
            parts.append(value or "")
            self._count(len(parts[-1]))
        for name in missing:
            said = (
                f"the variable {cut(name)} is not set: set it, or write ${{{cut(name)}:-default}}"
            )
            self._problems.add(path, said)
        parts.append(text[begin:])
        is_one = _REFERENCES.fullmatch(text) is not None
        return Written(text, None if missing else "".join(parts), is_one=is_one)

    def _count(self, length: int) -> None:
        """Stop if a few variables with long values, each used often, would fill the memory."""
        self._length += length
        if self._length > LONGEST:
            raise self._problems.stop(
                f"variables have more than {LONGEST // 1024} KiB of characters wherever they are "
                "used, which is the most allowed"
            )

    def _refuse(self, text: str, at: int, path: Path) -> None:
        # What follows may be a default, or the rest of a URL with a password.
        begin = _BEGIN.match(text, at)
        shown = "" if begin is None else cut(begin[0])
        allowed = "${NAME} or ${NAME:-default}, or $${ for the characters ${"
        brace = _BRACE_IN_DEFAULT.match(text, at)
        if brace is None:
            said = f"{shown!r} begins no variable: write {allowed}"
        else:
            what = "another variable" if brace[0].endswith("${") else "a brace"
            allowed = "${NAME} or ${NAME:-default}, whose default is text without braces"
            said = f"the default of '{shown}:-' cannot hold {what}: write {allowed}"
        self._problems.add(path, said, allowed=allowed)


_MISSING: Final = Written("", None, is_one=False)
"""A value with a problem of its own, which nobody looks at."""
