"""Tools, structured output, agents and graphs: they reach every model."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_type_hints

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.runnables import RunnableBinding
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from resilient_llm import (
    ChainExhaustedError,
    ErrorKind,
    StreamInterruptedError,
    Target,
    Trace,
    health,
    is_benched,
    list_benched,
)
from resilient_llm.integrations import langchain
from resilient_llm.integrations._langchain_structured import StructuredOutput
from resilient_llm.integrations.langchain import FailoverChatModel
from tests.integrations.langchain.adapters import PROMPT
from tests.integrations.scenarios import LLAMA, MINI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.integrations.langchain.adapters import Providers

# Of langchain-openai, about the streams that openai parses.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")

GROQ, OPENAI = "Groq says so.", "OpenAI says so."


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class City(BaseModel):
    """A city."""

    name: str
    inhabitants: int


class CityDict(TypedDict):
    """A city."""

    name: str
    inhabitants: int


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_tools_reach_every_model(providers: Providers, way: str) -> None:
    """The model that serves gets the tools as its own ``bind_tools`` writes them."""
    providers.groq.status = 503
    bound = providers.adapter().bind_tools([add], tool_choice="any")

    async def astream() -> Any:
        full = None
        async for chunk in bound.astream("3 and 3?"):
            full = chunk if full is None else full + chunk
        return full

    message: Any
    if way == "stream":
        message = None
        for chunk in bound.stream("3 and 3?"):
            message = chunk if message is None else message + chunk
    elif way == "astream":
        message = asyncio.run(astream())
    else:
        message = asyncio.run(bound.ainvoke("3?")) if way == "ainvoke" else bound.invoke("3?")

    (call,) = message.tool_calls
    assert (call["name"], call["args"]) == ("add", {"a": 3, "b": 3})
    for server in (providers.groq, providers.openai):
        body = server.requests[0].body
        assert body["tools"][0]["function"]["name"] == "add"
        assert body["tool_choice"] == "required"


def test_each_model_binds_tools_itself(providers: Providers) -> None:
    """The adapter calls ``bind_tools`` of each model, with what it was given."""
    seen: list[tuple[str, Any]] = []

    class Own(type(providers.models()[LLAMA])):  # type: ignore[misc]
        def bind_tools(self, tools: Any, **more: Any) -> Any:
            seen.append((self.model_name, more))
            return super().bind_tools(tools, **more)

    models = {
        name: Own(
            model=name.partition("/")[2], base_url=server.url, api_key="not-a-key", max_retries=0
        )
        for name, server in ((LLAMA, providers.groq), (MINI, providers.openai))
    }
    bound = langchain.failover(models).bind_tools([add], strict=True)

    assert isinstance(bound, RunnableBinding)
    assert seen == [("llama-3.3-70b", {"strict": True}), ("gpt-5-mini", {"strict": True})]


def test_tools_bound_later_win(providers: Providers) -> None:
    """Tools given to a call replace those that were bound before."""
    bound = providers.adapter().bind_tools([add])
    other = {
        "type": "function",
        "function": {"name": "other", "parameters": {"type": "object", "properties": {}}},
    }

    message: Any = bound.invoke("Hi", tools=[other])

    assert [each["name"] for each in message.tool_calls] == ["other"]


def test_a_tool_that_no_model_takes_is_an_error_at_once(providers: Providers) -> None:
    """What a model's ``bind_tools`` refuses is raised where tools are bound."""
    with pytest.raises(ValueError, match="tool_choice"):
        providers.adapter().bind_tools([add], tool_choice=0.5)  # type: ignore[arg-type]


# Structured output.


@pytest.mark.parametrize("schema", [City, CityDict, City.model_json_schema()])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_reaches_every_model(
    providers: Providers, schema: Any, method: str
) -> None:
    """The model that serves gives what its own implementation parses."""
    providers.groq.status = 503
    structured = providers.adapter().with_structured_output(schema, method=method)

    values = [structured.invoke("3 live in X"), asyncio.run(structured.ainvoke("3 live in X"))]

    for value in values:
        fields = value.model_dump() if isinstance(value, City) else value
        assert fields["inhabitants"] == 3
        assert isinstance(value, City) is (schema is City)
    assert len(providers.groq.requests) == 2


@pytest.mark.parametrize("schema", [City, City.model_json_schema()])
def test_structured_streams(providers: Providers, schema: Any) -> None:
    """Values are given while they are written, of one model."""
    providers.groq.status = 503
    structured = providers.adapter().with_structured_output(schema)

    async def main() -> list[Any]:
        return [each async for each in structured.astream("3 live in X")]

    for values in (list(structured.stream("3 live in X")), asyncio.run(main())):
        last = values[-1]
        assert (last.inhabitants if isinstance(last, City) else last["inhabitants"]) == 3


def test_an_answer_that_cannot_be_parsed_tries_the_next_model(providers: Providers) -> None:
    """It is an error of its attempt, which harms no health."""
    providers.groq.text = '{"name": 1'
    structured = providers.adapter().with_structured_output(City, method="json_mode")
    providers.openai.text = '{"name": "X", "inhabitants": 3}'

    with Trace() as trace:
        value = structured.invoke("A city, as 'JSON'")

    assert value == City(name="X", inhabitants=3)
    first, second = trace.calls[0].attempts
    assert (first.target, first.kind) == (LLAMA, ErrorKind.REQUEST_SPECIFIC)
    assert first.reason == "invalid_output"
    assert second.target == MINI
    assert not list_benched()
    assert health()[LLAMA].errors == 0


def test_with_include_raw_it_is_an_answer(providers: Providers) -> None:
    """``include_raw`` gives the message beside what was parsed, or why it could not be."""
    structured = providers.adapter().with_structured_output(
        City, method="json_mode", include_raw=True
    )
    providers.groq.text = '{"name": 1'

    value = structured.invoke("A city, as 'JSON'")
    providers.groq.text = '{"name": "X", "inhabitants": 3}'
    good = asyncio.run(structured.ainvoke("A city, as 'JSON'"))

    assert value["parsed"] is None
    assert value["parsing_error"] is not None
    assert value["raw"].text == '{"name": 1'
    assert good["parsed"] == City(name="X", inhabitants=3)
    assert not providers.openai.requests


def test_reject_sees_the_message_of_structured_output(providers: Providers) -> None:
    """``reject=`` is asked about the model's message, as for every other call."""
    seen: list[Any] = []

    def reject(message: Any) -> bool:
        seen.append(message.response_metadata["model_name"])
        return message.response_metadata["model_name"] != "gpt-5-mini"

    structured = providers.adapter(reject=reject).with_structured_output(City)

    assert isinstance(structured.invoke("3 live in X"), City)
    assert seen == ["llama-3.3-70b", "gpt-5-mini"]


async def _last(items: AsyncIterator[Any]) -> Any:
    return [each async for each in items][-1]


STRUCTURED_WAYS: dict[str, Callable[..., Any]] = {
    "invoke": lambda llm, **more: llm.invoke("3 live in X", **more),
    "ainvoke": lambda llm, **more: asyncio.run(llm.ainvoke("3 live in X", **more)),
    "stream": lambda llm, **more: list(llm.stream("3 live in X", **more))[-1],
    "astream": lambda llm, **more: asyncio.run(_last(llm.astream("3 live in X", **more))),
}
"""``{way: makes a call with arguments, returns the last value}``"""


@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize("way", STRUCTURED_WAYS)
def test_arguments_reach_the_model_of_structured_output(
    providers: Providers, way: str, include_raw: bool
) -> None:
    """Arguments of the call, of its target and of the adapter are those of the model's request."""
    target = Target(LLAMA, params={"seed": 5})
    llm = langchain.failover({target: providers.models()[LLAMA]}, stop=["!"])
    structured = llm.with_structured_output(City, include_raw=include_raw)

    STRUCTURED_WAYS[way](structured, top_p=0.5)

    body = providers.groq.requests[0].body
    assert (body["seed"], body["top_p"], body["stop"]) == (5, 0.5, ["!"])


def test_parameters_without_a_field_reach_the_model_of_structured_output() -> None:
    """A model that has no field for a parameter of the adapter is called with it."""
    seen: list[Any] = []

    class Model(FakeListChatModel):
        def bind_tools(self, tools: Any, **more: Any) -> Any:
            return self.bind()

        def _call(self, *args: Any, **kwargs: Any) -> str:
            seen.append(kwargs["temperature"])
            return super()._call(*args, **kwargs)

    llm = langchain.failover({"fake/a": Model(responses=["x"])}, temperature=0.5)
    llm.with_structured_output(City).invoke("Hi")

    assert seen == [0.5]


def test_the_time_that_is_left_is_the_timeout_of_structured_output(providers: Providers) -> None:
    """A synchronous call has what is left as its timeout, whole or as a stream."""
    seen: list[Any] = []

    class Timed(ChatOpenAI):
        def _get_request_payload(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            seen.append(kwargs.get("timeout"))
            return super()._get_request_payload(*args, **kwargs)

    model = Timed(model="m", base_url=providers.groq.url, api_key="not-a-key", max_retries=0)  # type: ignore[arg-type]
    structured = langchain.failover({LLAMA: model}, timeout=30.0).with_structured_output(City)

    structured.invoke("3 live in X")
    list(structured.stream("3 live in X"))

    assert [29.0 < each <= 30.0 for each in seen] == [True, True]


@pytest.mark.parametrize("way", STRUCTURED_WAYS)
def test_usage_of_structured_output_is_counted_once(providers: Providers, way: str) -> None:
    """LangChain's own counter of tokens gets the answer of the model that serves."""
    llm = langchain.failover(providers.models(stream_usage=True), attempts=1)
    structured = llm.with_structured_output(City)

    with get_usage_metadata_callback() as counter:
        STRUCTURED_WAYS[way](structured)

    assert counter.usage_metadata["llama-3.3-70b"]["total_tokens"] == 18


# Agents.


def test_an_agent_survives_an_outage_between_two_steps(providers: Providers) -> None:
    """An agent whose first model fails after the tool was called goes on with the second one."""

    @tool
    def look_up(city: str) -> str:
        """Look a city up."""
        providers.groq.status = 503
        return "3 inhabitants"

    agent: Any = create_agent(providers.adapter(), tools=[look_up])

    result = agent.invoke({"messages": [("user", "How many live in X?")]})

    assert [each.type for each in result["messages"]] == ["human", "ai", "tool", "ai"]
    assert result["messages"][-1].text == OPENAI
    assert providers.openai.requests[0].body["tools"]


def test_errors_of_a_tool_do_not_reach_the_models_health(providers: Providers) -> None:
    """An error that a tool raises leaves the agent, and no model is benched or counted."""

    @tool
    def broken(city: str) -> str:
        """Look a city up."""
        raise ConnectionError("the tool's own server is down")

    agent: Any = create_agent(providers.adapter(), tools=[broken])

    for _ in range(6):
        with pytest.raises(ConnectionError, match="the tool's own"):
            agent.invoke({"messages": [("user", "How many live in X?")]})

    assert not is_benched(LLAMA)
    assert health()[LLAMA].errors == 0
    assert len(providers.groq.requests) == 6
    assert not providers.openai.requests


def test_an_agent_with_structured_output(providers: Providers) -> None:
    """An agent that gives a value of a class gets it of the model that serves."""
    providers.groq.status = 503
    agent: Any = create_agent(providers.adapter(), tools=[], response_format=City)

    result = asyncio.run(agent.ainvoke({"messages": [("user", "3 live in X")]}))

    assert result["structured_response"].inhabitants == 3


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
def test_a_graph_streams_each_token_once(
    providers: Providers, mode: Literal["invoke", "ainvoke"]
) -> None:
    """LangGraph's ``stream_mode="messages"`` shows the tokens of the model that serves, once."""
    providers.groq.status = 503
    graph = _graph(providers, mode)

    async def astream() -> list[Any]:
        inputs: Any = {"messages": [HumanMessage(PROMPT)]}
        return [each async for each in graph.astream(inputs, stream_mode="messages")]

    inputs: Any = {"messages": [HumanMessage(PROMPT)]}
    if mode == "invoke":
        shown = list(graph.stream(inputs, stream_mode="messages"))
    else:
        shown = asyncio.run(astream())

    chunks = [chunk for chunk, _ in shown if isinstance(chunk, AIMessageChunk)]
    assert "".join(chunk.text for chunk in chunks) == OPENAI
    assert len(chunks) == len(shown)  # no whole message follows its chunks


def test_a_graph_breaks_where_its_model_breaks(providers: Providers) -> None:
    """A stream of a graph that showed content ends with the interruption."""
    providers.groq.cuts = True
    shown: list[str] = []
    inputs: Any = {"messages": [HumanMessage(PROMPT)]}

    with pytest.raises(StreamInterruptedError):
        for chunk, _ in _graph(providers, "invoke").stream(inputs, stream_mode="messages"):
            shown.append(chunk.text)

    assert GROQ.startswith("".join(shown))
    assert "".join(shown)
    assert not providers.openai.requests


def test_a_graph_gets_the_error_of_an_outage(providers: Providers) -> None:
    """A node whose chain is exhausted raises ChainExhaustedError."""
    providers.groq.status = providers.openai.status = 503
    inputs: Any = {"messages": [HumanMessage(PROMPT)]}

    with pytest.raises(ChainExhaustedError):
        _graph(providers, "invoke").invoke(inputs)


def _graph(providers: Providers, mode: str) -> Any:
    llm = providers.adapter()

    def ask(state: MessagesState) -> Any:
        return {"messages": [llm.invoke(state["messages"])]}

    async def aask(state: MessagesState) -> Any:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("ask", ask if mode == "invoke" else aask)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return graph.compile()


def test_needs_and_tokens_read_what_is_sent(providers: Providers) -> None:
    """A call with tools skips a target that is known to take none."""
    models = providers.models()
    llm = langchain.failover(
        {Target(LLAMA, supports=["json"]): models[LLAMA], Target(MINI): models[MINI]},
        needs=lambda messages, tools=None, **more: ["tools"] if tools else None,
    )

    llm.bind_tools([add]).invoke("3?")

    assert not providers.groq.requests
    assert json.loads(providers.openai.requests[0].content)["tools"]


# --- what LangChain introspects ------------------------------------------------------------------


def own_methods(cls: type) -> dict[str, Any]:
    """Return the functions that a class of ours defines, also below properties."""
    found = {
        name: value.fget if isinstance(value, property) else value
        for name, value in vars(cls).items()
    }
    return {
        name: each
        for name, each in found.items()
        if inspect.isfunction(each) and each.__module__ == cls.__module__  # not those of pydantic
    }


@pytest.mark.parametrize("cls", [FailoverChatModel, StructuredOutput])
def test_every_annotation_can_be_resolved(cls: type) -> None:
    """LangChain resolves the annotations of a model's methods."""
    methods = own_methods(cls)

    assert {"stream", "astream", "policy"} < methods.keys()
    for method in (*methods.values(), langchain.failover):
        get_type_hints(method)


def test_the_adapter_with_fallbacks_of_langchain(providers: Providers) -> None:
    """Tools and a schema are bound to the adapter inside of LangChain's own fallbacks."""
    llm = providers.adapter().with_fallbacks([providers.models()[MINI]])

    called = llm.bind_tools([add]).invoke("What is 2 plus 2?")
    parsed = llm.with_structured_output(City).invoke("What is 2 plus 2?")

    assert ["add"] == [call["name"] for call in called.tool_calls]
    assert isinstance(parsed, City)
