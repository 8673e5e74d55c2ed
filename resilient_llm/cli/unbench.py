"""``resilient-llm unbench``: puts a provider or a model back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm.cli import _remote
from resilient_llm.cli._exits import CommandError, UsageError
from resilient_llm.cli._keys import key, normal, similar
from resilient_llm.cli._output import print_json, shown

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "Ends the bench of a provider or a model. Calls use it at once, without a probe, and its "
        "failures are forgotten."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm unbench groq\n\n"
        "exit status: 0 it was benched and is not any more; 1 it was not benched, or the service "
        "refused or cannot be asked; 2 wrong use"
    )
    parser.add_argument(
        "key", type=key, metavar="KEY", help="what resilient-llm benches shows as key"
    )
    parser.add_argument("--json", action="store_true", help="print the key as JSON")
    _remote.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """End the bench."""
    client = _remote.client_of(options)
    answer = client.send("DELETE", "api/benches", {"model": options.key})
    if answer.status == 404 and answer.content_type == "application/problem+json":
        raise CommandError(_not_benched(client, options.key))
    if answer.status != 204:
        raise client.refusal(answer)
    if options.json:
        print_json({"model": normal(options.key)})
    else:
        print(f"{shown(normal(options.key))} is not benched any more")
    return 0


def _not_benched(client: _remote.AdminClient, key: str) -> str:
    """Return what to say of a key that is not benched: often its provider is."""
    said = f"{shown(key)} is not benched"
    try:
        benched = [str(each.get("model")) for each in client.rows("api/benches")]
    except (CommandError, UsageError):
        return said
    provider = normal(key).partition("/")[0]
    if "/" in key and provider in benched:
        return f"{said}, but its provider is: resilient-llm unbench {shown(provider)}"
    if near := similar(key, benched):
        return f"{said}: did you mean {' or '.join(map(shown, near))}?"
    return said
