"""`rule_of` and `route_of` check what makes a `Rule` and a `Route`, and build them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from resilient_llm._values import checks as check
from resilient_llm._values.chain import plan_of
from resilient_llm._values.conditions import checked_conditions
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.plan import Route, Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._values.plan import Plan


def rule_of(chain: Any, conditions: Mapping[str, Any]) -> Rule:
    """Return the rule that takes a chain under some conditions.

    Args:
        chain: As a chain may be written.
        conditions: ``{name of the condition: its value}``.

    Raises:
        ConfigurationError: If the chain or a condition is not allowed, there is no condition, or
            ``regex`` needs a package that is not installed.
    """
    checked = checked_conditions(conditions)
    chain = _kept(chain)
    return Rule(chain, plan_of(chain), checked)


def route_of(
    rules: Any,
    otherwise: Any,
    messages: Any = None,
    tokens: Any = None,
    *,
    plan: Plan | None = None,
) -> Route:
    """Return the route that some rules make.

    Args:
        rules: Each of type `Rule`; there may be none, and then all calls take ``otherwise``.
        otherwise: The chain if no rule matches.
        messages: Name of the argument with the messages; None to look for one.
        tokens: A function that estimates the input of a call; None for `estimate_tokens`.
        plan: What ``otherwise`` stands for, if that has variables of the environment.

    Raises:
        ConfigurationError: If one of these is not allowed.
    """
    if isinstance(rules, str) or not isinstance(rules, Iterable):
        raise ConfigurationError(
            f"rules of type {type(rules).__name__} are not allowed: write a sequence of rules"
        )
    found: list[Any] = list(rules)  # pyright: ignore[reportUnknownArgumentType]  # users' input
    for number, each in enumerate(found, 1):
        if not isinstance(each, Rule):
            raise ConfigurationError(
                f"rule {number} of the route is of type {type(each).__name__}: "
                "write chains.rule(chain, …), and the chain if none matches as otherwise=…"
            )
    if messages is not None and not (isinstance(messages, str) and messages.isidentifier()):
        shown = (
            repr(messages) if isinstance(messages, str) else f"of type {type(messages).__name__}"
        )
        raise ConfigurationError(
            f"messages {shown} is not allowed: write the name of an argument, such as 'messages', "
            "or None"
        )
    if tokens is not None:
        check.function("tokens", tokens)
    otherwise = _kept(otherwise)
    plan = plan_of(otherwise) if plan is None else plan
    return Route(tuple(found), otherwise, plan, messages, tokens)


def _kept(chain: Any) -> Any:
    """Return a chain as it was written, which nobody can change or use up afterwards."""
    if type(chain) is list:
        return list(chain)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # users' input
    return tuple(chain) if isinstance(chain, Iterator) else chain  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # users' input
