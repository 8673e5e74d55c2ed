"""What a function gave, as far as drivers care: an answer, items to come, or a manager of them.

By shape, as Python defines them, since no SDK is imported: an iterator is a stream, unless it
is a file or has a length; a context manager is one of a stream if entering it is all that can be done with
it (``client.messages.stream(…)`` of anthropic, what ``@contextmanager`` makes), since what
can do more is an answer by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.call.steps import Reply
from resilient_llm._core.stream.stream_state import StreamState
from resilient_llm._core.stream.stream_timer import StreamTimer
from resilient_llm._values.class_cache import ClassCache
from resilient_llm._values.stream_policy import DEFAULT, NO_MARKER

if TYPE_CHECKING:
    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Try
# Where stream objects of the SDKs keep the iterator that all their methods read from:
# openai, anthropic and all that are generated alike; mistralai (seen November 2026).
_HOLDERS: Final = ("_iterator", "generator")


class ResultKind:
    """What can be done with the objects of a class that is no plain answer."""

    __slots__ = ("async_items", "async_manager", "items", "manager")

    def __init__(
        self, *, items: bool, async_items: bool, manager: bool, async_manager: bool
    ) -> None:
        self.items = items
        self.async_items = async_items
        self.manager = manager
        self.async_manager = async_manager

    @property
    def is_manager(self) -> bool:
        """Whether it must be entered before there is a stream."""
        return not (self.items or self.async_items)


def _kind(cls: type) -> ResultKind | None:
    # What has a length is there already, as are all the answers of a `MagicMock`.
    is_whole = hasattr(cls, "read") or hasattr(cls, "__len__")
    items = _has(cls, "__iter__", "__next__") and not is_whole
    async_items = _has(cls, "__aiter__", "__anext__") and not is_whole
    only_managers = not (items or async_items) and _is_nothing_else(cls)
    manager = only_managers and _has(cls, "__enter__", "__exit__")
    async_manager = only_managers and _has(cls, "__aenter__", "__aexit__")
    if not (items or async_items or manager or async_manager) or hasattr(cls, "__await__"):
        return None
    return ResultKind(
        items=items, async_items=async_items, manager=manager, async_manager=async_manager
    )


def _has(cls: type, *names: str) -> bool:
    return all(getattr(cls, name, None) is not None for name in names)


def _is_nothing_else(cls: type) -> bool:
    """Return whether a class has no method or attribute with a public name."""
    return all(name.startswith("_") for each in cls.__mro__[:-1] for name in vars(each))


_kinds: ClassCache[ResultKind | None] = ClassCache(_kind)


def kind_of(value: object) -> ResultKind | None:
    """Return what can be done with a value that is no plain answer; None for one that is."""
    return _kinds[type(value)]


def special(value: object, name: str) -> Any:
    """Return a special method as Python finds it: on the class."""
    return getattr(type(value), name).__get__(value)


def holder_of(stream: object, iterates: str) -> str | None:
    """Return the attribute in which a stream object keeps the iterator that its methods read from, or None."""
    for name in _HOLDERS:
        if hasattr(type(stream), name):
            continue  # not its own: a method, or what reading it would run
        try:
            # Not by its `__dict__`: once that was asked for, all attributes of the object are slower.
            held: object = object.__getattribute__(stream, name)
        except AttributeError:
            continue
        if hasattr(type(held), iterates):
            return name
    return None


def stream_state_of(call: Call, step: Try) -> StreamState:
    """Return what takes in the stream of an attempt."""
    policy = call.stream_policy(step.candidate) or DEFAULT
    return StreamState(
        policy, call.deps.item_inspector(), call.delivered, is_selected=step.candidate.is_generator
    )


class StartedStream:
    """A stream that gave its first content, or all that may be held back of it.

    Attributes:
        opened: What the attempt gave, entered if it had to be, and how to close it.
        stream state: What has come of it.
        pace: How long its items may take, or None if nobody minds.
        began_at: When it had begun, monotonic seconds.
        is_over: Whether nothing comes after what is held.
        marker: What the consumer is given before it, if it takes the place of another.
        too_late: Whether an item was waited for too long.
        waits_since: Since when the next content is waited for; only of a stream with a pace.
    """

    __slots__ = (
        "_handed",
        "began_at",
        "is_over",
        "marker",
        "opened",
        "stream_state",
        "timer",
        "too_late",
        "waits_since",
    )

    def __init__(self, opened: Any, stream_state: StreamState) -> None:
        self.opened = opened
        self.stream_state = stream_state
        self.timer: StreamTimer | None = None
        self.began_at = 0.0
        self.is_over = False
        self.marker: Any = NO_MARKER
        self.too_late = False
        self.waits_since: float | None = None
        self._handed = 0

    def start(self, call: Call, step: Try, now: float) -> None:
        """Note that what is held may be handed over."""
        self.began_at = now
        if self.stream_state.policy.is_timed or call.deadline is not None:
            self.timer = StreamTimer(
                self.stream_state.policy, now - step.permit.entered_at, call.deadline
            )

    def preamble(self) -> list[Any]:
        """Return what the consumer is given first, with the marker of a restart if there is one."""
        stream_state = self.stream_state
        for item in stream_state.held:
            stream_state.keep(item)
        items, stream_state.held = stream_state.held, []
        self._handed = stream_state.items_sent + len(items)
        return items if self.marker is NO_MARKER else [self.marker, *items]

    def late(self) -> NoContentError:
        """Return the error of content that did not come in time, and note that."""
        assert self.timer is not None
        self.too_late = True
        return NoContentError(self.timer.message())

    def reply(self, now: float, error: BaseException | None, last: tuple[Any, ...]) -> Reply:
        """Return what to tell the call flow of the end, given the last items that the consumer got."""
        stream_state = self.stream_state
        seen = [item for item in last if item is not None]
        if error is None and not self.is_over:
            stream_state.fault = stream_state.ended_after(seen)
        if not stream_state.has_content:
            stream_state.has_content = any(stream_state.is_content(item) for item in seen)
        stream_state.quiet_since = self._quiet_since(now)
        return Reply(now, error=error, timed_out=self.too_late, stream=stream_state)

    def _quiet_since(self, now: float) -> float:
        # Without a pace nobody reads a clock for each item: only a stream that gave nothing
        # at all since its beginning is known to be quiet.
        if self.waits_since is not None:
            return self.waits_since
        return self.began_at if self.stream_state.items_sent <= self._handed else now


class NoContentError(TimeoutError):
    """The next content of a stream did not come in time."""


def no_content(limit: float) -> NoContentError:
    """Return the error of a stream whose next content did not come within so many seconds."""
    return NoContentError(f"no content within {max(limit, 0.0):.3g} s")
