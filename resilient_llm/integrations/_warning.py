"""Warns where an adapter is declared, which may be any number of calls above the check."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def warn_at_declaration(message: str) -> None:
    """Emit a `UserWarning` for the line outside of this library that led here."""
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("resilient_llm."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
