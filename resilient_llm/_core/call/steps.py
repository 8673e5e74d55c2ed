"""What the call flow asks a driver to do, and what the driver replies. Plain data."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.call.call import Candidate
    from resilient_llm._core.call.hooks import AttemptHook
    from resilient_llm._core.circuit.outbox import CallTag
    from resilient_llm._core.circuit.permit import Permit
    from resilient_llm._core.limits.held import Ticket
    from resilient_llm._core.sharing.question import Question
    from resilient_llm._core.spending.asking import Asked
    from resilient_llm._core.stream.stream_state import StreamState
    from resilient_llm._values.verdict import Verdict


class Try:
    """Call this target now, and reply with the outcome."""

    __slots__ = (
        "candidate",
        "ends_deadline",
        "has_begun",
        "hedge_after",
        "hook",
        "is_told",
        "leaves_scopes",
        "limit",
        "number",
        "permit",
        "tag",
    )

    def __init__(
        self,
        candidate: Candidate,
        number: int,
        permit: Permit,
        limit: float | None,
        tag: CallTag,
        *,
        ends_deadline: bool,
    ) -> None:
        self.candidate = candidate
        self.number = number
        self.permit = permit
        self.limit = limit
        """Seconds that the attempt may take, or None."""
        self.ends_deadline = ends_deadline
        """Whether the limit is the end of the whole deadline, for which no target is blamed."""
        self.tag = tag
        self.hedge_after: float | None = None
        """Seconds after which the driver replies that it has not answered yet; None for never."""
        self.leaves_scopes = False
        """Whether its stream goes on in another task or scope than the one in which it begins."""
        self.hook: AttemptHook | None = None
        """What is entered and left around it; made by the driver that begins it."""
        self.has_begun = False
        """Whether anything was asked of the target. The driver says so: a call may end before it
        begins, and what an attempt gave may have to be awaited, entered or iterated first."""
        self.is_told = False
        """Whether one of the three events that end an attempt was emitted, or is about to be; or
        whether nothing was asked of the target, and that is settled."""

    @property
    def call_id(self) -> str:
        """Name of the call."""
        return self.tag.call_id


class Race:
    """Go on with the attempts that run, and reply when one has ended or is slow.

    Another one is started beside them first, if there is one. If the store has to be asked about
    that first, the reply tells once more that the same attempt is slow, as soon as there is an
    answer, or after as long as its caller waits.
    """

    __slots__ = ("asked", "beside", "trial")

    def __init__(
        self, trial: Try | None, *, asked: Asked | None = None, beside: Try | None = None
    ) -> None:
        self.trial = trial
        self.asked = asked
        """What the store is asked about the next one, if it is."""
        self.beside = beside
        """The attempt that is slow then."""


class Stop:
    """Cancel the attempts that still run, wait for the end of all, and reply what came of one.

    It is asked for again for each of them.
    """

    __slots__ = ()


class Wait:
    """Wait this many seconds; then reply with the time.

    Less if the turn of a ticket has come before, or a question is answered.
    """

    __slots__ = ("question", "seconds", "ticket")

    def __init__(
        self, seconds: float, ticket: Ticket | None = None, question: Question | None = None
    ) -> None:
        self.seconds = seconds
        self.ticket = ticket
        self.question = question


class Deliver:
    """Hand the items of the stream to the consumer, then reply how the stream ended."""

    __slots__ = ("is_closed", "restarts", "settle")

    def __init__(self, *, restarts: bool, settle: Callable[[Reply], Step | None]) -> None:
        self.restarts = restarts
        """Whether items of another target were handed over before, and these start again."""
        self.settle = settle
        """Does with the reply what the call flow does, if that was closed."""
        self.is_closed = False
        """Whether the call flow, or a part of it, was closed while it waited for the reply.

        A garbage collection that finds a dropped stream finalises its parts in any order. What
        the attempt held was given back then, and nothing was counted.
        """


class Reraise:
    """Let the error of the last reply leave, unchanged."""

    __slots__ = ()


class Raise:
    """Raise this error from this cause."""

    __slots__ = ("cause", "error")

    def __init__(self, error: BaseException, cause: BaseException | None) -> None:
        self.error: BaseException | None = error
        self.cause = cause


class Done:
    """Return this answer."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Reply:
    """What happened: an answer, an error, or only that the wait is over."""

    __slots__ = (
        "cancelled",
        "error",
        "is_due",
        "is_pending",
        "is_stopped",
        "judged",
        "now",
        "stream",
        "timed_out",
        "trial",
        "value",
    )

    def __init__(
        self,
        now: float,
        value: Any = None,
        error: BaseException | None = None,
        *,
        timed_out: bool = False,
        cancelled: bool = False,
        stream: StreamState | None = None,
        judged: Verdict | None = None,
    ) -> None:
        self.now = now
        self.value = value
        self.error = error
        self.timed_out = timed_out
        """Whether the driver itself cut the attempt off, or the limit of a call around this one has
        ended a wait."""
        self.cancelled = cancelled
        """Whether the attempt was cancelled from outside, and the client raised something else."""
        self.stream = stream
        """The state of the stream, if the answer is one."""
        self.judged = judged
        """Why the answer is rejected, or what the rules say of the error, if they were asked."""
        self.trial: Try | None = None
        """Which attempt it tells of, if several run side by side."""
        self.is_due = False
        """Whether nothing has come of the attempt yet, which is slow."""
        self.is_pending = False
        """Whether it gave a manager, which the consumer has to enter before the call can go on."""
        self.is_stopped = False
        """Whether the attempt has ended because the driver was asked to stop it."""

    @classmethod
    def due(cls, trial: Try, now: float) -> Reply:
        """Return the reply that an attempt has not answered within its ``hedge_after``."""
        reply = cls(now)
        reply.trial, reply.is_due = trial, True
        return reply


Step = Try | Race | Stop | Wait | Deliver | Reraise | Raise | Done

FlowPart = Generator[Step, Reply, "tuple[bool, float]"]
"""A part of a call flow; returns whether the call is over, and what time it is."""

NO_ANSWER: Final = object()
"""Value of a `Reply` about an attempt that succeeded, but whose answer is not known."""

GO_ON: Final = Race(None)
STOP: Final = Stop()
RERAISE = Reraise()
"""The only one that is needed, since it has no fields."""
