"""What ``configure`` takes about the store that processes share, besides the store."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from resilient_llm._values import checks as check
from resilient_llm._values.amounts import shown
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OnStoreDown = Literal["local", "refuse"]


class StateOptions(TypedDict, total=False):
    """Options of a store that a URL names; None is the default again."""

    namespace: str | None
    poll: float | None
    on_corrupt: Literal["replace", "refuse"] | None


STATE_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {"namespace": "resilient_llm", "poll": 1.0, "on_corrupt": "replace"}
)
"""``{option: what holds without it}``"""

_LONGEST_NAME: Final = 200
_LONGEST_SHOWN: Final = 40


def _namespace(value: Any) -> str:
    from resilient_llm._values.sharing import namespace_of  # few processes need it

    return namespace_of(value)


_CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    "namespace": _namespace,
    "poll": lambda value: check.number("poll", value, low=0.1, high=60.0),
    "on_corrupt": lambda value: check.choice("on_corrupt", value, ("replace", "refuse")),
}


def merged_state_options(before: Mapping[str, Any], given: Any) -> Mapping[str, Any]:
    """Return options with changes merged by name; None is the default again, of one or of all.

    Raises:
        ConfigurationError: If a name is unknown or a value is not allowed.
    """
    if given is None:
        return STATE_OPTIONS
    merged = dict(before)
    for name, value in check.mapping("state_options", given).items():
        if name not in STATE_OPTIONS:
            raise ConfigurationError(
                f"state_options has no {_shown_name(name)}: write {', '.join(STATE_OPTIONS)}"
            )
        merged[name] = STATE_OPTIONS[name] if value is None else _CHECKS[name](value)
    return MappingProxyType(merged)


def _shown_name(name: Any) -> str:
    """Return the name of an option as messages show it; what reads as none may be a secret."""
    is_name = isinstance(name, str) and name.isidentifier() and len(name) <= _LONGEST_SHOWN
    return f"option {name}" if is_name else f"option of that name ({shown(name)})"


def state_name_of(name: str, value: Any) -> str | None:
    """Return what others see as the source of this process's changes; None for the usual name.

    Raises:
        ConfigurationError: If it is no text of 1 to 200 printable characters.
    """
    if value is None:
        return None
    if isinstance(value, str) and 1 <= len(value) <= _LONGEST_NAME and value.isprintable():
        return value
    found = shown(value)
    if isinstance(value, str):  # what it says is not shown
        found = f"a text of {len(value)} characters"
        if value and len(value) <= _LONGEST_NAME:
            found = "a text with characters that cannot be printed"
    raise ConfigurationError(
        f"{name}={found} is not allowed: write 1 to {_LONGEST_NAME} printable characters, or None"
    )
