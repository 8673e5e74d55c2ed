"""``resilient-llm health``: how each provider and each model is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm.cli import _remote
from resilient_llm.cli._exits import FAILED, CommandError
from resilient_llm.cli._keys import key_of
from resilient_llm.cli._output import Cell, print_json, print_table, print_word, shown, word
from resilient_llm.cli._shapes import as_number, as_object, as_objects
from resilient_llm.cli.benches import left_of, source_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

_HEADINGS: Final = (
    "key", "status", "state", "errors", "latency", "back in", "benched for", "last error", "probe"
)  # fmt: skip
_WORST_FIRST: Final = ("down", "degraded", "healthy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Prints the status of the service, and of every provider and model that it has called. "
        "'down' means that no target of any chain may be called."
    )
    parser.epilog = (
        "exit status: 0 healthy or degraded; 1 down, or the service cannot be asked, as with a "
        "store; 2 wrong use"
    )
    parser.add_argument("--json", action="store_true", help="print what the API answers")
    _remote.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the health; fail if the service is down."""
    client = _remote.service_of(options)
    found = client.value("api/health", also=(503,))
    health = as_object(found)
    if not isinstance(health.get("targets"), list):
        raise CommandError(f"{client.url} answered something else than its health")
    if options.json:
        print_json(health)
    else:
        print_word(health.get("status"))
        targets = sorted(as_objects(health["targets"]), key=_worst_first)
        rows = [row_of(each) for each in targets]
        if rows:
            print_table(_HEADINGS, rows)
    return FAILED if health.get("status") == "down" else 0


def row_of(target: Mapping[str, Any]) -> Sequence[str | Cell]:
    """Return the row of one key."""
    bench, latency = as_object(target.get("benched")), as_number(target.get("latency"))
    return (
        Cell(shown(key_of(target)), "bold"),
        word(target.get("status")),
        word(target.get("state")),
        f"{shown(target.get('errors'))} of {shown(target.get('total'))}",
        "" if latency is None else f"{latency:.2f}s",
        left_of(bench),
        _why(bench, key_of(target)),
        shown(as_object(target.get("last_error")).get("reason")),
        _probe(as_object(target.get("probe"))),
    )


def _probe(last: Mapping[str, Any]) -> Cell:
    """Return the cell for the last result of a health probe; an empty one without one."""
    ok, seconds = last.get("ok"), as_number(last.get("seconds"))
    if not last:
        return Cell("")
    if ok is True:
        return Cell("well" if seconds is None else f"well, {seconds:.2f}s", "green")
    return Cell(shown(last.get("reason")), "red" if ok is False else "yellow")


def _worst_first(target: Mapping[str, Any]) -> tuple[int, str]:
    status = target.get("status")
    return (_WORST_FIRST.index(status) if status in _WORST_FIRST else 0), key_of(target)


def _why(bench: Mapping[str, Any], key: str) -> str:
    """Return why a key is benched; a bench of its provider says that it is one."""
    if not bench:
        return ""
    by = f" by {shown(bench['by'])}" if bench.get("by") else ""
    reason = shown(bench.get("reason"))
    why = f"by hand{by}: {reason}".rstrip(": ") if bench.get("manual") is True else reason
    source = source_of(bench)
    why += f", from {source}" if source else ""
    return why if bench.get("model") == key else f"{why} ({shown(bench.get('model'))})"
