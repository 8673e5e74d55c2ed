"""What only the process can know about a file: what is in use, what code hides, what differs.

Everything here is called with the runtime's lock held, or with a state that does not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._runtime.chains import living_plans
from resilient_llm._runtime.configuration import merged_names, profile_of
from resilient_llm._runtime.profiles import open_blocks
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.keys import shown
from resilient_llm._values.names import loop_in, shown_loop, unknown_in
from resilient_llm.config._environment import PROFILE_VARIABLE
from resilient_llm.config._options import STATE_NAMES
from resilient_llm.config._tree import Problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resilient_llm._runtime.configuration import Code, InForce
    from resilient_llm._values.configuration import ConfigProblem
    from resilient_llm._values.names import Names
    from resilient_llm._values.plan import FileLayer, Plan, Profile, Route

_MOST_USERS: Final = 3
"""Users of a name that a message lists."""
STORE_OF_LIMITS: Final = (
    "a store in Redis or Valkey that all processes share: write one into the section state, or "
    "give each process its part of the limit"
)
_PROFILE: Final = "settings.profile"
_NAMED: Final = ("chains", "routes", "profiles")
_KEYED: Final = ("limits", "prices")
"""Options of `configure` that have one value for each key."""


def problems_in_process(was: InForce, layer: FileLayer) -> list[ConfigProblem]:
    """Return why a file cannot take the place of the one that is loaded, or of none.

    Args:
        was: What is in force.
        layer: The file, which has no problems of its own.
    """
    problems = Problems(layer.source)
    names = merged_names(was.code, layer)
    _find_loops(names, layer, problems)
    if was.file is not None:
        _find_removed_names(was, names, problems)
        _find_removed_profiles(was, names, problems)
        _find_changed_state(was.file, layer, problems)
    _find_shared_limits(was.code, layer, problems)
    return problems.found


def _find_loops(names: Names, layer: FileLayer, problems: Problems) -> None:
    """Find that names of the file and of code stand for themselves."""
    for profile in (None, *sorted(names.profiles)):
        loop = loop_in(names.under(profile))
        if loop is None:
            continue
        here = next((each for each in loop if each in layer.names), None)
        path = () if here is None else (_section_of(layer, here), here)
        under = "" if profile is None else f" under profile '{profile}'"
        said = f"names of the file and of code form a loop{under}: {shown_loop(loop)}"
        problems.add(path, said)
        return


def _find_removed_names(was: InForce, names: Names, problems: Problems) -> None:
    """Find that names are gone which policies or code use, also through other names."""
    assert was.file is not None
    users: list[tuple[str, Plan | Route]] | None = None
    told: set[str] = set()
    for profile in (None, *sorted(was.names.profiles.keys() & names.profiles.keys())):
        after = names.under(profile)
        gone = was.names.under(profile).keys() - after.keys()
        if not gone:
            continue
        users = _users(was.code) if users is None else users
        used_by: dict[str, list[str]] = {}
        for user, plan in users:
            for name in unknown_in(plan, after):
                if name in gone:
                    used_by.setdefault(name, []).append(user)
        for name in sorted(used_by.keys() - told):
            told.add(name)
            path = (
                (_section_of(was.file, name), name)
                if name in was.file.names
                else ("profiles", str(profile), "chains", name)
            )
            problems.add(
                path,
                f"the name '@{name}' is not defined any more, and it is used by "
                f"{_listed(used_by[name])}: keep it, or define it in code first",
            )


def _users(code: Code) -> list[tuple[str, Plan | Route]]:
    """Return what uses names and is not in the file: ``(what it is called, its chain)``."""
    defined = [
        (f"the name '@{name}' of chains.define", of) for name, of in sorted(code.chains.items())
    ]
    in_profiles = [
        (f"the profile '{profile}' of chains.define_profile", of)
        for profile, each in sorted(code.profiles.items())
        for of in each.chains.values()
    ]
    return [*sorted(living_plans(), key=lambda user: user[0]), *defined, *in_profiles]


def _listed(users: list[str]) -> str:
    different = list(dict.fromkeys(users))
    rest = len(different) - _MOST_USERS
    return ", ".join(different[:_MOST_USERS]) + (f" and {rest} more" if rest > 0 else "")


def _find_removed_profiles(was: InForce, names: Names, problems: Problems) -> None:
    """Find that profiles are gone which code has selected, or blocks."""
    for profile in sorted(was.names.profiles.keys() - names.profiles.keys()):
        if profile == was.code.profile:
            user = "configure(profile=…) has selected it"
        elif profile in list(open_blocks.values()):
            user = "a block of chains.profile has it"
        else:
            continue
        problems.add(
            ("profiles", profile),
            f"the profile '{profile}' is not defined any more, and {user}: keep it, or define it "
            "in code first",
        )


def _find_changed_state(was: FileLayer, layer: FileLayer, problems: Problems) -> None:
    """Find another ``[state]``: a process that serves calls cannot change its store."""
    for part in sorted(was.parts.keys() | layer.parts.keys()):
        section, _, option = part.partition(".")
        if section == "state" and not _is_same(was.parts.get(part), layer.parts.get(part)):
            problems.add(
                ("state", option),
                "the section state has changed, which a reload cannot do: start the process "
                "again, or take the change back",
            )


def _find_shared_limits(code: Code, layer: FileLayer, problems: Problems) -> None:
    """Find limits of all processes together without a store; a bad kind of store shows later."""
    shared = [key for key, limit in layer.settings.get("limits", {}).items() if limit.shared]
    has_store = layer.settings.get("state") or code.settings.state or runtime.state_given
    if has_store:
        return
    for key in shared:
        if key not in code.settings.limits:
            problems.add(
                ("limits", key, "shared"),
                f"a limit with shared = true needs {STORE_OF_LIMITS}",
            )


def _section_of(layer: FileLayer, name: str) -> str:
    return "routes" if f"routes.{name}" in layer.parts else "chains"


# What differs.


def changes(was: FileLayer, layer: FileLayer) -> tuple[str, ...]:
    """Return what differs between two states of a file, such as ``("chains.fast",)``, sorted."""
    found = {
        part
        for part in was.parts.keys() | layer.parts.keys()
        if not _is_same(was.parts.get(part), layer.parts.get(part))
        or (part in was.parts) is not (part in layer.parts)
    }
    if was.profile != layer.profile:  # a variable of the environment may have selected it
        found.add(_PROFILE)
    return tuple(sorted(found))


def _is_same(first: Any, second: Any) -> bool:
    """Return whether two plain values are the same, 1 and ``true`` not."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            _is_same(first[key], second[key])
            for key in first  # pyright: ignore[reportUnknownVariableType]  # of the file
        )
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_is_same, first, second))  # pyright: ignore[reportUnknownArgumentType]  # as above
    return bool(first == second)


# What code and profiles hide.


def without_effect(
    code: Code, was: FileLayer, layer: FileLayer, changed: tuple[str, ...]
) -> list[str]:
    """Return why some of what a reload has changed has no effect in this process, sorted.

    Args:
        code: What code has set.
        was: The file as it was in force.
        layer: The file as it is now.
        changed: What differs, as `changes` returns it.
    """
    selected = profile_of(code, layer)
    profile = (
        None if selected is None else code.profiles.get(selected, layer.profiles.get(selected))
    )
    hidden = {*_hidden(code, was), *_hidden(code, layer)}
    found: list[str] = []
    for part in changed:
        section, _, name = part.partition(".")
        if profile is not None and _is_in(profile, section, name):
            found.append(f"{part} has no effect, since the profile {shown(selected)} has it")
        elif part in hidden or (part == _PROFILE and code.profile is not None):
            verb = "defines" if section in _NAMED else "sets"
            found.append(f"{part} has no effect, since code {verb} it")
        elif part == _PROFILE and was.profile == layer.profile:
            found.append(f"{part} has no effect, since {PROFILE_VARIABLE} selects a profile")
        elif section == "breakers":
            options = _different(was.parts.get(part), layer.parts.get(part))
            found += [
                f"{part}.{option} has no effect, since code sets it"
                for option in options
                if f"{part}.{option}" in hidden
            ]
    return found


def _is_in(profile: Profile, section: str, name: str) -> bool:
    """Return whether a profile replaces this entry of a file."""
    if section in ("chains", "routes"):
        return name in profile.chains
    return section == "settings" and name in profile.settings


def _different(first: Any, second: Any) -> list[str]:
    """Return the options of two tables that differ, sorted; None stands for an empty one."""
    before: dict[str, Any] = first or {}
    after: dict[str, Any] = second or {}
    names = {*before, *after}
    return sorted(name for name in names if not _is_same(before.get(name), after.get(name)))


def shadowed(code: Code, file: FileLayer) -> tuple[str, ...]:
    """Return what the file says and code hides, sorted."""
    return tuple(sorted(_hidden(code, file)))


def _hidden(code: Code, file: FileLayer) -> Iterator[str]:
    options = {option: name for name, option in STATE_NAMES.items()}
    for name in file.settings.keys() & code.named:
        if name == "budgets":
            yield name
        elif name == "state_options":
            yield from (f"state.{option}" for option in file.settings[name])
        elif name in options:
            yield f"state.{options[name]}"
        else:
            yield f"settings.{name}"
    if code.profile is not None and _PROFILE in file.parts:
        yield _PROFILE
    for name in file.names.keys() & code.chains.keys():
        yield f"{_section_of(file, name)}.{name}"
    for name in file.profiles.keys() & code.profiles.keys():
        yield f"profiles.{name}"
    for option in _KEYED:
        above = getattr(code.settings, option)
        yield from (f"{option}.{key}" for key in file.settings.get(option, {}) if key in above)
    for key, written in file.settings.get("breakers", {}).items():
        for option in written.keys() & code.settings.breakers.get(key, {}).keys():
            yield f"breakers.{key}.{option}"
