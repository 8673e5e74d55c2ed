"""`can_call`: whether a call on a chain would be sent now, without sending it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._core.circuit.permit import block_of
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._core.spending.ledger import Reservation
from resilient_llm._core.spending.prices import rates_for
from resilient_llm._runtime.limits_of_target import limits_on
from resilient_llm._runtime.names import targets_here
from resilient_llm._runtime.profiles import settings_here
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.spending import present_key, published
from resilient_llm._values import checks as check
from resilient_llm._values.can_call import CanCall
from resilient_llm._values.chain import Chain
from resilient_llm._values.money import spend_key_of
from resilient_llm._values.policy import Declared
from resilient_llm.strategies import by_priority

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm._values.target import Target

_BY_COST = "least_cost"


def can_call(chain: Chain, *, tokens: int | None = None, spend_key: str | None = None) -> CanCall:
    """Return whether a call would be sent now, to which target first, and why not to the others.

    It asks what a call would ask, in the same order: manual benches, breakers and rate-limit
    pauses, limits, what providers have reported of theirs, budgets. It sends nothing, takes
    nothing, waits for nothing and emits nothing but the ends of benches that are over. A call that
    would have to wait, or that would be made in spite of a bench, is not allowed here. What a
    target is capable of depends on the arguments of a call, so that is not asked.

    The first target is the first one that is live by ``priority``, price (``least_cost``) and
    what ``adaptive=`` has moved. Other strategies draw their order for each call, from random
    numbers, counters or the arguments; for these, equal priorities count as declared.

    The answer is that of this moment: another thread may take the last place at once.

    Examples:
        >>> if not can_call(ask, tokens=12_000):
        ...     return "busy, please come back later"

    Args:
        chain: A decorated function, a policy, or a chain as ``failover`` takes one.
        tokens: Estimate of what the call uses, input and output, 0 or more; None for 0. A budget
            in USD counts them at the price of input.
        spend_key: The key that the call spends on, for budgets with ``of="key"``; None for that of
            the ``spend_key`` block around this code, if there is one.

    Raises:
        ConfigurationError: If the chain, ``tokens`` or ``spend_key`` is not allowed.
    """
    used = 0 if tokens is None else check.whole("tokens", tokens, low=0)
    key = present_key.get() if spend_key is None else spend_key_of(spend_key)
    now = runtime.clock()
    first: Target | None = None
    reasons: dict[str, str] = {}
    waits: list[float] = []
    for target in _in_order(chain):
        refused = _refusal(target, used, key, now)
        if refused is None:
            first = first or target
            continue
        reasons[target.key], retry_after = refused
        if retry_after is not None:
            waits.append(retry_after)
    if first is not None:
        return CanCall(True, first, None, reasons)
    return CanCall(False, None, min(waits, default=None), reasons)


def _in_order(chain: Any) -> Sequence[Target]:
    """Return the targets of a chain in the order in which a call tries them, as far as is known."""
    holder = getattr(chain, "policy", chain)
    declared = getattr(holder, "_declared", None)
    if not isinstance(declared, Declared):
        return by_priority(targets_here(chain))
    policy = declared.policy(targets_here(declared.plan))
    targets = policy.in_priority
    if policy.in_force(settings_here()).strategy == _BY_COST:
        targets = tuple(sorted(targets, key=_cost))
    order = runtime.known_order_of(policy)
    return targets if order is None else tuple(order.placed(targets, lambda target: target))


def _cost(target: Target) -> tuple[int, bool, float]:
    """Return the place of a target by priority and price; keep in sync with `LeastCost`."""
    price = runtime.settings.price_of(target)
    return target.priority, price is None, 0.0 if price is None else sum(price)


def _refusal(
    target: Target, tokens: int, spend_key: str | None, now: float
) -> tuple[str, float | None] | None:
    """Return why an attempt would be refused now, and for how many seconds; None if it fits."""
    estimate = Estimate(tokens, 0)
    circuit = runtime.registry.look(target.key)
    block = block_of(circuit, now)
    if block is None and circuit.provider is None:  # it is only looked at
        block = runtime.registry.look(target.provider_key).block(now)
    if block is None:
        limits = limits_on(target.key, target.provider_key, target.tags)
        block = None if limits is None else limits.block(now, estimate)
    if block is not None:
        return block.reason, None if block.until is None else max(0.0, block.until - now)
    if not runtime.settings.budgets:
        return None
    rates = rates_for(target, runtime.settings.prices, published)
    asked = Reservation(target, estimate, rates, spend_key)
    refusal = runtime.ledger.refusal_of(asked, runtime.wall())
    return None if refusal is None else (refusal.reason, refusal.retry_after)
