"""Observers that export events, one file each. To add one: a function that takes an event.

An observer imports its third-party library inside a function, and is subscribed by
``observe``, or by the wiring if it is a default. One with an ``install`` returns an `Exporter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilient_llm.observers._exporter import Exporter

__all__ = ["Exporter"]


def __getattr__(name: str) -> object:
    # Not imported above: the log is an observer, and needs nothing of what an exporter does.
    if name == "Exporter":
        from resilient_llm.observers._exporter import Exporter

        globals()[name] = Exporter
        return Exporter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
