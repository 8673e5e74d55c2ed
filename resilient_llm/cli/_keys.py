"""Keys as operators write them, and those that they may have meant."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from resilient_llm.cli._exits import CommandError, UsageError
from resilient_llm.cli._output import shown
from resilient_llm.cli._shapes import as_objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from resilient_llm.cli._remote import AdminClient


def key(text: str) -> str:
    """Return a key that was written as an argument, if it can be sent: a type for argparse.

    Whether it is a key is for the service to say.

    Raises:
        ArgumentTypeError: If it has bytes that are not UTF-8, which are lone surrogates here.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"{text[:60]!r} has lone surrogates, which no key may have"
        ) from None
    return text


def normal(key: str) -> str:
    """Return a key as the service shows it: without blanks around, its provider lower-cased."""
    head, slash, model = key.strip().partition("/")
    provider, at, account = head.partition("@")
    return f"{provider.strip().lower()}{at}{account.strip()}{slash}{model.strip()}"


def similar(key: str, known: Iterable[str]) -> list[str]:
    """Return the known keys that a misspelt one may stand for, the nearest first."""
    import difflib  # only for messages

    return difflib.get_close_matches(normal(key), sorted(set(known)), n=2, cutoff=0.6)


def unknown_key(client: AdminClient, key: str) -> str:
    """Return a warning if no chain of the service has this key; empty if one has, or none tells.

    A bench of such a key is allowed, since its chain may be made later, but it is mostly a slip
    of the hand, and then nothing is out of service.
    """
    try:
        chains = client.rows("api/chains")
    except (CommandError, UsageError):
        return ""
    known = {each for chain in chains for each in keys_in(chain)}
    known |= {each.partition("/")[0] for each in known}
    if not known or normal(key) in known:
        return ""
    near = similar(key, known)
    meant = f": did you mean {' or '.join(map(shown, near))}?" if near else ""
    return f"no chain of the service has {shown(key)}{meant}"


def keys_in(chain: dict[str, Any]) -> Iterator[str]:
    """Yield the keys of the targets of one chain, in order."""
    for target in as_objects(chain.get("targets")):
        yield key_of(target)


def key_of(target: Mapping[str, Any]) -> str:
    """Return the key in what the API answers about a target."""
    return str(target.get("key", ""))
