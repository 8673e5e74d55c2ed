"""``resilient-llm explain``: why a response, or what a callable raises, is judged as it is."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from resilient_llm import classify
from resilient_llm.cli._exits import UsageError
from resilient_llm.cli._loading import load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Iterable

NOTHING_RAISED: Final = 1
"""Exit status if the callable raised nothing."""

_LONGEST_INPUT: Final = 1_048_576
"""Bytes of a response that are read; of a body, at most the first 64 KiB are used."""


class _Response(Exception):  # noqa: N818  # it takes the place of what a client would raise
    """An HTTP response as an error, with the attributes that errors of clients have."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__()
        self.status_code = status
        self.headers = headers
        self.body = body


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "Prints how a chain classifies an HTTP response or the error that a function raises: the "
        "kind of the error, what happens next, which rule decided, and by which field. It prints "
        "no prompt, no key and no text of the provider."
    )
    parser.add_argument(
        "what",
        metavar="WHAT",
        help=(
            "a status such as 429; a file with a response as 'curl -i' prints it, '-' for "
            "standard input; or module:callable, which is called without arguments and should raise"
        ),
    )
    parser.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="a header of the response, with a status; repeatable",
    )
    parser.add_argument(
        "--body",
        metavar="FILE",
        help="the body of the response, with a status: a file, '-' for standard input, or JSON "
        "that begins with '{'",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the explanation and return the exit status.

    Raises:
        UsageError: If the input is neither, with a sentence about what is allowed.
    """
    error = _error_of(options)
    if error is None:
        print(f"{options.what} raised nothing: there is no error to explain", file=sys.stderr)
        return NOTHING_RAISED
    found = classify.explain(error)
    if isinstance(error, _Response):
        found = replace(found, type_name=f"HTTP {error.status_code}")
    print(json.dumps(found.as_dict(), indent=2) if options.json else found)
    return 0


def _error_of(options: argparse.Namespace) -> BaseException | None:
    what: str = options.what
    if what.isdecimal():
        return _Response(
            _status(what), _headers(options.header), _body(options.body) if options.body else b""
        )
    if options.header or options.body:
        raise UsageError(
            "--header and --body go with a status: "
            "write resilient-llm explain 429 -H 'retry-after: 20'"
        )
    if what != "-" and ":" in what and not Path(what).exists():
        return _raised_by(what)
    return _parsed(_read(what))


def _status(text: str) -> int:
    status = int(text) if len(text) == 3 else 0
    if not 100 <= status <= 599:
        raise UsageError(f"{text[:20]!r} is no HTTP status: write a number from 100 to 599")
    return status


def _headers(lines: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError("a header is written 'name: value', for example -H 'retry-after: 20'")
        found[name.strip().lower()] = value.strip()
    return found


def _body(text: str) -> bytes:
    return text.encode() if text.lstrip().startswith("{") else _read(text)


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(_LONGEST_INPUT)
    try:
        with Path(name).open("rb") as file:
            return file.read(_LONGEST_INPUT)
    except OSError as failure:
        raise UsageError(
            f"{name!r} cannot be read ({failure.strerror}): "
            "write a status, a file, '-' or module:callable"
        ) from None


def _parsed(raw: bytes) -> _Response:
    """Return a response as ``curl -i`` prints it; of several (a proxy, a redirect) the last."""
    head, body = b"", raw.replace(b"\r\n", b"\n")
    while body.startswith(b"HTTP/"):
        head, _, body = body.partition(b"\n\n")
    lines = head.decode("latin-1").splitlines()
    words = lines[0].split() if lines else []
    if len(words) < 2 or not words[1].isdecimal():
        raise UsageError(
            "the input has no status line: "
            "pipe what 'curl -i' prints, or write the status and --body"
        )
    return _Response(_status(words[1]), _headers(line for line in lines[1:] if ":" in line), body)


def _raised_by(name: str) -> BaseException | None:
    """Return what a callable raises, awaited if it is asynchronous; None if it raises nothing."""
    function = load(name)
    if not callable(function):
        raise UsageError(f"{name!r} is not callable")
    try:
        result = function()
        if inspect.isawaitable(result):
            asyncio.run(_awaited(result))
    except BaseException as error:  # noqa: BLE001  # also a cancellation is explained
        return error
    return None


async def _awaited(result: Awaitable[object]) -> None:
    await result
