"""Parses YAML into a tree, with the scalars of the core schema of YAML 1.2.

It reads the events of PyYAML, whose own constructors follow YAML 1.1 (``no`` is False, ``1:30`` is
90), take the last of two equal keys, and copy what aliases refer to without a bound. Nothing here
builds an object of a class that a tag names: each tag is a problem.

Decided: ``<<`` is no merge key, since YAML 1.2 has none; it is a problem with a text that says so.
Keys are always text, as they are written, so that a chain may be named ``no``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.config._parsing import DEEPEST, LONGEST_NUMBER, too_deep
from resilient_llm.config._syntax_hints import yaml_hint
from resilient_llm.config._tree import Items, Table, cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resilient_llm.config._tree import Problems

MOST_ALIASES: Final = 100
"""Aliases of one file."""

_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS: Final = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_WHOLE: Final = re.compile(r"[-+]?[0-9]+")
_OCTAL: Final = re.compile(r"0o[0-7]+")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NO_NUMBER: Final = frozenset((".nan", ".NaN", ".NAN"))


def yaml_tree(text: str, problems: Problems) -> Any:
    """Return the tree of a text in YAML; None if it is empty."""
    try:
        import yaml as library
    except ImportError:
        raise problems.stop(
            "YAML needs PyYAML, which is not installed: pip install 'resilient-llm[yaml]', or "
            "write TOML or JSON"
        ) from None
    yaml: Any = library
    # The one in C if the wheel has it, which is some ten times faster.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Builder(yaml.parse(text, Loader=loader), problems).tree()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = "; ".join(each for each in (error.context, error.problem) if each)
        line = None if mark is None else mark.line + 1
        if mark is not None and error.problem:
            at: int = mark.index
            said += yaml_hint(error.problem, text[at : at + 1], text[max(0, at - 1) : at])
        raise problems.stop(f"the file is not YAML: {said}", line) from None
    except yaml.reader.ReaderError as error:
        place = error.position if isinstance(error.position, int) else 0
        line = text.count("\n", 0, place) + 1
        raise problems.stop(f"the file is not YAML: {error.reason}", line) from None
    except yaml.YAMLError:
        raise problems.stop("the file is not YAML") from None


class _Open:
    """A table or list that is being read."""

    __slots__ = ("anchor", "key", "key_line", "node")

    def __init__(self, node: Table | Items, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: str | None = None
        self.key_line = 0


class _Builder:
    """Builds the tree of one document from events, and stops at the first problem."""

    def __init__(self, events: Iterator[Any], problems: Problems) -> None:
        self._events = events
        self._problems = problems
        self._open: list[_Open] = []
        self._anchors: dict[str, Any] = {}
        self._aliases = 0
        self._documents = 0
        self._root: Any = None

    def tree(self) -> Any:
        for event in self._events:
            kind = type(event).__name__
            line: int = event.start_mark.line + 1
            if kind == "DocumentStartEvent":
                self._documents += 1
                if self._documents > 1:
                    raise self._problems.stop("the file has more than one YAML document", line)
            elif kind == "AliasEvent":
                self._put(self._of_alias(event.anchor, line), line)
            elif kind in ("MappingStartEvent", "SequenceStartEvent"):
                self._begin(event, Table() if kind == "MappingStartEvent" else Items(), line)
            elif kind in ("MappingEndEvent", "SequenceEndEvent"):
                done = self._open.pop()
                if done.anchor:
                    self._anchors[done.anchor] = done.node
            elif kind == "ScalarEvent":
                self._scalar(event, line)
        return self._root

    def _begin(self, event: Any, node: Table | Items, line: int) -> None:
        self._refuse_tag(event.tag, line)
        self._put(node, line)
        self._open.append(_Open(node, event.anchor))
        if len(self._open) > DEEPEST:
            raise too_deep(self._problems, line)

    def _scalar(self, event: Any, line: int) -> None:
        # "!" alone says that a value is text, which is what a key or a quoted value is anyway.
        self._refuse_tag(event.tag, line)
        is_plain = event.style in (None, "")
        if self._awaits_key():
            if is_plain and event.value == "<<":
                raise self._problems.stop(
                    "'<<' merges tables in YAML 1.1, and YAML 1.2 has no such key: repeat the "
                    "entries, or write an alias for the whole table",
                    line,
                )
            value: Any = event.value
        else:
            value = self._plain(event.value, line) if is_plain else event.value
        if event.anchor:
            self._anchors[event.anchor] = value
        self._put(value, line)

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].node, Table) and not self._has_key()

    def _has_key(self) -> bool:
        return self._open[-1].key is not None

    def _put(self, value: Any, line: int) -> None:
        if not self._open:
            self._root = value
            return
        inner = self._open[-1]
        if isinstance(inner.node, Items):
            inner.node.append(value)
            inner.node.lines.append(line)
        elif inner.key is None:
            if not isinstance(value, str):
                raise self._problems.stop("a key of a table is no text", line)
            inner.key, inner.key_line = value, line
        else:
            if inner.key in inner.node:
                inner.node.repeated.append(inner.key)
            inner.node[inner.key] = value
            inner.node.lines[inner.key] = inner.key_line
            inner.key = None

    def _of_alias(self, anchor: str, line: int) -> Any:
        self._aliases += 1
        if self._aliases > MOST_ALIASES:
            raise self._problems.stop(
                f"the file has more than {MOST_ALIASES} aliases, which is the most allowed", line
            )
        if anchor not in self._anchors:
            raise self._problems.stop(
                f"the alias '*{cut(anchor)}' refers to no value that is complete before it", line
            )
        return self._anchors[anchor]

    def _refuse_tag(self, tag: str | None, line: int) -> None:
        if tag is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise self._problems.stop(
                f"tags such as {cut(shown)!r} are not allowed: leave it out, and write a text "
                "in quotes",
                line,
            )

    def _plain(self, text: str, line: int) -> Any:
        """Return the value of a scalar without quotes."""
        if text in _NULL:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if text[0] not in "-+.0123456789":
            return text
        if _WHOLE.fullmatch(text):
            if len(text) > LONGEST_NUMBER:
                raise self._problems.stop(
                    f"the file has a number of more than {LONGEST_NUMBER} digits", line
                )
            return int(text)
        if _OCTAL.fullmatch(text):
            return int(text[2:], 8)
        if _HEX.fullmatch(text):
            return int(text[2:], 16)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _INFINITE.fullmatch(text) or text in _NO_NUMBER:
            return float(text.replace(".", "", 1))
        return text
