"""Chooses the target of a call that its caller pins, with ``target=`` or ``model=``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values.chain import is_name
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import parse_key
from resilient_llm._values.target import Target

if TYPE_CHECKING:
    from collections.abc import Mapping

PINNING: Final = ("target", "model")
"""Names of the arguments that pin a call."""


def find_target(chain: tuple[Target, ...], name: str, wanted: Any) -> Target:
    """Return the one target that a caller pinned.

    Raises:
        ValueError: If none or more than one is meant; it lists them.
    """
    listed = ", ".join(target.key for target in chain)
    if isinstance(wanted, str) and wanted.startswith("@"):
        shown = wanted if is_name(wanted[1:]) else "@name"  # what is none may be anything
        raise ValueError(
            f"{name}= takes one target, and a name stands for a chain: write "
            f'.using(chain="{shown}"); this chain has {listed}'
        )
    if isinstance(wanted, Target):
        found = [target for target in chain if target.key == wanted.key]
    elif not isinstance(wanted, str):
        raise ValueError(f"{name}= takes a spec or a bare model name of: {listed}")
    else:
        found = [target for target in chain if name == "model" and target.model == wanted.strip()]
        if len(found) != 1:
            found = [target for target in chain if _same_spec(target, wanted)]
    if len(found) != 1:
        raise ValueError(
            f"{name}= names no target of this chain, or more than one: it has {listed}"
        )
    return found[0]


def _same_spec(target: Target, wanted: str) -> bool:
    try:
        provider, account, model = parse_key(wanted)
    except ConfigurationError:
        return False
    if account:
        return target.key == f"{provider}@{account}/{model}"
    return target.spec == f"{provider}/{model}"


class Pins:
    """Takes the arguments that pin a call to one target out of its keyword arguments."""

    __slots__ = ("_chain", "_defaults", "_known", "_names")

    def __init__(self, chain: tuple[Target, ...], defaults: Mapping[str, Any]) -> None:
        """Take ``{name of a parameter that may be filled in: its default}``."""
        self._chain = chain
        self._names = tuple(defaults)
        self._defaults = defaults
        self._known: dict[tuple[str, str], Target] = {}
        """Targets by the argument and the text that named them before."""

    def without(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Target | None]:
        """Return the arguments without those that pin the call, and the target that is meant.

        Raises:
            ValueError: If they name no target of the chain, or two.
        """
        if not self._names or not kwargs:
            return kwargs, None
        rest = dict(kwargs)
        pinned: Target | None = None
        for name in self._names:
            if name not in rest:
                continue
            wanted = rest[name]
            if wanted is None or _same(wanted, self._defaults[name]):
                # Frameworks that call by the signature pass on what the caller left out.
                del rest[name]
            elif name in PINNING:
                del rest[name]
                found = self._found(name, wanted)
                if pinned is not None and found is not pinned:
                    raise ValueError(
                        f"target= and model= name different targets: {pinned.key} and {found.key}"
                    )
                pinned = found
        return rest, pinned

    def _found(self, name: str, wanted: Any) -> Target:
        if type(wanted) is not str:
            return find_target(self._chain, name, wanted)
        found = self._known.get((name, wanted))
        if found is None:
            found = find_target(self._chain, name, wanted)
            if wanted in (found.model, found.spec, found.key):  # other spellings have no end
                self._known[name, wanted] = found
        return found


def _same(wanted: Any, default: Any) -> bool:
    """Return whether an argument is the default; foreign objects are not asked if they are."""
    if wanted is default:
        return True
    return isinstance(wanted, (str, Target)) and type(wanted) is type(default) and wanted == default
