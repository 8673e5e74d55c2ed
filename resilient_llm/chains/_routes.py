"""`rule` and `route`: choose a chain by what a call is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from resilient_llm._values.chain import Chain
from resilient_llm._values.conditions import RuleConditions
from resilient_llm._values.plan import Route, Rule
from resilient_llm._values.route import route_of, rule_of


def rule(chain: Chain, **conditions: Unpack[RuleConditions]) -> Rule:
    """Return a rule of a route: a chain, and the conditions under which calls take it.

    At least one condition is needed, and all of them must hold. What cannot be read matches
    nothing: if the conversation of a call is an iterator, neither ``has_image=True`` nor
    ``has_image=False`` holds.

    The *text* is the text parts of the last user message, joined by newlines. A string is one user
    message. A message that holds only results of tools is not one of a user.

    Examples:
        >>> rule("@vision", has_image=True)
        <rule: has_image>
        >>> rule("@long", min_tokens=30_000, where=lambda prompt, tier: tier == "paid")
        <rule: min_tokens, where>

    Args:
        chain: As `failover` takes it, names such as ``"@vision"`` and routes included.
        **conditions: One or more of these.

            - ``model``: A glob as in `fnmatch.fnmatchcase` that matches the call's ``model=``.
              If the rule is chosen, that does not pin the call: each target's own model
              replaces it. A ``[`` is written ``[[]``: ``"claude-opus-4-8[[]1m]"`` matches
              ``claude-opus-4-8[1m]``.
            - ``min_tokens``: The estimate of the call's input is at least this, a whole number of
              tokens, 0 or more. The route's ``tokens`` estimates it, else
              `needs.estimate_tokens`.
            - ``has_image``, ``has_tools``: Whether `needs.from_messages` finds ``vision`` or
              ``tools``.
            - ``min_code_share``: Fenced code blocks hold at least this share of the characters
              of the text, above 0 and at most 1. Fence lines belong to their block, and one that
              is not closed runs to the end.
            - ``contains``: The text contains this, upper and lower case told apart.
            - ``regex``: RE2 finds this pattern in the first 20,000 characters of the text.
              It needs the extra ``regex`` (google-re2).
            - ``where``: A plain function that gives something true. It is called with the
              arguments as the caller passed them, ``self`` included; ``target=``, ``model=`` and
              ``provider=`` that pin the call only if it takes them. If it raises, the rule does
              not match, and the log has one WARNING for the function.

    Returns:
        The rule. It is immutable, equal to nothing but itself, and can be pickled if its chain
        and functions can.

    Raises:
        ConfigurationError: If the chain is none, there is no condition, a condition is not known
            or its value not allowed, ``regex`` is not a pattern of RE2, or google-re2 is not
            installed.
    """
    return rule_of(chain, conditions)


def route(
    *rules: Rule,
    otherwise: Chain,
    messages: str | None = None,
    tokens: Callable[..., Any] | None = None,
) -> Route:
    """Return a route: the first rule that matches a call chooses its chain.

    It may stand wherever a chain takes a spec, and be given a name with ``chains.define``. The
    loop form has no arguments to look at, and takes ``otherwise``.

    Examples:
        >>> route(
        ...     rule("@vision", has_image=True),
        ...     rule("@long", min_tokens=30_000),
        ...     otherwise="@fast",
        ... )
        <route of 2 rules>

    Args:
        *rules: The rules in order, from `rule`. Without any, all calls take ``otherwise``.
        otherwise: The chain of calls that match no rule, as `failover` takes it.
        messages: Name of the argument with the conversation, passed by name or position. None
            takes the first of ``messages``, ``contents``, ``input`` and ``prompt`` that a call
            has.
        tokens: A plain function that estimates the input of a call in tokens, for
            ``min_tokens``: called with the arguments as the caller passed them, without
            those that pin the call; or `needs.estimate_tokens()`, which None stands for. If it
            raises or gives no number, no rule with ``min_tokens`` matches, and the log has one
            WARNING for the function.

    Returns:
        The route. It is immutable, equal to nothing but itself, and can be pickled if its parts
        can.

    Raises:
        ConfigurationError: If a rule, a chain, ``messages`` or ``tokens`` is not allowed.
    """
    return route_of(rules, otherwise, messages, tokens)
