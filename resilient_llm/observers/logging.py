"""The default observer: writes events to the logger ``resilient_llm``.

Benches and failed calls at WARNING, failovers, recoveries and broken streams at INFO, all
else at DEBUG;
the event's fields in ``extra``. Knows nothing of prompts, since events do not.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from resilient_llm._values import events as ev

DEBUG, INFO, WARNING = 10, 20, 30
_LEVELS: Final[dict[str, int]] = {
    "TargetBenched": WARNING,
    "CallFailed": WARNING,
    "ObserverFailed": WARNING,
    "UnknownError": WARNING,
    "TargetUnbenched": INFO,
    "FailedOver": INFO,
    "StreamInterrupted": INFO,
}
_MOST_CLASSES: Final = 1000
_PLAIN: Final = (str, int, float, type(None))


def level_of(kind: str) -> int:
    """Return the level at which a type of event is written."""
    return _LEVELS.get(kind, DEBUG)


class LoggingObserver:
    """Writes events; one line for each class of unknown errors."""

    def __init__(self) -> None:
        self._unknown: set[str] = set()

    def logs(self, kind: str) -> bool:
        """Return whether this type would be written now."""
        level = _LEVELS.get(kind, DEBUG)
        if _known is not None:
            return _known.isEnabledFor(level)
        # Nobody can have changed a level before the module was imported.
        if "logging" not in sys.modules:
            return level >= WARNING
        return _logger().isEnabledFor(level)

    def __call__(self, event: ev.Event) -> None:
        facts = {name: getattr(event, name) for name in event.__dataclass_fields__}
        kind = type(event).__name__
        if kind == "UnknownError":
            if facts["type_name"] in self._unknown or len(self._unknown) >= _MOST_CLASSES:
                return
            self._unknown.add(facts["type_name"])
        said = " ".join(
            f"{name}={_shown(value)}"
            for name, value in facts.items()
            if name not in ("at", "target", "call_id")
        )
        _logger().log(
            level_of(kind),
            "%s %s %s",
            kind,
            event.target,
            said,
            extra={"event": kind, **facts},
        )

    def line(self, text: str, /, *, warning: bool = False) -> None:
        """Write a line that is no event."""
        _logger().log(WARNING if warning else INFO, "%s", text)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value) if isinstance(value, _PLAIN) else f"{value}"


_known: Any = None


def _logger() -> Any:
    global _known  # noqa: PLW0603  # looked up once: this is asked on every event
    if _known is None:
        import logging

        _known = logging.getLogger("resilient_llm")
    return _known
