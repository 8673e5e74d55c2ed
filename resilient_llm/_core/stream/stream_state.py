"""What has come of one stream so far. Pure: it is handed items, and reads no clock.

Items are held back until one has content, so that the call can still move on without the
consumer having seen anything. From then on nothing is held: the driver counts what it hands
over, and shows the last few items when the stream has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from resilient_llm._core.stream.item_size import size_of
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._values.stream_policy import StreamPolicy

MOST_ITEMS: Final = 64
"""Items that are held back at most."""
MOST_BYTES: Final = 262_144
"""Bytes that the held items may have, roughly."""

EMPTY: Final = Verdict(ErrorKind.BAD_RESPONSE, "empty")
INTERRUPTED: Final = Verdict(ErrorKind.TRANSIENT, "stream_interrupted")


class ItemInfo(Protocol):
    """What can be seen of one item."""

    @property
    def known(self) -> bool: ...
    @property
    def content(self) -> bool: ...
    @property
    def ended(self) -> bool | None: ...
    @property
    def verdict(self) -> Verdict | None: ...


class ItemInspector(Protocol):
    """How items are looked at; handed in by whoever knows their shapes."""

    def inspect_item(self, item: object, /) -> ItemInfo: ...
    def opens_silently(self, item: object, /) -> bool: ...
    def refused(self, items: list[Any], /) -> Verdict | None: ...
    def text_of(self, item: object, /) -> str: ...


class StreamState:
    """One stream: what is held back of it, whether it has content, how it stands at its end."""

    __slots__ = (
        "_size",
        "_was_silent",
        "fault",
        "first_content",
        "has_content",
        "held",
        "is_selected",
        "item_inspector",
        "items_sent",
        "policy",
        "quiet_since",
        "response_time",
        "stopped_by_consumer",
        "text",
    )

    def __init__(
        self,
        policy: StreamPolicy,
        item_inspector: ItemInspector,
        earlier: StreamState | None = None,
        *,
        is_selected: bool = False,
    ) -> None:
        """Start with nothing.

        Args:
            policy: How the stream is guarded.
            item_inspector: Looks at items.
            earlier: What the consumer was given before it by the same call, if anything.
            is_selected: Whether code of the caller's own chooses what is passed on of it.
        """
        self.policy = policy
        self.item_inspector = item_inspector
        self.is_selected = is_selected
        self._was_silent = False
        self.held: list[Any] = []
        self._size = 0
        self.has_content = False
        self.first_content: Any = None
        """The first item with content."""
        self.response_time: float | None = None
        """Seconds until it could be handed over: what is compared with ``slow_call``."""
        self.items_sent = 0 if earlier is None else earlier.items_sent
        """Items that the consumer was given, of this stream and of those before it."""
        self.text: str = (
            "" if earlier is None or earlier.policy.on_interrupt == "restart" else earlier.text
        )
        """The end of the text that the consumer was given, if the policy keeps it."""
        self.quiet_since = 0.0
        """Monotonic seconds since when the driver has been waiting for content."""
        self.stopped_by_consumer = False
        """Whether it was the consumer who stopped."""
        self.fault: Verdict | None = None
        """What is wrong with it, if that is nothing that was raised."""

    def hold_back(self, item: Any) -> Verdict | None:
        """Hold an item back; return what is wrong with it, if it is an error."""
        policy = self.policy
        if policy.commit is not None:
            self.has_content = bool(policy.commit(item))
        else:
            seen = self.item_inspector.inspect_item(item)
            if seen.verdict is not None:
                return seen.verdict
            self.has_content = seen.content
            self._was_silent = self._was_silent or (seen.known and not seen.content)
        if self.has_content:
            self.first_content = item
        else:
            self._size += size_of(item)
        self.held.append(item)
        return None

    @property
    def may_begin(self) -> bool:
        """Whether what is held may be handed over: there is content, or too much to hold."""
        return self.has_content or len(self.held) >= MOST_ITEMS or self._size >= MOST_BYTES

    def is_content(self, item: Any) -> bool:
        """Return whether an item is progress."""
        commit = self.policy.commit
        if commit is not None:
            return bool(commit(item))
        seen = self.item_inspector.inspect_item(item)
        self._was_silent = self._was_silent or (seen.known and not seen.content)
        return seen.content

    def ended_before(self) -> Verdict | None:
        """Return what is wrong with a stream that ended with all its items held, or None if that is accepted."""
        fault = self.cut_short(self.held) if self.held else None
        if fault is not None and self.policy.on_truncated == "accept":
            fault = None
        if fault is None:
            fault = self.item_inspector.refused(
                self.held
            )  # a filter's work is told as such, whatever the stream lacks
        return fault or (EMPTY if self.policy.on_empty == "next" else None)

    def ended_after(self, last: Iterable[Any]) -> Verdict | None:
        """Return what is wrong with a stream that ended after these items, or None if it ended well."""
        return None if self.policy.on_truncated == "accept" else self.cut_short(last)

    def cut_short(self, last: Iterable[Any]) -> Verdict | None:
        """Return what says that these are not the last items of a whole stream, or None."""
        tells: bool | None = None
        for item in last:
            if (
                self.is_selected
                and not self._was_silent
                and self.item_inspector.opens_silently(item)
            ):
                # A generator that passes on items with text only drops the terminator, too.
                tells = False
            seen = self.item_inspector.inspect_item(item)
            if seen.verdict is not None:
                return seen.verdict
            if seen.ended:
                return None
            if seen.known and seen.ended is False and tells is None:
                tells = True
            elif seen.ended is None or not seen.known:
                tells = False  # nobody can know how such a stream ends
        return INTERRUPTED if tells else None

    def keep(self, item: Any) -> None:
        """Keep the text of an item that the consumer is given, as far as the policy wants it."""
        most = self.policy.keep_text
        if most is None:
            return
        text = self.text + self.item_inspector.text_of(item)
        if len(text) > most or len(text.encode(errors="surrogatepass")) > most:
            text = text[-most:].encode(errors="surrogatepass")[-most:].decode(errors="ignore")
        self.text = text

    @property
    def text_so_far(self) -> str | None:
        """What an interruption says of the text."""
        return None if self.policy.keep_text is None else self.text
