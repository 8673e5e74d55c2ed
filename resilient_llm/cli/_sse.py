"""Server-sent events, as the HTML standard defines them: from lines to messages. Does no I/O."""

from __future__ import annotations

from typing import NamedTuple


class Message(NamedTuple):
    """One message of a stream."""

    type: str
    data: str
    id: str


class MessageReader:
    """Takes the lines of a stream, one at a time."""

    def __init__(self, last_id: str = "") -> None:
        """Take the id of the last message of an earlier connection."""
        self.last_id = last_id
        self.retry: float | None = None
        """Seconds to wait before connecting again, if the server named them."""
        self.has_pinged = False
        """Whether there was a comment, which keeps a connection open."""
        self._type = ""
        self._data: list[str] = []
        self._id = last_id

    def feed(self, raw: bytes) -> Message | None:
        """Take one line, with its end; return the message that it completes."""
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            return self._completed()
        name, _, value = line.partition(":")
        self.has_pinged = self.has_pinged or not name
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = min(int(value[:9]) / 1000, 60.0)
        return None  # other names are of later versions

    def _completed(self) -> Message | None:
        self.last_id = self._id
        if not self._data:
            self._type = ""
            return None
        message = Message(self._type or "message", "\n".join(self._data), self._id)
        self._type, self._data = "", []
        return message
