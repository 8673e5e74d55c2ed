"""The outputs of a command: one that is closed, and one that cannot be written."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from resilient_llm.cli._exits import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class OutputError(CommandError):
    """The output cannot be written, for another reason than that its reader has gone.

    Not an OSError, so that no command takes it for a file or a connection of its own.
    """


class _Output:
    """Standard output, whose failures are told from all other failures of files."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        return _done(lambda: self._stream.write(text))

    def flush(self) -> None:
        _done(self._stream.flush)


@contextlib.contextmanager
def outputs() -> Generator[None]:
    """Let standard output raise OutputError, and write to nowhere what has no output."""
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        # Closed by whoever started the process: what is written to None goes elsewhere, a
        # warning to standard output, and the next file that is opened takes its number.
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is not None:
                continue
            from pathlib import Path  # rarely, and the start must stay light

            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # see below
            setattr(sys, name, opened.enter_context(nowhere))
        sys.stdout = _Output(sys.stdout)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def give_up_output() -> None:
    """Let what is left to write go nowhere: the interpreter would fail to flush it at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _done(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BrokenPipeError:
        raise
    except OSError as failure:
        why = failure.strerror or type(failure).__name__
        raise OutputError(f"cannot write the output ({why})") from None
