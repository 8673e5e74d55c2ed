"""Makes the store that ``configure(state=…)`` names; nothing is connected yet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm.stores import Store

_REDIS: Final = ("redis", "rediss", "unix", "valkey", "valkeys")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,19}")
_METHODS: Final = ("publish", "changes", "wait", "claim", "reserve", "settle", "close")
ALLOWED: Final = (
    "write None, a Store such as RedisStore(client), or a URL: sqlite:///path, "
    "redis://host:port/0, rediss://…, unix://…, valkey://… or valkeys://…"
)


def open_store(state: Any, options: Mapping[str, Any]) -> Store:
    """Return the store that ``state=`` names.

    Args:
        state: A URL or a `Store`.
        options: All of ``STATE_OPTIONS``; those of a `Store` are its own.

    Raises:
        ConfigurationError: If it names none, or what it needs is not installed. The message shows
            nothing of a URL but its scheme.
    """
    if isinstance(state, str):
        return _of_url(state, options)
    if (
        isinstance(state, type)
        or not all(callable(getattr(state, name, None)) for name in _METHODS)
        or not isinstance(getattr(state, "url", None), str)
    ):
        raise ConfigurationError(f"state of type {type(state).__name__} is no store: {ALLOWED}")
    return state


def _of_url(url: str, options: Mapping[str, Any]) -> Store:
    scheme = url.partition(":")[0].lower()
    if scheme in _REDIS:
        from resilient_llm.stores.redis import RedisStore

        return RedisStore.from_url(url, namespace=options["namespace"])
    if scheme == "sqlite":
        from resilient_llm.stores.sqlite import SqliteStore

        return SqliteStore(_path_of(url), **options)
    near = check.near_names(scheme, (*_REDIS, "sqlite"))
    meant = f"; did you mean {near[0]}?" if near else ""
    raise ConfigurationError(f"a URL with {_shown(scheme, url)} is no store: {ALLOWED}{meant}")


def _shown(scheme: str, url: str) -> str:
    """Return the scheme of a URL as messages show it; what reads as none may be a password."""
    if ":" not in url:
        return "no scheme"
    if _SCHEME.fullmatch(scheme) is None or not url[len(scheme) :].startswith("://"):
        return "an unknown scheme"
    return f"the scheme {scheme}"


def _path_of(url: str) -> str:
    """Return the path of a URL of SQLite, which is always absolute."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    path = "" if parts is None else unquote(parts.path)
    if parts is None or parts.netloc or parts.query or parts.fragment or not path.startswith("/"):
        raise ConfigurationError(
            "a URL of SQLite names an absolute path and nothing else: write sqlite:///var/lib/app.db"
        )
    path = "/" + path.lstrip("/")
    if path in ("/", "/:memory:") or path.endswith("/") or "\0" in path:
        raise ConfigurationError(
            "a URL of SQLite names a file that processes share, neither a directory nor :memory:: "
            "write sqlite:///var/lib/app.db"
        )
    return path
