"""`Reader`, which checks tables of options against their kinds and tells all problems.

No message shows what a variable of the environment stands for. A check that refuses a value with a
variable in it has a message that may quote the value, so that message is dropped, and another one
is made of what is written and of what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._values.checks import _OTHER_NAMES
from resilient_llm._values.errors import ConfigurationError
from resilient_llm.config._syntax_hints import QUOTED_KEY
from resilient_llm.config._tree import Items, Table, Written, cut, described, key_shown
from resilient_llm.config._wording import LEFT_OUT, said_of_a_file

if TYPE_CHECKING:
    from resilient_llm.config._kinds import Kind
    from resilient_llm.config._tree import Path, Problems

_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,400}", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.?[0-9]*)(?:[eE][-+]?[0-9]{1,4})?", re.ASCII)
_LONGEST_FLOAT: Final = 400
_LONGEST_QUOTED: Final = 200
"""Characters of the longest text that the message of a check may quote."""
_NAME: Final = re.compile(r"\$\{(\w+)", re.ASCII)
_BOOLEANS: Final = {"true": True, "false": False}


class _Nothing:
    """Type of the value that stands for an option which has a problem."""


NOTHING: Final = _Nothing()


class Plain(NamedTuple):
    """A part of the tree with plain values.

    Attributes:
        value: The value; texts with variables are replaced.
        is_hidden: Whether there is a variable in it.
        is_missing: Whether one of its values could not be found out.
    """

    value: Any
    is_hidden: bool
    is_missing: bool


def plain(node: Any, kind: Kind | None = None) -> Plain:
    """Return a part of the tree with plain values.

    Args:
        node: The part.
        kind: What is expected, so that a variable may be a number or a boolean.
    """
    if isinstance(node, Written):
        return Plain(_converted(node, kind), True, node.value is None)
    if isinstance(node, Mapping):
        table: Mapping[str, Any] = node  # pyright: ignore[reportUnknownVariableType]  # of the tree
        parts = {key: plain(each) for key, each in table.items()}
        return Plain({key: each.value for key, each in parts.items()}, *_flags(parts.values()))
    if isinstance(node, list):
        items = [plain(each, kind) for each in node]  # pyright: ignore[reportUnknownVariableType]
        return Plain([each.value for each in items], *_flags(items))
    return Plain(node, False, False)


def _flags(parts: Any) -> tuple[bool, bool]:
    listed = list(parts)
    return any(each.is_hidden for each in listed), any(each.is_missing for each in listed)


def _converted(written: Written, kind: Kind | None) -> Any:
    text = written.value
    if text is None or kind is None or not written.is_one:
        return text
    word = text.strip()
    if kind.is_boolean and word.lower() in _BOOLEANS:
        return _BOOLEANS[word.lower()]
    if kind.is_number and _WHOLE.fullmatch(word):
        return int(word)
    if kind.is_number and len(word) <= _LONGEST_FLOAT and _FLOAT.fullmatch(word):
        return float(word)
    return text


class Reader:
    """Checks parts of one tree.

    Args:
        problems: Takes what is wrong.
    """

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def table(self, node: Any, path: Path, what: str) -> Table | None:
        """Return a part that is a table, or None with a problem."""
        if isinstance(node, Table):
            return node
        if not _is_missing(node):
            self.problems.add(
                path, f"{what} is {described(node)}: write a table", allowed="a table"
            )
        return None

    def list(self, node: Any, path: Path, what: str) -> Items | None:
        """Return a part that is a list, or None with a problem."""
        if isinstance(node, Items):
            return node
        if not _is_missing(node):
            self.problems.add(path, f"{what} is {described(node)}: write a list", allowed="a list")
        return None

    def check_names(
        self,
        node: Table,
        known: Mapping[str, Any],
        path: Path,
        what: str,
        elsewhere: Mapping[str, str] | None = None,
    ) -> bool:
        """Return whether a table has known options only; each other one is a problem.

        Args:
            node: The table.
            known: The options.
            path: Its place.
            what: What it is, for messages.
            elsewhere: ``{option of code that the file does not have here: what to do instead}``
        """
        is_fine = True
        for name in node:
            if name in known:
                continue
            is_fine = False
            if elsewhere and name in elsewhere:
                self.problems.add((*path, name), elsewhere[name])
                continue
            allowed = ", ".join(known)
            other = _OTHER_NAMES.get(name, "")
            near = other if other in known else self.problems.near(name, known)
            hint = f"did you mean {near}? " if near else ""
            also = "" if near else self._hint_at_quotes(node[name], path)
            self.problems.add(
                (*path, name),
                f"{what} has no option {key_shown(name)}: {hint}allowed are {allowed}{also}",
                allowed=allowed,
                suggestion=near,
            )
        return is_fine

    def _hint_at_quotes(self, node: Any, path: Path) -> str:
        """Return a hint if an unknown option may be the second half of a key without quotes."""
        is_half = len(path) == 2 and isinstance(path[1], str) and isinstance(node, (Table, Items))
        return f"; {QUOTED_KEY}" if is_half and self.problems.is_toml else ""

    def options(
        self,
        node: Table,
        kinds: Mapping[str, Kind],
        path: Path,
        what: str,
        elsewhere: Mapping[str, str] | None = None,
    ) -> dict[str, Any] | None:
        """Return ``{option: checked value}`` of a table, or None if it has a problem."""
        is_fine = self.check_names(node, kinds, path, what, elsewhere)
        checked: dict[str, Any] = {}
        for name, kind in kinds.items():
            if name not in node:
                continue
            value = self.value(kind, name, node[name], (*path, name))
            if value is NOTHING:
                is_fine = False
            checked[name] = value
        return checked if is_fine else None

    def value(self, kind: Kind, name: str, node: Any, path: Path) -> Any:
        """Return the checked value of one option, or `NOTHING` with a problem."""
        if isinstance(node, Table):
            if kind.table is not None and kind.build is not None:
                return self._built(kind, name, node, path)
            if not kind.is_open:
                self._refuse(kind, path, f"{name} is a table, which is not allowed")
                return NOTHING
        found = plain(node, kind)
        if found.is_missing:
            return NOTHING
        if kind.is_open and not self._is_finite(found.value, path):
            return NOTHING
        refused = self._refused_unseen(kind, found)
        if refused is None:
            try:
                return kind.check(name, found.value)
            except ConfigurationError as error:
                refused = str(error)
        if found.is_hidden:
            self._refuse(kind, path, _without_value(name, node, kind))
        elif isinstance(node, str) and len(node) > _LONGEST_QUOTED:
            self._refuse(kind, path, f"{name} of {len(node)} characters is not allowed")
        elif refused:
            self._told(kind, path, refused, node)
        else:
            self._refuse(kind, path, f"{name}={described(found.value)} is not allowed")
        return NOTHING

    def built(self, build: Callable[[], Any], path: Path, node: Any, allowed: str = "") -> Any:
        """Return what a function builds from checked options, or `NOTHING` with a problem.

        Args:
            build: The function.
            path: Place of the options.
            node: The options as they are written.
            allowed: What may be written, if that is one value.
        """
        try:
            return build()
        except ConfigurationError as error:
            if isinstance(node, Written):
                said = f"{cut(node.text)!r} has a value that is not allowed: write {allowed}"
                self.problems.add(path, said, allowed=allowed)
            elif plain(node).is_hidden:
                said = f"{_variables(node)} and the other options here do not go together"
                self.problems.add(path, said)
            else:
                self.problems.add(path, said_of_a_file(str(error)))
            return NOTHING

    def _built(self, kind: Kind, name: str, node: Table, path: Path) -> Any:
        options = self.options(node, kind.table or {}, path, name)
        if options is None or kind.build is None:
            return NOTHING
        build = kind.build
        missing = [each for each in kind.required if each not in options]
        if missing:
            self.problems.add(
                path, f"{name} has no {' and no '.join(missing)}: write {kind.allowed}"
            )
            return NOTHING
        return self.built(lambda: build(options), path, node)

    def _refused_unseen(self, kind: Kind, found: Plain) -> str | None:
        """Return "" for a value that is refused without its check, which would take too long."""
        if self.problems.is_detailed or not kind.words or not isinstance(found.value, str):
            return None
        return None if found.value in kind.words else ""

    def _refuse(self, kind: Kind, path: Path, what: str) -> None:
        tail = f": write {kind.allowed}" if kind.allowed else ""
        if tail and kind.may_be_left_out:
            tail += LEFT_OUT
        self.problems.add(path, f"{what}{tail}", allowed=kind.allowed or None)

    def _told(self, kind: Kind, path: Path, said: str, node: Any) -> None:
        """Add what a check said, with a near word if there is one and it does not name it."""
        said = said_of_a_file(said)
        near = None
        if isinstance(node, str) and self.problems.is_detailed:
            near = self.problems.near(node, kind.near() if kind.near else kind.words)
        if near is not None and "did you mean" not in said:
            said += f"; did you mean {near!r}?"
        self.problems.add(path, said, allowed=kind.allowed or None, suggestion=near)

    def _is_finite(self, value: Any, path: Path) -> bool:
        """Return whether all numbers in a part can be written as JSON; each other is a problem."""
        if isinstance(value, (dict, list)):
            parts: Any = value.items() if isinstance(value, dict) else enumerate(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # of the tree
            results = [self._is_finite(each, (*path, key)) for key, each in parts]
            return all(results)  # after all of them were looked at
        if not isinstance(value, float) or math.isfinite(value):
            return True
        self.problems.add(path, f"the number {value} is not allowed: write a finite one")
        return False


def _is_missing(node: Any) -> bool:
    return isinstance(node, Written) and node.value is None


def _without_value(name: str, node: Any, kind: Kind) -> str:
    """Return that a value with variables is not allowed, without what they stand for."""
    if isinstance(node, Written) and kind.is_secret:
        names = ", ".join(dict.fromkeys(_NAME.findall(node.text)[:3]))
        return f"{name} has a value that is not allowed, made with the variable {names}"
    if isinstance(node, Written):
        return f"{name}={cut(node.text)!r} has a value that is not allowed"
    return f"{name} has {_variables(node)} with a value that is not allowed"


def _variables(node: Any) -> str:
    """Return the first texts with variables in a part, as they are written."""
    found: list[str] = []
    waiting = [node]
    while waiting and len(found) < 4:
        each = waiting.pop()
        if isinstance(each, Written):
            found.append(cut(each.text))
        elif isinstance(each, Table):
            waiting.extend(reversed(each.values()))
        elif isinstance(each, Items):
            waiting.extend(reversed(each))
    return ", ".join(found[:3]) + (" and others" if len(found) > 3 else "")
