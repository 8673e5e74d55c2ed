"""`AdminClient`: asks the admin API of a running service, with the standard library alone.

A token is sent to the one URL that was given: redirects are not followed, certificates are
verified, and the token is in no message and no repr.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm import __version__
from resilient_llm.cli import _store
from resilient_llm.cli._exits import CommandError, UsageError
from resilient_llm.cli._output import shown
from resilient_llm.cli._shapes import as_object, as_objects
from resilient_llm.cli._within import within

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from resilient_llm.cli._store import StoreAddress

URL_VARIABLE: Final = "RESILIENT_LLM_ADMIN"
TOKEN_VARIABLE: Final = "RESILIENT_LLM_TOKEN"

SLOWEST: Final = 10.0
"""Seconds that an answer may take, from the lookup of the name to its last byte."""
NO_ANSWER: Final = "no answer in time"
_LARGEST: Final = 64 * 1024 * 1024
"""Bytes of the largest answer that is read: health of 100,000 keys."""
_LONGEST_DETAIL: Final = 500
"""Characters of a server's text that a message shows."""


UNREACHABLE: Final = (OSError, http.client.HTTPException, UnicodeError)
"""What a request raises that gets no answer; the last for host names that no lookup takes."""


_NOT_READY: Final = (429, 502, 503, 504)


class Answer(NamedTuple):
    """One answer of the admin API."""

    status: int
    content_type: str
    location: str
    body: bytes


class UnavailableError(CommandError):
    """The service, or what stands in front of it, is not ready: 429, 502, 503 or 504."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which service, or which store, is meant."""
    group = parser.add_argument_group("which service, or which store")
    group.add_argument(
        "--admin",
        metavar="URL",
        help=f"the URL of the admin page, such as https://shop/llm (default: {URL_VARIABLE})",
    )
    group.add_argument(
        "--token",
        help=f"the token of the admin page; other users of this machine see it in the list of "
        f"processes, so prefer the variable (default: {TOKEN_VARIABLE})",
    )
    _store.add_arguments(group)


def store_of(options: argparse.Namespace) -> StoreAddress | None:
    """Return the store that is meant; None if it is a service, or neither is named.

    Raises:
        UsageError: If both are named by options, or an option is empty.
    """
    if options.state is not None:
        for name in ("admin", "token"):
            if getattr(options, name) is not None:
                raise UsageError(f"--state and --{name} exclude each other: write one of them")
    has_service = options.admin is not None or bool(os.environ.get(URL_VARIABLE, "").strip())
    address = _store.address_of(options, has_service=has_service)
    if address is not None and options.token is not None:
        raise UsageError(f"--token goes with --admin URL, and {_store.URL_VARIABLE} is a store")
    return address


def client_of(options: argparse.Namespace) -> AdminClient:
    """Return the client for the service that the options or the environment name.

    Raises:
        UsageError: If neither names one, an option is empty, or URL or token cannot be used.
    """
    for name, given in (("admin", options.admin), ("token", options.token)):
        if given is not None and not given.strip():
            # Such as that of a script whose variable is not set: the service that the
            # environment names may be another one.
            raise UsageError(f"--{name} is empty: write a value, or leave --{name} out")
    url = options.admin or os.environ.get(URL_VARIABLE, "").strip()
    if not url:
        raise UsageError(
            f"which service? write --admin URL or --state URL, or set {URL_VARIABLE} or "
            f"{_store.URL_VARIABLE}"
        )
    token = options.token or os.environ.get(TOKEN_VARIABLE, "")
    return AdminClient(url, token.strip())


def service_of(options: argparse.Namespace) -> AdminClient:
    """Return the client for the service that is meant, for what no store has.

    Raises:
        CommandError: If a store is meant.
        UsageError: See `client_of`.
    """
    if store_of(options) is not None:
        raise CommandError(
            "a store has no calls and no chains, each process has its own: write --admin URL to "
            f"ask one of them, or set {URL_VARIABLE}"
        )
    return client_of(options)


class AdminClient:
    """Asks one admin API."""

    def __init__(self, url: str, token: str = "") -> None:
        """Take where the page is mounted, and the token, empty for none.

        Raises:
            UsageError: If either cannot be used; the message shows neither.
        """
        parts = _parts(url)
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/"
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise UsageError("the token has blanks or letters that no header can carry")
        self._token = token
        self._opener = opener(parts.hostname or "")

    def __repr__(self) -> str:
        return f"AdminClient({self.url!r})"

    @property
    def has_token(self) -> bool:
        """Whether there is a token to send."""
        return bool(self._token)

    # What there is.

    def rows(self, path: str, query: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return a list of objects.

        Raises:
            CommandError: If there is no such answer.
        """
        found = self.value(path, query)
        rows = as_objects(found)
        if [] != found != rows:
            raise CommandError(self._no_api("its answer is no list of objects"))
        return rows

    def value(
        self, path: str, query: Mapping[str, str] | None = None, *, also: Sequence[int] = ()
    ) -> Any:
        """Return what a path answers, decoded from JSON; ``also`` are statuses that are fine."""
        answer = self.send("GET", path, query)
        if answer.status != 200 and answer.status not in also:
            raise self.refusal(answer)
        return self.decoded(answer)

    def decoded(self, answer: Answer) -> Any:
        """Return the answer, decoded from JSON.

        Raises:
            CommandError: If it is not JSON.
        """
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError):
            raise CommandError(self._no_api("its answer is not JSON")) from None

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Send one request and return the answer, whatever its status.

        Raises:
            CommandError: If there is no answer.
        """
        request = self._request(method, path, query, body)

        def answered() -> Answer:
            with self._opener.open(request, timeout=SLOWEST) as response:
                return _answer(response, response.read(_LARGEST + 1))

        try:
            answer = within(SLOWEST, answered)
        except UNREACHABLE as failure:
            raise self.unreachable(failure) from None
        if len(answer.body) > _LARGEST:
            raise CommandError(self._no_api("its answer is too long"))
        return answer

    def open_stream(self, path: str, headers: Mapping[str, str], silence: float) -> Any:
        """Return a response whose body is read by the caller.

        Args:
            path: Below the page.
            headers: Further headers.
            silence: Seconds without a byte after which reading raises TimeoutError.

        Raises:
            CommandError: If it is not a stream of events.
            UNREACHABLE: If there is no answer.
        """
        request = self._request("GET", path, None, None)
        for name, value in headers.items():
            request.add_header(name, value)
        response = within(SLOWEST, lambda: self._opener.open(request, timeout=silence))
        content_type = str(response.headers.get("content-type", ""))
        if response.status == 200 and content_type.startswith("text/event-stream"):
            return response
        with response:
            if response.status == 200:
                raise CommandError(self._no_api("its answer is no stream of events"))
            body = within(SLOWEST, lambda: response.read(_LARGEST))
            raise self.refusal(_answer(response, body))

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
    ) -> urllib.request.Request:
        url = self.url + path + ("?" + urllib.parse.urlencode(query) if query else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, method=method)
        request.add_header("User-Agent", f"resilient-llm/{__version__}")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        return request

    # What went wrong.

    def refusal(self, answer: Answer) -> Exception:
        """Return the error that an answer stands for."""
        status, detail = answer.status, _detail(answer)
        if 300 <= status < 400:
            return CommandError(
                f"{self.url} redirects to {shown(origin_of(answer.location)) or 'another path'}, "
                "which is not followed, since the token would go there: write that as --admin"
            )
        if status == 401:
            return CommandError(
                f"{self.url} does not take this token"
                if self.has_token
                else f"{self.url} wants a token: set {TOKEN_VARIABLE}, or write --token"
            )
        if status == 403:
            return CommandError(f"{self.url} refused: {detail or 'no reason given'}")
        if status == 422:
            return UsageError(detail or f"{self.url} does not take these values")
        if status == 404 and detail is None:
            return CommandError(self._no_api("it answered 404"))
        said = f"{self.url} answered {status}" + (f": {detail}" if detail else "")
        return UnavailableError(said) if status in _NOT_READY else CommandError(said)

    def unreachable(self, failure: Exception) -> CommandError:
        """Return the error that a failed request stands for."""
        return CommandError(f"{self.url} cannot be reached: {why_unreachable(failure)}")

    def _no_api(self, why: str) -> str:
        return (
            f"{self.url} is not the admin API of resilient_llm ({why}): "
            "is --admin the URL at which the page is mounted?"
        )


def opener(host: str) -> urllib.request.OpenerDirector:
    """Return what opens URLs of a host, and returns every answer as it is, redirects included.

    Proxies are those of the environment, as clients of providers take them; never for this
    machine, for which a proxy has another one in mind.
    """
    proxies: dict[str, str] | None = {} if _is_loopback(host) else None
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
    ):
        made.add_handler(handler)
    return made


def why_unreachable(failure: BaseException) -> str:
    """Return in a few words why a request got no answer."""
    reason: object = failure.reason if isinstance(failure, urllib.error.URLError) else failure
    if isinstance(reason, socket.gaierror | UnicodeError):
        return "its host name does not resolve"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({shown(reason.verify_message)})"
    if isinstance(reason, ssl.SSLError):
        return "TLS failed; is it plain http?"
    if isinstance(reason, TimeoutError):
        return NO_ANSWER
    if isinstance(reason, ConnectionRefusedError):
        return "connection refused"
    if isinstance(reason, http.client.RemoteDisconnected | ConnectionResetError):
        return "the connection was closed before an answer"
    if isinstance(reason, http.client.HTTPException):
        return "its answer is not HTTP"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__  # what a text of the standard library says is rarely of use


def _parts(url: str) -> urllib.parse.SplitResult:
    """Return the parts of an http URL that may be asked.

    Raises:
        UsageError: If it is not one. The message does not show it: there may be a password in it.
    """
    allowed = "write --admin as https://host/path, the URL at which the admin page is mounted"
    try:
        parts = urllib.parse.urlsplit(url)
        has_host = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise UsageError(f"the URL is not one: {allowed}") from None
    if not (has_host and url.isascii() and url.isprintable() and " " not in url):
        raise UsageError(f"the URL is not one: {allowed}")
    if "@" in parts.netloc:
        raise UsageError(f"the URL has a user in it: {allowed}, and --token")
    if parts.query or parts.fragment:
        raise UsageError(f"the URL has something after ? or #: {allowed}, and --token")
    return parts


def origin_of(url: str) -> str:
    """Return scheme, host and port of an http URL; empty if it is none.

    The rest may hold what must not be shown.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        name, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    name = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{name}{port}" if parts.scheme in ("http", "https") and name else ""


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _answer(response: Any, body: bytes) -> Answer:
    headers = response.headers
    return Answer(
        response.status,
        str(headers.get("content-type", "")).partition(";")[0].strip().lower(),
        str(headers.get("location", "")),
        body,
    )


def _detail(answer: Answer) -> str | None:
    """Return what a problem says, as it may be shown; None if the answer is not a problem."""
    if answer.content_type != "application/problem+json":
        return None
    try:
        problem = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    fields = as_object(problem)
    return shown(fields.get("detail") or fields.get("title"))[:_LONGEST_DETAIL]
