"""Errors made by an enemy or by a careless author: each gets a verdict after bounded reading.

What is read is counted by the objects that are handed in. One that is read too often
raises `ReadTooOften`, which no ``except Exception`` holds back: what has no end fails here
instead of hanging.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import math
import pkgutil
import re
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from resilient_llm import ErrorKind, Verdict, rules
from resilient_llm._core import classify as core
from resilient_llm._core.classify import Classifier
from resilient_llm.rules import _class_info
from tests.fuzz.fuzz_classify import check, error_of, seeds
from tests.support.errors import NOW

LONGEST_BODY = 64 * 1024
MOST_CAUSES = 50
MOST_MEMBERS = 1_000
HUGE = 16 * 1024 * 1024
MOST_MEMORY = 4 * 1024 * 1024
"""Bytes that a verdict may take for a while: 64 KiB of JSON of empty lists are 3 MB of objects."""

ATTRIBUTES = (
    "status_code", "status", "http_status", "code", "type", "reason", "error_code", "error_type",
    "retry_after", "body", "details", "json_body", "http_body", "error", "detail", "title",
    "message", "response", "headers",
    "litellm_response_headers", "llm_provider", "rcvd", "trailing_metadata",
)  # fmt: skip


class ReadTooOften(BaseException):
    """An endless object was read more often than any limit allows."""


class Counted:
    """Counts what is read, and stops a reader that does not stop.

    Attributes:
        reads: How often until now.
    """

    def __init__(self, most: int = 5_000) -> None:
        self.reads = 0
        self._most = most

    def read(self, times: int = 1) -> None:
        self.reads += times
        if self.reads > self._most:
            raise ReadTooOften(f"more than {self._most} times")


class SdkError(Exception):
    """An error of an SDK that is read by its attributes."""

    __module__ = "openai"

    def __init__(self, *args: object, **attributes: Any) -> None:
        super().__init__(*args)
        vars(self).update(attributes)


@pytest.fixture
def classify() -> Classifier:
    return Classifier(lambda: NOW)


def limited(**attributes: Any) -> SdkError:
    """Return an error with the status 429."""
    return SdkError("slow down", **{"status_code": 429, **attributes})


def is_well_formed(verdict: Verdict) -> bool:
    """Return whether a verdict is one that callers can work with."""
    hint = verdict.retry_after
    return (
        type(verdict) is Verdict
        and type(verdict.kind) is ErrorKind
        and type(verdict.reason) is str
        and (
            verdict.status is None or (type(verdict.status) is int and 100 <= verdict.status <= 599)
        )
        and (
            hint is None
            or (type(hint) in (float, int) and math.isfinite(hint) and 0 <= hint <= 86_400)
        )
        and type(verdict.retryable) is bool
        and type(verdict.harms_health) is bool
        and verdict.scope in ("target", "provider")
    )


def assert_survives(classify: Classifier, error: Any) -> Verdict:
    """Assert that an error gets a verdict, and an explanation of the same verdict; return it."""
    verdict = classify(error)
    assert is_well_formed(verdict), verdict

    explanation = classify.explain(error)
    assert explanation.verdict == verdict
    assert len(str(explanation)) < 20_000
    return verdict


# --- values that are no good, wherever they stand ---


def fails(*_: object, **__: object) -> Any:
    raise RuntimeError("never to be read")


OPERATIONS = (
    "__str__ __repr__ __format__ __bytes__ __bool__ __len__ __iter__ __next__ __contains__ "
    "__getitem__ __hash__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __int__ __float__ __index__ "
    "__call__ __reversed__ __dir__"
).split()
"""What Python asks of an object without naming it."""


class Raises:
    """Whatever is done to it raises."""

    __getattr__ = fails


for _operation in OPERATIONS:
    setattr(Raises, _operation, fails)


class RaisesItsClass(Raises):
    @property
    def __class__(self) -> Any:
        raise RuntimeError


def rubbish(*_: object) -> Any:
    return object()


class ReturnsRubbish:
    """Every operation returns what it may not."""


for _operation in OPERATIONS:
    setattr(ReturnsRubbish, _operation, rubbish)


class SaysItIs:
    """Says that it is of another class, and is not."""

    def __init__(self, cls: type) -> None:
        self.cls = cls

    @property
    def __class__(self) -> Any:
        return self.cls


class Itself:
    """Every attribute, item and result is the thing again, without end."""

    def __init__(self, counted: Counted) -> None:
        object.__setattr__(self, "counted", counted)

    def __getattr__(self, name: str) -> Any:
        object.__getattribute__(self, "counted").read()
        return self

    def __call__(self, *_: object) -> Any:
        self.counted.read()
        return self

    def __getitem__(self, _: object) -> Any:
        self.counted.read()
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        self.counted.read()
        return self


def endless(counted: Counted, one: Any = ("a", "b")) -> Iterator[Any]:
    """Yield one thing for ever."""
    while True:
        counted.read()
        yield one


class EndlessMapping:
    """Headers whose pairs never end."""

    def __init__(self, counted: Counted) -> None:
        self.counted = counted

    def items(self) -> Any:
        return endless(self.counted, ("retry-after-", "1"))

    keys = values = __iter__ = items

    def get(self, *_: object) -> Any:
        self.counted.read()

    def __len__(self) -> int:
        return sys.maxsize


def poisoned(base: type, *args: Any) -> Any:
    """Return a value of a subclass of a builtin type that raises whatever is done to it."""
    names = [name for name in OPERATIONS if name in dir(base)]
    names += [name for name in dir(base) if not name.startswith("_")]
    return type(f"Poisoned{base.__name__}", (base,), dict.fromkeys(names, fails))(*args)


def ring_of_dicts() -> dict[str, Any]:
    ring: dict[str, Any] = {}
    ring.update(error=ring, details=[ring], errors=[ring], innererror=ring, Error=ring)
    return ring


def ring_of_lists() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def deep_dict() -> dict[str, Any]:
    body: dict[str, Any] = {}
    for _ in range(10_000):
        body = {"error": body, "innererror": body, "details": [body]}
    return body


VALUES: dict[str, Callable[[], Any]] = {
    "huge-int": lambda: 10**5000,
    "huge-negative-int": lambda: -(10**5000),
    "more-than-a-float": lambda: 10**400,
    "nan": lambda: math.nan,
    "infinity": lambda: math.inf,
    "complex": lambda: 1j,
    "true": lambda: True,
    "digits-of-another-script": lambda: "٤٢٩",
    "superscript-digits": lambda: "²²²",
    "empty-text": lambda: "",
    "lone-surrogate": lambda: "\udcff{",
    "nul": lambda: "\0",
    "bytes": lambda: b"\xff\xfe{",
    "bytearray": lambda: bytearray(b"\xff{"),
    "memoryview": lambda: memoryview(b"{}"),
    "open-lists": lambda: "[" * 100_000,
    "open-objects": lambda: '{"error":' * 20_000,
    "number-with-many-digits": lambda: '{"status": ' + "9" * 5_000 + "}",
    "list-of-nothing": lambda: [None] * 3,
    "list-of-lists": lambda: [[[[[]]]]],
    "dict-with-keys-of-all-types": lambda: {None: 1, 1: None, (): {}, b"code": b"x"},
    "ring-of-dicts": ring_of_dicts,
    "ring-of-lists": ring_of_lists,
    "deep-dict": deep_dict,
    "object": object,
    "class": lambda: dict,
    "class-of-errors": lambda: ValueError,
    "error": lambda: ValueError("inner"),
    "function-that-raises": lambda: fails,
    "function-of-two": lambda: lambda a, b: None,
    "function-without-end": lambda: lambda: endless(Counted()),
    "iterator-without-end": lambda: endless(Counted()),
    "count": itertools.count,
    "itself": lambda: Itself(Counted()),
    "mapping-without-end": lambda: EndlessMapping(Counted()),
    "mock": Mock,
    "magic-mock": MagicMock,
    "raises": Raises,
    "raises-its-class": RaisesItsClass,
    "rubbish": ReturnsRubbish,
    "says-it-is-a-dict": lambda: SaysItIs(dict),
    "says-it-is-a-list": lambda: SaysItIs(list),
    "says-it-is-a-text": lambda: SaysItIs(str),
    "says-it-is-bytes": lambda: SaysItIs(bytes),
    "says-it-is-a-number": lambda: SaysItIs(int),
    "says-it-is-an-error": lambda: SaysItIs(ValueError),
    "poisoned-text": lambda: poisoned(str, "rate limit"),
    "poisoned-bytes": lambda: poisoned(bytes, b"{}"),
    "poisoned-int": lambda: poisoned(int, 429),
    "poisoned-float": lambda: poisoned(float, 1.5),
    "poisoned-dict": lambda: poisoned(dict, {"error": {"code": "x"}}),
    "poisoned-list": lambda: poisoned(list, [1, 2]),
    "poisoned-tuple": lambda: poisoned(tuple, (1, 2)),
}


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_a_bad_value_in_any_attribute_is_survived(
    classify: Classifier, make: Callable[[], Any]
) -> None:
    """Whatever an attribute of an error holds, there is a verdict."""
    for name in ATTRIBUTES:
        assert_survives(classify, SdkError("words", **{name: make()}))
        assert_survives(classify, limited(**{name: make()}))


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_a_bad_value_does_not_hide_a_status(classify: Classifier, make: Callable[[], Any]) -> None:
    """The body, the headers and the wait may hold anything: the status is still the status."""
    for name in (
        "body",
        "json_body",
        "http_body",
        "headers",
        "retry_after",
        "details",
        "response",
        "rcvd",
    ):
        verdict = classify(limited(**{name: make()}))

        assert (name, ErrorKind.RATE_LIMITED, 429) == (name, verdict.kind, verdict.status)


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_a_bad_value_in_a_class_is_survived(classify: Classifier, make: Callable[[], Any]) -> None:
    """The same as an attribute of the class, behind a property and in an argument."""
    for name in ATTRIBUTES:
        value = make()
        assert_survives(classify, type("OfClassError", (SdkError,), {name: value})("words"))
        assert_survives(
            classify,
            type("PropertyError", (Exception,), {name: property(lambda _, v=value: v)})("words"),
        )
    assert_survives(classify, SdkError(make()))
    assert_survives(classify, ValueError(make(), make()))


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_a_bad_value_in_a_response_is_survived(
    classify: Classifier, make: Callable[[], Any]
) -> None:
    """Whatever a response holds, or is, there is a verdict."""
    for name in ("status_code", "status", "headers", "_content", "body", "_body"):
        response = type("Response", (), {})()
        vars(response)[name] = make()
        assert_survives(classify, SdkError(response=response))
    for response in (
        {"ResponseMetadata": make(), "Error": make()},
        {
            "ResponseMetadata": {"HTTPStatusCode": make(), "HTTPHeaders": make()},
            "Error": {"Code": make()},
        },
    ):
        assert_survives(classify, SdkError(response=response))


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_a_bad_value_in_a_body_is_survived(classify: Classifier, make: Callable[[], Any]) -> None:
    """Whatever a field of a body holds, there is a verdict, if need be by the status."""
    fields = (
        "code type status reason message detail error errors details innererror retryDelay "
        "retry_after retry_after_ms violations quotaId"
    ).split()
    for name in fields:
        for body in (
            {name: make()},
            {"error": {name: make()}},
            {"error": {"details": [{name: make()}]}},
        ):
            assert_survives(classify, SdkError(body=body))
            assert_survives(classify, limited(body=body))
    delay = {"retryDelay": {"seconds": make(), "nanos": make()}}
    assert_survives(classify, limited(body={"error": {"details": [delay]}}))


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_a_bad_value_in_a_header_is_survived(classify: Classifier, make: Callable[[], Any]) -> None:
    """Whatever the name or the value of a header is, there is a verdict."""
    for headers_of in (
        lambda value: {
            "retry-after": value,
            "x-should-retry": value,
            "ratelimit": value,
            "x-ratelimit-reset": value,
        },
        lambda value: [("retry-after", value), (value, "1")],
        lambda value: [value, (value,), (value, value, value)],
        lambda value: type(
            "Headers", (), {"raw": [(b"retry-after", value), (value, b"1"), value]}
        )(),
        lambda value: type("Headers", (), {"raw": value})(),
    ):
        assert_survives(classify, limited(headers=headers_of(make())))


# --- errors that raise when they are read ---


class Group(ExceptionGroup):
    """A group whose members are what its class says."""

    def __new__(cls) -> Any:
        return super().__new__(cls, "several", [ValueError("one")])

    def __init__(self) -> None:
        super().__init__()


class Headless(type):
    """A metaclass whose classes raise when asked for their name, module, order or contents."""

    __name__ = __module__ = __mro__ = __dict__ = property(fails)
    __eq__ = __hash__ = __repr__ = __bool__ = __len__ = __getattr__ = fails  # type: ignore[assignment]


def of_metaclass(metaclass: type) -> BaseException:
    return metaclass("StrangeError", (Exception,), {})("words")


def named(module: Any = "app", name: str = "SomeError") -> BaseException:
    return type(name, (Exception,), {"__module__": module})("words")


def with_class_attributes(base: type = Exception, **attributes: Any) -> BaseException:
    cls = type("StrangeError", (base,), attributes)
    return cls() if base is Group else cls("words")


def raising_all() -> dict[str, Any]:
    return {name: property(fails) for name in ATTRIBUTES}


def with_traceback(steps: int) -> BaseException:
    error: BaseException = json.JSONDecodeError("no JSON", "x", 0)
    for _ in range(steps):
        try:
            raise error
        except json.JSONDecodeError as caught:
            error = caught
    return error


def os_error(**attributes: Any) -> OSError:
    error = OSError(111, "refused")
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


# {what it does: a function that makes one}
ERRORS: dict[str, Callable[[], Any]] = {
    "every-attribute-raises": lambda: with_class_attributes(**raising_all()),
    "every-attribute-recurses": lambda: with_class_attributes(
        **{name: property(lambda self, name=name: getattr(self, name)) for name in ATTRIBUTES}
    ),
    "getattribute-raises": lambda: with_class_attributes(__getattribute__=fails),
    "getattribute-returns-rubbish": lambda: with_class_attributes(__getattribute__=rubbish),
    "getattr-raises": lambda: with_class_attributes(__getattr__=fails),
    "getattr-returns-mocks": lambda: with_class_attributes(__getattr__=lambda *_: MagicMock()),
    "every-operation-raises": lambda: with_class_attributes(**dict.fromkeys(OPERATIONS, fails)),
    "every-operation-returns-rubbish": lambda: with_class_attributes(
        **dict.fromkeys(OPERATIONS, rubbish)
    ),
    "no-hash": lambda: with_class_attributes(__hash__=None),
    "false": lambda: with_class_attributes(__bool__=lambda _: False, __len__=lambda _: 0),
    "iterates-for-ever": lambda: with_class_attributes(__iter__=lambda _: endless(Counted())),
    "dict-raises": lambda: with_class_attributes(__dict__=property(fails)),
    "dict-is-rubbish": lambda: with_class_attributes(__dict__=property(rubbish)),
    "dict-is-endless": lambda: with_class_attributes(
        __dict__=property(lambda _: EndlessMapping(Counted()))
    ),
    "args-raise": lambda: with_class_attributes(args=property(fails)),
    "args-are-none": lambda: with_class_attributes(args=None),
    "args-are-a-number": lambda: with_class_attributes(args=5),
    "args-are-endless": lambda: with_class_attributes(args=property(lambda _: endless(Counted()))),
    "args-are-a-hundred-thousand": lambda: Exception(*(["words"] * 100_000)),
    "class-raises": lambda: with_class_attributes(__class__=property(fails)),
    "class-is-rubbish": lambda: with_class_attributes(__class__=property(rubbish)),
    "says-it-is-a-group": lambda: with_class_attributes(
        __class__=property(lambda _: ExceptionGroup)
    ),
    "says-it-is-a-cancellation": lambda: with_class_attributes(
        __class__=property(lambda _: KeyboardInterrupt)
    ),
    "says-it-is-an-oserror": lambda: with_class_attributes(__class__=property(lambda _: OSError)),
    "cause-raises": lambda: with_class_attributes(__cause__=property(fails)),
    "cause-is-a-text": lambda: with_class_attributes(__cause__="x"),
    "cause-is-a-class": lambda: with_class_attributes(__cause__=ValueError),
    "cause-is-itself": lambda: with_class_attributes(__cause__=property(lambda self: self)),
    "cause-cannot-be-read": lambda: with_class_attributes(__cause__=RaisesItsClass()),
    "context-raises": lambda: with_class_attributes(ConnectionError, __context__=property(fails)),
    "context-is-a-text": lambda: with_class_attributes(ConnectionError, __context__="x"),
    "network-cause-raises": lambda: with_class_attributes(
        ConnectionError, __cause__=property(fails)
    ),
    "traceback-raises": lambda: with_class_attributes(OSError, __traceback__=property(fails)),
    "traceback-is-rubbish": lambda: with_class_attributes(OSError, __traceback__=property(rubbish)),
    "traceback-of-thousands": lambda: with_traceback(5_000),
    "members-raise": lambda: with_class_attributes(Group, exceptions=property(fails)),
    "members-are-none": lambda: with_class_attributes(Group, exceptions=None),
    "members-are-a-number": lambda: with_class_attributes(Group, exceptions=7),
    "members-are-endless": lambda: with_class_attributes(
        Group, exceptions=property(lambda _: endless(Counted()))
    ),
    "members-are-no-errors": lambda: with_class_attributes(
        Group, exceptions=(None, "x", 1, ValueError, Raises())
    ),
    "member-is-the-group": lambda: with_class_attributes(
        Group, exceptions=property(lambda self: (self, self))
    ),
    "members-are-a-poisoned-list": lambda: with_class_attributes(
        Group, exceptions=poisoned(list, [ValueError()])
    ),
    "group-says-it-is-a-text": lambda: with_class_attributes(
        Group, __class__=property(lambda _: str)
    ),
    "class-without-a-name": lambda: of_metaclass(Headless),
    "class-without-a-module": lambda: named(None),
    "class-in-a-number": lambda: named(5),
    "class-in-an-unhashable-module": lambda: named([]),
    "class-in-a-poisoned-module": lambda: named(poisoned(str, "openai")),
    "class-with-a-huge-name": lambda: named("m" * 1_000_000, "n" * 1_000_000),
    "class-with-control-letters": lambda: named("\x1b[31m", "\x1b]0;x\x07\r\n"),
    "errno-is-a-list": lambda: OSError([1], "x"),
    "errno-is-huge": lambda: OSError(10**5000, "x"),
    "errno-is-poisoned": lambda: os_error(errno=poisoned(int, 111), strerror=poisoned(str, "x")),
    "errno-is-rubbish": lambda: OSError(Raises(), Raises(), Raises(), Raises(), Raises()),
    "key-is-rubbish": lambda: KeyError(Raises()),
    "stop-is-rubbish": lambda: StopIteration(Raises()),
    "none": lambda: None,
    "text": lambda: "an error",
    "class": lambda: ValueError,
    "raises": Raises,
    "raises-its-class": RaisesItsClass,
    "mock": lambda: MagicMock(spec=Exception),
}

NO_ERRORS = ("none", "text", "class", "raises", "raises-its-class", "mock")
# Classes of the interpreter itself have no weak references, and a ring needs the collector.
CANNOT_BE_WATCHED = (
    "none", "text", "class", "mock", "args-are-a-hundred-thousand", "errno-is-a-list",
    "errno-is-huge", "errno-is-poisoned", "errno-is-rubbish", "key-is-rubbish", "stop-is-rubbish",
    "traceback-of-thousands",
)  # fmt: skip


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_an_error_that_resists_gets_a_verdict(
    classify: Classifier, make: Callable[[], Any]
) -> None:
    """Whatever an error does when it is read, there is a verdict."""
    assert_survives(classify, make())


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_a_cause_or_member_that_resists_gets_a_verdict(
    classify: Classifier, make: Callable[[], Any]
) -> None:
    """The same inside a wrapper, inside a group, and beneath an error of the network."""
    inner = make()
    if not issubclass(type(inner), BaseException):
        inner = with_class_attributes(__cause__=inner)

    for outer in (
        Exception("outer"),
        ConnectionError("outer"),
        with_class_attributes(__module__="openai"),
    ):
        outer.__cause__ = inner
        assert_survives(classify, outer)
        assert_survives(classify, ExceptionGroup("several", [outer, ValueError("plain")]))


@pytest.mark.parametrize("name", [name for name in ERRORS if name not in NO_ERRORS])
def test_an_error_that_resists_does_not_hide_the_others(classify: Classifier, name: str) -> None:
    """A dead key beside an error that cannot be read is still a dead key."""
    dead = SdkError("no such key", status_code=401)

    for members in ([ERRORS[name](), dead], [dead, ERRORS[name]()]):
        assert ErrorKind.UNKNOWN != classify(BaseExceptionGroup("several", members)).kind


@pytest.mark.parametrize("name", [name for name in ERRORS if name not in CANNOT_BE_WATCHED])
def test_a_verdict_keeps_nothing_alive(classify: Classifier, name: str) -> None:
    """After the verdict an error is freed with its last holder, without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        error = ERRORS[name]()
        watched = weakref.ref(error)
        classify(error)
        classify.explain(error)

        del error

        assert watched() is None
    finally:
        gc.enable()


def test_a_rule_that_fails_keeps_nothing_alive(classify: Classifier) -> None:
    """Neither does the report of a rule that raised."""
    classify.rule(fails)
    failures: list[str] = []
    classify.on_rule_failed = lambda failure: failures.append(type(failure).__name__)
    gc.disable()
    try:
        error = with_class_attributes(args=property(fails))
        watched = weakref.ref(error)

        classify(error)
        del error

        assert watched() is None
        assert "RuntimeError" in failures
    finally:
        gc.enable()


def test_nothing_is_kept_of_classes_that_are_gone(classify: Classifier) -> None:
    """A thousand classes that lived for one error each leave nothing in the caches of classes."""
    gc.collect()
    before = (len(core._sort_of), len(_class_info.class_of))

    for number in range(1_000):
        with suppress(TypeError):
            classify(type(f"Error{number}", (SdkError,), {"status_code": number})("x"))
    gc.collect()

    assert before == (len(core._sort_of), len(_class_info.class_of))


def test_nothing_is_kept_of_errors(classify: Classifier) -> None:
    """A thousand errors of one class with different words, codes and headers leave no memory."""

    def one(number: int) -> None:
        body = {
            "error": {
                "code": f"code-{number}",
                "message": f"words {number}" * 20,
                "retryDelay": f"{number}s",
            }
        }
        classify(limited(body=body, headers={"retry-after": str(number), f"x-{number}": "1"}))

    for number in range(200):
        one(number)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(1_000):
            one(number)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert kept < 50_000


# --- signals are never swallowed ---


@pytest.mark.parametrize("name", ["status_code", "body", "headers", "args"])
def test_an_interrupt_that_arrives_while_looking_passes(classify: Classifier, name: str) -> None:
    """Python raises it in whatever code runs, so it is no verdict of the error's own code."""

    def interrupted(_: object) -> Any:
        raise KeyboardInterrupt

    error = with_class_attributes(**{name: property(interrupted)})

    with pytest.raises(KeyboardInterrupt):
        classify(error)


@pytest.mark.parametrize("cancellation", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_cancellation_that_resists_is_one(
    classify: Classifier, cancellation: type[BaseException]
) -> None:
    """Nothing of a cancellation is read but its class."""
    attributes: dict[str, Any] = {
        **raising_all(),
        **dict.fromkeys(OPERATIONS, fails),
        "args": property(fails),
    }
    error = type(
        "StrangeCancellation", (cancellation,), {**attributes, "__class__": property(fails)}
    )()

    assert ErrorKind.CANCELLED == classify(error).kind


# --- headers without end ---


@pytest.mark.parametrize("status", [429, 503, 200, None])
def test_headers_that_never_end_are_looked_at_for_a_while(
    classify: Classifier, status: int | None
) -> None:
    """Not more than a thousand pairs are drawn from headers."""
    counted = Counted()

    verdict = classify(SdkError("words", status_code=status, headers=EndlessMapping(counted)))

    assert is_well_formed(verdict)
    assert counted.reads <= 1_000


def test_pairs_without_end_are_looked_at_for_a_while(classify: Classifier) -> None:
    """Headers that are an iterator of pairs, and gRPC's trailing metadata, may have no end."""
    counted = Counted()
    error = limited(headers=endless(counted), trailing_metadata=lambda: endless(counted))

    verdict = classify(error)

    assert (ErrorKind.RATE_LIMITED, 429) == (verdict.kind, verdict.status)
    assert counted.reads <= 2_000


def test_a_hint_is_found_beside_headers_of_any_size(classify: Classifier) -> None:
    """A giant header, or one with a value that is no header's, does not hide the wait beside it."""
    for other in ("x" * HUGE, b"x" * 1_000_000, 10**5000, None, Raises()):
        headers = {
            "x-giant": other,
            "ratelimit-policy": other,
            "retry-after-ms": other,
            "retry-after": "7",
        }

        assert 7.0 == classify(limited(headers=headers)).retry_after


# --- bodies, texts and arguments of 16 MB ---

WORDS = b'{"error": {"message": "' + b"no " * (HUGE // 3)
GIANTS: dict[str, Callable[[], dict[str, Any]]] = {
    "text": lambda: {"body": WORDS.decode()},
    "bytes": lambda: {"body": WORDS},
    "text-that-is-no-json": lambda: {"body": "x" * HUGE},
    "blanks": lambda: {"body": b" " * HUGE},
    "zeros": lambda: {"body": bytes(HUGE)},
    "invalid-utf-8": lambda: {"body": b"\xff" * HUGE},
    "letters-of-four-bytes": lambda: {"body": "\U0001f300" * (HUGE // 4)},
    "letters-that-grow-in-lower-case": lambda: {"message": "İ" * (HUGE // 2)},
    "open-lists": lambda: {"body": "[" * HUGE},
    "empty-lists": lambda: {"body": "[" + "[]," * (HUGE // 3)},
    "closed-empty-lists": lambda: {"body": "[" + "[]," * (LONGEST_BODY // 3 - 2) + "[]]"},
    "open-objects": lambda: {"body": b'{"error":' * (HUGE // 9)},
    "content": lambda: {"response": response_with(WORDS)},
    "content-as-bytearray": lambda: {"response": response_with(bytearray(WORDS))},
    "json-body": lambda: {"json_body": WORDS},
    "details": lambda: {"details": WORDS.decode()},
    "http-body": lambda: {"http_body": WORDS.decode()},
    "message": lambda: {"message": WORDS.decode()},
    "litellm": lambda: {"llm_provider": "x", "message": "GeminiException - " + WORDS.decode()},
    "litellm-far-brace": lambda: {"llm_provider": "x", "message": "x" * HUGE + "{}"},
    "code": lambda: {"code": "A" * HUGE, "type": "B" * HUGE},
    "status": lambda: {"status": "4" * HUGE},
    "wait": lambda: {"retry_after": "1" * HUGE},
    "header": lambda: {"headers": {"retry-after": "1" * HUGE, "A" * HUGE: "1"}},
    "raw-header": lambda: {
        "headers": type(
            "H", (), {"raw": [(b"retry-after", b"1" * HUGE), (b"RATELIMIT" * 1_000_000, b"1")]}
        )()
    },
    "reason-of-a-close-frame": lambda: {
        "rcvd": type("Close", (), {"code": 1011, "reason": "R" * HUGE})()
    },
    "details-of-grpc": lambda: {"details": lambda: "D" * HUGE},
    "metadata-of-grpc": lambda: {
        "trailing_metadata": partial(list, [("grpc-status-details-bin", b"x" * HUGE)])
    },
    "parsed-words": lambda: {"body": {"error": {"message": "M" * HUGE, "code": "C" * HUGE}}},
    "parsed-details": lambda: {
        "body": {"error": {"details": [{"message": "M" * 1_000_000}] * 1_000}}
    },
    "parsed-list": lambda: {"body": [{"message": "M"}] * 1_000_000},
    "parsed-keys": lambda: {"body": dict.fromkeys(map(str, range(500_000)), "x")},
    "parsed-violations": lambda: {
        "body": {"error": {"details": [{"violations": [{"quotaId": "x"}] * 500_000}]}}
    },
    "mock-that-has-all": lambda: {"response": MagicMock(_content=WORDS, text=WORDS.decode())},
}


def response_with(content: object, headers: object = None) -> Any:
    return type(
        "Response",
        (),
        {"__init__": lambda self: vars(self).update(_content=content, headers=headers)},
    )()


@pytest.mark.slow
@pytest.mark.parametrize("make", GIANTS.values(), ids=GIANTS)
@pytest.mark.parametrize("status", [429, 400, None])
def test_a_giant_takes_little_memory(
    classify: Classifier, make: Callable[[], dict[str, Any]], status: int | None
) -> None:
    """Of 50 MB nothing is copied or decoded but the beginning."""
    attributes = make()
    if status is not None:
        attributes = {"status_code": status, **attributes}
    error = SdkError(**attributes)
    classify(limited(body="{}"))
    gc.collect()

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        verdict = classify(error)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()

    assert is_well_formed(verdict)
    if status is not None:
        assert status == verdict.status
    if not callable(attributes.get("details")):  # then it is the call of gRPC that makes the text
        assert peak < MOST_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [Exception, ValueError, SdkError, OSError, KeyError], ids=lambda make: make.__name__
)
def test_giant_arguments_take_little_memory(
    classify: Classifier, make: type[BaseException]
) -> None:
    """Of arguments of 16 MB each nothing is copied but the beginning."""
    error = make("W" * HUGE, "out of memory" * 1_000_000)
    gc.collect()

    tracemalloc.start()
    try:
        verdict = assert_survives(classify, error)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert is_well_formed(verdict)
    assert peak < MOST_MEMORY


@pytest.mark.parametrize("place", ["body", "bytes", "content", "http_body"])
def test_what_stands_after_64_kib_is_not_looked_at(classify: Classifier, place: str) -> None:
    """A code within the first 64 KiB decides; behind them it does not."""

    def verdict_of(blanks: int) -> Verdict:
        text = " " * blanks + json.dumps({"error": {"code": "insufficient_quota"}})
        attributes: dict[str, Any] = {
            "body": {"body": text},
            "bytes": {"body": text.encode()},
            "content": {"response": response_with(text.encode())},
            "http_body": {"http_body": text},
        }[place]
        return classify(limited(**attributes))

    length = len(json.dumps({"error": {"code": "insufficient_quota"}}))

    assert "insufficient_quota" == verdict_of(LONGEST_BODY - length).reason
    assert "rate_limit" == verdict_of(LONGEST_BODY - length + 1).reason


@pytest.mark.parametrize("base", [str, bytes])
def test_a_text_that_lies_about_its_length_is_not_read_whole(
    classify: Classifier, base: type
) -> None:
    """A subclass that says it is short, or cuts nothing off, is not decoded as a whole."""
    lies = {
        "__len__": lambda _: 10,
        "__getitem__": lambda self, _: self,
        "__bool__": lambda _: True,
    }
    liar = type("Liar", (base,), lies)
    text = "[" + "[0]," * 1_000_000 + "0]"
    body = liar(text) if base is str else liar(text.encode())
    del text
    gc.collect()

    for attributes in (
        {"body": body},
        {"http_body": body},
        {"response": response_with(body)},
        {"message": body},
    ):
        error = limited(**attributes)
        tracemalloc.start()
        try:
            classify(error)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert peak < MOST_MEMORY, next(iter(attributes))


def test_lists_of_a_parsed_body_are_looked_at_for_a_while(classify: Classifier) -> None:
    """However long the lists in a parsed body are, at most 1,000 of all items are read."""
    counted = Counted()

    class Part(dict[str, Any]):
        """A mapping that counts how often it is read."""

        def get(self, *args: Any) -> Any:
            counted.read()
            return super().get(*args)

        def __getitem__(self, key: Any) -> Any:
            counted.read()
            return super().__getitem__(key)

    violations = [Part(quotaId="x") for _ in range(100_000)]
    details = [Part(violations=violations) for _ in range(1_000)]
    bodies: list[Any] = [
        {"error": {"details": details}},
        {"error": details, "details": details, "errors": details, "Error": {"details": details}},
        [{"error": {"details": details}}] * 10_000,
    ]

    for body in bodies:
        assert is_well_formed(classify(limited(body=body)))

    assert counted.reads <= 3_000


# --- numbers that are too long ---


@pytest.mark.parametrize("digits", [20, 309, 400, 4_299])
@pytest.mark.parametrize(
    "field", ["retry_after", "retry_after_ms", "retry_after_seconds", "estimated_time"]
)
def test_a_wait_that_no_float_holds_does_not_hide_the_rest(
    classify: Classifier, digits: int, field: str
) -> None:
    """A body may hold a number of 4,300 digits: the code and the status beside it stand."""
    number = int("9" * digits)
    body = f'{{"error": {{"code": "rate_limit_exceeded", "{field}": {number}}}}}'

    for verdict in (
        classify(limited(body=body)),
        classify(limited(body=json.loads(body))),
        classify(limited(retry_after=number)),
        classify(limited(headers={"retry-after": number if digits == 20 else str(number)})),
    ):
        assert (ErrorKind.RATE_LIMITED, 429) == (verdict.kind, verdict.status)
        assert is_well_formed(verdict)


def test_a_duration_that_no_float_holds_is_none(classify: Classifier) -> None:
    """So may the parts of protobuf's Duration."""
    for delay in (
        {"seconds": 10**400},
        {"seconds": 1, "nanos": 10**400},
        {"seconds": -(10**400), "nanos": -(10**400)},
    ):
        verdict = classify(limited(body={"error": {"details": [{"retryDelay": delay}]}}))

        assert (ErrorKind.RATE_LIMITED, 429) == (verdict.kind, verdict.status)


def test_a_retry_info_of_grpc_may_hold_any_bytes(classify: Classifier) -> None:
    """Varints without end and lengths that are wrong give no wait, and hide nothing."""
    name = b"type.googleapis.com/google.rpc.RetryInfo"
    for rest in (
        b"", b"\x12", b"\x12\x00\x0a", b"\x12\xff\x0a\xff" + b"\xff" * 300,
        b"\x12\x05\x0a\xff\x08" + b"\x80" * 300,
        b"\x12\x05\x0a\xff" + b"\x08\xff\xff\xff\xff\x7f" * 50,
        b"\x12\xff\x0a\xff\x10" + b"\xff" * 200 + b"\x01",
    ):  # fmt: skip
        metadata = [("grpc-status-details-bin", name + rest)]
        verdict = classify(limited(trailing_metadata=lambda metadata=metadata: metadata))

        assert (ErrorKind.RATE_LIMITED, 429) == (verdict.kind, verdict.status)


# --- causes and groups without end ---


class LinkError(Exception):
    """An error whose cause is another of its kind, made when it is asked for, and counted."""

    counted: Counted
    made: list[BaseException]
    """All of them, so that none has the identity of one that is gone."""

    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        self.counted.read()
        self.made.append(type(self)("words"))
        return self.made[-1]


def endless_causes(
    base: type[BaseException] = Exception, **attributes: Any
) -> tuple[BaseException, Counted]:
    counted = Counted()
    cls = type("EndlessError", (LinkError, base), {"counted": counted, "made": [], **attributes})
    return cls("words"), counted


@pytest.mark.parametrize(
    ("base", "attributes"),
    [
        (Exception, {}),
        (ConnectionError, {}),
        (Exception, {"__module__": "openai", "__qualname__": "APIConnectionError"}),
        (OSError, {}),
    ],
    ids=["unknown", "network", "openai", "oserror"],
)
def test_causes_without_end_are_looked_at_fifty_times(
    classify: Classifier, base: type[BaseException], attributes: dict[str, Any]
) -> None:
    """At most 50 causes are read, of whatever kind the errors are."""
    error, counted = endless_causes(base, **attributes)

    assert is_well_formed(classify(error))
    assert counted.reads <= MOST_CAUSES


def test_fifty_causes_are_looked_at_for_all_members_of_a_group(classify: Classifier) -> None:
    """The members of a group share the 50."""
    pairs = [endless_causes() for _ in range(200)]

    assert is_well_formed(classify(ExceptionGroup("several", [error for error, _ in pairs])))  # type: ignore[list-item]
    assert sum(counted.reads for _, counted in pairs) <= MOST_CAUSES


def chain(length: int, innermost: BaseException) -> BaseException:
    """Return an unknown error that has so many causes, the last of which is the given one."""
    error = innermost
    for _ in range(length):
        outer = Exception("outer")
        outer.__cause__ = error
        error = outer
    return error


def test_the_fiftieth_cause_decides_and_the_next_does_not(classify: Classifier) -> None:
    """What is 1,000 deep is not found; what is 50 deep is."""
    assert ErrorKind.AUTH_DEAD == classify(chain(50, SdkError("x", status_code=401))).kind
    assert ErrorKind.UNKNOWN == classify(chain(51, SdkError("x", status_code=401))).kind
    assert (
        ErrorKind.UNKNOWN
        == assert_survives(classify, chain(1_000, SdkError("x", status_code=401))).kind
    )


def test_members_without_a_cause_use_up_none(classify: Classifier) -> None:
    """Sixty errors that say nothing do not keep the cause of the next from being found."""
    members = [
        *(Exception(str(number)) for number in range(60)),
        chain(1, SdkError("x", status_code=401)),
    ]

    for group in (ExceptionGroup("x", members), ExceptionGroup("x", members[::-1])):  # type: ignore[type-var]
        assert ErrorKind.AUTH_DEAD == classify(group).kind


@pytest.mark.parametrize("length", [1, 2, 3, 70])
def test_a_ring_of_causes_is_walked_once(classify: Classifier, length: int) -> None:
    """Causes, contexts and reasons that lead back to where they began give a verdict."""
    for cls in (Exception, ConnectionError, SdkError):
        errors = [cls("words") for _ in range(length)]
        for error, cause in zip(errors, [*errors[1:], errors[0]], strict=True):
            error.__cause__ = cause
            error.__context__ = cause
            error.reason = cause  # type: ignore[attr-defined]
        assert_survives(classify, errors[0])
        assert_survives(classify, ExceptionGroup("several", errors))


def test_deep_causes_and_contexts_are_survived(classify: Classifier) -> None:
    """1,000 causes, contexts, buried reasons and arguments, one inside the other."""
    for cls in (Exception, ConnectionError, SdkError):
        error: Any = cls("words")
        for _ in range(1_000):
            outer: Any = cls(error)
            outer.__cause__ = outer.__context__ = outer.reason = error
            error = outer
        assert_survives(classify, error)


class MemberError(Exception):
    """An error that counts how often its status is read."""

    counted: Counted

    @property
    def status_code(self) -> int | None:
        self.counted.read()
        return None


def members(count: int) -> tuple[list[Exception], Counted]:
    counted = Counted()
    cls = type("MemberError", (MemberError,), {"counted": counted})
    return [cls("words") for _ in range(count)], counted


def test_of_a_hundred_thousand_members_a_thousand_are_looked_at(classify: Classifier) -> None:
    """A group has a verdict after 1,000 members."""
    many, counted = members(100_000)

    assert ErrorKind.UNKNOWN == classify(ExceptionGroup("several", many)).kind
    assert 0 < counted.reads <= MOST_MEMBERS


def test_a_thousand_members_are_looked_at_of_all_groups_together(classify: Classifier) -> None:
    """Groups in groups, and groups that are causes, share the 1,000."""
    many, counted = members(100_000)
    groups = [ExceptionGroup("inner", many[start : start + 900]) for start in range(0, 90_000, 900)]
    wrapped = []
    for group in groups:
        outer = Exception("outer")
        outer.__cause__ = group
        wrapped.append(outer)

    assert is_well_formed(classify(ExceptionGroup("nested", groups)))
    assert 0 < counted.reads <= MOST_MEMBERS
    counted.reads = 0

    assert is_well_formed(classify(ExceptionGroup("wrapped", wrapped)))
    assert 0 < counted.reads <= MOST_MEMBERS


def test_members_are_taken_from_a_group_a_thousand_at_most(classify: Classifier) -> None:
    """A group whose members are not a tuple is not read beyond the limit either."""
    counted = Counted(most=10_000)
    plain = [Exception("words")] * 2_000

    class Members(list[Exception]):
        def __getitem__(self, key: Any) -> Any:
            found = super().__getitem__(key)
            counted.read(len(found) if isinstance(key, slice) else 1)
            return found

        def __iter__(self) -> Iterator[Exception]:
            for each in super().__iter__():
                counted.read()
                yield each

    group = with_class_attributes(Group, exceptions=Members(plain))

    assert is_well_formed(classify(group))
    # The search for a cancellation and the search for a cause may each read once.
    assert counted.reads <= 2 * MOST_MEMBERS


def test_groups_a_thousand_deep_are_survived(classify: Classifier) -> None:
    """Groups nested 5,000 deep, and causes of groups of causes, give a verdict."""
    group: Any = ExceptionGroup("innermost", [SdkError("x", status_code=401)])
    for _ in range(5_000):
        group = ExceptionGroup("outer", [group])
    assert_survives(classify, group)

    error: Any = SdkError("x", status_code=401)
    for _ in range(500):
        outer = Exception("outer")
        outer.__cause__ = ExceptionGroup("inner", [error, Exception("other")])
        error = outer
    assert_survives(classify, error)


@pytest.mark.parametrize("at", [0, 1, 500, 999])
def test_a_cancellation_among_the_first_thousand_decides(classify: Classifier, at: int) -> None:
    """Wherever among the first 1,000 members it stands."""
    many: list[BaseException] = [SdkError("x", status_code=401) for _ in range(100_000)]
    many[at] = KeyboardInterrupt()

    assert (
        ErrorKind.CANCELLED == assert_survives(classify, BaseExceptionGroup("several", many)).kind
    )


def test_a_cancellation_in_a_nested_group_decides(classify: Classifier) -> None:
    """Also deep inside, as long as the groups around it have room."""
    group: BaseException = KeyboardInterrupt()
    for _ in range(300):
        group = BaseExceptionGroup("outer", [Exception("before"), Exception("beside"), group])

    assert ErrorKind.CANCELLED == assert_survives(classify, group).kind


def test_a_cancellation_behind_an_inner_group_decides(classify: Classifier) -> None:
    """An inner group of hundreds before it does not hide it."""
    inner = ExceptionGroup("inner", [Exception(str(number)) for number in range(990)])

    for several in ([inner, KeyboardInterrupt()], [KeyboardInterrupt(), inner]):
        assert ErrorKind.CANCELLED == classify(BaseExceptionGroup("several", several)).kind


# --- texts made to keep a regular expression busy ---


def test_a_duration_of_many_digits_is_not_looked_at(classify: Classifier) -> None:
    """A duration has at most 64 letters: to search 64 KiB of digits would take minutes."""
    delay = "0" * 2_000 + "5s"

    verdict = classify(limited(body={"error": {"details": [{"retryDelay": delay}]}}))

    assert (ErrorKind.RATE_LIMITED, None) == (verdict.kind, verdict.retry_after)


class Steps:
    """A matcher that backtracks as `re` does, and counts the letters it reads.

    Knows what the rules use. Without the shortcuts of `re`, it counts rather more than less.
    """

    def __init__(self, pattern: re.Pattern[Any]) -> None:
        source = pattern.pattern
        self.tree = list(
            re._parser.parse(source.decode("latin-1") if isinstance(source, bytes) else source)
        )  # type: ignore[attr-defined]
        self.taken = 0

    def of_search(self, text: str) -> int:
        """Return how many letters a search that finds nothing reads."""
        for at in range(len(text) + 1):
            for _ in self._all(self.tree, 0, text, at):
                return self.taken
        return self.taken

    def _all(self, nodes: list[Any], index: int, text: str, at: int) -> Iterator[int]:
        if index == len(nodes):
            yield at
            return
        for end in self._one(*nodes[index], text, at):
            yield from self._all(nodes, index + 1, text, end)

    def _one(self, name: Any, what: Any, text: str, at: int) -> Iterator[int]:
        self.taken += 1
        match str(name):
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN" | "RANGE" | "CATEGORY":
                if at < len(text) and _is_letter(str(name), what, text[at]):
                    yield at + 1
            case "SUBPATTERN":
                yield from self._all(list(what[3]), 0, text, at)
            case "BRANCH":
                for branch in what[1]:
                    yield from self._all(list(branch), 0, text, at)
            case "MAX_REPEAT" | "MIN_REPEAT":
                yield from self._repeat(str(name), what[0], what[1], list(what[2]), text, at)
            case "ASSERT" | "ASSERT_NOT":
                start = at if what[0] > 0 else at - 1  # the rules read one letter back
                found = (
                    start >= 0 and next(self._all(list(what[1]), 0, text, start), None) is not None
                )
                if found is (str(name) == "ASSERT"):
                    yield at
            case "AT":
                before, after = (
                    at > 0 and _is_word(text[at - 1]),
                    at < len(text) and _is_word(text[at]),
                )
                if before != after:
                    yield at
            case other:
                raise NotImplementedError(other)

    def _repeat(
        self, name: str, least: int, most: int, body: list[Any], text: str, at: int
    ) -> Iterator[int]:
        ends = [iter([at])]
        trail: list[int] = []
        # Depth first without recursion, for repeats of hundreds of letters.
        while ends:
            end = next(ends[-1], None)
            if end is None or len(ends) > most + 1:
                ends.pop()
                if trail and len(trail) > len(ends):
                    done = trail.pop()
                    if name == "MAX_REPEAT" and len(trail) >= least:
                        yield done
                continue
            trail.append(end)
            if name == "MIN_REPEAT" and len(trail) - 1 >= least:
                yield end
            ends.append(each for each in self._all(body, 0, text, end) if each > end)


def _is_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _is_letter(name: str, what: Any, letter: str) -> bool:
    match name:
        case "LITERAL":
            return ord(letter) == what
        case "NOT_LITERAL":
            return ord(letter) != what
        case "ANY":
            return letter != "\n"
        case "RANGE":
            return what[0] <= ord(letter) <= what[1]
        case "CATEGORY":
            kinds = {"DIGIT": str.isdecimal, "SPACE": str.isspace, "WORD": _is_word}
            kind = str(what).rpartition("_")[2]
            return kinds[kind](letter) is not ("_NOT_" in str(what))
        case _:
            found = any(
                _is_letter(str(each), value, letter)
                for each, value in what
                if str(each) != "NEGATE"
            )
            return found is not (str(what[0][0]) == "NEGATE")


def patterns() -> dict[str, re.Pattern[Any]]:
    """Return the regular expressions of all rules, by module and name."""
    found: dict[str, re.Pattern[Any]] = {}
    for module in pkgutil.iter_modules(rules.__path__, rules.__name__ + "."):
        for name, value in vars(importlib.import_module(module.name)).items():
            pattern = getattr(value, "__self__", value)  # kept as ``re.compile(…).search``
            if isinstance(pattern, re.Pattern):
                found[f"{module.name.rpartition('.')[2]}.{name}"] = pattern
    return found


# Only a few letters are read with these: see the tests of hints.
AT_MOST_64_LETTERS = ("hints._GO", "hints._WORDS", "hints._SPELLED")
CRAFTED = (
    "again ", "wait ", "retry ", "again in ", "wait  ", "again\t:~", "available again for ",
    "item ", "file, ", "no file ",
    "run not ", "message not be ", "model ", "model not ", "models, no longer ", "model does not ",
    "'", " '", "'a", " \"a'",
    "`x'", "1", "1.", "12 ", "oom_", "limit", "ratelimi", "too many 50", "a", " ", "\n",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(patterns()))
def test_no_regular_expression_looks_at_a_letter_again_and_again(name: str) -> None:
    """Twice the text takes twice the steps, whatever the text: an enemy cannot keep a search busy.

    The steps are counted, not timed. Four times the steps for twice the text would be the
    square, which 4,000 letters make 40 ms of one error, and 40 s of a group of a thousand.
    """
    if name in AT_MOST_64_LETTERS:
        pytest.skip("reads few letters only")
    pattern = patterns()[name]

    for unit in CRAFTED:
        once, twice = (Steps(pattern).of_search((unit * length)[:length]) for length in (360, 720))

        assert twice <= 2.7 * once, (unit, once, twice)


def test_the_counting_of_steps_notices_a_square() -> None:
    """The counter itself: digits without a unit take the square, a plain word does not."""
    square, plain = re.compile(r"\d+s"), re.compile("oom")

    assert Steps(square).of_search("1" * 200) > 3.5 * Steps(square).of_search("1" * 100)
    assert Steps(plain).of_search("o" * 200) < 2.1 * Steps(plain).of_search("o" * 100)


# --- anything at all ---


@pytest.mark.slow
@given(st.binary(max_size=400))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_an_error_made_of_any_bytes_gets_a_verdict(data: bytes) -> None:
    """The function that the fuzzer drives, driven by hypothesis."""
    check(data)


@pytest.mark.slow
@given(st.sampled_from(list(seeds())), st.data())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_recorded_answer_with_a_few_bytes_changed_gets_a_verdict(
    seed: bytes, data: st.DataObject
) -> None:
    """The same, beginning with what providers sent."""
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(0, 8))):
        if changed:
            at = data.draw(st.integers(0, len(changed) - 1))
            changed[at : at + 1] = data.draw(st.binary(max_size=4))

    check(bytes(changed))


def test_the_fuzzer_makes_errors_of_all_sorts() -> None:
    """The fuzzer makes plain errors, some with a status, some with a cause, and groups."""
    made = [
        error_of(bytes([sort, *other]))
        for sort in range(4)
        for other in itertools.product(range(5), repeat=5)
    ]

    assert any(isinstance(error, BaseExceptionGroup) for error in made)
    assert any(isinstance(error, OSError) for error in made)
    assert any(error.__cause__ is not None for error in made)
    assert any(getattr(error, "status_code", None) == 429 for error in map(error_of, seeds()))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**400)
    | st.floats()
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                """error errors code type status message details retryDelay retry_after seconds
                nanos violations""".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
bodies = (
    json_values
    | json_values.map(json.dumps)
    | json_values.map(lambda body: json.dumps(body).encode())
    | st.binary()
)
header_values = (
    st.text(max_size=40)
    | st.binary(max_size=40)
    | st.integers()
    | st.floats()
    | st.none()
    | st.sampled_from(
        [
            "1.5",
            "6m0s",
            "-1",
            "nan",
            "1e999",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "9999-12-31T23:59:59-23:59",
        ]
    )
    | st.from_regex(r"[0-9:., TZGMTsmh+-]{1,40}", fullmatch=True)
)
header_names = st.sampled_from(
    """retry-after retry-after-ms x-ratelimit-reset x-ratelimit-remaining ratelimit
    x-should-retry date""".split()
)
headers = st.dictionaries(header_names, header_values, max_size=4) | st.lists(
    st.tuples(header_names, header_values)
)
statuses = st.sampled_from(
    [200, 400, 401, 404, 429, 500, 503, "429", 429.0, True, None, 10**5000, -1]
)


@st.composite
def flat_errors(draw: st.DrawFn) -> BaseException:
    """An error with a status, headers, a body and anything in some of its attributes."""
    # Drawn by name: hypothesis reads what it draws, and some of these do not stand that.
    bad = draw(
        st.dictionaries(st.sampled_from(ATTRIBUTES), st.sampled_from(list(VALUES)), max_size=2)
    )
    attributes = {name: VALUES[value]() for name, value in bad.items()}
    attributes.update(draw(st.dictionaries(st.sampled_from(ATTRIBUTES), json_values, max_size=2)))
    attributes.update(
        draw(
            st.fixed_dictionaries(
                {}, optional={"status_code": statuses, "headers": headers, "body": bodies}
            )
        )
    )
    package = draw(
        st.sampled_from(["openai", "app", "grpc", "urllib3", "botocore", "litellm", "builtins"])
    )
    name = draw(
        st.sampled_from(["APIError", "RpcError", "ClientError", "MaxRetryError", "TimeoutError"])
    )
    base = draw(st.sampled_from([Exception, ValueError, OSError, ConnectionError]))
    args = [VALUES[value]() for value in draw(st.lists(st.sampled_from(list(VALUES)), max_size=2))]
    args = [] if base is OSError else [*args, *draw(st.lists(st.text(max_size=50), max_size=1))]
    error = type(name, (base,), {"__module__": package})(*args)
    for key, value in attributes.items():
        with suppress(Exception):  # an OSError takes not everything
            setattr(error, key, value)
    return error


def nested(inner: st.SearchStrategy[BaseException]) -> st.SearchStrategy[BaseException]:
    """Wrap errors in causes, contexts and groups."""

    def caused(pair: tuple[BaseException, BaseException], how: str) -> BaseException:
        setattr(pair[0], how, pair[1])
        return pair[0]

    return (
        st.tuples(inner, inner).map(lambda pair: caused(pair, "__cause__"))
        | st.tuples(inner, inner).map(lambda pair: caused(pair, "__context__"))
        | st.lists(inner, min_size=1, max_size=4).map(
            lambda several: BaseExceptionGroup("several", several)
        )
    )


@pytest.mark.slow
@given(st.recursive(flat_errors(), nested, max_leaves=6))
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_error_gets_a_verdict(error: BaseException) -> None:
    """Whatever an error holds, there is a verdict, twice the same, and it can be explained."""
    classify = Classifier(lambda: NOW)

    verdict = assert_survives(classify, error)

    assert verdict == classify(error)


@example({"retry-after": "1e400"}, {"retry_after": 10**400})
@given(headers, bodies)
@settings(max_examples=300, deadline=None)
def test_no_answer_makes_a_built_in_rule_fail(headers: Any, body: Any) -> None:
    """What comes over HTTP is data, and data never costs a verdict."""
    classify = Classifier(lambda: NOW)
    failures: list[BaseException] = []
    classify.on_rule_failed = failures.append

    verdict = classify(limited(headers=headers, body=body))

    assert [] == failures
    assert ErrorKind.UNKNOWN != verdict.kind
