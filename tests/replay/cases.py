"""The cases of ``tests/corpus``: what they look like, and how they are read.

``tests/corpus/README.md`` says what each field means.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent.parent / "corpus"

CALLS = ("sync", "async", "stream", "async_stream")


@dataclass(frozen=True)
class Expected:
    """What the verdict must say, in the words of ``Verdict``.

    Attributes:
        tolerance: Seconds by which the hint may differ; None for the usual rounding.
        status_also: Other numbers which the error shows as a status, and which are not wrong.
    """

    kind: str
    reason: str
    retry_after: float | None
    status: int | None
    retryable: bool
    harms_health: bool
    tolerance: float | None = None
    status_also: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """One call that fails, and what its error means.

    Attributes:
        wire: What the server does; empty if there is none.
        situation: What the runtime does, for errors that are not of the wire alone.
        doubtful_about: Fields of the verdict about which reasonable people differ.
        since: First release of the SDK that can be asked so, or that fails so.
    """

    id: str
    sdk: str
    provider: str
    call: str
    verdict: Expected
    source: str
    api: str = "chat"
    model: str = "some-model"
    options: dict[str, Any] = field(default_factory=dict)
    wire: dict[str, Any] = field(default_factory=dict)
    situation: dict[str, Any] = field(default_factory=dict)
    doubtful_about: tuple[str, ...] = ()
    since: str = "0"
    source_checked: bool = True

    @property
    def is_async(self) -> bool:
        return self.call in ("async", "async_stream")

    @property
    def is_stream(self) -> bool:
        return self.call in ("stream", "async_stream")

    @property
    def protocol(self) -> str:
        return self.wire.get("protocol", "http")


def load_cases(folder: Path = CORPUS) -> list[Case]:
    """Return the cases of all files in ``folder``, by file and line.

    Raises:
        ValueError: If a line is not a case; says which.
    """
    cases: list[Case] = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                cases.append(_case(json.loads(line)))
            except (TypeError, KeyError, ValueError) as problem:
                raise ValueError(f"{path.name}, line {number}: {problem}") from problem
    return cases


def _case(raw: dict[str, Any]) -> Case:
    verdict = dict(raw["verdict"])
    verdict["status_also"] = tuple(verdict.get("status_also", ()))
    doubts = tuple(raw.get("doubtful_about", ()))
    case = Case(**{**raw, "verdict": Expected(**verdict), "doubtful_about": doubts})
    if case.call not in CALLS:
        raise ValueError(f"call={case.call!r} is not one of {', '.join(CALLS)}")
    unknown = set(doubts) - {one.name for one in fields(Expected)}
    if unknown:
        raise ValueError(f"doubtful_about={sorted(unknown)} are no fields of a verdict")
    if not case.wire and not case.situation:
        raise ValueError("neither a wire nor a situation")
    return case
