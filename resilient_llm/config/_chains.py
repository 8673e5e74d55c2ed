"""Reads chains, routes and profiles, and checks that all names in them are defined.

The work is bounded: a file of 256 KiB may have ten thousand names, and as many profiles.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._values.chain import ALLOWED, checked_name, plan_of
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import shown
from resilient_llm._values.names import _referred, shown_loop
from resilient_llm._values.plan import Alias, Plan, Profile, Route, Rule, Spec
from resilient_llm._values.route import route_of
from resilient_llm.config._default_options import PROFILE as PROFILE_OPTIONS
from resilient_llm.config._options import (
    CONDITIONS,
    MESSAGES,
    MOST_PATTERNS,
    MOST_RULES,
)
from resilient_llm.config._reader import NOTHING
from resilient_llm.config._syntax_hints import QUOTED_KEY
from resilient_llm.config._tree import Items, Table, Written, as_written, cut, described

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from resilient_llm.config._provider_keys import WrittenKey
    from resilient_llm.config._reader import Reader
    from resilient_llm.config._tree import Path

MOST_ENTRIES: Final = 10_000
"""Specs and names in all chains of one file."""
CHAIN_ALLOWED: Final = (
    "'provider/model', '@name', a comma-separated text of these, or a list of them"
)
_MOST_SHOWN: Final = 20
"""Known names that a message lists."""
_MOST_LOOPS: Final = 20
_MOST_STEPS: Final = 200_000
"""Names that are looked up to find the loops of all profiles."""
ROUTE: Final = ("otherwise", "messages", "rules")
PROFILE: Final = ("chains", "settings")
_NO_FUNCTION: Final = {
    "where": "where is a function, which cannot be written in a file: write the route in code"
}
_NO_TOKENS: Final = {
    "tokens": "tokens is a function, which cannot be written in a file: write the route in code"
}


class _Use(NamedTuple):
    """A spec or name in a chain.

    Attributes:
        entry: It.
        path: Its place.
        written: The text that it is in, if that has variables in it.
        profile: The profile whose chain it is, or None.
    """

    entry: Any
    path: Path
    written: str | None
    profile: str | None


class Chains:
    """The chains, routes and profiles of one file.

    Args:
        reader: Checks options.
        defined: Names of chains and routes in the file, which a spec may be mistaken for.
    """

    def __init__(self, reader: Reader, defined: Iterable[str]) -> None:
        self._reader = reader
        self._problems = reader.problems
        self._defined = frozenset(defined)
        self._uses: list[_Use] = []
        self._parsed: dict[str, tuple[Any, ...]] = {}
        self._entries = 0
        self._rule_count = 0
        self._patterns = 0
        self._profile: str | None = None
        """The profile that is being read."""
        self.names: dict[str, Plan | Route] = {}
        self.profiles: dict[str, Profile] = {}
        self.places: dict[str, Path] = {}

    # Chains.

    def read_chains(self, node: Table) -> None:
        """Read ``[chains]``."""
        for name, chain in node.items():
            path = ("chains", name)
            plan = self.plan(chain, path, "chain")
            if self._is_name(name, path) and plan is not None:
                self.names[name] = plan
                self.places[name] = path

    def plan(self, node: Any, path: Path, what: str) -> Plan | None:
        """Return a chain parsed, or None with a problem."""
        if isinstance(node, (str, Written)):
            entries = self._of_text(node, path, what)
        elif isinstance(node, Items):
            entries = self._of_list(node, path, what)
        else:
            hint = f"; {QUOTED_KEY}" if isinstance(node, Table) and self._problems.is_toml else ""
            said = f"{what} is {described(node)}: write {CHAIN_ALLOWED}{hint}"
            self._problems.add(path, said, allowed=CHAIN_ALLOWED)
            return None
        return None if entries is None else Plan(tuple(dict.fromkeys(entries)))

    def _of_list(self, node: Items, path: Path, what: str) -> list[Any] | None:
        if not node:
            self._problems.add(
                path, f"{what} is empty: write {CHAIN_ALLOWED}", allowed=CHAIN_ALLOWED
            )
            return None
        pair = self._mistaken_pair(node)
        if pair is not None:
            self._problems.add(path, pair[0], allowed=CHAIN_ALLOWED, suggestion=pair[1])
            return None
        found: list[Any] = []
        is_fine = True
        for index, each in enumerate(node):
            place = (*path, index)
            if isinstance(each, (str, Written)):
                entries = self._of_text(each, place, what)
            else:
                self._problems.add(
                    place,
                    f"entry of the {what} is {described(each)}: write 'provider/model' or '@name'",
                    allowed="'provider/model' or '@name'",
                )
                entries = None
            is_fine = is_fine and entries is not None
            found += entries or ()
        return found if is_fine else None

    def _mistaken_pair(self, node: Items) -> tuple[str, str] | None:
        """Return what to say about a provider and a model that were written as two entries."""
        if len(node) != 2 or not all(isinstance(each, str) for each in node):
            return None
        first, second = (each.strip() for each in node)
        if not (first.isidentifier() and second.isidentifier()):
            return None
        if self._defined & {first, second}:
            return None
        meant = f"{first}/{second}"
        return f"chain entry {shown(first)} names no model: did you mean {shown(meant)}?", meant

    def _of_text(self, node: str | Written, path: Path, what: str) -> Sequence[Any] | None:
        text = node.value if isinstance(node, Written) else node
        if text is None:
            return None
        written = node.text if isinstance(node, Written) else None
        # Of an alias in YAML, too: it may stand for a long text in many places.
        self._entries += text.count(",") + 1
        if self._entries > MOST_ENTRIES:
            raise self._problems.stop(
                f"chains have more than {MOST_ENTRIES:,} entries, which is the most allowed"
            )
        entries = self._parsed.get(text)
        if entries is None:
            try:
                entries = self._parsed[text] = plan_of(text).entries
            except ConfigurationError as error:
                self._refuse(text, written, path, what, str(error))
                return None
        self._uses += [_Use(each, path, written, self._profile) for each in entries]
        return entries

    def _refuse(self, text: str, written: str | None, path: Path, what: str, said: str) -> None:
        allowed = f"write {CHAIN_ALLOWED}"
        if written is not None:
            self._problems.add(
                path,
                f"{what} {cut(written)!r} has a value that is not allowed: {allowed}",
                allowed=CHAIN_ALLOWED,
            )
            return
        meant = f"@{text.strip()}" if text.strip() in self._defined else None
        if not text.strip() and isinstance(path[-1], int):
            said = f"chain has a blank entry: {allowed}"
        if meant:
            said = f"{what} {shown(text)} names no model: did you mean {shown(meant)}?"
        self._problems.add(
            path, said.replace(ALLOWED, allowed), allowed=CHAIN_ALLOWED, suggestion=meant
        )

    def _is_name(self, name: str, path: Path) -> bool:
        try:
            checked_name(name)
        except ConfigurationError as error:
            self._problems.add(path, str(error))
            return False
        return True

    # Routes.

    def read_routes(self, node: Table) -> None:
        """Read ``[routes]``; chains were read before."""
        for name, each in node.items():
            path = ("routes", name)
            is_name = self._is_name(name, path)
            route = self._route(each, path)
            if name in self.places:
                self._problems.add(
                    path,
                    f"a chain has the name {shown(name)} as well: give one of them another one",
                )
            elif is_name and route is not None:
                self.names[name] = route
                self.places[name] = path

    def _route(self, node: Any, path: Path) -> Route | None:
        table = self._reader.table(node, path, "route")
        if table is None:
            return None
        is_fine = self._reader.check_names(
            table, dict.fromkeys(ROUTE), path, "route", _NO_TOKENS
        )  # fmt: skip
        messages: Any = None
        if "messages" in table:
            place = (*path, "messages")
            messages = self._reader.value(MESSAGES, "messages", table["messages"], place)
        rules = self._rules(table.get("rules", Items()), (*path, "rules"))
        if "otherwise" not in table:
            self._problems.add(
                path, "route has no otherwise: write the chain for calls that no rule matches"
            )
            return None
        otherwise = self.plan(table["otherwise"], (*path, "otherwise"), "otherwise")
        if not is_fine or messages is NOTHING or rules is None or otherwise is None:
            return None
        written = as_written(table["otherwise"])
        built = self._reader.built(
            lambda: route_of(rules, written, messages, plan=otherwise), path, table
        )
        return None if built is NOTHING else built

    def _rules(self, node: Any, path: Path) -> list[Rule] | None:
        listed = self._reader.list(node, path, "rules")
        if listed is None:
            return None
        found = [self._rule(each, (*path, index)) for index, each in enumerate(listed)]
        rules = [each for each in found if each is not None]
        return rules if len(rules) == len(found) else None

    def _rule(self, node: Any, path: Path) -> Rule | None:
        table = self._reader.table(node, path, "rule")
        if table is None:
            return None
        known = {"chain": None, **CONDITIONS}
        is_fine = self._reader.check_names(table, known, path, "rule", _NO_FUNCTION)
        if "chain" not in table:
            self._problems.add(path, "rule has no chain: write the chain that it chooses")
        conditions = Table((name, each) for name, each in table.items() if name in CONDITIONS)
        self._count(conditions)
        checked = self._reader.options(conditions, CONDITIONS, path, "rule")
        if not conditions and is_fine:
            self._problems.add(
                path, f"rule has no condition: write one or more of {', '.join(CONDITIONS)}"
            )
        if "chain" not in table:
            return None
        plan = self.plan(table["chain"], (*path, "chain"), "chain")
        if plan is None or not checked or not is_fine:
            return None
        chain, written = as_written(table["chain"]), _with_variables(conditions)
        # What is left to go wrong is a pattern, or the package for it.
        place = (*path, "regex") if "regex" in checked else path
        node = table.get("regex", table)
        built = self._reader.built(
            lambda: Rule(chain, plan, checked, written), place, node, CONDITIONS["regex"].allowed
        )
        return None if built is NOTHING else built

    def _count(self, conditions: Table) -> None:
        """Stop if rules would take too long, or their patterns too much memory."""
        self._rule_count += 1
        self._patterns += "regex" in conditions
        if self._rule_count > MOST_RULES or self._patterns > MOST_PATTERNS:
            most = f"{MOST_RULES:,} rules"
            if self._patterns > MOST_PATTERNS:
                most = f"{MOST_PATTERNS} conditions 'regex'"
            raise self._problems.stop(f"routes have more than {most}, which is the most allowed")

    # Profiles.

    def read_profiles(self, node: Table) -> None:
        """Read ``[profiles]``."""
        for name, each in node.items():
            path = ("profiles", name)
            is_name = self._is_name(name, path)
            self._profile = name
            profile = self._profile_of(each, path)
            self._profile = None
            if is_name and profile is not None:
                self.profiles[name] = profile

    def _profile_of(self, node: Any, path: Path) -> Profile | None:
        table = self._reader.table(node, path, "profile")
        if table is None:
            return None
        is_fine = self._reader.check_names(table, dict.fromkeys(PROFILE), path, "profile")
        chains: dict[str, Plan | Route] = {}
        place = (*path, "chains")
        named = self._reader.table(table.get("chains", Table()), place, "chains")
        for name, chain in (Table() if named is None else named).items():
            plan = self.plan(chain, (*place, name), "chain")
            if self._is_name(name, (*place, name)) and plan is not None:
                chains[name] = plan
        place = (*path, "settings")
        given = self._reader.table(table.get("settings", Table()), place, "settings")
        options = (
            None
            if given is None
            else self._reader.options(given, PROFILE_OPTIONS, place, "settings")
        )
        if not is_fine or named is None or options is None:
            return None
        return Profile(MappingProxyType(chains), MappingProxyType(options))

    # Checks across all of them.

    def check_names(self, known: Iterable[str], in_profiles: Mapping[str, Iterable[str]]) -> None:
        """Find names that are not defined.

        Args:
            known: Names of the file, also those that have problems, and names of code.
            in_profiles: ``{profile: names that it defines}``
        """
        names = frozenset(known)
        listed = sorted(names)
        more = f" and {len(listed) - _MOST_SHOWN} more" if len(listed) > _MOST_SHOWN else ""
        there_is = ", ".join(f"@{cut(each)}" for each in listed[:_MOST_SHOWN]) + more
        there_is = f"there is {there_is}" if listed else "none is defined"
        own = {profile: frozenset(each) for profile, each in in_profiles.items()}
        for use in self._uses:
            entry = use.entry
            if not isinstance(entry, Alias) or entry.name in names:
                continue
            if use.profile is not None and entry.name in own.get(use.profile, ()):
                continue
            if use.written is not None:
                said = f"{cut(use.written)!r} has a name that is not defined: {there_is}"
                self._problems.add(use.path, said, allowed=there_is.removeprefix("there is "))
                continue
            near = self._problems.near(entry.name, listed)
            hint = f"; did you mean '@{near}'?" if near else ""
            self._problems.add(
                use.path,
                f"name '@{cut(entry.name)}' is not defined: {there_is}{hint}",
                allowed=there_is.removeprefix("there is "),
                suggestion=None if near is None else f"@{near}",
            )

    def check_providers(self, providers: frozenset[str], keys: Iterable[WrittenKey]) -> None:
        """Find specs of other providers in chains, and keys of other providers elsewhere.

        Args:
            providers: The providers that there are, lower-case.
            keys: The keys that belong to providers and targets.
        """
        told: set[Path] = set()
        for use in self._uses:
            if isinstance(use.entry, Spec) and use.entry.target.provider not in providers:
                if use.written is not None and use.path in told:
                    continue  # one text with variables, whose entries are not shown
                told.add(use.path)
                self._refuse_provider(use.entry.target.provider, providers, use.path, use.written)
        for key in keys:
            if key.provider not in providers:
                self._refuse_provider(key.provider, providers, key.path, key.written)

    def _refuse_provider(
        self, provider: str, providers: frozenset[str], path: Path, written: str | None
    ) -> None:
        allowed = ", ".join(sorted(providers)[:_MOST_SHOWN]) or "none"
        if written is not None:
            message = f"{cut(written)!r} has a provider that is not known: known are {allowed}"
            self._problems.add(path, message, allowed=allowed)
            return
        near = self._problems.near(provider, providers)
        hint = f"; did you mean {near!r}?" if near else ""
        self._problems.add(
            path,
            f"provider {shown(provider)} is not known: known are {allowed}{hint}",
            allowed=allowed,
            suggestion=near,
        )

    def check_loops(self) -> None:
        """Find names that stand for themselves, also under a profile."""
        refers = {name: _referred(each) for name, each in self.names.items()}
        steps = _Steps(10 * MOST_ENTRIES)
        for loop in loops_in(refers, refers, steps):
            self._problems.add(
                self.places[loop[0]], f"names form a loop: {shown_loop(map(cut, loop))}"
            )
        steps = _Steps(_MOST_STEPS)
        for profile, each in self.profiles.items():
            own = {name: _referred(plan) for name, plan in each.chains.items()}
            # A loop that no name of the profile is in was found above.
            for loop in loops_in(_Over(own, refers), own, steps):
                first = next((name for name in loop if name in own), None)
                if first is not None:
                    index = loop.index(first)
                    turned = [*loop[index:-1], *loop[:index], first]
                    said = f"under profile {shown(profile)}: {shown_loop(map(cut, turned))}"
                    self._problems.add(
                        ("profiles", profile, "chains", first), f"names form a loop {said}"
                    )
        if steps.left < 0:
            self._problems.add(
                ("profiles",),
                "the chains of all profiles together refer to too many names: "
                f"{_MOST_STEPS:,} are looked up at most, each as often as a profile refers to it",
            )


def _with_variables(table: Table) -> dict[str, str]:
    """Return the texts of a table with variables of the environment in them, as written."""
    return {name: each.text for name, each in table.items() if isinstance(each, Written)}


class _Over:
    """What names of a profile refer to, over those of the file, without a copy of all."""

    __slots__ = ("_below", "_own")

    def __init__(self, own: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> None:
        self._own = own
        self._below = below

    def get(self, name: str) -> list[str] | None:
        found = self._own.get(name)
        return self._below.get(name) if found is None else found


class _Steps:
    """How many more names may be looked up."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


def loops_in(
    refers: _Over | Mapping[str, list[str]], starts: Iterable[str], steps: _Steps
) -> list[list[str]]:
    """Return loops of names that are reached from some, each with its first name at the end too.

    Args:
        refers: ``{name: names that it refers to}``
        starts: Where to begin.
        steps: How many names may be looked up; none are once it is below 0.
    """
    found: list[list[str]] = []
    done: set[str] = set()
    for start in starts:
        if start in done:
            continue
        path, waiting = {start: 0}, [iter(refers.get(start) or ())]
        while waiting and steps.left >= 0 and len(found) < _MOST_LOOPS:
            steps.left -= 1
            name = next(waiting[-1], None)
            if name is None:
                waiting.pop()
                done.add(path.popitem()[0])
            elif name in path:
                found.append([*list(path)[path[name] :], name])
            elif name not in done and (further := refers.get(name)) is not None:
                path[name] = len(path)
                waiting.append(iter(further))
    return found
