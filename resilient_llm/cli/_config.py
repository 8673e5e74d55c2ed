"""What the commands around a configuration file share: its problems, and chains as text."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from resilient_llm.cli._exits import FAILED
from resilient_llm.cli._output import print_json, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm.config import ConfigProblem


def print_problems(source: str, problems: Sequence[ConfigProblem], *, as_json: bool) -> int:
    """Print all problems of a file, a line each, and return the exit status."""
    if as_json:
        print_json({"source": source, "problems": [asdict(each) for each in problems]})
        return FAILED
    for each in problems:
        print(shown(each))
    count = f"{len(problems):,} problem{'' if len(problems) == 1 else 's'}"
    print(f"{shown(source)}: {count}", file=sys.stderr)
    return FAILED


def chain_text(chain: Any) -> str:
    """Return a chain of a file, a text or a list of texts, on one line."""
    return shown(chain if isinstance(chain, str) else ", ".join(chain))


def value_text(value: Any) -> str:
    """Return a value of a file as TOML would have it, as far as one line can."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        pairs = ", ".join(f"{name} = {value_text(each)}" for name, each in value.items())  # pyright: ignore[reportUnknownVariableType]  # of a file
        return f"{{ {pairs} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"  # pyright: ignore[reportUnknownArgumentType]  # of a file
    return shown(f'"{value}"' if isinstance(value, str) else value)
