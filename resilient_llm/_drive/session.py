"""What synchronous and asynchronous streams have in common: one call whose answer is a stream."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

from resilient_llm._core.call.steps import Deliver, Done
from resilient_llm._drive.results import holder_of, kind_of, special
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step
    from resilient_llm._drive.results import StartedStream

    Suspended = tuple[Call, CallFlow, Step, Any]

_NO_STREAM: Final = (
    "a target gave an answer that is no stream where the others stream: let all of them stream"
)


class BaseOpenStream:
    """What an attempt gave, entered if it is a manager, and how to close it.

    Attributes:
        value: What the function returned.
        stream: What has the items; the value, or what entering it gave.
        source: The iterator that gives them.
        holder: Attribute in which the stream keeps that iterator, or None.
        is_managed: Whether the stream is left by its manager, which is the value.
        is_stream: False for a manager of something else, which then is the answer.
    """

    __slots__ = ("_is_closed", "holder", "is_managed", "is_stream", "source", "stream", "value")

    starts: ClassVar[str]
    """Special method that gives an iterator of this sort."""
    reads: ClassVar[str]
    """Special method of such an iterator."""

    def __init__(self, value: Any, stream: Any, *, is_managed: bool) -> None:
        self.value = value
        self.stream = stream
        self.is_managed = is_managed
        self._is_closed = False
        kind = kind_of(stream)
        self.is_stream = kind is not None and (
            kind.items if self.reads == "__next__" else kind.async_items
        )
        self.holder = holder_of(stream, self.reads) if self.is_stream else None
        self.source: Any = ()
        if self.holder is not None:
            self.source = getattr(stream, self.holder)
        elif self.is_stream:
            self.source = special(stream, self.starts)()


class BaseStreamSession:
    """One call whose answer is a stream, from its first content to its end.

    Args:
        start: Gives the call, its call flow, the present step, and what an attempt gave so far.
        pending: That what an attempt gave, if it is open.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_generator",
        "_pending",
        "_proxy",
        "_start",
        "_started_stream",
        "_steps",
        "is_entered",
        "is_over",
    )

    borrowed: Callable[[weakref.ref[Any]], Any]
    """What stands in an SDK's object for its iterator."""

    def __init__(self, start: Callable[[], Suspended], pending: Any = None) -> None:
        self._start: Callable[[], Suspended] | None = start
        self._pending = pending
        self._call: Call | None = None
        self._steps: CallFlow | None = None
        self._started_stream: StartedStream | None = None
        # Weakly both, or nothing would notice that the consumer has dropped them.
        self._generator: weakref.ref[Any] | None = None
        self._proxy: weakref.ref[Any] | None = None
        self.is_entered = False
        """Whether the consumer entered a manager, and so will leave it."""
        self.is_over = False

    def bind(self, generator: Any) -> None:
        """Let the methods of the SDK's object read from the generator, too."""
        self._generator = weakref.ref(generator)
        if self._started_stream is not None:
            self._lend_iterator(self._started_stream)

    def shown_as(self, proxy: Any) -> None:
        """Let the proxy that the consumer holds stand for whichever stream serves."""
        self._proxy = weakref.ref(proxy)

    def _bound(self) -> Any:
        return None if self._generator is None else self._generator()

    def _start_call(self) -> tuple[Call, CallFlow, Step, Any]:
        """Begin the call."""
        start, self._start, self._pending = self._start, None, None
        assert start is not None
        suspended = start()
        self._call, self._steps = suspended[:2]
        return suspended

    def _deliver(self, step: Step, started: Any) -> StartedStream:
        """Take over a stream that has begun; or the answer that a manager gave in place of one.

        Raises:
            ConfigurationError: If a target gave something else.
        """
        if type(step) is not Deliver and (
            type(step) is not Done or started is None or started.opened.is_stream
        ):
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
        self._call.delivered = started.stream_state
        if started.stream_state.policy.on_interrupt == "raise":
            self._call.args, self._call.kwargs = (), {}  # nobody will be called again
        self._lend_iterator(started)
        proxy = None if self._proxy is None else self._proxy()
        if proxy is not None:
            proxy.__wrapped__ = started.opened.stream
        return started

    def _lend_iterator(self, started: StartedStream) -> None:
        opened = started.opened
        if opened.holder is not None and self._generator is not None:
            with suppress(AttributeError):
                setattr(opened.stream, opened.holder, self.borrowed(self._generator))

    def _let_go(self) -> None:
        self.is_over = True
        self._start = None
        if self._steps is not None:
            self._steps.close()
        if self._call is not None:
            self._call.clear()
