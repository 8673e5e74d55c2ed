"""`InForce`, the settings and names that calls read, and the layers that it is made of.

A configuration has three layers, the strongest first: what code has set (`Code`), what a file says
(`FileLayer`) and what is built in. A profile stands above all of them. Every change makes a new
`InForce`, which is exchanged as a whole, so that a call reads one state and never half of two.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import shown
from resilient_llm._values.names import Names, unknown
from resilient_llm._values.policy import DEFAULTS
from resilient_llm._values.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.plan import FileLayer, Plan, Profile, Route

MERGED: Final = frozenset({"breakers", "limits", "prices"})
"""Options of `configure` that are merged by key."""


class Process:
    """Type of `PROCESS`."""

    def __repr__(self) -> str:
        return "PROCESS"


PROCESS: Final = Process()
"""Instead of the name of a profile: the one of the process, if it has one."""


@dataclass(frozen=True, slots=True)
class Code:
    """What code has set; immutable.

    Attributes:
        settings: What `configure` has set, over the built-in values.
        named: The options among them that hide those of a file.
        chains: ``{name: what it stands for}`` of `define`.
        profiles: ``{name: the profile}`` of `define_profile`.
        profile: The profile that `configure` has selected for the process, or None.
    """

    settings: Settings = field(default_factory=Settings)
    named: frozenset[str] = frozenset()
    chains: Mapping[str, Plan | Route] = field(default_factory=dict[str, "Plan | Route"])
    profiles: Mapping[str, Profile] = field(default_factory=dict[str, "Profile"])
    profile: str | None = None

    def configured(self, changes: Mapping[str, Any]) -> Code:
        """Return a copy with the changes of `configure`, ``profile`` left out.

        Raises:
            ConfigurationError: If a name is unknown or a value is out of range.
        """
        settings = self.settings.changed(changes)
        taken_back = {name for name in changes if name in DEFAULTS and changes[name] is None}
        named = (self.named | (changes.keys() - MERGED)) - taken_back
        return replace(self, settings=settings, named=named)


def merged_settings(code: Code, file: FileLayer | None) -> Settings:
    """Return the settings of both layers over the built-in ones."""
    if file is None:
        return code.settings
    below, above = Settings().changed(file.settings), code.settings
    breakers = dict(below.breakers)
    for key, options in above.breakers.items():
        breakers[key] = MappingProxyType({**breakers.get(key, {}), **options})
    changes: dict[str, Any] = {name: getattr(above, name) for name in code.named}
    changes["breakers"] = MappingProxyType(breakers)
    changes["limits"] = MappingProxyType({**below.limits, **above.limits})
    changes["prices"] = MappingProxyType({**below.prices, **above.prices})
    return replace(below, **changes)


def merged_names(code: Code, file: FileLayer | None) -> Names:
    """Return the names of both layers; those of code hide those of the file."""
    if file is None:
        return Names(code.chains, code.profiles)
    return Names({**file.names, **code.chains}, {**file.profiles, **code.profiles}, file.targets)


def profile_name(given: Any) -> str | None:
    """Return what ``profile`` was given.

    Raises:
        ConfigurationError: If it is neither a text nor None.
    """
    if given is None or isinstance(given, str):
        return given
    raise ConfigurationError(
        f"profile of type {type(given).__name__} is not allowed: write the name of a profile, "
        "or None"
    )


def options_that_differ(
    was: InForce, code: Code, file: FileLayer | None, base: Settings
) -> set[str]:
    """Return the options of `configure` whose values another file changes."""
    names = {each.name for each in fields(base) if each.init} - {"state", "profile"}
    found = {name for name in names if getattr(was.base, name) != getattr(base, name)}
    stores = [None if each is None else each.settings.get("state") for each in (was.file, file)]
    return found | {"state"} if stores[0] != stores[1] and "state" not in code.named else found


def check_shared_limits(settings: Settings, given: Any, store: Any, sharing: Any) -> None:
    """Refuse limits of all processes together if the store has none.

    Args:
        settings: The new settings.
        given: What the option ``state`` was given.
        store: The store, if it is a new one.
        sharing: What shares the state until now, or None.

    Raises:
        ConfigurationError: If there is no store, or it has no limits.
    """
    shared = [key for key, limit in settings.limits.items() if limit.shared]
    if not shared:
        return
    if store is None and given is not None:
        store = sharing.store
    if store is None or not store.has_limits:
        has = "there is none" if store is None else f"{store.url} has no limits"
        raise ConfigurationError(
            f"limits[{shown(shared[0])}] has shared=True, which needs a store in Redis or "
            f"Valkey that all processes share, and {has}: write "
            "configure(state='redis://…'), or leave shared out and give each process its part "
            "of the limit"
        )


def profile_of(code: Code, file: FileLayer | None) -> str | None:
    """Return the profile of the process; what code has selected hides what the file selects."""
    return code.profile if code.profile is not None or file is None else file.profile


def names_and_profile(was: InForce, code: Code, file: FileLayer | None) -> tuple[Names, str | None]:
    """Return what names stand for under new layers, and the profile of the process.

    Raises:
        ConfigurationError: If names form a loop, or no profile has the name.
    """
    names = was.names
    if file is not was.file or (code.chains, code.profiles) != (was.code.chains, was.code.profiles):
        names = merged_names(code, file)
        names.check_loops()
    profile = profile_of(code, file)
    if profile is not None and profile not in names.profiles:
        raise unknown(profile, names.profiles, "profile")
    return names, profile


class InForce:
    """The settings and names of one moment; immutable.

    Attributes:
        code: What code has set.
        file: What the file says that is loaded, or None.
        names: What names stand for.
        profile: The profile of the process, or None.
        settings: The settings under that profile.
    """

    __slots__ = ("_under", "base", "code", "file", "names", "profile", "settings")

    def __init__(
        self, code: Code, file: FileLayer | None, names: Names, base: Settings, profile: str | None
    ) -> None:
        self.code = code
        self.file = file
        self.names = names
        self.base = base
        """The settings without a profile."""
        self.profile = profile if profile in names.profiles else None
        self._under: dict[str | None, Settings] = {}
        self.settings = self.settings_under(self.profile)

    def settings_under(self, profile: str | Process | None) -> Settings:
        """Return the settings under a profile, or without one if it is None."""
        if profile is PROCESS:
            return self.settings
        assert not isinstance(profile, Process)
        found = self._under.get(profile)
        if found is None:
            known = None if profile is None else self.names.profiles.get(profile)
            # One object for each profile: calls compare settings by identity.
            found = self._under[profile] = (
                self.base
                if known is None
                else replace(self.base, profile=profile, **known.settings)
            )
        return found

    def chains_under(self, profile: str | Process | None) -> Mapping[str, Plan | Route]:
        """Return what names stand for under a profile, or without one if it is None."""
        name = self.profile if isinstance(profile, Process) else profile
        return self.names.under(name)
