"""`Limit`: what is refused where it is written, what is equal, and to which attempts one applies."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError
from types import MappingProxyType
from typing import Any

import pytest

from resilient_llm import ConfigurationError, Target
from resilient_llm._values.limit import Limit, applied_limits, merged_limits

ONE, TWO, THREE = Limit(requests=1), Limit(requests=2), Limit(requests=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "limits nothing: write requests=, tokens= or max_concurrent="),
        ({"requests": 0}, "requests=0 .* 1 or more"),
        ({"requests": True}, "requests=True"),
        ({"requests": 1.5}, "requests=1.5 .* whole number"),
        ({"requests": 10**30}, "requests=.* or less"),
        ({"tokens": 0}, "tokens=0 .* 1 or more"),
        ({"tokens": "1000"}, "tokens='1000' .* whole number"),
        ({"max_concurrent": 0}, "max_concurrent=0 .* 1 or more"),
        ({"requests": 1, "burst": 0}, "burst=0 .* 1 or more"),
        ({"max_concurrent": 1, "max_queued": -1}, "max_queued=-1 .* 0 or more"),
        ({"max_concurrent": 1, "max_queued": None}, "max_queued=None .* 0 or more"),
        ({"max_concurrent": 1, "queue_timeout": 0}, "queue_timeout=0 .* above 0"),
        ({"max_concurrent": 1, "queue_timeout": float("nan")}, "queue_timeout=nan"),
        ({"requests": 1, "shared": 1}, "shared=1 .* True or False"),
        ({"requests": 1, "per": 0}, "per=0 .* above 0"),
        ({"requests": 1, "per": 86_401}, "per=86401.* to 86400"),
        ({"requests": 1, "per": float("inf")}, "per=inf"),
        ({"requests": 1, "per": "minutes"}, "per='minutes' .* did you mean 'minute'"),
        ({"requests": 1, "per": None}, "per=None"),
        ({"max_concurrent": 1, "per": "hour"}, "per=3600.0 .* write requests= or tokens= as well"),
        ({"tokens": 1, "burst": 5}, "burst=5 .* write requests= as well"),
        ({"requests": 1, "max_queued": 5}, "max_queued=5 .* write max_concurrent= as well"),
        ({"requests": 1, "queue_timeout": 5}, "queue_timeout=5.0 .* write max_concurrent="),
        ({"max_concurrent": 1, "queue_timeout": 5}, "queue_timeout=5.0 .* max_queued= as well"),
        ({"max_concurrent": 1, "shared": True}, "shared=True .* write requests= or tokens="),
    ],
)
def test_what_is_not_allowed(options: dict[str, Any], message: str) -> None:
    """A mistake raises where it is written, and the message says what is allowed."""
    with pytest.raises(ConfigurationError, match=message):
        Limit(**options)


@pytest.mark.parametrize(
    ("per", "seconds"),
    [("second", 1.0), ("minute", 60.0), ("hour", 3600.0), ("day", 86_400.0), (0.5, 0.5)],
)
def test_periods(per: Any, seconds: float) -> None:
    """A period is a word or a number of seconds, and both are the same limit."""
    limit = Limit(tokens=5, per=per)

    assert (seconds, Limit(tokens=5, per=seconds)) == (limit.seconds, limit)


def test_the_defaults() -> None:
    """What is not written is the documented default."""
    limit = Limit(requests=60)

    assert (60, None, 60.0, None) == (limit.requests, limit.tokens, limit.per, limit.burst)
    assert (None, 0, None, False) == (
        limit.max_concurrent,
        limit.max_queued,
        limit.queue_timeout,
        limit.shared,
    )


FULL = Limit(
    requests=60,
    tokens=90_000,
    per="hour",
    burst=5,
    max_concurrent=8,
    max_queued=100,
    queue_timeout=2,
    shared=True,
)


def test_a_limit_is_a_value() -> None:
    """It is frozen and hashable, and equal to its copies and pickles."""
    with pytest.raises(FrozenInstanceError):
        FULL.requests = 1  # type: ignore[misc]  # that is what must not be
    copies = [copy.deepcopy(FULL), copy.copy(FULL), pickle.loads(pickle.dumps(FULL))]

    assert {FULL} == set(copies)
    assert FULL != Limit(requests=60)


def test_repr_is_what_one_writes() -> None:
    """The representation builds an equal limit, and leaves out what is the default."""
    assert "Limit(requests=60)" == repr(Limit(requests=60))
    assert eval(repr(FULL), {"Limit": Limit}) == FULL
    assert "per='hour'" in repr(FULL)
    assert "per=0.5" in repr(Limit(requests=1, per=0.5))


def test_limits_are_merged_by_key() -> None:
    """A key that is written replaces its limit, None removes one, and the others stay."""
    before = merged_limits({}, {"groq": ONE, "openai": ONE, "*": ONE})

    after = merged_limits(before, {" Groq": TWO, "openai": None, "tag: eu": THREE, "xai": None})

    assert {"groq": TWO, "*": ONE, "tag:eu": THREE} == dict(after)
    assert {"groq": ONE, "openai": ONE, "*": ONE} == dict(before)
    assert isinstance(after, MappingProxyType)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groq": 60}, r"limits\['groq'\] of type int is not allowed: write Limit"),
        ({"": ONE}, r"limits\[''\]: a key is blank.*'tag:…', or '\*'"),
        ({"tag:": ONE}, r"limits\['tag:'\] names no tag"),
        ({"groq@/x": ONE}, "empty half"),
        ({"tag:" + "x" * 600: ONE}, "too long"),
        ({5: ONE}, "has a key that is no text"),
        ([("groq", ONE)], "limits of type list"),
    ],
)
def test_what_is_no_limit_of_a_key(given: Any, message: str) -> None:
    """Wrong keys and values raise, and say what may be written."""
    with pytest.raises(ConfigurationError, match=message):
        merged_limits({}, given)


def _applied(given: dict[str, Limit], target: Target) -> list[tuple[str, Limit]]:
    limits = merged_limits({}, given)
    found = applied_limits(limits, target.key, target.provider_key, target.tags)
    return [(each.key, each.limit) for each in found]


def test_every_limit_that_names_a_target_applies() -> None:
    """Its provider's, its own, and those of its tags; never those of others."""
    target = Target("groq/llama", tags=["eu", "cheap", "us"])
    given = {
        "groq/llama": ONE,
        "groq": TWO,
        "tag:eu": THREE,
        "tag:cheap": ONE,
        "groq/other": TWO,
        "openai": TWO,
        "tag:asia": TWO,
    }

    assert [
        ("groq", TWO),
        ("groq/llama", ONE),
        ("tag:cheap", ONE),
        ("tag:eu", THREE),
    ] == _applied(given, target)


def test_an_account_is_a_provider_of_its_own() -> None:
    """A limit of ``groq`` covers no account of it, and the other way round."""
    target = Target("groq/llama", account="eu")

    assert [] == _applied({"groq": ONE, "groq/llama": ONE}, target)
    assert [("groq@eu", TWO)] == _applied({"groq": ONE, "groq@eu": TWO}, target)
    assert [("groq@eu/llama", TWO)] == _applied({"groq@eu/llama": TWO}, target)


def test_the_others_have_one_each() -> None:
    """``"*"`` gives each provider key without an entry a limit of its own, accounts too."""
    given = {"*": ONE, "groq": TWO, "openai/gpt": THREE}

    assert [("groq", TWO)] == _applied(given, Target("groq/llama"))
    assert [("groq@eu", ONE)] == _applied(given, Target("groq/llama", account="eu"))
    assert [("openai", ONE), ("openai/gpt", THREE)] == _applied(given, Target("openai/gpt"))


def test_limits_of_a_guard_on_a_provider() -> None:
    """A guard on a provider passes the provider's limit once."""
    limits = merged_limits({}, {"groq": ONE, "*": TWO})

    assert (("groq", ONE),) == applied_limits(limits, "groq", "groq")
    tagged = merged_limits({}, {"tag:a": ONE, "tag:b": TWO})
    assert applied_limits(tagged, "x/y", "x", ["a", "b"]) == applied_limits(
        tagged, "x/y", "x", ["b", "a"]
    )
    assert (("xai", TWO),) == applied_limits(limits, "xai", "xai")
