"""`read`: from a path or a mapping to a checked `FileLayer`, or to all problems at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from resilient_llm._values.configuration import InvalidConfigError
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import parse_key, shown
from resilient_llm._values.plan import FileLayer
from resilient_llm.config._chains import Chains
from resilient_llm.config._environment import (
    PROFILE_VARIABLE,
    Preparation,
    selected_profile,
)
from resilient_llm.config._parsing import json_tree, toml_tree
from resilient_llm.config._provider_keys import provider_keys
from resilient_llm.config._reader import Reader, plain
from resilient_llm.config._sections import SCHEMA_KEY, SECTIONS, Sections
from resilient_llm.config._source import format_of, text_of
from resilient_llm.config._tree import (
    Items,
    Problems,
    Table,
    UnreadableError,
    cut,
    described,
    key_shown,
)
from resilient_llm.config._yaml import yaml_tree

Source = str | os.PathLike[str] | Mapping[str, Any]

_PARSERS: Final[dict[str, Callable[[str, Problems], Any]]] = {
    "toml": toml_tree,
    "json": json_tree,
    "yaml": yaml_tree,
}

_MOST_SHOWN: Final = 20
"""Known profiles that a message lists."""
_PROVIDERS_ALLOWED: Final = (
    "write a list of names of providers, such as ['groq', 'openai'], or None for any"
)


class _Known(NamedTuple):
    """What code has defined, and the providers that there are.

    Attributes:
        names: Names of chains and routes.
        profiles: Names of profiles.
        has_profile: Whether code has selected the profile of the process.
        providers: Names of providers, lower-case; None for any.
    """

    names: frozenset[str]
    profiles: frozenset[str]
    has_profile: bool
    providers: frozenset[str] | None


def read(
    source: Source,
    *,
    providers: Iterable[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    known_names: Iterable[str] = (),
    known_profiles: Iterable[str] = (),
    has_profile: bool = False,
    on_tree: Callable[[Table], object] | None = None,
    path: str | None = None,
) -> FileLayer:
    """Read and check a configuration; nothing of the process changes.

    Args:
        source: A path, or a mapping of what a file would hold.
        providers: The providers that there are; None for any.
        environ: ``{name of a variable: its value}``
        known_names: Names of chains and routes that code defined.
        known_profiles: Names of profiles that code defined.
        has_profile: Whether code has selected the profile of the process, so that one which the
            environment selects need not exist.
        on_tree: Is called with the tree before it is checked. A text with variables of the
            environment is still `Written` there.
        path: Where the file of the source is, for a process that has changed its directory.

    Raises:
        InvalidConfigError: If there are problems; it has all of them.
        ConfigurationError: If the providers are not allowed.
    """
    listed = checked_providers(providers)
    known = _Known(
        frozenset(known_names),
        frozenset(known_profiles),
        has_profile,
        None if listed is None else frozenset(listed),
    )
    name = _name_of(source)
    problems = Problems(name)
    layer: FileLayer | None = None
    try:
        layer = _layer(
            source if path is None else path,
            name,
            problems,
            environ,
            known,
            on_tree,
        )
    except UnreadableError:
        pass
    if layer is None or problems.found:
        found = problems.found
        # Values of variables, and what was written, do not leave with the frames of the error.
        del source, environ, layer, problems
        raise InvalidConfigError(found)
    return layer


def _name_of(source: object) -> str:
    if isinstance(source, (str, os.PathLike)):
        path: Any = os.fspath(source)  # pyright: ignore[reportUnknownVariableType]
        if isinstance(path, str):
            return path
    return "mapping"


def checked_providers(given: Any) -> tuple[str, ...] | None:
    """Return the names of providers of an application, lower-case; None for any.

    Args:
        given: An iterable of names, a comma-separated text of names, or None.

    Raises:
        ConfigurationError: If it is something else, or has an entry that names no provider.
    """
    if given is None:
        return None
    kind: type[Any] = type(given)  # pyright: ignore[reportUnknownVariableType]  # users' input
    if issubclass(kind, (bytes, bytearray, Mapping)) or not issubclass(kind, Iterable):
        raise ConfigurationError(
            f"providers of type {kind.__name__} is not allowed: {_PROVIDERS_ALLOWED}"
        )
    names: Any = given.split(",") if issubclass(kind, str) else given
    return tuple(_provider(each) for each in names)


def _provider(given: Any) -> str:
    if not isinstance(given, str):
        raise ConfigurationError(
            f"providers has an entry of type {type(given).__name__}: {_PROVIDERS_ALLOWED}"
        )
    try:
        provider, account, model = parse_key(given)
    except ConfigurationError:
        provider, account, model = "", "", ""
    if not provider or account or model:
        name = given.strip()
        said = "is the name of no provider" if name else "is blank"
        raise ConfigurationError(f"providers: {shown(name)} {said}: {_PROVIDERS_ALLOWED}")
    return provider


def _layer(
    source: Any,
    name: str,
    problems: Problems,
    environ: Mapping[str, str],
    known: _Known,
    on_tree: Callable[[Table], object] | None,
) -> FileLayer:
    raw = _tree(source, name, problems)
    tree = Preparation(problems, environ).tree(raw)
    problems.root = raw
    if on_tree is not None:
        on_tree(tree)
    reader = Reader(problems)
    _check_sections(reader, tree)
    parts = {each: _part(reader, tree, each) for each in SECTIONS}
    defined = {*parts["chains"], *parts["routes"]}
    sections, chains = Sections(reader), Chains(reader, defined)
    for each, read_section in (
        ("settings", sections.read_settings),
        ("breakers", sections.read_breakers),
        ("targets", sections.read_targets),
        ("chains", chains.read_chains),
        ("profiles", chains.read_profiles),
        ("routes", chains.read_routes),
        ("limits", sections.read_limits),
        ("budgets", sections.read_budgets),
        ("prices", sections.read_prices),
        ("state", sections.read_state),
    ):
        if each in tree:
            read_section(parts[each])
    in_profiles = {
        profile: each["chains"]
        for profile, each in parts["profiles"].items()
        if isinstance(each, Table) and isinstance(each.get("chains"), Table)
    }
    chains.check_names(defined | known.names, in_profiles)
    if known.providers is not None:
        chains.check_providers(known.providers, provider_keys(parts))
    profiles = sorted({*parts["profiles"], *known.profiles})
    _check_profile(sections, problems, profiles, tree)
    selected = _selected_profile(environ, problems, profiles, known)
    chains.check_loops()
    for each in ("settings", "state", "chains", "profiles", "routes"):
        for key, value in parts[each].items():
            sections.parts[f"{each}.{key}"] = plain(value).value
    return FileLayer(
        source=name,
        settings=MappingProxyType(sections.settings),
        targets=sections.targets,
        names=MappingProxyType(chains.names),
        profiles=MappingProxyType(chains.profiles),
        profile=sections.profile if selected is None else selected,
        parts=MappingProxyType(sections.parts),
    )


def _tree(source: Any, name: str, problems: Problems) -> Any:
    """Return the tree of a source, which is a table."""
    if isinstance(source, Mapping):
        return source  # pyright: ignore[reportUnknownVariableType]
    if name == "mapping":
        raise problems.stop(
            f"a source of type {type(source).__name__} is not allowed: write a path or a mapping"
        )
    kind = format_of(name, problems)
    text = text_of(os.fspath(source), problems)  # pyright: ignore[reportUnknownArgumentType]  # a path
    tree = None if not text.strip() else _PARSERS[kind](text, problems)
    if tree is None or tree == {}:
        raise problems.stop("the file is empty: write at least one section")
    if not isinstance(tree, dict):
        raise problems.stop(f"the file is {described(tree)}: write a table of sections")
    return tree  # pyright: ignore[reportUnknownVariableType]


def _check_sections(reader: Reader, tree: Table) -> None:
    allowed = ", ".join(SECTIONS)
    for name in tree:
        if name in SECTIONS or name == SCHEMA_KEY:
            continue
        near = reader.problems.near(name, SECTIONS)
        hint = f"did you mean {near}? " if near else ""
        reader.problems.add(
            (name,),
            f"there is no section {key_shown(name)}: {hint}allowed are {allowed}",
            allowed=allowed,
            suggestion=near,
        )


def _part(reader: Reader, tree: Table, name: str) -> Any:
    """Return a section, or an empty one with a problem if it is no table."""
    empty = Items() if name == "budgets" else Table()
    if name not in tree:
        return empty
    check = reader.list if name == "budgets" else reader.table
    found = check(tree[name], (name,), name)
    return empty if found is None else found


def _check_profile(sections: Sections, problems: Problems, names: list[str], tree: Table) -> None:
    """Find that the profile that the file selects is not defined."""
    profile = sections.profile
    if profile is None or profile in names:
        return
    path, allowed = ("settings", "profile"), _listed(names)
    there_is = _there_is(allowed)
    written = tree["settings"]["profile"]
    if not isinstance(written, str):
        said = f"profile {described(written)!r} is not defined: {there_is}"
        problems.add(path, said, allowed=allowed)
        return
    near = problems.near(profile, names)
    hint = f"; did you mean {near!r}?" if near else ""
    said = f"profile {profile!r} is not defined: {there_is}{hint}"
    problems.add(path, said, allowed=allowed, suggestion=near)


def _selected_profile(
    environ: Mapping[str, str], problems: Problems, names: list[str], known: _Known
) -> str | None:
    """Return the profile that the environment selects; None if it does not, or with a problem."""
    selected = selected_profile(environ)
    if selected is None or selected in names:
        return selected
    if not known.has_profile:
        allowed = _listed(names)
        said = f"${{{PROFILE_VARIABLE}}} selects a profile that is not defined: "
        problems.add((PROFILE_VARIABLE,), said + _there_is(allowed), allowed=allowed)
    return None


def _listed(names: list[str]) -> str | None:
    """Return the first names as messages show them; None if there are none."""
    if not names:
        return None
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(map(cut, names[:_MOST_SHOWN])) + more


def _there_is(allowed: str | None) -> str:
    return "none is defined" if allowed is None else f"there is {allowed}"
