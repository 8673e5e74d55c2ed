"""``resilient-llm unbench``: puts a provider or a model back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.cli import _remote, _store, benches
from resilient_llm.cli._exits import CommandError, UsageError
from resilient_llm.cli._keys import key, normal, similar
from resilient_llm.cli._output import print_json, shown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

_MOST_SHOWN: Final = 3
"""Benched models that a message lists."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "Ends the bench of a provider or a model, in a service or in all processes that share a "
        "store. Calls use it at once, without a probe, and its failures are forgotten."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm unbench groq\n\n"
        "exit status: 0 it was benched and is not any more; 1 it was not benched, or the service "
        "refused, or the service or the store cannot be asked; 2 wrong use"
    )
    parser.add_argument(
        "key", type=key, metavar="KEY", help="the key, as 'resilient-llm benches' shows it"
    )
    parser.add_argument(
        "--by",
        help="who unbenches it (default: the user of the system); a service that "
        "identifies its users records that user instead",
    )
    parser.add_argument("--json", action="store_true", help="print the key as JSON")
    _remote.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """End the bench."""
    address = _remote.store_of(options)
    if address is None:
        _in_service(options)
    else:
        _in_store(address, options)
    if options.json:
        print_json({"model": normal(options.key)})
    else:
        print(f"{shown(normal(options.key))} is not benched any more")
    return 0


def _in_service(options: argparse.Namespace) -> None:
    client = _remote.client_of(options)
    if options.by is not None:
        print("--by has no effect here: the service writes whom it let in", file=sys.stderr)
    answer = client.send("DELETE", "api/benches", {"model": options.key})
    if answer.status == 404 and answer.content_type == "application/problem+json":
        try:
            benched = client.rows("api/benches")
        except (CommandError, UsageError):
            benched = []
        raise CommandError(_not_benched(options.key, benched))
    if answer.status != 204:
        raise client.refusal(answer)


def _in_store(address: _store.StoreAddress, options: argparse.Namespace) -> None:
    """End the bench for all who share the store, and return when that was sent."""
    from resilient_llm import unbench_model

    by = _store.operator() if options.by is None else options.by
    with _store.shared(address) as store:
        store.read()
        try:
            was_benched = unbench_model(options.key, by=by)
        except ValueError as error:
            raise CommandError(f"it was not unbenched: {error}") from None
        if not was_benched:
            said = _not_benched(options.key, benches.rows_here())
            raise CommandError(f"in {store.url} {said}")
        store.send()


def _not_benched(key: str, benches: Iterable[dict[str, Any]]) -> str:
    """Return what to say of a key that is not benched: often its provider is, or its models."""
    said = f"{shown(key)} is not benched"
    benched = [str(each.get("model")) for each in benches]
    provider = normal(key).partition("/")[0]
    if "/" in key and provider in benched:
        return f"{said}, but its provider is: resilient-llm unbench {shown(provider)}"
    models = [each for each in benched if each.startswith(f"{normal(key)}/")]
    if models:
        more = f" and {len(models) - _MOST_SHOWN} more" if len(models) > _MOST_SHOWN else ""
        listed = ", ".join(map(shown, models[:_MOST_SHOWN]))
        if len(models) == 1:
            return f"{said}, but its model is: resilient-llm unbench {listed}"
        return f"{said}, but models of it are: {listed}{more}"
    if near := similar(key, benched):
        return f"{said}: did you mean {' or '.join(map(shown, near))}?"
    return said
