"""The admin page and its API, an ASGI application to mount in yours (extra ``admin``).

    from starlette.applications import Starlette
    from starlette.routing import Mount
    from resilient_llm import admin

    app = Starlette(routes=[Mount("/llm", admin.app(authorize=admin.token("…")))])

The page shows what is benched, why, since when and until when, and benches and unbenches.
It shows this process: another worker of the same server has its own counts, and its own benches
unless they share a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._values import checks as _check
from resilient_llm.admin._access import Token, checked_authorize, checked_hosts, checked_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping
    from typing import Any

    from resilient_llm.admin._access import Authorize

    Message = MutableMapping[str, Any]
    ASGIApp = Callable[
        [
            MutableMapping[str, Any],
            Callable[[], Awaitable[Message]],
            Callable[[Message], Awaitable[None]],
        ],
        Awaitable[None],
    ]

__all__ = ["app", "token"]


def app(
    *, authorize: Authorize, hosts: Iterable[str] | None = None, read_only: bool = False
) -> ASGIApp:
    """Return the admin page and its API as an ASGI application, which needs no lifespan.

    Examples:
        >>> app.mount("/llm", admin.app(authorize=admin.token(os.environ["ADMIN_TOKEN"])))

    Args:
        authorize: Called as ``authorize(request, action)`` for every request of the API, with
            the request of Starlette and ``"read"`` or ``"write"``; sync functions run in a
            thread. True or a text that is not empty allows the request, and the text is
            written to a bench as who did it, cut at 200 characters. Everything else answers
            403, an error 500. `token` makes one.
        hosts: Names that the Host header may have, without a port; None for any.
        read_only: Whether to refuse every write.

    Raises:
        ConfigurationError: If ``authorize`` is None or cannot be called, or a host is not a name.
        ImportError: If the extra ``admin`` is not installed.
    """
    _check.flag("read_only", read_only)
    return _made(authorize, hosts, read_only=read_only)


def of_store(*, authorize: Authorize, hosts: Iterable[str]) -> ASGIApp:
    """Return the same for a process that makes no calls: it shows the store that it shares."""
    return _made(authorize, hosts, of_store=True)


def _made(
    authorize: Authorize,
    hosts: Iterable[str] | None,
    *,
    read_only: bool = False,
    of_store: bool = False,
) -> ASGIApp:
    checked_authorize(authorize)
    names = checked_hosts(hosts)
    try:
        from resilient_llm.admin import _app
    except ImportError as error:
        raise ImportError(
            f'the admin page needs {error.name}: pip install "resilient-llm[admin]"',
            name=error.name,
        ) from error
    return _app.Admin(authorize, names, read_only=read_only, of_store=of_store)


def token(secret: str) -> Authorize:
    """Return an ``authorize`` that allows who sends ``Authorization: Bearer <secret>``.

    The comparison takes the same time wherever the two differ. A request without it is
    answered by 401.

    Args:
        secret: At least 16 printable ASCII characters without blanks. To make one:
            ``python -c "import secrets; print(secrets.token_urlsafe(32))"``.

    Raises:
        ConfigurationError: If it is too short, or no header can carry it. The message does
            not repeat it.
    """
    return Token(checked_token(secret))
