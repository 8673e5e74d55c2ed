"""The command line: ``resilient-llm demo`` and ``resilient-llm explain``.

Loads what a command needs when it runs, and says in one line what to install if that is
missing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import inspect
import json
import math
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import __version__, classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from rich.console import Console

    from resilient_llm.demo.run import Demo, View

_EXTRA: Final = ("rich", "openai", "anthropic")
_SHORTEST: Final = 2.0
"""Seconds below which the weather changes faster than calls end."""

_LONGEST_INPUT: Final = 1_048_576
"""Bytes of a response that are read; of a body no more than the first 64 KiB are looked at."""

NOTHING_RAISED: Final = 1
MISSING: Final = 2
INTERRUPTED: Final = 130
"""Exit statuses, as shells have them: used wrongly, and ended by Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status of the process.

    Args:
        argv: Arguments without the program's name; those of the process if None.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "explain":
        try:
            return _explain(options)
        except ValueError as wrong:
            parser.error(str(wrong))
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"The demo needs {', '.join(missing)}: pip install 'resilient-llm[demo]'",
            file=sys.stderr,
        )
        return MISSING
    try:
        return _demo(options.seconds, options.seed, as_json=options.json)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone, and the interpreter must not try to flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resilient-llm",
        description="Failover, retries, circuit breakers and benches around LLM calls.",
    )
    parser.add_argument("--version", action="version", version=f"resilient-llm {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="command", dest="command", required=True
    )
    demo = commands.add_parser(
        "demo",
        help="real clients, bad weather, nothing lost; offline",
        description=(
            "Starts small servers on loopback that speak the OpenAI and the Anthropic protocol, gives them bad "
            "weather, and calls them through the real client packages with @failover. Needs no network and no keys. "
            "Exits with 1 if a call was lost that could have been served."
        ),
    )
    demo.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        metavar="N",
        help="how long it lasts (default: 20)",
    )
    demo.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of latencies, pauses and coin flips"
    )
    demo.add_argument("--json", action="store_true", help="print nothing but the summary, as JSON")
    explain = commands.add_parser(
        "explain",
        help="what an error means to a chain, and why",
        description=(
            "Prints the verdict on an HTTP response or on what a function raises: its kind, what happens next, which "
            "rule decided and by which field. Prints no prompt, no key and no text of the provider."
        ),
    )
    explain.add_argument(
        "what",
        metavar="WHAT",
        help=(
            "a status such as 429; a file with a response as 'curl -i' prints it, '-' for standard input; or "
            "module:callable, which is called without arguments and should raise"
        ),
    )
    explain.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="a header of a status; repeatable",
    )
    explain.add_argument(
        "--body", metavar="FILE", help="the body of a status; '-' for standard input"
    )
    explain.add_argument("--json", action="store_true", help="print it as JSON")
    return parser


class _Response(Exception):  # noqa: N818  # it stands for what a client would have raised
    """An HTTP response as an error, in the shape that clients give it."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__()
        self.status_code = status
        self.headers = headers
        self.body = body


def _explain(options: argparse.Namespace) -> int:
    """Print why a response, or what a callable raises, is judged as it is.

    Raises:
        ValueError: If it is neither, with a sentence that says what is allowed.
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
            _status(what), _headers(options.header), _read(options.body) if options.body else b""
        )
    if options.header or options.body:
        raise ValueError(
            "--header and --body go with a status: write resilient-llm explain 429 -H 'retry-after: 20'"
        )
    if what != "-" and ":" in what and not Path(what).exists():
        return _raised_by(what)
    return _parsed(_read(what))


def _status(text: str) -> int:
    status = int(text) if len(text) == 3 else 0
    if not 100 <= status <= 599:
        raise ValueError(f"{text[:20]!r} is no HTTP status: write a number from 100 to 599")
    return status


def _headers(lines: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ValueError("a header is written 'name: value', for example -H 'retry-after: 20'")
        found[name.strip().lower()] = value.strip()
    return found


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(_LONGEST_INPUT)
    try:
        with Path(name).open("rb") as file:
            return file.read(_LONGEST_INPUT)
    except OSError as failure:
        raise ValueError(
            f"{name!r} cannot be read ({failure.strerror}): write a status, a file, '-' or module:callable"
        ) from None


def _parsed(raw: bytes) -> _Response:
    """Read a response as ``curl -i`` prints it; of several (a proxy, a redirect) the last counts."""
    head, body = b"", raw.replace(b"\r\n", b"\n")
    while body.startswith(b"HTTP/"):
        head, _, body = body.partition(b"\n\n")
    lines = head.decode("latin-1").splitlines()
    words = lines[0].split() if lines else []
    if len(words) < 2 or not words[1].isdecimal():
        raise ValueError(
            "the input has no status line: pipe what 'curl -i' prints, or write the status and --body"
        )
    return _Response(_status(words[1]), _headers(line for line in lines[1:] if ":" in line), body)


def _raised_by(name: str) -> BaseException | None:
    """Return what a callable raises, awaited if it is asynchronous; None if it raises nothing."""
    module_name, _, path = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function: Any = importlib.import_module(module_name)
        for attribute in path.split("."):
            function = getattr(function, attribute)
    except (ImportError, AttributeError, ValueError) as failure:
        raise ValueError(
            f"{name!r} cannot be loaded ({type(failure).__name__}): write module:callable"
        ) from None
    if not callable(function):
        raise ValueError(f"{name!r} is not callable")
    try:
        result = function()
        if inspect.isawaitable(result):
            asyncio.run(_awaited(result))
    except BaseException as error:  # noqa: BLE001  # also a cancellation is explained
        return error
    return None


async def _awaited(result: Awaitable[object]) -> None:
    await result


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not _SHORTEST <= seconds < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed: write a number, at least {_SHORTEST:g}"
        )
    return seconds


def _demo(seconds: float, seed: int, *, as_json: bool) -> int:
    from rich.console import Console

    from resilient_llm.demo import view
    from resilient_llm.demo.run import Demo

    demo = Demo(seconds, seed)
    # Not rich's idea of a terminal: an environment variable may force that.
    is_live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    console = Console() if is_live else Console(no_color=True, force_terminal=False, width=1000)
    interrupted = _run(demo, _view(console, as_json=as_json, is_live=is_live))
    summary = demo.summary()
    if as_json:
        print(json.dumps(summary.as_dict(), indent=2))
    else:
        view.print_summary(console, summary)
    sys.stdout.flush()  # here, where a reader that has gone is expected
    return INTERRUPTED if interrupted else summary.exit_status


def _view(console: Console, *, as_json: bool, is_live: bool) -> AbstractContextManager[View]:
    from resilient_llm.demo import view

    if as_json:
        return nullcontext(view.Silence())
    return view.LiveView(console) if is_live else nullcontext(view.PlainLines())


def _run(demo: Demo, showing: AbstractContextManager[View]) -> bool:
    """Run the demo to its end; return whether Ctrl-C ended it early."""
    try:
        with showing as view:
            asyncio.run(demo.run(view))
    except KeyboardInterrupt:
        return True
    return False
