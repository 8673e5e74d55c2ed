"""Every type of event passes through whatever shows events, with all its fields."""

from __future__ import annotations

import json
import logging
import typing
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import resilient_llm
from resilient_llm import (
    BudgetExceeded,
    BudgetWarning,
    ConfigReloaded,
    ConfigReloadFailed,
    ErrorKind,
    Event,
    HedgeStarted,
    OrderChanged,
    SpendRecorded,
    StoreAvailable,
    StoreLost,
    StoreUnavailable,
    TargetBenched,
    TargetUnbenched,
    Usage,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import event_names
from resilient_llm._values.event_names import EventName
from resilient_llm.admin._feed import _text
from resilient_llm.cli._sse import MessageReader
from resilient_llm.cli.events import _Lines
from resilient_llm.config import ConfigProblem
from resilient_llm.observers import jsonl, webhook
from resilient_llm.testing import FakeClock, capture_events
from tests.support.ways import GROQ, MISTRAL, OPENAI

TYPES: tuple[EventName, ...] = typing.get_args(EventName)
SPECIAL: dict[str, Any] = {
    "kind": ErrorKind.TRANSIENT,
    "number": 2,
    "seconds": 1.5,
    "delay": 0.25,
    "status": 503,
    "attempts": 3,
    "items_sent": 4,
    "until": 60.0,
    "retry_after": 7.0,
    "enforced": True,
    "old": "healthy",
    "new": "down",
    "order": (OPENAI, MISTRAL, GROQ),
    "beside": OPENAI,
    "repeats": 5,
    "action": "warn",
    "usd": Decimal("0.0000001"),
    "usage": Usage(input=1200, output=300, cached=1000),
    "estimated": False,
    "spend_key": "tenant-7",
    "key": "tenant-7",
    "spent": Decimal("50.25"),
    "cap": Decimal(50),
    "resets_at": datetime(2026, 12, 1, tzinfo=UTC),
    "url": "redis://cache:6379/0",
    "changed": ("chains.fast", "settings.timeout"),
    "problems": (
        ConfigProblem("llm.toml: chains.fast[1]", "one thing is wrong"),
        ConfigProblem("llm.toml: settings", "another one is\nwrong, too"),
    ),
}
OF_STORE = (StoreUnavailable, StoreAvailable, StoreLost)
OF_CONFIG = (ConfigReloaded, ConfigReloadFailed)
OF_PROCESS = (*OF_STORE, *OF_CONFIG)
PROBLEM = "llm.toml: chains.fast[1]: one thing is wrong"
COMMON = {field.name for field in fields(Event)}


def emit(kind: EventName) -> Event:
    """Emit an event of this type for a target, or for none if it has none; return it."""
    names = {field.name for field in fields(getattr(resilient_llm, kind))} - COMMON
    values = {name: SPECIAL.get(name, name) for name in names}
    circuit, dispatcher = runtime.registry.circuit(GROQ), runtime.dispatcher
    with capture_events() as seen:
        if issubclass(getattr(resilient_llm, kind), OF_PROCESS):
            dispatcher.emit(dispatcher.of_process, kind, runtime.clock(), None, **values)
        else:
            circuit.emit(kind, runtime.clock(), **values)
    return seen[0]


def target_of(event: Event) -> str:
    """Return the target that an event of this type has to have."""
    return "" if isinstance(event, OF_PROCESS) else GROQ


@pytest.mark.parametrize("kind", TYPES)
def test_the_log_has_it(kind: EventName, clock: FakeClock, caplog: Any) -> None:
    """Its fields are in the line and in ``extra``, the keys of an order one by one."""
    caplog.set_level(logging.DEBUG, logger="resilient_llm")

    event = emit(kind)

    (record,) = [each for each in caplog.records if each.name == "resilient_llm"]
    assert record.getMessage().startswith(f"{kind} {target_of(event)} ".replace("  ", " "))
    assert "  " not in record.getMessage()
    for name in {field.name for field in fields(event)} - COMMON:
        assert f"{name}=" in record.getMessage() or not getattr(event, name)
        assert getattr(event, name) == getattr(record, name)
    if isinstance(event, OrderChanged):
        assert all(key in record.getMessage() for key in event.order)
    if isinstance(event, SpendRecorded):
        assert "DEBUG" == record.levelname
        assert " usd=0.0000001 usage=input:1200,output:300,cached:1000 " in record.getMessage()
    if isinstance(event, (BudgetWarning, BudgetExceeded)):
        assert "WARNING" == record.levelname
        assert " key=tenant-7 spent=50.25 cap=50 " in record.getMessage()
    if isinstance(event, OF_STORE):
        assert " url=redis://cache:6379/0" in record.getMessage()
    if isinstance(event, ConfigReloaded):
        assert "INFO" == record.levelname
        assert " changed=chains.fast,settings.timeout" in record.getMessage()
    if isinstance(event, ConfigReloadFailed):
        assert "WARNING" == record.levelname
        second = "llm.toml: settings: another one is\\nwrong, too"
        assert f" problems={PROBLEM}; {second}" in record.getMessage()


@pytest.mark.parametrize("kind", TYPES)
def test_the_journal_has_it(kind: EventName, clock: FakeClock, tmp_path: Path) -> None:
    """As JSON, an order as a list of keys."""
    exporter = jsonl.install(tmp_path / "journal")

    event = emit(kind)

    assert exporter.flush()
    (line,) = (tmp_path / "journal").read_text().splitlines()
    found = json.loads(line)
    assert (kind, target_of(event)) == (found["type"], found["target"])
    assert {"type", "pid", *(field.name for field in fields(event))} == set(found)
    if isinstance(event, OrderChanged):
        assert [OPENAI, MISTRAL, GROQ] == found["order"]
    if isinstance(event, HedgeStarted):
        assert (2, 0.25, OPENAI) == (found["number"], found["delay"], found["beside"])
    if isinstance(event, SpendRecorded):
        parts = {"input": 1200, "output": 300, "cached": 1000, "cache_write": 0, "reasoning": 0}
        assert (1e-7, parts, False) == (found["usd"], found["usage"], found["estimated"])
    if isinstance(event, (BudgetWarning, BudgetExceeded)):
        told = (found["key"], found["spent"], found["cap"], found["resets_at"])
        assert ("tenant-7", 50.25, 50, "2026-12-01T00:00:00.000000Z") == told
    if isinstance(event, ConfigReloaded):
        assert ["chains.fast", "settings.timeout"] == found["changed"]
    if isinstance(event, ConfigReloadFailed):
        assert [PROBLEM, "llm.toml: settings: another one is\nwrong, too"] == found["problems"]


@pytest.mark.parametrize("kind", TYPES)
def test_a_webhook_has_it(kind: EventName, clock: FakeClock) -> None:
    """As JSON, and for Slack as a sentence."""
    event = emit(kind)

    message = json.loads(json.dumps(webhook._message(event, 0, "id")))
    sentence = webhook._summary(event, 0)

    assert (kind, target_of(event)) == (message["type"], message["data"]["target"])
    assert sentence.startswith(f"{kind} {target_of(event)}".rstrip() + ": ")
    assert "(" not in sentence  # no value is shown as Python writes it
    if isinstance(event, OrderChanged):
        assert f"order {OPENAI} > {MISTRAL} > {GROQ}" in sentence
    if isinstance(event, HedgeStarted):
        assert all(each in sentence for each in ("number 2", "delay 0.25", f"beside {OPENAI}"))
    if isinstance(event, SpendRecorded):
        assert all(each in sentence for each in ("usd 0.0000001", "input 1200", "cached 1000"))
        assert 300 == message["data"]["usage"]["output"]
    if isinstance(event, (BudgetWarning, BudgetExceeded)):
        assert all(each in sentence for each in ("key tenant-7", "spent 50.25", "cap 50"))
    if isinstance(event, OF_STORE):
        assert "url redis://cache:6379/0" in sentence
    if isinstance(event, ConfigReloaded):
        assert sentence.endswith("changed chains.fast, settings.timeout")
    if isinstance(event, ConfigReloadFailed):
        assert f"problems {PROBLEM}; llm.toml: settings: another one" in sentence
        assert PROBLEM == message["data"]["problems"][0]


@pytest.mark.parametrize("kind", TYPES)
def test_the_feed_of_the_admin_page_and_the_command_have_it(
    kind: EventName, clock: FakeClock, capsys: Any
) -> None:
    """The feed sends what the command prints on a line of its own."""
    event = emit(kind)
    reader = MessageReader()
    messages = [
        message
        for line in _text(event, 7).splitlines(keepends=True)
        if (message := reader.feed(line)) is not None
    ]
    for message in messages:
        _Lines().write(message)

    (line,) = capsys.readouterr().out.splitlines()
    assert kind in line
    assert target_of(event) in line
    if isinstance(event, OrderChanged):
        assert line.endswith(f" order={OPENAI},{MISTRAL},{GROQ}")
    if isinstance(event, HedgeStarted):
        assert all(each in line for each in ("number=2", "delay=0.25", f"beside={OPENAI}"))
    if isinstance(event, SpendRecorded):
        assert " usd=0.0000001 usage=input:1200,output:300,cached:1000 " in f"{line} "
    if isinstance(event, (BudgetWarning, BudgetExceeded)):
        assert " key=tenant-7 spent=50.25 cap=50 resets_at=2026-12-01T00:00:00Z" in line
    if isinstance(event, OF_STORE):
        assert " url=redis://cache:6379/0" in line
    if isinstance(event, ConfigReloaded):
        assert " changed=chains.fast,settings.timeout" in line
    if isinstance(event, ConfigReloadFailed):
        assert PROBLEM in line


@pytest.mark.parametrize("source", ["local", "web-2:17"])
@pytest.mark.parametrize("kind", ["TargetBenched", "TargetUnbenched"])
def test_the_source_of_a_bench_is_shown_where_it_tells_something(
    kind: EventName, source: str, clock: FakeClock, caplog: Any, capsys: Any, tmp_path: Path
) -> None:
    """Data has it always; lines for people have it if another process did it, the log at INFO."""
    caplog.set_level(logging.DEBUG, logger="resilient_llm")
    exporter = jsonl.install(tmp_path / "journal")
    with capture_events(TargetBenched, TargetUnbenched) as seen:
        fields_of_kind = {field.name for field in fields(getattr(resilient_llm, kind))} - COMMON
        values = {name: SPECIAL.get(name, name) for name in fields_of_kind} | {"source": source}
        if kind == "TargetBenched":
            values["retry_after"] = None
        runtime.registry.circuit(GROQ).emit(kind, runtime.clock(), **values)
    reader = MessageReader()
    for line in _text(seen[0], 7).splitlines(keepends=True):
        if (message := reader.feed(line)) is not None:
            _Lines().write(message)

    is_foreign = source != "local"
    (record,) = [each for each in caplog.records if each.name == "resilient_llm"]
    assert is_foreign == ("source=web-2:17" in record.getMessage())
    assert is_foreign == ("source" in record.getMessage())
    assert (" retry_after=" in record.getMessage()) == (kind == "TargetBenched")
    assert source == record.__dict__["source"]
    is_warned = kind == "TargetBenched" and not is_foreign
    assert ("WARNING" if is_warned else "INFO") == record.levelname
    assert exporter.flush()
    assert source == json.loads((tmp_path / "journal").read_text())["source"]
    assert source == webhook._message(seen[0], 0, "id")["data"]["source"]
    assert is_foreign == ("source web-2:17" in webhook._summary(seen[0], 0))
    assert is_foreign == ("source" in webhook._summary(seen[0], 0))
    assert is_foreign == (" source=web-2:17" in capsys.readouterr().out)


def test_every_type_has_an_example() -> None:
    """All types that are emitted are in this test, and none twice."""
    assert set(TYPES) == {
        name
        for name in vars(event_names)
        if name[0].isupper() and name not in ("EventName", "Final", "Literal")
    }
    assert len(TYPES) == len(set(TYPES))
