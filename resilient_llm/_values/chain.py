"""Parses the ``chain=`` that users write into a flat `Plan`: targets, names and routes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import shown
from resilient_llm._values.plan import Alias, Plan, Route, Spec
from resilient_llm._values.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

Link = str | Target | Route | Callable[..., Any]
"""One entry of a chain; a policy is one as well, since it can be called."""

Chain = Link | Iterable[Link | Iterable[Link]]
"""What ``chain=`` takes: an entry, or entries in order, also in groups."""

ALLOWED = (
    "write 'provider/model', '@name', a comma-separated text of these, a Target, "
    "a module-level function, a route, or a sequence of them"
)

_DEEPEST: Final = 50
"""How many sequences may be in one another."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


def is_name(text: str) -> bool:
    """Return whether a text may be the name of a chain, without ``@``."""
    return _NAME.fullmatch(text) is not None


def checked_name(name: object) -> str:
    """Return a name of a chain, without ``@``.

    Raises:
        ConfigurationError: If it is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        said = shown(name) if isinstance(name, str) else f"of type {type(name).__name__}"
        if isinstance(name, str) and _NAME.fullmatch(name[1:]) and name[0] == "@":
            raise ConfigurationError(f"name {said} is not allowed: write {name[1:]!r}, without '@'")
        raise ConfigurationError(
            f"name {said} is not allowed: write 1 to 100 of the characters A-Z a-z 0-9 . _ / -, "
            "a letter or digit first, without '@'"
        )
    return name


def plan_of(chain: Any) -> Plan:
    """Return a chain parsed and flattened, equal entries once.

    Raises:
        ConfigurationError: If an entry is of a type that a chain cannot hold, if one spec has
            two different sets of options, or if nothing is left.
    """
    if isinstance(chain, Plan):
        return chain
    if inspect.isfunction(chain):
        raise ConfigurationError(
            f"{chain.__name__} is not a chain: write @failover(chain=['provider/model', …])"
        )
    found: dict[Any, Target | Spec | Alias | Route] = {}
    for entry in _flat(chain):
        target = entry.target if isinstance(entry, Spec) else entry
        if not isinstance(target, Target):
            found.setdefault(entry, entry)
            continue
        known = found.setdefault(target.key, entry)
        if (known.target if isinstance(known, Spec) else known) != target:
            raise ConfigurationError(
                f"chain has {target.key!r} twice with different options: "
                "give one of them an account of its own"
            )
    if not found:
        raise ConfigurationError(f"chain is empty: {ALLOWED}")
    return Plan(tuple(found.values()))


def targets_of(chain: Any) -> tuple[Target, ...]:
    """Return the targets of a chain that holds neither names nor routes.

    Raises:
        ConfigurationError: If it does, and as `plan_of`.
    """
    plan = plan_of(chain)
    if plan.is_late:
        raise ConfigurationError("chain holds a name or a route, which only calls look up")
    return plan.targets


def _flat(chain: Any, depth: int = 0) -> Iterator[Target | Spec | Alias | Route]:
    if depth > _DEEPEST:
        raise ConfigurationError(f"chain holds itself, or sequences too deep in another: {ALLOWED}")
    if isinstance(chain, (Target, Route)):
        yield chain
    elif isinstance(chain, str):
        for spec in chain.split(",") if chain.strip() else ():
            if not spec.strip():
                raise ConfigurationError(f"chain {shown(chain)} has a blank entry: {ALLOWED}")
            yield _of_text(spec.strip())
    elif inspect.isroutine(chain) or inspect.isclass(chain):
        yield _of_function(chain)
    elif isinstance(getattr(chain, "_plan", None), Plan):  # a policy
        yield from chain._plan.entries
    elif isinstance(chain, Iterable) and not isinstance(chain, (bytes, Mapping)):
        _refuse_pair(chain)
        for entry in chain:  # pyright: ignore[reportUnknownVariableType]  # users' input
            if isinstance(entry, str) and not entry.strip():
                raise ConfigurationError(f"chain has a blank entry: {ALLOWED}")
            yield from _flat(entry, depth + 1)
    else:
        advice = _ADVICE_ON_OBJECTS if _may_be_client(chain) else ""  # pyright: ignore[reportUnknownArgumentType]  # users' input
        raise ConfigurationError(f"chain entry {_shown(chain)} is not allowed: {ALLOWED}{advice}")  # pyright: ignore[reportUnknownArgumentType]  # users' input


def _of_text(text: str) -> Spec | Alias:
    if text.startswith("@"):
        return Alias(checked_name(text[1:]))
    return Spec(_of_spec(text))


def _refuse_pair(chain: Any) -> None:
    """Refuse a provider and a model that were written as two entries."""
    if isinstance(chain, (tuple, list)) and len(chain) == 2:  # pyright: ignore[reportUnknownArgumentType]  # users' input
        first, second = chain  # pyright: ignore[reportUnknownVariableType]  # users' input
        if all(isinstance(each, str) and each.strip().isidentifier() for each in (first, second)):  # pyright: ignore[reportUnknownVariableType]  # users' input
            raise ConfigurationError(
                f"chain entry {first!r} names no model: did you mean '{first}/{second}'?"
            )


_ADVICE_ON_OBJECTS: Final = (
    "; a chain has the names of models, and the decorated function chooses the client, "
    "for example by clients[target.provider]; a function for one entry is "
    "Target('provider/model', call=…)"
)


def _may_be_client(entry: object) -> bool:
    """Return whether an entry is an object of a library, or holds such objects by name."""
    return isinstance(entry, Mapping) or type(entry).__module__ != "builtins"


def _shown(entry: object) -> str:
    kind = type(entry).__name__
    return (
        f"{entry!r} ({kind})"
        if isinstance(entry, (int, float, bytes)) or entry is None
        else f"of type {kind}"
    )


def _of_spec(spec: str) -> Target:
    try:
        return Target(spec)
    except ConfigurationError as error:
        raise ConfigurationError(f"chain entry {shown(spec)}: {error}") from None


def _of_function(entry: Any) -> Target:
    name = getattr(entry, "__qualname__", "")
    if not inspect.isfunction(entry) or "<" in name or "." in name:
        shown = name or type(entry).__name__
        raise ConfigurationError(
            f"chain entry {shown} has no stable name: only module-level functions may stand alone; "
            "write Target('provider/model', call=…)"
        )
    # Its own provider, because a connection error of one function says nothing about others.
    return Target(f"{entry.__module__}.{name}/call", call=entry)
