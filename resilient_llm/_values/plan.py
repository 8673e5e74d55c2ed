"""`Plan`, what a chain says before a call: targets, and names and routes that it looks up.

A plan of targets alone is expanded where it is written. Others are expanded by each call, since
names may be defined, and defined again, at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from resilient_llm._values.conditions import tests_of
from resilient_llm._values.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm._values.conditions import Test


@dataclass(frozen=True, slots=True)
class Spec:
    """A target that was written as text, for which a configuration file may have options.

    Attributes:
        target: The target without options.
    """

    target: Target


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that stands for a chain or a route, ``"@fast"``.

    Attributes:
        name: The name, without ``@``.
    """

    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Rule:
    """A chain, and the conditions under which a call takes it; made by ``chains.rule``.

    Attributes:
        chain: The chain, as it was written: in a file with ``${NAME}`` and not its value.
        plan: The same, parsed.
        conditions: ``{name of the condition: its checked value}``, read-only, one or more.
        written: ``{name of the condition: the text in a file}`` for those with a variable of the
            environment, whose values nothing shows; read-only.
        tests: What tests each condition, the cheap ones first; see `tests_of`.
    """

    chain: Any
    plan: Plan
    conditions: Mapping[str, Any]
    written: Mapping[str, str] = field(default_factory=lambda: MappingProxyType[str, str]({}))
    tests: tuple[Test, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", MappingProxyType(dict(self.conditions)))
        object.__setattr__(self, "written", MappingProxyType(dict(self.written)))
        object.__setattr__(self, "tests", tests_of(self.conditions))

    def __reduce__(self) -> tuple[Any, ...]:
        return Rule, (self.chain, self.plan, dict(self.conditions), dict(self.written))

    def __repr__(self) -> str:
        return f"<rule: {', '.join(self.conditions)}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Route:
    """Chooses a chain by what a call is given; made by ``chains.route``.

    Attributes:
        rules: The rules, in order; the first that matches chooses.
        otherwise: The chain if none matches, as it was written: in a file with ``${NAME}``.
        otherwise_plan: The same, parsed.
        messages: Name of the argument with the messages; None to look for one.
        tokens: Estimates the input of a call in tokens; None for `estimate_tokens`.
    """

    rules: tuple[Rule, ...]
    otherwise: Any
    otherwise_plan: Plan
    messages: str | None = None
    tokens: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return f"<route of {len(self.rules)} rules>"


@dataclass(frozen=True, slots=True)
class Plan:
    """A chain as it was written, parsed and flattened.

    Attributes:
        entries: Targets with options, specs, names and routes, in order.
        leading: A model whose targets are tried before all others, or None.
    """

    entries: tuple[Target | Spec | Alias | Route, ...]
    leading: str | None = None

    @property
    def is_late(self) -> bool:
        """Whether only a call knows its targets."""
        return any(isinstance(each, (Alias, Route)) for each in self.entries)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets that are written in it, without those of names and routes."""
        return self.ordered(
            tuple(
                each.target if isinstance(each, Spec) else each
                for each in self.entries
                if not isinstance(each, (Alias, Route))
            )
        )

    def ordered(self, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        """Return targets of this plan with a lower ``priority`` for those of its leading model."""
        if self.leading is None or not targets:
            return targets
        first = min(target.priority for target in targets) - 1
        return tuple(
            _with_priority(each, first) if each.model == self.leading else each for each in targets
        )

    @property
    def written(self) -> tuple[Any, ...]:
        """The chain as `plan_of` takes it."""
        return tuple(
            each.target.key
            if isinstance(each, Spec)
            else f"@{each.name}"
            if isinstance(each, Alias)
            else each
            for each in self.entries
        )

    @property
    def shown(self) -> tuple[str, ...]:
        """What a message may show of each entry."""
        return tuple(
            each if isinstance(each, str) else "a route" if isinstance(each, Route) else each.key
            for each in self.written
        )


def _with_priority(target: Target, priority: int) -> Target:
    options: dict[str, Any] = {**target.options(), "priority": priority}
    return Target(target.spec, **options)


@dataclass(frozen=True, slots=True)
class Profile:
    """Replaces some chains and defaults, for some calls or for the process.

    Attributes:
        chains: ``{name: what it stands for under the profile}``, read-only.
        settings: ``{option of failover: checked value}``, read-only.
    """

    chains: Mapping[str, Plan | Route] = field(
        default_factory=lambda: MappingProxyType[str, "Plan | Route"]({})
    )
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType[str, Any]({}))


@dataclass(frozen=True, slots=True, repr=False)
class FileLayer:
    """What one configuration file says, checked; immutable.

    Attributes:
        source: The path as it was given, or ``"mapping"``.
        settings: ``{option of configure: checked or as `Settings.changed` takes it}``: those of
            ``[settings]``, and ``breakers``, ``limits``, ``budgets``, ``prices`` and what
            ``[state]`` says as ``state``, ``state_options``, ``state_timeout``, ``on_store_down``
            and ``state_name``; without ``profile``.
        targets: ``{key: {option of Target: value}}`` for specs that are written as text.
        names: ``{name: what it stands for}``, of ``[chains]`` and ``[routes]``.
        profiles: ``{name: the profile}``.
        profile: The profile that the file selects for the process, or None.
        parts: ``{"chains.fast": what is written there}``, to tell two versions apart. It may hold
            what must not reach a log.
        origin: What a reload reads again; set by what puts the file in force.
    """

    source: str
    settings: Mapping[str, Any]
    targets: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, Plan | Route]
    profiles: Mapping[str, Profile]
    profile: str | None
    parts: Mapping[str, Any]
    origin: Any = None

    def __repr__(self) -> str:
        return f"<configuration of {self.source!r}>"  # not what may come from the environment
