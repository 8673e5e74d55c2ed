"""Every mistake in what the adapter is given is a ConfigurationError that says what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_openai import AzureChatOpenAI, ChatOpenAI

from resilient_llm import ConfigurationError, StreamPolicy, Target
from resilient_llm.integrations import langchain
from resilient_llm.integrations.langchain import FailoverChatModel

ONE = FakeListChatModel(responses=["x"])
MODELS = {"fake/a": ONE}


def openai(**fields: Any) -> ChatOpenAI:
    """Return a model that is not called."""
    return ChatOpenAI(**{"model": "m", "api_key": "not-a-key", "max_retries": 0, **fields})


def azure() -> AzureChatOpenAI:
    """Return a model of a region, which is not called."""
    return AzureChatOpenAI(
        azure_deployment="d",
        azure_endpoint="https://eu.example.com",
        api_version="2024-10-21",
        api_key="not-a-key",  # type: ignore[arg-type]
        max_retries=0,
    )


WRONG_MODELS: dict[str, tuple[Any, str]] = {
    "none": ({}, "models is empty"),
    "an empty list": ([], "models is empty"),
    "a model alone": (ONE, "models of type FakeListChatModel"),
    "a text": ("groq/llama", "models of type str"),
    "None": (None, "models of type NoneType"),
    "no model": ({"fake/a": "llama"}, "holds a str, which is not a chat model"),
    "no model in a list": ([object()], "holds a object, which is not a chat model"),
    "a bound model": ({"fake/a": ONE.bind(stop=["x"])}, "not a chat model"),
    "a name without a model": ({"fake": ONE}, "names no model"),
    "a name that is no text": ({3: ONE}, "a name of type int"),
    "a target with a call": ({Target("fake/a", call=print): ONE}, "has a call="),
    "one name in two spellings": ({"fake/a": ONE, " Fake/a": ONE}, "'fake/a' twice"),
    "equal names in a list": ([openai(), openai()], "'openai/m' twice"),
    "an own base URL in a list": (
        [openai(base_url="https://api.groq.example/v1")],
        "a ChatOpenAI with a openai_api_base in a list",
    ),
    "a region in a list": ([azure()], "with a azure_endpoint in a list"),
    "no name in a list": ([ONE], "does not name its model"),
}


@pytest.mark.parametrize("name", WRONG_MODELS)
@pytest.mark.parametrize("make", [langchain.failover, FailoverChatModel])
def test_models_that_are_refused(name: str, make: Any) -> None:
    """Models that make no chain are refused, and a list that is not certain names a mapping."""
    models, message = WRONG_MODELS[name]

    with pytest.raises(ConfigurationError, match=message) as caught:
        make(models)

    assert "eu.example" not in str(caught.value)
    if "list" in message or "twice" in message or "empty" in message:
        assert "write a mapping from spec to model" in str(caught.value)


WRONG_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"attempst": 2}, "attempst.*attempts"),
    "chain": ({"chain": ["fake/a"]}, "chain is made of models"),
    "out of range": ({"attempts": 0}, "attempts=0"),
    "attempts and max_retries": ({"attempts": 2, "max_retries": 1}, "mean the same"),
    "negative retries": ({"max_retries": -1}, "max_retries=-1"),
    "retries that are no number": ({"max_retries": "many"}, "max_retries=str"),
    "a marker that is no chunk": (
        {"stream": StreamPolicy(on_interrupt="restart", restart_marker=None)},
        "restart_marker of type NoneType",
    ),
    "a key": ({"api_key": "not-a-key"}, "give each model the key"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_options_that_are_refused(name: str) -> None:
    """An option that is unknown, or out of range, is refused with what is allowed."""
    options, message = WRONG_OPTIONS[name]

    with pytest.raises(ConfigurationError, match=message):
        langchain.failover(MODELS, **options)


def test_hedges_are_for_asynchronous_calls() -> None:
    """A synchronous call with ``hedge=`` is refused, as by the decorator."""
    with pytest.raises(ConfigurationError, match="hedge"):
        langchain.failover(MODELS, hedge=1.0).invoke("Hi")
