"""The error of a chain whose targets are all used up, and the tree of our errors."""

import asyncio
import dataclasses
import os
import pickle
import traceback
from typing import Any

import pytest

from resilient_llm import (
    BreakerOpenError,
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    DeadlineExceededError,
    ErrorKind,
    ResilientLLMError,
    ResponseRejectedError,
    Target,
    bench_model,
    breaker,
    failover,
)
from resilient_llm.testing import http_error, scripted
from tests.support.ways import GROQ, OPENAI, ProviderError, down

SECRET = "sk-secret-prompt"


def exhausted(
    *errors: Exception, chain: Any = (GROQ, OPENAI), **options: Any
) -> ChainExhaustedError:
    answers = scripted(*errors)
    with pytest.raises(ChainExhaustedError) as caught:
        failover(chain=list(chain), attempts=1, **options).call(lambda *, target: answers())
    return caught.value


def test_the_chains_error_has_one_member_per_target_in_order(clock: Any) -> None:
    """Each with a note; skipped ones as the rejection that says why."""
    first, last = ProviderError(503), ProviderError(422)
    bench_model("mistral/c", 60, reason="maintenance")

    error = exhausted(first, last, chain=(GROQ, "mistral/c", OPENAI))

    assert (first, last) == (error.exceptions[0], error.exceptions[2])
    assert isinstance(error.exceptions[1], BreakerOpenError)
    assert ["maintenance", 60.0] == [error.exceptions[1].reason, error.exceptions[1].retry_after]
    assert all(member.__notes__ for member in error.exceptions)
    assert (last, last, None) == (error.last_error, error.__cause__, error.kind)
    assert [(GROQ, 1), ("mistral/c", 0), (OPENAI, 1)] == [
        (each.target, each.number) for each in error.attempts
    ]


def test_the_chains_error_says_when_another_try_is_worthwhile(clock: Any) -> None:
    """The soonest end of a bench; zero when a target may be asked at once."""
    assert (
        pytest.approx(5.0)
        == exhausted(
            ProviderError(429, retry_after=9), ProviderError(429, retry_after=5)
        ).retry_after
    )
    assert 0.0 == exhausted(down(), down(), chain=("x/y", "y/z")).retry_after


def test_every_target_saying_the_same_auth_error_is_pointed_out() -> None:
    """A note says to look at the credentials."""
    error = exhausted(ProviderError(401), ProviderError(401))

    assert ErrorKind.AUTH_DEAD == error.kind
    assert any("credentials" in note for note in error.__notes__)


def test_the_chains_error_is_an_exception_group() -> None:
    """except*, split and derive keep its attributes."""
    error = exhausted(ProviderError(503), TimeoutError())
    caught: list[type] = []
    try:
        raise error
    except* TimeoutError as group:
        caught.append(type(group))
    except* ProviderError as group:
        caught.append(type(group))
    matched, rest = error.split(TimeoutError)

    assert [ChainExhaustedError, ChainExhaustedError] == caught
    assert isinstance(matched, ChainExhaustedError)
    assert isinstance(rest, ChainExhaustedError)
    assert error.attempts == matched.attempts == rest.attempts


def test_a_pickle_holds_no_foreign_error() -> None:
    """Members that are not ours come back as their record: class, kind, reason, status."""
    error = exhausted(ProviderError(503, message=SECRET), ProviderError(401, message=SECRET))

    data = pickle.dumps(error)
    back = pickle.loads(data)

    assert SECRET.encode() not in data
    assert [
        "ProviderError: transient, overloaded, status 503",
        "ProviderError: auth_dead, invalid_credentials, status 401",
    ] == [str(member) for member in back.exceptions]
    assert (error.attempts, error.kind, error.retry_after) == (
        back.attempts,
        back.kind,
        back.retry_after,
    )


def test_our_own_errors_pickle_and_belong_together() -> None:
    """One tree, and each of them survives a pickle with its attributes."""
    errors: list[ResilientLLMError] = [
        BreakerOpenError(GROQ, "overloaded", 3.0),
        CallRejectedError(GROQ, "max_attempts"),
        ResponseRejectedError(GROQ, "empty"),
        DeadlineExceededError(5.0),
        ConfigurationError("no"),
    ]

    for error in errors:
        back = pickle.loads(pickle.dumps(error))
        assert (type(error), str(error), vars(error)) == (type(back), str(back), vars(back))
    assert issubclass(BreakerOpenError, CallRejectedError)
    assert issubclass(DeadlineExceededError, TimeoutError)


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """An error that takes no attributes, so no note either."""

    code: int = 503


class NotelessError(Exception):
    """An error whose notes are no list."""

    __notes__ = None  # type: ignore[assignment]  # a class may do so


@pytest.mark.parametrize(
    "error", [FrozenError(), NotelessError()], ids=lambda it: type(it).__name__
)
def test_an_error_that_takes_no_note_is_a_member_without_one(error: Exception) -> None:
    """What the call ends with does not depend on whether a note can be added."""

    def ask(target: Target) -> None:
        raise error

    with pytest.raises(ChainExhaustedError) as caught:
        failover(chain=GROQ, attempts=1).call(ask)

    assert [error] == list(caught.value.exceptions)


def test_the_representation_holds_no_text_of_a_provider() -> None:
    """It names the classes of its members, whose texts may hold prompts and keys."""

    def ask(target: Target) -> None:
        raise ConnectionError("sk-SECRET")

    with pytest.raises(ChainExhaustedError) as caught:
        failover(chain=GROQ, attempts=1).call(ask)

    assert "SECRET" not in repr(caught.value)
    assert "ConnectionError" in repr(caught.value)


class BrandNewError(Exception):
    """An error that no rule knows."""


def _frames(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("benched", [False, True], ids=["first fails", "first is benched"])
def test_the_message_says_what_was_called_and_what_was_skipped(
    clock: Any, is_async: bool, benched: bool
) -> None:
    """A skipped target is told from one that answered, and an unknown error by its class."""
    bench_model("mistral/x")
    if benched:
        breaker("groq").record(http_error(401), 0.1)

    def ask(target: Target) -> str:
        raise BrandNewError

    async def aask(target: Target) -> str:
        raise BrandNewError

    policy = failover(["groq/llama", "openai/gpt", "mistral/x"], attempts=1)
    with pytest.raises(ChainExhaustedError) as caught:
        asyncio.run(policy(aask)()) if is_async else policy(ask)()

    first = "skipped (benched: invalid_credentials)" if benched else "unknown, BrandNewError"
    assert (
        f"no target answered (groq/llama: {first}; openai/gpt: unknown, BrandNewError; "
        "mistral/x: skipped (benched: by hand))"
    ) == caught.value.message
    members = caught.value.exceptions
    assert ["mistral/x: skipped (benched: by hand)"] == members[2].__notes__
    assert ["aask" if is_async else "ask"] == _frames(members[1])
    ours = [
        frame.filename
        for frame in traceback.extract_tb(caught.value.__traceback__)
        if f"{os.sep}_core{os.sep}" in frame.filename or f"{os.sep}_drive{os.sep}" in frame.filename
    ]
    assert [] == ours


def test_an_error_of_an_inner_guard_keeps_its_traceback() -> None:
    """What the function itself raises leaves as it is, also if its class is one of ours."""

    @failover("groq/llama", classify=lambda _: ErrorKind.CALLER_BUG)
    def ask(target: Target) -> str:
        return inner()

    def inner() -> str:
        raise ResilientLLMError("inside")

    with pytest.raises(ResilientLLMError, match="inside") as caught:
        ask()

    assert ["ask", "inner"] == _frames(caught.value)[-2:]
