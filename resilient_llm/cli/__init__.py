"""The command line, ``resilient-llm``.

This file finds the command, hands it its arguments and turns its errors into exit statuses. Each
command has a module in this folder that is named like it, and that is imported only when the
command is used. A new command is such a module and a line in `COMMANDS`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

from resilient_llm import __version__
from resilient_llm.cli._exits import FAILED, INTERRUPTED, USAGE, CommandError, UsageError
from resilient_llm.cli._stdout import OutputError, give_up_output, outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "FAILED", "INTERRUPTED", "USAGE", "main", "parser_of"]

_STEERING: Final = {
    "benches": "list what is benched, why, and for how long",
    "bench": "bench a provider or a model, so that calls skip it",
    "unbench": "end the bench of a provider or a model",
    "health": "show the health of each provider and model",
    "chains": "list the targets of each chain, in their present order",
    "spend": "show what each budget has spent, and when it resets",
    "events": "print past events; --follow: also new events",
}
_HERE: Final = {
    "serve": "serve the admin page of a store (--state URL), without a service",
    "check": "print the content of a configuration file, or all of its problems",
    "route": "show which chain a route of a file chooses for some messages, and why",
    "config-schema": "print the JSON schema of a configuration file",
    "doctor": "check keys, hosts, clock, retries and timeouts of a function or a file",
    "explain": "explain what a chain does with an error, and why",
    "journal": "print the events of a journal; --follow: also new events",
    "demo": "show an outage of fake providers with real clients; offline, about 20 s",
    "prometheus-rules": "print alert rules for Prometheus",
    "grafana-dashboard": "print a dashboard for Grafana",
}
COMMANDS: Final = {**_STEERING, **_HERE}
"""``{name of the command: what it is for}``; its module is named like it, with underscores."""

_GROUPS: Final = (
    (
        "for a running service, through its admin page (--admin URL, --token TOKEN), or for all "
        "processes that share a store (--state URL)",
        _STEERING,
    ),
    ("for this machine", _HERE),
)


class Command(Protocol):
    """What the module of a command has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments, and describe it."""

    def run(self, options: argparse.Namespace) -> int:
        """Run it and return the exit status.

        Raises:
            UsageError: If the arguments are wrong.
            CommandError: If it failed.
        """
        raise NotImplementedError


class _Help(argparse.HelpFormatter):
    """Wraps paragraphs, and leaves the lines of a list or an example as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            line if line.startswith(" ") else textwrap.fill(line, width)
            for line in text.splitlines()
        )


class _Parser(argparse.ArgumentParser):
    """A parser that names the nearest option if one is misspelt."""

    def __init__(self, prog: str) -> None:
        # Abbreviations of options would break scripts as soon as there is another like it.
        super().__init__(prog=prog, allow_abbrev=False, formatter_class=_Help)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            self.refuse(unknown[0])
        return options

    def refuse(self, argument: str) -> NoReturn:
        if not argument.startswith("-"):
            self.error(f"too many arguments: see {self.prog} --help")  # it may be a token
        name = argument.partition("=")[0]  # the rest may be a token
        options = [each for each in self._option_string_actions if each.startswith("--")]
        self.error(f"there is no option {name!r}{_meant(name, options)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status of the process.

    Args:
        argv: Arguments without the program's name; those of the process if None.
    """
    for output in (sys.stdout, sys.stderr):
        if hasattr(output, "reconfigure"):
            # A terminal that has no such letter is no reason to fail.
            output.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # not of every text stream
    arguments = list(sys.argv[1:] if argv is None else argv)
    with outputs():
        try:
            return _written(arguments)
        except KeyboardInterrupt:
            return INTERRUPTED
        except CommandError as failure:
            name = f" {arguments[0]}" if arguments and arguments[0] in COMMANDS else ""
            print(f"resilient-llm{name}: {failure}", file=sys.stderr)
            if isinstance(failure, OutputError):
                give_up_output()
            return FAILED
        except BrokenPipeError:  # the reader of the output is gone
            give_up_output()
            return FAILED


def parser_of(name: str) -> tuple[_Parser, Command]:
    """Return the parser of a command, and its module, which is imported now."""
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    command = cast("Command", module)
    parser = _Parser(f"resilient-llm {name}")
    command.add_arguments(parser)
    return parser, command


def _written(arguments: Sequence[str]) -> int:
    """Run what the arguments say and return its exit status when all output is written.

    Raises:
        CommandError: If it failed, or the output cannot be written.
        BrokenPipeError: If the reader of the output is gone.
        SystemExit: After a help, or a message about wrong use.
    """
    try:
        status = _run(arguments)
    except SystemExit:
        sys.stdout.flush()  # a help
        raise
    sys.stdout.flush()
    return status


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] not in COMMANDS:
        return _without_command(arguments)
    parser, command = parser_of(arguments[0])
    options = parser.parse(arguments[1:])
    try:
        return command.run(options)
    except UsageError as wrong:
        parser.error(str(wrong))


def _without_command(arguments: Sequence[str]) -> int:
    """Show help, version, or what is wrong; each but ``--`` ends the process."""
    top = _Parser("resilient-llm")
    top.usage = "resilient-llm COMMAND [options]"
    top.description = "Failover, retries, circuit breakers and benches around LLM calls."
    top.epilog = "\n\n".join(
        f"commands {where}:\n"
        + "\n".join(f"  {name:18} {purpose}" for name, purpose in commands.items())
        for where, commands in _GROUPS
    )
    top.epilog += "\n\nresilient-llm COMMAND --help shows the options of a command, with examples."
    top.add_argument("--version", action="version", version=f"resilient-llm {__version__}")
    if not arguments:
        top.print_help(sys.stderr)
        top.exit(USAGE, "\nresilient-llm: error: a command is expected\n")
    name = arguments[0]
    if not name.startswith("-"):
        top.error(f"there is no command {name!r}{_meant(name, COMMANDS)}")
    if name != "--":
        top.parse(arguments[:1])  # ends the process
    top.error("a command is expected first")


def _meant(name: str, known: Sequence[str] | dict[str, str]) -> str:
    """Return what to add to a message about a name that there is not."""
    import difflib  # only for messages

    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if near:
        return f": did you mean {' or '.join(near)}?"
    return f": there are {', '.join(known)}"
