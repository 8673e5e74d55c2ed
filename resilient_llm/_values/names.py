"""`Names`, what names of chains stand for at one moment, and how a plan is expanded with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.plan import Alias, Plan, Profile, Route, Spec
from resilient_llm._values.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_LONGEST_LOOP: Final = 10
"""Names of a loop that a message shows, at most."""
_MOST_SHOWN: Final = 20
"""Known names that a message lists."""
_NOTHING: Final = MappingProxyType[str, Any]({})


def near(wanted: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like the one that was wanted, if any is."""
    found = get_close_matches(wanted, list(known), 1)
    return found[0] if found else None


def unknown(name: str, known: Iterable[str], what: str = "name") -> ConfigurationError:
    """Return the error for a name that stands for nothing.

    Args:
        name: The name, without ``@``.
        known: Those that exist.
        what: What it is called in the message.
    """
    mark = "@" if what == "name" else ""
    listed = sorted(known)
    close = near(name, listed)
    hint = f"; did you mean '{mark}{close}'?" if close else ""
    more = f" and {len(listed) - _MOST_SHOWN} more" if len(listed) > _MOST_SHOWN else ""
    there_is = ", ".join(f"{mark}{each}" for each in listed[:_MOST_SHOWN])
    there_is = f"there is {there_is}{more}" if listed else "none is defined"
    return ConfigurationError(f"{what} '{mark}{name}' is not defined: {there_is}{hint}")


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """What names stand for at one moment; immutable.

    Attributes:
        chains: ``{name: its plan or route}`` without a profile.
        profiles: ``{name: the profile}``.
        targets: ``{key: {option of Target: value}}`` for specs that are written as text.
    """

    chains: Mapping[str, Plan | Route] = field(default_factory=lambda: _NOTHING)
    profiles: Mapping[str, Profile] = field(default_factory=lambda: _NOTHING)
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _NOTHING)

    def under(self, profile: str | None) -> Mapping[str, Plan | Route]:
        """Return what names stand for under a profile, or without one if it is None."""
        found = None if profile is None else self.profiles.get(profile)
        return self.chains if found is None else {**self.chains, **found.chains}

    def check_loops(self) -> None:
        """Refuse names that stand for themselves, under any profile.

        Raises:
            ConfigurationError: If there are any; it shows the first loop.
        """
        with_chains = sorted(name for name, each in self.profiles.items() if each.chains)
        for profile in (None, *with_chains):
            loop = loop_in(self.under(profile))
            if loop is not None:
                under = "" if profile is None else f" under profile '{profile}'"
                raise ConfigurationError(f"names form a loop{under}: {shown_loop(loop)}")

    def target(self, spec: Spec) -> Target:
        """Return the target of a spec, with the options that a file has for it."""
        options = self.targets.get(spec.target.key)
        return spec.target if options is None else with_options(spec.target, options)


def with_options(target: Target, options: Mapping[str, Any]) -> Target:
    """Return a target without options with those that a file has for it."""
    return Target(target.spec, account=target.account, **options)


def shown_loop(loop: Iterable[str]) -> str:
    """Return a loop as messages show it, a long one without its middle."""
    names = [f"@{each}" for each in loop]
    if len(names) > _LONGEST_LOOP:
        left = len(names) - _LONGEST_LOOP + 1
        names[_LONGEST_LOOP - 2 : -1] = [f"({left} more)"]
    return " → ".join(names)


def loop_in(names: Mapping[str, Plan | Route]) -> list[str] | None:
    """Return names that refer to each other in a circle, the first one again at the end."""
    done: set[str] = set()
    for start in sorted(names):
        path: dict[str, None] = {}
        waiting: list[Iterator[str]] = []
        if start not in done:
            path, waiting = {start: None}, [iter(_referred(names[start]))]
        while waiting:
            name = next(waiting[-1], None)
            if name is None:
                done.add(path.popitem()[0])
                waiting.pop()
            elif name in path:
                named = list(path)
                return [*named[named.index(name) :], name]
            elif name in names and name not in done:
                path[name] = None
                waiting.append(iter(_referred(names[name])))
    return None


def _referred(named: Plan | Route) -> list[str]:
    """Return the names that a plan or a route refers to, in order."""
    found: list[str] = []
    waiting: list[Plan | Route] = [named]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, Route):
            waiting[:0] = [*(rule.plan for rule in each.rules), each.otherwise_plan]
            continue
        for entry in each.entries:
            if isinstance(entry, Alias):
                found.append(entry.name)
            elif isinstance(entry, Route):
                waiting.append(entry)
    return list(dict.fromkeys(found))


def unknown_in(plan: Plan | Route, names: Mapping[str, Plan | Route]) -> list[str]:
    """Return the names that a plan refers to, also through others, and that are not defined."""
    missing: dict[str, None] = {}
    seen: set[str] = set()
    waiting = [plan]
    while waiting:
        for name in _referred(waiting.pop()):
            if name in seen:
                continue
            seen.add(name)
            if name in names:
                waiting.append(names[name])
            else:
                missing[name] = None
    return list(missing)


class Expansion:
    """Finds the targets of a plan.

    Args:
        names: What names stand for.
        target_of: Gives a spec the options that a file has for it.
        choose: Which chain a route takes; None for all that it can take.
        skips_unknown: Whether names that are not defined are left out.
    """

    def __init__(
        self,
        names: Mapping[str, Plan | Route],
        target_of: Callable[[Spec], Target],
        choose: Callable[[Route], Plan] | None = None,
        *,
        skips_unknown: bool = False,
    ) -> None:
        self._names = names
        self._target_of = target_of
        self._choose = choose
        self._skips_unknown = skips_unknown
        self._seen: set[str] = set()
        """Names that were expanded: once more, they would give the same targets."""

    def targets_of(self, plan: Plan) -> tuple[Target, ...]:
        """Return the targets of a plan in order, each key once.

        If two entries give one key other options, those of a `Target` in the plan itself count,
        else those of the first.

        Raises:
            ConfigurationError: If a name is not defined.
        """
        self._seen.clear()
        own = {each.key: each for each in plan.entries if isinstance(each, Target)}
        found: dict[str, Target] = {}
        for target in self._each(plan):
            found.setdefault(target.key, own.get(target.key, target))
        return plan.ordered(tuple(found.values()))

    def with_two_sets(self, plan: Plan) -> list[str]:
        """Return the keys to which names give more than one set of options, sorted.

        Those of which the plan itself has a `Target` are left out, since that is meant to win.
        """
        self._seen.clear()
        own = {each.key for each in plan.entries if isinstance(each, Target)}
        first: dict[str, Target] = {}
        found = {
            target.key
            for target in self._each(plan)
            if target.key not in own and first.setdefault(target.key, target) != target
        }
        return sorted(found)

    def _each(self, plan: Plan) -> Iterator[Target]:
        # Without recursion, since names may refer to each other in a long line. Loops were refused
        # when they were defined.
        waiting: list[Iterator[Target | Spec | Alias | Route]] = [iter(plan.entries)]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
            elif isinstance(entry, Target):
                yield entry
            elif isinstance(entry, Spec):
                yield self._target_of(entry)
            elif isinstance(entry, Route):
                waiting.append(iter(self._chosen(entry)))
            elif entry.name not in self._seen:
                self._seen.add(entry.name)
                named = self._names.get(entry.name)
                if named is not None:
                    found = self._chosen(named) if isinstance(named, Route) else named.entries
                    waiting.append(iter(found))
                elif not self._skips_unknown:
                    raise unknown(entry.name, self._names)

    def _chosen(self, route: Route) -> Sequence[Target | Spec | Alias | Route]:
        """Return the entries of the chain that a route takes, or of all that it can take."""
        if self._choose is not None:
            return self._choose(route).entries
        plans = [*(rule.plan for rule in route.rules), route.otherwise_plan]
        return [entry for plan in plans for entry in plan.entries]
