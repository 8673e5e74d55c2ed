"""Finds the target that a caller pins a call to with ``target=`` or ``model=``."""

from __future__ import annotations

from typing import Any

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import parse_key
from resilient_llm._values.target import Target


def find_target(chain: tuple[Target, ...], name: str, wanted: Any) -> Target:
    """Return the one target that a caller pinned.

    Raises:
        ValueError: If none or more than one is meant; it lists them.
    """
    listed = ", ".join(target.key for target in chain)
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
