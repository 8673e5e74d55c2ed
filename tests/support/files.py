"""Configuration files of tests: replaced as editors and deployments do it, and waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 40.0
"""Real seconds after which what has not happened never will: machines may be busy."""


def write(path: Path, text: str) -> Path:
    """Replace a file by renaming another one, as an editor does."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    return fresh.replace(path)


def eventually(is_true: Callable[[], object]) -> None:
    """Wait by real time until something is true."""
    until = time.perf_counter() + PATIENCE
    while not is_true():
        assert time.perf_counter() < until, "it has not happened"
        time.sleep(0.005)
