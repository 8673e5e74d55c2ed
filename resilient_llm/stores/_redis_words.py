"""What `RedisStore` sends to its script, and how it reads the answers.

Everything goes as bytes, since the client of a user may encode texts in its own way. What comes
back may have been written by anyone: a text that is not UTF-8 and a number that is none are given
on in a form which readers refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from resilient_llm._values.sharing import (
    MOST_ORDER,
    Balance,
    Bench,
    Changes,
    Claimed,
    Published,
    RawRecord,
    Reserved,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from resilient_llm._values.sharing import Claim, End, Reserve, Settle, Stamp, Take

T = TypeVar("T")

_MOST_AMOUNT: Final = 10**30
"""The largest amount that is believed anywhere; two whole numbers hold nine times as much."""
_LONGEST_NUMBER: Final = 40
"""Characters of a number that is read."""
NONE: Final = b""


# What is sent.


def text(value: str) -> bytes:
    """Return a text, which has no lone surrogates."""
    return value.encode()


def number(value: float | None) -> bytes:
    """Return a number that is exact as a double, or nothing."""
    if value is None:
        return NONE
    return b"%d" % value if isinstance(value, int) else repr(float(value)).encode()


def order(value: int | None) -> bytes:
    """Return an order or a revision."""
    return NONE if value is None else b"%d" % min(max(value, 0), MOST_ORDER)


def amount(value: int | None) -> bytes:
    """Return an amount, of which all digits count."""
    return NONE if value is None else b"%d" % min(max(value, 0), _MOST_AMOUNT)


def booked(value: int) -> bytes:
    """Return what an entry books, of which all digits count; below 0 it is taken back."""
    return b"%d" % min(max(value, -_MOST_AMOUNT), _MOST_AMOUNT)


def stamp(value: Stamp) -> list[bytes]:
    """Return who asks."""
    return [
        text(value.session),
        number(value.number),
        text(value.epoch or ""),
        # As it is: a revision that no data reaches tells that data was lost.
        number(value.revision),
        number(value.answered),
        order(value.order),
    ]


def listed(values: Sequence[T], words: Callable[[T], Iterable[bytes]]) -> list[bytes]:
    """Return how many values there are, and their words."""
    sent = [b"%d" % len(values)]
    for value in values:
        sent += words(value)
    return sent


def change(value: Bench | End) -> list[bytes]:
    """Return a bench or an end."""
    common = [
        text(value.key),
        text(value.layer),
        bytes(value.body),
        number(value.age),
        order(value.order),
    ]
    if isinstance(value, Bench):
        return [b"b", *common, text(value.id), number(value.ends_in), order(value.seen)]
    return [b"e", *common, order(value.through), *listed(value.ids, lambda each: [text(each)])]


def balance(value: Balance) -> list[bytes]:
    """Return what an account has to show at least."""
    return [
        text(value.account),
        number(value.start),
        number(value.end),
        amount(value.spent),
        amount(value.calls),
        amount(value.estimated),
    ]


def claim(value: Claim) -> list[bytes]:
    """Return a claim."""
    return [text(value.key), number(value.lease)]


def take(value: Take) -> list[bytes]:
    """Return what is taken from a bucket."""
    return [
        text(value.bucket),
        number(value.amount),
        number(value.interval),
        number(value.burst),
    ]


def reserve(value: Reserve) -> list[bytes]:
    """Return a reservation."""
    sent = [text(value.id), b"1" if value.is_renewal else b"0"]
    sent += listed(
        value.charges,
        lambda each: [
            text(each.account),
            number(each.start),
            number(each.end),
            amount(each.amount),
            amount(each.cap),
            amount(each.fallback),
        ],
    )
    return sent + listed(value.takes, take)


def settle(value: Settle) -> list[bytes]:
    """Return a settlement."""
    sent = [text(value.id)]
    sent += listed(
        value.entries,
        lambda each: [
            text(each.account),
            number(each.start),
            number(each.end),
            booked(each.amount),
            booked(each.calls),
            booked(each.estimated),
        ],
    )
    return sent + listed(value.takes, take)


# What comes back.


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape")


def _number(value: Any) -> float:
    """Return a number of the script: a whole one exactly, if it is one."""
    if len(value) > _LONGEST_NUMBER:
        raise ValueError
    return int(value) if value.lstrip(b"-").isdigit() else float(value)


def _amount(value: Any) -> int:
    if len(value) > _LONGEST_NUMBER:
        raise ValueError
    return int(value)


def _balance(row: Sequence[Any]) -> Balance:
    _, account, start, end, spent, reserved, calls, estimated = row
    return Balance(
        _text(account),
        int(start),
        int(end) if end else None,
        _amount(spent),
        _amount(reserved),
        _amount(calls),
        _amount(estimated),
    )


def _record(row: Sequence[Any]) -> RawRecord:
    kind = row[0]
    if kind == b"b":
        _, key, layer, bench_id, of_order, ends_in, age, body = row
        return RawRecord(
            _text(key),
            _text(layer),
            _text(bench_id),
            _number(of_order),
            None,
            (),
            float(ends_in) if ends_in else None,
            float(age),
            body,
        )
    if kind == b"e":
        _, key, layer, of_order, through, age, body, *ids = row
        return RawRecord(
            _text(key),
            _text(layer),
            "",
            _number(of_order),
            _number(through),
            tuple(_text(each) for each in ids),
            None,
            float(age),
            body,
        )
    return RawRecord(None, None, None, None, None, (), None, None, None)


def published(answer: Any) -> tuple[Published, ...]:
    """Return what became of changes."""
    return tuple(
        Published(cast("Any", _text(outcome)), int(of_order)) for outcome, of_order in answer
    )


def changes(answer: Any) -> Changes:
    """Return what a look has found."""
    epoch, revision, has_more, is_all, is_lost, peers, now, *rows = answer
    return Changes(
        epoch=_text(epoch),
        revision=int(revision),
        records=tuple(_record(row) for row in rows if row[0] != b"a"),
        balances=tuple(_balance(row) for row in rows if row[0] == b"a"),
        is_all=bool(is_all),
        has_more=bool(has_more),
        is_lost=bool(is_lost),
        peers=max(int(peers), 1),
        now=float(now),
    )


def claimed(answer: Any) -> tuple[Claimed, ...]:
    """Return who has the places."""
    return tuple(Claimed(bool(is_held), float(ends_in)) for is_held, ends_in in answer)


def reserved(answer: Any) -> tuple[Reserved, ...]:
    """Return what became of reservations."""
    now, *rows = answer
    return tuple(
        Reserved(
            cast("Any", _text(outcome)),
            tuple(_balance(each) for each in balances),
            float(retry_after) if retry_after else None,
            float(now),
        )
        for outcome, retry_after, *balances in rows
    )


def balances(answer: Any) -> tuple[Balance, ...]:
    """Return accounts after a settlement."""
    return tuple(_balance(row) for row in answer)
