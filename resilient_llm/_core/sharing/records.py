"""Writes and reads the records of a store; the one place that decides what is believed.

Whoever can write to a store can write anything, so nothing of a record is known when it is read.
What is not understood, or may not be shared, is None here, and whoever asks counts it. Reading
never raises.

A body is JSON, and its version stands first, so that a later release can add another. One of a
version that is not known is not understood. Texts that others see are escaped where they are shown.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from resilient_llm._values.checks import LONGEST_NOTE
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.sharing import (
    LAYERS,
    LONGEST_BODY,
    MANUAL,
    MOST_IDS,
    MOST_ORDER,
    Balance,
    RawRecord,
)
from resilient_llm._values.target import normal_key

if TYPE_CHECKING:
    from typing import TypeAlias

    from resilient_llm._values.sharing import Layer

VERSION: Final = 1
LONGEST_ID: Final = 64
LONGEST_ACCOUNT: Final = 1024
MOST_AMOUNT: Final = 10**30
"""The largest amount that is believed: a million times the largest cap."""
MOST_FAILURES: Final = 1_000_000

_KINDS: Final[dict[Layer, tuple[ErrorKind | None, ...]]] = {
    "manual": (None,),
    "automatic": (
        ErrorKind.TRANSIENT,
        ErrorKind.RATE_LIMITED,
        ErrorKind.MEMORY_PRESSURE,
        ErrorKind.BAD_RESPONSE,
        ErrorKind.UNKNOWN,
    ),
    "pause": (ErrorKind.RATE_LIMITED,),
}
"""``{layer: kinds that its benches may have}``. Dead keys are not shared."""


class SharedBench(NamedTuple):
    """A bench of another process, or one to publish.

    Attributes:
        key: Of a provider or a target, as the registry writes it.
        layer: Which of the three it belongs to.
        id: Names it.
        order: Of the changes of its key; 0 before it is published.
        ends_in: Seconds until its end, at most ``length``; None until it is ended.
        length: Its full length in seconds, or None.
        age: Seconds since it began.
        kind: What kind of error benched it; None for a manual bench.
        reason: Short word, or what the operator wrote.
        by: Who benched it by hand, if that was given; else empty.
        source: Name of the process that published it.
        trigger: What opened the circuit, with its numbers.
        failures: Consecutive failures at that moment.
        named: Whether the provider itself named the wait.
    """

    key: str
    layer: Layer
    id: str
    order: int
    ends_in: float | None
    length: float | None
    age: float
    kind: ErrorKind | None
    reason: str
    by: str = ""
    source: str = ""
    trigger: str = ""
    failures: int = 0
    named: bool = False


class SharedEnd(NamedTuple):
    """The end of benches by another process, or one to publish.

    Attributes:
        key: See `SharedBench`.
        layer: See `SharedBench`.
        order: See `SharedBench`.
        through: The order of the newest bench that ends.
        ids: Further benches that end.
        age: Seconds since.
        reason: As in `TargetUnbenched`.
        by: See `SharedBench`.
        source: See `SharedBench`.
    """

    key: str
    layer: Layer
    order: int
    through: int
    ids: tuple[str, ...]
    age: float
    reason: str
    by: str = ""
    source: str = ""


SharedRecord: TypeAlias = SharedBench | SharedEnd


class _Refused(Exception):  # noqa: N818  # never leaves this module
    """Something is not what it has to be."""


# Writing.


def bench_body(bench: SharedBench) -> bytes:
    """Return what of a bench only readers understand."""
    return _written(
        {
            "v": VERSION,
            "kind": bench.kind,
            "reason": bench.reason,
            "by": bench.by,
            "source": bench.source,
            "trigger": bench.trigger,
            "length": bench.length,
            "failures": min(bench.failures, MOST_FAILURES),
            "named": bench.named,
        }
    )


def end_body(end: SharedEnd) -> bytes:
    """Return what of an end only readers understand."""
    return _written({"v": VERSION, "reason": end.reason, "by": end.by, "source": end.source})


def _written(fields: dict[str, Any]) -> bytes:
    plain = {
        name: _plain(value) if isinstance(value, str) else value for name, value in fields.items()
    }
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _plain(text: str) -> str:
    """Return a text without lone surrogates, which no store can write, cut to what is read."""
    return text.encode("utf-8", "replace").decode()[:LONGEST_NOTE]


# Reading.


def read(record: RawRecord) -> SharedRecord | None:
    """Return what a record says, or None if it is not understood or may not be shared."""
    try:
        return _bench(record) if record.through is None else _end(record)
    except _Refused:
        return None


def read_balance(balance: Balance) -> Balance | None:
    """Return a balance, or None if it is none."""
    try:
        _text(balance.account, LONGEST_ACCOUNT, least=1)
        start = _whole(balance.start, -MOST_ORDER, MOST_ORDER)
        if balance.end is not None:
            _whole(balance.end, start + 1, MOST_ORDER)
        for amount in balance[3:]:
            _whole(amount, 0, MOST_AMOUNT)
    except _Refused:
        return None
    return balance


def _bench(record: RawRecord) -> SharedBench:
    key, layer, order = _key(record.key), _layer(record.layer), _whole(record.order, 1, MOST_ORDER)
    bench_id, ends_in = _id(record.id), _seconds(record.ends_in)
    fields = _fields(record.body)
    length = _seconds(fields.get("length"))
    kind = _kind(fields.get("kind"))
    if kind not in _KINDS[layer]:
        raise _Refused
    if length is not None:
        # The clock of the store may have been set back; no bench lasts longer for it.
        ends_in = length if ends_in is None else min(ends_in, length)
    if ends_in is None and layer != MANUAL:
        raise _Refused
    named = fields.get("named", False)
    if not isinstance(named, bool):
        raise _Refused
    return SharedBench(
        key=key,
        layer=layer,
        id=bench_id,
        order=order,
        ends_in=ends_in,
        length=length,
        age=_age(record.age),
        kind=kind,
        reason=_note(fields, "reason"),
        by=_note(fields, "by"),
        source=_note(fields, "source"),
        trigger=_note(fields, "trigger"),
        failures=_whole(fields.get("failures", 0), 0, MOST_FAILURES),
        named=named,
    )


def _end(record: RawRecord) -> SharedEnd:
    ids = record.ids
    if not isinstance(ids, tuple):
        raise _Refused
    given = cast("tuple[object, ...]", ids)
    if len(given) > MOST_IDS:
        raise _Refused
    fields = _fields(record.body)
    return SharedEnd(
        key=_key(record.key),
        layer=_layer(record.layer),
        order=_whole(record.order, 1, MOST_ORDER),
        through=_whole(record.through, 0, MOST_ORDER),
        ids=tuple(_id(each) for each in given),
        age=_age(record.age),
        reason=_note(fields, "reason"),
        by=_note(fields, "by"),
        source=_note(fields, "source"),
    )


def _fields(body: object) -> dict[str, Any]:
    if not isinstance(body, bytes) or len(body) > LONGEST_BODY:
        raise _Refused
    try:
        fields: Any = json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _Refused from None
    if not isinstance(fields, dict):
        raise _Refused
    known = cast("dict[str, Any]", fields)
    version = known.get("v")
    if isinstance(version, bool) or version != VERSION:
        raise _Refused
    return known


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _key(value: object) -> str:
    try:
        if isinstance(value, str) and normal_key(value) == value:
            return value
    except ConfigurationError:
        pass
    raise _Refused


def _layer(value: object) -> Layer:
    for layer in LAYERS:
        if value == layer:
            return layer
    raise _Refused


def _kind(value: object) -> ErrorKind | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise _Refused
    try:
        return ErrorKind(value)
    except ValueError:
        raise _Refused from None


def _id(value: object) -> str:
    text = _text(value, LONGEST_ID, least=1)
    if not text.isascii() or not text.isprintable():
        raise _Refused
    return text


def _note(fields: dict[str, Any], name: str) -> str:
    return _text(fields.get(name, ""), LONGEST_NOTE)


def _text(value: object, most: int, *, least: int = 0) -> str:
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise _Refused
    if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
        raise _Refused  # no encoding can write it
    return value


def _whole(value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _Refused
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Refused
    try:
        number = float(value)
    except OverflowError:
        raise _Refused from None
    if not math.isfinite(number):
        raise _Refused
    return number


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number <= 0:
        raise _Refused
    return number


def _age(value: object) -> float:
    # Below 0 it is from a moment that the clock of the store has not reached again.
    return max(_number(value), 0.0)
