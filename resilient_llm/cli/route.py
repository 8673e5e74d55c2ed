"""``resilient-llm route``: which chain a route of a configuration file chooses, and why."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resilient_llm import ConfigurationError
from resilient_llm.cli._config import chain_text, print_problems
from resilient_llm.cli._exits import UsageError
from resilient_llm.cli._output import print_json, shown

if TYPE_CHECKING:
    import argparse

    from resilient_llm.config._outline import Choice

_LARGEST: Final = 64 * 1024 * 1024
"""Bytes of the longest conversation that is read, pictures included."""
_ALLOWED: Final = "write a list of messages, or a text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "Prints the chain that a route of a configuration file chooses for a call with these "
        "messages, and why it skipped the rules before. It loads nothing and calls no "
        "provider. It never prints the messages. The profile is that of the process: the "
        "variable RESILIENT_LLM_PROFILE, else the profile in the settings of the file."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm route config.toml main --messages hello.json\n"
        "  resilient-llm route config.toml main --messages hello.json --model gpt-5-mini\n\n"
        "exit status: 0; 1 if the file has problems; 2 wrong use, also if the file has no such "
        "route or the messages cannot be read"
    )
    parser.add_argument("file", metavar="FILE", help="a file in TOML, JSON or YAML")
    parser.add_argument("name", metavar="NAME", help="name of the route, without @")
    parser.add_argument(
        "--messages",
        required=True,
        metavar="FILE.json",
        help="the messages of the call as JSON, a list or a text; '-' for standard input",
    )
    parser.add_argument("--model", metavar="M", help="what the call passes as model=")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print an object with route, profile, rule, chain, targets and reasons",
    )


def run(options: argparse.Namespace) -> int:
    """Print what the route chooses, or the problems of the file."""
    from resilient_llm.config import InvalidConfigError
    from resilient_llm.config._outline import outline

    messages = _messages(options.messages)
    try:
        choice = outline(options.file).choose(options.name, messages, options.model)
    except InvalidConfigError as error:
        return print_problems(options.file, error.problems, as_json=options.json)
    except ConfigurationError as error:
        raise UsageError(f"{shown(options.file)}: {shown(error)}") from None
    if options.json:
        print_json(
            {
                "route": choice.name,
                "profile": choice.profile,
                "rule": choice.rule,
                "chain": choice.chain,
                "targets": choice.targets,
                "reasons": choice.reasons,
            }
        )
    else:
        _print(choice)
    return 0


def _print(choice: Choice) -> None:
    chosen = "otherwise" if choice.rule is None else f"rules[{choice.rule}]"
    print(chain_text(choice.chain))
    print(f"  targets    {chain_text(choice.targets)}")
    print(f"  chosen by  {choice.name}.{chosen}")
    if choice.profile is not None:
        print(f"  profile    {choice.profile}")
    for number, reason in enumerate(choice.reasons):
        print(f"  rules[{number}]   {shown(reason)}")


def _messages(name: str) -> Any:
    """Return the messages in a file.

    Raises:
        UsageError: If it cannot be read, or holds something else. The message has nothing of it.
    """
    raw = _content(name)
    if len(raw) > _LARGEST:
        raise UsageError(
            f"--messages: {shown(name)} is above {_LARGEST // 1024**2} MiB, the most allowed"
        )
    try:
        messages: Any = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UsageError(f"--messages: {shown(name)} is not UTF-8: {_ALLOWED}, as JSON") from None
    except json.JSONDecodeError as error:
        raise UsageError(
            f"--messages: {shown(name)} is not JSON (line {error.lineno}, column {error.colno}): "
            f"{_ALLOWED}, as JSON"
        ) from None
    except (ValueError, RecursionError):  # a number of thousands of digits; too many levels
        raise UsageError(f"--messages: {shown(name)} has JSON that cannot be read") from None
    if not isinstance(messages, (list, str)):
        raise UsageError(f"--messages: {shown(name)} has neither: {_ALLOWED}, as JSON")
    return messages  # pyright: ignore[reportUnknownVariableType]  # of anything


def _content(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(_LARGEST + 1)
    try:
        with Path(name).open("rb") as file:
            return file.read(_LARGEST + 1)
    except (OSError, ValueError) as failure:  # ValueError: a path with a null character
        why = getattr(failure, "strerror", None) or "its path is not allowed"
        raise UsageError(f"--messages: {shown(name)} cannot be read ({why})") from None
