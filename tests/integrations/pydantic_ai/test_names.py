"""How a `FailoverModel` is built: names, texts, mappings, and what is refused."""

from __future__ import annotations

import warnings
from typing import Any

import openai
import pytest
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.providers.openai import OpenAIProvider

from resilient_llm import ConfigurationError, StreamPolicy, Target
from resilient_llm.integrations.pydantic_ai import _HAS_RETRIES_SETTING, FailoverModel
from tests.integrations.pydantic_ai.models import saying


def _openai(name: str, base_url: str | None = None, max_retries: int = 0) -> OpenAIChatModel:
    client = openai.AsyncOpenAI(base_url=base_url, api_key="not-a-key", max_retries=max_retries)
    return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client))


def _keys(model: FailoverModel) -> list[str]:
    return [target.key for target in model.policy.chain]


def test_models_are_named_by_system_and_name() -> None:
    """Models in order are named ``system/model_name``."""
    model = FailoverModel(_openai("gpt-5-mini"), TestModel(), timeout=30.0)

    assert _keys(model) == ["openai/gpt-5-mini", "test/test"]
    assert repr(model) == "FailoverModel(openai/gpt-5-mini, test/test)"
    assert isinstance(model, FallbackModel)


def test_a_mapping_gives_names() -> None:
    """One mapping names its models, by specs or by targets."""
    model = FailoverModel(
        {"groq/llama": saying("a"), Target("openai/gpt", account="eu"): saying("b")}
    )

    assert _keys(model) == ["groq/llama", "openai@eu/gpt"]


def test_texts_are_names_of_pydantic_ai(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is a model as pydantic-ai infers it, alone and in a mapping."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of its client's retries, in old releases

        assert _keys(FailoverModel("openai:gpt-5-mini", TestModel()))[0] == "openai/gpt-5-mini"
        assert _keys(FailoverModel({"mine/x": "openai:gpt-5-mini"})) == ["mine/x"]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (list, "has no model"),
        (lambda: [{}], "has no model"),
        (lambda: [TestModel(), TestModel()], "two models are named test/test"),
        (lambda: [_openai("m", "http://127.0.0.1:9/v1")], "127.0.0.1: write a mapping"),
        (lambda: [_openai("m", "https://openai.com.example/v1")], "openai.com.example"),
        (lambda: [{"groq/a": TestModel(), "Groq/a": TestModel()}], "two models are named groq/a"),
        (lambda: [{"groq/a": 3}], "type int"),
        (lambda: [{"groq": TestModel()}], "groq"),
        (lambda: [None], "type NoneType"),
        (lambda: [TestModel(), {"groq/a": TestModel()}], "type dict"),
        (lambda: [{Target("groq/a", call=print): TestModel()}], "has call="),
    ],
)
def test_what_is_no_chain_is_refused(models: Any, said: str) -> None:
    """What cannot be named is a ConfigurationError that says what to write."""
    with pytest.raises(ConfigurationError) as refused:
        FailoverModel(*models())

    assert said in str(refused.value)


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "https://eu.api.openai.com/v1"])
def test_the_provider_s_own_addresses_are_true(url: str) -> None:
    """A base URL of the provider itself, in any region, leaves the name as it is."""
    assert _keys(FailoverModel(_openai("m", url))) == ["openai/m"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeot": 3}, "timeout"),
        ({"attempts": 0}, "attempts=0"),
        ({"chain": ["a/b"]}, "the models are the chain"),
        ({"fallback_on": ()}, "fallback_on"),
        ({"stream": StreamPolicy(on_interrupt="restart")}, "on_interrupt"),
    ],
)
def test_wrong_options_are_refused(options: Any, said: str) -> None:
    """An unknown option, or one out of range, is a ConfigurationError."""
    with pytest.raises(ConfigurationError) as refused:
        FailoverModel(TestModel(), **options)

    assert said in str(refused.value)


def test_equality_is_identity() -> None:
    """Two chains of the same models are different, and a chain can be the key of a dict."""
    models = {"groq/a": TestModel()}

    one, other = FailoverModel(models), FailoverModel(models, attempts=1)

    assert one == one
    assert one != other
    assert len({one, other}) == 2


@pytest.mark.skipif(_HAS_RETRIES_SETTING, reason="a request switches them off")
def test_retries_of_a_client_are_warned_about() -> None:
    """Where a request cannot switch the SDK's retries off, building the chain warns."""
    with pytest.warns(UserWarning, match=r"the client of openai/m has max_retries=2") as warned:
        FailoverModel(_openai("m", max_retries=2))

    assert warned[0].filename == __file__
