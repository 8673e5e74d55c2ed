"""`select`: which policy a ``model=`` stands for. Pure: no state, no SDK."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import shown
from resilient_llm._values.target import Target

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

OMITTED: Final = object()
"""Stands for a ``model=`` that a call does not have."""
AUTO: Final = "auto"
_MOST_SHOWN: Final = 20


class Selection(NamedTuple):
    """The policy of a call.

    Attributes:
        kind: ``"chain"``, ``"alias"``, ``"leading"`` or ``"only"``.
        value: Nothing, the name of a chain with ``@``, the model whose targets lead, or the
            targets that are called, in order.
    """

    kind: str
    value: Any = None

    @property
    def is_pinned(self) -> bool:
        """Whether only one target can be called."""
        return self.kind == "only" and len(self.value) == 1


CHAIN: Final = Selection("chain")


def select(model: Any, targets: Sequence[Target], clients: Collection[str]) -> Selection:
    """Return what a ``model=`` of a completion stands for.

    Args:
        model: What the caller passed, or `OMITTED`.
        targets: Those of the chain.
        clients: Keys of providers that have a client.

    Raises:
        ValueError: If it stands for nothing; the message lists what it may be.
    """
    if model is OMITTED or model == AUTO:
        return CHAIN
    if isinstance(model, str):
        if model.startswith("@"):
            return Selection("alias", model)
        if any(target.model == model for target in targets):
            return Selection("leading", model)
        pinned = _pinned(model, targets, clients)
        if pinned is not None:
            return pinned
    raise _unknown(model, [AUTO, *_names(targets)], "'@name' or a spec with a client")


def select_embedding(model: Any, targets: Sequence[Target], clients: Sequence[str]) -> Selection:
    """Return the same for an embedding, which never changes its model: vectors do not mix.

    Raises:
        ValueError: If it names no model.
    """
    if isinstance(model, str) and model.strip() and model != AUTO and not model.startswith("@"):
        own = tuple(target for target in targets if target.model == model)
        if own:
            return Selection("only", own)
        pinned = _pinned(model, targets, clients)
        if pinned is not None:
            return pinned
        if "/" not in model:
            return Selection("only", (Target(f"{clients[0]}/{model}"),))
    raise _unknown(model, [], "the name of a model, or a spec with a client, for embeddings")


def _pinned(model: str, targets: Sequence[Target], clients: Collection[str]) -> Selection | None:
    """Return the target that a spec names, if it has a client."""
    try:
        target = Target(model)
    except ConfigurationError:
        return None
    if target.provider_key not in clients:
        return None
    return Selection("only", (next((each for each in targets if each.key == target.key), target),))


def _names(targets: Sequence[Target]) -> list[str]:
    return list(dict.fromkeys(target.model for target in targets))


def _unknown(model: Any, names: list[str], more: str) -> ValueError:
    if model is OMITTED:
        said = "model is not given"
    elif isinstance(model, str):
        said = f"model={shown(model)}"
    else:
        said = f"model of type {type(model).__name__}"
    listed = [repr(name) for name in names[:_MOST_SHOWN]]
    allowed = ", ".join([*listed, more])
    near = get_close_matches(model, names, 1) if isinstance(model, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{said}: expected {allowed}{hint}")
