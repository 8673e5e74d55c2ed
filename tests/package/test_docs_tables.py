"""What the tables of the documentation say is what the code does: names, defaults, ranges, words."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import pkgutil
import re
import shlex
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

import resilient_llm
from resilient_llm import (
    Adaptive,
    AttemptRecord,
    ConfigurationError,
    ErrorKind,
    Event,
    Limit,
    StreamPolicy,
    Target,
    TargetBenched,
    ToolLoop,
    Verdict,
    bench_model,
    breaker,
    cli,
    configure,
    events,
    failover,
    list_benched,
    pytest_plugin,
    rules,
    strategies,
    testing,
    unbench_model,
)
from resilient_llm._core import backoff, retry_budget
from resilient_llm._core.call import call
from resilient_llm._core.circuit import triggers
from resilient_llm._core.classify import _SEVERITY
from resilient_llm._core.stream import stream_state
from resilient_llm._runtime import hearing
from resilient_llm._values import event_names
from resilient_llm._values.policy import DEFAULTS
from resilient_llm._values.settings import (
    LONGEST_HINT,
    MODES,
    MOST_KEYS,
    RATE_LIMIT_PAUSE,
    SHORTEST_HUNG,
    BreakerSettings,
    Settings,
)
from resilient_llm._values.sharing import UNAVAILABLE
from resilient_llm._values.stream_policy import _DEFAULTS as STREAM_DEFAULTS
from resilient_llm._values.stream_policy import NO_MARKER
from resilient_llm._values.verdict import _DEFAULTS
from resilient_llm.observers import logging as default_observer
from resilient_llm.probes import HealthProbe
from resilient_llm.rules.http import BY_STATUS
from resilient_llm.testing import FakeClock, capture_events

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OPTIONS, EVENTS, ERRORS, KINDS = (
    DOCS / "reference" / name for name in ("options.md", "events.md", "exceptions.md", "kinds.md")
)

Row = dict[str, str]


def tables(text: str) -> list[list[Row]]:
    """Return the tables of a text, each a list of rows ``{heading: cell}``."""
    found: list[list[Row]] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.MULTILINE):
        head, _, *lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        found.append([dict(zip(head, line, strict=True)) for line in lines])
    return found


def table(page: Path, after: str) -> list[Row]:
    """Return the first table of a page after a line that begins with these words."""
    text = page.read_text(encoding="utf-8")
    return tables(text[text.index(f"\n{after}") :])[0]


def words(cell: str) -> list[str]:
    """Return what stands in code quotes in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def value(cell: str) -> Any:
    """Return the Python value that a cell shows as a default."""
    return NO_MARKER if cell == "no marker" else ast.literal_eval(cell.strip("`"))


# Options.


def of_signature(function: Callable[..., Any], *without: str) -> dict[str, Any]:
    """Return ``{name: default}`` of the parameters that have one."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default for p in parameters if p.default is not p.empty and p.name not in without
    }


def of_dataclass(cls: type, *without: str) -> dict[str, Any]:
    """Return ``{field: default}``."""
    return {
        field.name: {} if field.default is MISSING else field.default
        for field in fields(cls)
        if field.name not in without
    }


CODE: dict[str, dict[str, Any]] = {
    "failover": of_signature(failover),
    "Target": of_signature(Target),
    "StreamPolicy": dict(STREAM_DEFAULTS),
    "breaker": of_dataclass(BreakerSettings, "cooldown_is_own", "memory_pressure_cooldown"),
    "configure": of_dataclass(Settings, *DEFAULTS),
    "bench_model": of_signature(bench_model),
}


@pytest.mark.parametrize("what", CODE)
def test_the_reference_has_every_option_with_its_default(what: str) -> None:
    """Options and defaults in the reference are those of the code, in its order."""
    rows = table(OPTIONS, f"## {what}\n")

    name = "argument" if what == "bench_model" else "option"
    assert list(CODE[what].items()) == [
        (words(row[name])[0], value(row["default"])) for row in rows
    ]


def _build_failover(name: str, given: Any) -> None:
    failover(**{"chain": ["groq/llama"], "attempts": 1, name: given})


def _build_target(name: str, given: Any) -> None:
    Target("groq/llama", **{name: given})


def _build_stream_policy(name: str, given: Any) -> None:
    # A marker is for a restart, so it is refused where there is none.
    restart = {"on_interrupt": "restart"} if name == "restart_marker" else {}
    StreamPolicy(**restart, **{name: given})


def _build_breaker(name: str, given: Any) -> None:
    breaker("ranges", **{name: given})


def _build_settings(name: str, given: Any) -> None:
    configure(**{name: given})


BUILD = {
    "failover": _build_failover,
    "Target": _build_target,
    "StreamPolicy": _build_stream_policy,
    "breaker": _build_breaker,
    "configure": _build_settings,
}

# {range in the page: (values that are taken, values that are refused)}
RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    "whole number": ([-1, 0, 1], [1.5, True, "1", None]),
    "whole number, 1 or more": ([1, 5], [0, -1, 1.5, True, "1"]),
    "number, above 0": ([0.1, 2], [0, -1, math.nan, math.inf, True]),
    "number, 0 or more": ([0, 0.1, 2], [-0.1, math.nan, math.inf, True, "1"]),
    "two numbers, 0 or more": ([(0, 1.5)], [(1,), (-1, 1), 3, "ab"]),
    "two numbers, 0 or more, with at most six decimals, a `Price`": (
        [(0, 1.5), (0.000001, 1), resilient_llm.Price(1, 2, cached=0.5)],
        [(1,), (-1, 1), (0.0000001, 1), 3, "ab"],
    ),
    "list of `Budget`": ([[], [resilient_llm.Budget(usd=1)]], [3, "all", [1]]),
    "seconds, above 0": ([0.1, 30], [0, -1, math.nan, math.inf, True, "1"]),
    "seconds, above 0, or a percentile": (
        [0.1, 30, "p50", "p99"],
        [0, -1, math.nan, math.inf, True, "1", "p49", "p100", "95", ""],
    ),
    "whole number, 1 to 10": ([1, 10], [0, 11, 1.5, True, "1"]),
    "seconds, 0 or more": ([0, 30], [-1, math.nan, math.inf, True]),
    "seconds, 10 to 3600": ([10, 3600.0], [9.9, 3600.1, math.nan, math.inf, True, "60"]),
    "share, above 0, to 1": ([0.1, 1], [0, 1.1, -0.1, math.nan, True]),
    "True, False": ([True, False], [1, None, "yes"]),
    "True, False, or `Adaptive`": (
        [True, False, Adaptive(), Adaptive(calm=0.0)],
        [1, None, "yes", {"calm": 1.0}, Adaptive],
    ),
    "function": ([lambda *_: None], [3]),
    "`strategies.sticky(key)`, or function": (
        [strategies.sticky(lambda *_: "key"), lambda *_: None],
        [3],
    ),
    "`ToolLoop`": (
        [ToolLoop(), ToolLoop("raise", repeats=2)],
        ["WARN", True, {"repeats": 2}, ToolLoop],
    ),
    "sequence of functions": ([[], (print,)], [print, "print", [3]]),
    "word, sequence of words": (["a", [], ("a", "b")], ["", "a b", [1], 3, print]),
    "word, sequence of words, function": (["a", [], ("a", "b"), print], ["", "a b", [1], 3]),
    "whole number, 0 or more, function": ([0, 5, len], [-1, 1.5, True, "1"]),
    "sequence of words": ([[], ("a", "b")], ["ab", [1], 3]),
    "mapping": ([{}], [[1], "a", 3]),
    "a chain": (["groq/llama", "@fast", ["@fast", "groq/llama"]], ["groq/", "@", [], 3]),
    "name of a profile": ([], [3, "no-such-profile"]),
    "anything": ([None, 0, "\n\n", {}], []),
    "`StreamPolicy`": (
        [StreamPolicy(), StreamPolicy(idle_timeout=1.0)],
        [{}, {"idle_timeout": 1.0}, 3, "restart"],
    ),
    "name without `/` and `@`": (["tenant-7"], ["a/b", "a@b", "", 3]),
    "URL, a `Store`": (
        ["sqlite:///var/lib/app.db", "redis://cache:6379/0", testing.MemoryStore()],
        ["mysql://host/db", "sqlite://app.db", "sqlite:///:memory:", "", 3, True],
    ),
    "seconds, 0.001 to 60": ([0.001, 60], [0, 60.1, math.nan, math.inf, True, "1"]),
    "text of 1 to 200 printable characters": (["web-1", "x" * 200], ["", "x" * 201, "a\n", 3]),
}


def ranges() -> Iterator[Any]:
    for what in BUILD:
        for row in table(OPTIONS, f"## {what}\n"):
            name = words(row["option"])[0]
            yield pytest.param(what, name, row["unit and range"], id=f"{what}-{name}")


@pytest.mark.parametrize(("what", "name", "allowed"), list(ranges()))
def test_the_range_of_an_option_is_what_is_checked(what: str, name: str, allowed: str) -> None:
    """Values in the range of the page are taken, all others are a ConfigurationError."""
    good: list[Any] = [ast.literal_eval(word) for word in re.findall(r'`("[^`]*")`', allowed)]
    bad: list[Any] = ["no such word", 3] if good else []
    rest = re.sub(r'(, )?`"[^`]*"`,?', "", allowed).strip()
    if rest.endswith("or None"):
        good.append(None)
        rest = rest.removesuffix("or None").strip(" ,")
    elif rest not in ("mapping", "anything", ""):
        bad.append(None)
    rest = rest.removeprefix("or ")
    if rest:
        taken, refused = RANGES[rest]
        good += taken
        bad += [each for each in refused if each is not None or None not in good]

    for each in good:
        BUILD[what](name, each)
    for each in bad:
        with pytest.raises(ConfigurationError) as refused_with:
            BUILD[what](name, each)
        if each == "no such word":
            # The message lists what is allowed: nothing of that is left out of the page.
            listed = re.findall(r"'(\w+)'", str(refused_with.value).partition(": write ")[2])
            assert [word for word in good if isinstance(word, str)] == listed


def option_rows() -> Iterator[Any]:
    for page in sorted((DOCS / "how-to").glob("*.md")):
        for found in tables(page.read_text(encoding="utf-8")):
            if {"option", "default"} <= set(found[0]):
                for row in found:
                    yield pytest.param(page, row, id=f"{page.stem}-{row['option']}")


@pytest.mark.parametrize(("page", "row"), list(option_rows()))
def test_an_option_in_a_how_to_is_as_in_the_code(page: Path, row: Row) -> None:
    """A how-to that lists an option gives the default of the code, and has a column for unit and range."""
    name = words(row["option"])[0]
    match = re.fullmatch(r"(?:(\w+)\()?(?:[^=]*, )?(\w+)=?\)?", name)
    home = {
        "guard-any-call": "breaker",
        "stream-answers": "StreamPolicy",
        "adaptive-order": "Adaptive",
        "local-servers": "configure",
        "limits": "Limit",
    }.get(page.stem, "failover")
    if name.startswith("observe("):
        return  # its types have no default to compare

    assert match is not None, name
    code = {
        "events": of_signature(events),
        "Trace": of_signature(resilient_llm.Trace),
        "Adaptive": of_dataclass(Adaptive),
        "ToolLoop": of_dataclass(ToolLoop),
        "Limit": of_dataclass(Limit),
        **CODE,
    }
    assert code[match[1] or home][match[2]] == value(row["default"])
    assert row["unit and range"]


def test_the_modes_are_those_of_the_code() -> None:
    """The how-to explains every mode of a breaker."""
    assert list(MODES) == [
        value(row["`mode`"]) for row in table(DOCS / "how-to/configure.md", "## A dry run\n")
    ]


def test_the_fixed_numbers_are_those_of_the_code() -> None:
    """Numbers that no option changes are in the reference as the code has them."""
    expected = [
        RATE_LIMIT_PAUSE,
        LONGEST_HINT,
        SHORTEST_HUNG,
        backoff.BASE,
        backoff.CAP,
        call.RESERVE,
        retry_budget.SPAN,
        retry_budget.FLOOR,
        triggers.JITTER,
        triggers.DEGRADED_SHARE,
        MOST_KEYS,
        of_signature(events)["buffer"],
        stream_state.MOST_ITEMS,
        stream_state.MOST_BYTES,
    ]

    assert expected == [float(row["value"]) for row in table(OPTIONS, "## Fixed numbers\n")]


# Events.


def event_classes() -> list[type[Event]]:
    """Return the types of events that are emitted, in the order of the module."""
    told = set(typing.get_args(event_names.EventName))
    return [cls for cls in Event.__subclasses__() if cls.__name__ in told]


def own_fields(cls: type[Event]) -> list[str]:
    common = {field.name for field in fields(Event)}
    return [field.name for field in fields(cls) if field.name not in common]


def test_every_event_is_in_the_reference_with_its_fields() -> None:
    """Events and their own fields are those of the code."""
    rows = table(EVENTS, "## All events\n")

    told = {cls.__name__: own_fields(cls) for cls in event_classes()}
    assert set(typing.get_args(event_names.EventName)) == set(told)
    listed = {words(row["event"])[0]: words(row["its own fields"]) for row in rows}
    assert told == listed
    # The page follows a call, attempt by attempt, so it has its own order.
    assert len(rows) == len(listed)


def test_the_common_fields_are_those_of_every_event() -> None:
    """What every event has is in the first table."""
    expected = [field.name for field in fields(Event)]

    assert expected == [words(row["field"])[0] for row in table(EVENTS, "Every event has these.")]


def test_every_field_of_an_event_is_explained() -> None:
    """The table of fields names every field, and the events that have it."""
    owners: dict[str, set[str]] = {}
    for cls in event_classes():
        for name in own_fields(cls):
            owners.setdefault(name, set()).add(cls.__name__)

    explained = {
        name: owners[name] if row["of"] == "several" else set(words(row["of"]))
        for row in table(EVENTS, "## Fields\n")
        for name in words(row["field"])
    }
    assert owners == explained


def test_log_levels_are_those_of_the_default_observer() -> None:
    """The level of every event, in the reference and in the runbook."""
    names = {10: "DEBUG", 20: "INFO", 30: "WARNING"}
    for page, heading, column, level in (
        (EVENTS, "## All events\n", "event", "log level"),
        (DOCS / "how-to/during-an-outage.md", "## Read the log\n", "line", "level"),
    ):
        for row in table(page, heading):
            name = words(row[column])[0]
            assert names[default_observer.level_of(name)] == row[level].partition(",")[0], name


def closed_set(cls: type[Event], name: str) -> list[str]:
    """Return the words that the type of a field allows."""
    hints = typing.get_type_hints(cls, localns={"datetime": datetime, "ErrorKind": ErrorKind})
    return list(typing.get_args(hints[name]))


def test_the_words_of_a_closed_set_are_all_explained() -> None:
    """Where the type of a field lists its words, so does the page."""
    explained = {
        words(row["field"])[0]: words(row["meaning"]) for row in table(EVENTS, "## Fields\n")
    }

    stops = [words(row["word"])[0] for row in table(EVENTS, "`RetryStopped.reason`:")]
    assert closed_set(resilient_llm.RetryStopped, "reason") == stops
    ends = [words(row["word"])[0] for row in table(EVENTS, "`AttemptCancelled.reason`:")]
    assert closed_set(resilient_llm.AttemptCancelled, "reason") == ends
    assert closed_set(resilient_llm.RetryScheduled, "source") == explained["source"][:2]
    faults = [words(row["word"])[0] for row in table(EVENTS, "`StoreUnavailable.reason`:")]
    assert list(UNAVAILABLE) == faults
    assert closed_set(resilient_llm.HealthChanged, "new") == explained["old"]


def _without_numbers(trigger: str) -> str:
    return re.sub(r"\d+(/\d+)", r"n/n", trigger)


def test_every_trigger_is_in_the_reference(clock: FakeClock) -> None:
    """Each way in which a circuit is benched says its trigger in a word of the table."""
    with capture_events(TargetBenched) as seen:
        for _ in range(5):
            breaker("failures").record(ConnectionResetError(), 0.1)
        for number in range(12):
            breaker("rate", failures=100).record(
                ConnectionResetError() if number % 2 else None, 0.1
            )
        for _ in range(10):
            breaker("slow", slow_call=1.0).record(None, 2.0)
        for _ in range(10):
            breaker("bad", bad_rate=1.0).record(resilient_llm.ResponseRejectedError("bad"), 0.1)
        with pytest.raises(ExceptionGroup):
            failover("used/up").call(_raising(ConnectionResetError()))
        clock.advance(40)
        breaker("failures").record(ConnectionResetError(), 0.1)
        for error in (StatusError(401), MemoryError(), StatusError(429)):
            breaker(f"once-{type(error).__name__}-{error}").record(error, 0.1)
        bench_model("by-hand", 1.0)

    listed = {
        _without_numbers(word)
        for row in table(EVENTS, "`TargetBenched.trigger`:")
        for word in words(row["word"])
    }
    assert {_without_numbers(event.trigger) for event in seen} == listed


def test_every_end_of_a_bench_is_in_the_reference(clock: FakeClock) -> None:
    """Each way in which a bench ends says so in a word of the table."""
    ill, limited, by_hand, forgotten = (
        breaker(name, failures=1) for name in ("ill", "limited", "by-hand", "forgotten")
    )
    with capture_events(resilient_llm.TargetUnbenched) as seen:
        ill.record(ConnectionResetError(), 0.1)
        limited.record(StatusError(429), 0.1)
        clock.advance(40)
        assert limited.state == "closed"
        ill.record(None, 0.1)
        bench_model("by-hand")
        assert unbench_model(by_hand.name)
        forgotten.record(ConnectionResetError(), 0.1)
        resilient_llm.reset()
        for left in ("0", "9"):
            hearing.heard({"x-ratelimit-remaining": left, "x-ratelimit-reset": "60"}, "together/m")
        probed = breaker("probed", failures=1)
        probed.record(ConnectionResetError(), 0.1)
        anyio.run(HealthProbe({probed.name: lambda: None}).tick)

    assert {event.reason for event in seen} == {
        words(row["word"])[0] for row in table(EVENTS, "`TargetUnbenched.reason`:")
    }


# Errors.


def error_classes() -> dict[str, type[BaseException]]:
    public = {name: getattr(resilient_llm, name) for name in resilient_llm.__all__}
    return {
        name: cls
        for name, cls in public.items()
        if isinstance(cls, type) and issubclass(cls, resilient_llm.ResilientLLMError)
    }


def test_every_error_is_in_the_reference_with_its_attributes() -> None:
    """Errors and what they carry are those of the code; the tree has the same ones, under their bases."""
    rejected = resilient_llm.BreakerOpenError("groq", "network", 1.0)
    made: dict[str, BaseException] = {
        "ResilientLLMError": resilient_llm.ResilientLLMError(),
        "ConfigurationError": ConfigurationError("wrong"),
        "CallRejectedError": resilient_llm.CallRejectedError("groq", "network", 1.0),
        "BreakerOpenError": rejected,
        "NoCapableTargetError": resilient_llm.NoCapableTargetError(["tools"], 3, {"groq/a": ()}),
        "ToolLoopError": resilient_llm.ToolLoopError("groq/a", "search", 3),
        "StoreUnavailableError": resilient_llm.StoreUnavailableError(
            "groq/llama", "store unavailable"
        ),
        "BudgetExceededError": resilient_llm.BudgetExceededError("groq/llama", "budget all"),
        "ResponseRejectedError": resilient_llm.ResponseRejectedError("groq"),
        "DeadlineExceededError": resilient_llm.DeadlineExceededError(
            1.0, [AttemptRecord("groq/llama", 1)]
        ),
        "StreamInterruptedError": resilient_llm.StreamInterruptedError(
            "groq/llama", 3, text_so_far="so far"
        ),
        "ChainExhaustedError": resilient_llm.ChainExhaustedError("none", [rejected]),
    }
    carried = {
        name: {each for each in vars(error) if not each.startswith("_")}
        for name, error in made.items()
    }

    assert set(error_classes()) == set(made)
    assert carried == {
        words(row["error"])[0]: set(words(row["attributes"])) for row in table(ERRORS, "| error")
    }
    explained = {words(row["attribute"])[0] for row in table(ERRORS, "## Attributes\n")}
    assert set().union(*carried.values()) == explained


def test_the_tree_of_errors_is_that_of_the_classes() -> None:
    """Each error stands in the tree under its base, with the built-in class that it is, too."""
    text = ERRORS.read_text(encoding="utf-8")
    drawn = re.findall(
        r"^([│├└─ ]*)([A-Z]\w+Error)(?: +also (\w+))?", text.partition("```text\n")[2], re.MULTILINE
    )
    levels: list[str] = []
    seen: set[str] = set()
    for indent, name, also in drawn:
        depth = len(indent) // 4
        levels[depth:] = [name]
        cls = error_classes()[name]
        assert depth == 0 or cls.__bases__[0].__name__ == levels[depth - 1], name
        assert [also] * bool(also) == [base.__name__ for base in cls.__bases__[1:]], name
        seen.add(name)

    assert set(error_classes()) == seen


# Kinds.


def test_what_follows_from_a_kind_is_what_a_verdict_fills_in() -> None:
    """The table of defaults is that of Verdict."""
    said = [
        (
            words(row["kind"])[0],
            (
                words(row["`reason`"])[0],
                row["`scope`"],
                row["`retryable`"] == "yes",
                row["`harms_health`"] == "yes",
            ),
        )
        for row in table(KINDS, "## What follows from a kind\n")
    ]

    assert [(kind.value, facts_) for kind, facts_ in _DEFAULTS.items()] == said


@pytest.mark.parametrize("heading", ["## What happens next\n", "## Reasons\n"])
def test_a_table_of_kinds_has_every_kind(heading: str) -> None:
    """No kind is left out, and none is invented."""
    assert [kind.value for kind in ErrorKind] == [
        words(row["kind"])[0] for row in table(KINDS, heading)
    ]


def _verdicts(thing: object, depth: int = 0) -> Iterator[Verdict]:
    if isinstance(thing, Verdict):
        yield thing
    elif isinstance(thing, dict) and depth < 3:
        for each in thing.values():
            yield from _verdicts(each, depth + 1)
    elif isinstance(thing, (tuple, list)) and depth < 3:
        for each in thing:
            yield from _verdicts(each, depth + 1)


def known_reasons() -> dict[str, set[str]]:
    """Return ``{kind: reasons}`` of every verdict that stands in the rules, and of those made elsewhere."""
    reasons = {kind.value: {_DEFAULTS[kind][0]} for kind in ErrorKind}
    reasons["transient"].add("hung")
    for module in pkgutil.iter_modules(rules.__path__):
        for thing in list(
            vars(importlib.import_module(f"resilient_llm.rules.{module.name}")).values()
        ):
            for verdict in _verdicts(thing):
                reasons[verdict.kind].add(verdict.reason)
    return reasons


def test_every_reason_is_in_the_reference() -> None:
    """The closed set of reasons is that of the rules."""
    listed = {words(row["kind"])[0]: words(row["reasons"]) for row in table(KINDS, "## Reasons\n")}

    assert {kind: sorted(reasons) for kind, reasons in known_reasons().items()} == listed


def test_the_runbook_knows_kinds_and_reasons_that_bench() -> None:
    """The runbook's table has the kinds that bench, with reasons that exist."""
    known = known_reasons()
    for row in table(DOCS / "how-to/during-an-outage.md", "## What each kind means"):
        kind, reasons = words(row["`kind`"])[0], words(row["usual reasons"])
        assert kind == "by hand" or set(reasons) <= known[kind] | {"slow"}, kind
        if kind == "auth_dead":
            assert known[kind] == set(reasons)


def test_the_order_of_severity_is_that_of_the_code() -> None:
    """The sentence names the kinds from severe to mild as the classifier ranks them."""
    (sentence,) = re.findall(
        r"^From severe to mild: (.*)$", KINDS.read_text(encoding="utf-8"), re.MULTILINE
    )

    assert [kind.value for kind in sorted(_SEVERITY, key=_SEVERITY.__getitem__)] == words(sentence)


def test_every_status_means_what_the_reference_says() -> None:
    """Each status from 300 to 599 has the kind, the reason and the charge of its row."""
    said: dict[int, Row] = {}
    rest: dict[int, Row] = {}
    for row in table(KINDS, "## Status alone\n"):
        for part in row["status"].split(", "):
            if match := re.fullmatch(r"(?:other )?(\d)xx", part):
                rest[int(match[1])] = row
            elif match := re.fullmatch(r"(\d+) to (\d+)", part):
                said.update(dict.fromkeys(range(int(match[1]), int(match[2]) + 1), row))
            else:
                said[int(part)] = row

    for status, verdict in BY_STATUS.items():
        row = said.get(status, rest[status // 100])
        charged = (
            verdict.scope
            if verdict.harms_health or verdict.kind == "rate_limited"
            else "no circuit"
        )
        expected = (verdict.kind.value, verdict.reason, charged)
        assert expected == (words(row["kind"])[0], words(row["reason"])[0], row["charged to"]), (
            status
        )


class StatusError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(status_code)
        self.status_code = status_code
        self.response = SimpleNamespace(status_code=status_code, headers={})


def _raising(error: Exception) -> Callable[[Target], None]:
    def fn(target: Target) -> None:
        raise error

    return fn


def _fail(error: type[Exception], *args: Any, times: int = 1) -> None:
    for _ in range(times):
        breaker("groq").record(error(*args), 0.1)


def _force_open() -> None:
    breaker("groq", mode="forced_open")


def _probe_fails() -> None:
    _fail(ConnectionResetError, times=5)
    clock = resilient_llm.testing.runtime.time
    assert isinstance(clock, FakeClock)
    clock.advance(40)
    _fail(ConnectionResetError)


# In the order of the table, with what the bench lasts by default.
CAUSES: list[tuple[str, Callable[[], None], float]] = [
    ("a trigger", lambda: _fail(ConnectionResetError, times=5), 30.0),
    ("a failed probe", _probe_fails, 60.0),
    ("`auth_dead`", lambda: _fail(StatusError, 401), 300.0),
    ("`memory_pressure`", lambda: _fail(MemoryError), 120.0),
    ("`rate_limited`", lambda: _fail(StatusError, 429), 15.0),
    ("`bench_model`", lambda: bench_model("groq", 90.0), 90.0),
    ("mode `forced_open`", _force_open, math.inf),
]


@pytest.mark.parametrize(
    ("number", "cause"), list(enumerate(CAUSES)), ids=[cause[0] for cause in CAUSES]
)
def test_a_bench_lasts_as_long_as_the_reference_says(
    number: int, cause: tuple[str, Callable[[], None], float], clock: FakeClock
) -> None:
    """Length, state meanwhile and state afterwards of each cause are those of its row."""
    words_, benched, seconds = cause
    row = table(KINDS, "## What benches, and for how long\n")[number]
    assert row["cause"].startswith(words_)

    benched()

    (bench,) = list_benched()
    assert row["`.state` meanwhile"] == f"`{breaker('groq').state}`"
    if seconds == math.inf:
        assert bench.remaining is None
        breaker("groq", mode="enforce")
    else:
        assert bench.remaining is not None
        assert seconds <= bench.remaining <= seconds * (1 + triggers.JITTER)
        if number not in (1, 5):  # "twice the last one", "what you said"
            assert f"{seconds:g} s" in row["length"]
        clock.advance(bench.remaining)
    assert row["ends in"] == f"`{breaker('groq').state}`"


# The rest of the reference.


def test_the_command_line_is_as_the_parser_has_it() -> None:
    """Options, defaults and exit statuses of the command are those of the code."""
    page = DOCS / "reference/cli.md"
    assert sorted(cli.COMMANDS) == sorted(
        re.findall(r"^## resilient-llm ([\w-]+)$", page.read_text("utf-8"), re.MULTILINE)
    )

    for name in cli.COMMANDS:
        section = page.read_text("utf-8").partition(f"\n## resilient-llm {name}\n")[2]
        rows = tables(section.partition("\n## ")[0])
        shown = {
            re.split(r"[ =]", words(cell)[-1])[0]
            for cell in (next(iter(row.values())) for rows_ in rows for row in rows_)
            if cell.startswith("`-")
        }
        options = {
            action.option_strings[-1]
            for action in cli.parser_of(name)[0]._actions
            if action.option_strings
        }
        elsewhere = {"--help", "--admin", "--token", "--state", "--namespace"} - shown
        assert options - elsewhere == shown, name

    demo, command = cli.parser_of("demo")
    options = {
        each.option_strings[-1]: each.default for each in demo._actions if each.dest != "help"
    }
    rows = table(page, "## resilient-llm demo")

    off = {"off": False}
    shown = {words(row["option"])[0]: off.get(row["default"], row["default"]) for row in rows}
    assert {name: str(default) for name, default in shown.items()} == {
        name: f"{default:g}" if isinstance(default, float) else str(default)
        for name, default in options.items()
    }
    assert [f"seconds, {command._SHORTEST:g} or more"] == [
        row["unit and range"] for row in rows if "seconds`" in row["option"]
    ]
    statuses = [int(row["exit status"]) for row in table(page, "| exit status")]
    assert [0, 1, cli.USAGE, cli.INTERRUPTED] == statuses


def test_the_testing_helpers_are_all_in_the_reference() -> None:
    """Every public name of the testing module is listed, and every fixture of the plugin."""
    page = DOCS / "reference/testing.md"
    fixtures = re.findall(r'fixture\(name="(\w+)"\)', inspect.getsource(pytest_plugin))

    assert set(testing.__all__) == {words(row["name"])[0] for row in table(page, "| name")}
    assert fixtures == [words(row["fixture"])[0] for row in table(page, "| fixture")]


def test_every_public_name_is_on_a_page_of_the_reference() -> None:
    """A reader who meets a name in code finds it in the reference."""
    api = (DOCS / "reference/api.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", api, flags=re.MULTILINE | re.DOTALL)
    shown = set(re.findall(r"^::: resilient_llm\.(\w+)$", api, re.MULTILINE)) | {
        re.split(r"\W", word)[0] for word in words(prose)
    }
    for module in ("_values.events", "_values.errors"):
        assert f"::: resilient_llm.{module}\n" in api
        shown |= set(vars(importlib.import_module(f"resilient_llm.{module}")))

    assert set() == set(resilient_llm.__all__) - shown - {"__version__"}


def test_every_page_is_in_the_navigation() -> None:
    """A page that is written can be found, and one that is named exists."""
    navigation = (
        (ROOT / "mkdocs.yml")
        .read_text(encoding="utf-8")
        .partition("\nnav:")[2]
        .partition("\n\n")[0]
    )

    named = set(re.findall(r"[:-] (\S+\.md)$", navigation, re.MULTILINE))
    assert {str(page.relative_to(DOCS).as_posix()) for page in DOCS.rglob("*.md")} == named


def test_a_benchmark_above_its_limit_says_so() -> None:
    """A row of the benchmarks says "exceeded" if its ratio is above its limit, and only then."""
    text = (DOCS / "explanation/benchmarks.md").read_text(encoding="utf-8")
    rows = [row for rows in tables(text) for row in rows if row.get("limit", "")[:1].isdigit()]

    def times(cell: str) -> float:
        return float(cell.partition(" ")[0].replace(",", ""))

    measured = ("ratio", "3.11", "3.13", "ours")
    assert 20 < len(rows)
    assert [] == [
        row
        for row in rows
        if ("exceeded" in row["limit"])
        is not (
            max(times(cell) for name, cell in row.items() if name in measured) > times(row["limit"])
        )
    ]


def test_the_commands_in_the_documentation_are_there() -> None:
    """Each command line that a page shows is one that the parser takes."""
    lines = [
        line
        for page in (ROOT / "README.md", *DOCS.rglob("*.md"))
        for line in re.findall(
            r"(?:^|\| |\$ )(resilient-llm .+)", page.read_text("utf-8"), re.MULTILINE
        )
        if not line.startswith("resilient-llm |")
    ]

    assert 10 < len(lines)
    for line in lines:
        name, *arguments = shlex.split(re.split(r" [|>&]", line)[0])[1:]
        parser, _ = cli.parser_of(name)
        parser.parse(arguments)
