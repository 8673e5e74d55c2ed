"""``resilient-llm demo``: real clients against small servers on loopback."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager

    from rich.console import Console

    from resilient_llm.demo.run import Demo, View

_EXTRA: Final = ("rich", "openai", "anthropic")

MISSING: Final = 2
INTERRUPTED: Final = 130
"""Exit statuses, as shells have them: used wrongly, and ended by Ctrl-C."""


def run(options: argparse.Namespace) -> int:
    """Run the demo and return the exit status."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"The demo needs {', '.join(missing)}: pip install 'resilient-llm[demo]'",
            file=sys.stderr,
        )
        return MISSING
    try:
        return _show(options.seconds, options.seed, as_json=options.json)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output is gone, and the interpreter must not try to flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _show(seconds: float, seed: int, *, as_json: bool) -> int:
    from rich.console import Console

    from resilient_llm.demo import view
    from resilient_llm.demo.run import Demo

    demo = Demo(seconds, seed)
    # Not by rich's own test of a terminal, which an environment variable may force.
    is_live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    console = Console() if is_live else Console(no_color=True, force_terminal=False, width=1000)
    interrupted = _run_to_end(demo, _view(console, as_json=as_json, is_live=is_live))
    summary = demo.summary()
    if as_json:
        print(json.dumps(summary.as_dict(), indent=2))
    else:
        view.print_summary(console, summary)
    sys.stdout.flush()  # here, where the reader may be gone
    return INTERRUPTED if interrupted else summary.exit_status


def _view(console: Console, *, as_json: bool, is_live: bool) -> AbstractContextManager[View]:
    from resilient_llm.demo import view

    if as_json:
        return nullcontext(view.Silence())
    return view.LiveView(console) if is_live else nullcontext(view.PlainLines())


def _run_to_end(demo: Demo, view_context: AbstractContextManager[View]) -> bool:
    """Run the demo to its end; return whether Ctrl-C ended it early."""
    try:
        with view_context as view:
            asyncio.run(demo.run(view))
    except KeyboardInterrupt:
        return True
    return False
