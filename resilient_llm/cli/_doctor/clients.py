"""Finds the SDK clients that a function uses, and reads what they are set to.

Clients are recognised by their shape, so that no SDK is imported that the function has not
imported. Nothing of theirs is called. A key is looked at and never kept.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from resilient_llm.cli._doctor.providers import ALIASES, PROVIDERS, provider_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from resilient_llm import Target

KeyState = Literal["set", "missing", "unfit", "elsewhere"]

_DEEPEST: Final = 4
"""How many functions, containers and objects a client may be behind."""
_MOST: Final = 2_000
"""Objects that are looked at."""
_PACKAGES: Final = {"genai": "google", "google": "google", "mistralai": "mistral"}
"""``{package of an SDK: provider}``, where the two have different names."""


@dataclass(frozen=True)
class Client:
    """What one client is set to.

    Attributes:
        package: Package of the SDK, such as ``openai``.
        where: Names on the way to it, the outermost first.
        key: ``set``; ``missing``; ``unfit`` for a header, as with a newline at its end; or
            ``elsewhere`` if it comes from a function or from credentials of a cloud.
        is_openais_key: Whether the key is that in ``OPENAI_API_KEY``.
        url: Where it sends its requests, or empty if unknown.
        max_retries: How often it retries by itself, or None if unknown.
        timeout: Seconds that it waits for an answer; None for no limit, or if unknown.
        knows_timeout: Whether ``timeout`` is known.
    """

    package: str
    where: tuple[str, ...]
    key: KeyState
    is_openais_key: bool
    url: str
    max_retries: int | None
    timeout: float | None
    knows_timeout: bool

    @property
    def provider(self) -> str:
        """The provider that it is of, as far as its host and its package tell."""
        return provider_at(self.url) or _PACKAGES.get(self.package, self.package)


class Sources:
    """What a function refers to: its clients, and the keywords that it passes itself."""

    def __init__(self, fn: Any) -> None:
        self.clients: list[Client] = []
        self.keywords: set[str] = set()
        """Names of keyword arguments in the calls that it makes."""
        self.other_sdks: set[str] = set()
        """Providers of which it has an object of the SDK that cannot be looked into."""
        self._seen: dict[int, Any] = {}
        self._package = str(getattr(fn, "__module__", "")).partition(".")[0]
        if fn is not None:
            self._look_at(fn, (), 0)

    def client_for(self, target: Target) -> Client | None:
        """Return the client that calls a target, if that can be told."""
        own = Sources(target.call).clients if target.call is not None else []
        if own:
            return own[0]
        names = {target.key, target.spec, target.provider_key, target.provider, target.model}
        for client in self.clients:
            if names.intersection(client.where):
                return client
        provider = ALIASES.get(target.provider, target.provider)
        for client in self.clients:
            if provider in _words(client.where):
                return client
        found = [client for client in self.clients if client.provider == provider]
        if found:
            return found[0]
        # One client for all: a gateway, or a server that speaks the protocol of another.
        return self.clients[0] if len(self.clients) == 1 else None

    def _look_at(self, value: Any, where: tuple[str, ...], depth: int) -> None:
        if id(value) in self._seen or len(self._seen) >= _MOST or depth > _DEEPEST:
            return
        self._seen[id(value)] = value  # kept, so that no other object gets its id
        client = _client(value, where)
        if client is not None:
            self.clients.append(client)
            return
        package = type(value).__module__.partition(".")[0]
        if package != self._package:
            provider = _PACKAGES.get(package, ALIASES.get(package, package))
            self.other_sdks.update({provider} & PROVIDERS.keys())
        for name, part in self._parts(value):
            self._look_at(part, (*where, name) if name else where, depth + 1)

    def _parts(self, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield what a value refers to, each with its name there, or an empty one."""
        if isinstance(value, types.MethodType):
            yield "", value.__self__
            yield "", value.__func__
        elif isinstance(value, functools.partial):
            yield "", value.func
            yield from enumerate_named(value.args)
            yield from value.keywords.items()
        elif isinstance(value, types.FunctionType):
            if self._is_users(value.__module__):
                yield from self._parts_of_function(value)
        elif isinstance(value, dict):
            yield from ((str(name), each) for name, each in list(value.items())[:_MOST])  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # of anything
        elif isinstance(value, (list, tuple, set, frozenset)):
            yield from enumerate_named(tuple(value)[:_MOST])  # pyright: ignore[reportUnknownArgumentType]  # of anything
        elif isinstance(value, types.SimpleNamespace) or self._is_users(type(value).__module__):
            yield from _attributes(value)
            yield "", _vars(_class_of(value)).get("__call__")
        else:
            yield "", _own(value, "__wrapped__")  # a cached function, say

    def _is_users(self, module: str | None) -> bool:
        """Return whether a module is the user's: code of libraries refers to much else."""
        package = str(module).partition(".")[0]
        if package == self._package:
            return True
        if package in sys.stdlib_module_names or package == __name__.partition(".")[0]:
            return False
        file = str(getattr(sys.modules.get(str(module)), "__file__", None) or "")
        return "site-packages" not in file and "dist-packages" not in file

    def _parts_of_function(self, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
        yield "", vars(function).get("__wrapped__")
        code = function.__code__
        names = self._names_in(code)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        parameters = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        yield from zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True)
        yield from (function.__kwdefaults__ or {}).items()
        for name in names:
            found = function.__globals__.get(name)
            if isinstance(found, types.ModuleType):
                # `clients.openai.chat…`: the names after it are among those of the code as well.
                yield from ((each, vars(found)[each]) for each in names if each in vars(found))
            elif found is not None:
                yield name, found

    def _names_in(self, code: types.CodeType) -> list[str]:
        """Return the global names and attributes in code and in the functions inside it."""
        names = list(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                names += self._names_in(constant)
            elif isinstance(constant, tuple):
                # The names of the keyword arguments of a call are a constant.
                self.keywords.update(each for each in constant if isinstance(each, str))  # pyright: ignore[reportUnknownVariableType]  # of anything
        return names


def enumerate_named(values: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Yield values without a name."""
    return (("", each) for each in values)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from list(_vars(value).items())[:_MOST]


def _class_of(value: object) -> Any:
    return type(value)


def _vars(value: Any) -> Mapping[str, Any]:
    attributes: Any = getattr(value, "__dict__", None)
    return attributes if attributes is not None else {}


def _words(names: tuple[str, ...]) -> set[str]:
    """Return the words in names such as ``groq_client`` and ``_groqClient``."""
    return {
        word.lower()
        for name in names
        for word in re.findall(r"[a-zA-Z][a-z0-9]*|[A-Z]+", name)
        if word.lower() in PROVIDERS or word.lower() in ALIASES
    }


# The shapes of clients.


def _client(value: Any, where: tuple[str, ...]) -> Client | None:
    """Return what a client is set to; None if the value is no client and no part of one."""
    try:
        # The client itself, one of its resources, or what a tracer has put around either.
        for owner in (
            value,
            _own(value, "_client"),
            _own(value, "client"),
            getattr(value, "__wrapped__", None),
        ):
            if owner is not None and _is_generated(owner):
                return _generated(owner, where)
        api: Any = _own(value, "_api_client")
        if api is not None and _own(api, "_http_options") is not None:
            return _google(api, where)
        settings: Any = _own(value, "sdk_configuration")
        if settings is not None and hasattr(settings, "timeout_ms"):
            return _speakeasy(settings, where)
        wrapper: Any = _own(value, "_client_wrapper")
        if wrapper is not None and hasattr(wrapper, "_base_url"):
            return _fern(wrapper, where)
    except Exception:  # noqa: BLE001  # another release of an SDK, or a property that raises
        return None
    return None


def _own(value: Any, name: str) -> Any:
    """Return an attribute of the instance itself, without asking its class."""
    return _vars(value).get(name)


def _is_generated(value: Any) -> bool:
    """Return whether this is a client as Stainless generates them: openai, anthropic, groq."""
    return any(
        base.__name__ == "BaseClient" and base.__module__.endswith("._base_client")
        for base in type(value).__mro__
    )


def _generated(client: Any, where: tuple[str, ...]) -> Client:
    given: Any = getattr(client, "api_key", None) or getattr(client, "auth_token", None)
    timeout: Any = getattr(client, "timeout", None)
    retries: Any = getattr(client, "max_retries", None)
    return Client(
        package=next(
            base.__module__.partition(".")[0]
            for base in type(client).__mro__
            if base.__module__.endswith("._base_client")
        ),
        where=where,
        key="elsewhere" if _has_credentials(client) and not given else _key_state(given),
        is_openais_key=bool(given) and given == os.environ.get("OPENAI_API_KEY"),
        url=str(client.base_url),
        max_retries=retries if isinstance(retries, int) else None,
        timeout=_seconds(getattr(timeout, "read", timeout)),
        knows_timeout=True,
    )


_CREDENTIALS: Final = (
    "_api_key_provider",
    "workload_identity",
    "credentials",
    "_custom_auth",
    "_azure_ad_token",
    "_azure_ad_token_provider",
    "aws_region",
    "region",
)
"""Attributes of clients that get in with something else than a key."""


def _has_credentials(client: Any) -> bool:
    return any(bool(_own(client, name)) for name in _CREDENTIALS)


def _google(api: Any, where: tuple[str, ...]) -> Client:
    options: Any = _own(api, "_http_options")
    retry: Any = getattr(options, "retry_options", None)
    attempts: Any = getattr(retry, "attempts", None)
    milliseconds: Any = getattr(options, "timeout", None)
    given: Any = _own(api, "api_key")
    uses_cloud = bool(_own(api, "vertexai")) or _own(api, "_credentials") is not None
    return Client(
        package="google",
        where=where,
        key="elsewhere" if uses_cloud and not given else _key_state(given),
        is_openais_key=False,
        url=str(getattr(options, "base_url", "") or ""),
        # Without options it makes one attempt; with options that name no number, five.
        max_retries=0 if retry is None else (5 if attempts is None else max(1, attempts)) - 1,
        timeout=None if milliseconds is None else milliseconds / 1000,
        knows_timeout=True,
    )


def _speakeasy(settings: Any, where: tuple[str, ...]) -> Client:
    """Return what a client is set to as Speakeasy generates them: mistralai."""
    security, package = settings.security, type(settings).__module__.partition(".")[0]
    given: Any = security if callable(security) else getattr(security, "api_key", None)
    provider = PROVIDERS.get(_PACKAGES.get(package, package))
    retry: Any = getattr(settings, "retry_config", None)
    milliseconds: Any = settings.timeout_ms
    return Client(
        package=package,
        where=where,
        key=_key_state(given),
        is_openais_key=False,
        url=str(settings.server_url or (provider.url if provider else "")),
        # Without a configuration it makes one attempt; how many others make depends on time.
        max_retries=0 if type(retry).__name__ in ("Unset", "NoneType") else None,
        timeout=None if milliseconds is None else milliseconds / 1000,
        knows_timeout=True,
    )


def _fern(wrapper: Any, where: tuple[str, ...]) -> Client:
    """Return what a client is set to as Fern generates them: cohere."""
    retries: Any = getattr(wrapper, "_max_retries", None)
    return Client(
        package=type(wrapper).__module__.partition(".")[0],
        where=where,
        key=_key_state(getattr(wrapper, "_token", None)),
        is_openais_key=False,
        url=str(wrapper._base_url),
        max_retries=retries if isinstance(retries, int) else None,
        timeout=_seconds(getattr(wrapper, "_timeout", None)),
        knows_timeout=True,
    )


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _key_state(given: Any) -> KeyState:
    if callable(given):
        return "elsewhere"
    if not isinstance(given, str) or not given:
        return "missing"
    return key_text_state(given)


def key_text_state(text: str) -> KeyState:
    """Return whether a key is there and can be sent."""
    if not text.strip():
        return "missing"
    return "set" if text.isascii() and text.isprintable() and " " not in text else "unfit"
