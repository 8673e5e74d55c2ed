"""`http_probe` and `ollama_probe`: ask a server over HTTP, and look at the status alone.

With httpx2 or httpx such a probe is asynchronous, for asyncio and trio alike, and a timeout closes
its connection. Without them it is synchronous, by urllib, and runs in a thread. It uses the
transport of the library and not its client, which logs the URL.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from resilient_llm._core.health_probe import BROKEN, Judgement, judge_error
from resilient_llm._runtime.classify import classify
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
from resilient_llm._version import __version__
from resilient_llm.observers._http import checked_url, untraced

_LIBRARIES: Final = ("httpx2", "httpx")
_LONGEST: Final = 60.0
"""Seconds for each step of a request: what hangs in a thread ends at last."""
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[!-~]([ \t!-~]*[!-~])?|")
_AS_ERRORS: Final = (401, 402, 403, 429)
"""Statuses that mean what they mean to a call."""


class StatusError(Exception):
    """A probe was answered with another status than it expects.

    Attributes:
        status_code: The status.
        headers: Those of the response.
    """

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(f"it was answered with status {status}")
        self.status_code = status
        self.headers = headers

    def judgement(self) -> Judgement:
        """Return what the status means: nothing if it shows a wrong URL and not a wrong key."""
        status = self.status_code
        if status in _AS_ERRORS:
            return judge_error(classify(self))
        if status == 408 or 500 <= status <= 599:
            verdict = classify(self)
            # Not of 501, which a call takes for a dead end. Memory pressure is what a rule says.
            if verdict.kind not in (ErrorKind.TRANSIENT, ErrorKind.MEMORY_PRESSURE):
                verdict = Verdict(ErrorKind.TRANSIENT, "server_error", status=status)
            return judge_error(verdict)
        return BROKEN


class _Asked(NamedTuple):
    """What is asked, and what is expected."""

    url: str
    headers: dict[str, str]
    expect: tuple[int, int]

    @property
    def is_secure(self) -> bool:
        return self.url.startswith("https:")

    def check(self, status: int, headers: Mapping[str, str]) -> None:
        low, high = self.expect
        if not low <= status <= high:
            raise StatusError(status, {name.lower(): value for name, value in headers.items()})


class _HttpProbe:
    """A probe that shows neither its URL nor its headers."""

    __slots__ = ("_asked", "_name")

    def __init__(self, name: str, asked: _Asked) -> None:
        self._name = name
        self._asked = asked

    def __repr__(self) -> str:
        return f"<{self._name}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self._name} cannot be pickled: its URL and headers would show")


class _AsyncProbe(_HttpProbe):
    """Asks by the transport of httpx2 or httpx."""

    __slots__ = ("_library", "_verify")

    def __init__(self, name: str, asked: _Asked, library: Any) -> None:
        super().__init__(name, asked)
        self._library = library
        # To load the certificates takes a while, in which an event loop would wait. So does what
        # the library loads for its first transport, and that is not in the time of a probe.
        self._verify: Any = library.create_ssl_context() if asked.is_secure else False
        library.AsyncHTTPTransport(verify=self._verify)

    async def __call__(self) -> None:
        library, asked = self._library, self._asked
        request = library.Request(
            "GET",
            asked.url,
            headers=asked.headers,
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), _LONGEST)},
        )
        transport = library.AsyncHTTPTransport(verify=self._verify, proxy=_proxy_of(asked.url))
        async with transport:
            with untraced():
                response = await transport.handle_async_request(request)
            await response.aclose()
        asked.check(response.status_code, response.headers)


class _SyncProbe(_HttpProbe):
    """Asks by urllib."""

    __slots__ = ("_context",)

    def __init__(self, name: str, asked: _Asked) -> None:
        super().__init__(name, asked)
        self._context = _ssl_context() if asked.is_secure else None

    def __call__(self) -> None:
        import urllib.request

        asked = self._asked
        request = urllib.request.Request(asked.url, headers=asked.headers, method="GET")
        with untraced(), self._opened(request) as response:
            status, headers = response.status, dict(response.headers.items())
        asked.check(status, headers)

    def _opened(self, request: Any) -> Any:
        import urllib.request

        if self._context is None and (_proxy_of(self._asked.url) or "").startswith("https:"):
            self._context = _ssl_context()
        opener: Any = urllib.request.OpenerDirector()
        # Without the handlers of errors and redirects: every response comes as it is.
        opener.add_handler(urllib.request.ProxyHandler())
        opener.add_handler(urllib.request.HTTPHandler())
        if self._context is not None:
            opener.add_handler(urllib.request.HTTPSHandler(context=self._context))
        opener.add_handler(urllib.request.UnknownHandler())
        return opener.open(request, timeout=_LONGEST)


def _ssl_context() -> Any:
    import ssl

    return ssl.create_default_context()


def http_probe(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    expect: tuple[int, int] = (200, 299),
) -> Callable[[], Any]:
    """Return a probe that sends a GET request and looks at the status of the response.

    It is asynchronous if httpx2 or httpx is installed, on asyncio and trio, and otherwise
    synchronous. Proxies are taken from the environment. No redirect is followed. URL and headers
    are shown nowhere.

    Examples:
        >>> http_probe("https://api.groq.com/openai/v1/models", headers={"Authorization": "…"})

    Args:
        url: An http or https URL, for example that of the list of models.
        headers: ``{name: value}`` of the request.
        expect: The lowest and the highest status of a key that is well. Of others, 401, 402 and
            403 are dead keys, 429 is a rate limit, and 408 and 5xx are not well. The rest, such as
            404 or a redirect, is not about the key: the probe is broken.

    Raises:
        ConfigurationError: If a value is not allowed. The message repeats neither URL nor headers.
    """
    return _probe("http_probe", url, headers, expect)


def ollama_probe(url: str = "http://127.0.0.1:11434") -> Callable[[], Any]:
    """Return a probe that asks an Ollama server for the list of its models, ``/api/tags``.

    Args:
        url: Where the server is, without a path; ``http://127.0.0.1:11434`` is its default.

    Raises:
        ConfigurationError: If it is not an http or https URL; the message does not repeat it.
    """
    checked, _ = checked_url(url)
    if urlsplit(checked).query:
        raise ConfigurationError("url has a query: write where the server is, such as http://host")
    return _probe("ollama_probe", url.partition("#")[0].rstrip("/") + "/api/tags", None, (200, 299))


def _probe(name: str, url: Any, headers: Any, expect: Any) -> Callable[[], Any]:
    plain, user = checked_url(url)
    sent = {"User-Agent": f"resilient-llm/{__version__}", "Accept": "*/*"}
    if user is not None:
        sent["Authorization"] = f"Basic {base64.b64encode(user).decode()}"
    given = _checked_headers(headers)
    replaced = {each.lower() for each in given}
    sent = {each: value for each, value in sent.items() if each.lower() not in replaced}
    asked = _Asked(plain, {**sent, **given}, _checked_statuses(expect))
    # What a probe needs is loaded now, and not in its time.
    import encodings.idna  # noqa: F401  # pyright: ignore[reportUnusedImport]  # for names of hosts
    import urllib.request  # noqa: F401  # pyright: ignore[reportUnusedImport]

    for library in _LIBRARIES:
        try:
            return _AsyncProbe(name, asked, import_module(library))
        except ImportError:
            continue
    return _SyncProbe(name, asked)


def _checked_headers(headers: Any) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise ConfigurationError(
            f"headers of type {type(headers).__name__} is not allowed: write a mapping of names "
            "to values"
        )
    checked: dict[str, str] = {}
    for name, value in dict[Any, Any](headers).items():  # pyright: ignore[reportUnknownArgumentType]  # users' input
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError("headers has a name that is not allowed: write a token")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            # The name is safe to show; a key is in the value.
            raise ConfigurationError(
                f"headers[{name!r}] is not allowed: write printable ASCII characters, without a "
                "blank or a line break at the end"
            )
        checked[name] = value
    return checked


def _checked_statuses(expect: Any) -> tuple[int, int]:
    if (
        isinstance(expect, tuple)
        and len(expect) == 2  # pyright: ignore[reportUnknownArgumentType]  # users' input
        and all(isinstance(each, int) and not isinstance(each, bool) for each in expect)  # pyright: ignore[reportUnknownVariableType]  # users' input
    ):
        low, high = expect  # pyright: ignore[reportUnknownVariableType]  # users' input
        if 100 <= low <= high <= 599:
            return low, high  # pyright: ignore[reportUnknownVariableType]  # users' input
    raise ConfigurationError(
        "expect is not allowed: write the lowest and the highest status, such as (200, 299)"
    )


def _proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for a URL."""
    from urllib.request import getproxies, proxy_bypass

    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
