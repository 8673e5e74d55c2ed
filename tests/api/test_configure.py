"""Process-wide defaults: configure() changes them, settings() shows them."""

import contextlib
import logging
import threading

import pytest

from resilient_llm import (
    ChainExhaustedError,
    ConfigurationError,
    Event,
    HealthChanged,
    Target,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    observe,
    settings,
    testing,
)
from tests.support.guards import fail, failing, state
from tests.support.ways import GROQ, OPENAI, SHAPES, Shape, down, over, rate_limited


def test_the_defaults_are_those_that_are_documented():
    """A fresh process has the documented settings."""
    found = settings()

    assert (0.2, 60, True) == (found.retry_budget, found.max_wait, found.logging)


def test_settings_show_what_was_configured():
    """configure() changes what settings() shows, and only that."""
    configure(max_wait=7.5)
    configure(retry_budget=0.5)

    assert (7.5, 0.5, True) == (settings().max_wait, settings().retry_budget, settings().logging)


def test_settings_are_a_frozen_snapshot():
    """A snapshot neither changes nor can be changed."""
    before = settings()
    configure(max_wait=5)

    with pytest.raises(AttributeError):
        before.max_wait = 3
    assert (60, 5) == (before.max_wait, settings().max_wait)


def test_nothing_configured_changes_nothing():
    """configure() without changes is a no-op."""
    before = settings()

    configure()

    assert before == settings()


@pytest.mark.parametrize("name", ["max_wat", "cooldwn", "Logging", "__class__"])
def test_an_unknown_setting_is_refused_with_those_there_are(name: str):
    """The error names the unknown setting and lists what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        configure(**{name: 3})

    assert isinstance(caught.value, ValueError)
    assert name in str(caught.value)
    assert all(
        known in str(caught.value) for known in ("max_wait", "retry_budget", "breakers", "logging")
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_wait", -1),
        ("max_wait", float("nan")),
        ("max_wait", True),
        ("max_wait", "60"),
        ("max_wait", None),
        ("retry_budget", -0.1),
        ("retry_budget", float("nan")),
        ("retry_budget", float("inf")),
        ("retry_budget", True),
        ("retry_budget", "0.2"),
        ("logging", "yes"),
        ("logging", 3),
        ("logging", None),
        ("breakers", 3),
        ("breakers", [("*", {})]),
        ("breakers", {"*": 3}),
        ("breakers", {3: {}}),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name(name: str, value: object):
    """The error names the setting, and nothing has changed."""
    before = settings()

    with pytest.raises(ConfigurationError) as caught:
        configure(**{name: value})

    assert name in str(caught.value)
    assert before == settings()


@pytest.mark.parametrize("key", ["", " ", "groq/", "/llama"])
def test_breakers_of_a_name_that_cannot_be_is_refused(key: str):
    """A circuit has the name of a provider or of a target."""
    with pytest.raises(ConfigurationError):
        configure(breakers={key: {"failures": 3}})


def test_one_wrong_value_refuses_the_whole_change():
    """A change is made wholly or not at all."""
    with pytest.raises(ConfigurationError):
        configure(max_wait=5, retry_budget=-1)

    assert 60 == settings().max_wait


def test_functions_decorated_before_follow(clock):
    """A setting holds for calls that start after it, also of functions decorated before it."""
    outcomes = [rate_limited(30), "first", rate_limited(30)]
    provider = testing.scripted(*outcomes)

    @failover(chain=[GROQ], attempts=2)
    def ask(target: Target) -> object:
        return provider()

    first = ask()
    configure(max_wait=10)
    clock.advance(100)
    with pytest.raises(ChainExhaustedError):
        ask()

    assert "first" == first
    assert sum(clock.sleeps) >= 30
    assert sum(clock.sleeps) < 60


@over(SHAPES)
def test_circuits_follow_settings_made_before_they_were_seen(clock, shape: Shape):
    """configure(breakers=...) holds in every shape."""
    configure(breakers={"*": {"failures": 2, "cooldown": 7}})

    outcomes = [shape.outcome(GROQ, down()) for _ in range(3)]

    assert ["failed", "failed", "refused"] == outcomes
    assert 7 - 0.001 <= list_benched()[0].remaining <= 7.7 + 0.001


def test_circuits_that_exist_follow_settings_made_later(clock):
    """A circuit that has been used takes a new setting."""
    guard = breaker(GROQ)
    fail(times=2)

    configure(breakers={GROQ: {"failures": 3}})
    fail()

    assert "open" == guard.state


def test_switching_enforcement_off_ends_what_was_automatic() -> None:
    """A circuit whose mode no longer enforces lets callers pass at once; a manual bench stays."""
    failing(GROQ, 5)
    failing(OPENAI, 5)
    bench_model(OPENAI)

    configure(breakers={GROQ: {"mode": "disabled"}, OPENAI: {"mode": "metrics_only"}})

    assert ("closed", "open") == (breaker(GROQ).state, breaker(OPENAI).state)
    failing(GROQ, 50)
    assert (0, "closed") == (health()[GROQ].errors, breaker(GROQ).state)


def test_what_a_guard_names_wins_over_what_is_configured(clock):
    """A breaker's own option is nearer than a setting for all names."""
    breaker(GROQ, failures=2)
    configure(breakers={"*": {"failures": 4}})

    fail(times=2)
    fail(OPENAI, times=2)

    assert ["open", "closed"] == [state(GROQ), state(OPENAI)]


def test_breakers_for_a_provider_are_for_its_own_circuit(clock):
    """A setting for `groq` is the provider's circuit, not that of each of its targets."""
    configure(breakers={"groq": {"failures": 1}})

    fail(GROQ)

    assert ["closed", "closed"] == [state(GROQ), state("groq")]


def test_isolated_has_the_documented_settings(clock):
    """Inside isolated() nothing is configured, and what was configured is back after."""
    configure(max_wait=5, breakers={GROQ: {"failures": 1}})

    with testing.isolated():
        inside = settings()
        configure(max_wait=9)
        fail(GROQ)
        state_inside = state(GROQ)

    assert (60, "closed") == (inside.max_wait, state_inside)
    assert 5 == settings().max_wait
    fail(GROQ)
    assert "open" == state(GROQ)


def test_configuring_is_safe_while_it_is_silent(clock, caplog):
    """Settings that are set to what they are leave no trace in the log."""
    caplog.set_level(logging.WARNING, logger="resilient_llm")

    configure(max_wait=60, retry_budget=0.2)

    assert [] == caplog.messages


def test_a_key_that_is_forced_open_is_benched_before_anybody_uses_it():
    """A mode that blocks a key holds from the moment it is configured, also for a key that is new."""
    configure(breakers={"zzz/model": {"mode": "forced_open"}})

    assert is_benched("zzz/model")
    assert ["zzz/model"] == [each.model for each in list_benched()]


def test_observers_of_configure_are_called_under_no_lock() -> None:
    """An observer may wait for another thread, also one whose first call needs the library's state."""
    waited: list[bool] = []

    def wait_for_another(event: Event) -> None:
        @failover(chain="openai/b", attempts=1)
        def ask(target: Target) -> str:
            return target.key

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(timeout=5.0)
        waited.append(thread.is_alive())

    with contextlib.suppress(ConnectionResetError), breaker("groq", failures=1):
        raise ConnectionResetError
    stop = observe(wait_for_another, HealthChanged)
    configure(breakers={"groq": {"mode": "disabled"}})
    stop()

    assert waited
    assert not any(waited)
