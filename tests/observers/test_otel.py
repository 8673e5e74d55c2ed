"""Spans of calls and attempts, recorded in memory by the real SDK of OpenTelemetry."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from resilient_llm import (
    Budget,
    ChainExhaustedError,
    ConfigurationError,
    ErrorKind,
    NoCapableTargetError,
    StreamPolicy,
    Target,
    ToolLoopError,
    Trace,
    Verdict,
    bench_model,
    configure,
    failover,
    list_benched,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import event_names
from resilient_llm.observers import otel
from resilient_llm.testing import FakeClock, capture_events, fake_clock, isolated
from tests.support.moves import move_the_first
from tests.support.spans import Recorded, attributes, recorded
from tests.support.ways import GROQ, ProviderError, rate_limited, run_async

CHAIN = ["groq/llama", "openai/gpt"]


@pytest.fixture
def spans() -> Iterator[Recorded]:
    with recorded() as found:
        yield found


def within(found: Recorded, name: str) -> None:
    """Record a span of somebody else, such as that of an instrumented SDK."""
    with found.tracer.start_as_current_span(name):
        pass


def current() -> int:
    return trace.get_current_span().get_span_context().span_id


# --- names, kinds, parents and attributes ---------------------------------------------------------


def test_a_call_has_a_span_and_each_attempt_a_child(spans: Recorded) -> None:
    """INTERNAL `failover <function>`, and below it CLIENT `chat <model>`, in the caller's trace."""

    @failover(CHAIN, attempts=1)
    def ask(target: Target) -> str:
        if target.provider == "groq":
            raise ProviderError(503)
        return "hello"

    with spans.tracer.start_as_current_span("request"):
        ask()

    name = f"failover {ask.__module__}.{ask.__qualname__}"
    assert ["chat llama", "chat gpt", name, "request"] == spans.names
    assert [name, name, "request", None] == [spans.parent(each) for each in spans.names]
    assert SpanKind.INTERNAL is spans.span(name).kind
    assert [SpanKind.CLIENT] * 2 == [each.kind for each in spans.attempts]
    assert 1 == len({span.context.trace_id for span in spans.spans})


def test_what_the_spans_of_a_failover_say(spans: Recorded) -> None:
    """Exactly these attributes, with a status of ERROR on the failed attempt alone."""

    @failover(["google/gemini", "mistral@eu/large"], attempts=1)
    def ask(target: Target) -> str:
        if target.provider == "google":
            raise rate_limited(7)
        return "hello"

    with capture_events() as events:
        ask()

    failed, answered = spans.attempts
    until = next(event.until for event in events if type(event).__name__ == "TargetBenched")
    said = attributes(failed)
    assert abs(datetime.fromisoformat(said.pop("benched_until")) - until) < timedelta(seconds=1)
    call_id = events[0].call_id
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "gemini",
        "error.type": "429",
        "target": "google/gemini",
        "attempt": 1,
        "chain_position": 0,
        "outcome": "rate_limited",
        "reason": "rate_limit",
        "retry_after": 7.0,
        "call_id": call_id,
    } == said
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": "large",
        "target": "mistral@eu/large",
        "attempt": 1,
        "chain_position": 1,
        "outcome": "ok",
        "call_id": call_id,
    } == attributes(answered)
    (call,) = spans.calls
    assert {
        "call_id": call_id,
        "outcome": "ok",
        "served_by": "mistral@eu/large",
        "attempts": 2,
    } == attributes(call)
    assert StatusCode.ERROR is failed.status.status_code
    assert StatusCode.UNSET is answered.status.status_code is call.status.status_code


def test_a_failed_call_says_so_without_a_text(spans: Recorded) -> None:
    """ERROR without a description, and no exception event: errors of SDKs hold prompts."""

    @failover(CHAIN, attempts=1)
    def ask(target: Target) -> str:
        raise ProviderError(503, "the prompt was: secret")

    with pytest.raises(ChainExhaustedError):
        ask()

    for span in spans.spans:
        assert StatusCode.ERROR is span.status.status_code
        assert span.status.description is None
        assert () == tuple(span.events)
        assert "secret" not in span.to_json()
    (call,) = spans.calls
    assert {"outcome": "failed", "attempts": 2} == attributes(
        call, "outcome", "served_by", "attempts"
    )


@pytest.mark.parametrize("needs", ["vision", lambda: "vision"], ids=["words", "function"])
def test_a_call_that_no_target_can_take_has_a_span(spans: Recorded, needs: Any) -> None:
    """It has no attempt; one that some target takes has the attempt on that target."""
    chain = [Target("groq/llama", supports=()), Target("openai/gpt", supports=("vision",))]

    @failover(chain, needs=needs)
    def ask(target: Target) -> str:
        return target.key

    ask()
    with pytest.raises(NoCapableTargetError):
        ask.using(chain=chain[:1])()

    served, refused = spans.calls
    assert {"outcome": "ok", "served_by": "openai/gpt", "attempts": 1} == attributes(
        served, "outcome", "served_by", "attempts"
    )
    assert {"outcome": "failed", "attempts": 0} == attributes(
        refused, "outcome", "served_by", "attempts"
    )
    assert 1 == len(spans.spans) - len(spans.calls)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ProviderError(503), {"error.type": "503", "outcome": "transient"}),
        (ConnectionRefusedError(), {"error.type": "ConnectionRefusedError"}),
        (TypeError(), {"error.type": "TypeError", "outcome": "caller_bug", "reason": "caller_bug"}),
        (ProviderError(401), {"error.type": "401", "outcome": "auth_dead"}),
    ],
)
def test_the_type_of_an_error_is_its_status_or_its_class(
    spans: Recorded, error: Exception, expected: dict[str, str]
) -> None:
    """`error.type` is the status, else the name of the class."""

    @failover("groq/llama", attempts=1)
    def ask(target: Target) -> str:
        raise error

    with pytest.raises(Exception):  # noqa: B017  # each raises its own
        ask()

    (attempt,) = spans.attempts
    assert expected == attributes(attempt, *expected)


def test_providers_have_the_names_of_opentelemetry(spans: Recorded) -> None:
    """Five differ; all others are as written."""
    names = {
        "google": "gcp.gemini",
        "bedrock": "aws.bedrock",
        "azure": "azure.ai.openai",
        "mistral": "mistral_ai",
        "xai": "x_ai",
        "openai": "openai",
        "anthropic": "anthropic",
        "my-own": "my-own",
    }
    for provider in names:
        failover(f"{provider}/model")(_answers)()

    assert list(names.values()) == [
        attributes(span)["gen_ai.provider.name"] for span in spans.attempts
    ]


def _answers(target: Target) -> str:
    return "hello"


def test_every_attribute_is_in_the_table(spans: Recorded, clock: FakeClock) -> None:
    """The table in the code lists what the spans have, on which of them, and of which type."""
    configure(budgets=[Budget(usd=1, on_unbounded=100)], prices={"*": (1, 10)})

    @failover(CHAIN, attempts=2, backoff=lambda n: 1.0)
    def ask(target: Target) -> Any:
        if target.provider == "groq":
            raise ProviderError(503, retry_after=900)
        return {"usage": {"prompt_tokens": 3, "completion_tokens": 5}}

    @failover("openai/gpt", tool_loop="warn")
    def stream(target: Target, messages: Any) -> Iterator[str]:
        yield "hello"

    ask()
    list(stream([{"type": "function_call", "name": "search", "arguments": "{}"}] * 3))

    types = {"text": str, "int": int, "float": float, "bool": bool}
    listed = {
        (each.name, on): types[each.type]
        for each in otel.ATTRIBUTES
        for on in (("attempt", "call") if each.on == "both" else (each.on,))
    }
    used = {
        (name, "attempt" if span in spans.attempts else "call"): type(value)
        for span in spans.spans
        for name, value in span.attributes.items()
    }
    assert listed == used
    assert len(otel.ATTRIBUTES) == len({(each.name, each.on) for each in otel.ATTRIBUTES})


def test_a_retry_is_one_more_attempt(spans: Recorded, clock: FakeClock) -> None:
    """Numbers grow within a target, and the place in the chain stays."""
    answers = iter([ProviderError(503), ProviderError(503), "hello"])

    @failover(["groq/llama"], attempts=3, backoff=lambda n: 1.0)
    def ask(target: Target) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    ask()

    assert [(1, 0, "transient"), (2, 0, "transient"), (3, 0, "ok")] == [
        tuple(attributes(span, "attempt", "chain_position", "outcome").values())
        for span in spans.attempts
    ]
    first, second, _ = spans.attempts
    assert first.end_time <= second.start_time


def test_the_place_in_the_chain_is_that_of_its_declaration(spans: Recorded) -> None:
    """Also where a pin, a priority or a bench changes what is called first."""

    @failover([Target("a/late", priority=2), "b/soon", "c/last"])
    def ask(*, target: Any = None) -> str:
        return "hello"

    ask()
    ask(target="c/last")
    bench_model("b/soon")
    ask()

    assert [("b/soon", 1), ("c/last", 2), ("c/last", 2)] == [
        (attributes(span)["target"], attributes(span)["chain_position"]) for span in spans.attempts
    ]


def test_a_bench_that_follows_from_the_last_retry_is_told(
    spans: Recorded, clock: FakeClock
) -> None:
    """The span of an attempt ends when all that follows from its failure is done."""

    @failover(CHAIN, attempts=2, backoff=lambda n: 1.0)
    def ask(target: Target) -> str:
        if target.provider == "groq":
            raise ProviderError(503)
        return "hello"

    ask()

    (bench,) = list_benched()
    first, second, _ = spans.attempts
    assert "benched_until" not in attributes(first)
    said = datetime.fromisoformat(attributes(second)["benched_until"])
    assert said.tzinfo is not None
    assert abs(said - bench.until) < timedelta(seconds=1)


def test_an_answer_that_is_refused(spans: Recorded) -> None:
    """`reject` is asked inside the call's span, and what it says is the attempt's outcome."""
    asked: list[int] = []

    def reject(answer: str) -> Any:
        asked.append(current())
        return "too_short" if answer == "groq" else None

    ask = failover(CHAIN, reject=reject)(lambda *, target: target.provider)
    ask()

    refused, _ = spans.attempts
    assert {"outcome": "bad_response", "reason": "too_short"} == attributes(
        refused, "outcome", "reason"
    )
    assert "ResponseRejectedError" == attributes(refused)["error.type"]
    (call,) = spans.calls
    assert [call.context.span_id] * 2 == asked


def test_a_trace_names_the_spans(spans: Recorded) -> None:
    """`Trace(call_id=…)` is on both spans, so that logs, events and spans are found by one name."""
    with Trace(call_id="request-7"):
        failover(CHAIN)(_answers)()

    assert ["request-7"] * 2 == [attributes(span)["call_id"] for span in spans.spans]


# --- tokens ---------------------------------------------------------------------------------------

USAGES: dict[str, tuple[Any, tuple[int | None, int | None]]] = {
    "openai chat": (
        SimpleNamespace(usage=SimpleNamespace(prompt_tokens=3, completion_tokens=4)),
        (3, 4),
    ),
    "openai responses": (
        SimpleNamespace(usage=SimpleNamespace(input_tokens=3, output_tokens=4)),
        (3, 4),
    ),
    "anthropic, with a cache": (
        SimpleNamespace(
            usage=SimpleNamespace(
                input_tokens=3,
                output_tokens=4,
                cache_read_input_tokens=10,
                cache_creation_input_tokens=None,
            )
        ),
        (13, 4),
    ),
    "google, with thoughts": (
        SimpleNamespace(
            usage_metadata=SimpleNamespace(
                prompt_token_count=3, candidates_token_count=4, thoughts_token_count=5
            )
        ),
        (3, 9),
    ),
    "bedrock": ({"usage": {"inputTokens": 3, "outputTokens": 4}}, (3, 4)),
    "cohere": (
        SimpleNamespace(
            usage=SimpleNamespace(tokens=SimpleNamespace(input_tokens=3.0, output_tokens=4.0))
        ),
        (3, 4),
    ),
    "ollama": ({"prompt_eval_count": 3, "eval_count": 4}, (3, 4)),
    "embeddings": ({"usage": {"prompt_tokens": 3}}, (3, None)),
    "nothing": ({"choices": []}, (None, None)),
    "nonsense": ({"usage": {"prompt_tokens": "3", "completion_tokens": True}}, (None, None)),
    "a text": ("hello", (None, None)),
}


@pytest.mark.parametrize("answer", USAGES)
@pytest.mark.parametrize("way", ["sync", "async", "loop"])
def test_tokens_are_told_where_the_answer_tells(spans: Recorded, answer: str, way: str) -> None:
    """By the names of the fields of the SDKs, in objects and dicts."""
    value, expected = USAGES[answer]
    _ask_in(way, value)

    (attempt,) = spans.attempts
    said = attributes(attempt)
    assert expected == (
        said.get("gen_ai.usage.input_tokens"),
        said.get("gen_ai.usage.output_tokens"),
    )


def _ask_in(way: str, value: Any) -> None:
    if way == "sync":
        failover("openai/gpt")(lambda *, target: value)()
    elif way == "async":

        @failover("openai/gpt")
        async def ask(target: Target) -> Any:
            return value

        run_async(ask)
    else:
        for attempt in failover("openai/gpt"):
            with attempt:
                attempt.result = value


def test_tokens_of_a_stream(spans: Recorded) -> None:
    """Anthropic tells those of the request first, and those of the answer at the end."""

    @failover("anthropic/claude")
    def stream(target: Target) -> Iterator[Any]:
        yield {
            "type": "message_start",
            "message": {"role": "assistant", "usage": {"input_tokens": 3, "output_tokens": 1}},
        }
        for _ in range(5):
            yield {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "hi"},
            }
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 9},
        }
        yield {"type": "message_stop"}

    list(stream())

    (attempt,) = spans.attempts
    assert {"gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 9} == attributes(
        attempt, "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
    )


# --- what is current, when ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_spans_of_an_async_function_nest(spans: Recorded, backend: str) -> None:
    """Also after it has waited, and in tasks that it starts."""

    async def child() -> None:
        await anyio.lowlevel.checkpoint()
        within(spans, "task")

    @failover(CHAIN, attempts=1, timeout=30.0)
    async def ask(target: Target) -> str:
        if target.provider == "groq":
            raise ProviderError(503)
        await anyio.lowlevel.checkpoint()
        within(spans, "inside")
        async with anyio.create_task_group() as group:
            group.start_soon(child)
        return "hello"

    async def main() -> None:
        await ask()
        within(spans, "after")

    run_async(main, backend=backend)

    assert "chat gpt" == spans.parent("inside") == spans.parent("task")
    assert spans.parent("after") is None


def test_many_tasks_do_not_mix(spans: Recorded) -> None:
    """Each call's inner span is below an attempt of the same call."""

    @failover(CHAIN)
    async def ask(target: Target, number: int) -> int:
        for _ in range(3):
            await asyncio.sleep(0)
            within(spans, f"inside {number}")
        return number

    async def main() -> None:
        await asyncio.gather(*(ask(number) for number in range(50)))

    asyncio.run(main())

    parents = {span.context.span_id: span for span in spans.spans}
    for number in range(50):
        inner = [span for span in spans.spans if span.name == f"inside {number}"]
        assert 3 == len(inner)
        assert 1 == len({span.parent.span_id for span in inner})
        assert "chat llama" == parents[inner[0].parent.span_id].name
    assert 50 == len({span.context.trace_id for span in spans.attempts})


def test_threads_do_not_mix(spans: Recorded) -> None:
    """Calls in many threads, switched as often as can be, each have a trace of their own."""
    before = sys.getswitchinterval()
    wrong: list[object] = []

    @failover(CHAIN, attempts=1)
    def ask(target: Target, number: int) -> int:
        if number % 3 == 0 and target.provider == "groq":
            raise ProviderError(400)
        within(spans, f"inside {number}")
        return number

    def work(start: int) -> None:
        for number in range(start, start + 40):
            ask(number)
            if current():
                wrong.append(number)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(each * 1000,)) for each in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)

    assert [] == wrong
    assert 240 == len(spans.calls)
    by_id = {span.context.span_id: span for span in spans.spans}
    for span in spans.spans:
        if span.name.startswith("inside"):
            attempt = by_id[span.parent.span_id]
            assert "ok" == attributes(attempt)["outcome"]
            assert span.context.trace_id == attempt.context.trace_id


class _Items:
    """A synchronous stream as SDKs have it: iterated, closed, and entered."""

    def __init__(self, found: Recorded) -> None:
        self._found = found
        self._left = 3

    def __iter__(self) -> _Items:
        return self

    def __next__(self) -> str:
        within(self._found, f"item {self._left}")
        if not self._left:
            raise StopIteration
        self._left -= 1
        return "x"

    def close(self) -> None:
        within(self._found, "close")


class _AsyncItems:
    """The same, asynchronous."""

    def __init__(self, found: Recorded) -> None:
        self._items = _Items(found)

    def __aiter__(self) -> _AsyncItems:
        return self

    async def __anext__(self) -> str:
        await anyio.lowlevel.checkpoint()
        try:
            return next(self._items)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self._items.close()


def _generator(found: Recorded) -> Iterator[str]:
    yield from _Items(found)


async def _agenerator(found: Recorded) -> AsyncIterator[str]:
    async for item in _AsyncItems(found):
        yield item


def _use(found: Recorded, stream: Any) -> None:
    for number, _ in enumerate(stream):
        within(found, f"consumer {number}")


async def _ause(found: Recorded, stream: Any) -> None:
    number = 0
    async for _ in stream:
        within(found, f"consumer {number}")
        number += 1


def _sync_streams(found: Recorded, options: dict[str, Any]) -> dict[str, Callable[[], None]]:
    @failover("openai/gpt", **options)
    def generated(target: Target) -> Iterator[str]:
        yield from _Items(found)

    @failover("openai/gpt", **options)
    def returned(target: Target) -> Any:
        return _Items(found)

    @contextmanager
    def manager() -> Iterator[Any]:
        within(found, "enter")
        yield _Items(found)
        within(found, "leave")

    @failover("openai/gpt", **options)
    def managed(target: Target) -> Any:
        return manager()

    def enter() -> None:
        with managed() as stream:
            _use(found, stream)

    policy = failover("openai/gpt", **options)
    return {
        "generator": lambda: _use(found, generated()),
        "stream": lambda: _use(found, returned()),
        "manager": enter,
        "policy.call": lambda: _use(found, policy.call(lambda *, target: _Items(found))),
    }


def _async_streams(found: Recorded, options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    @failover("openai/gpt", **options)
    async def generated(target: Target) -> AsyncIterator[str]:
        async for item in _AsyncItems(found):
            yield item

    @failover("openai/gpt", **options)
    async def returned(target: Target) -> Any:
        return _AsyncItems(found)

    @failover("openai/gpt", **options)
    def plain(target: Target) -> Any:
        return _AsyncItems(found)

    @asynccontextmanager
    async def manager() -> AsyncIterator[Any]:
        within(found, "enter")
        yield _AsyncItems(found)
        within(found, "leave")

    @failover("openai/gpt", **options)
    def managed(target: Target) -> Any:
        return manager()

    async def await_it() -> None:
        await _ause(found, await returned())

    async def enter() -> None:
        async with managed() as stream:
            await _ause(found, stream)

    return {
        "generator": lambda: _ause(found, generated()),
        "coroutine": await_it,
        "plain": lambda: _ause(found, plain()),
        "manager": enter,
    }


OPTIONS: dict[str, dict[str, Any]] = {
    "bare": {},
    "policy": {"stream": StreamPolicy()},
    "limits": {"stream": StreamPolicy(idle_timeout=5.0, first_item_timeout=5.0, keep_text=100)},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", ["generator", "stream", "manager", "policy.call"])
def test_a_stream_is_current_while_it_is_read(spans: Recorded, form: str, options: str) -> None:
    """During each read, and never in the consumer's code between two reads."""
    _sync_streams(spans, OPTIONS[options])[form]()

    _check_stream(spans, form)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", ["generator", "coroutine", "plain", "manager"])
def test_an_async_stream_is_current_while_it_is_read(
    spans: Recorded, form: str, options: str, backend: str
) -> None:
    """The same for asynchronous streams."""
    run_async(_async_streams(spans, OPTIONS[options])[form], backend=backend)

    _check_stream(spans, form)


def _check_stream(found: Recorded, form: str) -> None:
    for left in range(4):
        assert "chat gpt" == found.parent(f"item {left}")
    for number in range(3):
        assert found.parent(f"consumer {number}") is None
    if form == "manager":
        assert "chat gpt" == found.parent("enter") == found.parent("leave")
    (attempt,), (call,) = found.attempts, found.calls
    assert {"outcome": "ok", "served_by": "openai/gpt", "attempts": 1} == attributes(
        call, "outcome", "served_by", "attempts"
    )
    assert "ok" == attributes(attempt)["outcome"]
    assert 0 <= attributes(attempt)["gen_ai.response.time_to_first_chunk"] < 30
    assert 0 == current()


def test_a_stream_that_another_target_goes_on_with(spans: Recorded) -> None:
    """Each target's items are read inside its own span."""

    @failover(CHAIN, attempts=1, stream=StreamPolicy(on_interrupt="restart"))
    def stream(target: Target) -> Iterator[str]:
        within(spans, f"{target.model} began")
        yield "x"
        yield "x"
        if target.provider == "groq":
            raise ProviderError(503)
        within(spans, f"{target.model} ended")

    for _ in stream():
        pass

    assert "chat llama" == spans.parent("llama began")
    assert "chat gpt" == spans.parent("gpt began") == spans.parent("gpt ended")
    assert ["transient", "ok"] == [attributes(each)["outcome"] for each in spans.attempts]
    assert all("gen_ai.response.time_to_first_chunk" in each.attributes for each in spans.attempts)


def test_a_stream_that_breaks_after_content(spans: Recorded) -> None:
    """Its attempt and its call have failed."""

    @failover(CHAIN)
    def stream(target: Target) -> Iterator[str]:
        yield "x"
        raise ProviderError(503)

    with pytest.raises(Exception, match="broke after 1 items"):
        list(stream())

    assert [StatusCode.ERROR] * 2 == [span.status.status_code for span in spans.spans]
    assert "failed" == attributes(spans.calls[0])["outcome"]


@pytest.mark.parametrize("close", ["break", "close", "collect"])
def test_a_stream_that_is_left_early(spans: Recorded, close: str) -> None:
    """After its first content the target has answered, however the consumer leaves."""

    @failover("openai/gpt")
    def stream(target: Target) -> Iterator[str]:
        yield "x"
        yield "y"

    items = stream()
    next(items)
    if close == "close":
        items.close()
    del items
    gc.collect()

    assert ["ok", "ok"] == [attributes(span)["outcome"] for span in spans.spans]


# --- closed elsewhere -----------------------------------------------------------------------------


def test_a_stream_closed_in_another_task_logs_nothing(
    spans: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry's own managers log "Failed to detach context" there."""

    @failover("openai/gpt")
    async def stream(target: Target) -> AsyncIterator[str]:
        async for item in _AsyncItems(spans):
            yield item

    async def main() -> None:
        items = stream()
        await anext(items)
        assert 0 == current()
        await asyncio.create_task(items.aclose())
        assert 0 == current()

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())

    assert [] == [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert ["ok", "ok"] == [attributes(span)["outcome"] for span in [*spans.attempts, *spans.calls]]


@pytest.mark.filterwarnings("ignore:an asynchronous stream was dropped")
def test_a_stream_collected_while_it_waits_logs_nothing(
    spans: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    """A read that is thrown away in the midst of its wait is left in another context."""

    @failover("openai/gpt")
    async def stream(target: Target) -> AsyncIterator[str]:
        yield "x"
        await asyncio.Event().wait()

    async def main() -> None:
        items = stream()
        await anext(items)
        read = anext(items)

        contextvars.Context().run(read.send, None)  # it is inside the wait now
        contextvars.Context().run(read.close)
        del read, items
        gc.collect()
        await asyncio.sleep(0)
        assert 0 == current()

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
        gc.collect()

    assert [] == [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert 1 == len(spans.calls)


def test_a_call_left_in_another_context_leaves_that_alone(
    spans: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    """A coroutine that is begun in one context and closed in another."""

    @failover("openai/gpt")
    async def ask(target: Target) -> str:
        await asyncio.sleep(0)  # suspends without a loop
        return "never"

    call = ask()
    contextvars.Context().run(call.send, None)
    with caplog.at_level(logging.DEBUG):
        call.close()

    assert 0 == current()
    assert [] == [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert ["cancelled"] * 2 == [attributes(span)["outcome"] for span in spans.spans]


# --- the loop form --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_the_block_of_a_loop_is_inside_its_attempt(spans: Recorded, is_async: bool) -> None:
    """From `with attempt` to its end, and not between two attempts."""
    policy = failover(CHAIN, attempts=1)

    def block(target: Target) -> None:
        within(spans, f"inside {target.model}")
        if target.provider == "groq":
            raise ProviderError(503)

    def loop() -> None:
        for attempt in policy:
            within(spans, f"before {attempt.target.model}")
            with attempt as target:
                block(target)
            within(spans, f"after {target.model}")

    async def aloop() -> None:
        async for attempt in policy:
            within(spans, f"before {attempt.target.model}")
            async with attempt as target:
                await asyncio.sleep(0)
                block(target)
            within(spans, f"after {target.model}")

    asyncio.run(aloop()) if is_async else loop()

    for model in ("llama", "gpt"):
        assert f"chat {model}" == spans.parent(f"inside {model}")
        assert spans.parent(f"before {model}") is None
        assert spans.parent(f"after {model}") is None
    assert "failover (loop)" == spans.parent("chat llama") == spans.parent("chat gpt")
    assert {"outcome": "ok", "attempts": 2} == attributes(spans.calls[0], "outcome", "attempts")


def test_a_loop_that_is_left_between_two_attempts(spans: Recorded) -> None:
    """Its call was cancelled, and its span ends with it."""

    def leave_early() -> None:
        for attempt in failover(CHAIN, attempts=1):
            with attempt:
                raise ProviderError(503)
            break

    leave_early()
    gc.collect()

    assert ["transient", "cancelled"] == [attributes(span)["outcome"] for span in spans.spans]


# --- cancellations --------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_call_has_no_error(spans: Recorded, backend: str) -> None:
    """Both spans say so, and leave the status unset."""

    @failover(CHAIN)
    async def ask(target: Target) -> str:
        await anyio.sleep_forever()
        return "never"

    async def main() -> None:
        with anyio.move_on_after(0):
            await ask()

    run_async(main, backend=backend)

    assert ["cancelled"] * 2 == [attributes(span)["outcome"] for span in spans.spans]
    assert [StatusCode.UNSET] * 2 == [span.status.status_code for span in spans.spans]
    assert "cancelled" == attributes(spans.attempts[0])["reason"]
    assert "served_by" not in attributes(spans.calls[0])


def test_an_attempt_cancelled_after_long_is_hung(spans: Recorded, clock: FakeClock) -> None:
    """As its event says."""

    @failover("openai/gpt")
    async def ask(target: Target) -> str:
        clock.advance(11)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ask())

    assert {"outcome": "cancelled", "reason": "hung"} == attributes(
        spans.attempts[0], "outcome", "reason"
    )


def test_an_interrupt_ends_both_spans(spans: Recorded) -> None:
    """KeyboardInterrupt is no failure."""

    @failover(CHAIN)
    def ask(target: Target) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask()

    assert ["cancelled"] * 2 == [attributes(span)["outcome"] for span in spans.spans]
    assert 0 == current()


# --- spans="call", spans="off", sampling, baggage -------------------------------------------------


def test_only_the_call_has_a_span(spans: Recorded) -> None:
    """With `spans="call"` what an instrumented SDK records is a child of the call."""
    with recorded(spans="call", metrics=False) as found, isolated_spans(spans):

        @failover(CHAIN, attempts=1)
        def ask(target: Target) -> str:
            within(found, f"inside {target.model}")
            if target.provider == "groq":
                raise ProviderError(503)
            return "hello"

        ask()
        list(failover("openai/gpt")(_streams)(found))

    assert [] == found.attempts
    assert found.calls[0].name == found.parent("inside llama") == found.parent("inside gpt")
    assert found.calls[1].name == found.parent("read")
    assert {"outcome": "ok", "attempts": 2, "served_by": "openai/gpt"} == attributes(
        found.calls[0], "outcome", "attempts", "served_by"
    )


@contextmanager
def isolated_spans(outer: Recorded) -> Iterator[None]:
    """Leave what another exporter has recorded out of account."""
    yield
    outer.exporter.clear()


def _streams(target: Target, found: Recorded) -> Iterator[str]:
    within(found, "read")
    yield "x"


def test_two_exporters_at_once(spans: Recorded) -> None:
    """Each has its own spans, and the inner one is what the function sees."""
    with recorded() as second:

        @failover(CHAIN, attempts=1)
        def ask(target: Target) -> str:
            if target.provider == "groq":
                raise ProviderError(503)
            return "hello"

        ask()
        list(failover("openai/gpt")(_items)())

    assert 3 == len(spans.attempts) == len(second.attempts)
    assert ["ok", "ok"] == [attributes(span)["outcome"] for span in second.calls]
    assert 0 == current()


def test_no_spans_but_metrics() -> None:
    """`spans="off"` counts only."""
    with recorded(spans="off") as found:
        failover(CHAIN)(_answers)()

        assert [] == found.spans
        assert {("ok", "groq/llama"): 1} == found.counts("resilient_llm.attempts")


def test_no_metrics_but_spans() -> None:
    """`metrics=False` makes no instrument."""
    with recorded(metrics=False) as found:
        failover(CHAIN)(_answers)()

        assert 2 == len(found.spans)
        assert {} == found.counts("resilient_llm.calls")


def test_baggage_stays(spans: Recorded) -> None:
    """What the caller put into the context is there inside, and what a reader of a stream put too."""
    seen: list[object] = []

    @failover("openai/gpt")
    def ask(target: Target) -> str:
        seen.append(baggage.get_baggage("tenant"))
        return "hello"

    @failover("openai/gpt")
    def stream(target: Target) -> Iterator[str]:
        for _ in range(2):
            seen.append(baggage.get_baggage("tenant"))
            yield "x"

    items = stream()
    for tenant in ("a", "b"):
        token = context.attach(baggage.set_baggage("tenant", tenant))
        try:
            ask()
            next(items)
        finally:
            context.detach(token)

    assert ["a", "a", "b", "b"] == seen


# --- what a stream's body makes current itself ----------------------------------------------------


@contextmanager
def _tenant(value: str) -> Iterator[None]:
    token = context.attach(baggage.set_baggage("tenant", value))
    try:
        yield
    finally:
        context.detach(token)


def _inner_spans(found: Recorded) -> list[str | None]:
    """Return the names of the parents of what was recorded as `inner`, in order."""
    names = {span.context.span_id: span.name for span in found.spans}
    return [names.get(span.parent.span_id) for span in found.spans if span.name == "inner"]


class _OwnContext:
    """A body that attaches baggage and a span around its items, and what was seen where."""

    def __init__(self, found: Recorded) -> None:
        self.found = found
        self.inside: list[object] = []
        self.outside: list[object] = []

    def look(self) -> None:
        self.inside.append(baggage.get_baggage("tenant"))
        within(self.found, "inner")

    def look_outside(self) -> None:
        self.outside.append((baggage.get_baggage("tenant"), current()))

    def items(self) -> Iterator[str]:
        self.look()
        with _tenant("7"), self.found.tracer.start_as_current_span("body"):
            for _ in range(3):
                self.look()
                yield "x"
            self.look()
        self.look()
        yield "y"
        self.look()

    async def aitems(self) -> AsyncIterator[str]:
        for item in self.items():
            await anyio.lowlevel.checkpoint()
            yield item

    def check(self) -> None:
        assert [None, *["7"] * 4, None, None] == self.inside
        assert {(None, 0)} == set(self.outside)
        first, *mid, late, last = _inner_spans(self.found)
        assert ["body"] * 4 == mid
        assert first == late == last
        assert str(first).startswith(("chat ", "failover "))


class _SdkStream:
    """Reads from a generator, as the streams of SDKs do, which instrumentations wrap."""

    def __init__(self, items: Iterator[str]) -> None:
        self._iterator = items

    def __iter__(self) -> Iterator[str]:
        yield from self._iterator

    def __next__(self) -> str:
        return next(self._iterator)

    def close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


TRACED = [{}, {"spans": "call"}]


@pytest.mark.parametrize("traced", TRACED)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", ["generator", "stream", "two"])
def test_what_a_stream_makes_current_holds_in_all_its_reads(
    form: str, options: str, traced: dict[str, Any]
) -> None:
    """And never for its consumer; when the body has ended it, nothing of it is left."""
    with recorded(**traced) as found, ExitStack() as stack:
        if form == "two":
            stack.enter_context(recorded(**traced))
        own = _OwnContext(found)

        @failover("openai/gpt", **OPTIONS[options])
        def generate(target: Target) -> Iterator[str]:
            yield from own.items()

        @failover("openai/gpt", **OPTIONS[options])
        def answer(target: Target) -> Any:
            return _SdkStream(own.items())

        for _ in answer() if form == "stream" else generate():
            own.look_outside()
        own.look_outside()

        if form == "two":
            assert [None, *["7"] * 4, None, None] == own.inside
            assert {(None, 0)} == set(own.outside)
        else:
            own.check()


@pytest.mark.parametrize("traced", TRACED)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("options", OPTIONS)
def test_what_an_async_stream_makes_current_holds_in_all_its_reads(
    backend: str, options: str, traced: dict[str, Any]
) -> None:
    """As a synchronous one."""
    with recorded(**traced) as found:
        own = _OwnContext(found)

        @failover("openai/gpt", **OPTIONS[options])
        async def generate(target: Target) -> AsyncIterator[str]:
            async for item in own.aitems():
                yield item

        async def main() -> None:
            async for _ in generate():
                own.look_outside()
            own.look_outside()

        anyio.run(main, backend=backend)
        own.check()


def test_what_a_reader_attaches_later_counts_again_after_the_body_has_detached(
    spans: Recorded,
) -> None:
    """What the body attached is put aside at its end, however the reader has changed since."""
    seen: list[object] = []

    @failover("openai/gpt")
    def generate(target: Target) -> Iterator[str]:
        with _tenant("body"):
            yield "x"
            seen.append(baggage.get_baggage("tenant"))
            yield "x"
        yield "x"
        seen.append(baggage.get_baggage("tenant"))
        yield "x"

    items = generate()
    for tenant in "abcd":
        with _tenant(tenant):
            next(items)

    assert ["body", "d"] == seen


@pytest.mark.parametrize("close", ["break", "close", "collect"])
def test_what_a_stream_makes_current_holds_while_it_is_closed(
    spans: Recorded, close: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its `finally` sees what it has attached, and ends that without a line of OpenTelemetry's."""
    seen: list[object] = []

    @failover("openai/gpt")
    def generate(target: Target) -> Iterator[str]:
        with _tenant("body"):
            try:
                yield "x"
                yield "x"
            finally:
                seen.append(baggage.get_baggage("tenant"))

    items = generate()
    if close == "break":
        for _ in items:
            break
    else:
        next(items)
    if close == "close":
        items.close()
    del items
    gc.collect()

    assert ["body"] == seen
    assert baggage.get_baggage("tenant") is None
    assert [] == [each for each in caplog.records if "detach" in each.getMessage()]


def test_a_read_that_ends_in_another_context_keeps_nothing_of_it(
    spans: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream closed by another task, whose context is not taken for that of the body."""
    seen: list[object] = []

    @failover("openai/gpt")
    async def generate(target: Target) -> AsyncIterator[str]:
        try:
            yield "x"
            await asyncio.Event().wait()
        finally:
            seen.append((baggage.get_baggage("tenant"), current()))

    async def main() -> None:
        items = generate()
        await anext(items)
        reading = asyncio.create_task(anext(items))
        await asyncio.sleep(0)
        with _tenant("closer"):
            await asyncio.create_task(items.aclose())
            assert "closer" == baggage.get_baggage("tenant")
        await asyncio.wait([reading])

    asyncio.run(main())

    ((tenant, span_id),) = seen
    assert tenant in (None, "closer")
    assert spans.attempts[0].context.span_id == span_id
    assert [] == [each for each in caplog.records if "detach" in each.getMessage()]


# --- the body of a stream that is left early ------------------------------------------------------


def _check_ends(found: Recorded, *names: str) -> None:
    """See that no span was begun below one that had ended."""
    ids = {span.context.span_id: span for span in found.spans}
    for name in names:
        span = found.span(name)
        while span.parent is not None:
            parent = ids[span.parent.span_id]
            assert parent.start_time <= span.start_time
            assert span.end_time <= parent.end_time, (name, parent.name)
            span = parent


def _leave(items: Any, how: str) -> None:
    if how == "break":
        for _ in items:
            break
    else:
        next(items)
    if how == "close":
        items.close()


LEAVING = ["break", "close", "collect"]


@pytest.mark.parametrize("traced", TRACED)
@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", ["generator", "stream"])
def test_the_spans_end_after_the_body_of_a_stream_that_is_left(
    form: str, options: str, how: str, traced: dict[str, Any]
) -> None:
    """What its `finally` records is below spans that are open; figures are settled before."""
    with recorded(**traced) as found:
        counted: list[Any] = []

        def body() -> Iterator[str]:
            try:
                yield "x"
                yield "y"
            finally:
                counted.append(found.counts("resilient_llm.attempts"))
                within(found, "closing")

        @failover("openai/gpt", **OPTIONS[options])
        def generate(target: Target) -> Iterator[str]:
            yield from body()

        @failover("openai/gpt", **OPTIONS[options])
        def answer(target: Target) -> Any:
            return _SdkStream(body())

        _leave(iter(answer() if form == "stream" else generate()), how)
        gc.collect()

        _check_ends(found, "closing")
        assert [{("ok", "openai/gpt"): 1}] == counted
        assert ["ok"] == [attributes(span)["outcome"] for span in found.calls]
        assert (0 if traced else 1) == len(found.attempts)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_spans_end_after_the_body_of_an_async_stream_that_is_left(
    spans: Recorded, options: str, backend: str
) -> None:
    """Also if closing it takes a while."""

    @failover("openai/gpt", **OPTIONS[options])
    async def generate(target: Target) -> AsyncIterator[str]:
        try:
            yield "x"
            yield "y"
        finally:
            with spans.tracer.start_as_current_span("closing"):
                await anyio.lowlevel.checkpoint()

    async def main() -> None:
        items = generate()
        await anext(items)
        await items.aclose()

    anyio.run(main, backend=backend)

    _check_ends(spans, "closing")
    assert 1 == len(spans.calls) == len(spans.attempts)


def test_the_spans_do_not_wait_for_the_consumer_to_leave_the_manager(spans: Recorded) -> None:
    """They end with the stream: what the consumer does before it leaves is not of the call."""
    seen: list[int] = []

    @contextmanager
    def manage() -> Iterator[Any]:
        yield _SdkStream(iter_twice())

    def iter_twice() -> Iterator[str]:
        try:
            yield "x"
            yield "y"
        finally:
            within(spans, "closing")

    @failover("openai/gpt")
    def answer(target: Target) -> Any:
        return manage()

    for is_early in (True, False):
        with answer() as items:
            for _ in items:
                if is_early:
                    break
            gc.collect()
            seen.append(len(spans.calls))
        if is_early:
            _check_ends(spans, "closing")

    assert 2 == len(spans.calls) == len(spans.attempts)
    assert [0, 2] == seen  # a stream that its consumer may still go on with has not ended


def test_leaving_a_manager_early_is_inside_the_spans(spans: Recorded) -> None:
    """Where leaving it is what ends the stream."""

    class Managed:
        def __enter__(self) -> Any:
            return _SdkStream(iter("xyz"))

        def __exit__(self, *error: object) -> None:
            within(spans, "leaving")

    @failover("openai/gpt")
    def answer(target: Target) -> Any:
        return Managed()

    with answer() as items:
        next(items)

    assert "chat gpt" == spans.parent("leaving")
    _check_ends(spans, "leaving")


def test_a_stream_that_breaks_and_is_gone_on_with_ends_each_span_once(
    spans: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempt that failed ended when it failed, and its stream is closed after that."""

    @failover(CHAIN, stream=StreamPolicy(on_interrupt="restart"), attempts=1)
    def generate(target: Target) -> Iterator[str]:
        yield "x"
        if target.provider == "groq":
            raise ProviderError(503)

    list(generate())

    assert 2 == len(spans.attempts)
    assert 1 == len(spans.calls)
    assert [] == [each for each in caplog.records if "ended span" in each.getMessage()]


class _Asked(Sampler):
    """Notes what it is asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *rest: Any, **more: Any):
        given = more.get("attributes") or (rest[1] if len(rest) > 1 else None)
        self.asked.append((name, dict(given or {})))
        return ALWAYS_OFF.should_sample(parent_context, trace_id, name)

    def get_description(self) -> str:
        return "asked"


def test_samplers_are_asked_and_obeyed() -> None:
    """With the attributes that are known at the start; nothing is recorded that is not sampled."""
    sampler = _Asked()
    found = Recorded(sampler=sampler)
    uninstall = otel.install(found.tracers, metrics=False)
    failover(CHAIN)(_answers)()
    uninstall()

    assert [] == found.spans
    assert ["failover", "chat"] == [name.split()[0] for name, _ in sampler.asked]
    assert "llama" == sampler.asked[1][1]["gen_ai.request.model"]


def test_an_unsampled_parent_is_obeyed() -> None:
    """The caller's decision holds for what is below it, and the ids are passed on inside."""
    found = Recorded(sampler=ParentBased(ALWAYS_OFF))
    uninstall = otel.install(found.tracers, metrics=False)
    seen: list[Any] = []
    with found.tracer.start_as_current_span("request") as request:
        failover(CHAIN)(lambda *, target: seen.append(trace.get_current_span()))()
    uninstall()

    assert request.get_span_context().trace_id == seen[0].get_span_context().trace_id
    assert not seen[0].get_span_context().trace_flags.sampled


def test_without_an_sdk_nothing_happens() -> None:
    """The API alone records nothing, and calls are as they were."""
    with isolated():
        uninstall = otel.install()
        assert "hello" == failover(CHAIN)(_answers)()
        assert ["x"] == list(failover(CHAIN)(_items)())
        uninstall()


def _items(target: Target) -> Iterator[str]:
    yield "x"


def test_a_provider_that_is_set_later_is_used() -> None:
    """Applications install in any order."""
    script = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from resilient_llm import Target, failover
from resilient_llm.observers import otel

otel.install()
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

@failover("openai/gpt")
def ask(target: Target) -> str:
    return "hello"

ask()
print([span.name for span in exporter.get_finished_spans()])
"""
    assert "['chat gpt', 'failover __main__.ask']\n" == _run(script)


def _run(script: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert 0 == ran.returncode, ran.stderr
    return ran.stdout


# --- installing -----------------------------------------------------------------------------------


def test_a_call_that_runs_is_not_recorded() -> None:
    """Only calls that start after the install, also of functions decorated before; to their end."""
    found = Recorded()
    uninstall: Any = None

    @failover(CHAIN, attempts=1)
    def ask(target: Target, then: Callable[[], Any]) -> str:
        if target.provider == "groq":
            then()
            raise ProviderError(400)
        return "hello"

    def begin() -> None:
        nonlocal uninstall
        uninstall = otel.install(found.tracers, found.meters)

    ask(lambda: None)
    ask(begin)
    assert [] == found.spans

    ask(lambda: uninstall())
    assert 2 == len(found.attempts)
    assert 1 == len(found.calls)
    ask(lambda: None)
    assert 3 == len(found.spans)
    uninstall()


@pytest.mark.parametrize("form", ["generator", "stream"])
def test_a_stream_that_is_read_is_not_recorded(form: str) -> None:
    """A stream begun before the install stays unseen; one begun before the end is seen to its own."""
    found = Recorded()
    make = {"generator": _items_of_three, "stream": lambda target: _items_of_three(target)}[form]
    stream = failover("openai/gpt")(make) if form == "generator" else _returning(make)

    before = stream()
    next(before)
    uninstall = otel.install(found.tracers)
    list(before)
    assert [] == found.spans

    during = stream()
    next(during)
    uninstall()
    list(during)
    assert ["ok", "ok"] == [attributes(span)["outcome"] for span in found.spans]


def _items_of_three(target: Target) -> Iterator[str]:
    yield from "abc"


def _returning(make: Callable[[Target], Any]) -> Any:
    @failover("openai/gpt")
    def stream(target: Target) -> Any:
        return make(target)

    return stream


def test_an_exporter_belongs_to_its_state() -> None:
    """One installed inside `isolated()` sees only that, and ends with it."""
    inner, outer = Recorded(), Recorded()
    ask = failover(CHAIN)(_answers)
    uninstall = otel.install(outer.tracers, metrics=False)
    with isolated():
        otel.install(inner.tracers, metrics=False)
        ask()
    ask()
    uninstall()

    assert 2 == len(inner.spans)
    assert 2 == len(outer.spans)


def _install(found: Recorded, tracers: str, meters: str, **options: Any) -> Any:
    return otel.install(
        {"same": found.tracers, "other": TracerProvider(), "global": None}[tracers],
        {"same": found.meters, "other": MeterProvider(), "global": None}[meters],
        **options,
    )


@pytest.mark.parametrize(
    ("tracers", "meters", "options", "said"),
    [
        ("same", "same", {}, "has two spans and is counted twice"),
        ("same", "other", {}, "has two spans"),
        ("same", "same", {"spans": "call"}, "has two spans and is counted twice"),
        ("same", "same", {"metrics": False}, "has two spans"),
        ("other", "same", {}, "is counted twice"),
        ("same", "same", {"spans": "off"}, "is counted twice"),
        ("other", "other", {}, None),
        ("global", "global", {}, None),
        ("same", "other", {"spans": "off"}, None),
    ],
)
def test_installing_twice_on_the_same_provider_warns(
    spans: Recorded,
    tracers: str,
    meters: str,
    options: dict[str, Any],
    said: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once for each install, and not because of one that is uninstalled."""
    for _ in range(2):
        caplog.clear()
        _install(spans, tracers, meters, **options)()
        lines = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
        assert (said is not None) == len(lines)
        assert all(f"so each call {said}: uninstall one" in line for line in lines)


def test_the_global_provider_is_the_same_twice(caplog: pytest.LogCaptureFixture) -> None:
    """Also if it is named once and left out once."""
    first = otel.install(metrics=False)
    second = otel.install(trace.get_tracer_provider(), metrics=False)
    first()
    second()

    (line,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert "has two spans" in line


def test_installing_anew_in_a_state_of_its_own_does_not_warn(
    spans: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    """The exporters of the state outside record nothing there."""
    with isolated():
        otel.install(spans.tracers, spans.meters)()
    first = otel.install(TracerProvider(), metrics=False)
    first()

    assert [] == [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_uninstalling_twice_does_nothing(spans: Recorded) -> None:
    """Also if it was installed anew meanwhile."""
    found = Recorded()
    uninstall = otel.install(found.tracers)
    uninstall()
    again = otel.install(found.tracers)
    uninstall()
    failover(CHAIN)(_answers)()
    again()

    assert 2 == len(found.spans)
    assert 0 == uninstall.dropped
    assert uninstall.flush() is True


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spans": "attempt"}, "attempts"),
        ({"spans": True}, "attempts"),
        ({"metrics": "yes"}, "metrics="),
        ({"tracer_provider": object()}, "tracer_provider=object is not allowed"),
        ({"meter_provider": TracerProvider()}, "get_meter"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], said: str) -> None:
    """Where it is written, saying what is allowed."""
    with pytest.raises(ConfigurationError, match=said):
        otel.install(**options)


def test_without_the_api_the_error_names_the_extra() -> None:
    """The module itself can be imported without it."""
    script = """
import sys
sys.modules["opentelemetry"] = None
from resilient_llm.observers import otel
try:
    otel.install()
except ImportError as error:
    print(error)
"""
    assert 'pip install "resilient-llm[otel]"' in _run(script)


def test_importing_it_loads_no_opentelemetry() -> None:
    """Neither the library nor the module does, until it is installed."""
    script = """
import sys
import resilient_llm
from resilient_llm.observers import otel
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    assert "[]\n" == _run(script)


# --- what fails inside ----------------------------------------------------------------------------


class _Broken(SpanProcessor):
    """A span processor of the user that raises."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("secret of the processor")

    def on_end(self, span: Any) -> None:
        raise RuntimeError("secret of the processor")


@pytest.mark.parametrize("way", ["sync", "async", "loop", "stream"])
def test_what_opentelemetry_raises_harms_no_call(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, without its text, and counted."""
    found = Recorded(_Broken())
    uninstall = otel.install(found.tracers, found.meters)
    for _ in range(3):
        if way == "stream":
            assert ["x"] == list(failover(CHAIN)(_items)())
        else:
            _ask_in(way, "hello")

    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 == len(lines)
    assert "RuntimeError" in lines[0]
    assert "secret" not in lines[0]
    assert uninstall.dropped >= 3
    uninstall()
    assert 3 == found.counts("resilient_llm.calls").total()


def test_a_provider_whose_instruments_raise(caplog: pytest.LogCaptureFixture) -> None:
    """The same for metrics."""

    class Meter:
        def create_counter(self, *args: Any, **options: Any) -> Any:
            return self

        create_histogram = create_counter

        def add(self, *args: Any) -> None:
            raise OSError("no")

        record = add

    class Provider:
        def get_meter(self, *args: Any, **options: Any) -> Any:
            return Meter()

    uninstall = otel.install(meter_provider=Provider(), spans="off")
    assert "hello" == failover(CHAIN)(_answers)()
    uninstall()

    assert uninstall.dropped >= 1


# --- metrics --------------------------------------------------------------------------------------


def test_the_metrics_of_a_failover(spans: Recorded, clock: FakeClock) -> None:
    """With the labels of the Prometheus exporter as attributes."""
    answers = iter([ProviderError(503), ProviderError(401), "hello", "hello"])

    @failover(CHAIN, attempts=2, backoff=lambda n: 1.0)
    def ask(target: Target) -> Any:
        clock.advance(2.0)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    ask()
    ask()

    name = f"{ask.__module__}.{ask.__qualname__}"
    assert {(name, "ok"): 2} == spans.counts("resilient_llm.calls")
    assert {
        ("transient", "groq/llama"): 1,
        ("auth_dead", "groq/llama"): 1,
        ("ok", "openai/gpt"): 2,
    } == spans.counts("resilient_llm.attempts")
    assert {("openai/gpt",): 2} == spans.counts("resilient_llm.attempt.duration")
    assert {("backoff", "groq/llama"): 1} == spans.counts("resilient_llm.retries")
    ((moved, count),) = spans.counts("resilient_llm.failovers").items()
    assert (("groq/llama", "invalid_credentials", "openai/gpt"), 1) == (moved, count)
    ((skipped, count),) = spans.counts("resilient_llm.skips").items()
    assert ("groq/llama", 1) == (skipped[1], count)


@pytest.mark.parametrize("action", ["warn", "raise"])
def test_a_tool_loop(spans: Recorded, action: Any) -> None:
    """The span of its call has it, and a counter; a call that the guard ended has failed."""
    conversation = [{"type": "function_call", "name": "search", "arguments": "{}"}] * 4

    @failover([GROQ], tool_loop=action)
    def ask(target: Target, messages: Any) -> str:
        return "yes"

    ask([])
    with suppress(ToolLoopError):
        ask(conversation)

    name = f"{ask.__module__}.{ask.__qualname__}"
    healthy, looping = spans.calls
    found = dict(looping.attributes or {})
    assert ("search", 4) == (
        found["resilient_llm.tool_loop.tool"],
        found["resilient_llm.tool_loop.repeats"],
    )
    assert "resilient_llm.tool_loop.tool" not in (healthy.attributes or {})
    assert ("ok" if action == "warn" else "failed") == found["resilient_llm.outcome"]
    assert {(action, name): 1} == spans.counts("resilient_llm.tool_loops")


def test_the_metrics_of_hedges_and_moves(spans: Recorded) -> None:
    """By the target that was called and the slow one; by the target that moved."""
    (recorder,) = runtime.dispatcher.hooks
    call = recorder("id", "app.ask", [Target("groq/llama"), Target("openai/gpt")])
    for _ in range(2):
        call.note(
            event_names.HedgeStarted,
            "openai/gpt",
            {"number": 1, "delay": 0.5, "beside": "groq/llama"},
        )
    call.over()
    with fake_clock() as clock:
        move_the_first(clock)

    assert {("groq/llama", "openai/gpt"): 2} == spans.counts("resilient_llm.hedges")
    assert {(GROQ,): 1} == spans.counts("resilient_llm.order_changes")


def test_texts_never_become_attributes_of_metrics(spans: Recorded) -> None:
    """What an operator, a rule or `reject` writes is `other` there."""

    @failover(CHAIN, attempts=1, reject=lambda answer: "my_secret" if answer == "groq" else None)
    def ask(target: Target) -> str:
        return target.provider

    ask()
    bench_model("groq/llama", reason="call Alice at home")
    ask()

    assert {("groq/llama", "other", "openai/gpt"): 1} == spans.counts("resilient_llm.failovers")
    ((labels, _),) = spans.counts("resilient_llm.skips").items()
    assert "Alice" not in str(labels)
    assert "my_secret" == attributes(spans.attempts[0])["reason"]


def test_the_duration_is_in_seconds() -> None:
    """Of attempts that succeeded, in buckets for answers of language models."""
    found = Recorded()
    uninstall = otel.install(found.tracers, found.meters, spans="off")
    failover(CHAIN)(_answers)()
    uninstall()

    data = found.reader.get_metrics_data()
    metrics = {
        each.name: each
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for each in scope.metrics
    }
    duration = metrics["resilient_llm.attempt.duration"]
    assert "s" == duration.unit
    (point,) = duration.data.data_points
    assert (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300) == tuple(point.explicit_bounds)


def test_a_user_rule_with_a_verdict_of_its_own(spans: Recorded) -> None:
    """Its status, reason and wait are what the span has."""
    verdict = Verdict(ErrorKind.TRANSIENT, "odd_gateway", retry_after=3.0, status=599)

    @failover(CHAIN, attempts=1, classify=lambda error: verdict)
    def ask(target: Target) -> str:
        if target.provider == "groq":
            raise OSError
        return "hello"

    ask()

    assert {
        "error.type": "599",
        "reason": "odd_gateway",
        "retry_after": 3.0,
    } == attributes(spans.attempts[0], "error.type", "reason", "retry_after")


def test_logs_of_a_call_have_its_span(spans: Recorded) -> None:
    """Observers and log handlers run inside the span of the call, so lines are found by trace."""
    seen: list[int] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(current())

    configure(logging=True)
    handler = Handler()
    logger = logging.getLogger("resilient_llm")
    logger.addHandler(handler)
    try:

        @failover(CHAIN, attempts=1)
        def ask(target: Target) -> str:
            if target.provider == "groq":
                raise ProviderError(401)
            return "hello"

        ask()
    finally:
        logger.removeHandler(handler)

    assert {spans.calls[0].context.span_id} == set(seen)
