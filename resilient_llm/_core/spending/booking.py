"""What an attempt books: one row of a table for each way in which an attempt can end.

    the attempt                            usd, tokens                              calls
    answered, even if rejected             its usage; without: the estimate of      1
                                           its input and what came, else all that
                                           was reserved
    stream left or broken                  its usage, else the estimate of its      1
                                           input; output at least what came
    failed: timeout, cancelled, lost       the estimate of its input                1
    failed with an HTTP status             nothing                                  1
    unsent: not connected, refused inside  nothing                                  0

What came is all that the model wrote: text, reasoning, refusals, arguments of tools. It counts as
characters / 4, rounded up. All but the first and the last two rows are estimates,
and so is the first without a usage. Keep in sync with the table in the documentation of budgets.

What an attempt inside this one has booked is not booked again: then only the call counts. Which
that is, `call.spending` says.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, assert_never

from resilient_llm._core.contents import CHARACTERS_PER_TOKEN
from resilient_llm._core.spending.unsent import is_unsent
from resilient_llm._values.usage import MOST_TOKENS, Usage

if TYPE_CHECKING:
    from resilient_llm._core.spending.estimates import Estimate

_LEAST_STATUS: Final = 400
_NO_USAGE: Final = Usage()


class Ending(Enum):
    """How an attempt ended, as far as its costs depend on it."""

    ANSWERED = "answered"
    STREAM_CUT = "stream_cut"
    FAILED = "failed"
    STATUS = "status"
    UNSENT = "unsent"


class Booking(NamedTuple):
    """What an attempt books in the budgets that have admitted it.

    Attributes:
        usage: Its tokens, told or estimated.
        calls: 1 if it was sent, else 0.
        estimated: Whether the usage is an estimate.
        as_reserved: Whether it books all that was reserved in each budget instead; the usage is
            then the estimate of its input.
    """

    usage: Usage = _NO_USAGE
    calls: int = 1
    estimated: bool = False
    as_reserved: bool = False


NOTHING: Final = Booking(calls=0)
ONLY_THE_CALL: Final = Booking()


def ending_of(error: BaseException, status: int | None = None) -> Ending:
    """Return how an attempt ended that an error has left.

    Args:
        error: The error, a cancellation included.
        status: HTTP status of the answer, or None if there was none.
    """
    if is_unsent(error):
        return Ending.UNSENT
    if status is not None and status >= _LEAST_STATUS:
        return Ending.STATUS
    return Ending.FAILED


def booking_of(
    ending: Ending,
    estimate: Estimate,
    *,
    usage: Usage | None = None,
    characters: int = 0,
    is_booked_inside: bool = False,
) -> Booking:
    """Return what an attempt books.

    Args:
        ending: How it ended.
        estimate: Of its tokens, made before it was sent.
        usage: What the provider told, or None. Not asked for an attempt that failed.
        characters: Of all that the model wrote, 0 if they are unknown.
        is_booked_inside: Whether an attempt inside this one has booked what was used.
    """
    if ending is Ending.UNSENT:
        return NOTHING
    if ending is Ending.STATUS or is_booked_inside:
        return ONLY_THE_CALL
    if ending is Ending.FAILED:
        return _estimated(estimate.input, 0)
    came = min(-(-characters // CHARACTERS_PER_TOKEN), MOST_TOKENS)
    if ending is Ending.STREAM_CUT:
        if usage is None:
            return _estimated(estimate.input, came)
        return Booking(_with_output(usage, came), estimated=True)
    if ending is Ending.ANSWERED:
        if usage is not None:
            return Booking(usage)
        return _estimated(estimate.input, came, as_reserved=not came)
    assert_never(ending)


def _estimated(tokens: int, output: int, *, as_reserved: bool = False) -> Booking:
    usage = Usage(min(tokens, MOST_TOKENS), output)
    return Booking(usage, estimated=True, as_reserved=as_reserved)


def _with_output(usage: Usage, least: int) -> Usage:
    """Return a usage with at least so many tokens of output."""
    if usage.output >= least:
        return usage
    return Usage(usage.input, least, usage.cached, usage.cache_write, usage.reasoning)
