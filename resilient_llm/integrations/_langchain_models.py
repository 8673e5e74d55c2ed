"""The models of a `FailoverChatModel`: how they are named, and how they are prepared.

A model that retries by itself is replaced by a copy that does not. The user's model is not changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from langchain_core.language_models import BaseChatModel

from resilient_llm import ConfigurationError, Target
from resilient_llm.integrations._langchain_runs import is_streaming
from resilient_llm.integrations._warning import warn_at_declaration

_MAPPING: Final = (
    "write a mapping from spec to model, for example "
    '{"groq/llama-3.3-70b-versatile": ChatGroq(…), "openai/gpt-5-mini": ChatOpenAI(…)}'
)
_ADDRESSES: Final = ("base_url", "api_base", "api_url", "endpoint", "endpoint_url")
"""What the names of fields end with that hold where a model is called."""
_VARIABLES: Final = ("_BASE", "_URL", "_ENDPOINT")
"""What the names of environment variables end with that hold the same."""
_CLIENTS: Final = ("client", "async_client", "root_client", "root_async_client")
"""Fields that hold a client of an SDK, or a resource of one: langchain-openai, langchain-groq."""
_LAZY_CLIENTS: Final = ("_client", "_async_client", "_client_params")
"""What langchain-anthropic makes on first use, of the model's fields."""
_TIMED: Final = frozenset({"langchain_openai", "langchain_groq", "langchain_anthropic"})
"""Packages whose models pass a call's ``timeout`` on to their SDK (seen November 2026)."""
_TIMEOUTS: Final = ("request_timeout", "default_request_timeout")
_SDK_TIMEOUT: Final = 600.0
"""Seconds after which the SDKs of these packages give up, if they were given nothing else."""

_log = logging.getLogger("resilient_llm")


def named_models(models: object) -> dict[Target, BaseChatModel]:
    """Return ``{target: model}`` of what a user wrote.

    Args:
        models: ``{spec or Target: model}``, or a sequence of models, whose specs are made of what
            they report to tracers.

    Raises:
        ConfigurationError: If there are none, if one is not a chat model, or if a name is missing,
            used twice or not certain.
    """
    if isinstance(models, Mapping):
        given = cast("Mapping[Any, Any]", models)
        pairs = [(_target(name), _checked(model)) for name, model in given.items()]
    elif isinstance(models, Sequence) and not isinstance(models, (str, bytes)):
        pairs = [(_target_of(model), model) for model in map(_checked, models)]  # pyright: ignore[reportUnknownArgumentType]  # users' input
    else:
        shown = "a FailoverChatModel takes several" if isinstance(models, BaseChatModel) else ""
        raise ConfigurationError(
            f"models of type {type(models).__name__}: {_MAPPING}, or a list of models"
            + (f"; {shown}" if shown else "")
        )
    if not pairs:
        raise ConfigurationError(f"models is empty: {_MAPPING}, or a list of models")
    named: dict[Target, BaseChatModel] = {}
    for target, model in pairs:
        if any(target.key == each.key for each in named):
            raise ConfigurationError(f"models has {target.key!r} twice: {_MAPPING} with two names")
        named[target] = model
    return named


def _target(name: object) -> Target:
    if isinstance(name, Target):
        if name.call is not None:
            raise ConfigurationError(f"{name.key!r} has a call=: the model is what is called")
        return name
    if not isinstance(name, str):
        raise ConfigurationError(f"a name of type {type(name).__name__} in models: {_MAPPING}")
    return Target(name)


def _checked(model: object) -> BaseChatModel:
    if isinstance(model, BaseChatModel):
        return model
    # What is bound to tools or other arguments is a runnable, and no longer a chat model.
    raise ConfigurationError(
        f"models holds a {type(model).__name__}, which is not a chat model of LangChain: give the "
        "models themselves, and bind tools and arguments to what failover() returns"
    )


def _target_of(model: BaseChatModel) -> Target:
    """Return the target of a model in a list."""
    cls = type(model).__name__
    name = _address_field(model)
    if name is not None:
        raise ConfigurationError(
            f"a {cls} with a {name} in a list: its provider's name is not certain, {_MAPPING}"
        )
    params = model._get_ls_params()
    provider, called = params.get("ls_provider"), params.get("ls_model_name")
    if not provider or not called:
        raise ConfigurationError(f"a {cls} that does not name its model, in a list: {_MAPPING}")
    return Target(f"{provider}/{called}")


def _address_field(model: BaseChatModel) -> str | None:
    """Return the field in which a model has an own base URL, or None.

    An address that the environment names is the provider's, for all models on this machine.
    """
    fields = type(model).model_fields
    for name, field in fields.items():
        if not name.endswith(_ADDRESSES):
            continue
        value = getattr(model, name, None)
        if value is None or value == field.get_default(call_default_factory=False):
            continue
        if str(value) not in _of_environment() and not _is_standard(str(value)):
            return name
    return None


def _of_environment() -> set[str]:
    return {value for name, value in os.environ.items() if name.endswith(_VARIABLES)}


def _is_standard(address: str) -> bool:
    """Return whether a validator of LangChain has filled in the address of the provider itself."""
    return address.rstrip("/") == "https://api.anthropic.com"


# What is called.


def prepared(model: BaseChatModel, target: Target, parameters: Mapping[str, Any]) -> BaseChatModel:
    """Return the model that the attempts on a target call: the user's, or a copy of it.

    Args:
        model: The user's.
        target: Its target.
        parameters: ``{field: value}`` of all models, for those that have such a field.
    """
    fields = type(model).model_fields
    update = {name: value for name, value in parameters.items() if name in fields}
    # A model without the field has no retries that are known, and None is the SDK's own number.
    retries = getattr(model, "max_retries", None) if "max_retries" in fields else 0
    may_retry = type(retries) is not int or retries > 0
    quiet = _without_retries(model) if may_retry else None
    if quiet is not None:
        _log.info("the model of %s is copied with max_retries=0", target.key)
        update.update(quiet)
    elif may_retry and type(retries) is int:
        warn_at_declaration(
            f"the model of {target.key} has max_retries={retries}: its retries multiply with those "
            "of the chain; build the model with the least number that it takes"
        )
    if not update:
        return model
    copy = model.model_copy(update=update)
    for name in _LAZY_CLIENTS:
        vars(copy).pop(name, None)
    return copy


def _without_retries(model: BaseChatModel) -> dict[str, Any] | None:
    """Return the fields of a copy of a model that does not retry; None if it cannot be made."""
    update: dict[str, Any] = {"max_retries": 0}
    found = False
    for name in _CLIENTS:
        held = getattr(model, name, None)
        if held is None:
            continue
        quiet = _quiet_client(held)
        if quiet is not None:
            update[name] = quiet
            found = True
    if found:
        return update
    makes_clients = any(hasattr(type(model), name) for name in _LAZY_CLIENTS[:2])
    return update if makes_clients and _packages(model) & _TIMED else None


def _quiet_client(held: Any) -> Any:
    """Return a client or a resource of a client, without retries; None if it is something else."""
    if type(held).__module__.startswith("resilient_llm."):
        return None  # a wrapped client, whose own retries are off
    client: Any = held if hasattr(held, "with_options") else getattr(held, "_client", None)
    if not hasattr(client, "with_options") or type(getattr(client, "max_retries", None)) is not int:
        return None
    quiet = client.with_options(max_retries=0)
    # A resource of these SDKs is made of its client, and holds nothing else.
    return quiet if client is held else type(held)(quiet)


def streams_by_itself(model: BaseChatModel) -> bool:
    """Return whether a model streams when it is invoked, so that content is shown early."""
    if getattr(model, "streaming", None) is True:
        return True
    callbacks: Any = model.callbacks
    handlers: list[Any] = getattr(callbacks, "handlers", callbacks) or []
    return any(is_streaming(each) for each in handlers)


def timeout_of(model: BaseChatModel, given: object, remaining: float | None) -> dict[str, Any]:
    """Return ``timeout`` for a synchronous call of a model, if what remains is the least limit.

    Args:
        model: The model.
        given: The call's own ``timeout``, or None.
        remaining: Seconds that are left for the attempt, or None.
    """
    if remaining is None or not _packages(model) & _TIMED:
        return {}
    own = given
    for name in _TIMEOUTS:
        own = getattr(model, name, None) if own is None else own
    own = getattr(own, "read", own)
    limit = own if isinstance(own, (int, float)) else _SDK_TIMEOUT
    return {"timeout": remaining} if remaining < limit else {}


def _packages(model: BaseChatModel) -> set[str]:
    """Return the names of the packages that the classes of a model are from."""
    return {cls.__module__.partition(".")[0] for cls in type(model).__mro__}


def identifying_params(model: BaseChatModel, target: Target) -> dict[str, Any]:
    """Return by what caches and tracers know a model that is called for a target.

    The target's own parameters may hold keys, so they are shown as a hash.
    """
    params: dict[str, Any] = {"_type": model._llm_type, **model._identifying_params}
    if target.params or target.removed:
        given = repr((sorted(target.params.items()), sorted(target.removed)))
        params["target_params"] = hashlib.sha256(given.encode()).hexdigest()
    return params


def common_profile(models: Sequence[BaseChatModel]) -> dict[str, Any] | None:
    """Return what all models are able to do; None if that is not known of one of them.

    Of numbers, such as the tokens of a window, the least counts.
    """
    profiles: list[dict[str, Any]] = [getattr(each, "profile", None) or {} for each in models]
    common: dict[str, Any] = {}
    for name, value in profiles[0].items():
        if all(name in each for each in profiles):
            values = [each[name] for each in profiles]
            if all(type(each) is bool for each in values):
                common[name] = all(values)
            elif all(type(each) is int for each in values):
                common[name] = min(values)
            elif all(each == value for each in values):
                common[name] = value
    return common or None
