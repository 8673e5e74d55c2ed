"""`listen`: reads what a client's provider reports of its rate limits, in the headers of answers.

client = listen(AsyncOpenAI(max_retries=0))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from resilient_llm._runtime import hearing
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.target import normal_key

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["listen"]

C = TypeVar("C")

_HTTP: Final = frozenset({"httpx", "httpx2"})
_WITH_ONE: Final = frozenset({"anthropic", "groq", "openai"})
"""SDKs whose clients have one HTTP client, as ``_client``."""
_WITH_TWO: Final = "mistralai"
"""The SDK whose client has a synchronous and an asynchronous one."""


class _Hook:
    """What an HTTP client calls with each response, before its body is read."""

    __slots__ = ("key",)

    def __init__(self, key: str | None) -> None:
        self.key = key

    def __call__(self, response: Any) -> None:
        hearing.heard(response.headers, self.key)


class _AsyncHook:
    """The same for an asynchronous client."""

    __slots__ = ("key",)

    def __init__(self, key: str | None) -> None:
        self.key = key

    async def __call__(self, response: Any) -> None:
        hearing.heard(response.headers, self.key)


def listen(client: C, *, key: str | None = None) -> C:
    """Read the rate-limit headers of each answer that a client gets, and return the client.

    An answer belongs to the attempt in whose function the request is sent. An event hook of the
    HTTP client reads its headers and leaves its body alone, so streams are not held up. Copies of
    a client that share its HTTP client, such as those of ``with_options``, are listened to as well.
    The hook is gone when ``event_hooks`` of the HTTP client is set. Thread-safe.

    Examples:
        >>> client = listen(openai.AsyncOpenAI(max_retries=0), key="openai")

    Args:
        client: A client of httpx, httpx2, openai, anthropic, groq or mistralai, synchronous or
            asynchronous. A second call for the same client only replaces its ``key``.
        key: The target or provider key that answers outside of attempts belong to; None if such
            answers report nothing.

    Raises:
        ConfigurationError: If it is another object, or the key is not one.
    """
    known = None if key is None else normal_key(key)
    found = list(_http_clients(client))
    for each in found:
        _hook(each, known)
    hearing.switch_on()
    return client


def _http_clients(client: Any) -> Iterator[Any]:
    packages = _packages(client)
    if _is_http(client):
        yield client
        return
    inside: list[Any] = []
    if packages & _WITH_ONE:
        inside = [getattr(client, "_client", None)]
    elif _WITH_TWO in packages:
        options = getattr(client, "sdk_configuration", None)
        inside = [getattr(options, name, None) for name in ("client", "async_client")]
    inside = [each for each in inside if each is not None]
    if not inside or not all(map(_is_http, inside)):
        raise ConfigurationError(
            f"listen() cannot listen to an object of type {type(client).__name__}: write a client "
            "of httpx, httpx2, openai, anthropic, groq or mistralai, such as listen(client)"
        )
    yield from inside


def _classes(client: Any) -> tuple[type, ...]:
    # What a proxy stands for, if it is one.
    cls: Any = client.__class__
    return () if isinstance(client, type) else cls.__mro__


def _packages(client: Any) -> set[str]:
    return {cls.__module__.partition(".")[0] for cls in _classes(client)}


def _is_http(client: Any) -> bool:
    return any(
        cls.__name__ in ("Client", "AsyncClient") and cls.__module__.partition(".")[0] in _HTTP
        for cls in _classes(client)
    )


def _hook(client: Any, key: str | None) -> None:
    hooks: list[Any] = client.event_hooks["response"]
    for each in hooks:
        if isinstance(each, (_Hook, _AsyncHook)):
            each.key = key
            return
    is_async = any(cls.__name__ == "AsyncClient" for cls in _classes(client))
    hooks.append(_AsyncHook(key) if is_async else _Hook(key))
