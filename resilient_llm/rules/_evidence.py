"""What is read once from an error, and the helpers with which rules write verdicts.

An error is somebody else's object: its attributes may be properties that raise, its
``__str__`` may fail, its response may not be downloaded yet. Only this file touches it,
nothing here does I/O, and whatever is not of the expected type counts as not there.
What depends on the class alone is kept per class, weakly, so that thousands of
short-lived classes are no leak. SDKs are recognised by shape, never imported.
"""

from __future__ import annotations

import re
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from resilient_llm._per_class import PerClass
from resilient_llm._values import ErrorKind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# Top-level packages through which LLM calls are made. Their errors may be read by their
# sentences, and a JSON error raised inside them is a broken body.
CLIENTS: Final = frozenset(
    """
    ai21 aiobotocore aiohttp anthropic azure boto3 botocore cerebras cohere dashscope deepseek fireworks
    google google_genai groq grpc h11 h2 http httpcore httpx huggingface_hub ibm_watsonx_ai instructor langchain
    langchain_anthropic langchain_aws langchain_cohere langchain_community langchain_core langchain_google_genai
    langchain_groq langchain_mistralai langchain_ollama langchain_openai litellm llama_cpp llama_index mistralai
    ollama openai portkey_ai pydantic_ai replicate requests together torch urllib urllib3 vertexai voyageai websocket
    websockets xai_sdk zhipuai
    """.split()
)

# Attributes worth reading. Most sit in the instance; those of the class (properties,
# slots, class attributes) are found once per class.
_ATTRIBUTES: Final = (
    "status_code", "status", "http_status", "code", "type", "reason", "error_code", "error_type", "retry_after",
    "provider_error_code", "provider_error_type",
    "body", "details", "json_body", "http_body", "error", "detail", "title", "message",
    "response", "headers", "litellm_response_headers", "llm_provider", "rcvd", "trailing_metadata",
)  # fmt: skip
MESSAGES: Final = ("message", "msg", "detail", "title", "description", "error_description", "Message", "error", "raw")
CODES: Final = ("code", "type", "status", "reason", "error_code", "error_type", "Code", "errorCode", "__type")
ATTRIBUTES_OF_CODES: Final = (
    "code", "type", "status", "error_code", "error_type", "provider_error_code", "provider_error_type",
)  # fmt: skip
_MESSAGES: Final = frozenset(MESSAGES)
_CODES: Final = frozenset(CODES)
LONGEST_BODY: Final = 65_536
_LONGEST_CODE: Final = 128
_MOST_HEADERS: Final = 256
_LARGEST_NUMBER: Final = 10**18
_PLAIN_TEXT: Final = (str, bytes)
_PLAIN: Final = (str, bytes, int, float, type(None))
_LONGEST_TEXT: Final = 4_000
_MOST_ARGS: Final = 8
MOST_DETAILS: Final = 16
HOLDERS: Final = ("error", "Error", "errors", "details", "detail", "innererror", "metadata")
"""Names under which a body holds the mappings that are looked at."""
_OUTER: Final = HOLDERS[:3]
_WAITS: Final = frozenset(
    """retry-after retry-after-ms x-retry-after x-retry-after-ms x-ms-retry-after-ms x-should-retry""".split()
)
_RAW_WAITS: Final = frozenset(name.encode() for name in _WAITS)
_RATE: Final = re.compile("ratelimit|rate-limit").search
_RAW_RATE: Final = re.compile(b"ratelimit|rate-limit").search

T = TypeVar("T")


def package_of(cls: type) -> str:
    """Return the top-level package of a class; ``httpx2`` counts as ``httpx``."""
    module: Any = cls.__module__  # a class may set it to anything
    return _family(module.partition(".")[0]) if isinstance(module, str) else ""


def _family(package: str) -> str:
    return package[:-1] if package in ("httpx2", "httpcore2") else package


class Shape:
    """What the class of an error says, whatever the instance.

    Attributes:
        names: ``package.Class`` of every class in the MRO, most special first.
        simple_names: The same without package.
        is_standard: Whether the class is of the standard library.
        is_client: Whether the class, or one it inherits from, is of a client library.
        read: Attributes which the class itself holds.
    """

    __slots__ = ("is_client", "is_standard", "names", "read", "simple_names", "verdicts")

    def __init__(self, cls: type) -> None:
        self.names = tuple(f"{package_of(base)}.{base.__name__}" for base in cls.__mro__[:-1])
        self.simple_names = tuple(base.__name__ for base in cls.__mro__[:-1])
        self.is_standard = package_of(cls) in sys.stdlib_module_names
        self.is_client = any(package_of(base) in CLIENTS for base in cls.__mro__)
        held = {name for base in cls.__mro__ for name in vars(base)}
        warns = _WARNS.get(package_of(cls), ())
        self.read = tuple(name for name in _ATTRIBUTES if name in held and name not in warns)
        # {rule: its verdict for the class}, filled in by rules.
        self.verdicts: dict[object, Any] = {}


shape_of: Final = PerClass(Shape)


def attribute(thing: object, name: str) -> Any:
    """Return an attribute, or None if it is missing or refuses to be read."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001  # a property of somebody else's class may raise anything
        return None


# Without any of these an error has no body, codes or headers, and need not be searched for them.
_SPEAKING: Final = frozenset(_ATTRIBUTES) - {"status_code", "http_status", "message", "retry_after"}
_NOTHING_SAID: Final[dict[str, Any]] = {"body": None, "parts": (), "codes": (), "numbers": ()}
# Properties that warn when they are read, and say nothing that is not elsewhere.
_WARNS: Final = {"websockets": ("code", "reason")}


class _once(Generic[T]):  # noqa: N801  # used like a property
    """A property that is read once; ``cached_property`` takes a lock before Python 3.12."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        self.read = read
        self.name = read.__name__
        self.__doc__ = read.__doc__

    def __get__(self, holder: Any, owner: type) -> T:
        value = holder.__dict__[self.name] = self.read(holder)
        return value


class Evidence:
    """What one error says. Everything is read at most once, when first asked for.

    Attributes:
        error: The error; rules look at its causes and its traceback, at nothing else.
        shape: What its class says.
        wall: Gives seconds since 1970.
        facts: ``{attribute: value}`` of the error's own and of those the class holds.
        is_quiet: Whether it has at most a status and words: no body, code or header.
        sign: What the rule went by that knew the error, ``(what sort, which)``; for explanations.
        hint_sign: Where the wait was read, for the same.
    """

    sign: tuple[str, Any] = ("", None)
    hint_sign = ""

    def __init__(self, error: BaseException, shape: Shape, wall: Callable[[], float]) -> None:
        self.error = error
        self.shape = shape
        self.wall = wall
        facts: dict[str, Any] = attribute(error, "__dict__") or {}
        missing = [name for name in shape.read if name not in facts] if shape.read else ()
        if missing:
            facts = {**{name: attribute(error, name) for name in missing}, **facts}
        self.facts: Mapping[str, Any] = facts
        # langchain raises ValueError({"code": 402, ...}).
        args = error.args
        self.is_quiet = facts.keys().isdisjoint(_SPEAKING) and not (args and isinstance(args[0], dict))
        if self.is_quiet:
            # What would come of reading these; most errors of one's own end here.
            known: dict[str, Any] = self.__dict__
            known.update(_NOTHING_SAID)
            words = facts.get("message")
            if type(words) is not str:
                words = _joined(args)
            known["text"] = words[:_LONGEST_TEXT].lower()
            status = as_status(facts.get("status_code"))
            known["status"] = as_status(facts.get("http_status")) if status is None else status

    def plain(self) -> Evidence | None:
        """Return what is left if only numbers and texts are believed; None if nothing was taken out."""
        facts = {name: value for name, value in self.facts.items() if type(value) in _PLAIN}
        if len(facts) == len(self.facts):
            return None
        known: Any = object.__new__(Evidence)
        known.error, known.shape, known.wall, known.facts, known.is_quiet = (
            self.error,
            self.shape,
            self.wall,
            facts,
            False,
        )
        return known

    @_once
    def status(self) -> int | None:
        """HTTP status, also of a response inside; None below 100 and above 599."""
        facts = self.facts
        for name in ("status_code", "status", "http_status", "code"):
            status = as_status(facts.get(name))
            if status is not None:
                return status
        response = facts.get("response")
        if response is None:
            return None
        if isinstance(response, dict):  # botocore
            return as_status(_in(_in(cast("Any", response), "ResponseMetadata"), "HTTPStatusCode"))
        return as_status(attribute(response, "status_code")) or as_status(attribute(response, "status"))

    @_once
    def failed_status(self) -> int | None:
        """The status if it tells of a failure: of the response, else a number in the body."""
        status = self.status
        if status is not None and status >= 300:
            return status
        for code in self.numbers:
            if code >= 400:
                return code
        return None

    @_once
    def waits(self) -> dict[str, str]:
        """``{lower-cased name: value}`` of the headers that name a wait or forbid a retry."""
        self._read_headers()
        return self.__dict__["waits"]

    @_once
    def rates(self) -> dict[str, str]:
        """``{lower-cased name: value}`` of the headers that tell how full a bucket is."""
        self._read_headers()
        return self.__dict__["rates"]

    def _read_headers(self) -> None:
        waits: dict[str, str] = {}
        rates: dict[str, str] = {}
        known: dict[str, Any] = self.__dict__
        known["waits"], known["rates"] = waits, rates
        headers = self._headers()
        if headers is None:
            return
        try:
            raw = attribute(headers, "raw")
            if type(raw) is list:  # httpx: decoding the few that matter is much cheaper than items()
                for name, value in cast("list[tuple[bytes, bytes]]", raw)[:_MOST_HEADERS]:
                    if type(name) is not bytes or len(name) > _LONGEST_CODE:
                        continue
                    low = name.lower()
                    if low in _RAW_WAITS:
                        waits[low.decode()] = _value(value)
                    elif b"limit" in low and _RAW_RATE(low):
                        rates[low.decode("latin-1")] = _value(value)
                return
            for name, value in _pairs(headers):
                low = _name(name)
                if low in _WAITS:
                    waits[low] = _value(value)
                elif "limit" in low and _RATE(low):
                    rates[low] = _value(value)
        except Exception:  # noqa: BLE001, S110  # headers of an unknown type
            pass

    def _headers(self) -> Any:
        facts = self.facts
        headers = facts.get("headers") or facts.get("litellm_response_headers")
        if headers:
            return headers
        response: Any = facts.get("response")
        if isinstance(response, dict):
            return _in(_in(cast("Any", response), "ResponseMetadata"), "HTTPHeaders")
        return None if response is None else attribute(response, "headers")

    @_once
    def body(self) -> Any:
        """The decoded body: a mapping, a list, a text, or None."""
        if self.is_quiet:
            return None
        facts = self.facts
        for name in ("body", "json_body", "details"):
            found = facts.get(name)
            if isinstance(found, (dict, list)):
                return cast("Any", found)
            if type(found) in _PLAIN_TEXT and found:
                return _decoded(found)
        if "llm_provider" in facts:  # litellm quotes the body in its message
            return _quoted_body(facts.get("message"))
        response = facts.get("response")
        if isinstance(response, dict):
            return cast("Any", response)
        found = None if response is None else _downloaded(response)
        if found is None:
            found = facts.get("http_body")
        if type(found) in _PLAIN_TEXT and found:
            return _decoded(found)
        args = self.error.args
        if args and isinstance(args[0], dict):
            return cast("Any", args[0])
        return None

    @_once
    def parts(self) -> tuple[dict[str, Any], ...]:
        """The mappings in which providers put codes and messages, outermost last."""
        body = self.body
        return () if body is None or type(body) is str else _parts(body)

    @_once
    def codes(self) -> tuple[str, ...]:
        """Machine-readable words of the body and the error, lower-cased, most special first."""
        found: list[str] = []
        for part in self.parts:
            if _CODES.isdisjoint(part):
                continue
            found += [
                word[:_LONGEST_CODE].lower() for name in CODES if name in part and type(word := part[name]) is str
            ]
        facts = self.facts
        for name in ATTRIBUTES_OF_CODES:
            word = facts.get(name)
            if word is None:
                continue
            if type(word) is str and (low := word[:_LONGEST_CODE].lower()) not in found:
                found.append(low)
            elif self.is_grpc and callable(word):
                found.extend(_grpc_code(word))
        error = facts.get("error")
        if error is not None and type(error) is not str:
            word = attribute(error, "code")  # azure.core puts an object there
            if type(word) is str:
                found.append(word[:_LONGEST_CODE].lower())
        return tuple(found)

    @_once
    def numbers(self) -> tuple[int, ...]:
        """Numbers in the body that look like an HTTP status; openrouter sends them in a stream."""
        found: list[int] = []
        for part in self.parts:
            for name in ("code", "status_code", "status", "http_status_code", "http_code", "statusCode"):
                number = as_status(part.get(name))
                if number is not None:
                    found.append(number)
        return tuple(found)

    @_once
    def text(self) -> str:
        """What the error says in words, lower-cased and cut; never for logs, it may hold a prompt."""
        said = [
            text[:_LONGEST_TEXT]
            for part in self.parts
            if not _MESSAGES.isdisjoint(part)
            for name in MESSAGES
            if name in part and type(text := part[name]) is str
        ]
        body = self.body
        if type(body) is str:
            said.append(body[:_LONGEST_TEXT])
        facts = self.facts
        if not said:
            for name in ("error", "detail", "title", "message"):
                text = facts.get(name)
                if type(text) is str:
                    said.append(text[:_LONGEST_TEXT])
        details = facts.get("details")
        if self.is_grpc and callable(details):
            text = called(details)
            if type(text) is str:
                said.append(text[:_LONGEST_TEXT])
        reason = attribute(facts.get("rcvd"), "reason")  # websockets
        if type(reason) is str:
            said.append(reason[:_LONGEST_TEXT])
        return ("\n".join(said) if said else _joined(self.error.args))[:_LONGEST_TEXT].lower()

    @property
    def is_grpc(self) -> bool:
        """Whether its code and its details are methods; of no other class are methods called."""
        return "grpc.RpcError" in self.shape.names

    @property
    def has_voice(self) -> bool:
        """Whether its words are those of a provider, and not of the caller's own code."""
        return self.shape.is_client or self.status is not None or bool(self.parts)

    def inner(self) -> Iterator[BaseException]:
        """Yield the errors beneath, also those that a client library buried, down to the system's own."""
        return _beneath(self.error)


def _joined(args: tuple[Any, ...]) -> str:
    if len(args) == 1 and type(args[0]) is str:
        return args[0][:_LONGEST_TEXT]
    return "\n".join([arg[:_LONGEST_TEXT] for arg in args[:_MOST_ARGS] if type(arg) is str])


def as_status(value: object) -> int | None:
    """Return a number from 100 to 599, also if written as a text."""
    if isinstance(value, str):
        if len(value) != 3 or not value.isdecimal():
            return None
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return int(value)
    return None


def stamped(verdict: Verdict, status: int | None, retry_after: float | None) -> Verdict:
    """Return the verdict with a status and a hint; built bare, since nothing is left to check."""
    if status == verdict.status and retry_after == verdict.retry_after:
        return verdict
    if retry_after is None:
        # Rules return the same few verdicts again and again, most of them without a hint.
        known = _stamped.get((id(verdict), status))
        if known is not None and known[0] is verdict:
            return known[1]
        copy = _copied(verdict, status, None)
        if len(_stamped) >= _MOST_STAMPED:
            _stamped.clear()
        _stamped[id(verdict), status] = verdict, copy
        return copy
    return _copied(verdict, status, retry_after)


_MOST_STAMPED: Final = 1_024
_stamped: Final[dict[tuple[int, int | None], tuple[Verdict, Verdict]]] = {}
"""``{(identity of a verdict, status): (the verdict, it with the status)}``; holding it keeps the identity its own."""


def _copied(verdict: Verdict, status: int | None, retry_after: float | None) -> Verdict:
    put = object.__setattr__
    copy = object.__new__(Verdict)
    put(copy, "kind", verdict.kind)
    put(copy, "reason", verdict.reason)
    put(copy, "retry_after", retry_after)
    put(copy, "status", status)
    put(copy, "scope", verdict.scope)
    put(copy, "retryable", verdict.retryable)
    put(copy, "harms_health", verdict.harms_health)
    return copy


def _in(mapping: Any, name: str) -> Any:
    return mapping.get(name) if isinstance(mapping, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # foreign data


def called(thing: Any) -> Any:
    """Return what a method of a foreign object gives, or None if it raises."""
    try:
        return thing()
    except Exception:  # noqa: BLE001  # somebody else's method
        return None


def _grpc_code(method: Any) -> Iterator[str]:
    """grpc errors have a method ``code()`` that gives an enum."""
    name = attribute(called(method), "name")
    if type(name) is str:
        yield name.lower()


def _pairs(headers: Any) -> Any:
    if headers is None:
        return ()
    return islice(headers.items() if hasattr(headers, "items") else headers, _MOST_HEADERS)


def _name(name: object) -> str:
    """Return a header's name, lower-cased; some clients have bytes."""
    if type(name) is bytes:
        return name[:_LONGEST_CODE].decode("latin-1").lower()
    return name[:_LONGEST_CODE].lower() if isinstance(name, str) else ""


def _value(value: object) -> str:
    """Return a header's value; what is neither text nor bytes nor a number is none."""
    if type(value) is bytes:
        return value[:_LONGEST_CODE].decode("latin-1")
    if type(value) is int:
        return str(value) if abs(value) < _LARGEST_NUMBER else ""
    return str(value)[:_LONGEST_CODE] if type(value) is str or type(value) is float else ""


def _downloaded(response: object) -> str | bytes | None:
    """Return the content of a response if it is here already; asking might go to the network."""
    held = attribute(response, "__dict__")
    if type(held) is not dict:
        return None
    facts = cast("dict[str, Any]", held)
    for name in ("_content", "body", "_body"):  # httpx and requests; websockets; aiohttp
        content = facts.get(name)
        if type(content) is bytes or type(content) is bytearray:
            return bytes(content[:LONGEST_BODY])
    return None


def _decoded(body: str | bytes) -> Any:
    if len(body) > LONGEST_BODY:
        body = body[:LONGEST_BODY]
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    if text.lstrip()[:1] in ("{", "["):
        import json

        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    return text


def _quoted_body(message: object) -> Any:
    """Return the JSON object inside ``"GeminiException - {...}"``."""
    if not isinstance(message, str) or (start := message.find("{")) < 0:
        return None
    import json

    try:
        return json.JSONDecoder().raw_decode(message[:LONGEST_BODY], start)[0]
    except (ValueError, RecursionError):
        return None


def _parts(body: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(body, list):
        body = cast("list[Any]", body)[0] if body else None
    if not isinstance(body, dict):
        return ()
    outer = cast("dict[str, Any]", body)
    found: list[dict[str, Any]] = []
    for name in _OUTER:
        if name not in outer:
            continue
        inner: Any = outer[name]
        if isinstance(inner, list) and inner:
            inner = cast("list[Any]", inner)[0]
        if isinstance(inner, dict):
            _add_nested(found, cast("dict[str, Any]", inner))
    _add_nested(found, outer)
    return tuple(found)


def _add_nested(found: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Add the details inside an error object, then the object."""
    if "details" in part:  # google.rpc
        details: Any = part["details"]
        if isinstance(details, list):
            found.extend(_mappings(cast("list[Any]", details)))
        elif isinstance(details, dict):  # anthropic
            found.append(cast("dict[str, Any]", details))
    if "detail" in part:  # FastAPI
        details = part["detail"]
        if isinstance(details, list):
            found.extend(_mappings(cast("list[Any]", details)))
    if "innererror" in part:  # azure
        inner: Any = part["innererror"]
        if isinstance(inner, dict):
            found.append(cast("dict[str, Any]", inner))
    if "metadata" in part:  # openrouter: its own facts, and what the provider behind it said
        inner = part["metadata"]
        if isinstance(inner, dict):
            metadata = cast("dict[str, Any]", inner)
            found.extend(_parts(_decoded(raw)) if type(raw := metadata.get("raw")) is str else ())
            found.append(metadata)
    found.append(part)


def _mappings(items: list[Any]) -> Iterator[dict[str, Any]]:
    for item in items[:MOST_DETAILS]:
        if isinstance(item, dict):
            yield cast("dict[str, Any]", item)


def _beneath(error: BaseException) -> Iterator[BaseException]:
    inner: BaseException | None = error
    for _ in range(12):  # also guards against a ring
        inner = inner.__cause__ or inner.__context__ or _buried(inner)
        if inner is None:
            return
        yield inner
        # What the system said is the root; its context is whatever was handled before.
        if isinstance(inner, OSError) and shape_of(type(inner)).is_standard:
            return


def _buried(error: BaseException) -> BaseException | None:
    """urllib and urllib3 keep the cause in ``reason`` or as an argument."""
    reason = attribute(error, "reason")
    if isinstance(reason, BaseException):
        return reason
    return next((arg for arg in error.args[:2] if isinstance(arg, BaseException)), None)


def transient(reason: str, **facts: Any) -> Verdict:
    """Return a verdict that something passes by itself."""
    return Verdict(ErrorKind.TRANSIENT, reason, **facts)


def limited(reason: str = "rate_limit", **facts: Any) -> Verdict:
    """Return a verdict that we were too fast."""
    return Verdict(ErrorKind.RATE_LIMITED, reason, **facts)


def dead(reason: str, **facts: Any) -> Verdict:
    """Return a verdict that somebody has to act; charged to the provider unless ``scope`` says otherwise."""
    return Verdict(ErrorKind.AUTH_DEAD, reason, **facts)


def wrong_request(reason: str = "invalid_request", **facts: Any) -> Verdict:
    """Return a verdict that this request is wrong for this target."""
    return Verdict(ErrorKind.REQUEST_SPECIFIC, reason, **facts)
