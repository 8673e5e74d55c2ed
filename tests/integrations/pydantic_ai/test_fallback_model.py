"""What pydantic-ai's own tests of ``FallbackModel`` ask for, asked of `FailoverModel`.

What holds is tested here in our words. `DIFFERS` lists the rest with the reason, as the page
docs/how-to/pydantic-ai.md does.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from typing import Any, get_type_hints

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.instrumented import InstrumentationSettings, InstrumentedModel
from pydantic_ai.profiles import JsonSchemaTransformer, ModelProfile
from pydantic_ai.settings import ModelSettings

from resilient_llm import ChainExhaustedError, ErrorKind, Verdict
from resilient_llm.integrations import pydantic_ai
from resilient_llm.integrations.pydantic_ai import FailoverModel
from resilient_llm.observers import otel
from tests.integrations.pydantic_ai.models import IS_OLD, chain_of, failing, saying, texts_of
from tests.support.pages import ROOT

pytestmark = pytest.mark.usefixtures("resilient_llm")

DIFFERS = {
    "FallbackExceptionGroup": "ChainExhaustedError has a member per model, skipped ones included.",
    "fallback_on": "`classify=` judges errors and `reject=` judges answers.",
    "which errors move on": "Each kind of error decides, not its class alone: a caller's own bug never moves on.",
    "failed_attempts": "A `Trace` and the events have the attempts.",
    "count_tokens": "It is not implemented, as in `FallbackModel`.",
    "the cost of rejected answers": "Budgets count them, the usage of the run does not.",
}
"""``{what their tests ask for and does not hold: what is there instead}``"""


def run(model: Any, **more: Any) -> Any:
    """Run an agent over a model, once."""
    return asyncio.run(Agent(model, **more).run("Hi"))


def test_names_are_joined() -> None:
    """Name, system and base URL are those that pydantic-ai gives a chain."""
    one, two = saying("a", model_name="m1"), saying("b", model_name="m2")
    model, theirs = chain_of(one, two), FallbackModel(one, two)

    assert (model.model_name, model.system, model.base_url) == (
        "fallback:m1,m2",
        "fallback:function,function",
        None,
    )
    assert (model.model_name, model.system) == (theirs.model_name, theirs.system)
    assert model.models == [one, two]


def test_no_profile_of_its_own() -> None:
    """A chain has no profile where pydantic-ai's has none."""
    model, theirs = chain_of(saying("a")), FallbackModel(saying("a"))

    def profile_of(each: FallbackModel) -> Any:
        try:
            return each.profile
        except NotImplementedError:
            return NotImplementedError

    assert profile_of(model) == profile_of(theirs)


def test_first_that_answers_serves() -> None:
    """The first model answers, and no other is asked."""
    called: list[str] = []

    result = run(
        chain_of(saying("one", called=called, model_name="m1"), saying("two", called=called))
    )

    assert result.output == "one"
    assert called == ["one"]
    assert result.all_messages()[-1].model_name == "m1"


def test_the_next_answers_after_a_failure() -> None:
    """The response names the model that served, and has its usage."""
    result = run(chain_of(failing(), saying("two words", model_name="m2"), attempts=1))

    response = result.all_messages()[-1]
    alone = run(saying("two words", model_name="m2")).all_messages()[-1]
    assert result.output == "two words"
    assert (response.model_name, response.usage) == ("m2", alone.usage)


def test_order_is_that_of_the_chain() -> None:
    """Models are asked in order."""
    called: list[str] = []

    result = run(
        chain_of(
            failing(called=called),
            failing(called=called),
            saying("three", called=called),
            attempts=1,
        )
    )

    assert result.output == "three"
    assert called == ["failed", "failed", "three"]


def test_all_failed() -> None:
    """The error has one member per model, in order."""
    with pytest.raises(ChainExhaustedError) as raised:
        run(chain_of(failing(), failing(), attempts=1))

    first, second = raised.value.exceptions
    assert isinstance(first, ModelHTTPError)
    assert isinstance(second, ModelHTTPError)
    assert first.status_code == 503


def test_reraise_gives_the_last_error() -> None:
    """With ``reraise`` the last model's own error leaves."""
    with pytest.raises(ModelHTTPError):
        run(chain_of(failing(), failing(), attempts=1, reraise=True))


async def _streamed(model: Any, **more: Any) -> tuple[str, Any]:
    async with Agent(model, **more).run_stream("Hi") as result:
        text = "".join([each async for each in texts_of(result)])
    return text, result


def test_first_stream_serves() -> None:
    """A stream of the first model is handed on unchanged."""
    text, result = asyncio.run(_streamed(chain_of(saying("one two", model_name="m1"), saying("b"))))

    assert text == "one two"
    assert result.is_complete
    assert result.all_messages()[-1].model_name == "m1"


def test_the_next_stream_serves_after_a_failure() -> None:
    """A stream that fails before its first content is replaced."""
    text, result = asyncio.run(
        _streamed(chain_of(failing(), saying("two words", model_name="m2"), attempts=1))
    )

    assert text == "two words"
    assert result.all_messages()[-1].model_name == "m2"
    alone = asyncio.run(_streamed(saying("two words", model_name="m2")))[1]
    assert result.all_messages()[-1].usage == alone.all_messages()[-1].usage


def test_all_streams_failed() -> None:
    """Where no stream comes to its first content, the error is that of a whole answer."""
    with pytest.raises(ChainExhaustedError) as raised:
        asyncio.run(_streamed(chain_of(failing(), failing(), attempts=1)))

    assert len(raised.value.exceptions) == 2


class PotatoError(Exception):
    """An error that nobody has heard of."""


def test_what_moves_on_is_a_verdict() -> None:
    """``classify=`` does what a function or classes in ``fallback_on`` do."""

    def unsafe(error: BaseException) -> Verdict | None:
        return Verdict(ErrorKind.CALLER_BUG) if isinstance(error, ModelHTTPError) else None

    assert run(chain_of(failing(PotatoError), saying("two"))).output == "two"
    with pytest.raises(ModelHTTPError):
        run(chain_of(failing(), saying("two"), classify=unsafe))


def test_an_answer_that_is_refused_moves_on() -> None:
    """``reject=`` does what a function of responses in ``fallback_on`` does."""

    def unfit(response: Any) -> bool:
        return any("sorry" in part.content for part in response.parts)

    assert run(chain_of(saying("sorry"), saying("two"), reject=unfit)).output == "two"
    assert run(chain_of(saying("fine"), saying("two"), reject=unfit)).output == "fine"


def _settings_of(messages: Any, info: Any) -> ModelResponse:
    return ModelResponse(parts=[TextPart(json.dumps(info.model_settings))])


async def _stream_settings_of(messages: Any, info: Any) -> Any:
    yield json.dumps(info.model_settings)


def test_settings_of_model_agent_and_run_are_merged() -> None:
    """A model's own settings come first, then those of the agent, then those of the run."""
    base = FunctionModel(
        _settings_of,
        stream_function=_stream_settings_of,
        settings=ModelSettings(temperature=0.1, max_tokens=1024),
    )
    agent = Agent(chain_of(base), model_settings=ModelSettings(temperature=0.5, seed=3))

    async def main() -> tuple[Any, Any]:
        result = await agent.run("Hi", model_settings=ModelSettings(seed=4))
        async with agent.run_stream("Hi") as streamed:
            return json.loads(result.output), json.loads(await streamed.get_output())

    whole, streamed = asyncio.run(main())
    assert whole == {"temperature": 0.5, "max_tokens": 1024, "seed": 4}
    assert streamed == {"temperature": 0.5, "max_tokens": 1024, "seed": 3}


def test_each_model_prepares_its_output_schema() -> None:
    """The schema of an output is sent to each model as its own profile asks for it."""

    class City(BaseModel):
        name: str

    seen: list[str] = []

    class First(JsonSchemaTransformer):
        def transform(self, schema: dict[str, Any]) -> dict[str, Any]:
            return {**schema, "title": "first"}

    class Second(JsonSchemaTransformer):
        def transform(self, schema: dict[str, Any]) -> dict[str, Any]:
            return {**schema, "title": "second"}

    def answer(messages: Any, info: Any) -> ModelResponse:
        tool = info.output_tools[0]
        seen.append(tool.parameters_json_schema["title"])
        if seen == ["first"]:
            raise ModelHTTPError(503, "m")
        return ModelResponse(parts=[ToolCallPart(tool.name, {"name": "Paris"})])

    models = [
        FunctionModel(answer, profile=ModelProfile(json_schema_transformer=each))
        for each in (First, Second)
    ]

    result = run(chain_of(*models, attempts=1), output_type=City)

    assert result.output == City(name="Paris")
    assert seen == ["first", "second"]


def _spans_of(model: Any, *, streams: bool = False) -> list[Any]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traced = InstrumentedModel(model, InstrumentationSettings(tracer_provider=provider))
    try:
        if streams:
            asyncio.run(_streamed(traced))
        else:
            run(traced)
    except ChainExhaustedError:
        pass
    return [span for span in exporter.get_finished_spans() if span.name.startswith("chat")]


@pytest.mark.parametrize("streams", [False, True])
def test_spans_name_the_model_that_served(streams: bool) -> None:
    """pydantic-ai's span has the name and the provider of the model that answered."""
    (span,) = _spans_of(
        chain_of(failing(model_name="m1"), saying("two words", model_name="m2"), attempts=1),
        streams=streams,
    )

    assert span.attributes["gen_ai.request.model"] == "m2"
    assert span.attributes["gen_ai.response.model"] == "m2"
    assert "function" in (
        span.attributes.get("gen_ai.system"),
        span.attributes.get("gen_ai.provider.name"),
    )


def test_spans_name_it_beside_spans_of_attempts() -> None:
    """The same holds where each attempt has a span of its own, which is the current one in it."""
    uninstall = otel.install(TracerProvider())
    try:
        (span,) = _spans_of(chain_of(failing(), saying("two", model_name="m2"), attempts=1))
    finally:
        uninstall()

    assert span.attributes["gen_ai.request.model"] == "m2"


def test_spans_of_a_chain_that_failed_name_the_chain() -> None:
    """Where no model has answered, the span names the chain."""
    (span,) = _spans_of(chain_of(failing(model_name="m1"), failing(model_name="m2"), attempts=1))

    assert span.attributes["gen_ai.request.model"] == "fallback:m1,m2"


# --- answers that are begun and continued --------------------------------------------------------

needs_states = pytest.mark.skipif(IS_OLD, reason="its responses have no state")


def _pausing(*lines: str, called: list[str], name: str) -> FunctionModel:
    left = list(lines)

    def answer(messages: Any, info: Any) -> ModelResponse:
        called.append(name)
        line = left.pop(0)
        if line == "fail":
            raise ModelHTTPError(503, name)
        more: dict[str, Any] = {"state": "suspended"} if line.startswith("paused") else {}
        return ModelResponse(parts=[TextPart(line)], **more)

    return FunctionModel(answer, model_name=name)


@needs_states
def test_the_model_that_began_goes_on() -> None:
    """A suspended answer is continued by its model, also if it is not the first of the chain."""
    called: list[str] = []
    model = chain_of(
        _pausing("fail", "never", called=called, name="m1"),
        _pausing("paused ", "paused ", "done", called=called, name="m2"),
        attempts=1,
    )

    result = run(model)

    assert result.output == "paused paused done"
    assert called == ["m1", "m2", "m2", "m2"]


@needs_states
@pytest.mark.parametrize("reraise", [False, True])
def test_a_continuation_that_fails_starts_again(reraise: bool) -> None:
    """If its model fails, the whole chain is asked again, without the unfinished answer."""
    called: list[str] = []
    model = chain_of(
        _pausing("paused ", "fail", "fail", called=called, name="m1"),
        _pausing("other", called=called, name="m2"),
        attempts=1,
        cooldown=0.01,
        reraise=reraise,
    )

    result = run(model)

    assert result.output == "other"
    assert called[:2] == ["m1", "m1"]
    assert called[-1] == "m2"


@needs_states
@pytest.mark.parametrize("reraise", [False, True])
def test_a_continued_stream_that_fails_starts_again(reraise: bool) -> None:
    """The same holds if the rest of the answer is asked for as a stream."""
    called: list[str] = []

    async def stream(messages: Any, info: Any) -> AsyncIterator[str]:
        called.append("stream of m1")
        raise ModelHTTPError(503, "m1")
        yield ""

    paused = _pausing("paused ", called=called, name="m1")
    first = FunctionModel(paused.function, stream_function=stream, model_name="m1")
    model = chain_of(first, saying("other"), attempts=1, reraise=reraise)
    asking, parameters = ModelRequest.user_text_prompt("Hi"), ModelRequestParameters()

    async def main() -> str:
        begun = await model.request([asking], None, parameters)
        async with model.request_stream([asking, begun], None, parameters) as response:
            async for _ in response:
                pass
        return "".join(part.content for part in response.get().parts)  # type: ignore[union-attr]

    assert asyncio.run(main()) == "other"
    assert called[:2] == ["m1", "stream of m1"]


# --- life ----------------------------------------------------------------------------------------


class Counted(FunctionModel):
    """A model that counts how often it is entered and left."""

    entered = 0
    left = 0

    async def __aenter__(self) -> Any:
        self.entered += 1
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.left += 1


@pytest.mark.skipif(IS_OLD, reason="its models cannot be entered")
def test_entering_enters_each_model_once() -> None:
    """Entering a chain, also twice or through its agent, enters each model, and leaving leaves it."""
    one, two = Counted(_settings_of), Counted(_settings_of)
    model = chain_of(one, two)

    async def main() -> None:
        async with model, model, Agent(model):
            assert (one.entered, two.entered, one.left) == (1, 1, 0)

    asyncio.run(main())

    assert (one.entered, two.entered, one.left, two.left) == (1, 1, 1, 1)


def test_what_differs_is_in_the_page() -> None:
    """The documentation lists what their tests ask for and does not hold."""
    page = (ROOT / "docs/how-to/pydantic-ai.md").read_text()

    assert [each for pair in DIFFERS.items() for each in pair if each not in page] == []


def test_every_annotation_can_be_resolved() -> None:
    """Frameworks resolve the annotations of a model's methods."""
    methods = {
        name: value.fget if isinstance(value, property) else value
        for cls in (FailoverModel, pydantic_ai._OneModel)
        for name, value in vars(cls).items()
        if inspect.isfunction(value) or isinstance(value, property)
    }

    assert {"request", "request_stream", "policy", "__init__"} < methods.keys()
    for method in methods.values():
        get_type_hints(getattr(method, "__wrapped__", method))
