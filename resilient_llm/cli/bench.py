"""``resilient-llm bench``: takes a provider or a model out."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import datetime
from typing import Any, Final

from resilient_llm.cli import _remote, benches
from resilient_llm.cli._exits import CommandError
from resilient_llm.cli._keys import key, unknown_key
from resilient_llm.cli._output import print_json, print_table
from resilient_llm.cli._shapes import as_object

_DURATION: Final = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?",
    re.ASCII,
)
_SIZES: Final = (86_400, 3600, 60, 1)
_LONGEST: Final = 10 * 365 * 86_400.0
"""Seconds of the longest bench with an end; whoever wants more wants one without."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "Takes a provider or a model out of all chains of the service at once, until the time is "
        "over or somebody unbenches it. No success and no probe ends it."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm bench groq --for 2h --reason 'their status page says two hours'\n"
        "  resilient-llm bench openai/gpt-5-mini\n"
        "  resilient-llm bench groq --until 2026-12-01T06:00:00Z\n\n"
        "exit status: 0 benched; 1 refused, or the service cannot be asked; 2 wrong use"
    )
    parser.add_argument(
        "key",
        type=key,
        metavar="KEY",
        help="a provider (groq), which stands for all of its models, or a model (groq/llama-3.3)",
    )
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--for",
        dest="seconds",
        type=duration,
        metavar="TIME",
        help="how long: 1h30m, 2d, 45s, or a number of seconds (default: until unbenched)",
    )
    end.add_argument(
        "--until", type=_moment, metavar="RFC3339", help="until when, such as 2026-12-01T06:00:00Z"
    )
    parser.add_argument("--reason", help="why, for whoever looks next; at most 200 characters")
    parser.add_argument(
        "--by", help="who benches it; a service that knows whom it let in writes that instead"
    )
    parser.add_argument("--json", action="store_true", help="print what the API answers")
    _remote.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Bench the key, and print the bench."""
    client = _remote.client_of(options)
    body: dict[str, Any] = {"model": options.key}
    if options.seconds is not None:
        body["seconds"] = options.seconds
    if options.until is not None:
        body["until"] = options.until
    if options.reason is not None:
        body["reason"] = options.reason
    answer = client.send("POST", "api/benches", body=body)
    if answer.status != 201:
        raise client.refusal(answer)
    bench = as_object(client.decoded(answer))
    if not bench:
        raise CommandError(f"{client.url} benched it, and answered something unknown")
    if options.json:
        print_json(bench)
    else:
        print_table(benches.HEADINGS, [benches.row_of(bench)])
    if options.by is not None:
        print("--by has no effect here: the service writes whom it let in", file=sys.stderr)
    print_warning(unknown_key(client, options.key))
    return 0


def print_warning(text: str) -> None:
    """Print a warning on the error output, unless it is empty."""
    if text:
        print(f"warning: {text}", file=sys.stderr)


def duration(text: str) -> float:
    """Return the seconds of a duration such as ``1h30m``.

    Raises:
        ArgumentTypeError: If it is none, or not above zero.
    """
    match = _DURATION.fullmatch(text.strip().lower().replace(" ", ""))
    seconds = 0.0
    if match is not None:
        given = zip(match.groups(), _SIZES, strict=True)
        seconds = sum(float(number) * size for number, size in given if number)
    if not 0 < seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed: write 1h30m, 2d, 45s or a number of seconds, above 0"
        )
    return seconds


def _moment(text: str) -> str:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        at = datetime.min  # noqa: DTZ901  # refused like every moment without a zone
    if at.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed: write a moment with its zone, such as 2026-12-01T06:00:00Z"
        )
    return at.isoformat()
