"""What is said of a likely mistake: the nearest name, and how it is written."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest

from resilient_llm import (
    ConfigurationError,
    Target,
    bench_model,
    breaker,
    configure,
    failover,
    list_benched,
)
from resilient_llm.testing import http_error

SECRET = "sk-or-v1-secret"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: failover("groq/a", retries=3), "did you mean attempts?"),
        (lambda: failover("groq/a", num_retries=3), "did you mean attempts?"),
        (lambda: failover("groq/a", atempts=3), "did you mean attempts"),
        (lambda: failover("groq/a").using(time_out=3), "did you mean timeout"),
        (lambda: breaker("groq", fail_max=3), "did you mean failures?"),
        (lambda: breaker("groq", cool_down=3), "did you mean cooldown"),
        (lambda: configure(max_retries=3), "did you mean attempts?"),
        (lambda: failover("groq/a", max_retries=3), "did you mean attempts?"),
        (lambda: failover("groq/a", fallbacks=["openai/b"]), "did you mean chain?"),
        (lambda: failover("groq/a", models=["openai/b"]), "did you mean chain?"),
        (lambda: failover("groq/a", callbacks=[print]), "did you mean observers?"),
        (lambda: failover("groq/a", delay=1.0), "did you mean backoff?"),
        (lambda: failover(("groq", "llama"))(print), "did you mean 'groq/llama'?"),
        (lambda: failover("openai:gpt-5-mini"), "did you mean 'openai/gpt-5-mini'?"),
        (lambda: failover("groq/a", strategy="prioritty"), "did you mean 'priority'?"),
        (lambda: failover("groq/a", on_unknown="transeint"), "did you mean 'transient'?"),
        (lambda: configure(when_all_benched="sonest"), "did you mean 'soonest'?"),
        (lambda: breaker("groq", mode="metrics-only"), "did you mean 'metrics_only'?"),
        (lambda: Target("ollama:qwen:7b"), "did you mean 'ollama/qwen:7b'?"),
        (lambda: failover(("groq", "llama")), "did you mean 'groq/llama'?"),
        (lambda: breaker(timedelta.total_seconds), 'write @breaker("name")'),
        (lambda: breaker(lambda: 1), 'write @breaker("name")'),
    ],
)
def test_the_nearest_name_is_said(make: Any, said: str) -> None:
    """The message has the word that was meant, also if another library calls it otherwise."""
    with pytest.raises(ConfigurationError) as caught:
        make()

    assert said in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Target("groq/a", params=SECRET),
        lambda: Target("groq/a", params=[SECRET]),
        lambda: Target("groq/a", account=[SECRET]),  # type: ignore[arg-type]
        lambda: failover("groq/a", reraise=[SECRET]),
        lambda: http_error(429, headers=SECRET),  # type: ignore[arg-type]
        lambda: configure(breakers=SECRET),
    ],
)
def test_what_was_given_in_place_of_a_mapping_is_not_repeated(make: Any) -> None:
    """It may hold a key or a prompt."""
    with pytest.raises(ConfigurationError) as caught:
        make()

    assert SECRET not in str(caught.value)


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    """A word like no option, and a spec like no pair, get the plain message."""
    with pytest.raises(ConfigurationError) as caught:
        failover("groq/a", zebra=1)
    assert "did you mean" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        failover("groq")
    assert "did you mean" not in str(caught.value)


def test_a_duration_may_be_a_timedelta() -> None:
    """As for `bench_model`, which takes one as well."""
    policy = failover("groq/a", timeout=timedelta(seconds=1.5), cooldown=timedelta(minutes=1))

    assert (1.5, 60.0) == (policy._policy.options.timeout, policy._policy.options.cooldown)
    with pytest.raises(ConfigurationError, match="timeout"):
        failover("groq/a", timeout=timedelta(seconds=-1))


def test_a_bench_of_a_misspelt_key_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """The key is benched all the same, since it may be used later."""
    policy = failover(["openai/gpt-5-mini", "groq/llama"])

    with caplog.at_level(logging.WARNING, logger="resilient_llm"):
        bench_model("opnai/gpt-5-mini")
        bench_model("gorq")

    said = [each.getMessage() for each in caplog.records if "did you mean" in each.getMessage()]
    assert 2 == len(said)
    assert "opnai/gpt-5-mini" in said[0]
    assert said[0].endswith("did you mean openai/gpt-5-mini?")
    assert said[1].endswith("did you mean groq?")
    assert ["gorq", "opnai/gpt-5-mini"] == [row.model for row in list_benched()]
    assert policy


def test_a_bench_of_a_known_or_quite_another_key_is_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Targets, their providers, names of guards and keys like no other."""
    policy = failover(["openai/gpt-5-mini", "groq/llama"])
    breaker("openai/gpt-5-min")

    with caplog.at_level(logging.WARNING, logger="resilient_llm"):
        for key in ("openai/gpt-5-mini", "openai", "openai/gpt-5-min", "zebra/stripes"):
            bench_model(key)
        configure(logging=False)
        bench_model("grok/llama")

    assert not any("did you mean" in each.getMessage() for each in caplog.records)
    assert policy


def test_a_bench_of_a_key_without_a_part_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """The name of the model alone, and a provider without its account."""
    policy = failover("mistral/large-2, azure@eu/gpt-4o")

    with caplog.at_level(logging.WARNING, logger="resilient_llm"):
        for key in ("large-2", "azure", "azure/gpt-4o", "zebra/stripes"):
            bench_model(key)

    said = [each.getMessage() for each in caplog.records if "no chain" in each.getMessage()]
    assert [
        "large-2 is benched, which no chain of this process names; did you mean mistral/large-2?",
        "azure is benched, which no chain of this process names; did you mean azure@eu or azure@eu/gpt-4o?",
    ] == said[:2]
    assert "azure@eu/gpt-4o" in said[2]
    assert "zebra/stripes is benched, which no chain of this process names" == said[3]
    assert policy


class OpenAI:
    """Stands for the client of a library, with a key in it."""

    def __init__(self) -> None:
        self.api_key = SECRET

    def __repr__(self) -> str:
        return f"OpenAI({SECRET})"


@pytest.mark.parametrize(
    "chain", [OpenAI(), [OpenAI()], {"groq": OpenAI()}], ids=["client", "in a list", "mapping"]
)
def test_a_client_in_a_chain_is_explained(chain: Any) -> None:
    """The message tells where a client belongs, and does not show the client itself."""
    with pytest.raises(ConfigurationError) as caught:
        failover(chain)

    assert "clients[target.provider]" in str(caught.value)
    assert "call=" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_number_in_a_chain_is_not_taken_for_a_client() -> None:
    """A value of a built-in type gets the list of what is allowed, and no advice on clients."""
    with pytest.raises(ConfigurationError) as caught:
        failover([3])  # type: ignore[list-item]

    assert "clients" not in str(caught.value)


def takes_prompt(prompt: str, *, key: str = SECRET, **others: str) -> str:
    return prompt


async def takes_prompt_async(prompt: str, *prompts: str, size: int = 3) -> str:
    return prompt


def has_no_annotation(target, prompt=SECRET):  # type: ignore[no-untyped-def]
    return prompt


def takes_target_second(prompt: str, target: str, size: int = 3) -> str:
    return prompt


class Asker:
    def ask(self, prompt: str, /) -> str:
        return prompt


@pytest.mark.parametrize(
    ("fn", "first", "by_name"),
    [
        (
            takes_prompt,
            "def takes_prompt(target: Target, prompt, *, key=…, **others)",
            "def takes_prompt(prompt, *, target=None, key=…, **others)",
        ),
        (
            takes_prompt_async,
            "async def takes_prompt_async(target: Target, prompt, *prompts, size=…)",
            "async def takes_prompt_async(prompt, *prompts, target=None, size=…)",
        ),
        (
            has_no_annotation,
            "def has_no_annotation(target: Target, prompt=…)",
            "def has_no_annotation(prompt=…, *, target=None)",
        ),
        (
            takes_target_second,
            "def takes_target_second(target: Target, prompt, size=…)",
            "def takes_target_second(prompt, size=…, *, target=None)",
        ),
        (
            Asker.ask,
            "def ask(self, target: Target, prompt)",
            "def ask(self, prompt, *, target=None)",
        ),
    ],
)
def test_a_function_without_a_target_is_shown_with_one(fn: Any, first: str, by_name: str) -> None:
    """The message has the function's own signature with the usual change, and shows no default."""
    with pytest.raises(ConfigurationError) as caught:
        failover("groq/a")(fn)

    said = str(caught.value)
    assert f"write `{first}`, and call it without the target" in said
    assert f"`{by_name}`" in said
    assert said.index(first) < said.index(by_name)
    assert SECRET not in said


@pytest.mark.parametrize("fn", [lambda prompt: prompt, lambda target, prompt: prompt])
def test_a_lambda_is_to_become_a_function(fn: Any) -> None:
    """A lambda has no annotations, so the message shows a function and no `def <lambda>`."""
    with pytest.raises(ConfigurationError) as caught:
        failover("groq/a")(fn)

    assert "`def ask(target: Target, prompt): …`" in str(caught.value)
    assert "def <lambda>" not in str(caught.value)


def test_what_is_no_end_of_a_bench_is_shown() -> None:
    """The message has the value, and what is allowed in its place."""
    with pytest.raises(ConfigurationError, match=r"until='1h' is not allowed: write .*timedelta"):
        bench_model("groq", "1h")  # type: ignore[arg-type]


# --- an error of the caller's code -----------------------------------------------------------------

CLIENTS = {"groq": "a client", "openai": "a client"}


def choose(target: Target, key: str = "") -> str:
    return CLIENTS[key or target.provider]


async def choose_async(target: Target, key: str = "") -> str:
    return CLIENTS[key or target.provider]


def test_a_mistyped_provider_is_named() -> None:
    """A KeyError has a note with the target, why no other was tried, and what the key is."""
    with pytest.raises(KeyError) as caught:
        failover("gorq/llama, openai/gpt-5-mini")(choose)()

    assert [
        "raised while calling gorq/llama: KeyError is treated as a bug in the program, so no "
        "other target is tried; the key that was not found is the provider of this target"
    ] == caught.value.__notes__


def test_a_mistyped_provider_is_named_in_asynchronous_code() -> None:
    """The note is the same for an async function."""
    with pytest.raises(KeyError) as caught:
        asyncio.run(failover("gorq/llama, openai/gpt-5-mini")(choose_async)())

    (note,) = caught.value.__notes__
    assert note.startswith("raised while calling gorq/llama: KeyError")


def test_the_key_of_a_key_error_is_not_repeated() -> None:
    """A key that is no part of the target's name may be a secret, so the note leaves it out."""
    with pytest.raises(KeyError) as caught:
        failover("groq/llama")(choose)(SECRET)

    (note,) = caught.value.__notes__
    assert SECRET not in note
    assert "not found" not in note


def test_a_bug_behind_a_failed_target_names_its_own_target() -> None:
    """The note of a call that has failed over names the target whose attempt raised."""

    @failover("groq/llama, openai/gpt-5-mini", attempts=1)
    def ask(target: Target) -> str:
        if target.provider == "groq":
            raise ConnectionError
        raise TypeError

    with pytest.raises(TypeError) as caught:
        ask()

    (note,) = caught.value.__notes__
    assert note.startswith("raised while calling openai/gpt-5-mini: TypeError")


def test_an_error_that_is_raised_again_has_one_note() -> None:
    """A single error object, raised by several calls, does not collect equal notes."""
    bug = AttributeError()

    @failover("groq/llama")
    def ask(target: Target) -> str:
        raise bug

    for _ in range(3):
        with pytest.raises(AttributeError):
            ask()

    assert 1 == len(bug.__notes__)


def test_an_error_that_fails_over_has_no_such_note() -> None:
    """What a chain goes on from is not called a bug."""

    @failover("groq/llama", attempts=1, reraise=True)
    def ask(target: Target) -> str:
        raise ConnectionError

    with pytest.raises(ConnectionError) as caught:
        ask()

    assert not any("bug" in note for note in getattr(caught.value, "__notes__", ()))


def test_control_flow_of_a_framework_is_not_called_a_bug() -> None:
    """An answer of a web framework that is raised, such as a 404, has no note."""
    exceptions = pytest.importorskip("starlette.exceptions")

    @failover("groq/llama, openai/gpt-5-mini")
    def ask(target: Target) -> str:
        raise exceptions.HTTPException(404)

    with pytest.raises(exceptions.HTTPException) as caught:
        ask()

    assert not hasattr(caught.value, "__notes__")
