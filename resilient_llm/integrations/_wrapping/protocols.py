"""`Protocol`: what is guarded of the clients of one SDK, and how the SDK names its options.

One class per protocol; nothing here imports an SDK before a client of it is wrapped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    Arguments = dict[str, Any]

VIEWS: Final = ("with_raw_response", "with_streaming_response")
"""Names of the views of a client or resource that give answers of HTTP."""
_CREDENTIALS: Final = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})
_SENTINELS: Final = frozenset({"NotGiven", "Omit", "Unset"})
"""Classes of what the SDKs take for an argument that is not given."""


def is_given(value: Any) -> bool:
    """Return whether an argument is more than the SDK's word for one that is left out."""
    return type(value).__name__ not in _SENTINELS


class Protocol:
    """What is guarded of the clients of one protocol.

    Attributes:
        name: What messages call it.
        paths: ``{path of a resource: names of its guarded methods}``.
        embeddings: Paths of resources whose methods never change their model, and methods of
            others that do not.
        has_views: Whether clients and resources have `VIEWS`.
        copies: Whether clients have ``with_options``.
        closers: ``{path: names of the methods that close}``.
        exits: ``{path: "sync", "async" or "both"}`` of what can be entered by ``with``, if that is
            not what `is_async` means.
        is_async: Whether its methods are awaited; None if clients have both kinds.
    """

    name: ClassVar[str]
    paths: ClassVar[Mapping[str, tuple[str, ...]]]
    embeddings: ClassVar[frozenset[str]]
    has_views: ClassVar[bool] = False
    copies: ClassVar[bool] = False
    closers: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("close",)}
    exits: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *, is_async: bool | None) -> None:
        self.is_async = is_async

    def is_guarded(self, path: str, method: str) -> bool:
        """Return whether a method of a resource is guarded."""
        return method in self.paths.get(path, ())

    def is_embedding(self, path: str, method: str) -> bool:
        """Return whether a method keeps the model that it is given."""
        return path in self.embeddings or f"{path}.{method}" in self.embeddings

    def leads_to_guarded(self, path: str) -> bool:
        """Return whether a resource, or one below it, has guarded methods."""
        return any(each == path or each.startswith(f"{path}.") for each in self.paths)

    def is_awaited(self, path: str, method: str) -> bool:
        """Return whether what a method returns is awaited, now or by ``async with``."""
        return bool(self.is_async)

    def gives_manager(self, path: str, method: str) -> bool:
        """Return whether a method returns a context manager that makes the request."""
        return False

    def gives_stream(self, method: str, arguments: Arguments) -> bool:
        """Return whether a call asks for a stream."""
        return "stream" in method or bool(arguments.get("stream"))

    def patched(self, client: Any) -> str | None:
        """Return a guarded method that was replaced on a client itself, not on its class."""
        for path, methods in self.paths.items():
            holder: Any = client
            for name in path.split("."):
                # Only what is there already: nothing is made by looking for it.
                holder = getattr(holder, "__dict__", {}).get(name)
            found = next(
                (each for each in methods if each in getattr(holder, "__dict__", {})), None
            )
            if found is not None:
                return f"{path}.{found}"
        return None

    def without_retries(self, client: Any) -> tuple[Any, int]:
        """Return a client that does not retry, and how often the given one does."""
        return client, 0

    def checked(self, method: str, arguments: Arguments) -> Arguments:
        """Return the arguments of a call, of which no attempt is made yet.

        Raises:
            ValueError: If the SDK would refuse them before it sends anything.
        """
        return arguments

    def prepare(self, arguments: Arguments) -> Arguments:
        """Return the arguments of an attempt with the SDK's own retries off."""
        return arguments

    def limited(self, client: Any, arguments: Arguments, seconds: float) -> Arguments:
        """Return the arguments of an attempt that has a number of seconds left."""
        raise NotImplementedError

    def headers(self, arguments: Arguments) -> Any:
        """Return the headers that a call adds, a mapping or None."""
        return arguments.get("extra_headers")

    def has_credential(self, arguments: Arguments) -> bool:
        """Return whether a call has a credential in its headers."""
        headers: Any = self.headers(arguments)
        if not isinstance(headers, Iterable):
            return False
        pairs = cast("Iterable[Any]", headers)
        if isinstance(headers, Mapping):
            given = cast("Mapping[Any, Any]", headers)
            names = [name for name in pairs if is_given(given[name])]
        else:
            names = [each[0] for each in pairs if each]
        return any(_text(name).lower() in _CREDENTIALS for name in names)


class _Stainless(Protocol):
    """What the SDKs of OpenAI, Groq and Anthropic have in common."""

    has_views = True
    copies = True

    def gives_manager(self, path: str, method: str) -> bool:
        return method == "stream"

    def without_retries(self, client: Any) -> tuple[Any, int]:
        retries: Any = getattr(client, "max_retries", 0)
        if not isinstance(retries, int) or retries <= 0:
            return client, 0
        return client.with_options(max_retries=0), retries

    def limited(self, client: Any, arguments: Arguments, seconds: float) -> Arguments:
        given = arguments.get("timeout", None)
        if "timeout" not in arguments or not is_given(given):
            given = getattr(client, "timeout", None)
        return {**arguments, "timeout": _shortened(given, seconds)}


class OpenAIProtocol(_Stainless):
    """The clients of OpenAI, Azure and Groq."""

    name = "openai"
    paths: ClassVar = {
        "chat.completions": ("create", "parse", "stream"),
        "beta.chat.completions": ("create", "parse", "stream"),
        "responses": ("create", "parse", "stream"),
        "completions": ("create",),
        "embeddings": ("create",),
    }
    embeddings: ClassVar = frozenset({"embeddings"})


class AnthropicProtocol(_Stainless):
    """The clients of Anthropic, also on Bedrock, Vertex and Foundry."""

    name = "anthropic"
    paths: ClassVar = {
        "messages": ("create", "parse", "stream"),
        "beta.messages": ("create", "parse", "stream"),
    }
    embeddings: ClassVar = frozenset[str]()


class GoogleProtocol(Protocol):
    """The client of google-genai, which has its asynchronous methods below ``aio``."""

    name = "google-genai"
    paths: ClassVar = dict.fromkeys(
        ("models", "aio.models"),
        ("generate_content", "generate_content_stream", "embed_content"),
    )
    embeddings: ClassVar = frozenset({"models.embed_content", "aio.models.embed_content"})
    closers: ClassVar = {"": ("close",), "aio": ("aclose",)}
    exits: ClassVar = {"": "sync", "aio": "async"}

    def is_awaited(self, path: str, method: str) -> bool:
        return path.startswith("aio.")

    def headers(self, arguments: Arguments) -> Any:
        return _field(_field(arguments.get("config"), "http_options"), "headers")

    def checked(self, method: str, arguments: Arguments) -> Arguments:
        """Return the arguments with a model for a mapping, whose keys have two spellings."""
        config = arguments.get("config")
        if not isinstance(config, Mapping):
            return arguments
        types: Any = import_module("google.genai.types")
        name = "EmbedContentConfig" if method == "embed_content" else "GenerateContentConfig"
        return {**arguments, "config": getattr(types, name).model_validate(config)}

    def prepare(self, arguments: Arguments) -> Arguments:
        return _with_http_options(arguments, {"retry_options": {"attempts": 1}})

    def limited(self, client: Any, arguments: Arguments, seconds: float) -> Arguments:
        given = _field(_field(arguments.get("config"), "http_options"), "timeout")
        if given is None:
            own = getattr(getattr(client, "_api_client", None), "_http_options", None)
            given = _field(own, "timeout")
        return _with_http_options(arguments, {"timeout": _milliseconds(given, seconds)})


class MistralProtocol(Protocol):
    """The client of mistralai, whose asynchronous methods end in ``_async``."""

    name = "mistralai"
    paths: ClassVar = {
        "chat": tuple(
            f"{name}{ending}"
            for name in ("complete", "parse", "stream", "parse_stream")
            for ending in ("", "_async")
        ),
        "embeddings": ("create", "create_async"),
    }
    embeddings: ClassVar = frozenset({"embeddings"})
    closers: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    exits: ClassVar = {"": "both"}

    def is_awaited(self, path: str, method: str) -> bool:
        return method.endswith("_async")

    def headers(self, arguments: Arguments) -> Any:
        return arguments.get("http_headers")

    def prepare(self, arguments: Arguments) -> Arguments:
        # What is not given falls back to the client's own; None does not.
        return {**arguments, "retries": None}

    def limited(self, client: Any, arguments: Arguments, seconds: float) -> Arguments:
        given: Any = arguments.get("timeout_ms")
        if not isinstance(given, int):
            own = getattr(getattr(client, "sdk_configuration", None), "timeout_ms", None)
            given = own if isinstance(own, int) else None
        return {**arguments, "timeout_ms": _milliseconds(given, seconds)}


_ANTHROPIC: Final = ("", "Bedrock", "BedrockMantle", "Vertex", "Foundry", "AWS", "GoogleCloud")
_CLASSES: Final[Mapping[tuple[str, str], tuple[type[Protocol], bool | None]]] = {
    **{
        (package, f"{prefix}{name}"): (OpenAIProtocol, bool(prefix))
        for package, name in (("openai", "OpenAI"), ("groq", "Groq"))
        for prefix in ("", "Async")
    },
    **{
        ("anthropic", f"{prefix}Anthropic{place}"): (AnthropicProtocol, bool(prefix))
        for place in _ANTHROPIC
        for prefix in ("", "Async")
    },
    ("google.genai", "Client"): (GoogleProtocol, None),
    ("mistralai", "Mistral"): (MistralProtocol, None),
}
"""``{(package, class of its clients): (protocol, whether it is asynchronous)}``"""


def protocol_of(key: str, client: Any) -> Protocol:
    """Return the protocol of a client, by its class or one that this inherits from.

    Raises:
        ConfigurationError: If its class is not supported.
    """
    for cls in _classes_of(client):
        found = _CLASSES.get((_package_of(cls), cls.__name__))
        if found is not None:
            protocol, is_async = found
            return protocol(is_async=is_async)
    kind = type(client).__name__
    hint = ": pass the object, not its class" if isinstance(client, type) else ""
    raise ConfigurationError(
        f"client {key!r} is of type {kind}{hint}; wrap takes clients of openai, groq, anthropic, "
        "google-genai (Client) and mistralai (Mistral); for others write @failover"
    )


def _classes_of(client: Any) -> Iterable[type]:
    yield from type(client).__mro__
    seen = client.__class__  # what a proxy says that it is
    if seen is not type(client):
        yield from seen.__mro__


def _package_of(cls: type) -> str:
    # "google" is a namespace of many packages, several of which have a class Client.
    names = cls.__module__.split(".")
    return ".".join(names[: 2 if names[0] == "google" else 1])


def _text(name: Any) -> str:
    """Return the name of a header."""
    return name.decode("latin-1") if isinstance(name, bytes) else str(name)


def _shortened(given: Any, seconds: float) -> Any:
    """Return a timeout of httpx, in seconds or as an object, that is no longer than the rest."""
    if given is None:
        return seconds
    if isinstance(given, (int, float)):
        return min(given, seconds)
    parts = {name: getattr(given, name, None) for name in ("connect", "read", "write", "pool")}
    return type(given)(
        **{name: seconds if part is None else min(part, seconds) for name, part in parts.items()}
    )


def _milliseconds(given: Any, seconds: float) -> int:
    """Return a timeout in milliseconds, at least 1, that is no longer than the rest."""
    left = max(1, math.ceil(seconds * 1000.0))
    return min(given, left) if isinstance(given, int) and given > 0 else left


def _field(holder: Any, name: str) -> Any:
    """Return a field of a model or mapping of google-genai; None if there is none."""
    if isinstance(holder, Mapping):
        return holder.get(name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # users' input
    return getattr(holder, name, None)


def _with_http_options(arguments: Arguments, changes: Arguments) -> Arguments:
    """Return arguments with other HTTP options in their ``config``; the caller's is not changed."""
    config = arguments.get("config")
    options = _changed(_field(config, "http_options"), changes)
    return {**arguments, "config": _changed(config, {"http_options": options})}


def _changed(holder: Any, changes: Arguments) -> Any:
    """Return a copy of a model or mapping with other fields; a mapping for None."""
    if holder is None:
        return dict(changes)
    if isinstance(holder, Mapping):
        return {**cast("Mapping[str, Any]", holder), **changes}
    return holder.model_copy(update=_as_models(type(holder), changes))


def _as_models(cls: Any, changes: Arguments) -> Arguments:
    """Return changes with the models that fields of a model hold, as these are not validated."""
    validated = cls.model_validate(changes)
    return {name: getattr(validated, name) for name in changes}
