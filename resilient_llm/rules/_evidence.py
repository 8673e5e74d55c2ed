"""What is read once from an error.

An error is a foreign object: its attributes may be properties that raise, its ``__str__``
may fail, its response may not be downloaded yet. Only this file and those it imports read
it; nothing here does I/O, and a value of an unexpected type counts as missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.rules._bodies import decoded, downloaded, failure_in, parts_of, quoted_body
from resilient_llm.rules._class_info import DETAILED, ErrorClass, class_of
from resilient_llm.rules._foreign import as_status, attribute, called, item
from resilient_llm.rules._headers import NO_HEADERS, names_no_wait, read_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MESSAGES: Final = (
    "message", "msg", "detail", "title", "description", "error_description", "Message", "error",
    "raw",
)  # fmt: skip
CODES: Final = (
    "code", "type", "status", "reason", "error_code", "error_type", "Code", "errorCode", "__type",
)  # fmt: skip
ATTRIBUTES_OF_CODES: Final = (
    "code", "type", "status", "error_code", "error_type", "provider_error_code",
    "provider_error_type",
)  # fmt: skip
_LONGEST_CODE: Final = 128
_LONGEST_TEXT: Final = 4_000
_MOST_ARGS: Final = 8
_MOST_CAUSES: Final = 12
_TEXTS: Final = (str, bytes)
_OTHER_BODIES: Final = frozenset(("json_body", "details", "llm_provider", "http_body"))
"""Attributes besides ``body`` and ``response`` that lead to a body."""
_OTHER_MESSAGES: Final = frozenset(("error", "detail", "title", "details", "rcvd"))
"""Attributes besides ``message`` that have a message."""
_PLAIN: Final = (str, bytes, int, float, type(None))


class Evidence:
    """What one error says.

    What every rule uses is read once, by `read`; the rest is read when first asked for.

    Attributes:
        error: The error; rules use its causes and its traceback, nothing else.
        error_class: What its class says.
        wall: Gives seconds since 1970.
        attributes: ``{name: value}`` of the error's own attributes and of those its class holds.
        is_bare: Whether it has at most a status and a message: no body, code or header.
        status: HTTP status, also of a response inside; None below 100 and above 599.
        failed_status: The status if it means a failure: that of the response, else a number in
            the body.
        body: The decoded body: a mapping, a list, a text, or None.
        parts: The mappings in which providers put codes and messages, outermost last.
        codes: Machine-readable words of the body and the error, lower-cased, the most specific
            first.
        matched_by: What the deciding rule recognised, ``(kind of evidence, which)``; for
            explanations.
        hint_from: Where the wait was read; for explanations.
    """

    __slots__ = (
        "_rates", "_text", "_waits", "attributes", "body", "codes", "error", "error_class",
        "failed_status", "hint_from", "is_bare", "matched_by", "parts", "status", "wall",
    )  # fmt: skip

    attributes: Mapping[str, Any]
    body: Any
    parts: tuple[dict[str, Any], ...]
    codes: tuple[str, ...]
    status: int | None
    failed_status: int | None

    def __init__(
        self,
        error: BaseException,
        error_class: ErrorClass,
        wall: Callable[[], float],
        plain: Mapping[str, Any] | None = None,
    ) -> None:
        self.error = error
        self.error_class = error_class
        self.wall = wall
        self.matched_by: tuple[str, Any] = ("", None)
        self.hint_from = ""
        self._text: str | None = None
        self._waits: Mapping[str, str] | None = None
        self._rates: Mapping[str, str] | None = None
        if plain is not None:
            self.attributes = plain
            self.is_bare = False
            return
        try:
            own: Any = error.__dict__
        except Exception:  # noqa: BLE001  # a foreign class
            own = None
        attributes: dict[str, Any] = own or {}
        for name in error_class.read:
            if name not in attributes:
                attributes = _with_class_attributes(error, attributes, error_class.read)
                break
        self.attributes = attributes
        if attributes and (
            (error_class.is_detailed and type(attributes) is dict)
            or not attributes.keys().isdisjoint(DETAILED)
        ):
            self.is_bare = False
            return
        args = error.args
        # langchain raises ValueError({"code": 402, ...}).
        if args and type(args[0]) is not str and isinstance(args[0], dict):
            self.is_bare = False
            return
        # What reading these would give; most errors of the caller's own code end here.
        self.is_bare = True
        self.body, self.parts, self.codes = None, (), ()
        words = attributes.get("message")
        if type(words) is not str:
            words = _joined(args)
        self._text = words[:_LONGEST_TEXT].lower()
        self._waits = self._rates = NO_HEADERS
        status = as_status(attributes.get("status_code"))
        self.status = status = (
            as_status(attributes.get("http_status")) if status is None else status
        )
        self.failed_status = status if status is not None and status >= 300 else None

    def plain(self) -> Evidence | None:
        """Return the evidence with numbers and texts only; None if that takes nothing out."""
        attributes = {
            name: value for name, value in self.attributes.items() if type(value) in _PLAIN
        }
        return (
            None
            if len(attributes) == len(self.attributes)
            else Evidence(self.error, self.error_class, self.wall, attributes)
        )

    def read(self) -> None:
        """Read what every rule asks for, if the error has more than a status and a message."""
        if self.is_bare:
            return
        attributes = self.attributes
        body: Any = attributes.get("body")
        if type(body) is not dict:  # openai and anthropic have it decoded
            body = self._read_body()
        self.body = body
        self.parts = parts = () if body is None else parts_of(body)
        status = attributes.get("status_code")
        if type(status) is not int or not 100 <= status <= 599:
            status = self._read_status()
        self.status = status
        self.failed_status = status if status is not None and status >= 300 else failure_in(parts)
        self.codes = self._read_codes()

    def status_alone(self) -> int | None:
        """Return the status of a failure, reading no more than that takes."""
        if self.is_bare:
            return self.failed_status
        status = self._read_status()
        if status is not None and status >= 300:
            return status
        body = self._read_body()
        return None if body is None else failure_in(parts_of(body))

    def _read_status(self) -> int | None:
        attributes = self.attributes
        for name in ("status_code", "status", "http_status", "code"):
            status = as_status(attributes[name]) if name in attributes else None
            if status is not None:
                return status
        response = attributes.get("response")
        if response is None:
            return None
        if isinstance(response, dict):  # botocore
            return as_status(
                item(item(cast("Any", response), "ResponseMetadata"), "HTTPStatusCode")
            )
        return as_status(attribute(response, "status_code")) or as_status(
            attribute(response, "status")
        )

    def _read_body(self) -> Any:
        attributes = self.attributes
        if attributes.get("body") is None and attributes.keys().isdisjoint(_OTHER_BODIES):
            return self._body_of_response()
        for name in ("body", "json_body", "details"):
            if name not in attributes or (found := attributes[name]) is None:
                continue
            if isinstance(found, (dict, list)):
                return cast("Any", found)
            if type(found) in _TEXTS and found:
                return decoded(found)
        if "llm_provider" in attributes:  # litellm quotes the body in its message
            return quoted_body(attributes.get("message"))
        return self._body_of_response()

    def _body_of_response(self) -> Any:
        attributes = self.attributes
        response = attributes.get("response")
        if isinstance(response, dict):
            return cast("Any", response)
        found = None if response is None else downloaded(response)
        if found is None:
            found = attributes.get("http_body")
        if type(found) in _TEXTS and found:
            return decoded(found)
        args = self.error.args
        if args and type(args[0]) is not str and isinstance(args[0], dict):
            return cast("Any", args[0])
        return None

    def _read_codes(self) -> tuple[str, ...]:
        found: list[str] = []
        for part in self.parts:
            found += [
                word[:_LONGEST_CODE].lower()
                for name in CODES
                if name in part and type(word := part[name]) is str
            ]
        attributes = self.attributes
        for word in map(attributes.get, ATTRIBUTES_OF_CODES):
            if word is None:
                continue
            if type(word) is str:
                if (low := word[:_LONGEST_CODE].lower()) not in found:
                    found.append(low)
            elif self.is_grpc and callable(word):
                found.extend(_grpc_code(word))
        error = attributes.get("error")
        if error is not None and type(error) is not str:
            word = attribute(error, "code")  # azure.core puts an object there
            if type(word) is str:
                found.append(word[:_LONGEST_CODE].lower())
        return tuple(found)

    @property
    def text(self) -> str:
        """The error's messages, lower-cased and cut; never for logs, they may hold a prompt."""
        text = self._text
        if text is None:
            text = self._text = self._read_text()
        return text

    def _read_text(self) -> str:
        if self.body is None and self.attributes.keys().isdisjoint(_OTHER_MESSAGES):
            words = self.attributes.get("message")
            if type(words) is not str:
                words = _joined(self.error.args)
            return words[:_LONGEST_TEXT].lower()
        texts: list[str] = []
        for part in self.parts:
            texts += [
                text[:_LONGEST_TEXT]
                for name in MESSAGES
                if name in part and type(text := part[name]) is str
            ]
        body = self.body
        if type(body) is str:
            texts.append(body[:_LONGEST_TEXT])
        attributes = self.attributes
        if not texts:
            names = ("error", "detail", "title", "message")
            texts += [
                text[:_LONGEST_TEXT]
                for name in names
                if name in attributes and type(text := attributes[name]) is str
            ]
        if "details" in attributes and self.is_grpc and callable(attributes["details"]):
            text = called(attributes["details"])
            if type(text) is str:
                texts.append(text[:_LONGEST_TEXT])
        if "rcvd" in attributes:  # websockets
            reason = attribute(attributes["rcvd"], "reason")
            if type(reason) is str:
                texts.append(reason[:_LONGEST_TEXT])
        return ("\n".join(texts) if texts else _joined(self.error.args))[:_LONGEST_TEXT].lower()

    @property
    def waits(self) -> Mapping[str, str]:
        """``{lower-cased name: value}`` of the headers that name a wait or forbid a retry."""
        waits = self._waits
        if waits is None:
            headers = self._headers()
            if headers is None or names_no_wait(headers):
                waits = self._waits = NO_HEADERS
            else:
                waits, _ = self._read_headers(headers)
        return waits

    @property
    def rates(self) -> Mapping[str, str]:
        """``{lower-cased name: value}`` of the headers about rate limits."""
        rates = self._rates
        if rates is None:
            _, rates = self._read_headers(self._headers())
        return rates

    def _read_headers(self, headers: Any) -> tuple[Mapping[str, str], Mapping[str, str]]:
        waits: dict[str, str] = {}
        rates: dict[str, str] = {}
        self._waits, self._rates = waits, rates
        read_headers(headers, waits, rates)
        return waits, rates

    def _headers(self) -> Any:
        attributes = self.attributes
        for name in ("headers", "litellm_response_headers"):
            if name in attributes and (headers := attributes[name]):
                return headers
        response: Any = attributes.get("response")
        if isinstance(response, dict):
            return item(item(cast("Any", response), "ResponseMetadata"), "HTTPHeaders")
        return self._headers_of_cause() if response is None else attribute(response, "headers")

    def _headers_of_cause(self) -> Any:
        """Return the headers of the SDK's error, of which pydantic-ai keeps the body alone."""
        names, cause = self.error_class.names, self.error.__cause__
        if cause is None or "pydantic_ai.ModelHTTPError" not in names:
            return None
        cause_class = class_of[type(cause)]
        if "pydantic_ai.ModelHTTPError" in cause_class.names:
            return None
        return Evidence(cause, cause_class, self.wall)._headers()

    @property
    def is_grpc(self) -> bool:
        """Whether its code and its details are methods; methods of other classes are not called."""
        return "grpc.RpcError" in self.error_class.names

    def inner(self) -> Iterator[BaseException]:
        """Yield the errors inside, from the outermost to the operating system's own."""
        return _beneath(self.error)


def _with_class_attributes(
    error: BaseException, own: Mapping[str, Any], names: tuple[str, ...]
) -> dict[str, Any]:
    attributes = dict(own)
    for name in names:
        if name not in attributes:
            attributes[name] = attribute(error, name)
    return attributes


def _joined(args: tuple[Any, ...]) -> str:
    if len(args) == 1 and type(args[0]) is str:
        return args[0][:_LONGEST_TEXT]
    return "\n".join([arg[:_LONGEST_TEXT] for arg in args[:_MOST_ARGS] if type(arg) is str])


def _grpc_code(method: Any) -> Iterator[str]:
    """Errors of grpc have a method ``code()`` that returns an enum."""
    name = attribute(called(method), "name")
    if type(name) is str:
        yield name.lower()


def _beneath(error: BaseException) -> Iterator[BaseException]:
    inner: BaseException | None = error
    for _ in range(_MOST_CAUSES):  # also guards against a ring
        inner = inner.__cause__ or inner.__context__ or _buried(inner)
        if inner is None:
            return
        yield inner
        # An error of the system is the root; its context is unrelated.
        if isinstance(inner, OSError) and class_of[type(inner)].is_standard:
            return


def _buried(error: BaseException) -> BaseException | None:
    """urllib and urllib3 keep the cause in ``reason`` or as an argument."""
    reason = attribute(error, "reason")
    if isinstance(reason, BaseException):
        return reason
    return next((arg for arg in error.args[:2] if isinstance(arg, BaseException)), None)
