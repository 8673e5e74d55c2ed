"""Records of a store: what is written is read again, and whatever else is found is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import ErrorKind
from resilient_llm._core.sharing.records import (
    SharedBench,
    SharedEnd,
    bench_body,
    end_body,
    read,
    read_balance,
)
from resilient_llm._values.sharing import LONGEST_BODY, MOST_IDS, MOST_ORDER, Balance, RawRecord

BENCH = SharedBench(
    key="groq/llama",
    layer="automatic",
    id="b1",
    order=7,
    ends_in=30.0,
    length=60.0,
    age=30.0,
    kind=ErrorKind.TRANSIENT,
    reason="timeout",
    source="host:12",
    trigger="failures 5/5",
    failures=5,
)
END = SharedEnd(
    key="groq/llama",
    layer="manual",
    order=9,
    through=7,
    ids=("b2",),
    age=1.0,
    reason="manual",
    by="alice",
    source="host:12",
)


def raw(record: SharedBench | SharedEnd, **changes: Any) -> RawRecord:
    """Return a record as a store gives it back."""
    if isinstance(record, SharedBench):
        body, through, ids = bench_body(record), None, ()
        found = RawRecord(
            record.key,
            record.layer,
            record.id,
            record.order,
            through,
            ids,
            record.ends_in,
            record.age,
            body,
        )
    else:
        found = RawRecord(
            record.key,
            record.layer,
            "",
            record.order,
            record.through,
            record.ids,
            None,
            record.age,
            end_body(record),
        )
    return found._replace(**changes)


def body(record: SharedBench | SharedEnd = BENCH, **changes: Any) -> bytes:
    """Return the body of a record with some fields changed."""
    written = bench_body(record) if isinstance(record, SharedBench) else end_body(record)
    return json.dumps({**json.loads(written), **changes}).encode()


@pytest.mark.parametrize(
    "record",
    [
        BENCH,
        BENCH._replace(
            layer="manual", kind=None, ends_in=None, length=None, by="bob", reason="☃\n"
        ),
        BENCH._replace(layer="pause", kind=ErrorKind.RATE_LIMITED, named=True),
        END,
    ],
)
def test_what_is_written_is_read(record: SharedBench | SharedEnd) -> None:
    """A record comes back as it was."""
    assert record == read(raw(record))


def test_a_bench_lasts_no_longer_than_its_length() -> None:
    """A store whose clock was set back does not lengthen a bench."""
    found = read(raw(BENCH, ends_in=3600.0, age=-3600.0))

    assert isinstance(found, SharedBench)
    assert (60.0, 0.0) == (found.ends_in, found.age)


def test_a_field_of_a_later_release_is_no_harm() -> None:
    """What is added within a version is not looked at."""
    assert BENCH == read(raw(BENCH, body=body(more={"deep": [1]})))


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "x" * 513},
        {"key": " groq"},
        {"key": "Groq"},
        {"key": "groq/\n"},
        {"key": "groq/\ud800"},
        {"key": ""},
        {"key": b"groq"},
        {"layer": "other"},
        {"layer": None},
        {"layer": []},
        {"id": ""},
        {"id": "x" * 65},
        {"id": 7},
        {"id": "☃"},
        {"order": 0},
        {"order": True},
        {"order": "7"},
        {"order": 7.0},
        {"order": MOST_ORDER + 1},
        {"ends_in": 0.0},
        {"ends_in": -1},
        {"ends_in": float("nan")},
        {"ends_in": float("inf")},
        {"ends_in": 10**400},
        {"ends_in": "30"},
        {"age": None},
        {"age": float("nan")},
        {"through": "7"},
        {"body": "text"},
        {"body": b""},
        {"body": b"\xff"},
        {"body": b"[]"},
        {"body": b"[" * LONGEST_BODY},
        {"body": b"1" * LONGEST_BODY},
        {"body": b'{"v": 1' + b" " * LONGEST_BODY + b"}"},
        {"body": body(v=2)},
        {"body": body(v=True)},
        {"body": body(v="1")},
        {"body": body(reason="x" * 201)},
        {"body": body(reason=None)},
        {"body": body(reason="\ud800")},
        {"body": body(by=7)},
        {"body": body(source="x" * 201)},
        {"body": body(length=float("nan"))},
        {"body": body(length=-1)},
        {"body": body(length=True)},
        {"body": body(failures=-1)},
        {"body": body(failures=1.5)},
        {"body": body(named=1)},
        {"body": body(kind="auth_dead")},
        {"body": body(kind="other")},
        {"body": body(kind=[])},
        {"body": body(kind=None)},
    ],
    ids=repr,
)
def test_what_is_not_understood_is_refused(changes: dict[str, Any]) -> None:
    """A wrong type, a long text, an unknown version: None, and no error."""
    assert read(raw(BENCH, **changes)) is None


def test_a_bench_by_the_program_has_an_end() -> None:
    """Nobody but an operator benches until further notice."""
    assert read(raw(BENCH, ends_in=None, body=body(length=None))) is None
    assert read(raw(BENCH, layer="pause", body=body(kind="transient"))) is None
    assert read(raw(BENCH, layer="manual")) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"through": -1},
        {"through": MOST_ORDER + 1},
        {"through": True},
        {"ids": ["b2"]},
        {"ids": ("b",) * (MOST_IDS + 1)},
        {"ids": (7,)},
        {"ids": None},
        {"body": body(END, by="x" * 201)},
        {"body": b"null"},
    ],
    ids=repr,
)
def test_an_end_that_is_not_understood_is_refused(changes: dict[str, Any]) -> None:
    """The same for ends."""
    assert read(raw(END, **changes)) is None


def test_what_no_store_can_write_is_replaced() -> None:
    """The reason of an operator with half a character in it is shared all the same."""
    found = read(raw(BENCH._replace(reason="a\ud800b", source="x" * 300)))

    assert isinstance(found, SharedBench)
    assert ("a?b", "x" * 200) == (found.reason, found.source)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=5,
)


@given(st.builds(RawRecord, *[anything] * 9))
def test_nothing_that_is_found_raises(record: RawRecord) -> None:
    """Whatever the types are, reading a record gives a record or None."""
    assert read(record) is None


@given(
    st.sampled_from([BENCH, END]),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), max_size=4),
)
def test_a_damaged_body_raises_nothing(
    record: SharedBench | SharedEnd, damages: list[tuple[int, bytes]]
) -> None:
    """Bytes that were changed give a record that keeps to all bounds, or None."""
    damaged = raw(record).body
    assert isinstance(damaged, bytes)
    for index, new in damages:
        damaged = damaged[:index] + new + damaged[index + 1 :]

    found = read(raw(record, body=damaged))

    assert found is None or (
        len(found.reason) <= 200 and len(found.by) <= 200 and len(found.source) <= 200
    )


@pytest.mark.parametrize(
    ("balance", "is_one"),
    [
        (Balance("a", 0, 3600, 10**24, 0, 1, 1), True),
        (Balance("a", 0, None), True),
        (Balance("", 0, None), False),
        (Balance("a", 5, 5), False),
        (Balance("a", 0, None, -1), False),
        (Balance("a", 0, None, 1.5), False),  # pyright: ignore[reportArgumentType]
        (Balance("a", 0, None, 10**31), False),
        (Balance("a", "0", None), False),  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_balance_is_looked_at_as_well(balance: Balance, is_one: bool) -> None:
    """Amounts are whole numbers of a believable size."""
    assert (read_balance(balance) is not None) == is_one
