"""Which items of a stream are held back before its first content, and what has come of it.

Items are held back until one has content, so that the call can still move on before the consumer
has seen anything. After that no item is held: the driver counts what it hands over, and passes
the last few items in when the stream has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from resilient_llm._core.stream.item_size import size_of
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._values.stream_policy import StreamPolicy
    from resilient_llm._values.usage import Usage

MOST_ITEMS: Final = 64
"""Most items that are held back."""
MOST_BYTES: Final = 262_144
"""Most bytes that the held items may have, roughly."""

_MOST_SILENT: Final = 3
"""So many items without content at the end, and the end itself may have come before them: azure's
asynchronous filter reports on an answer when that is over."""

EMPTY: Final = Verdict(ErrorKind.BAD_RESPONSE, "empty")
INTERRUPTED: Final = Verdict(ErrorKind.TRANSIENT, "stream_interrupted")


class ItemInfo(Protocol):
    """What is known about one item."""

    @property
    def known(self) -> bool: ...
    @property
    def content(self) -> bool: ...
    @property
    def ended(self) -> bool | None: ...
    @property
    def verdict(self) -> Verdict | None: ...


class ItemInspector(Protocol):
    """Looks at items; passed in, since the core knows no provider's formats."""

    def inspect_item(self, item: object, /) -> ItemInfo: ...
    def opens_silently(self, item: object, /) -> bool: ...
    def reopens(self, item: object, /) -> bool: ...
    def refused(self, items: list[Any], /) -> Verdict | None: ...
    def text_of(self, item: object, /) -> str: ...


class Meter(Protocol):
    """Reads what a stream used from its items."""

    def add(self, item: object, /) -> None: ...
    @property
    def used(self) -> tuple[Usage | None, int]: ...


class StreamState:
    """One stream: its items held back, whether it has content, and how it ended."""

    __slots__ = (
        "_kept",
        "_kept_size",
        "_size",
        "_was_silent",
        "awaits_content",
        "fault",
        "first_content",
        "has_content",
        "held",
        "is_selected",
        "item_inspector",
        "items_sent",
        "left_early",
        "meter",
        "policy",
        "quiet_since",
        "response_time",
        "stopped_by_consumer",
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
            earlier: The stream that this call handed to the consumer before, if there was one.
            is_selected: Whether the caller's code chooses which items are passed on.
        """
        self.policy = policy
        self.meter: Meter | None = None
        """Reads what the stream says that it used, if somebody wants to know."""
        self.item_inspector = item_inspector
        self.is_selected = is_selected
        self.awaits_content = False
        """Whether more came than may be held, and its content is still looked for."""
        self.left_early = False
        """Whether the caller's code has returned before its source was at its end."""
        self._was_silent = False
        self.held: list[Any] = []
        self._size = 0
        self.has_content = False
        self.first_content: Any = None
        """The first item with content."""
        self.response_time: float | None = None
        """Seconds until its first content, which are compared with ``slow_call``."""
        self.items_sent = 0 if earlier is None else earlier.items_sent
        """Items that the consumer got, of this stream and of those before it."""
        goes_on = earlier is not None and earlier.policy.on_interrupt != "restart"
        self._kept: list[str] = [earlier.text] if earlier is not None and goes_on else []
        """The end of the text that the consumer got, if the policy keeps it, and some before it."""
        self._kept_size = len(self._kept[0]) if self._kept else 0
        self.quiet_since = 0.0
        """Monotonic seconds at which the driver began to wait for content."""
        self.stopped_by_consumer = False
        """Whether the consumer stopped it."""
        self.fault: Verdict | None = None
        """What is wrong with it, if no error was raised for that."""

    def hold_back(self, item: Any) -> Verdict | None:
        """Hold an item back; return what is wrong if the item reports an error."""
        policy = self.policy
        if self.meter is not None:
            self.meter.add(item)
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
        self.awaits_content = self.may_begin and not self.has_content
        return None

    @property
    def may_begin(self) -> bool:
        """Whether the held items may be handed over: there is content, or too much to hold."""
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
        """Return what is wrong with a stream that ended while its items were held, or None."""
        fault = self.cut_short(self.held) if self.held else None
        if fault is not None and self.policy.on_truncated == "accept":
            fault = None
        if fault is None:
            # A content filter is reported as such, whatever else the stream lacks.
            fault = self.item_inspector.refused(self.held)
        return fault or (EMPTY if self.policy.on_empty == "next" else None)

    def ended_after(self, last: Iterable[Any]) -> Verdict | None:
        """Return what is wrong with a stream that ended after these items, or None."""
        fault = None if self.policy.on_truncated == "accept" else self.cut_short(last)
        if fault is None and self.awaits_content and not self.has_content:
            fault = EMPTY if self.policy.on_empty == "next" else None
        return fault

    def note(self, item: Any) -> None:
        """Note an item that was not held back, of a stream whose items are looked at."""
        if self.meter is not None:
            self.meter.add(item)
        if self.awaits_content and not self.has_content:
            self.has_content = self.is_content(item)
        self.keep(item)

    def cut_short(self, last: Iterable[Any]) -> Verdict | None:
        """Return a verdict if these are not the last items of a complete stream, else None.

        The end may lie before them, if none of them has content or says how such streams end.
        """
        is_cut: bool | None = None
        has_ended = False
        silent = 0
        for item in last:
            if (
                self.is_selected
                and not self._was_silent
                and self.item_inspector.opens_silently(item)
            ):
                # A generator that passes on items with text only drops the terminator, too.
                is_cut = False
            seen = self.item_inspector.inspect_item(item)
            if seen.verdict is not None:
                return seen.verdict
            silent += not seen.content
            if seen.ended:
                has_ended = True
            elif not seen.known or (seen.ended is None and seen.content):
                is_cut = False  # it is unknown how such a stream ends
            elif seen.ended is False and is_cut is None:
                is_cut = True
            if has_ended and seen.content and not seen.ended and self.item_inspector.reopens(item):
                has_ended = False  # another answer to the same question goes on
        if has_ended or not is_cut or self.left_early or silent >= _MOST_SILENT:
            return None
        return INTERRUPTED

    def keep(self, item: Any) -> None:
        """Keep the text of an item that the consumer gets, if the policy says so."""
        most = self.policy.keep_text
        if most is None:
            return
        text = self.item_inspector.text_of(item)
        if text:
            self._kept.append(text)
            self._kept_size += len(text)
            if self._kept_size > 2 * most:  # so that an item costs the same however much is kept
                self._kept = [self.text]
                self._kept_size = len(self._kept[0])

    @property
    def text(self) -> str:
        """The end of the text that consumers got, so many bytes as the policy says."""
        most, text = self.policy.keep_text, "".join(self._kept)
        if most is None or (len(text) <= most and len(text.encode(errors="surrogatepass")) <= most):
            return text
        kept = text[-most:].encode(errors="surrogatepass")[-most:]
        return kept.decode(errors="ignore")

    @property
    def text_so_far(self) -> str | None:
        """The text for an interruption; None if it is not kept."""
        return None if self.policy.keep_text is None else self.text
