"""``resilient-llm bench``: takes a provider or a model out."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import datetime
from typing import Any, Final

from resilient_llm.cli import _remote, _store, benches
from resilient_llm.cli._exits import CommandError
from resilient_llm.cli._keys import key, normal, unknown_key
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
        "Benches a provider or a model in all chains of the service, or in all processes that "
        "share a store. Calls skip it until the time is over or until it is unbenched. No success "
        "and no probe ends this bench."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm bench groq --for 2h --reason 'their status page says two hours'\n"
        "  resilient-llm bench openai/gpt-5-mini\n"
        "  resilient-llm bench groq --until 2026-12-01T06:00:00Z\n"
        "  resilient-llm bench groq --state redis://cache:6379/0 --reason 'incident 7'\n\n"
        "exit status: 0 benched; 1 refused, or the service or the store cannot be asked; 2 wrong "
        "use"
    )
    parser.add_argument(
        "key",
        type=key,
        metavar="KEY",
        help="a provider such as groq, with all of its models, or a model such as groq/llama-3.3",
    )
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--for",
        dest="seconds",
        type=duration,
        metavar="TIME",
        help="how long it lasts: 1h30m, 2d, 45s, or a number of seconds (default: until unbenched)",
    )
    end.add_argument(
        "--until",
        type=_moment,
        metavar="RFC3339",
        help="when it ends, such as 2026-12-01T06:00:00Z",
    )
    parser.add_argument(
        "--reason", help="why it is benched, at most 200 characters; shown with the bench"
    )
    parser.add_argument(
        "--by",
        help="who benches it (default: the user of the system); a service that identifies its "
        "users records that user instead",
    )
    parser.add_argument("--json", action="store_true", help="print what the API answers")
    _remote.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Bench the key, and print the bench."""
    address = _remote.store_of(options)
    if address is not None:
        _print(_in_store(address, options), options)
        return 0
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
    _print(bench, options)
    if options.by is not None:
        print("--by has no effect here: the service writes whom it let in", file=sys.stderr)
    print_warning(unknown_key(client, options.key))
    return 0


def _in_store(address: _store.StoreAddress, options: argparse.Namespace) -> dict[str, Any]:
    """Bench the key for all who share the store, and return the bench when it was sent."""
    from resilient_llm import bench_model

    until = options.seconds
    if options.until is not None:
        until = datetime.fromisoformat(options.until)
    by = _store.operator() if options.by is None else options.by
    with _store.shared(address) as store:
        store.read()
        try:
            bench_model(options.key, until, reason=options.reason or "", by=by)
        except ValueError as error:
            raise CommandError(f"it was not benched: {error}") from None
        wanted = normal(options.key)
        made = next((each for each in benches.rows_here() if each["model"] == wanted), None)
        store.send()
        source = store.source
    if made is None:
        raise CommandError("the bench was over before it could be sent")
    return {**made, "source": source}  # not "local": whoever reads it is not this process


def _print(bench: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print_json(bench)
    else:
        print_table(benches.HEADINGS, [benches.row_of(bench)])


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
