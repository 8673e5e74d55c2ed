"""`Outline`: what the commands print of a configuration file, without loading it.

All is shown as it is written: a variable of the environment is ``${NAME}``, never its value. What
a name stands for is found out in these texts too, so that it shows no more than they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from resilient_llm._runtime.names import route_in
from resilient_llm._values.chain import plan_of
from resilient_llm._values.names import Names
from resilient_llm.config._reading import read
from resilient_llm.config._tree import as_written

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resilient_llm._values.plan import FileLayer
    from resilient_llm.config._tree import Table


class RuleOutline(NamedTuple):
    """A rule of a route as it is written.

    Attributes:
        chain: The chain that it chooses, a text or a list of texts.
        conditions: ``{condition: its value}``
    """

    chain: Any
    conditions: Mapping[str, Any]


class RouteOutline(NamedTuple):
    """A route as it is written.

    Attributes:
        rules: Its rules in order.
        otherwise: The chain if none matches.
    """

    rules: tuple[RuleOutline, ...]
    otherwise: Any


class ProfileOutline(NamedTuple):
    """A profile as it is written.

    Attributes:
        chains: ``{name: chain}``
        settings: ``{option: value}``
    """

    chains: Mapping[str, Any]
    settings: Mapping[str, Any]


class Choice(NamedTuple):
    """Which chain a route chooses.

    Attributes:
        name: Name of the route, which another name may stand for.
        rule: Index of the rule that chose; None if that was ``otherwise``.
        chain: The chain as it is written.
        targets: What that stands for, as `Outline.targets` has it.
        reasons: Why each rule before that was passed over.
        profile: The profile under which the names were looked up, or None.
    """

    name: str
    rule: int | None
    chain: Any
    targets: list[str]
    reasons: tuple[str, ...]
    profile: str | None


class Outline:
    """What a file without problems has.

    Attributes:
        source: The path as it was given.
        chains: ``{name: chain}`` as it is written, sorted by name.
        routes: ``{name: route}``, sorted.
        profiles: ``{name: profile}``, sorted.
    """

    def __init__(self, layer: FileLayer, tree: Table) -> None:
        self._layer = layer
        self.source = layer.source
        self.chains: dict[str, Any] = _sorted(tree.get("chains"))
        self.routes = {name: _route(each) for name, each in _sorted(tree.get("routes")).items()}
        self.profiles = {
            name: ProfileOutline(_sorted(each.get("chains")), as_written(each.get("settings", {})))
            for name, each in sorted(tree.get("profiles", {}).items())
        }

    def targets(self, chain: Any, profile: str | None = None) -> list[str]:
        """Return the entries that a chain ends in, of routes all that they can choose.

        They are keys of targets, and texts with variables as they are written.
        """
        chains = {**self.chains, **(self.profiles[profile].chains if profile else {})}
        found: dict[str, None] = {}
        seen: set[str] = set()
        waiting: list[Any] = [chain]
        while waiting:
            each = waiting.pop(0)
            if isinstance(each, list):
                waiting[:0] = each
                continue
            parts = _parts(each)
            if len(parts) > 1:
                waiting[:0] = parts
            elif "${" in each:
                found[parts[0]] = None
            elif not parts[0].startswith("@"):
                found[plan_of(parts[0]).shown[0]] = None
            elif each not in seen:
                seen.add(each)
                waiting[:0] = self._behind(parts[0].removeprefix("@").strip(), chains)
        return list(found)

    def _behind(self, name: str, chains: Mapping[str, Any]) -> list[Any]:
        if name in chains:
            return [chains[name]]
        route = self.routes[name]
        return [*(rule.chain for rule in route.rules), route.otherwise]

    @property
    def profile_of_process(self) -> str | None:
        """The profile that a process which loads the file has, unless code selects one."""
        return self._layer.profile

    def choose(self, name: str, messages: Any, model: str | None) -> Choice:
        """Return which chain a route of the file chooses for a call.

        Args:
            name: Name of the route, without ``@``.
            messages: The conversation, as ``chains.explain`` takes it.
            model: What the call names its model, or None.

        Raises:
            ConfigurationError: If the name is not defined, or stands for a chain.
        """
        from resilient_llm._binding.routing import CallFacts, explained

        layer, profile = self._layer, self.profile_of_process
        chains = Names(layer.names, layer.profiles).under(profile)
        route = route_in(chains, name.removeprefix("@"))
        arguments = {route.messages or "messages": messages}
        if model is not None:
            arguments["model"] = model
        found = explained(route, CallFacts.of_arguments(arguments))
        own = next(each for each, value in layer.names.items() if value is route)
        return Choice(
            own,
            found.rule,
            found.chain,
            self.targets(found.chain, profile),
            found.reasons,
            profile,
        )


def outline(source: str, *, providers: Iterable[str] | None = None) -> Outline:
    """Return the outline of a file.

    Raises:
        InvalidConfigError: If the file has problems.
        ConfigurationError: If the providers are not allowed.
    """
    trees: list[Table] = []
    layer = read(source, providers=providers, on_tree=trees.append)
    return Outline(layer, trees[0])


def _parts(text: str) -> list[str]:
    """Return the entries of a text, which commas inside of ``${…}`` do not separate."""
    parts, depth = [""], 0
    for at, each in enumerate(text):
        depth += text.startswith("${", at) - (each == "}" and depth > 0)
        if each == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += each
    return [part for each in parts if (part := each.strip())]


def _sorted(table: Any) -> dict[str, Any]:
    return dict(sorted(as_written({} if table is None else table).items()))


def _route(node: Mapping[str, Any]) -> RouteOutline:
    return RouteOutline(
        tuple(
            RuleOutline(
                rule["chain"], {name: each for name, each in rule.items() if name != "chain"}
            )
            for rule in node.get("rules", ())
        ),
        node["otherwise"],
    )
