"""Fuzzes the classifier: bytes become an error, and the error must get a verdict.

    python tests/fuzz/fuzz_classify.py -max_total_time=60

Needs atheris (``pip install "atheris>=3.0"``; there are wheels for Linux). All other arguments
are libFuzzer's; a directory among them is the corpus to start from and to add to. Without one,
a fresh corpus is made of the recorded bodies in ``tests/corpus``. The bytes that broke something
are left in a file ``crash-*``; the same script with that file as its argument runs them again.

The test suite gives `check` bytes of hypothesis, so that it works without atheris as well.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
NOW: Final = 1_795_262_400.0
MOST_ERRORS: Final = 200
"""Errors made of one input; nesting beyond it is the business of the named tests."""

_PACKAGES: Final = (
    "app",
    "openai",
    "anthropic",
    "google",
    "botocore",
    "grpc",
    "litellm",
    "urllib3",
    "websockets",
)
_CLASSES: Final = (
    "APIStatusError", "APIError", "APIConnectionError", "RateLimitError", "RpcError", "ClientError", "ResponseError",
    "MaxRetryError", "ConnectionClosed", "OutOfMemoryError",
)  # fmt: skip
_ATTRIBUTES: Final = (
    "status_code", "status", "code", "type", "reason", "retry_after", "body", "details", "json_body", "http_body",
    "error", "detail", "title", "message", "headers", "litellm_response_headers", "llm_provider", "rcvd",
    "trailing_metadata",
)  # fmt: skip
_HEADERS: Final = (
    "retry-after", "retry-after-ms", "x-should-retry", "x-ratelimit-reset-requests", "x-ratelimit-remaining-requests",
    "ratelimit", "anthropic-ratelimit-tokens-reset", "content-type",
)  # fmt: skip
_STATUSES: Final = (
    200,
    302,
    400,
    401,
    402,
    403,
    404,
    413,
    422,
    429,
    498,
    500,
    502,
    503,
    529,
    -1,
    10**400,
)
_STANDARD: Final[tuple[Callable[[str], BaseException], ...]] = (
    Exception, ValueError, TypeError, RuntimeError, OSError, TimeoutError, ConnectionError, MemoryError, KeyError,
    lambda words: OSError(len(words), words), lambda words: UnicodeDecodeError("utf-8", b"x", 0, 1, words),
)  # fmt: skip


class Response:
    """What httpx and requests hold: status, headers and the content that has arrived."""

    def __init__(self, status: object, headers: object, content: object) -> None:
        self.status_code = status
        self.headers = headers
        self._content = content


def _class(package: str, name: str) -> type[Exception]:
    return type(name, (Exception,), {"__module__": f"{package}.errors"})


_MADE: Final = {
    (package, name): _class(package, name) for package in _PACKAGES for name in _CLASSES
}


class _Reader:
    """Reads decisions off the front of the bytes; once they are used up, every answer is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.errors_left = MOST_ERRORS

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)

    def number(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one_of(self, choices: Any) -> Any:
        return choices[self.number() % len(choices)]

    def rest(self) -> bytes:
        """Return what is left, up to a mark of two zeros: long texts of libFuzzer's liking."""
        found, _, _ = self._data[self._at :].partition(b"\0\0")
        self._at += len(found) + 2
        return found

    def text(self) -> str:
        return self.rest().decode("utf-8", "surrogateescape")


def _value(read: _Reader) -> Any:
    """Return anything that an attribute, a field or a header may hold."""
    return read.one_of(_VALUES)(read)


def _pairs_of(read: _Reader) -> Callable[[], object]:
    name, value = read.one_of(_HEADERS), _value(read)
    return lambda: [(name, value), (value, name)]


_VALUES: Final[tuple[Callable[[_Reader], Any], ...]] = (
    lambda read: read.text(),
    lambda read: read.rest(),
    lambda read: _parsed(read.rest()),
    lambda read: read.one_of(_STATUSES),
    lambda read: 10 ** (read.number() * 20) * (1 if read.number() % 2 else -1),
    lambda read: read.one_of((float("nan"), float("inf"), -1.0, 1e308, 0.5, True, None)),
    lambda read: {read.one_of(_ATTRIBUTES): _value(read) for _ in range(read.number() % 4)},
    lambda read: [_value(read) for _ in range(read.number() % 4)],
    _pairs_of,
    lambda read: Response(_value(read), _value(read), _value(read)),
    lambda read: bytearray(read.rest()),
    lambda read: _headers(read),
    lambda read: {
        "error": {"code": _value(read), "message": _value(read), "details": [_value(read)]}
    },
    lambda read: read.one_of(
        (object(), int, _fails, ValueError("inner"), (), frozenset(), memoryview(b"x"), 1j)
    ),
)


def _fails() -> object:
    raise LookupError


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data


def _headers(read: _Reader) -> Any:
    pairs = [(read.one_of(_HEADERS), read.text()) for _ in range(read.number() % 4)]
    return dict(pairs) if read.number() % 2 else pairs


def error_of(data: bytes) -> BaseException:
    """Return an error made of any bytes: status, headers, body, attributes and what is inside it."""
    return _error(_Reader(data))


def _error(read: _Reader) -> BaseException:
    read.errors_left -= 1
    sort = read.number() % 4
    if sort == 0:
        return _nested(read, read.one_of(_STANDARD)(read.text()))
    error = _MADE[read.one_of(_PACKAGES), read.one_of(_CLASSES)](
        *[_value(read) for _ in range(read.number() % 3)]
    )
    attributes: dict[str, Any] = vars(error)
    if sort == 1:  # what an answer over HTTP can do, and nothing else
        status, headers, content = read.one_of(_STATUSES), _headers(read), read.rest()
        attributes.update(
            status_code=status, response=Response(status, headers, content), body=_parsed(content)
        )
    elif sort == 2:
        status, headers, content = read.one_of(_STATUSES), _headers(read), read.rest()
        attributes["response"] = {
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
            "Error": _parsed(content),
        }
    for _ in range(read.number() % 6):
        attributes[read.one_of(_ATTRIBUTES)] = _value(read)
    return _nested(read, error)


def _nested(read: _Reader, error: BaseException) -> BaseException:
    if read.is_empty or read.errors_left <= 0:
        return error
    sort = read.number() % 6
    if sort == 1:
        error.__cause__ = _error(read)
    elif sort == 2:
        error.__context__ = _error(read)
    elif sort == 3:
        error.__cause__ = error
    elif sort == 4:
        members = [error, *(_error(read) for _ in range(read.number() % 4) if read.errors_left > 0)]
        return BaseExceptionGroup("several", members)
    return error


def check(data: bytes) -> None:
    """Make an error of the bytes and check its verdict.

    Raises:
        AssertionError: If the verdict is none that the documentation allows, or a built-in rule
            raised: then a verdict was lost, although the call went on.
    """
    from resilient_llm import ErrorKind, Verdict
    from resilient_llm._core.classify import Classifier

    failures: list[BaseException] = []
    classify = Classifier(lambda: NOW)
    classify.on_rule_failed = failures.append
    error = error_of(data)

    verdict = classify(error)

    if failures:
        raise AssertionError("a built-in rule raised") from failures[0]
    assert type(verdict) is Verdict
    assert type(verdict.kind) is ErrorKind
    assert type(verdict.reason) is str
    assert verdict.status is None or (type(verdict.status) is int and 100 <= verdict.status <= 599)
    assert verdict.retry_after is None or 0.0 <= verdict.retry_after <= 86_400.0
    assert type(verdict.retryable) is bool
    assert verdict.scope in ("target", "provider")
    assert verdict == classify(error), "the same error got another verdict"
    explanation = classify.explain(error)
    assert verdict == explanation.verdict, "explain disagrees"
    str(explanation)


def seeds() -> Iterator[bytes]:
    """Yield inputs that stand for the recorded answers of providers."""
    yield b""
    for file in sorted((ROOT / "tests" / "corpus").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            wire: Any = json.loads(line).get("wire") or {}
            status, body, headers = wire.get("status"), wire.get("body"), wire.get("headers") or {}
            if status not in _STATUSES:
                continue
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            known = [(name, value) for name, value in headers.items() if name in _HEADERS][:3]
            said = b"".join(
                bytes([_HEADERS.index(name)]) + str(value).encode() + b"\0\0"
                for name, value in known
            )
            yield (
                bytes([1, 1, 0, 0, _STATUSES.index(status), len(known)])
                + said
                + b"\1"
                + content
                + b"\0\0"
            )


def _write_seeds(folder: Path) -> None:
    for number, seed in enumerate(seeds()):
        (folder / f"seed-{number:04}").write_bytes(seed)


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer stops; see the top of the file."""
    import atheris

    with atheris.instrument_imports(include=["resilient_llm"]):
        import resilient_llm
        import resilient_llm._core.classify
        import resilient_llm._core.explain
        import resilient_llm.rules._explain  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="seeds-") as folder:
        if all(argument.startswith("-") for argument in arguments[1:]):
            _write_seeds(Path(folder))
            arguments = [*arguments, folder]
        atheris.Setup(arguments, check)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv)
