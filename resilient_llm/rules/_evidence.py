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
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._values.class_cache import PerClass
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

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
# Without any of these an error has no body, codes or headers, and need not be searched for them.
_SPEAKING: Final = frozenset(_ATTRIBUTES) - {"status_code", "http_status", "message", "retry_after"}
MESSAGES: Final = (
    "message",
    "msg",
    "detail",
    "title",
    "description",
    "error_description",
    "Message",
    "error",
    "raw",
)
CODES: Final = (
    "code",
    "type",
    "status",
    "reason",
    "error_code",
    "error_type",
    "Code",
    "errorCode",
    "__type",
)
ATTRIBUTES_OF_CODES: Final = (
    "code", "type", "status", "error_code", "error_type", "provider_error_code", "provider_error_type",
)  # fmt: skip
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
        speaks: Whether one of those may hold a body, codes or headers.
    """

    __slots__ = ("is_client", "is_standard", "names", "read", "simple_names", "speaks", "verdicts")

    def __init__(self, cls: type) -> None:
        self.names = tuple(f"{package_of(base)}.{base.__name__}" for base in cls.__mro__[:-1])
        self.simple_names = tuple(base.__name__ for base in cls.__mro__[:-1])
        self.is_standard = package_of(cls) in sys.stdlib_module_names
        self.is_client = any(package_of(base) in CLIENTS for base in cls.__mro__)
        held = {name for base in cls.__mro__ for name in vars(base)}
        warns = _WARNS.get(package_of(cls), ())
        self.read = tuple(name for name in _ATTRIBUTES if name in held and name not in warns)
        self.speaks = not _SPEAKING.isdisjoint(self.read)
        # {rule: its verdict for the class}, filled in by rules.
        self.verdicts: dict[object, Any] = {}


shape_of: Final = PerClass(Shape)


def attribute(thing: object, name: str) -> Any:
    """Return an attribute, or None if it is missing or refuses to be read."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001  # a property of somebody else's class may raise anything
        return None


# Properties that warn when they are read, and say nothing that is not elsewhere.
_WARNS: Final = {"websockets": ("code", "reason")}


_NO_HEADERS: Final[Mapping[str, str]] = {}


class Evidence:
    """What one error says. Read once: what every rule asks for by `read`, the rest when first asked for.

    Attributes:
        error: The error; rules look at its causes and its traceback, at nothing else.
        shape: What its class says.
        wall: Gives seconds since 1970.
        facts: ``{attribute: value}`` of the error's own and of those the class holds.
        is_quiet: Whether it has at most a status and words: no body, code or header.
        status: HTTP status, also of a response inside; None below 100 and above 599.
        failed_status: The status if it tells of a failure: of the response, else a number in the body.
        body: The decoded body: a mapping, a list, a text, or None.
        parts: The mappings in which providers put codes and messages, outermost last.
        codes: Machine-readable words of the body and the error, lower-cased, most special first.
        sign: What the rule went by that knew the error, ``(what sort, which)``; for explanations.
        hint_sign: Where the wait was read, for the same.
    """

    __slots__ = (
        "_rates", "_text", "_waits", "body", "codes", "error", "facts", "failed_status", "hint_sign", "is_quiet", "parts",
        "shape", "sign", "status", "wall",
    )  # fmt: skip

    facts: Mapping[str, Any]
    body: Any
    parts: tuple[dict[str, Any], ...]
    codes: tuple[str, ...]
    status: int | None
    failed_status: int | None

    def __init__(
        self,
        error: BaseException,
        shape: Shape,
        wall: Callable[[], float],
        believed: Mapping[str, Any] | None = None,
    ) -> None:
        self.error = error
        self.shape = shape
        self.wall = wall
        self.sign: tuple[str, Any] = ("", None)
        self.hint_sign = ""
        self._text: str | None = None
        self._waits: Mapping[str, str] | None = None
        self._rates: Mapping[str, str] | None = None
        if believed is not None:
            self.facts = believed
            self.is_quiet = False
            return
        try:
            own: Any = error.__dict__
        except Exception:  # noqa: BLE001  # somebody else's class
            own = None
        facts: dict[str, Any] = own or {}
        for name in shape.read:
            if name not in facts:
                facts = _with_those_of_the_class(error, facts, shape)
                break
        self.facts = facts
        if (shape.speaks and type(facts) is dict) or not facts.keys().isdisjoint(_SPEAKING):
            self.is_quiet = False
            return
        args = error.args
        # langchain raises ValueError({"code": 402, ...}).
        if args and type(args[0]) is not str and isinstance(args[0], dict):
            self.is_quiet = False
            return
        # What would come of reading these; most errors of one's own end here.
        self.is_quiet = True
        self.body, self.parts, self.codes = None, (), ()
        words = facts.get("message")
        if type(words) is not str:
            words = _joined(args)
        self._text = words[:_LONGEST_TEXT].lower()
        self._waits = self._rates = _NO_HEADERS
        status = as_status(facts.get("status_code"))
        self.status = status = as_status(facts.get("http_status")) if status is None else status
        self.failed_status = status if status is not None and status >= 300 else None

    def plain(self) -> Evidence | None:
        """Return what is left if only numbers and texts are believed; None if nothing was taken out."""
        facts = {name: value for name, value in self.facts.items() if type(value) in _PLAIN}
        return (
            None
            if len(facts) == len(self.facts)
            else Evidence(self.error, self.shape, self.wall, facts)
        )

    def read(self) -> None:
        """Read what every rule asks for, if the error has more than a status and words."""
        if self.is_quiet:
            return
        facts = self.facts
        body: Any = facts.get("body")
        if type(body) is not dict:  # openai and anthropic have it decoded
            body = self._read_body()
        self.body = body
        self.parts = parts = () if body is None else _parts(body)
        status = facts.get("status_code")
        if type(status) is not int or not 100 <= status <= 599:
            status = self._read_status()
        self.status = status
        self.failed_status = status if status is not None and status >= 300 else _failure_in(parts)
        self.codes = self._read_codes()

    def status_alone(self) -> int | None:
        """Return the status of a failure without looking at more than it takes."""
        if self.is_quiet:
            return self.failed_status
        status = self._read_status()
        if status is not None and status >= 300:
            return status
        body = self._read_body()
        return None if body is None else _failure_in(_parts(body))

    def _read_status(self) -> int | None:
        facts = self.facts
        for name in ("status_code", "status", "http_status", "code"):
            status = as_status(facts[name]) if name in facts else None
            if status is not None:
                return status
        response = facts.get("response")
        if response is None:
            return None
        if isinstance(response, dict):  # botocore
            return as_status(_in(_in(cast("Any", response), "ResponseMetadata"), "HTTPStatusCode"))
        return as_status(attribute(response, "status_code")) or as_status(
            attribute(response, "status")
        )

    def _read_body(self) -> Any:
        facts = self.facts
        for name in ("body", "json_body", "details"):
            if name not in facts or (found := facts[name]) is None:
                continue
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
        facts = self.facts
        for name in ATTRIBUTES_OF_CODES:
            if name not in facts:
                continue
            word = facts[name]
            if type(word) is str:
                if (low := word[:_LONGEST_CODE].lower()) not in found:
                    found.append(low)
            elif word is not None and self.is_grpc and callable(word):
                found.extend(_grpc_code(word))
        error = facts.get("error")
        if error is not None and type(error) is not str:
            word = attribute(error, "code")  # azure.core puts an object there
            if type(word) is str:
                found.append(word[:_LONGEST_CODE].lower())
        return tuple(found)

    @property
    def text(self) -> str:
        """What the error says in words, lower-cased and cut; never for logs, it may hold a prompt."""
        text = self._text
        if text is None:
            text = self._text = self._read_text()
        return text

    def _read_text(self) -> str:
        said: list[str] = []
        for part in self.parts:
            said += [
                text[:_LONGEST_TEXT]
                for name in MESSAGES
                if name in part and type(text := part[name]) is str
            ]
        body = self.body
        if type(body) is str:
            said.append(body[:_LONGEST_TEXT])
        facts = self.facts
        if not said:
            names = ("error", "detail", "title", "message")
            said += [
                text[:_LONGEST_TEXT]
                for name in names
                if name in facts and type(text := facts[name]) is str
            ]
        if "details" in facts and self.is_grpc and callable(facts["details"]):
            text = called(facts["details"])
            if type(text) is str:
                said.append(text[:_LONGEST_TEXT])
        if "rcvd" in facts:  # websockets
            reason = attribute(facts["rcvd"], "reason")
            if type(reason) is str:
                said.append(reason[:_LONGEST_TEXT])
        return ("\n".join(said) if said else _joined(self.error.args))[:_LONGEST_TEXT].lower()

    @property
    def waits(self) -> Mapping[str, str]:
        """``{lower-cased name: value}`` of the headers that name a wait or forbid a retry."""
        waits = self._waits
        if waits is None:
            headers = self._headers()
            if headers is None or _names_no_wait(headers):
                waits = self._waits = _NO_HEADERS
            else:
                waits, _ = self._read_headers(headers)
        return waits

    @property
    def rates(self) -> Mapping[str, str]:
        """``{lower-cased name: value}`` of the headers that tell how full a bucket is."""
        rates = self._rates
        if rates is None:
            _, rates = self._read_headers(self._headers())
        return rates

    def _read_headers(self, headers: Any) -> tuple[Mapping[str, str], Mapping[str, str]]:
        waits: dict[str, str] = {}
        rates: dict[str, str] = {}
        self._waits, self._rates = waits, rates
        try:
            raw = _raw_pairs(headers)
            if raw is not None:  # decoding the few that matter is much cheaper than items()
                for name, value in raw:
                    if name in _RAW_WAITS:
                        waits[name.decode()] = _value(value)
                    elif name.find(b"limit") >= 0 and _RAW_RATE(
                        name
                    ):  # ``in`` takes five times as long
                        rates[name.decode("latin-1")] = _value(value)
                return waits, rates
            for name, value in _pairs(headers):
                low = _name(name)
                if low in _WAITS:
                    waits[low] = _value(value)
                elif "limit" in low and _RATE(low):
                    rates[low] = _value(value)
        except Exception:  # noqa: BLE001, S110  # headers of an unknown type
            pass
        return waits, rates

    def _headers(self) -> Any:
        facts = self.facts
        for name in ("headers", "litellm_response_headers"):
            if name in facts and (headers := facts[name]):
                return headers
        response: Any = facts.get("response")
        if isinstance(response, dict):
            return _in(_in(cast("Any", response), "ResponseMetadata"), "HTTPHeaders")
        return None if response is None else attribute(response, "headers")

    @property
    def is_grpc(self) -> bool:
        """Whether its code and its details are methods; of no other class are methods called."""
        return "grpc.RpcError" in self.shape.names

    def inner(self) -> Iterator[BaseException]:
        """Yield the errors beneath, also those that a client library buried, down to the system's own."""
        return _beneath(self.error)


def _failure_in(parts: tuple[dict[str, Any], ...]) -> int | None:
    """Return the first number in a body that looks like a failing HTTP status; openrouter sends them in a stream."""
    for part in parts:
        for name in (
            "code",
            "status_code",
            "status",
            "http_status_code",
            "http_code",
            "statusCode",
        ):
            number = as_status(part.get(name))
            if number is not None and number >= 400:
                return number
    return None


def _is_httpx(cls: type) -> bool:
    return package_of(cls) == "httpx" and cls.__name__ == "Headers"


_of_httpx: Final = PerClass(_is_httpx)


def _names_no_wait(headers: Any) -> bool:
    """Return whether a glance at the names, which httpx keeps lower-cased, shows that none is of a wait."""
    try:
        return _of_httpx[type(headers)] and _RAW_WAITS.isdisjoint(
            [low for _, low, _ in headers._list[:_MOST_HEADERS]]
        )
    except Exception:  # noqa: BLE001  # another release, or something that only says it is httpx
        return False


def _raw_pairs(headers: object) -> Iterable[tuple[bytes, object]] | None:
    """Return lower-cased names and values as bytes, as httpx has them; None of other headers."""
    raw = attribute(headers, "raw")
    if type(raw) is not list:
        return None
    return (
        (name.lower(), value)
        for name, value in cast("list[tuple[Any, object]]", raw)[:_MOST_HEADERS]
        if type(name) is bytes and len(name) <= _LONGEST_CODE
    )


def _with_those_of_the_class(
    error: BaseException, own: Mapping[str, Any], shape: Shape
) -> dict[str, Any]:
    missing = [name for name in shape.read if name not in own]
    return {**{name: attribute(error, name) for name in missing}, **own}


def _joined(args: tuple[Any, ...]) -> str:
    if len(args) == 1 and type(args[0]) is str:
        return args[0][:_LONGEST_TEXT]
    return "\n".join([arg[:_LONGEST_TEXT] for arg in args[:_MOST_ARGS] if type(arg) is str])


def as_status(value: object) -> int | None:
    """Return a number from 100 to 599, also if written as a text."""
    if type(value) is int:
        return value if 100 <= value <= 599 else None
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
    try:
        facts: dict[str, Any] = response.__dict__
    except Exception:  # noqa: BLE001  # somebody else's class
        return None
    if type(facts) is not dict:
        return None
    for name in ("_content", "body", "_body"):  # httpx and requests; websockets; aiohttp
        if name not in facts:
            continue
        content = facts[name]
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
    if type(body) is not dict:  # nearly always it is; to ask what it is not takes longer
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
        if type(inner) is not dict and isinstance(inner, list) and inner:
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
        if isinstance(inner, OSError) and shape_of[type(inner)].is_standard:
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
