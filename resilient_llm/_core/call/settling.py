"""What an attempt has used of token limits, once it has ended.

The table is in `spending.booking`.

Asked at each end of an attempt; the first that is asked counts. An attempt without token limits
costs one look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.spending.booking import Ending, booking_of, ending_of

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Reply, Try
    from resilient_llm._core.stream.stream_state import StreamState
    from resilient_llm._values.money import Usage
    from resilient_llm._values.verdict import Verdict


def settle_answer(call: Call, trial: Try, now: float, value: Any) -> None:
    """Settle an attempt that has answered, even if the answer is rejected."""
    if not _is_open(trial):
        return
    reader = call.deps.usage_reader()
    usage = reader.usage_of(value)
    characters = 0 if usage is not None else reader.characters_in(value)
    _settle(trial, now, Ending.ANSWERED, usage, characters)


def settle_stream(trial: Try, reply: Reply, stream: StreamState) -> None:
    """Settle an attempt whose stream is over."""
    if not _is_open(trial):
        return
    is_whole = reply.error is None and stream.fault is None and not stream.stopped_by_consumer
    usage = None if stream.usage is None else stream.usage.usage
    ending = Ending.ANSWERED if is_whole else Ending.STREAM_CUT
    _settle(trial, reply.now, ending, usage, stream.characters)


def settle_failure(trial: Try, now: float, error: BaseException, verdict: Verdict) -> None:
    """Settle an attempt that an error has left."""
    if _is_open(trial):
        _settle(trial, now, ending_of(error, verdict.status))


def settle_unanswered(trial: Try, now: float) -> None:
    """Settle an attempt that was ended from outside, or whose outcome is nobody's fault."""
    if _is_open(trial):
        _settle(trial, now, Ending.FAILED)


def _is_open(trial: Try) -> bool:
    held = trial.permit.held
    return held is not None and bool(held.tokens)


def _settle(
    trial: Try, now: float, ending: Ending, usage: Usage | None = None, characters: int = 0
) -> None:
    held = trial.permit.held
    assert held is not None
    booking = booking_of(ending, held.estimate, usage=usage, characters=characters)
    used = booking.usage.input + booking.usage.output
    held.settle(None if booking.as_reserved else used, now)
