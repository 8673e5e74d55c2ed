"""Opens a stream: takes items until the stream state says that it can be delivered.

Until then the consumer has seen nothing, and the call can still move on to the next target.

Synchronous and asynchronous streams differ in how they are entered, read and closed, which is
in a `StreamIO`. The steps around that are written once, as coroutines. Over a synchronous
stream they never suspend, so synchronous code runs them with `tasks.run_to_end`. The
asynchronous `StreamIO` is in `aopening`.
"""

from __future__ import annotations

from contextlib import suppress
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from resilient_llm._core.call.judging import heard
from resilient_llm._core.call.spending import metered
from resilient_llm._core.call.steps import Reply
from resilient_llm._core.stream.stream_state import StreamState
from resilient_llm._core.stream.stream_timer import StreamTimer
from resilient_llm._drive.cancellation import refuse_cut_off
from resilient_llm._drive.reads import InsidePermit
from resilient_llm._drive.results import holder_of, kind_of, special
from resilient_llm._drive.sources import Sources, sources_of
from resilient_llm._drive.tasks import run_to_end
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.stream_policy import DEFAULT, NO_MARKER

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.hooks import AttemptHook, Scope
    from resilient_llm._core.call.steps import Try
    from resilient_llm._core.limits.held import Held
    from resilient_llm._drive.contexts import Within
    from resilient_llm._drive.results import ResultKind

_OPEN_SCOPE: Final = (
    "this stream keeps a nursery or a cancel scope open while it gives its items, and on trio no "
    "limit of time can be set around such a wait: remove the limits of time from the policy and "
    "set them inside your function, or run it on asyncio"
)


_OPEN_IN_RACE: Final = (
    "this stream keeps a nursery, a task group or a cancel scope open while it gives its items, "
    "and with hedge= it may begin in another task than the one that reads it, where that cannot "
    "be left: remove hedge from the policy, or leave it before the first item"
)


class NoContentError(TimeoutError):
    """The next content of a stream did not come in time."""


def no_content(limit: float) -> NoContentError:
    """Return the error of a stream whose next content did not come within so many seconds."""
    return NoContentError(f"no content within {max(limit, 0.0):.3g} s")


class FirstContentTimeout:
    """The limit of a synchronous attempt until its first content.

    A context manager. It turns the error of a read that the watchdog ended into a
    `NoContentError`.
    """

    __slots__ = ("_alarm", "_ends_at", "_limit")

    def __init__(self, step: Try) -> None:
        assert step.limit is not None
        self._limit = step.limit
        self._ends_at = step.permit.entered_at + step.limit
        self._alarm = runtime.time.alarm()

    def __enter__(self) -> FirstContentTimeout:
        self._alarm.set(self._ends_at - runtime.clock())
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        was_over = self._alarm.off()
        is_alarm = error is not None and self._alarm.raised(error)
        is_ours = error is not None and (
            was_over
            and issubclass(type(error), Exception)
            and not issubclass(type(error), NoContentError)
        )
        self._alarm.close()
        if is_alarm:
            # The alarm's own exception may be one that an application's limit raises.
            raise no_content(self._limit) from None
        if is_ours:
            raise no_content(self._limit) from error

    def check(self) -> None:
        """Raise NoContentError if the limit has passed: for waits that the watchdog cannot end."""
        if self._alarm.is_over or runtime.clock() > self._ends_at:
            raise no_content(self._limit)

    def check_cut_off(self) -> None:
        """Raise NoContentError if a wait was ended: what has come may be half of an answer."""
        if self._alarm.is_over:
            raise no_content(self._limit)


class StreamIO(Protocol):
    """How streams of one sort, synchronous or asynchronous, are entered, read and closed."""

    is_async: ClassVar[bool]
    """Whether the streams are asynchronous."""
    reads: ClassVar[str]
    """The special method of an iterator that gives the next item."""

    def is_on_trio(self) -> bool:
        """Return whether trio runs its task."""
        ...

    def gives_items(self, kind: ResultKind) -> bool:
        """Return whether objects of a kind are streams of this sort."""
        ...

    def iterator(self, stream: Any) -> Any:
        """Return a stream's iterator."""
        ...

    def innermost_scope(self, *, leaves: bool) -> object:
        """Return what stands for the innermost open scope of a task of trio, else None.

        Args:
            leaves: Whether that of a task of anyio on asyncio counts, too.
        """
        ...

    async def enter(self, manager: Any) -> Any:
        """Enter a manager; return what it gives."""
        ...

    async def leave(self, manager: Any, *error: Any) -> Any:
        """Leave a manager; return whether it swallows the error."""
        ...

    def close(self, stream: Any, iterator: Any = None) -> Coroutine[Any, Any, None]:
        """Close its iterator, then the stream. Errors are dropped, since the call has moved on."""
        ...

    async def hold_back(self, started: StartedStream, limit: FirstContentTimeout | None) -> None:
        """Take items until one has content, the held ones are too many, or the stream ends.

        Args:
            started: The stream, whose state holds the items.
            limit: Checked after each item; None if there is none, or if it is a cancel scope
                of the caller.
        """
        ...


class OpenStream:
    """The stream that one attempt gave, entered if it has a manager, and how to close it.

    Attributes:
        io: How streams of its sort are read and closed.
        value: What the function returned.
        stream: The object with the items: the value, or what entering it gave.
        source: The iterator that gives them.
        holder: The object that keeps that iterator, and the attribute in which; or None.
        held: That iterator. It is the source, but if a tracer's proxy is around the holder.
        is_managed: Whether the value is a manager, which must be left to close the stream.
        is_stream: False if the manager gave something else, which then is the answer.
        is_being_left: Whether the consumer leaves that manager now.
        hook: What is entered and left around each read of it, and around its end; or None.
        permits: What guards inside its code must know while that runs; or None.
        within: The context in which it has begun, if that is not the consumer's; or None.
        limited: What its attempt holds of limits; or None.
    """

    __slots__ = (
        "_is_closed",
        "held",
        "holder",
        "hook",
        "io",
        "is_being_left",
        "is_managed",
        "is_stream",
        "limited",
        "permits",
        "source",
        "stream",
        "value",
        "within",
    )

    def __init__(
        self,
        io: StreamIO,
        value: Any,
        stream: Any,
        kind: ResultKind | None,
        *,
        is_managed: bool,
        hook: AttemptHook | None = None,
    ) -> None:
        self.hook = hook
        self.permits: InsidePermit | None = None
        self.limited: Held | None = None
        self.within: Within | None = None
        self.io = io
        self.value = value
        self.stream = stream
        self.is_managed = is_managed
        self.is_being_left = self._is_closed = False
        self.is_stream = kind is not None and io.gives_items(kind)
        self.holder = holder_of(stream, io.reads) if self.is_stream else None
        self.held: Any = None
        self.source: Any = ()
        if self.holder is not None:
            owner, name = self.holder
            self.held = getattr(owner, name)
            # What a tracer's proxy gives has to pass through it.
            self.source = self.held if owner is stream else io.iterator(stream)
        elif self.is_stream:
            self.source = io.iterator(stream)
        if hook is not None and self.is_stream:
            hook.opened()

    @property
    def is_hosted(self) -> bool:
        """Whether it is read in the task of its hedge on asyncio, and so may keep that busy.

        Only a generator and a manager can keep something open there.
        """
        return self.is_managed or type(self.stream) is AsyncGeneratorType

    @property
    def is_callers_own(self) -> bool:
        """Whether the iterator may be code of the caller's around an SDK's stream."""
        return self.is_stream and self.holder is None

    @property
    def scopes(self) -> list[Scope]:
        """What is entered and left around each read of it."""
        return [each for each in (self.permits, self.hook) if each is not None]

    async def aleave(self, *error: Any) -> Any:
        """Close it as ``with`` does, once; return whether the error is to be swallowed."""
        if self._is_closed:
            return None
        self._is_closed = True
        leaving = self._leave(*error)
        try:
            return await (leaving if self.within is None else self.within.run(leaving))
        finally:
            if self.limited is not None and self.limited.keeps_places:
                self.limited.free_places()

    def keep_places(self) -> None:
        """Let its attempt, which is about to end, keep its places until the stream is closed."""
        if self.limited is not None and not self._is_closed:
            self.limited.keeps_places = True

    async def _leave(self, *error: Any) -> Any:
        swallows = None
        entered = None if self.hook is None else self.hook.enter()
        try:  # the manager is left even if a cancellation arrives while the stream is closed
            await self.ahang_up()
        finally:
            try:
                if self.is_managed:
                    swallows = await self.io.leave(self.value, *(error or (None, None, None)))
            finally:
                if self.hook is not None:
                    self.hook.leave(entered)
                    self.hook.closed()
        return swallows

    async def ahang_up(self) -> None:
        """Close the stream, but do not leave its manager."""
        closing = self.io.close(self.stream, self.source)
        await (closing if self.within is None else self.within.run(closing))

    async def ahang_up_early(self) -> None:
        """Do that for a consumer who leaves the manager, now or perhaps much later."""
        try:
            await self.ahang_up()
        finally:
            if self.hook is not None and not self.is_being_left:
                self.hook.closed()

    async def aabandon(self) -> None:
        """Close it and drop any error of that, since the call has moved on."""
        with suppress(Exception):
            await self.aleave()

    def abandon(self) -> None:
        """Do the same in synchronous code, to a synchronous stream."""
        run_to_end(self.aabandon())


class StartedStream:
    """A stream whose first content has come, or of which no more items may be held back.

    Attributes:
        opened: What the attempt gave, and how to close it.
        stream_state: What has come of it.
        timer: How long its items may take; None if nothing limits them.
        began_at: When its first content could be delivered, monotonic seconds.
        is_over: Whether the stream ended while its items were still held back.
        sources: What its iterator reads from, if that may be the caller's own; else None.
        marker: What the consumer is given before its items, if it replaces an earlier stream.
        too_late: Whether an item was waited for too long.
        waits_since: Since when the next content is waited for, monotonic seconds; None without
            a timer.
    """

    __slots__ = (
        "_sent_at_start",
        "began_at",
        "is_over",
        "marker",
        "opened",
        "sources",
        "stream_state",
        "timer",
        "too_late",
        "waits_since",
    )

    def __init__(self, opened: OpenStream, stream_state: StreamState) -> None:
        self.opened = opened
        self.stream_state = stream_state
        self.timer: StreamTimer | None = None
        self.began_at = 0.0
        self.is_over = False
        self.marker: Any = NO_MARKER
        self.too_late = False
        self.waits_since: float | None = None
        self._sent_at_start = 0
        self.sources: Sources | None = None

    def note_sources(self) -> None:
        """Note what the iterator reads from: a generator only shows it between two items."""
        if self.sources is not None and self.sources.found:
            return
        if self.opened.is_callers_own:
            self.sources = Sources(self.opened.source, is_decorated=self.stream_state.is_selected)

    @property
    def is_left_early(self) -> bool:
        """Whether code of the caller's has ended the stream before its source was at its end."""
        return self.sources is not None and self.sources.are_left_early

    def start(self, call: Call, step: Try, now: float) -> None:
        """Note that the held items may be delivered from now on."""
        self.began_at = now
        if self.stream_state.policy.is_timed or call.deadline is not None:
            self.timer = StreamTimer(
                self.stream_state.policy, now - step.permit.entered_at, call.deadline
            )

    def first_items(self) -> list[Any]:
        """Return what the consumer is given first: the marker of a restart, and the held items."""
        stream_state = self.stream_state
        for item in stream_state.held:
            stream_state.keep(item)
        items, stream_state.held = stream_state.held, []
        self._sent_at_start = stream_state.items_sent + len(items)
        return items if self.marker is NO_MARKER else [self.marker, *items]

    @property
    def is_watched(self) -> bool:
        """Whether each item must be looked at: for limits, its text, its usage, or for content."""
        state = self.stream_state
        return (
            self.timer is not None
            or state.policy.keep_text is not None
            or state.awaits_content
            or state.meter is not None
        )

    def late(self) -> NoContentError:
        """Return the error of content that did not come in time, and note that it is late."""
        assert self.timer is not None
        self.too_late = True
        return NoContentError(self.timer.message())

    def reply(
        self,
        now: float,
        error: BaseException | None,
        last: tuple[Any, ...],
        *,
        cancelled: bool = False,
    ) -> Reply:
        """Return the reply to the call flow about the end of the stream.

        Args:
            now: Monotonic seconds.
            error: What ended it, or None if its iterator ended.
            last: The last items that the consumer was given; None stands for no item.
            cancelled: Whether the wait for an item was cancelled from outside, and the client
                raised this error instead.
        """
        stream_state = self.stream_state
        seen = [item for item in last if item is not None]
        if not stream_state.has_content and not stream_state.awaits_content:
            stream_state.has_content = any(stream_state.is_content(item) for item in seen)
        if error is None and not self.is_over:
            stream_state.left_early = self.is_left_early
            stream_state.fault = stream_state.ended_after(seen)
        stream_state.quiet_since = self._quiet_since(now)
        return Reply(
            now, error=error, timed_out=self.too_late, cancelled=cancelled, stream=stream_state
        )

    def _quiet_since(self, now: float) -> float:
        # Without a timer the clock is not read for each item: a stream is known to be quiet
        # only if it has given nothing since its beginning.
        if self.waits_since is not None:
            return self.waits_since
        return self.began_at if self.stream_state.items_sent <= self._sent_at_start else now


async def begin_with(
    io: StreamIO,
    call: Call,
    step: Try,
    value: Any,
    kind: ResultKind,
    limit: FirstContentTimeout | None = None,
) -> StartedStream:
    """Open what an attempt gave, and hold items back until one has content.

    Raises:
        BaseException: Whatever the stream raised; it is closed then.
    """
    scope = io.innermost_scope(leaves=step.leaves_scopes)
    permits = InsidePermit(step.permit) if step.permit.matters_inside else None
    around = () if permits is None else permits.enter()
    try:
        is_managed = kind.is_manager
        stream = await io.enter(value) if is_managed else value
        opened = OpenStream(
            io,
            value,
            stream,
            kind_of(stream) if is_managed else kind,
            is_managed=is_managed,
            hook=step.hook,
        )
        opened.permits = permits
        opened.limited = step.permit.held
        heard(call, step, stream)  # before its items, which may take their time
        started = StartedStream(opened, _stream_state(call, step))
        try:
            if opened.is_stream:
                await io.hold_back(started, limit)
            started.start(call, step, runtime.clock())
            if step.leaves_scopes and not (opened.is_hosted and not io.is_on_trio()):
                await refuse_open_scope(scope, opened, _OPEN_IN_RACE, leaves=True)
            elif step.limit is not None or (opened.is_stream and started.timer is not None):
                await refuse_open_scope(scope, opened)
        except BaseException:
            await opened.aabandon()
            raise
        return started
    finally:
        if permits is not None:
            permits.leave(around)


async def refuse_open_scope(
    before: object, opened: OpenStream, why: str = _OPEN_SCOPE, *, leaves: bool = False
) -> None:
    """Refuse a stream that keeps a scope of trio open while it has a limit.

    It is closed first, with the generators inside it: only what has opened a scope can leave it.

    Args:
        before: The innermost scope before the stream's code ran.
        opened: The stream.
        why: What the error says.
        leaves: Whether it must leave the scopes of anyio on asyncio, too.

    Raises:
        ConfigurationError: If its code has opened one since.
    """
    if opened.io.innermost_scope(leaves=leaves) is before:
        return
    inside = sources_of(opened.source)
    await opened.aabandon()
    for each in inside:
        await opened.io.close(None, each)
    raise ConfigurationError(why)


def _stream_state(call: Call, step: Try) -> StreamState:
    """Return the state of an attempt's stream, with no items yet."""
    policy = call.stream_policy(step.candidate) or DEFAULT
    state = StreamState(
        policy, call.deps.item_inspector(), call.delivered, is_selected=step.candidate.is_generator
    )
    if call.deps.spending is not None:
        state.meter = metered(step.permit)
    return state


def begin(
    call: Call,
    step: Try,
    value: Any,
    kind: ResultKind,
    limit: FirstContentTimeout | None,
) -> StartedStream:
    """Open a synchronous stream up to its first content.

    Raises:
        BaseException: Whatever the stream raised; it is closed then.
    """
    return run_to_end(begin_with(SYNC, call, step, value, kind, limit))


class _SyncIO:
    """Streams that ``for`` iterates. Its coroutines block and never suspend."""

    is_async: ClassVar[bool] = False
    reads: ClassVar[str] = "__next__"

    def is_on_trio(self) -> bool:
        return False

    def gives_items(self, kind: ResultKind) -> bool:
        return kind.items

    def iterator(self, stream: Any) -> Any:
        return special(stream, "__iter__")()

    def innermost_scope(self, *, leaves: bool) -> object:
        return None

    async def enter(self, manager: Any) -> Any:
        return special(manager, "__enter__")()

    async def leave(self, manager: Any, *error: Any) -> Any:
        return special(manager, "__exit__")(*error)

    async def close(self, stream: Any, iterator: Any = None) -> None:
        for each in (iterator,) if iterator is stream else (iterator, stream):
            with suppress(Exception):
                each.close()

    async def hold_back(self, started: StartedStream, limit: FirstContentTimeout | None) -> None:
        stream_state = started.stream_state
        for item in started.opened.source:
            if limit is not None:
                limit.check()
            started.note_sources()
            stream_state.fault = stream_state.hold_back(item)
            if stream_state.fault is not None or stream_state.may_begin:
                return
        if limit is not None:
            limit.check()
        refuse_cut_off()
        started.is_over = True
        stream_state.left_early = started.is_left_early
        stream_state.fault = stream_state.ended_before()


SYNC: Final = _SyncIO()
