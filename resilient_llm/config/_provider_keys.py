"""Which keys outside of chains belong to providers: those of sections, and ``of`` of budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import parse_key
from resilient_llm._values.limit import OTHERS, TAG
from resilient_llm._values.money import ALL, EACH_KEY
from resilient_llm.config._tree import Table, Written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from resilient_llm.config._tree import Path

_KEYED: Final = ("targets", "breakers", "limits", "prices")
"""Sections whose keys are those of targets and providers."""


class WrittenKey(NamedTuple):
    """The key of a target or a provider.

    Attributes:
        provider: The provider, lower-case, without its account.
        path: Its place.
        written: The text that it is in, if that has variables in it.
    """

    provider: str
    path: Path
    written: str | None


def provider_keys(parts: Mapping[str, Any]) -> Iterator[WrittenKey]:
    """Yield the keys that belong to providers; one that is not allowed has a problem already.

    A key of ``[breakers]`` without a slash may be the name of a guard, and is not among them.

    Args:
        parts: ``{section: what it holds}``
    """
    for section in _KEYED:
        for key in parts[section]:
            if section == "breakers" and "/" not in key:
                continue
            provider = _provider(key.strip(), ())
            if provider is not None:
                yield WrittenKey(provider, (section, key), None)
    for index, budget in enumerate(parts["budgets"]):
        of: Any = budget.get("of") if isinstance(budget, Table) else None
        written = of.text if isinstance(of, Written) else None
        value = of.value if isinstance(of, Written) else of
        provider = _provider(value, (ALL, EACH_KEY)) if isinstance(value, str) else None
        if provider is not None:
            yield WrittenKey(provider, ("budgets", index, "of"), written)


def _provider(key: str, others: tuple[str, ...]) -> str | None:
    if key == OTHERS or key in others or key.startswith(TAG):
        return None
    try:
        return parse_key(key)[0]
    except ConfigurationError:
        return None
