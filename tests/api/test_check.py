"""`chains.check`, and the warning about keys that no policy has."""

import dataclasses
import pickle
import weakref
from typing import Any

import pytest

from resilient_llm import (
    Attempt,
    Budget,
    ConfigurationError,
    Limit,
    Price,
    Target,
    breaker,
    chains,
    configure,
    failover,
    settings,
    testing,
)
from resilient_llm._runtime import chains as living

HERE = __name__


@pytest.fixture(autouse=True)
def _no_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies of other tests do not count."""
    monkeypatch.setattr(living, "_policies", weakref.WeakSet())


def asking(*chain: str | Target, **options: Any) -> Any:
    """Return a function under a chain."""

    @failover(chain, **options)
    def ask(target: Target, prompt: str) -> str:
        return target.key

    return ask


ASK = f"{HERE}.asking.<locals>.ask"


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings about keys, and forget them."""
    found = [each.getMessage() for each in caplog.records if "of no target" in each.getMessage()]
    caplog.clear()
    return found


def named(target: Target) -> str:
    return target.key


# What is found.


def test_nothing_is_found_where_all_fits() -> None:
    """Keys in every spelling that holds for a target are in order."""
    ask = asking("groq/llama", Target("openai@eu/gpt", tags=("eu",)))
    configure(
        limits={
            "groq": Limit(requests=5),
            "openai@eu": Limit(requests=5),
            "openai@eu/gpt": Limit(requests=5),
            "tag:eu": Limit(requests=5),
            "*": Limit(requests=5),
        },
        budgets=[
            Budget(calls=5, of=of)
            for of in ("all", "key", "groq", "groq/llama", "openai", "openai@eu", "tag:eu")
        ],
        prices={"groq": (1, 1), "openai": (1, 1), "openai/gpt": (1, 1), "openai@eu": (1, 1), "*": (1, 1)},
        breakers={"groq/llama": {"failures": 9}, "openai@eu": {"failures": 9}, "*": {"failures": 9}},
    )  # fmt: skip

    assert [] == chains.check()
    assert "groq/llama" == ask("…")


def test_keys_that_no_policy_has() -> None:
    """Each is named with what has it, and with the names that are like it."""
    ask = asking("groq/llama", Target("openai@eu/gpt", tags=("europe",)))
    configure(
        limits={"grok": Limit(requests=5), "openai": Limit(requests=5), "tag:us": Limit(requests=5), "tag:eurpe": Limit(requests=5), "europe": Limit(requests=5)},
        budgets=[Budget(usd=5, of="groq/lama"), Budget(calls=5, of="opena", name="small")],
        prices={"groq/lama": (1, 1), "zebra": (1, 1)},
        breakers={"gorq/llama": {"failures": 9}},
    )  # fmt: skip

    assert [
        "limits['grok'] is of no target of a policy: did you mean 'groq'?",
        "limits['openai'] is of no target of a policy: did you mean 'openai@eu' or 'openai@eu/gpt'?",
        "limits['tag:us'] is of no target of a policy: look at its name",
        "limits['tag:eurpe'] is of no target of a policy: did you mean 'tag:europe'?",
        "limits['europe'] is of no target of a policy: did you mean 'tag:europe'?",
        "prices['groq/lama'] is of no target of a policy: did you mean 'groq/llama'?",
        "prices['zebra'] is of no target of a policy: look at its name",
        "breakers['gorq/llama'] is of no target of a policy: did you mean 'groq/llama'?",
        "budget 'groq/lama month usd' of 'groq/lama' is of no target of a policy: did you mean 'groq/llama'?",
        "budget 'small' of 'opena' is of no target of a policy: did you mean 'openai'?",
    ] == chains.check()
    del ask


def test_a_policy_counts_as_long_as_it_exists() -> None:
    """A key that only a policy had which is gone is a problem, and one of a policy of no function is none."""
    asking("groq/llama")
    policy = failover("openai/gpt")
    configure(limits={"groq": Limit(requests=5), "openai": Limit(requests=5)})

    assert ["limits['groq'] is of no target of a policy: look at its name"] == chains.check()
    del policy
    assert [] == chains.check()  # there is nothing to compare with


def test_a_guard_has_limits_and_options_as_well() -> None:
    """A key of `breaker` needs no policy."""
    ask, guard = asking("groq/llama"), breaker("search")
    with guard:
        pass
    configure(
        limits={"search": Limit(requests=5)},
        breakers={"search": {"failures": 9}},
        budgets=[Budget(calls=5, of="search")],
    )

    assert [
        "budget 'search month calls' of 'search' is of no target of a policy: look at its name"
    ] == chains.check()
    del ask


def test_one_target_with_two_sets_of_facts() -> None:
    """What a target is must be the same in all chains; how it is called may differ."""
    first = asking(Target("groq/llama", price=(1, 2), tags=("eu", "a"), params={"top_p": 1}))
    second = failover(Target("groq/llama", price=Price(3, 4), attempt_timeout=5.0, priority=2))

    assert [
        f"target 'groq/llama' has price=(1.0, 2.0) in {ASK} and price=Price(input=Decimal('3'), "
        "output=Decimal('4')) in a policy of no function: write one Target and use it in both chains",
        f"target 'groq/llama' has tags=['a', 'eu'] in {ASK} and tags=[] in a policy of no function: "
        "write one Target and use it in both chains",
    ] == chains.check()
    del first, second


def test_defaults_that_a_function_cannot_use() -> None:
    """A default limit of time is no good to a synchronous function without an `Attempt`."""

    @failover("groq/llama")
    def told(target: Target, attempt: Attempt, prompt: str) -> str:
        return target.key

    @failover("groq/llama")
    async def quick(target: Target, prompt: str) -> str:
        return target.key

    ask, own = asking("groq/llama"), asking("groq/llama", hedge=None)
    configure(attempt_timeout=5.0, hedge=1.0)

    assert [
        f"configure(attempt_timeout=5.0) does not hold for {ASK}: nothing can interrupt a "
        "synchronous function that takes no Attempt",
        f"configure(attempt_timeout=5.0) does not hold for {ASK}: nothing can interrupt a "
        "synchronous function that takes no Attempt",
        f"configure(hedge=1.0) does not hold for {ASK}: only asynchronous attempts can be stopped "
        "once another one has answered",
        f"configure(hedge=1.0) does not hold for {HERE}.test_defaults_that_a_function_cannot_use."
        "<locals>.told: only asynchronous attempts can be stopped once another one has answered",
    ] == chains.check()
    del ask, own, told, quick


# What is logged.


def test_a_misspelt_key_is_warned_of_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """The module with another chain may be imported after `configure`: no false alarm of these."""
    first = asking("groq/llama")
    configure(
        limits={
            "grok": Limit(requests=500),
            "openai": Limit(requests=500),
            "mistral": Limit(requests=500),
        },
        budgets=[Budget(calls=500, of="goq"), Budget(calls=500, of="anthropic")],
    )
    assert [
        "budgets of goq are of no target in a chain of this process; did you mean groq?",
        "limits of grok are of no target in a chain of this process; did you mean groq?",
    ] == warned(caplog)
    later = asking("openai/gpt", "anthropic/claude")

    first("…")

    assert ["limits of mistral are of no target in a chain of this process"] == warned(caplog)
    first("…")
    later("…")
    assert [] == warned(caplog)
    configure(attempts=2)
    first("…")
    assert [] == warned(caplog)
    configure(limits={"zebra": Limit(requests=5)})
    later("…")
    assert ["limits of zebra are of no target in a chain of this process"] == warned(caplog)


def test_prices_and_breakers_are_warned_of_if_they_are_misspelt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A table of prices holds more than is called, and a guard may not have been entered yet."""
    ask = asking("groq/llama", "openai/gpt-5-mini", "openai/gpt-5")
    configure(
        prices={"openai/gpt-5-mini": (1, 1), "openai/gpt-5-min": (1, 1), "zebra": (1, 1), "groq/lama": (1, 1)},
        breakers={"search": {"failures": 9}, "groq/lama": {"failures": 9}, "openai": {"failures": 9}},
    )  # fmt: skip

    ask("…")

    assert [
        "breakers of groq/lama are of no target in a chain of this process; did you mean groq/llama?",
        "prices of groq/lama, openai/gpt-5-min are of no target in a chain of this process; "
        "did you mean groq/llama or openai/gpt-5 or openai/gpt-5-mini?",
    ] == warned(caplog)


def test_nothing_is_warned_of_without_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """`logging=False` is silent; and a state inside `isolated` has warnings of its own."""
    ask = asking("groq/llama")
    configure(limits={"zebra": Limit(requests=500)})
    with testing.isolated():
        ask("…")
        assert [] == warned(caplog)
    configure(logging=False)

    ask("…")

    assert [] == warned(caplog)


@pytest.mark.parametrize("form", ["loop", "call"])
def test_every_form_of_a_call_warns(form: str, caplog: pytest.LogCaptureFixture) -> None:
    """A loop and `policy.call` begin with the same question."""
    policy = failover("groq/llama")
    configure(limits={"zebra": Limit(requests=500)})

    if form == "call":
        policy.call(named)
    else:
        for attempt in policy:
            with attempt:
                pass

    assert 1 == len(warned(caplog))


# Limits that need a store.


def test_a_shared_limit_needs_a_store() -> None:
    """`shared=True` would count in this process alone, so it is refused, and nothing is changed."""
    configure(limits={"groq": Limit(requests=5)})

    with pytest.raises(
        ConfigurationError, match=r"limits\['groq'\] has shared=True, which needs a store in Redis"
    ):
        configure(limits={"groq": Limit(requests=9, shared=True)}, attempts=2)

    assert {"groq": Limit(requests=5)} == dict(settings().limits)
    assert 3 == settings().attempts


def test_settings_say_where_limits_and_spending_are_kept() -> None:
    """In the memory of this process, unless a store is configured."""
    assert None is settings().state
    assert "state=None" in repr(settings())
    assert settings() == pickle.loads(pickle.dumps(settings()))
    assert settings() == dataclasses.replace(settings())
