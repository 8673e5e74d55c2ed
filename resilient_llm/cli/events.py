"""``resilient-llm events``: what has happened in a service, and what is happening."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.cli import _remote, _store
from resilient_llm.cli._exits import CommandError
from resilient_llm.cli._output import is_terminal, moment, quoted, shown, spending_text
from resilient_llm.cli._shapes import as_object
from resilient_llm.cli._sse import Message, MessageReader

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Iterator

_PATH: Final = "api/events"
_SILENCE: Final = 45.0
"""Seconds without a byte after which a stream is taken for dead: it pings every 15 s."""
_LONGEST_LINE: Final = 1024 * 1024
_LONGEST_WAIT: Final = 10.0
"""Seconds of the longest wait before connecting again."""
_LOOK_EVERY: Final = 5.0
"""Seconds after which a store is looked at without a hint of it."""
_MOST_KEPT: Final = 1_000
"""Changes of the past that are printed, as many as a service keeps."""
_OLDEST: Final = "0"
"""The id before that of every event."""
_LEADING: Final = ("type", "at", "pid", "target", "call_id")
_NO_NEWS: Final = {"source": "local"}
_STYLES: Final = {
    "TargetBenched": "bold red",
    "CallFailed": "bold red",
    "StreamInterrupted": "red",
    "AttemptFailed": "yellow",
    "FailedOver": "yellow",
    "OrderChanged": "yellow",
    "ToolLoopDetected": "yellow",
    "TargetUnbenched": "green",
    "BudgetExceeded": "bold red",
    "BudgetWarning": "yellow",
    "StoreUnavailable": "bold red",
    "StoreLost": "red",
    "StoreAvailable": "green",
    "ConfigReloadFailed": "bold red",
    "ConfigReloaded": "green",
    "dropped": "magenta",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Prints the last 1,000 events, one per line, the oldest first, without successes and their "
        "costs. Events hold no prompt, no answer and no key. With a store, the command prints the "
        "benches that last and the benches that ended within a day."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm events | tail\n"
        "  resilient-llm events --follow\n"
        "  resilient-llm events --follow --state redis://cache:6379/0\n"
        "  resilient-llm events --json | jq -r 'select(.type == \"TargetBenched\").target'\n\n"
        "exit status: 0; 1 if the service or the store cannot be asked; 2 wrong use; 130 ended by "
        "Ctrl-C"
    )
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="also print new events; a lost connection is opened again",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    _remote.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the events that are kept, and with ``--follow`` those that come."""
    address = _remote.store_of(options)
    if address is not None:
        messages = _in_store(address, follow=options.follow)
    else:
        client = _remote.client_of(options)
        messages = _following(client) if options.follow else _kept(client)
    write = _written_as_json if options.json else _Lines().write
    # Closed when the output breaks, and not when the garbage collector finds it.
    with contextlib.closing(messages):
        for message in messages:
            write(message)
            if not options.follow:
                continue
            sys.stdout.flush()
    return 0


# Reading.


def _kept(client: _remote.AdminClient) -> Generator[Message]:
    """Yield the events that the service has kept."""
    reader = MessageReader(_OLDEST)
    try:
        with client.open_stream(_PATH, _headers(reader), _SILENCE) as stream:
            for message in _messages(stream, reader):
                if message is not None:
                    yield message
                if not reader.has_pinged:
                    continue
                return  # the service pings when it has sent what it has kept
    except _remote.UNREACHABLE as failure:
        raise client.unreachable(failure) from None


def _following(client: _remote.AdminClient) -> Generator[Message]:
    """Yield the events that are kept and those that come, over as many connections as it takes."""
    reader, failed, was_connected = MessageReader(_OLDEST), 0, False
    while True:
        try:
            with client.open_stream(_PATH, _headers(reader), _SILENCE) as stream:
                if failed:
                    print(f"connected to {client.url} again", file=sys.stderr)
                failed, was_connected = 0, True
                for message in _messages(stream, reader):
                    if message is None:
                        continue
                    yield message
            why = "the stream has ended"
        except _remote.UNREACHABLE as failure:
            if not was_connected:
                raise client.unreachable(failure) from None
            why = _remote.why_unreachable(failure)
        except _remote.UnavailableError:
            if not was_connected:
                raise
            why = "it is not ready"
        if not failed:
            print(f"lost {client.url}: {why}; connecting again", file=sys.stderr)
        failed += 1
        time.sleep(_wait(failed, reader.retry))
        reader = MessageReader(reader.last_id)  # what was begun is not completed elsewhere


def _in_store(address: _store.StoreAddress, *, follow: bool) -> Generator[Message]:
    """Yield the changes of benches that a store remembers, and then those that come."""
    from resilient_llm.stores import StoreError

    reader = _store.reader_of(address)
    url, failed, was_connected = shown(reader.url), 0, False
    path = _store.new_file(address)
    with contextlib.closing(reader):
        while True:
            try:
                lines = reader.look()
                if failed:
                    print(f"connected to {url} again", file=sys.stderr)
                # The first time there may be more than a reader wants.
                yield from map(_message_of, lines if was_connected else lines[-_MOST_KEPT:])
                if not was_connected:
                    _store.warn_of_new_file(path)
                failed, was_connected = 0, True
                if not follow:
                    return
                reader.wait(_LOOK_EVERY)
            except StoreError as fault:
                why = _store.why_not(url, fault.reason, fault.type_name)
                if not was_connected:
                    raise CommandError(why) from None
                if not failed:
                    print(f"lost the store: {why}; connecting again", file=sys.stderr)
                failed += 1
                time.sleep(_wait(failed, None))


def _message_of(line: dict[str, Any]) -> Message:
    return Message(line["type"], json.dumps(line), "")


def _wait(failed: int, retry: float | None) -> float:
    """Return the seconds before the next connection: longer each time, and never all at once."""
    base = min(_LONGEST_WAIT, (1.0 if retry is None else retry) * 2 ** min(failed - 1, 10))
    return base * random.uniform(0.5, 1.0)


def _headers(reader: MessageReader) -> dict[str, str]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    if reader.last_id.isascii() and reader.last_id.isprintable() and reader.last_id:
        headers["Last-Event-ID"] = reader.last_id
    return headers


def _messages(stream: Any, reader: MessageReader) -> Iterator[Message | None]:
    """Yield after each line the message that it completes, or None."""
    while line := stream.readline(_LONGEST_LINE):
        if not line.endswith(b"\n"):
            if len(line) < _LONGEST_LINE:
                return  # cut off in the midst of a line
            raise CommandError("the service sent a line without an end")
        yield reader.feed(line)


# Writing.


def _written_as_json(message: Message) -> None:
    print(json.dumps(_fields_of(message)))


def _fields_of(message: Message) -> dict[str, Any]:
    """Return the fields of an event; of data that is no object, the text."""
    try:
        data: Any = json.loads(message.data)
    except (ValueError, RecursionError):
        data = message.data
    return {"type": message.type, **(as_object(data) or {"data": data})}


class _Lines:
    """Writes an event a line: when, what, where, and its fields."""

    def __init__(self) -> None:
        self._console: Any = None
        if is_terminal():
            from rich.console import Console

            self._console = Console(soft_wrap=True, highlight=False)

    def write(self, message: Message) -> None:
        fields = _fields_of(message)
        kind, at = quoted(str(fields["type"])), moment(fields.get("at"))
        target = quoted(str(fields["target"])) if fields.get("target") else ""
        rest = " ".join(
            f"{quoted(name)}={spending_text(name, value) or _value(value)}"
            for name, value in fields.items()
            if name not in _LEADING and value not in (None, "") and _NO_NEWS.get(name) != value
        )
        if self._console is None:
            print(f"{at:20} {kind:17} {target} {rest}".rstrip())
            return
        from rich.text import Text

        line = Text()
        line.append(f"{at} ", style="dim")
        line.append(f"{kind:17} ", style=_STYLES.get(kind, "cyan"))
        line.append(f"{target} ", style="bold")
        line.append(rest)
        self._console.print(line)


def _value(value: object) -> str:
    """Return a field's value; a text that is not one word in quotation marks."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):  # pyright: ignore[reportUnknownVariableType]  # of a service
        return quoted(",".join(value))  # pyright: ignore[reportUnknownArgumentType]  # as above
    return f"{value:.4g}" if isinstance(value, float) else shown(json.dumps(value))
