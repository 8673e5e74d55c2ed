"""`wrap`: one client of an SDK that calls the targets of a chain through several of them.

`wrap` checks what it is given and makes a `WrappedClients`, which owns the policies. What callers
hold are `Node` objects: stand-ins for a client and its resources that hand out guarded methods.
Which methods are guarded, and how each SDK names its options, is in ``protocols.py``. Which policy
a ``model=`` stands for is in ``selection.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from resilient_llm import Failover  # not where it is: this way, its variants are known
from resilient_llm._runtime.names import known_targets
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import parse_key, shown
from resilient_llm.integrations._wrapping.nodes import Node, policy_behind
from resilient_llm.integrations._wrapping.protocols import Protocol, protocol_of
from resilient_llm.integrations._wrapping.wrapped import WrappedClients, refuse_calls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm._values.policy import FailoverOptions
    from resilient_llm._values.target import Target

C = TypeVar("C")

_ALLOWED = "write {'provider': client} with one client of an SDK for each provider of the chain"


def wrap(clients: Mapping[str, C], *, chain: Any, **options: Unpack[FailoverOptions]) -> C:
    """Return a client whose completions and embeddings follow a chain.

    It is used like the first of the clients. The SDK's own retries are off: a client with
    ``max_retries`` above 0 is used as a copy without retries. ``model=`` chooses: ``"auto"`` the
    chain, ``"@name"`` a named chain, a model of the chain the chain with that model first, and a
    spec such as ``"openai/gpt-5"`` that target alone. Embeddings never change their model.

    Examples:
        >>> client = wrap(
        ...     {
        ...         "groq": OpenAI(base_url="https://…", api_key="…", max_retries=0),
        ...         "openai": OpenAI(max_retries=0),
        ...     },
        ...     chain=["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"],
        ...     timeout=30.0,
        ... )
        >>> client.chat.completions.create(model="auto", messages=[...])

    Args:
        clients: ``{provider key: client}``, such as ``groq`` or ``groq@eu``; all of one protocol,
            and all synchronous or all asynchronous. All but completions and embeddings is done by
            the first one.
        chain: As of `failover`. Every target needs a client of its provider and account.
        options: Those of `failover`. ``reraise`` is True unless it is given: callers of an SDK
            catch its errors.

    Raises:
        ConfigurationError: If there is no client, if a client is not of a supported class, if they
            do not fit each other, if a target has no client or a ``call=`` of its own, or if an
            option is not allowed.
    """
    protocol = _check_clients(clients)
    given: dict[str, Any] = {"reraise": True, **options}
    policy = Failover(chain, given)
    _check_targets(known_targets(policy._plan), clients)
    wrapped = WrappedClients(protocol, clients, policy)
    wrapped.check_options()
    node: Any = Node.of_client(wrapped)
    return node


def _signature() -> inspect.Signature:
    """Return the signature with ``reraise`` and its default, which differs from `failover`."""
    clients, chain, options = inspect.signature(wrap).parameters.values()
    reraise = inspect.Parameter(
        "reraise", inspect.Parameter.KEYWORD_ONLY, default=True, annotation="bool"
    )
    return inspect.Signature([clients, chain, reraise, options], return_annotation="C")


setattr(wrap, "__signature__", _signature())  # noqa: B010  # type checkers know no such attribute


def policy_of(client: Any) -> Failover:
    """Return the policy of a client that `wrap` returned, or of a resource of one.

    Raises:
        ConfigurationError: If `wrap` did not make it.
    """
    policy = policy_behind(client)
    if policy is None:
        raise ConfigurationError(
            f"policy_of takes a client that wrap returned, not {type(client).__name__}"
        )
    return policy


def _check_clients(clients: Any) -> Protocol:
    """Return the protocol that all clients have.

    Raises:
        ConfigurationError: If they have none, or more than one.
    """
    if not isinstance(clients, Mapping) or not clients:
        kind = "no client" if isinstance(clients, Mapping) else type(clients).__name__
        raise ConfigurationError(f"clients is {kind}: {_ALLOWED}")
    found: dict[str, Protocol] = {}
    given = cast("Mapping[Any, Any]", clients)
    for key, client in given.items():
        _check_key(key)
        found[key] = protocol_of(key, client)
    first_key, first = next(iter(found.items()))
    for key, each in found.items():
        if each.name != first.name:
            raise ConfigurationError(
                f"clients {first_key!r} and {key!r} have two protocols, {first.name} and "
                f"{each.name}: wrap the clients of each protocol by themselves"
            )
        if each.is_async is not first.is_async:
            raise ConfigurationError(
                f"one of the clients {first_key!r} and {key!r} is synchronous and the other one "
                "is asynchronous: wrap clients of one kind"
            )
    return first


def _check_key(key: object) -> None:
    """Refuse what cannot be the key of a provider, with or without an account."""
    try:
        _, _, model = parse_key(key)
    except ConfigurationError as error:
        raise ConfigurationError(f"a client key is not the key of a provider: {error}") from None
    if model:
        raise ConfigurationError(
            f"client key {shown(key)} names a model, and not only a provider: {_ALLOWED}"
        )


def _check_targets(targets: Sequence[Target], clients: Mapping[str, Any]) -> None:
    refuse_calls(targets)
    for target in targets:
        if target.provider_key not in clients:
            raise ConfigurationError(
                f"target {target.key!r} has no client: add one under {target.provider_key!r}; "
                f"there is {', '.join(map(repr, clients))}"
            )
