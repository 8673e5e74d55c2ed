"""Who may do what: the token, the names of the host, and writes that another site began."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    Authorize = Callable[[Request, "Action"], "object | Awaitable[object]"]

Action = Literal["read", "write"]

SHORTEST_TOKEN: Final = 16
_ONCE: Final = ("authorization", "content-type", "host", "origin", "sec-fetch-site")
"""Headers that decide who may do what. A proxy may have looked at another one of two."""
_HOST_NAME: Final = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\]"
)


class Token:
    """Allows the requests that carry one token."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def __call__(self, request: Request, action: Action) -> bool:
        # Headers are decoded as latin-1, which gives back every byte that was sent.
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), self._secret)
        return is_right and scheme.lower() == "bearer"

    def __repr__(self) -> str:
        return "token(…)"

    def __copy__(self) -> Token:
        return self

    def __deepcopy__(self, memo: object) -> Token:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("admin.token('…') cannot be pickled: the pickle would show the token")


def checked_authorize(authorize: Any) -> None:
    """Raise ConfigurationError if nobody, or anybody, would be let in."""
    if isinstance(authorize, type) or not callable(authorize):
        raise ConfigurationError(
            f"authorize of type {type(authorize).__name__} is not allowed: write "
            "admin.token('…') or a function of (request, action) that returns True, or a name, "
            "for those who may"
        )


def checked_token(secret: Any) -> str:
    """Return a token that is long enough, and that a header can carry."""
    if not isinstance(secret, str):
        raise ConfigurationError(
            f"token of type {type(secret).__name__} is not allowed: write a text"
        )
    if len(secret) < SHORTEST_TOKEN:
        raise ConfigurationError(
            f"a token of {len(secret)} characters is too short: "
            f"at least {SHORTEST_TOKEN} are needed"
        )
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise ConfigurationError(
            "the token has characters that no header can carry: "
            "write printable ASCII characters without blanks"
        )
    return secret


def checked_hosts(hosts: Any) -> frozenset[str] | None:
    """Return the names of hosts in small letters, or None for any."""
    if hosts is None:
        return None
    allowed = "write names such as ['llm.example.com', 'localhost'], without scheme and port"
    if isinstance(hosts, (str, bytes)) or not isinstance(hosts, Iterable):
        raise ConfigurationError(f"hosts={hosts!r} is not allowed: {allowed}, or None for any")
    names: list[Any] = list(hosts)  # pyright: ignore[reportUnknownArgumentType]  # users' input
    if not names:
        raise ConfigurationError(f"hosts is empty, so that no request is allowed: {allowed}")
    for name in names:
        if not isinstance(name, str) or not _HOST_NAME.fullmatch(name):
            raise ConfigurationError(f"hosts has {name!r}, which is no name of a host: {allowed}")
    return frozenset(name.lower() for name in names)


def host_name(host: str) -> str:
    """Return the name in a Host header, without its port, in small letters."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def repeated_header(names: Iterable[bytes]) -> str | None:
    """Return a header that decides who may do what and comes more than once, or None.

    Args:
        names: Of the headers in the order they came, in small letters.
    """
    given = list(names)
    return next((each for each in _ONCE if given.count(each.encode()) > 1), None)


def is_from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Return whether a write was begun by the page of another site, as far as a browser tells.

    A browser sends ``Sec-Fetch-Site`` to https and to loopback, and an Origin with every write.
    What sends neither is no browser of today. It must show that it has a secret, since a page of
    another site cannot add that header without being asked for permission first.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is not None:
        _, separator, place = origin.partition("://")
        return not separator or not place or place.lower() != headers.get("host", "").lower()
    return "authorization" not in headers
