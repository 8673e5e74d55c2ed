"""Names of chains and profiles in the present state: what they stand for, and how code sets them.

The state itself is in `InForce`.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from resilient_llm._runtime.profiles import profile_here
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.chain import checked_name, plan_of
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.names import Expansion, unknown
from resilient_llm._values.plan import Alias, Plan, Profile, Route
from resilient_llm._values.policy import CHECKS, DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._runtime.configuration import Code, InForce, Process
    from resilient_llm._values.plan import FileLayer
    from resilient_llm._values.target import Target


def expanded(
    plan: Plan,
    in_force: InForce,
    profile: str | Process | None,
    choose: Callable[[Route], Plan] | None = None,
    *,
    skips_unknown: bool = False,
) -> tuple[Target, ...]:
    """Return the targets of a plan in a state, each key once.

    Args:
        plan: The plan.
        in_force: The state.
        profile: The profile that holds.
        choose: Which chain a route takes; None for all that it can take.
        skips_unknown: Whether names that are not defined are left out.

    Raises:
        ConfigurationError: If a name is not defined.
    """
    names = in_force.names
    chains = in_force.chains_under(profile)
    return Expansion(chains, names.target, choose, skips_unknown=skips_unknown).targets_of(plan)


def targets_here(chain: Any) -> tuple[Target, ...]:
    """Return the targets of a chain, of routes all that they can choose, for calls that start here.

    Raises:
        ConfigurationError: If the chain is not allowed, or a name is not defined.
    """
    return expanded(plan_of(chain), runtime.in_force, profile_here())


def known_targets(plan: Plan) -> tuple[Target, ...]:
    """Return the same of the process, without names that are not defined."""
    in_force = runtime.in_force
    return expanded(plan, in_force, in_force.profile, skips_unknown=True)


def route_named(name: str) -> Route:
    """Return the route that a name stands for here.

    Raises:
        ConfigurationError: If the name is not defined, or stands for a chain.
    """
    return route_in(runtime.in_force.chains_under(profile_here()), name)


def route_in(chains: Mapping[str, Plan | Route], name: str) -> Route:
    """Return the route that a name stands for.

    Args:
        chains: ``{name: what it stands for}``
        name: The name, without ``@``.

    Raises:
        ConfigurationError: If the name is not defined, or stands for a chain.
    """
    found = chains.get(checked_name(name))
    if found is None:
        raise unknown(name, chains)
    while isinstance(found, Plan) and len(found.entries) == 1:  # a name or a route and nothing else
        entry = found.entries[0]
        if isinstance(entry, Route):
            return entry
        found = chains.get(entry.name) if isinstance(entry, Alias) else None
    if isinstance(found, Route):
        return found
    raise ConfigurationError(f"'@{name}' stands for a chain, which no rule chooses: name a route")


def with_two_sets_of_options(plan: Plan) -> list[str]:
    """Return the keys of a plan to which names give more than one set of options, sorted."""
    in_force = runtime.in_force
    chains = in_force.chains_under(in_force.profile)
    return Expansion(chains, in_force.names.target, skips_unknown=True).with_two_sets(plan)


def names_of(what: str, given: Any) -> dict[str, Plan | Route]:
    """Return ``{name: what it stands for}``, checked.

    Raises:
        ConfigurationError: If a name or what it stands for is not allowed.
    """
    found: dict[str, Plan | Route] = {}
    for name, value in check.mapping(what, given).items():
        checked = checked_name(name)
        try:
            found[checked] = value if isinstance(value, Route) else plan_of(value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{what}[{checked!r}]: {error}") from None
    return found


def _change(change: Callable[[Code], Code]) -> None:
    def changed(was: InForce) -> tuple[Code, FileLayer | None]:
        return change(was.code), was.file

    runtime.change(changed)


def define(names: Mapping[str, Any]) -> None:
    """Add or replace what names stand for, all or none."""
    given = names_of("names", names)
    _change(lambda code: replace(code, chains={**code.chains, **given}))


def remove(names: tuple[str, ...]) -> None:
    """Remove names that code has defined, all or none."""

    def without(code: Code) -> Code:
        for name in map(checked_name, names):
            if name in code.chains:
                continue
            file = runtime.in_force.file
            if file is not None and name in file.names:
                raise ConfigurationError(
                    f"name '@{name}' is defined by the configuration file: remove it there"
                )
            raise unknown(name, code.chains)
        return replace(
            code, chains={name: of for name, of in code.chains.items() if name not in names}
        )

    _change(without)


def profile_of(chains: Any, settings: Any) -> Profile:
    """Return a profile, checked.

    Raises:
        ConfigurationError: If a name, a chain or a setting is not allowed.
    """
    given = check.mapping("settings", {} if settings is None else settings)
    check.unknown_names("settings of a profile", given, DEFAULTS)
    return Profile(
        MappingProxyType(names_of("chains", {} if chains is None else chains)),
        MappingProxyType({name: CHECKS[name](name, value) for name, value in given.items()}),
    )


def define_profile(name: str, chains: Any, settings: Any) -> None:
    """Add or replace a profile."""
    try:
        profile = profile_of(chains, settings)
    except ConfigurationError as error:
        raise ConfigurationError(f"profile {checked_name(name)!r}: {error}") from None
    checked = checked_name(name)
    _change(lambda code: replace(code, profiles={**code.profiles, checked: profile}))
