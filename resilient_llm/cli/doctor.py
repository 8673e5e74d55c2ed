"""``resilient-llm doctor``: what would keep a function from answering, before it is needed."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import Failover
from resilient_llm.cli._exits import FAILED, UsageError
from resilient_llm.cli._loading import load
from resilient_llm.cli._output import Cell, print_json, print_table, shown, word

if TYPE_CHECKING:
    from resilient_llm.cli._doctor.findings import Finding

_ARGUMENTS: Final = ["Say OK."]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "Imports a function under @failover, or a policy, and looks at each of its targets: is "
        "the key set, does the host answer, is the clock right, does the client retry by itself, "
        "is there a timeout, and a price where a budget needs one. Names limits and budgets that "
        "hold for no chain. Sends no prompt and no key, unless --live is written. Prints no "
        "key."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm doctor shop.llm:ask\n"
        "  resilient-llm doctor shop.llm:ask --live --args '[\"Say OK.\", 20]'\n\n"
        "exit status: 0; 1 if a check ended in an error; 2 wrong use"
    )
    parser.add_argument(
        "name",
        metavar="MODULE:NAME",
        help="the function or the policy; the present directory is on the import path",
    )
    parser.add_argument(
        "--live", action="store_true", help="also call the function once for each target"
    )
    parser.add_argument(
        "--args",
        type=_arguments,
        metavar="JSON",
        help=f"the arguments of the calls of --live (default: '{json.dumps(_ARGUMENTS)}')",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a list of {target, check, status, message}",
    )


def run(options: argparse.Namespace) -> int:
    """Print what is found; fail if one of it is an error."""
    if options.args is not None and not options.live:
        raise UsageError("--args goes with --live")
    if ":" not in options.name:
        raise UsageError(f"{options.name!r} is not allowed: write MODULE:NAME, as in shop.llm:ask")
    # What the module prints is not what this command says.
    with contextlib.redirect_stdout(sys.stderr):
        found = load(options.name)
        findings = _findings(options.name, found, options.args, is_live=options.live)
    if options.json:
        print_json([each._asdict() for each in findings])
    else:
        print_table(
            ("target", "check", "status", "message"),
            [
                (
                    Cell(shown(each.target), "bold"),
                    each.check,
                    word(each.status),
                    shown(each.message),
                )
                for each in findings
            ],
        )
    return FAILED if any(each.status == "error" for each in findings) else 0


def _findings(
    name: str, found: Any, arguments: list[Any] | None, *, is_live: bool
) -> list[Finding]:
    from resilient_llm.cli._doctor.checks import findings_of

    if isinstance(found, Failover):
        if is_live:
            raise UsageError(f"{name!r} is a policy, which --live cannot call: name a function")
        return list(findings_of(found, None))
    policy = getattr(found, "policy", None)
    if not isinstance(policy, Failover):
        raise UsageError(f"{name!r} is neither a function under @failover nor a policy")
    findings = list(findings_of(policy, inspect.unwrap(found)))
    if is_live:
        from resilient_llm.cli._doctor.live import call_each

        findings += call_each(found, _ARGUMENTS if arguments is None else arguments)
    order = {target.key: number for number, target in enumerate(policy.chain)}
    return sorted(findings, key=lambda each: order.get(each.target, len(order)))


def _arguments(text: str) -> list[Any]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise argparse.ArgumentTypeError(
            "it is not a list in JSON: write the positional arguments, such as '[\"Say OK.\"]'"
        )
    return value  # pyright: ignore[reportUnknownVariableType]  # of anything
