"""Chains by name and by rule: names, profiles and routes that calls look up when they start.

    from resilient_llm import chains, failover

    chains.define({"fast": "groq/llama-3.3-70b-versatile, openai/gpt-5-mini", "default": "@fast"})

    @failover(chain=["@fast", "anthropic/claude-sonnet"], timeout=30.0)
    async def ask(target: Target, prompt: str) -> str: ...

``"@name"`` may stand wherever a chain takes a spec, and may be defined after the decorator.
``failover()`` means ``failover(chain="@default")``. A `profile` replaces some chains and defaults
for some calls or for the process, and a `route` chooses a chain by what the call is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._runtime import names as _names
from resilient_llm._runtime.profiles import ProfileBlock, profile_here
from resilient_llm._runtime.runtime import runtime as _runtime
from resilient_llm._values.exported import exported as _exported
from resilient_llm._values.plan import Route, Rule
from resilient_llm._values.route_explanation import RouteExplanation
from resilient_llm.chains._routes import route, rule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from resilient_llm._values.chain import Chain
    from resilient_llm._values.target import Target

__all__ = [
    "Route",
    "RouteExplanation",
    "Rule",
    "check",
    "define",
    "define_profile",
    "explain",
    "names",
    "profile",
    "profiles",
    "remove",
    "resolve",
    "route",
    "rule",
]

for _each in (Route, Rule):
    _exported(_each, __name__)


def define(names: Mapping[str, Chain]) -> None:
    """Define what names stand for, or replace that, for calls that start afterwards.

    All names are defined, or none. What code defines hides what a configuration file defines
    under the same name.

    Examples:
        >>> define({"fast": "groq/llama-3.3-70b-versatile", "default": "@fast"})

    Args:
        names: ``{name: a chain, as failover takes one, or a route}``. A name has 1 to 100 of the
            characters ``A-Z a-z 0-9 . _ / -``, the first one a letter or a digit.

    Raises:
        ConfigurationError: If a name or a chain is not allowed, or if names refer to each other
            in a circle, which the message shows.
    """
    _names.define(names)


def remove(*names: str) -> None:
    """Remove names that code has defined, all or none.

    A name that the configuration file has as well stands for what the file defines again.

    Raises:
        ConfigurationError: If code has not defined a name.
    """
    _names.remove(names)


def names() -> list[str]:
    """Return the names that are defined, sorted, those of the profile that holds here included."""
    return sorted(_runtime.in_force.chains_under(profile_here()))


def resolve(chain: Chain) -> tuple[Target, ...]:
    """Return the targets of a chain for a call that starts here, each key once, in order.

    Of a route these are all targets that it can choose.

    Examples:
        >>> resolve("@fast, anthropic/claude-sonnet")
        (Target('groq/llama-3.3-70b-versatile'), Target('anthropic/claude-sonnet'))

    Raises:
        ConfigurationError: If the chain is not allowed, or a name is not defined.
    """
    return _names.targets_here(chain)


def define_profile(
    name: str,
    *,
    chains: Mapping[str, Chain] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Define a profile, or replace it: other chains and defaults for some calls.

    Examples:
        >>> define_profile("cheap", chains={"fast": "groq/llama"}, settings={"attempts": 1})

    Args:
        name: Its name, with the characters that names of chains have.
        chains: ``{name: what it stands for under the profile}``.
        settings: ``{option of failover: default under the profile}``, of the options that
            `configure` takes. What a policy names is stronger.

    Raises:
        ConfigurationError: If something is not allowed; nothing is changed.
    """
    _names.define_profile(name, chains, settings)


def profiles() -> list[str]:
    """Return the names of all profiles, sorted."""
    return sorted(_runtime.in_force.names.profiles)


def profile(name: str | None) -> AbstractContextManager[None]:
    """Return a block; a profile holds for calls that start inside it.

    It holds in this context and its copies, such as tasks that are started inside. An inner block
    replaces the outer one. ``configure(profile=…)`` selects one for the process.

    A framework may run parts of a request in copies of a context: a block in a ``def`` dependency
    of FastAPI has no effect on the endpoint, and one in an ``async def`` dependency has. A block
    around a ``yield`` is also in force in the code that reads the generator, between two items,
    and ends when the generator is closed: use `contextlib.closing` or `contextlib.aclosing`, or
    put the block around the code that reads.

    Examples:
        >>> with profile("cheap"):
        ...     reply = ask("Why is the sky blue?")

    Args:
        name: The profile; None for no profile, also where the process has one.

    Raises:
        ConfigurationError: If no profile has the name.
    """
    return ProfileBlock(name)


def explain(name: str, /, **arguments: Any) -> RouteExplanation:
    """Return which chain a route chooses for a call with these arguments, and why.

    Examples:
        >>> explain("main", messages=[{"role": "user", "content": "Why is the sky blue?"}])
        RouteExplanation(rule=None, chain='@fast', reasons=('has_image=True: no image was found',))

    Args:
        name: Name of the route, without ``@``.
        **arguments: The arguments of the call, all by name.

    Raises:
        ConfigurationError: If the name is not defined, or stands for a chain.
    """
    from resilient_llm._binding.routing import CallFacts, explained  # loaded when somebody asks

    return explained(_names.route_named(name), CallFacts.of_arguments(arguments))


def check() -> list[str]:
    """Return the problems of the policies that exist in this process, one sentence each.

    It changes nothing and calls no provider. Ask it when everything is imported and configured, as
    in a test or at the start of a service: a policy counts as long as something refers to it, and
    a key is a problem until a policy has it.

    - A name in a chain that is not defined.
    - Names in one chain that give one target two sets of options, of which the first counts.
    - An option of a target, from a name or a file, that a function cannot use and calls leave out.
    - A key in ``limits``, ``prices`` or ``breakers`` of `configure`, or the ``of`` of a budget,
      that no policy has: it has no effect. Near names are shown. For ``limits`` and ``breakers``
      a guard such as ``breaker("search")`` also counts.
    - One target with two prices, sets of tags, sizes or abilities in two policies: a budget or a
      limit then holds for the calls of one function and not for those of the other. Other
      options, such as ``params``, may differ.
    - A default ``attempt_timeout`` or ``hedge`` that cannot hold for a decorated function.

    Returns:
        An empty list if nothing was found.

    Examples:
        >>> configure(limits={"grok": Limit(requests=60)})
        >>> check()
        ["limits['grok'] is of no target of a policy: did you mean 'groq'?"]
    """
    from resilient_llm.chains._problems import problems  # loaded when somebody asks

    return problems()
