"""Calls of the adapter as of any chat model: batches, caches, bindings, copies, loops, threads."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField
from langchain_openai import ChatOpenAI

from resilient_llm import (
    AttemptCancelled,
    Budget,
    ChainExhaustedError,
    ErrorKind,
    Failover,
    StreamPolicy,
    Target,
    Trace,
    configure,
    spend,
)
from resilient_llm.integrations import langchain
from resilient_llm.integrations.langchain import FailoverChatModel
from tests.integrations.langchain.adapters import PROMPT, chat_openai
from tests.integrations.scenarios import LLAMA, MINI

if TYPE_CHECKING:
    from tests.integrations.langchain.adapters import Providers

GROQ, OPENAI = "Groq says so.", "OpenAI says so."


def fakes(*answers: str) -> FailoverChatModel:
    """Return an adapter over models that call nobody."""
    return langchain.failover(
        {f"fake/{index}": FakeListChatModel(responses=[text]) for index, text in enumerate(answers)}
    )


def test_the_message_is_that_of_the_model_that_serves(providers: Providers) -> None:
    """``usage_metadata``, ``response_metadata`` and the id are the serving model's."""
    providers.groq.status = 503

    message = providers.adapter().invoke(PROMPT)

    assert message.usage_metadata is not None
    assert message.usage_metadata["total_tokens"] == 18
    assert message.response_metadata["model_name"] == "gpt-5-mini"
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.id is not None


def test_chunks_are_those_of_the_model_that_serves(providers: Providers) -> None:
    """The sum of a stream has the same, and marks its last chunk."""
    llm = langchain.failover(providers.models(stream_usage=True))
    full: Any = None
    for chunk in llm.stream(PROMPT):
        full = chunk if full is None else full + chunk

    assert full.text == GROQ
    assert full.usage_metadata["total_tokens"] == 18
    assert full.response_metadata["model_name"] == "llama-3.3-70b"
    assert full.chunk_position == "last"


@pytest.mark.parametrize("is_stream", [False, True])
def test_budgets_read_usage(providers: Providers, is_stream: bool) -> None:
    """What an answer used is booked to the model that served."""
    configure(budgets=[Budget(tokens=1000, of="openai", on_unbounded=100)])
    providers.groq.status = 503
    llm = langchain.failover(providers.models(stream_usage=True), attempts=1)

    if is_stream:
        list(llm.stream(PROMPT))
    else:
        llm.invoke(PROMPT)

    (report,) = spend()
    assert (report.spent, report.estimated) == (18, 0)


def test_batches(providers: Providers) -> None:
    """Every input of a batch is a call."""
    llm = providers.adapter()

    assert [each.text for each in llm.batch(["a", "b"])] == [GROQ] * 2
    assert [each.text for each in asyncio.run(llm.abatch(["a", "b"]))] == [GROQ] * 2
    assert sorted(index for index, _ in llm.batch_as_completed(["a", "b"])) == [0, 1]


def test_a_batch_may_return_errors(providers: Providers) -> None:
    """``return_exceptions`` gives the error of the chain."""
    providers.groq.status = providers.openai.status = 503

    (error,) = providers.adapter().batch(["a"], return_exceptions=True)

    assert isinstance(error, ChainExhaustedError)


def test_pipes_prompts_and_parsers(providers: Providers) -> None:
    """The adapter is a step of a chain of LangChain."""
    prompt = ChatPromptTemplate.from_messages([("user", "About {topic}?")])
    chain = prompt | providers.adapter() | StrOutputParser()

    assert chain.invoke({"topic": "sky"}) == GROQ
    assert "".join(chain.stream({"topic": "sky"})) == GROQ
    assert providers.groq.requests[0].body["messages"][0]["content"] == "About sky?"


def test_with_fallbacks_and_with_retry(providers: Providers) -> None:
    """LangChain's own wrappers see the error of the chain."""
    providers.groq.status = providers.openai.status = 503
    llm = providers.adapter()

    assert llm.with_fallbacks([fakes("third")]).invoke(PROMPT).text == "third"
    retrying = llm.with_retry(
        retry_if_exception_type=(ChainExhaustedError,),
        stop_after_attempt=2,
        wait_exponential_jitter=False,
    )
    with pytest.raises(ChainExhaustedError):
        retrying.invoke(PROMPT)


def test_arguments_of_a_call_reach_the_models(providers: Providers) -> None:
    """``bind``, ``stop`` and arguments of a call are passed on to the model."""
    providers.adapter().bind(stop=["."], temperature=0.5).invoke(PROMPT, seed=7)

    body = providers.groq.requests[0].body
    assert (body["stop"], body["temperature"], body["seed"]) == (["."], 0.5, 7)


def test_parameters_of_the_adapter_hold_for_all_models(providers: Providers) -> None:
    """``temperature``, ``max_tokens`` and ``stop`` of the adapter are those of every call."""
    providers.groq.status = 503
    llm = providers.adapter(temperature=0.25, max_tokens=9, stop=["!"])

    llm.invoke(PROMPT)
    llm.with_structured_output({"title": "a", "type": "object", "properties": {}}).invoke(PROMPT)

    for each in providers.openai.requests:
        assert each.body["temperature"] == 0.25
        assert each.body["max_completion_tokens"] == 9
    assert providers.openai.requests[0].body["stop"] == ["!"]


def test_models_without_the_field_get_parameters_as_arguments() -> None:
    """A model that has no field for a parameter is called with it."""
    seen: list[Any] = []

    class Model(FakeListChatModel):
        def _call(self, *args: Any, **kwargs: Any) -> str:
            seen.append(kwargs["temperature"])
            return super()._call(*args, **kwargs)

    langchain.failover({"fake/a": Model(responses=["x"])}, temperature=0.5).invoke("Hi")

    assert seen == [0.5]


@pytest.mark.parametrize("name", ["gpt-5-mini", MINI])
def test_model_pins_a_call(providers: Providers, name: str) -> None:
    """``model=`` of a call is the target that it is sent to."""
    assert providers.adapter().invoke(PROMPT, model=name).text == OPENAI
    assert not providers.groq.requests


def test_a_model_that_is_not_in_the_chain_is_an_error(providers: Providers) -> None:
    """``model=`` with another name lists the targets."""
    with pytest.raises(ValueError, match=r"llama-3\.3-70b"):
        providers.adapter().invoke(PROMPT, model="nonsense")


def test_tracers_are_told_the_chain(providers: Providers) -> None:
    """The parameters for tracers name the chain; those of an attempt name its model."""
    params = providers.adapter(temperature=0.5, stop=["."])._get_ls_params(max_tokens=9)

    assert params == {
        "ls_provider": "resilient_llm",
        "ls_model_name": f"{LLAMA},{MINI}",
        "ls_model_type": "chat",
        "ls_temperature": 0.5,
        "ls_max_tokens": 9,
        "ls_stop": ["."],
    }


# Caches.


def test_a_cache_of_the_adapter(providers: Providers) -> None:
    """An answer in the cache calls no model; other tools are another question."""
    llm = providers.adapter(cache=InMemoryCache())
    tool = {
        "type": "function",
        "function": {"name": "t", "parameters": {"type": "object", "properties": {}}},
    }

    texts = [llm.invoke(PROMPT).text for _ in range(2)]
    calls: Any = llm.bind_tools([tool]).invoke(PROMPT)
    llm.bind_tools([tool], tool_choice="any").invoke(PROMPT)
    llm.bind_tools([tool], tool_choice="any").invoke(PROMPT)

    assert texts == [GROQ] * 2
    assert calls.tool_calls
    assert len(providers.groq.requests) == 3


def test_the_global_cache(providers: Providers) -> None:
    """LangChain's global cache holds for the adapter; another chain is another question."""
    set_llm_cache(InMemoryCache())
    try:
        llm = providers.adapter()
        assert [llm.invoke(PROMPT).text, asyncio.run(llm.ainvoke(PROMPT)).text] == [GROQ] * 2
        only = langchain.failover({MINI: providers.models()[MINI]})
        assert only.invoke(PROMPT).text == OPENAI
    finally:
        set_llm_cache(None)

    assert len(providers.groq.requests) == 1


def test_adapters_that_differ_share_no_answers_of_a_cache() -> None:
    """Another ``stop`` of the adapter and other ``params`` of a target are another question."""
    cache = InMemoryCache()
    model = FakeListChatModel(responses=["1", "2", "3", "4"])
    seeded, unset = {"seed": 1, "api_key": "secret-of-mine"}, {"seed": Target.UNSET}
    adapters = [
        langchain.failover({"fake/a": model}, cache=cache),
        langchain.failover({"fake/a": model}, cache=cache, stop=["."]),
        langchain.failover({Target("fake/a", params=seeded): model}, cache=cache),
        langchain.failover({Target("fake/a", params=unset): model}, cache=cache),
    ]

    texts = [llm.invoke(PROMPT).text for llm in adapters * 2]

    assert texts == ["1", "2", "3", "4"] * 2
    assert "secret-of-mine" not in str([llm._identifying_params for llm in adapters])


def test_a_rate_limiter_counts_a_call_once(providers: Providers) -> None:
    """The adapter's ``rate_limiter`` counts once a call with two attempts."""
    asked: list[bool] = []

    class Limiter(InMemoryRateLimiter):
        def acquire(self, *, blocking: bool = True) -> bool:
            asked.append(blocking)
            return True

    providers.groq.status = 503
    providers.adapter(rate_limiter=Limiter()).invoke(PROMPT)

    assert asked == [True]


# Options.


def test_options_are_those_of_the_policy(providers: Providers) -> None:
    """``policy`` is the policy of the calls, with every option that was given."""
    llm = providers.adapter(timeout=30.0, reject=lambda message: message.text == GROQ)

    assert isinstance(llm.policy, Failover)
    assert [each.key for each in llm.policy.chain] == [LLAMA, MINI]
    assert llm.invoke(PROMPT).text == OPENAI


def test_max_retries_is_attempts_less_one(providers: Providers) -> None:
    """LangChain's word for attempts is understood."""
    providers.groq.status = providers.openai.status = 503
    llm = langchain.failover(providers.models(), max_retries=1, backoff=lambda number: 0.0)

    with Trace() as trace, pytest.raises(ChainExhaustedError):
        llm.invoke(PROMPT)

    assert [each.number for each in trace.calls[0].attempts] == [1, 2, 1, 2]


def test_a_restart_follows_an_interruption(providers: Providers) -> None:
    """``StreamPolicy`` works: a stream that broke may begin again behind a marker."""
    providers.groq.cuts = True
    llm = providers.adapter(
        stream=StreamPolicy(on_interrupt="restart", restart_marker=AIMessageChunk(content="|"))
    )

    shown, marker, answer = "".join(chunk.text for chunk in llm.stream(PROMPT)).partition("|")

    assert GROQ.startswith(shown)
    assert (marker, answer) == ("|", OPENAI)


def test_a_stream_may_go_on_with_other_messages(providers: Providers) -> None:
    """A function of ``on_interrupt`` gives the messages for the next model."""
    providers.groq.cuts = True

    def goes_on(error: Any) -> dict[str, Any]:
        return {"messages": [("user", f"Go on after: {error.text_so_far}")]}

    llm = providers.adapter(stream=StreamPolicy(on_interrupt=goes_on, keep_text=1000))
    text = "".join(chunk.text for chunk in llm.stream(PROMPT))

    assert text.endswith(OPENAI)
    assert providers.openai.requests[0].body["messages"][0]["content"].startswith("Go on after: G")


def test_parameters_of_a_target(providers: Providers) -> None:
    """A name of the mapping may be a Target, whose ``params`` its model is called with."""
    llm = langchain.failover({Target(LLAMA, params={"seed": 5}): providers.models()[LLAMA]})

    llm.invoke(PROMPT)

    assert providers.groq.requests[0].body["seed"] == 5


def test_hedges(providers: Providers) -> None:
    """The answer of a hedge beside a model that hangs is given, and the other attempt is lost."""
    lost: list[Any] = []

    class Hanging(FakeListChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            await asyncio.Event().wait()

    llm = langchain.failover(
        {LLAMA: Hanging(responses=[]), MINI: providers.models()[MINI]},
        hedge=0.01,
        observers=[lambda event: lost.append(event) if type(event) is AttemptCancelled else None],
    )

    assert asyncio.run(llm.ainvoke(PROMPT)).text == OPENAI
    assert [(each.target, each.reason) for each in lost] == [(LLAMA, "lost")]


# A list of models, and models as they are.


def test_names_of_a_list_are_those_for_tracers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spec of a model in a list is what it reports to tracers."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    models = [ChatOpenAI(model=name, api_key="not-a-key", max_retries=0) for name in ("a", "b")]

    llm = langchain.failover(models)

    assert [each.key for each in llm.policy.chain] == ["openai/a", "openai/b"]


def test_models_at_their_providers_addresses_need_no_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address that the package itself fills in is no base URL of the model's own."""
    groq = pytest.importorskip("langchain_groq")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "GROQ_API_BASE", "GROQ_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    fields: dict[str, Any] = {"api_key": "not-a-key", "max_retries": 0}
    models = [groq.ChatGroq(model="llama", **fields), ChatOpenAI(model="mini", **fields)]
    if find_spec("langchain_anthropic") is not None:
        from langchain_anthropic import ChatAnthropic

        models.append(ChatAnthropic(model="claude", **fields))

    keys = [each.key for each in langchain.failover(models).policy.chain]

    assert keys == ["groq/llama", "openai/mini", "anthropic/claude"][: len(models)]


def test_a_model_that_retries_is_copied(
    providers: Providers, caplog: pytest.LogCaptureFixture
) -> None:
    """A model with retries of its own is called without them, and stays as it is."""
    providers.groq.status = providers.openai.status = 503
    fields: list[dict[str, Any]] = [{"max_retries": 2}, {"max_retries": None}]
    for number, each in enumerate(fields):
        model = ChatOpenAI(model="llama", base_url=providers.groq.url, api_key="not-a-key", **each)
        caplog.clear()
        caplog.set_level(logging.INFO, "resilient_llm")
        llm = langchain.failover({f"groq/{number}": model}, attempts=1)
        before = len(providers.groq.requests)

        with pytest.raises(ChainExhaustedError):
            llm.invoke(PROMPT)
        with pytest.raises(ChainExhaustedError):
            asyncio.run(llm.ainvoke(PROMPT))

        assert len(providers.groq.requests) - before == 2
        assert model.max_retries == each["max_retries"]
        assert model.root_client.max_retries == 2
        assert caplog.messages[0] == f"the model of groq/{number} is copied with max_retries=0"


def test_groq_and_anthropic_are_copied_without_retries(providers: Providers) -> None:
    """The models of langchain-groq and langchain-anthropic retry no longer, either."""
    groq = pytest.importorskip("langchain_groq")
    providers.groq.status = 503
    root = providers.groq.url.removesuffix("/v1")
    model = groq.ChatGroq(model="llama", base_url=root, api_key="not-a-key")
    with pytest.raises(ChainExhaustedError):
        langchain.failover({"groq/llama": model}, attempts=1).invoke(PROMPT)
    assert len(providers.groq.requests) == 1

    anthropic = pytest.importorskip("langchain_anthropic")
    claude = anthropic.ChatAnthropic(model="claude", base_url=root, api_key="not-a-key")
    assert claude._client.max_retries == 2  # made now, and not of the copy's fields
    with pytest.raises(ChainExhaustedError):
        langchain.failover({"anthropic/claude": claude}, attempts=1).invoke(PROMPT)
    assert len(providers.groq.requests) == 2
    assert (model.max_retries, claude.max_retries) == (2, 2)


def test_a_model_without_retries_is_used_itself(providers: Providers) -> None:
    """A model with ``max_retries=0`` is called itself, so that later patches hold."""
    models = providers.models()
    llm = langchain.failover(models)

    assert all(llm.models[name] is model for name, model in models.items())
    models[LLAMA].model_name = "another"
    llm.invoke(PROMPT)
    assert providers.groq.requests[0].model == "another"


@pytest.mark.parametrize("make", [langchain.failover, FailoverChatModel])
def test_retries_that_cannot_be_turned_off_are_warned_about(make: Any) -> None:
    """A model of an unknown class that retries gives a warning where it is declared."""

    class Stubborn(FakeListChatModel):
        max_retries: int = 3

    with pytest.warns(UserWarning, match="fake/a has max_retries=3") as warned:
        make({"fake/a": Stubborn(responses=["x"])})

    assert warned[0].filename == __file__


def test_the_time_that_is_left_is_the_timeout_of_a_sync_call(providers: Providers) -> None:
    """A synchronous call of a known model has what is left as its timeout, if that is shorter."""
    seen: list[Any] = []

    class Timed(ChatOpenAI):
        def _get_request_payload(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            seen.append(kwargs.get("timeout"))
            return super()._get_request_payload(*args, **kwargs)

    def model(**fields: Any) -> Any:
        return Timed(
            model="m", base_url=providers.groq.url, api_key="not-a-key", max_retries=0, **fields
        )

    langchain.failover({"groq/a": model()}, timeout=30.0).invoke(PROMPT)
    langchain.failover({"groq/a": model(timeout=5.0)}, timeout=30.0).invoke(PROMPT)
    langchain.failover({"groq/a": model()}, timeout=30.0).invoke(PROMPT, timeout=3.0)
    langchain.failover({"groq/a": model()}).invoke(PROMPT)

    assert 29.0 < seen[0] <= 30.0
    assert seen[1:] == [None, 3.0, None]


def test_a_model_that_does_not_stream_gives_one_chunk() -> None:
    """A model that has streaming disabled is a stream of its whole answer."""
    llm = langchain.failover(
        {"fake/a": FakeListChatModel(responses=["whole"], disable_streaming=True)}
    )

    chunks = list(llm.stream("Hi"))

    assert [chunk.content for chunk in chunks] == ["whole"]
    assert type(chunks[0]) is AIMessageChunk


def test_streaming_may_be_disabled(providers: Providers) -> None:
    """``disable_streaming`` of the adapter makes one call of ``stream``."""
    chunks = list(providers.adapter(disable_streaming=True).stream(PROMPT))

    assert [chunk.text for chunk in chunks] == [GROQ]
    assert not providers.groq.requests[0].body.get("stream")


# As an object.


def test_tokens_are_counted_by_the_first_model() -> None:
    """``get_num_tokens`` counts as the first model does, or by the adapter's own function."""

    class Counting(FakeListChatModel):
        def get_token_ids(self, text: str) -> list[int]:
            return [1] * len(text)

        def get_num_tokens_from_messages(self, messages: Any, tools: Any = None) -> int:
            return 40 + len(messages)

    models = {"fake/a": Counting(responses=["x"])}

    assert langchain.failover(models).get_num_tokens("four") == 4
    assert langchain.failover(models).get_token_ids("ab") == [1, 1]
    assert langchain.failover(models).get_num_tokens_from_messages([AIMessage("x")]) == 41
    own = langchain.failover(models, custom_get_token_ids=lambda text: [7])
    assert own.get_num_tokens("four") == 1
    assert own.get_token_ids("four") == [7]


def test_copies() -> None:
    """Copies by pydantic, ``copy`` and pickle call the same models."""
    llm = fakes("a")

    for each in (
        llm.model_copy(),
        llm.model_copy(deep=True),
        copy.copy(llm),
        copy.deepcopy(llm),
        pickle.loads(pickle.dumps(llm)),
    ):
        assert each.invoke("Hi").text == "a"
        assert [target.key for target in each.policy.chain] == ["fake/0"]


def test_fields_may_be_configured(providers: Providers) -> None:
    """LangChain builds the adapter again for ``configurable_fields``, with all that it was given."""
    llm = providers.adapter(timeout=30.0, tags=["own"]).configurable_fields(
        temperature=ConfigurableField(id="heat")
    )

    llm.with_config(configurable={"heat": 0.75}).invoke(PROMPT)

    assert providers.groq.requests[0].body["temperature"] == 0.75


def test_it_is_not_serialised_and_shows_no_secrets(providers: Providers) -> None:
    """``dumpd`` marks it as not loadable, and neither that nor the repr has keys."""
    llm = langchain.failover(
        {LLAMA: chat_openai(providers.groq.url, api_key="secret-of-mine")},
        reject=lambda message: None,
    )

    dumped = dumpd(llm)

    assert dumped["type"] == "not_implemented"
    assert repr(llm) == f"FailoverChatModel(models=['{LLAMA}'])"
    for text in (str(dumped), repr(llm), str(llm._identifying_params), str(llm)):
        assert "secret-of-mine" not in text


def test_a_profile_is_what_all_models_have_in_common() -> None:
    """What is known of all models is known of the chain: the least of it."""
    if "profile" not in FakeListChatModel.model_fields:
        pytest.skip("langchain-core before 1.1 has no profiles")
    one: Any = {"max_input_tokens": 100, "tool_calling": True, "structured_output": True}
    two: Any = {"max_input_tokens": 50, "tool_calling": False, "image_inputs": True}
    models = {
        "fake/a": FakeListChatModel(responses=["x"], profile=one),
        "fake/b": FakeListChatModel(responses=["x"], profile=two),
    }

    assert langchain.failover(models).profile == {"max_input_tokens": 50, "tool_calling": False}
    models["fake/c"] = FakeListChatModel(responses=["x"])
    assert not langchain.failover(models).profile


# Loops and threads.


def test_two_event_loops(providers: Providers) -> None:
    """One adapter serves two event loops after each other."""
    llm = providers.adapter()

    assert [asyncio.run(llm.ainvoke(PROMPT)).text for _ in range(2)] == [GROQ] * 2


def test_threads(providers: Providers) -> None:
    """One adapter serves threads at once, with streams among them, and each gets its own answer."""
    llm = providers.adapter()

    def call(number: int) -> str:
        if number % 2:
            return "".join(chunk.text for chunk in llm.stream(PROMPT))
        return str(llm.invoke(PROMPT).text)

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(call, range(32)))

    assert texts == [GROQ] * 32


def test_tasks_keep_their_runs(providers: Providers) -> None:
    """Streams that run at once in one loop have attempts under their own runs."""
    from tests.integrations.langchain.test_runs import Recorder

    llm = providers.adapter()
    seen = [Recorder() for _ in range(8)]

    async def one(recorder: Recorder) -> str:
        config: Any = {"callbacks": [recorder]}
        return "".join([chunk.text async for chunk in llm.astream(PROMPT, config)])

    async def main() -> list[str]:
        return await asyncio.gather(*map(one, seen))

    assert asyncio.run(main()) == [GROQ] * 8
    for recorder in seen:
        call, attempt = recorder.starts
        assert attempt["parent_run_id"] == call["run_id"]
        assert recorder.text == GROQ


def test_a_dead_key_benches_as_ever(providers: Providers) -> None:
    """The verdict on a model's error is that on the SDK's error inside it."""
    providers.groq.status = 401

    with Trace() as trace:
        providers.adapter().invoke(PROMPT)

    assert trace.calls[0].attempts[0].kind is ErrorKind.AUTH_DEAD
