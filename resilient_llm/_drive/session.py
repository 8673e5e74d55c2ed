"""One call whose answer is a stream: what synchronous and asynchronous code do alike.

The steps before the first item and after the last one are written once, as coroutines with
the prefix ``a``. In synchronous code they never suspend, and `streams` runs them with
`tasks.run_to_end`. The loops over the items are written twice, in `streams` and `astreams`,
since a plain generator is what makes an item cheap.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from contextlib import suppress
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilient_llm._core.call.call import Call
from resilient_llm._core.call.ending import emit_call_failed
from resilient_llm._core.call.steps import RERAISE, Deliver, Done, Raise, Reraise
from resilient_llm._drive.cancellation import was_cancelled, was_cut_off
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.hooks import CallHook
    from resilient_llm._core.call.steps import Reply, Step
    from resilient_llm._core.stream.stream_state import StreamState
    from resilient_llm._drive.opening import StartedStream, StreamIO
    from resilient_llm._runtime.call_ids import Entered

_NO_STREAM: Final = (
    "a target gave an answer that is no stream where the others stream: let all of them stream"
)

DROPPED: Final = (
    "the stream was dropped before its end: keep the object that the function returned for as "
    "long as you read from what you took of it"
)


class StreamedCall(Protocol):
    """What a session needs of its call: a `Call`, or less where there is only a breaker."""

    delivered: StreamState | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    hook: CallHook | None

    def clear(self) -> None: ...


class Lent(Protocol):
    """What replaces the iterator in an SDK's stream object.

    Attributes:
        is_over: Whether the items were read to their end, or the consumer closed the stream.
            Else it raises once the stream is gone, since what has come of it is not all.
    """

    is_over: bool


class Suspended:
    """A call that waits for the consumer to await, enter or iterate what it was given.

    Attributes:
        call: The call.
        flow: Its call flow.
        step: What the call flow asks for now.
        given: What the attempt gave: a `StartedStream` if the step is ``Deliver``; else an
            awaitable, a manager or a stream; None if no attempt was made yet.
    """

    __slots__ = ("call", "flow", "given", "step")

    def __init__(self, call: StreamedCall, flow: CallFlow, step: Step, given: Any = None) -> None:
        self.call = call
        self.flow = flow
        self.step = step
        self.given = given


class BaseStreamSession(ABC):
    """One call whose answer is a stream, from its first content to its end.

    Attributes:
        is_entered: Whether the consumer entered a manager, and so will leave it.
        is_over: Whether the call has ended.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_delivery",
        "_flow",
        "_generator",
        "_held",
        "_io",
        "_is_closing",
        "_is_iterated",
        "_lent",
        "_pending",
        "_proxy",
        "_start",
        "_started_stream",
        "is_entered",
        "is_over",
    )

    def __init__(
        self, io: StreamIO, start: Suspended | Callable[[], Suspended], pending: Any = None
    ) -> None:
        """Start with nothing open but what is pending.

        Args:
            io: How a pending stream is closed.
            start: The suspended call, or what starts one when the first item is asked for.
            pending: A stream that an attempt gave and that is not iterated yet.
        """
        self._io = io
        self._start: Suspended | Callable[[], Suspended] | None = start
        self._pending = pending
        self._call: StreamedCall | None = None
        self._flow: CallFlow | None = None
        self._started_stream: StartedStream | None = None
        self._delivery: Deliver | None = None
        # Both are weak, or it would not be noticed that the consumer has dropped them.
        self._generator: weakref.ref[Any] | None = None
        self._proxy: weakref.ref[Any] | None = None
        self._held: Any = None
        """The generator, while a manager is entered."""
        self._lent: Lent | None = None
        self._is_iterated = False
        self._is_closing = False
        """Whether the consumer closes it while another thread or task reads: its items then end."""
        self.is_entered = False
        self.is_over = False

    # Different in synchronous and asynchronous code.

    @abstractmethod
    def present(self, stream: Any) -> Any:
        """Return what the consumer gets for a stream."""

    @abstractmethod
    def _borrowed_iterator(self, generator: weakref.ref[Any], original: Any) -> Any:
        """Return the replacement of the iterator in an SDK's stream object.

        Args:
            generator: The guarded items.
            original: The iterator that is replaced, if the items are read through it; else None.
        """

    @abstractmethod
    async def _advance(self, step: Step, given: Any) -> tuple[Step, Any]:
        """Do what the call flow asks until the call has an answer, or its stream has begun."""

    @abstractmethod
    async def _close_generator(self, generator: Any) -> bool:
        """Close the generator of the items; return False if it waits for an item just now."""

    @abstractmethod
    async def _close_elsewhere(self, generator: Any) -> None:
        """End the wait for an item that another thread or task is in, and close the generator.

        Raises:
            ValueError | RuntimeError: As Python does, if the wait cannot be ended and the stream
                is that of a generator function, of which there is nothing else to close.
        """

    @property
    def call_id(self) -> str | None:
        """Name of the call if calls carry theirs, and if this is one: not of a mere breaker."""
        return (
            self._call.tag.call_id if call_ids.switch.is_on and type(self._call) is Call else None
        )

    def _enter(self) -> Entered | None:
        """Begin a step whose code belongs to the call: code of its targets, and of its policy.

        Never across a ``yield``: between two items the consumer is outside of the call.
        """
        name = self.call_id
        return None if name is None else call_ids.enter(name)

    # The steps.

    async def astarted(self) -> StartedStream | None:
        """Return the current stream, after waiting for its first content; None if it is over."""
        if self._start is not None:
            suspended = self._start_call()
            step, given = suspended.step, suspended.given
            if type(step) is not Deliver:
                entered, hooked = self._enter(), None
                try:
                    hooked = self._enter_hook()
                    step, given = await self._advance(step, given)
                finally:
                    self._leave(entered, hooked)
            self._deliver(step, given)
        return self._started_stream

    async def aenter(self) -> Any:
        """Return what entering the manager gives: the guarded stream, or another answer."""
        self.is_entered = True
        try:
            started = await self.astarted()
            assert started is not None
            stream = started.opened.stream
            if not started.opened.is_stream:
                return stream
            given = self.present(stream)
            # Until it is left, the consumer may read by what it took from the stream, and keep
            # nothing else.
            self._held = None if self._generator is None else self._generator()
            return given
        except BaseException:
            self.is_entered = False
            await self.afinish()
            raise

    async def aleave(self, *error: Any) -> Any:
        """End the stream and leave the manager that the consumer had entered.

        Returns:
            Whether the error is to be swallowed.
        """
        if self._started_stream is not None:
            self._started_stream.opened.is_being_left = True
        try:
            await self.astop()
        finally:
            self.is_entered = False
            self._held = None
            started, self._started_stream = self._started_stream, None
            entered = self._enter()
            try:
                swallows = None if started is None else await started.opened.aleave(*error)
            finally:
                if entered is not None:
                    call_ids.leave(entered)
        return swallows

    async def astop(self) -> None:
        """End the stream because the consumer reads no further."""
        if self._lent is not None:
            self._lent.is_over = True
        generator = None if self._generator is None else self._generator()
        if generator is not None and not await self._close_generator(generator):
            await self._close_elsewhere(generator)
            return
        started = self._started_stream
        if not self.is_over and started is not None and started.opened.is_stream:
            # No item was asked for. Another answer that a manager gave is counted already.
            started.stream_state.stopped_by_consumer = True
            with suppress(GeneratorExit):
                await self.aended(started, GeneratorExit(), ())
        await self.afinish()

    async def aended(
        self, started: StartedStream, error: BaseException | None, last: tuple[Any, ...]
    ) -> StartedStream | None:
        """Report to the call flow how a stream ended, and do what it asks.

        Args:
            started: The stream.
            error: What ended it; None if it ended by itself.
            last: The last items that the consumer was given.

        Returns:
            The stream that replaces it; None if the call is over.

        Raises:
            BaseException: The error, or the one with which the call flow ends.
        """
        step = given = reply = None
        entered = self._enter()
        hooked = None
        if self._is_closing:
            started.stream_state.stopped_by_consumer = True
        try:
            hooked = self._enter_hook()
            cancelled = error is not None and (
                was_cancelled(error) if self._io.is_async else was_cut_off(error)
            )
            if started.opened.hook is not None:
                started.opened.hook.read(last)
            reply = started.reply(runtime.clock(), error, last, cancelled=cancelled)
            if started.stream_state.stopped_by_consumer:  # there is still a source to be closed
                started.opened.keep_places()
            step = self._settled(reply)
            if type(step) is Reraise:
                assert error is not None
                raise error
            if type(step) is Done:
                return None
            # A manager that the consumer entered is left by the consumer, with the error.
            if not (self.is_entered and type(step) is Raise):
                await started.opened.aabandon()
            step, given = await self._advance(step, None)
            return self._deliver(step, given)
        finally:
            error = step = given = reply = None  # no frame of a traceback keeps them
            self._leave(entered, hooked)

    async def afinish(self) -> None:
        """Close what is open and release the call."""
        pending, self._pending = self._pending, None
        entered = self._enter()
        try:
            self._release()
            if pending is not None:
                await self._io.close(pending)
            started = self._started_stream
            if started is not None and self.is_entered:
                await started.opened.ahang_up_early()  # the consumer leaves the manager
            elif started is not None:
                self._started_stream = None
                await started.opened.aabandon()
        finally:
            if entered is not None:
                call_ids.leave(entered)

    async def _hang_up_elsewhere(self) -> bool:
        """Close the SDK's stream that another thread or task reads; return whether there is one."""
        started = self._started_stream  # a reader in another thread lets go of it when it ends
        if started is None:
            return False
        started.stream_state.stopped_by_consumer = True
        if type(started.opened.stream) in (GeneratorType, AsyncGeneratorType):
            return False
        await started.opened.aabandon()
        return True

    # What they have in common.

    def _enter_hook(self) -> tuple[CallHook, Any] | None:
        """Enter the hook of the call, if it has one, for what is done between two reads."""
        hook = None if self._call is None else self._call.hook
        return None if hook is None else (hook, hook.enter())

    def _leave(self, entered: Entered | None, hooked: tuple[CallHook, Any] | None) -> None:
        try:
            if hooked is not None:
                hook, token = hooked
                hook.leave(token)
        finally:
            if entered is not None:
                call_ids.leave(entered)

    def _start_call(self) -> Suspended:
        start, self._start, self._pending = self._start, None, None
        assert start is not None
        suspended = start if isinstance(start, Suspended) else start()
        self._call, self._flow = suspended.call, suspended.flow
        return suspended

    def _bind(self, generator: Any) -> None:
        """Let the methods of the SDK's object read from the generator, too."""
        self._generator = weakref.ref(generator)
        if self._started_stream is not None:
            self._lend_iterator(self._started_stream)

    def _settled(self, reply: Reply) -> Step:
        """Report the end of the stream to the call flow, once; return what it asks for."""
        assert self._flow is not None
        delivery, self._delivery = self._delivery, None
        if delivery is not None and delivery.is_closed:
            return delivery.settle(reply) or RERAISE
        return self._flow.send(reply)

    def _deliver(self, step: Step, started: Any) -> StartedStream:
        """Take over a stream that has begun, or the answer that a manager gave instead.

        Raises:
            ConfigurationError: If a target gave something else.
        """
        if type(step) is not Deliver and (
            type(step) is not Done or started is None or started.opened.is_stream
        ):
            if isinstance(self._call, Call):
                first = self._call.candidates[0]
                emit_call_failed(self._call, first, runtime.clock(), ErrorKind.CALLER_BUG)
            raise ConfigurationError(_NO_STREAM)
        assert self._call is not None
        earlier = self._call.delivered
        if (
            earlier is not None
            and type(step) is Deliver
            and step.restarts
            and earlier.policy.on_interrupt == "restart"
        ):
            started.marker = earlier.policy.restart_marker
        self._started_stream = started
        self._delivery = step if type(step) is Deliver else None
        self._call.delivered = started.stream_state
        if started.stream_state.policy.on_interrupt == "raise":
            self._call.args, self._call.kwargs = (), {}  # no other target will be called
        self._lend_iterator(started)
        proxy = None if self._proxy is None else self._proxy()
        if proxy is not None:
            proxy.__wrapped__ = started.opened.stream
        return started

    def _lend_iterator(self, started: StartedStream) -> None:
        opened = started.opened
        if opened.holder is not None and self._generator is not None:
            owner, name = opened.holder
            original = None if opened.held is opened.source else opened.held
            self._lent = self._borrowed_iterator(self._generator, original)
            with suppress(AttributeError):
                setattr(owner, name, self._lent)

    def _release(self) -> None:
        self.is_over = True
        self._start = None
        delivery, self._delivery = self._delivery, None
        if self._flow is not None:
            self._flow.close()
        if delivery is not None:  # an interrupt came before the end of the stream was reported
            started = self._started_stream
            if started is not None:
                started.stream_state.stopped_by_consumer = True
                delivery.settle(started.reply(runtime.clock(), GeneratorExit(), ()))
        if self._call is not None:
            self._call.clear()
