"""Reads the sections of a file into what a `FileLayer` holds."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import shown
from resilient_llm._values.limit import TAG, Limit, merged_limits
from resilient_llm._values.money import Budget
from resilient_llm._values.settings import Settings, checked_options
from resilient_llm._values.target import Target, normal_key
from resilient_llm.config._default_options import NOT_WRITTEN, SETTINGS
from resilient_llm.config._options import (
    BREAKER,
    BUDGET,
    LIMIT,
    PRICE_OF_KEY,
    STATE,
    STATE_NAMES,
    TARGET,
    TARGET_ELSEWHERE,
)
from resilient_llm.config._reader import NOTHING, plain
from resilient_llm.config._tree import Items, Table, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm.config._reader import Reader
    from resilient_llm.config._tree import Path

SECTIONS: Final = (
    "settings",
    "breakers",
    "targets",
    "chains",
    "profiles",
    "routes",
    "limits",
    "budgets",
    "prices",
    "state",
)
"""Names of the sections, in the order in which they are read."""
SCHEMA_KEY: Final = "$schema"
"""Where a file may name its schema, for editors."""

_DEFAULTS: Final = Settings()
_SETTINGS_ELSEWHERE: Final = {
    **{
        name: f"{name} has a section of its own: write it there"
        for name in ("breakers", "limits", "budgets", "prices", "state", "chains")
    },
    **{
        name: f"{name} is {what}, which cannot be written in a file: call configure({name}=…)"
        for name, what in NOT_WRITTEN.items()
    },
    **{
        name: f"{name} is an option of the store: write it in the section state, as {option}"
        for option, name in STATE_NAMES.items()
        if name != "state"
    },
    "state_options": "state_options are options of the store: write them in the section state",
    "chain": "chain is no setting: write the chain 'default' in the section chains",
}


class Sections:
    """Reads all sections but those of names.

    Args:
        reader: Checks options.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._problems = reader.problems
        self.settings: dict[str, Any] = {}
        self.targets: Mapping[str, Any] = MappingProxyType({})
        self.profile: str | None = None
        self.parts: dict[str, Any] = {}

    def read_settings(self, node: Table) -> None:
        """Read ``[settings]``."""
        options = self._reader.options(
            node, SETTINGS, ("settings",), "settings", _SETTINGS_ELSEWHERE
        )
        options = dict(options or {})
        self.profile = options.pop("profile", None)
        self.settings |= options

    def read_breakers(self, node: Table) -> None:
        """Read ``[breakers]``."""

        def read(table: Table, path: Path) -> Any:
            options = self._reader.options(table, BREAKER, path, "breaker")
            if options is None:
                return NOTHING
            return self._reader.built(
                lambda: MappingProxyType(checked_options(options)), path, table
            )

        def key_of(key: str) -> str:
            return _plain_key(key) or next(
                iter(_DEFAULTS.changed({"breakers": {key: {}}}).breakers)
            )

        self.settings["breakers"] = self._keyed(
            node, "breakers", key_of, self._of_table("breaker", read)
        )

    def read_limits(self, node: Table) -> None:
        """Read ``[limits]``."""

        def read(table: Table, path: Path) -> Any:
            options = self._reader.options(table, LIMIT, path, "limit")
            if options is None:
                return NOTHING
            return self._reader.built(lambda: Limit(**options), path, table)

        def key_of(key: str) -> str:
            return next(iter(merged_limits({}, {key: _ANY_LIMIT})))

        self.settings["limits"] = self._keyed(node, "limits", key_of, self._of_table("limit", read))

    def read_prices(self, node: Table) -> None:
        """Read ``[prices]``."""

        def key_of(key: str) -> str:
            return _plain_key(key) or next(
                iter(_DEFAULTS.changed({"prices": {key: (0, 0)}}).prices)
            )

        def read(price: Any, path: Path) -> Any:
            return self._reader.value(PRICE_OF_KEY, "price", price, path)

        self.settings["prices"] = self._keyed(node, "prices", key_of, read)

    def read_targets(self, node: Table) -> None:
        """Read ``[targets]``."""
        self.targets = self._keyed(
            node, "targets", lambda key: Target(key).key, self._of_table("target", self._target)
        )

    def _target(self, table: Table, path: Path) -> Any:
        options = self._reader.options(table, TARGET, path, "target", TARGET_ELSEWHERE)
        if options is None:
            return NOTHING
        unset: list[str] = sorted(options.pop("unset", ()))
        params: dict[str, Any] = options.get("params", {})
        both = [name for name in unset if name in params]
        if both:
            name = cut(both[0]) if not plain(table["unset"]).is_hidden else "a keyword argument"
            self._problems.add((*path, "unset"), f"{name} is in params as well: keep one of them")
            return NOTHING
        if unset:
            options["params"] = {**params, **dict.fromkeys(unset, Target.UNSET)}

        def together() -> Mapping[str, Any]:
            Target("a/b", **options)
            return MappingProxyType(options)

        return self._reader.built(together, path, table)

    def read_budgets(self, node: Items) -> None:
        """Read ``[[budgets]]``."""
        found: list[Budget] = []
        names: dict[str, int] = {}
        for index, each in enumerate(node):
            path = ("budgets", index)
            budget = self._budget(each, path)
            if budget is NOTHING:
                continue
            first = names.setdefault(budget.name, index)
            if first != index:
                is_hidden = plain(each).is_hidden or plain(node[first]).is_hidden
                name = "this name" if is_hidden else f"the name {shown(budget.name)}"
                self._problems.add(
                    path, f"budgets[{first}] has {name} as well: give one of them another name"
                )
            found.append(budget)
        self.settings["budgets"] = tuple(found)
        self.parts["budgets"] = plain(node).value

    def _budget(self, node: Any, path: Path) -> Any:
        table = self._reader.table(node, path, "budget")
        if table is None:
            return NOTHING
        options = self._reader.options(table, BUDGET, path, "budget")
        if options is None:
            return NOTHING
        return self._reader.built(lambda: Budget(**options), path, table)

    def read_state(self, node: Table) -> None:
        """Read ``[state]``."""
        options = self._reader.options(node, STATE, ("state",), "state")
        if options is None:
            return
        of_url: dict[str, Any] = {}
        for name, value in options.items():
            if name in STATE_NAMES:
                self.settings[STATE_NAMES[name]] = value
            else:
                of_url[name] = value
        if of_url:
            self.settings["state_options"] = MappingProxyType(of_url)

    def _of_table(
        self, what: str, read: Callable[[Table, Path], Any]
    ) -> Callable[[Any, Path], Any]:
        def read_any(node: Any, path: Path) -> Any:
            table = self._reader.table(node, path, what)
            return NOTHING if table is None else read(table, path)

        return read_any

    def _keyed(
        self,
        node: Table,
        section: str,
        key_of: Callable[[str], str],
        read: Callable[[Any, Path], Any],
    ) -> Mapping[str, Any]:
        """Read a section with one entry for each key, and return ``{normalised key: value}``."""
        found: dict[str, Any] = {}
        written: dict[str, str] = {}
        for name, each in node.items():
            path = (section, name)
            value = read(each, path)
            try:
                key = key_of(name)
            except ConfigurationError as error:
                self._problems.add(path, str(error))
                continue
            if key in written:
                self._problems.add(
                    path,
                    f"{shown(written[key])} and {shown(name)} are one key, {shown(key)}: "
                    "keep one of them",
                )
                continue
            written[key] = name
            if value is not NOTHING:
                found[key] = value
            self.parts[f"{section}.{key}"] = plain(each).value
        return MappingProxyType(found)


_ANY_LIMIT: Final = Limit(requests=1)


def _plain_key(key: str) -> str | None:
    """Return a key normalised, quickly; None if it takes the real check to say what is wrong."""
    try:
        found = "*" if key == "*" else normal_key(key)
    except ConfigurationError:
        return None
    return None if found.startswith(TAG) else found
