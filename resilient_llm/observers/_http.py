"""One POST, as a webhook sends it: no redirects, a limit on all of it, and no secret in errors.

Knows nothing of events. Uses the standard library, with the proxies of the environment.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from resilient_llm._values.errors import ConfigurationError
from resilient_llm.observers._exporter import alarm

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

_ALLOWED: Final = re.compile(r"[!-~]+")
"""Characters of a URL as it is sent: others must be percent-encoded, names of hosts in punycode."""

_SUPPRESSING: Final = (
    "suppress_instrumentation",
    "_SUPPRESS_INSTRUMENTATION_KEY",
    "_SUPPRESS_HTTP_INSTRUMENTATION_KEY",
)
"""Keys that instrumentations look for, or names of constants in which OpenTelemetry keeps them."""


class Endpoint:
    """Where messages are posted. Its URL and secret are in no repr and in no error."""

    __slots__ = ("_headers", "_opener", "_secret", "_url")

    def __init__(self, url: Any, secret: Any) -> None:
        """Check a URL and the secret for the signature.

        Raises:
            ConfigurationError: If one is not allowed; the message does not repeat it.
        """
        self._url, user = checked_url(url)
        self._secret = _checked_secret(secret)
        self._headers = {"Content-Type": "application/json", "User-Agent": "resilient-llm"}
        if user is not None:
            self._headers["Authorization"] = f"Basic {base64.b64encode(user).decode()}"
        self._opener: Any = None

    def __reduce__(self) -> Any:
        raise TypeError(
            "the endpoint of a webhook cannot be pickled: its URL and secret would show"
        )

    def post(self, body: bytes, timeout: float) -> str:
        """Send a body; return why it was not taken, in a few words, or an empty text.

        The body of the response is not read. Every status but 2xx is a failure, a redirect too:
        what is sent is meant for this address alone.

        Args:
            body: JSON, in UTF-8.
            timeout: Seconds for connecting, sending and the head of the response together.
        """
        import urllib.request

        headers = {**self._headers, **self._signature(body)}
        limit = alarm()
        try:
            request = urllib.request.Request(self._url, body, headers, method="POST")
            limit.set(timeout)
            with untraced(), self._opened(request, timeout) as response:
                status: int = response.status
                if limit.off():
                    return (
                        "timeout"  # the head of the response was cut off, which looks like its end
                    )
        except BaseException as error:
            # Under gevent the limit raises in the wait, and that is not an Exception. It may come a
            # little earlier than `off` measures.
            if limit.raised(error):
                return "timeout"
            if not isinstance(error, Exception):
                raise
            # Only the class: the text of some has the URL in it.
            reason: Any = getattr(error, "reason", None)
            shown = reason if isinstance(reason, Exception) else error
            return "timeout" if limit.off() else type(shown).__name__
        finally:
            limit.close()
        return "" if 200 <= status <= 299 else f"status {status}"

    def _opened(self, request: Any, timeout: float) -> Any:
        import urllib.request

        if self._opener is None:
            import ssl

            opener = urllib.request.OpenerDirector()
            for handler in (
                urllib.request.ProxyHandler(),
                urllib.request.HTTPHandler(),
                urllib.request.HTTPSHandler(context=ssl.create_default_context()),
                urllib.request.UnknownHandler(),
            ):
                opener.add_handler(handler)
            # Without the handlers of errors and redirects: every response comes as it is.
            self._opener = opener
        return self._opener.open(request, timeout=timeout)

    def _signature(self, body: bytes) -> Mapping[str, str]:
        if self._secret is None:
            return {}
        digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        return {"X-Signature-256": f"sha256={digest}"}


@contextmanager
def untraced() -> Generator[None]:
    """Have instrumentations of OpenTelemetry make no span of what is sent meanwhile.

    The span of an HTTP client has the URL in it, and the receiver would be sent a ``traceparent``.
    Where OpenTelemetry is not loaded, there is no instrumentation and nothing is loaded for this.
    """
    otel: Any = sys.modules.get("opentelemetry.context")
    token = None
    with suppress(Exception):  # of a context of the user's, or while it is still being loaded
        if otel is not None:
            context = otel.get_current()
            for key in _SUPPRESSING:
                context = otel.set_value(getattr(otel, key, key), True, context)
            token = otel.attach(context)
    try:
        yield
    finally:
        if otel is not None and token is not None:
            with suppress(Exception):
                otel.detach(token)


def checked_url(url: Any) -> tuple[str, bytes | None]:
    """Return the URL without credentials, and these."""
    parts: Any = None
    port: int | None = None
    if isinstance(url, str) and _ALLOWED.fullmatch(url):
        with suppress(ValueError):
            split = urlsplit(url)
            port = split.port
            parts = split if port != 0 else None
    # Not inside the handler of an error, whose text has parts of the URL in it.
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            "url is not allowed: write an http:// or https:// URL with a host, whose other "
            "characters are percent-encoded"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    user = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    netloc = host if port is None else f"{host}:{port}"
    return parts._replace(netloc=netloc, fragment="").geturl(), user


def _checked_secret(secret: Any) -> bytes | None:
    if secret is None:
        return None
    if isinstance(secret, str):
        with suppress(UnicodeEncodeError):
            secret = secret.encode()
    if not isinstance(secret, bytes) or not secret:
        raise ConfigurationError(
            "secret is not allowed: write a text or bytes that are not empty, or None"
        )
    return secret
