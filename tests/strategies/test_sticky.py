"""The strategy ``sticky(key)``: which target a key belongs to, and what moves it."""

import enum
import pickle
import subprocess
import sys
import uuid
from collections import Counter
from typing import Any

import pytest

from resilient_llm import (
    CallFailed,
    ConfigurationError,
    Target,
    bench_model,
    configure,
    failover,
    observe,
    strategies,
    unbench_model,
)
from tests.strategies.test_built_in import CERTAIN, chi_square
from tests.support.ways import run_async

WEIGHTS = {"a/x": 5.0, "b/x": 3.0, "c/x": 1.0, "d/x": 0.5}
USER = uuid.UUID("12345678-1234-5678-1234-567812345678")

KNOWN: list[tuple[Any, str, str]] = [
    ("", "c/x", "c/x"),
    ("user-1", "c/x", "c/x"),
    ("user-2", "b/x", "b/x"),
    ("Zoë", "b/x", "b/x"),
    (b"", "a/x", "a/x"),
    (b"\x00\xff", "a/x", "a/x"),
    (0, "b/x", "b/x"),
    (1, "a/x", "a/x"),
    (-1, "c/x", "a/x"),
    (2**64, "b/x", "b/x"),
    (12345678901234567890123, "b/x", "a/x"),
    (USER, "d/x", "a/x"),
    (None, "a/x", "a/x"),
]
"""``(key, its target among equal weights, among WEIGHTS)``: must never change."""


def equal_chain() -> list[str]:
    return list(WEIGHTS)


def weighted_chain(without: str = "") -> list[Target]:
    return [Target(key, weight=weight) for key, weight in WEIGHTS.items() if key != without]


def home_of(chain: Any, keys: Any) -> list[str]:
    """Return the target that each of these keys belongs to."""

    @failover(chain, strategy=strategies.sticky(lambda key: key))
    def ask(target: Target, key: Any) -> str:
        return target.key

    return [ask(key) for key in keys]


def test_the_target_of_a_key_is_the_same_in_every_release() -> None:
    """These values were computed once: a change would move the keys of all users."""
    keys = [key for key, _, _ in KNOWN]

    found = list(
        zip(keys, home_of(equal_chain(), keys), home_of(weighted_chain(), keys), strict=True)
    )

    assert KNOWN == found


def test_the_target_of_a_key_is_the_same_in_every_process() -> None:
    """Whatever seed Python hashes texts with."""
    code = (
        "from tests.strategies.test_sticky import home_of, weighted_chain\n"
        "print(home_of(weighted_chain(), [f'user-{n}' for n in range(50)]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert {f"{home_of(weighted_chain(), [f'user-{n}' for n in range(50)])}\n"} == found


@pytest.mark.parametrize("keys", [range(6_000), [f"user-{n}" for n in range(6_000)]])
def test_targets_get_keys_in_proportion_to_their_weights(keys: Any) -> None:
    """Whole numbers that follow each other are as good as texts."""
    assert chi_square(Counter(home_of(weighted_chain(), keys)), WEIGHTS) < CERTAIN
    assert chi_square(Counter(home_of(equal_chain(), keys)), dict.fromkeys(WEIGHTS, 1.0)) < CERTAIN


@pytest.mark.parametrize("gone", WEIGHTS)
def test_a_target_that_goes_moves_only_its_own_keys(gone: str) -> None:
    """They spread over the others by their weights, whether the target is benched or removed."""
    keys = [f"user-{n}" for n in range(3_000)]
    before = home_of(weighted_chain(), keys)
    removed = home_of(weighted_chain(without=gone), keys)
    bench_model(gone)
    benched = home_of(weighted_chain(), keys)
    unbench_model(gone)

    moved = Counter(now for was, now in zip(before, removed, strict=True) if was == gone)
    others = {key: weight for key, weight in WEIGHTS.items() if key != gone}
    assert removed == benched
    assert all(now == was for was, now in zip(before, removed, strict=True) if was != gone)
    assert chi_square(moved, others) < CERTAIN
    assert before == home_of(weighted_chain(), keys)


def test_the_place_of_a_target_in_the_chain_does_not_matter() -> None:
    """The hash is of its key."""
    keys = range(500)

    assert home_of(weighted_chain(), keys) == home_of(weighted_chain()[::-1], keys)


def test_kinds_of_keys_are_distinguished() -> None:
    """One text, the same bytes, the same number and the same UUID are different keys."""

    class Plan(enum.StrEnum):
        FREE = "free"

    class Tier(enum.IntEnum):
        ONE = 1

    same = [("free", Plan.FREE), (1, Tier.ONE), (1, True)]
    chain = [f"p{n}/x" for n in range(400)]

    homes = home_of(chain, ["1", b"1", 1, str(USER), USER, USER.int, USER.bytes, -1, 10**5000])
    assert 9 == len(set(homes))
    for one, other in same:
        assert home_of(chain, [one]) == home_of(chain, [other])
    assert home_of(chain, ["\ud800"])


def test_a_call_without_a_key_tries_the_targets_as_declared() -> None:
    """In the loop form there are no arguments, so the key is None there and nothing is called."""

    def key(*args: Any, **kwargs: Any) -> None:
        asked.append(args)

    asked: list[Any] = []
    policy = failover(weighted_chain(), strategy=strategies.sticky(key))

    async def loop() -> list[str]:
        found: list[str] = []
        async for attempt in policy:
            async with attempt as target:
                found.append(target.key)
        return found

    found: list[str] = []
    for attempt in policy:
        with attempt as target:
            found.append(target.key)

    assert ["a/x"] == found
    assert ["a/x"] == run_async(loop, backend="asyncio")
    assert [] == asked
    assert {"a/x"} == set(home_of(weighted_chain(), [None] * 20))


@pytest.mark.parametrize("key", [1.5, ("a", "b"), bytearray(b"a"), object(), ["a"]])
def test_a_key_of_another_type_is_a_type_error_of_the_call(key: Any) -> None:
    """It leaves the call, names the type and not the key; nothing is sent."""
    failed: list[CallFailed] = []
    observe(failed.append, CallFailed)  # type: ignore[arg-type]  # one type of events

    with pytest.raises(TypeError, match=f"of type {type(key).__name__}: expected str, bytes, int"):
        home_of(weighted_chain(), [key])

    assert [0] == [event.attempts for event in failed]


def test_an_error_of_the_key_function_leaves_the_call() -> None:
    """As it is."""

    @failover(CHAIN, strategy=strategies.sticky(lambda prompt: {}[prompt]))
    def ask(target: Target, prompt: str) -> str:
        return target.key

    with pytest.raises(KeyError, match="hi"):
        ask("hi")


CHAIN = ("a/x", "b/x", "c/x")


async def _async_key(prompt: str) -> str:
    return prompt


@pytest.mark.parametrize("key", [None, "user", 3, _async_key])
def test_a_key_that_is_no_plain_function_is_refused(key: Any) -> None:
    """Where it is written."""
    with pytest.raises(ConfigurationError, match="key"):
        strategies.sticky(key)


def test_the_key_function_gets_the_arguments_as_they_were_passed() -> None:
    """With ``self``, by position or by name as the caller wrote them, without defaults."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def key(*args: Any, **kwargs: Any) -> str:
        seen.append((args, kwargs))
        return "key"

    policy = failover(CHAIN, strategy=strategies.sticky(key))

    class Client:
        @policy
        def ask(self, target: Target, prompt: str, system: str = "", *, user: str = "") -> str:
            return target.key

    client = Client()
    client.ask("hi", user="u")
    client.ask(prompt="hi")

    assert [((client, "hi"), {"user": "u"}), ((client,), {"prompt": "hi"})] == seen


def test_a_pinned_call_asks_for_no_key() -> None:
    """It uses no strategy."""

    @failover(CHAIN, strategy=strategies.sticky(lambda *args, **kwargs: 1 / 0))
    def ask(*, target: Target | None = None) -> str:
        assert target is not None
        return target.key

    pinned: Any = ask
    assert "b/x" == pinned(target="b/x")


def test_sticky_works_as_a_process_wide_default_from_the_first_call() -> None:
    """The first call after `configure` passes its arguments on as they are, too."""
    seen: list[dict[str, Any]] = []

    def key(**kwargs: Any) -> str:
        seen.append(kwargs)
        return "key"

    @failover(CHAIN)
    def ask(target: Target, prompt: str, system: str = "") -> str:
        return target.key

    ask("hi")
    configure(strategy=strategies.sticky(key))
    ask(prompt="hi")
    configure(strategy=None)

    assert "a/x" == ask("hi")
    assert [{"prompt": "hi"}] == seen


def test_a_policy_with_a_key_is_pickled_with_its_function() -> None:
    """As far as the function can be."""
    policy = failover(weighted_chain(), strategy=strategies.sticky(str.upper))

    again = pickle.loads(pickle.dumps(policy))

    assert [policy.call(_key_of, f"u{n}") for n in range(30)] == [
        again.call(_key_of, f"u{n}") for n in range(30)
    ]


def _key_of(target: Target, prompt: str) -> str:
    return target.key


def test_sticky_is_immutable_and_shows_no_key() -> None:
    """It may be shared by any number of policies."""
    strategy: Any = strategies.sticky(str.upper)

    with pytest.raises(AttributeError, match="immutable"):
        strategy.key = str.lower
    assert "sticky(…)" == repr(strategy)
