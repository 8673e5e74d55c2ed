"""The default observer: writes events to the logger ``resilient_llm``.

Benches, budgets that run out, failed calls, tool loops, a store that cannot be used and a
configuration file with problems are logged at WARNING; failovers, recoveries, benches by other
processes, changes of an order or of a configuration file and interrupted streams at INFO; all
others at DEBUG. The fields of the event are in ``extra``. No prompt is logged,
since events contain none. What operators wrote is escaped in the line, and as they wrote it in
``extra``.
"""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._values.configuration import ConfigProblem, few
from resilient_llm._values.escaping import escaped
from resilient_llm._values.usage import Usage, tokens_by_part

if TYPE_CHECKING:
    from resilient_llm._values import events as ev

DEBUG, INFO, WARNING = 10, 20, 30
_LEVELS: Final[dict[str, int]] = {
    "TargetBenched": WARNING,
    "CallFailed": WARNING,
    "BudgetWarning": WARNING,
    "BudgetExceeded": WARNING,
    "ObserverFailed": WARNING,
    "UnknownError": WARNING,
    "ToolLoopDetected": WARNING,
    "StoreUnavailable": WARNING,
    "StoreLost": WARNING,
    "StoreAvailable": INFO,
    "ConfigReloadFailed": WARNING,
    "ConfigReloaded": INFO,
    "TargetUnbenched": INFO,
    "FailedOver": INFO,
    "OrderChanged": INFO,
    "StreamInterrupted": INFO,
}
_COMMON: Final = ("at", "target", "call_id")
_LEFT_OUT: Final = {"by": "", "source": "local", "type_name": ""}
"""``{field: the value that tells nothing}``."""
_MOST_CLASSES: Final = 1000
_PLAIN: Final = (str, int, float, type(None))


def level_of(kind: str) -> int:
    """Return the level at which a type of event is written."""
    return _LEVELS.get(kind, DEBUG)


class LoggingObserver:
    """Logs events; of unknown errors one line for each class."""

    def __init__(self) -> None:
        self._unknown: set[str] = set()

    def logs(self, kind: str) -> bool:
        """Return whether this type of event would be logged now."""
        level = _LEVELS.get(kind, DEBUG)
        if _known is not None:
            return _known.isEnabledFor(level)
        # No level can have been changed before the module was imported.
        if "logging" not in sys.modules:
            return level >= WARNING
        return _logger().isEnabledFor(level)

    def __call__(self, event: ev.Event) -> None:
        values = {name: getattr(event, name) for name in event.__dataclass_fields__}
        kind = type(event).__name__
        if kind == "UnknownError":
            if values["type_name"] in self._unknown or len(self._unknown) >= _MOST_CLASSES:
                return
            self._unknown.add(values["type_name"])
        said = " ".join(
            f"{name}={_shown(value)}"
            for name, value in values.items()
            if name not in _COMMON and (name not in _LEFT_OUT or _LEFT_OUT[name] != value)
        )
        level = level_of(kind)
        if kind == "TargetBenched" and values["source"] != "local":
            level = INFO  # the process that benched it has the warning
        extra = {"event": kind, **values}
        if event.target:
            _logger().log(level, "%s %s %s", kind, event.target, said, extra=extra)
        else:
            _logger().log(level, "%s %s", kind, said, extra=extra)

    def line(self, text: str, /, *, warning: bool = False) -> None:
        """Log a line that is not an event."""
        _logger().log(WARNING if warning else INFO, "%s", text)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, tuple):  # keys in an order, or problems
        items = cast("tuple[Any, ...]", value)
        if items and isinstance(items[0], ConfigProblem):
            return escaped("; ".join(few(items)))
        return ",".join(map(_shown, items))
    if isinstance(value, Decimal):
        return f"{value:f}"  # and not 1E-7
    if isinstance(value, Usage):
        return ",".join(f"{name}:{tokens}" for name, tokens in tokens_by_part(value).items())
    return escaped(str(value) if isinstance(value, _PLAIN) else f"{value}")


_known: Any = None


def _logger() -> Any:
    global _known  # noqa: PLW0603  # looked up once, because every event needs it
    if _known is None:
        import logging

        _known = logging.getLogger("resilient_llm")
    return _known
