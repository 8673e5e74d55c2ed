"""``resilient-llm prometheus-rules``: alert rules for the metrics of this library."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description = (
        "Prints alert rules for the metrics of this library, as Prometheus reads them."
    )
    parser.epilog = (
        "example:\n  resilient-llm prometheus-rules > /etc/prometheus/rules/resilient_llm.yml"
    )
    add_namespace(parser)


def add_namespace(parser: argparse.ArgumentParser) -> None:
    """Add the option that both commands have."""
    parser.add_argument(
        "--namespace",
        default="resilient_llm",
        metavar="NAME",
        help="what install(namespace=) was given (default: resilient_llm)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the rules."""
    from resilient_llm.cli._exits import UsageError
    from resilient_llm.observers import prometheus

    try:
        text = prometheus.rules(options.namespace)
    except ValueError as wrong:  # a namespace that no metric may have
        raise UsageError(str(wrong)) from None
    print(text.rstrip("\n"))
    return 0
