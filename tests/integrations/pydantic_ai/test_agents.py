"""Agents over a `FailoverModel`: tools, outputs, streams, concurrency, cancellation, loops, budgets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.function import DeltaToolCall, FunctionModel
from pydantic_ai.usage import RequestUsage

from resilient_llm import (
    Budget,
    BudgetExceededError,
    Price,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    Trace,
    configure,
    health,
    list_benched,
    spend,
)
from resilient_llm.integrations.pydantic_ai import _HAS_RETRIES_SETTING, FailoverModel
from resilient_llm.testing import capture_events
from tests.integrations.pydantic_ai.models import (
    PROMPT,
    chain_of,
    failing,
    saying,
    served,
    texts_of,
)
from tests.integrations.scenarios import LLAMA, MINI
from tests.support.providers import FAIR, Provider, Silence, overloaded
from tests.support.stream_server import StreamServer

pytestmark = pytest.mark.usefixtures("resilient_llm")


def run(agent: Agent[Any, Any], **more: Any) -> Any:
    """Run an agent once, in a loop of its own."""
    return asyncio.run(agent.run("Hi", **more))


class City(BaseModel):
    """What a run returns."""

    name: str


def _calling(tool: str, *, called: list[str], then: Any = None) -> FunctionModel:
    """Return a model that calls a tool, and says what it got."""

    def answer(messages: Any, info: Any) -> ModelResponse:
        called.append(info.function_tools[0].name)
        last = messages[-1].parts[-1]
        if last.part_kind == "tool-return":
            return ModelResponse(parts=[TextPart(f"It is {last.content}.")])
        return ModelResponse(parts=[ToolCallPart(tool, {"city": "Paris"})])

    return FunctionModel(answer, model_name="calling")


def test_tools_reach_the_model_that_serves() -> None:
    """The next model gets the tools, and its calls of them run."""
    called: list[str] = []
    agent = Agent(chain_of(failing(), _calling("weather", called=called), attempts=1))

    @agent.tool_plain
    def weather(city: str) -> str:
        return f"fine in {city}"

    assert run(agent).output == "It is fine in Paris."
    assert called == ["weather", "weather"]


def test_errors_of_tools_are_not_the_model_s() -> None:
    """An error that a tool raises leaves the run and harms no model."""
    agent = Agent(chain_of(_calling("weather", called=[]), saying("two")))

    @agent.tool_plain
    def weather(city: str) -> str:
        raise ConnectionError("the station is down")

    with pytest.raises(ConnectionError):
        run(agent)

    assert health()["one/m"].errors == 0
    assert not list_benched()


def test_a_validator_s_retry_is_not_a_failure() -> None:
    """An output that a validator sends back is asked for again, and no model is charged."""
    called: list[str] = []
    agent = Agent(chain_of(saying("Paris", called=called), saying("two", called=called)), retries=3)

    @agent.output_validator
    def twice(context: RunContext[None], output: str) -> str:
        if len(called) < 2:
            raise ModelRetry("once more")
        return output

    with capture_events() as events:
        assert run(agent).output == "Paris"

    assert called == ["Paris", "Paris"]
    assert {type(event).__name__ for event in events} == {"AttemptSucceeded"}


def test_output_types_are_kept() -> None:
    """A run with an output type returns it, whichever model served."""

    def answer(messages: Any, info: Any) -> ModelResponse:
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, {"name": "Paris"})])

    agent = Agent(chain_of(failing(), FunctionModel(answer), attempts=1), output_type=City)

    assert run(agent).output == City(name="Paris")


def test_tools_are_streamed() -> None:
    """A stream of a call of a tool is handed on, and its run goes on."""

    async def stream(messages: Any, info: Any) -> AsyncIterator[Any]:
        if messages[-1].parts[-1].part_kind == "tool-return":
            yield "It is "
            yield "fine."
        else:
            yield {0: DeltaToolCall(name="weather", json_args='{"city": "Pa')}
            yield {0: DeltaToolCall(json_args='ris"}')}

    agent = Agent(chain_of(failing(), FunctionModel(stream_function=stream), attempts=1))
    asked: list[str] = []

    @agent.tool_plain
    def weather(city: str) -> str:
        asked.append(city)
        return "fine"

    async def main() -> str:
        async with agent.run_stream("Hi") as result:
            return "".join([text async for text in texts_of(result)])

    assert asyncio.run(main()) == "It is fine."
    assert asked == ["Paris"]


def test_an_empty_start_is_not_given_twice() -> None:
    """A part that begins without text is handed over with its first text, which comes once."""

    async def stream(messages: Any, info: Any) -> AsyncIterator[str]:
        for text in ("", "one ", "two"):
            yield text

    async def main() -> tuple[str, str]:
        agent = Agent(chain_of(FunctionModel(stream_function=stream)))
        async with agent.run_stream("Hi") as result:
            text = "".join([each async for each in texts_of(result)])
            return text, await result.get_output()

    assert asyncio.run(main()) == ("one two", "one two")


def test_nodes_of_a_run_can_be_iterated() -> None:
    """``iter`` gives the nodes of a run, and its response names the model."""

    async def main() -> list[str]:
        agent = Agent(chain_of(failing(), saying("two"), attempts=1))
        async with agent.iter("Hi") as run:
            nodes = [type(node).__name__ async for node in run]
        assert run.result is not None
        assert run.result.output == "two"
        return nodes

    assert "ModelRequestNode" in asyncio.run(main())


def test_override_replaces_the_chain() -> None:
    """``Agent.override`` puts a chain in the place of a model, and the other way round."""
    agent = Agent(saying("alone"))

    with agent.override(model=chain_of(failing(), saying("two"), attempts=1)):
        assert run(agent).output == "two"
    assert run(agent).output == "alone"


def test_concurrent_runs_do_not_meet() -> None:
    """Fifty runs at once each get their own answer, while one model is down."""

    def echo(messages: Any, info: Any) -> ModelResponse:
        return ModelResponse(parts=[TextPart(messages[0].parts[0].content)])

    async def main() -> list[str]:
        agent = Agent(chain_of(failing(), FunctionModel(echo)))
        results = await asyncio.gather(*(agent.run(str(number)) for number in range(50)))
        return [result.output for result in results]

    assert asyncio.run(main()) == [str(number) for number in range(50)]


def test_synchronous_runs_work() -> None:
    """``run_sync`` answers as ``run`` does."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # old releases of pydantic-ai ask for one
    try:
        agent = Agent(chain_of(failing(), saying("two"), attempts=1))
        assert agent.run_sync("Hi").output == "two"
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_two_loops_share_a_chain() -> None:
    """A chain works in one loop after another, and in two threads' loops at once."""
    model = chain_of(failing(), saying("two"))
    outputs: list[str] = []

    def run() -> None:
        outputs.append(asyncio.run(Agent(model).run("Hi")).output)

    run()
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outputs == ["two"] * 3


def test_settings_of_a_target_win() -> None:
    """``params`` of a `Target` are settings of its model."""
    seen: list[Any] = []

    def answer(messages: Any, info: Any) -> ModelResponse:
        seen.append(info.model_settings)
        return ModelResponse(parts=[TextPart("fine")])

    target = Target("one/m", params={"temperature": 0.0})
    agent = Agent(FailoverModel({target: FunctionModel(answer)}))

    run(agent, model_settings={"temperature": 1.0, "seed": 2})

    assert seen == [{"temperature": 0.0, "seed": 2}]


def test_a_trace_names_the_server() -> None:
    """A `Trace` around a run has its calls, with the model that served."""
    with Trace() as trace:
        run(Agent(chain_of(failing(), saying("two"), attempts=1)))

    assert trace.served_by == "two/m"


# --- over real connections -----------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True])
def test_cancelling_leaves_nothing_open(streams: bool) -> None:
    """A run that is cancelled while it waits for an answer ends its request, and blames nobody."""

    async def main(provider: Provider) -> None:
        provider.says(Silence())
        async with served({"groq": provider.url}, [LLAMA]) as model:
            agent = Agent(model)

            async def run() -> None:
                if streams:
                    async with agent.run_stream(PROMPT):
                        raise AssertionError
                await agent.run(PROMPT)

            task = asyncio.create_task(run())
            await asyncio.to_thread(provider.hears, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with Provider("openai") as provider:
        asyncio.run(main(provider))
        assert provider.is_left_alone()

    assert health()[LLAMA].errors == 0


@pytest.mark.parametrize("where", ["silence-midway", "healthy"])
def test_cancelling_a_stream_leaves_nothing_open(where: str) -> None:
    """A stream that is cancelled after content closes its connection, also between two reads."""

    async def main(server: StreamServer) -> None:
        async with served({"groq": server.url("openai", where)}, [LLAMA]) as model:
            begun = asyncio.Event()

            async def run() -> None:
                async with Agent(model).run_stream(PROMPT) as result:
                    async for _ in texts_of(result):
                        begun.set()
                        if where == "healthy":
                            await asyncio.Event().wait()

            task = asyncio.create_task(run())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with StreamServer() as server:
        server.waits_for_client = False
        asyncio.run(main(server))
        assert server.is_left_alone()

    assert health()[LLAMA].errors == 0


def test_leaving_a_stream_early_is_a_success() -> None:
    """A reader who leaves after content was answered; the connection is released."""

    async def main(server: StreamServer) -> None:
        async with (
            served({"groq": server.url("openai", "long")}, [LLAMA]) as model,
            model.request_stream([_asking()], None, ModelRequestParameters()) as stream,
        ):
            async for _ in stream:
                break

    with StreamServer() as server:
        asyncio.run(main(server))
        assert server.is_left_alone()

    assert health()[LLAMA].total == 1
    assert health()[LLAMA].errors == 0


def _asking() -> ModelRequest:
    return ModelRequest.user_text_prompt(PROMPT)


def test_an_interruption_tells_how_far_it_came() -> None:
    """After content an error is StreamInterruptedError, and no other model goes on."""

    async def main(first: StreamServer, second: StreamServer) -> list[str]:
        urls = {
            "groq": first.url("openai", "reset-midway"),
            "openai": second.url("openai", "healthy"),
        }
        got: list[str] = []
        async with served(urls, stream=StreamPolicy(keep_text=1000)) as model:
            with pytest.raises(StreamInterruptedError) as raised:
                async with Agent(model).run_stream(PROMPT) as result:
                    async for text in texts_of(result):
                        got.append(text)
                        first.client_has()
        assert raised.value.target == LLAMA
        assert (raised.value.text_so_far or "").startswith("w0 ")
        return got

    with StreamServer() as first, StreamServer() as second:
        got = asyncio.run(main(first, second))
        assert second.requests == []

    assert set(got) <= {"w0 ", "w1 ", "w2 "}


def test_retries_of_the_sdk_are_off() -> None:
    """A client with retries of its own sends each attempt once, and stays as it is."""
    if not _HAS_RETRIES_SETTING:
        pytest.skip("old releases warn instead: see test_names.py")

    async def main(first: Provider, second: Provider) -> None:
        first.says(overloaded("openai", 503))
        urls = {"groq": first.url, "openai": second.url}
        async with served(urls, max_retries=2, attempts=1) as model:
            await Agent(model).run(PROMPT)
            client: Any = model.models[0].client  # pyright: ignore[reportAttributeAccessIssue]
            assert client.max_retries == 2
            with pytest.raises(Exception, match="503"):
                await Agent(model.models[0]).run(PROMPT, model_settings={"max_retries": 0})

    with Provider("openai") as first, Provider("openai") as second:
        asyncio.run(main(first, second))
        assert (len(first.requests), len(second.requests)) == (2, 1)


def test_retries_that_are_asked_for_stay() -> None:
    """A request that names ``max_retries`` itself gets them."""
    if not _HAS_RETRIES_SETTING:
        pytest.skip("old releases warn instead: see test_names.py")

    async def main(first: Provider, second: Provider) -> None:
        first.says(overloaded("openai", 503, retry_after="0"))
        urls = {"groq": first.url, "openai": second.url}
        async with served(urls, max_retries=0, attempts=1) as model:
            await Agent(model).run(PROMPT, model_settings={"max_retries": 1})

    with Provider("openai") as first, Provider("openai") as second:
        asyncio.run(main(first, second))
        assert (len(first.requests), len(second.requests)) == (2, 1)


def test_benches_are_those_of_the_process() -> None:
    """A model that a run has benched is skipped by the next run, and by every other chain."""

    async def main(first: Provider, second: Provider) -> None:
        first.says(overloaded("openai", 503))
        urls = {"groq": first.url, "openai": second.url}
        async with served(urls, attempts=2, backoff=lambda number: 0.0) as model:
            await Agent(model).run(PROMPT)
            await Agent(model).run(PROMPT)
        async with served(urls) as other:
            first.says(FAIR)
            await Agent(other).run(PROMPT)

    with Provider("openai") as first, Provider("openai") as second:
        asyncio.run(main(first, second))
        assert (len(first.requests), len(second.requests)) == (2, 3)

    assert [each.model for each in list_benched()] == [LLAMA]


# --- budgets -------------------------------------------------------------------------------------


def _used(*, streams: bool) -> FunctionModel:
    usage = RequestUsage(input_tokens=1000, output_tokens=500, cache_read_tokens=400)

    def answer(messages: Any, info: Any) -> ModelResponse:
        return ModelResponse(parts=[TextPart("fine")], usage=usage)

    async def stream(messages: Any, info: Any) -> AsyncIterator[str]:
        yield "fine"

    return FunctionModel(answer, stream_function=stream) if streams else FunctionModel(answer)


def test_budgets_read_the_usage_of_an_answer() -> None:
    """The usage of a response is booked, with the price of its target."""
    target = Target("one/m", price=Price(input=1.0, output=10.0, cached=0.5))
    agent = Agent(FailoverModel({target: _used(streams=False)}))
    configure(budgets=[Budget(usd=1, per="day")])

    run(agent, model_settings={"max_tokens": 1000})

    (report,) = spend()
    # 600 tokens at $1, 400 from the cache at $0.50 and 500 at $10 per million
    assert (report.spent, report.estimated) == (Decimal("0.0058"), 0)


def test_budgets_read_the_usage_of_a_stream() -> None:
    """The usage that a stream's response has at its end is booked."""

    async def main() -> Any:
        agent = Agent(FailoverModel({target: saying("one two three")}))
        async with agent.run_stream("Hi", model_settings={"max_tokens": 9}) as result:
            await result.get_output()
        return result.all_messages()[-1].usage

    target = Target("one/m", price=Price(input=1.0, output=10.0))
    configure(budgets=[Budget(usd=1, per="day")])

    usage = asyncio.run(main())

    (report,) = spend()
    booked = (usage.input_tokens + 10 * usage.output_tokens) / Decimal(1_000_000)
    assert usage.output_tokens
    assert (report.spent, report.estimated) == (booked, 0)


def test_a_spent_budget_refuses() -> None:
    """A run above the budget is refused before anything is sent."""
    called: list[str] = []
    target = Target("one/m", price=Price(input=1.0, output=10.0), max_output=100_000)
    configure(budgets=[Budget(usd=0.0001, per="day")])

    with pytest.raises(BudgetExceededError):
        run(Agent(FailoverModel({target: saying("one", called=called)})))

    assert called == []


def test_timeouts_reach_the_next_model() -> None:
    """A model that hangs is left in time for the next one to answer."""

    async def main(first: Provider, second: Provider) -> str:
        first.says(Silence())
        async with served({"groq": first.url, "openai": second.url}, timeout=1.0) as model:
            return (await Agent(model).run(PROMPT)).output

    with Provider("openai") as first, Provider("openai") as second:
        assert asyncio.run(main(first, second)) == "openai says it depends."

    assert health()[LLAMA].errors == 1
    assert health()[MINI].errors == 0
