"""``resilient-llm journal``: reads what `resilient_llm.observers.jsonl` has written.

Needs no running service, only the files: the present one and those that were rotated.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from resilient_llm.cli._keys import key
from resilient_llm.cli._output import quoted, shown, spending_text

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILED: Final = 1
"""Exit status if there is no such journal, or it cannot be read."""
INTERRUPTED: Final = 130
"""Exit status after Ctrl-C."""

_LOOK_AGAIN: Final = 0.2
"""Seconds between two looks for new lines."""
_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION: Final = re.compile(r"(\d+d)?(\d+h)?(\d+m)?(\d+s)?")
_FIRST: Final = ("type", "at", "pid", "target", "call_id")
"""Fields that every line has, and that are not repeated behind it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command, and describe it."""
    parser.description = (
        "Prints the journal that resilient_llm.observers.jsonl writes, with its rotated files, the "
        "oldest event first. Broken lines are skipped; their number is printed on stderr."
    )
    parser.add_argument("path", metavar="PATH", help="the file that was given to jsonl.install")
    parser.add_argument(
        "--since",
        type=_duration,
        metavar="DURATION",
        help="only events of the last 90s, 15m, 1h30m or 2d",
    )
    parser.add_argument(
        "--target", type=key, metavar="KEY", help="only events of this provider or model"
    )
    parser.add_argument(
        "--follow", action="store_true", help="also print events that are written from now on"
    )
    parser.add_argument("--json", action="store_true", help="print lines of JSON")


def run(options: argparse.Namespace) -> int:
    """Print the journal and return the exit status."""
    journal = _Journal(Path(options.path))
    since = None if options.since is None else datetime.now(UTC) - options.since
    try:
        for line in journal.lines(follow=options.follow):
            event = _parsed(line)
            if event is None:
                journal.broken += 1
                continue
            if not _is_wanted(event, since, options.target):
                continue
            print(_as_json(event) if options.json else _as_text(event), flush=options.follow)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise  # of the output
    except OSError as failure:
        print(
            f"resilient-llm journal: {shown(options.path)} cannot be read ({failure.strerror})",
            file=sys.stderr,
        )
        return FAILED
    finally:
        if journal.broken:
            lines = (
                "1 broken line was"
                if journal.broken == 1
                else f"{journal.broken} broken lines were"
            )
            print(f"{lines} skipped", file=sys.stderr)
    return 0


def _duration(text: str) -> timedelta:
    found = _DURATION.fullmatch(text)
    parts = [each for each in found.groups() if each] if found else []
    try:
        since = timedelta(seconds=sum(int(part[:-1]) * _UNITS[part[-1]] for part in parts))
        # The difference raises for a moment before all others.
        if parts and since and datetime.now(UTC) - since:
            return since
    except (OverflowError, ValueError):
        pass
    raise argparse.ArgumentTypeError(
        f"{text[:40]!r} is not allowed: write a duration such as 90s, 15m, 1h30m or 2d"
    )


class _Journal:
    """The files of one journal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.broken = 0
        """Lines that were skipped."""

    def lines(self, *, follow: bool) -> Iterator[bytes]:
        """Give all lines, oldest first; with ``follow`` without end.

        Raises:
            OSError: If there is no such file, or it cannot be read.
        """
        files = self._open()
        try:
            while True:
                if len(files) <= 1:
                    break
                with files.pop(0) as file:
                    yield from file
            if not follow:
                yield from files[0]
                return
            yield from self._followed(files)
        finally:
            for file in files:
                file.close()

    def _open(self) -> list[BinaryIO]:
        """Return all files, the oldest first.

        They are opened from the youngest to the oldest, since each is renamed to the next older
        name when the journal is rotated. So none is missed meanwhile, and one that appears twice is
        recognised.
        """
        files: list[BinaryIO] = [self._path.open("rb")]
        numbers = sorted(
            int(each.name.removeprefix(f"{self._path.name}."))
            for each in self._path.parent.iterdir()
            if re.fullmatch(rf"{re.escape(self._path.name)}\.[1-9]\d*", each.name)
        )
        for number in (*numbers, *(each + 1 for each in numbers[-1:])):
            try:
                file = Path(f"{self._path}.{number}").open("rb")  # noqa: SIM115  # closed by `lines`
            except FileNotFoundError:
                continue
            if any(_number_of(file) == _number_of(each) for each in files):
                file.close()
            else:
                files.append(file)
        return files[::-1]

    def _followed(self, files: list[BinaryIO]) -> Iterator[bytes]:
        """Give the lines of the present file and of those that take its place, without end."""
        rest = b""
        while True:
            file = files[0]
            chunk = file.readline()
            if chunk:
                rest += chunk
                if rest.endswith(b"\n"):
                    yield rest
                    rest = b""
                continue
            if len(files) > 1:  # it was rotated, and nothing came in the time of a look
                if rest:
                    yield rest
                    rest = b""
                files.pop(0).close()
                continue
            sys.stdout.flush()
            time.sleep(_LOOK_AGAIN)
            if not self._is_present(file):
                files.extend(self._younger_than(file))

    def _is_present(self, file: BinaryIO) -> bool:
        """Return whether the path leads to this file, or to none."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return True  # a new one will come
        if (status.st_dev, status.st_ino) != _number_of(file):
            return False
        if status.st_size < file.tell():  # somebody has emptied it
            file.seek(0)
        return True

    def _younger_than(self, file: BinaryIO) -> list[BinaryIO]:
        """Return the files that were begun after this one, the oldest first."""
        files = self._open()
        places = [place for place, each in enumerate(files) if _number_of(each) == _number_of(file)]
        if places:
            younger = files[places[0] + 1 :]
        else:  # it was deleted, or moved elsewhere
            since = os.fstat(file.fileno()).st_mtime_ns
            younger = [each for each in files if os.fstat(each.fileno()).st_mtime_ns >= since]
        for each in files:
            if each not in younger:
                each.close()
        return younger


def _number_of(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line, or None if it is broken."""
    try:
        event: Any = json.loads(line)
        datetime.fromisoformat(event["at"]).astimezone(UTC)
        if isinstance(event["type"], str) and isinstance(event["target"], str):
            return event
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
        pass
    return None


def _is_wanted(event: dict[str, Any], since: datetime | None, target: str | None) -> bool:
    if target is not None and event["target"] != target:
        return False
    return since is None or datetime.fromisoformat(event["at"]).astimezone(UTC) >= since


def _as_json(event: dict[str, Any]) -> str:
    # ASCII, and so without control characters, but for this one.
    return json.dumps(event, separators=(",", ":")).replace("\x7f", "\\u007f")


def _as_text(event: dict[str, Any]) -> str:
    fields = [
        f"{quoted(name)}={spending_text(name, value) or _shown(value)}"
        for name, value in event.items()
        if name not in _FIRST
    ]
    words = [event["at"], quoted(event["type"]), quoted(event["target"] or "-"), *fields]
    words.append(f"pid={_shown(event.get('pid'))}")
    if event.get("call_id"):
        words.append(f"call_id={_shown(event['call_id'])}")
    return shown(" ".join(words))


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):
        return f"{value:.3f}"
    return json.dumps(value)
