"""The classifier: cancellations, causes and groups, users' rules, robustness."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from resilient_llm import (
    BreakerOpenError,
    ChainExhaustedError,
    ConfigurationError,
    DeadlineExceededError,
    ErrorKind,
    ResponseRejectedError,
    StreamInterruptedError,
    Verdict,
)
from resilient_llm._core.classify import Classifier
from resilient_llm.rules import _class_info, sentences
from tests.support.errors import (
    NOW,
    AppError,
    SomeSdkError,
    answered,
    openai_error,
    wrapped,
)
from tests.support.ways import down


@pytest.fixture
def classify() -> Classifier:
    return Classifier(lambda: NOW)


# --- our own errors, and what is inside ---


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BreakerOpenError("groq/x", "open", 12.0), Verdict(ErrorKind.REJECTED, retry_after=12.0)),
        (DeadlineExceededError(3.0), Verdict(ErrorKind.REJECTED)),
        (StreamInterruptedError("groq/x", 3), Verdict(ErrorKind.REJECTED)),
        (ChainExhaustedError("all", [openai.OpenAIError("x")]), Verdict(ErrorKind.REJECTED)),
        (
            ChainExhaustedError("all", [ValueError()], retry_after=4.0),
            Verdict(ErrorKind.REJECTED, retry_after=4.0),
        ),
        (ResponseRejectedError("groq/x", "empty"), Verdict(ErrorKind.BAD_RESPONSE, "empty")),
        (
            ResponseRejectedError("groq/x", "dead", "auth_dead"),
            Verdict(ErrorKind.AUTH_DEAD, "dead"),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_our_own_errors_are_rejections(
    classify: Classifier, error: Exception, expected: Verdict
) -> None:
    """What an inner guard refused is counted inside; a refused answer is what ``reject`` said."""
    assert classify(error) == expected


@pytest.mark.parametrize(
    "error",
    [
        BreakerOpenError("groq/x", "open", 12.0),
        ChainExhaustedError("all", [ValueError()], retry_after=4.0),
        DeadlineExceededError(3.0),
        ResponseRejectedError("groq/x", "empty"),
        ConfigurationError("a budget has no price"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_our_own_error_means_the_same_below_a_client(
    classify: Classifier, error: Exception
) -> None:
    """A client makes a connection error of what a guard in its transport raises."""
    connection_error = openai.APIConnectionError(request=httpx2.Request("GET", "http://x"))
    connection_error.__cause__ = error

    assert classify(connection_error) == classify(error)


@pytest.mark.parametrize(
    "error",
    [
        lambda: openai_error(429, {"code": "rate_limit_exceeded"}, {"retry-after": "9"}),
        lambda: openai_error(401, {"code": "invalid_api_key"}),
        lambda: ConnectionRefusedError(111, "refused"),
        lambda: MemoryError(),
        lambda: TypeError("x"),
    ],
    ids=["429", "401", "refused", "memory", "bug"],
)
def test_trap_14_error_in_group_or_cause_gets_the_same_verdict(
    classify: Classifier, error: Callable[[], Exception]
) -> None:
    """A wrapper, a group and a group inside a wrapper change nothing."""
    inner = error()
    expected = classify(inner)

    assert classify(wrapped(inner)) == expected
    assert classify(wrapped(inner, 3)) == expected
    assert classify(ExceptionGroup("g", [inner])) == expected
    assert (
        classify(wrapped(ExceptionGroup("g", [ExceptionGroup("h", [wrapped(inner)])]))) == expected
    )


def test_an_error_that_speaks_for_itself_is_not_overruled_by_its_cause(
    classify: Classifier,
) -> None:
    """The cause is asked only when the outer error says nothing."""
    error = SomeSdkError(503)
    error.__cause__ = TypeError("x")

    assert classify(error).kind is ErrorKind.TRANSIENT


SEVERITY = [
    TypeError(),
    answered(401),
    answered(400),
    MemoryError(),
    SomeSdkError(429),
    ConnectionError(),
    AppError(),
    ResponseRejectedError("groq/x"),
    BreakerOpenError("groq/x", "open"),
]


@pytest.mark.parametrize("first", range(len(SEVERITY) - 1))
def test_the_most_severe_member_of_a_group_decides(classify: Classifier, first: int) -> None:
    """Severity falls in the documented order, whatever the order of members."""
    members = SEVERITY[first:]

    assert classify(ExceptionGroup("g", members)) == classify(SEVERITY[first])
    assert classify(ExceptionGroup("g", members[::-1])) == classify(SEVERITY[first])


def test_chains_of_any_length_and_rings_end(classify: Classifier) -> None:
    """Ten thousand causes, ten thousand groups, or a ring: a verdict, no RecursionError."""
    ring = AppError()
    ring.__cause__ = wrapped(ring, 3)
    groups: Exception = AppError()
    for _ in range(10_000):
        groups = ExceptionGroup("g", [groups])

    assert classify(wrapped(ConnectionError(), 10_000)).kind is ErrorKind.UNKNOWN
    assert classify(groups).kind is ErrorKind.UNKNOWN
    assert classify(ring).kind is ErrorKind.UNKNOWN
    while isinstance(groups, ExceptionGroup):  # or its deallocation would recurse
        groups = groups.exceptions[0]


# --- users' rules ---


class GatewayError(Exception):
    pass


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Verdict(ErrorKind.AUTH_DEAD, "mine", scope="target"), "auth_dead"),
        (ErrorKind.RATE_LIMITED, "rate_limited"),
        ("memory_pressure", "memory_pressure"),
        (None, "unknown"),
    ],
)
def test_a_users_rule_decides(classify: Classifier, answer: Any, kind: str) -> None:
    """A rule gives a Verdict, a kind or its word, or leaves the decision to the next."""

    @classify.rule
    def mine(error: BaseException) -> Any:
        return answer if isinstance(error, GatewayError) else None

    assert classify(GatewayError()).kind == kind
    assert classify(ConnectionError()).kind is ErrorKind.TRANSIENT
    assert classify.rules == (mine,)


def test_the_newest_rule_is_asked_first_and_before_the_built_in_ones(classify: Classifier) -> None:
    """An application overrules what a library registered, and both overrule the built-in rules."""
    classify.rule(lambda _: "transient")
    classify.rule(lambda _: "auth_dead")

    assert classify(SomeSdkError(400)).kind is ErrorKind.AUTH_DEAD


def test_a_users_rule_is_asked_about_what_is_inside(classify: Classifier) -> None:
    """The same error gets the same verdict inside a group and a wrapper."""
    classify.rule(lambda error: "auth_dead" if isinstance(error, GatewayError) else None)

    assert classify(wrapped(GatewayError())).kind is ErrorKind.AUTH_DEAD
    assert (
        classify(ExceptionGroup("g", [ConnectionError(), GatewayError()])).kind
        is ErrorKind.AUTH_DEAD
    )


@pytest.mark.parametrize("answer", [17, object(), "no such kind", True])
def test_a_rule_that_fails_is_skipped_and_reported(classify: Classifier, answer: Any) -> None:
    """A rule that raises or returns something else breaks nothing."""
    failures: list[BaseException] = []
    classify.on_rule_failed = failures.append

    @classify.rule
    def bad(error: BaseException) -> Any:
        return answer

    @classify.rule
    def worse(error: BaseException) -> Any:
        raise KeyError("x")

    assert classify(ConnectionError()).kind is ErrorKind.TRANSIENT
    assert [type(failure) for failure in failures] == [KeyError, TypeError]


def test_a_broken_rule_of_a_user_is_logged_by_its_class(caplog: pytest.LogCaptureFixture) -> None:
    """The others are asked, and the failure is reported without its message."""
    from resilient_llm import classify

    @classify.rule
    def broken(error: BaseException) -> Verdict | None:
        raise ZeroDivisionError("secret")

    assert ErrorKind.TRANSIENT == classify(down()).kind
    assert [
        "ZeroDivisionError" in message and "secret" not in message for message in caplog.messages
    ] == [True]


def test_a_listener_that_raises_breaks_nothing(classify: Classifier) -> None:
    """Neither does the callback for failed rules."""

    def listener(failure: BaseException) -> None:
        raise failure

    classify.on_rule_failed = listener
    classify.rule(lambda error: 1 / 0)

    assert classify(ConnectionError()).kind is ErrorKind.TRANSIENT


def test_a_rule_must_be_callable(classify: Classifier) -> None:
    """What cannot be called is refused where it is written."""
    with pytest.raises(ConfigurationError, match="function"):
        classify.rule("auth_dead")  # type: ignore[type-var]  # the mistake


def test_rules_can_be_put_back(classify: Classifier) -> None:
    """Tests take a snapshot and restore it."""
    classify.rule(lambda _: None)
    before = classify.rules
    classify.rule(lambda _: "auth_dead")

    classify.replace_rules(before)

    assert classify.rules == before
    assert classify(ConnectionError()).kind is ErrorKind.TRANSIENT


# --- robustness ---


class HostileError(Exception):
    """Raises wherever it is touched."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__

    @property
    def status_code(self) -> int:
        raise RuntimeError("no status")

    @property
    def response(self) -> object:
        raise ZeroDivisionError

    @property
    def body(self) -> object:
        return type("Body", (dict,), {"get": lambda *_: 1 / 0})(error=1)

    @property
    def headers(self) -> object:
        return 42


def test_hostile_errors_are_classified_without_raising(classify: Classifier) -> None:
    """An error that raises when it is read still gets a verdict."""
    assert classify(HostileError()).kind is ErrorKind.UNKNOWN
    assert classify(wrapped(HostileError())).kind is ErrorKind.UNKNOWN


@pytest.mark.parametrize(
    "attributes",
    [
        {"headers": 5},
        {"headers": {"retry-after": object()}},
        {"headers": [("retry-after", "2"), ("broken",)]},
        {"body": {"error": {"details": [1, None, {"reason": 3}]}}},
        {"body": "{" * 100_000},
        {"body": b"\xff\xfe"},
        {"body": [[]]},
        {"response": {"ResponseMetadata": None, "Error": []}},
        {"details": lambda: 1 / 0},
        {"rcvd": object()},
    ],
)
def test_odd_attributes_say_nothing(classify: Classifier, attributes: dict[str, Any]) -> None:
    """What is not of the expected type counts as not there; the status stands."""
    failures: list[BaseException] = []
    classify.on_rule_failed = failures.append

    assert classify(SomeSdkError(503, **attributes)).kind is ErrorKind.TRANSIENT
    assert failures == []


def test_classifying_keeps_neither_the_error_nor_its_class(classify: Classifier) -> None:
    """What is known per class is forgotten with the class; no prompt outlives the call."""
    cls: Any = type("ShortLivedError", (Exception,), {"status_code": 503})
    error = cls("a prompt")
    classify(error)
    watched = [weakref.ref(error), weakref.ref(cls)]

    del error, cls
    gc.collect()

    assert [one() for one in watched] == [None, None]


def test_ten_thousand_classes_are_no_leak(classify: Classifier) -> None:
    """A class made anew for every call leaves nothing behind."""
    before = len(_class_info.class_of)

    for _ in range(1_000):
        assert classify(type("LocalError", (Exception,), {})()).kind is ErrorKind.UNKNOWN
    gc.collect()

    assert len(_class_info.class_of) <= before + 1


def test_every_sentence_is_found_by_the_keys_of_its_cause() -> None:
    """The keys are a shortcut and must not hide a sentence."""
    causes = [value for value in vars(sentences).values() if isinstance(value, sentences.Cause)]

    hidden = [
        phrases
        for cause in causes
        for phrases, _ in cause.sentences
        if not any(key in " ".join(phrases) for key in cause.keys)
    ]

    assert len(causes) >= 15
    assert hidden == []
