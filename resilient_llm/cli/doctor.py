"""``resilient-llm doctor``: what would keep a function from answering, before it is needed."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import ConfigurationError, Failover
from resilient_llm.cli._doctor.files import findings_of as findings_of_file
from resilient_llm.cli._doctor.files import is_file, policy_of_all, problems_of
from resilient_llm.cli._doctor.files import load as load_file
from resilient_llm.cli._doctor.files import of_policies as names_in_policies
from resilient_llm.cli._exits import FAILED, UsageError
from resilient_llm.cli._loading import load
from resilient_llm.cli._output import Cell, print_json, print_table, shown, word

if TYPE_CHECKING:
    from resilient_llm.cli._doctor.findings import Finding

_ARGUMENTS: Final = ["Say OK."]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "Imports a function under @failover, or a policy, and checks each of its targets: is "
        "the key set, does the host answer, is the clock right, does the client retry by itself, "
        "is there a timeout, and is there a price where a budget needs one? It also reports limits "
        "and budgets that apply to no chain, and names of chains that are not defined. A "
        "configuration file is checked and loaded first. If only a file is given, all targets of "
        "its chains are checked. Without --live no prompt and no key is sent. No key is printed."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm doctor shop.llm:ask\n"
        "  resilient-llm doctor shop.llm:ask --live --args '[\"Say OK.\", 20]'\n"
        "  resilient-llm doctor shop.llm:ask config.toml\n"
        "  resilient-llm doctor config.toml\n\n"
        "exit status: 0; 1 if a check ended in an error; 2 wrong use"
    )
    parser.add_argument(
        "name",
        metavar="MODULE:NAME|FILE",
        help=(
            "the function or the policy, the present directory is on the import path; or a "
            "configuration file"
        ),
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="with MODULE:NAME: a configuration file, which the service loads",
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
    name, file = options.name, options.file
    if file is None and is_file(name):
        name, file = None, name
    if name is None and options.live:
        raise UsageError(f"{file!r} is a file, which --live cannot call: name a function")
    if name is not None and ":" not in name:
        raise UsageError(
            f"{name!r} is not allowed: write MODULE:NAME, as in shop.llm:ask, or a file that "
            "ends in .toml, .json, .yaml or .yml"
        )
    # What the module prints is not what this command says.
    with contextlib.redirect_stdout(sys.stderr):
        findings = _findings(name, file, options.args, is_live=options.live)
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
    name: str | None, file: str | None, arguments: list[Any] | None, *, is_live: bool
) -> list[Finding]:
    wrong = [] if file is None else problems_of(file)
    try:
        found = None if name is None else load(name)
    except UsageError:
        if not wrong:
            raise
        return findings_of_file(wrong)  # which the module has met as well
    of_file = [] if file is None else load_file(file)
    if any(each.status == "error" for each in of_file):
        return of_file
    if name is None:
        policy = policy_of_all()
        return of_file if policy is None else [*of_file, *_of_policy(policy, None)]
    return [*of_file, *_of_function(name, found, arguments, is_live=is_live)]


def _of_function(
    name: str, found: Any, arguments: list[Any] | None, *, is_live: bool
) -> list[Finding]:
    if isinstance(found, Failover):
        if is_live:
            raise UsageError(f"{name!r} is a policy, which --live cannot call: name a function")
        return _of_policy(found, None)
    policy = getattr(found, "policy", None)
    if not isinstance(policy, Failover):
        raise UsageError(f"{name!r} is neither a function under @failover nor a policy")
    findings = _of_policy(policy, inspect.unwrap(found))
    if not is_live or any(each.check == "chains" and each.status == "error" for each in findings):
        return findings  # its calls raise
    from resilient_llm.cli._doctor.live import call_each

    findings += call_each(found, _ARGUMENTS if arguments is None else arguments)
    order = {target.key: number for number, target in enumerate(policy.chain)}
    return sorted(findings, key=lambda each: order.get(each.target, len(order)))


def _of_policy(policy: Failover, fn: Any) -> list[Finding]:
    """Return what is found about the targets of a policy, and about all policies."""
    from resilient_llm.cli._doctor.checks import findings_of

    of_policies = list(names_in_policies())
    try:
        targets = policy.chain
    except ConfigurationError:  # a name that is not defined, which is told above
        targets = ()
    return [*(findings_of(policy, fn) if targets else ()), *of_policies]


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
