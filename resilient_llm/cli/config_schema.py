"""``resilient-llm config-schema``: the JSON schema of a configuration file, for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm.cli._output import print_json

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Prints the JSON schema of a configuration file, draft 2020-12, with which an editor "
        "completes and checks the file. The schema cannot express everything, for example which "
        "names are defined: 'resilient-llm check' checks that as well."
    )
    parser.epilog = "example:\n  resilient-llm config-schema > resilient_llm.schema.json"


def run(options: argparse.Namespace) -> int:
    """Print the schema."""
    from resilient_llm.config._schema import schema

    print_json(schema())
    return 0
