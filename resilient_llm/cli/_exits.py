"""Exit statuses of the commands, and the errors that end a command with one of them."""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
"""What was asked for did not happen, or what was looked at is down."""
USAGE: Final = 2
"""The command was written wrongly."""
INTERRUPTED: Final = 130
"""Ended by Ctrl-C, as shells have it."""


class UsageError(ValueError):
    """The arguments are wrong; the message says what is allowed. Ends with `USAGE`."""


class CommandError(Exception):
    """The command could not do what it was asked for. Ends with `FAILED`.

    Its message is printed as it is, so it holds no token, and text of a server only escaped.
    """
