"""`read`: from a path or a mapping to a checked `FileLayer`, or to all problems at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from resilient_llm._values.configuration import InvalidConfigError
from resilient_llm._values.plan import FileLayer
from resilient_llm.config._chains import Chains
from resilient_llm.config._environment import Preparation
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


def read(
    source: Source,
    *,
    providers: Iterable[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    known_names: Iterable[str] = (),
    known_profiles: Iterable[str] = (),
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
        on_tree: Is called with the tree before it is checked. A text with variables of the
            environment is still `Written` there.
        path: Where the file of the source is, for a process that has changed its directory.

    Raises:
        InvalidConfigError: If there are problems; it has all of them.
    """
    name = _name_of(source)
    problems = Problems(name)
    layer: FileLayer | None = None
    try:
        layer = _layer(
            source if path is None else path,
            name,
            problems,
            environ,
            _providers(providers),
            frozenset(known_names),
            frozenset(known_profiles),
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


def _providers(given: Iterable[str] | None) -> frozenset[str] | None:
    if given is None:
        return None
    names = given.split(",") if isinstance(given, str) else given
    return frozenset(each.strip().lower() for each in names)


def _layer(
    source: Any,
    name: str,
    problems: Problems,
    environ: Mapping[str, str],
    providers: frozenset[str] | None,
    known_names: frozenset[str],
    known_profiles: frozenset[str],
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
    chains.check_names(defined | known_names, in_profiles)
    if providers is not None:
        chains.check_providers(providers, provider_keys(parts))
    _check_profile(sections, problems, {*parts["profiles"], *known_profiles}, tree)
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
        profile=sections.profile,
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


def _check_profile(
    sections: Sections, problems: Problems, known: Iterable[str], tree: Table
) -> None:
    """Find that the profile of the process is not defined."""
    profile, names = sections.profile, sorted(known)
    if profile is None or profile in names:
        return
    path = ("settings", "profile")
    there_is = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    there_is = f"there is {there_is}" if names else "none is defined"
    written = tree["settings"]["profile"]
    if not isinstance(written, str):
        problems.add(path, f"profile {described(written)!r} is not defined: {there_is}")
        return
    near = problems.near(profile, names)
    hint = f"; did you mean {near!r}?" if near else ""
    problems.add(path, f"profile {profile!r} is not defined: {there_is}{hint}", suggestion=near)
