"""``resilient-llm check``: what a configuration file has, or all that is wrong in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from resilient_llm import ConfigurationError
from resilient_llm.cli._config import chain_text, print_problems, value_text
from resilient_llm.cli._exits import UsageError
from resilient_llm.cli._output import print_json, shown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from resilient_llm.config._outline import Outline, RouteOutline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = (
        "Checks a configuration file and prints its chains, routes and profiles as they are "
        "written, or all of its problems, one per line. It loads nothing, calls no provider and "
        "connects to no store. It prints the names of environment variables and never their "
        "values. The profile that the variable RESILIENT_LLM_PROFILE selects must be one of "
        "the file."
    )
    parser.epilog = (
        "examples:\n"
        "  resilient-llm check config.toml\n"
        "  resilient-llm check config.toml --providers groq,openai,anthropic\n\n"
        "exit status: 0; 1 if the file has problems; 2 wrong use"
    )
    parser.add_argument("file", metavar="FILE", help="a file in TOML, JSON or YAML")
    parser.add_argument(
        "--providers",
        metavar="A,B",
        help="the providers that the application has clients for; any other is a problem",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print an object with source, problems and, if there are none, what the file has",
    )


def run(options: argparse.Namespace) -> int:
    """Print what the file has, or its problems."""
    from resilient_llm.config import InvalidConfigError
    from resilient_llm.config._outline import outline
    from resilient_llm.config._reading import checked_providers

    try:
        providers = checked_providers(options.providers)
    except ConfigurationError as error:
        raise UsageError(f"--{_said(error)}") from None
    try:
        found = outline(options.file, providers=providers)
    except InvalidConfigError as error:
        return print_problems(options.file, error.problems, as_json=options.json)
    if options.json:
        print_json(_object(found))
        return 0
    sections = [each for each in (_chains(found), _routes(found), _profiles(found)) if each]
    if sections:
        print("\n\n".join("\n".join(each) for each in sections))
    else:
        print(f"{shown(options.file)} has no chain, no route and no profile", file=sys.stderr)
    return 0


def _said(error: ConfigurationError) -> str:
    """Return what is wrong, and what is allowed in the words of the command line."""
    return f"{shown(error).partition(': write ')[0]}: write --providers groq,openai"


def _object(found: Outline) -> dict[str, Any]:
    return {
        "source": found.source,
        "problems": [],
        "chains": {
            name: {"chain": chain, "targets": found.targets(chain)}
            for name, chain in found.chains.items()
        },
        "routes": {
            name: {
                "rules": [
                    {"chain": rule.chain, "conditions": rule.conditions} for rule in route.rules
                ],
                "otherwise": route.otherwise,
                "targets": found.targets(f"@{name}"),
            }
            for name, route in found.routes.items()
        },
        "profiles": {name: each._asdict() for name, each in found.profiles.items()},
    }


def _chains(found: Outline) -> list[str]:
    if not found.chains:
        return []
    lines = ["chains"]
    width = max(map(len, found.chains))
    for name, chain in found.chains.items():
        text = chain_text(chain)
        lines.append(f"  {name:{width}}  {text}")
        targets = ", ".join(map(shown, found.targets(chain)))
        if targets != text:
            lines.append(f"  {'':{width}}  = {targets}")
    return lines


def _routes(found: Outline) -> list[str]:
    if not found.routes:
        return []
    return ["routes", *(line for each in found.routes.items() for line in _route(*each))]


def _route(name: str, route: RouteOutline) -> Iterator[str]:
    yield f"  {name}"
    for number, rule in enumerate(route.rules):
        conditions = ", ".join(
            f"{each} = {value_text(value)}" for each, value in rule.conditions.items()
        )
        yield f"    rules[{number}]   {chain_text(rule.chain)}  if {conditions}"
    yield f"    otherwise  {chain_text(route.otherwise)}"


def _profiles(found: Outline) -> list[str]:
    if not found.profiles:
        return []
    lines = ["profiles"]
    for name, profile in found.profiles.items():
        lines.append(f"  {name}")
        lines += [f"    chains.{each} = {chain_text(of)}" for each, of in profile.chains.items()]
        lines += [
            f"    settings.{each} = {value_text(of)}" for each, of in profile.settings.items()
        ]
    return lines
