"""What type checkers make of the public surface. Checked by pyright and mypy, never run.

`errors.py` beside this file holds what must be refused.
"""

# pyright: strict

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, assert_type

import resilient_llm as r
from resilient_llm import (
    Attempt,
    AttemptFailed,
    AttemptRecord,
    BenchedModel,
    BreakerOpenError,
    Budget,
    CanCall,
    Chain,
    ChainExhaustedError,
    ErrorKind,
    Event,
    Failover,
    Limit,
    NoCapableTargetError,
    Price,
    RateLimitState,
    SpendReport,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    TargetBenched,
    TargetHealth,
    ToolLoop,
    ToolLoopDetected,
    ToolLoopError,
    Trace,
    Usage,
    Verdict,
    bench_model,
    breaker,
    call_id,
    can_call,
    chains,
    classify,
    configure,
    events,
    failover,
    health,
    is_benched,
    limits,
    list_benched,
    needs,
    observe,
    probes,
    rate_limits,
    reset,
    reset_spend,
    settings,
    spend,
    spend_key,
    spend_total,
    unbench_model,
)
from resilient_llm.testing import capture_events

CHAIN = ["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"]
CLIENT: list[int] = []


# The target comes first and leaves the signature.


@failover(chain=CHAIN)
def ask(target: Target, prompt: str, *, temperature: float = 0.0) -> str:
    return f"{target.model}{prompt}{temperature}"


@failover(chain=CHAIN, timeout=30.0, attempts=2)
async def aask(target: Target, prompt: str, limit: int = 3) -> list[str]:
    return [target.key, prompt] * limit


@failover("groq/llama")
def nothing_else(target: Target) -> int:
    return len(target.model)


@failover("groq/llama")
def plain_awaitable(target: Target, prompt: str) -> Awaitable[str]:
    return aecho(prompt)


@failover("groq/llama", attempt_timeout=3.0)
def told(target: Target, prompt: str, attempt: Attempt | None = None) -> float | None:
    return None if attempt is None else attempt.remaining


async def aecho(prompt: str) -> str:
    return prompt


assert_type(ask("why"), str)
assert_type(ask("why", temperature=1.0), str)
assert_type(ask(prompt="why"), str)
assert_type(nothing_else(), int)
assert_type(told("why"), float | None)


async def check_async() -> None:
    assert_type(await aask("why"), list[str])
    assert_type(await aask("why", limit=1), list[str])
    assert_type(await plain_awaitable("why"), str)


# What takes a callable takes a decorated function.
takes_callable: Callable[[str], str] = ask


# Methods.


class Client:
    @failover(chain=CHAIN)
    def ask(self, target: Target, prompt: str) -> str:
        return f"{target.model}{prompt}"

    @failover(chain=CHAIN)
    async def aask(self, target: Target, prompt: str) -> str:
        return f"{target.model}{prompt}"

    @classmethod
    @failover(chain=CHAIN)
    def of_class(cls, target: Target, prompt: str) -> str:
        return f"{cls.__name__}{target.model}{prompt}"

    @staticmethod
    @failover(chain=CHAIN)
    def static(target: Target, prompt: str) -> str:
        return f"{target.model}{prompt}"

    @failover(chain=CHAIN)
    def by_name(self, prompt: str, *, model: str = "") -> str:
        return f"{model}{prompt}"

    @breaker("groq")
    def guarded(self, prompt: str) -> int:
        return len(prompt)


client = Client()
assert_type(client.ask("why"), str)
assert_type(Client.ask(client, "why"), str)
assert_type(Client.of_class("why"), str)
assert_type(client.of_class("why"), str)
assert_type(Client.static("why"), str)
assert_type(client.static("why"), str)
assert_type(client.by_name("why"), str)
assert_type(client.guarded("why"), int)


async def check_async_method() -> None:
    assert_type(await client.aask("why"), str)


# Injected by name: the signature stays.


@failover(chain=CHAIN)
def by_target(prompt: str, *, target: Target = Target("groq/llama")) -> str:
    return f"{target.model}{prompt}"


@failover(chain=CHAIN)
async def by_model(prompt: str, *, model: str = "", provider: str = "") -> str:
    return f"{provider}/{model}{prompt}"


assert_type(by_target("why"), str)
assert_type(by_target("why", target=Target("openai/gpt-5-mini")), str)


async def check_by_name() -> None:
    assert_type(await by_model("why"), str)
    assert_type(await by_model("why", model="gpt-5-mini"), str)


# Policies.


def waits(number: int) -> float:
    return 0.1 * number


policy = failover(CHAIN, backoff=waits, on_unknown="transient")
assert_type(policy, Failover)
assert_type(ask.policy, Failover)
assert_type(client.ask.policy, Failover)
assert_type(policy.using(timeout=3.0), Failover)
assert_type(ask.using(timeout=3.0)("why"), str)
assert_type(Client.ask.using(timeout=3.0)(client, "why"), str)
assert_type(client.ask.using(timeout=3.0)(client, "why"), str)
assert_type(client.of_class.using(timeout=3.0)(Client, "why"), str)
assert_type(client.by_name.using(timeout=3.0)(client, "why"), str)


def with_target(target: Target, prompt: str) -> bytes:
    return f"{target.model}{prompt}".encode()


async def awith_target(target: Target, prompt: str) -> bytes:
    return with_target(target, prompt)


def by_keyword(prompt: str, *, model: str = "") -> bytes:
    return f"{model}{prompt}".encode()


async def check_using() -> None:
    assert_type(await aask.using(attempts=1)("why"), list[str])


async def check_call() -> None:
    assert_type(policy.call(with_target, "why"), bytes)
    assert_type(await policy.call(awith_target, "why"), bytes)
    assert_type(policy.call(by_keyword, "why"), bytes)


def check_loop() -> str:
    for attempt in policy:
        with attempt as target:
            assert_type(target, Target)
            attempt.result = target.model
            return target.model
    raise AssertionError


async def check_async_loop() -> str:
    async for attempt in policy:
        async with attempt as target:
            assert_type(target, Target)
            attempt.result = target.model
            return target.model
    raise AssertionError


# Every option of @failover.


def rejects(answer: object) -> bool | str | None:
    return "too_short" if answer == "" else None


def rejects_with_kind(answer: object) -> ErrorKind | Verdict | None:
    return ErrorKind.TRANSIENT if answer == "" else None


def judges(error: BaseException) -> Verdict | ErrorKind | None:
    return ErrorKind.TRANSIENT if isinstance(error, KeyError) else None


def sees(event: Event) -> None: ...


failover(
    [
        Target("groq/llama", params={"temperature": 0, "seed": Target.UNSET}, account="tenant-7"),
        "openai/gpt-5",
        CHAIN,
    ],
    attempts=3,
    max_attempts=6,
    backoff=None,
    timeout=30.0,
    attempt_timeout=10.0,
    cooldown=60.0,
    strategy="priority",
    reject=rejects,
    classify=judges,
    on_request_error="raise",
    on_content_policy="next",
    on_unknown="transient",
    when_all_benched="wait",
    reraise=True,
    stream=None,
    observers=[sees],
)
failover("groq/llama", reject=rejects_with_kind)
failover("groq/llama, openai/gpt-5", reject=lambda answer: not answer)


def words_of(messages: list[dict[str, str]]) -> set[str] | None:
    return {"tools"} if messages else None


def tokens_of(messages: list[dict[str, str]]) -> int:
    return len(messages)


failover("groq/llama", needs=needs.from_messages(), tokens=needs.estimate_tokens())
failover("groq/llama", needs="tools", tokens=100)
failover("groq/llama", needs=("tools", "vision"), tokens=tokens_of)
failover("groq/llama", needs=words_of, tokens=None)
failover("groq/llama", tool_loop="raise")
failover("groq/llama", tool_loop=ToolLoop("raise", repeats=5, argument="contents"))
configure(tool_loop="warn")
configure(tool_loop=None)
assert_type(ToolLoop().action, Literal["off", "warn", "raise"])
assert_type(ToolLoop(repeats=4).repeats, int)
assert_type(needs.from_messages("input")(input="Hi"), frozenset[str])
assert_type(needs.estimate_tokens()("Hi"), int)
Target("groq/llama", supports=None)
Target("groq/llama", supports="tools")
Target("groq/llama", supports=("tools", "vision"))


def missing_of(error: NoCapableTargetError) -> dict[str, tuple[str, ...]]:
    return error.missing


def loop_of(error: ToolLoopError) -> tuple[str, int, float | None]:
    return error.tool, error.repeats, error.retry_after


def told_of_loops(event: ToolLoopDetected) -> tuple[str, int, Literal["warn", "raise"]]:
    return event.tool, event.repeats, event.action


observe(told_of_loops, ToolLoopDetected)


# Breaker.


def check_with() -> int:
    # A guard never swallows an error, so nothing is missing after the block.
    with breaker("groq"):
        return 3


async def check_async_with() -> int:
    async with breaker("groq/llama", failures=3, cooldown=10.0, mode="metrics_only"):
        return 3


@breaker("groq")
def guarded(prompt: str, *, limit: int = 1) -> list[str]:
    return [prompt] * limit


@breaker("groq", slow_call=5.0)
async def aguarded(prompt: str) -> str:
    return prompt


guard = breaker("groq")
assert_type(guard.state, Literal["closed", "open", "half_open"])
guard.record(None, 0.2)
guard.record(ConnectionError(), 0.2)
assert_type(guarded("why", limit=2), list[str])


async def check_guarded() -> None:
    assert_type(await aguarded("why"), str)


# Streams: what a function gives keeps its type.


def go_on(interruption: StreamInterruptedError) -> dict[str, object]:
    return {
        "prompt": f"{interruption.text_so_far or ''}{interruption.items_sent}{interruption.target}"
    }


patient = StreamPolicy(
    first_item_timeout=90.0, idle_timeout=30.0, timeout=600.0, min_rate=2.0, rate_window=5.0
)
assert_type(patient.using(on_interrupt="restart", restart_marker="\n"), StreamPolicy)
StreamPolicy(
    on_interrupt=go_on,
    keep_text=4_096,
    on_empty="accept",
    on_truncated="accept",
    commit=lambda item: item,
)
Target("groq/llama", stream=patient)


@failover(chain=CHAIN, stream=patient)
def words(target: Target, prompt: str) -> Iterator[str]:
    yield prompt


@failover(chain=CHAIN, stream=patient)
async def awords(target: Target, prompt: str) -> AsyncIterator[str]:
    yield prompt


@failover(chain=CHAIN)
async def opened(target: Target, prompt: str) -> AsyncIterator[bytes]:
    raise NotImplementedError


@breaker("groq")
def guarded_words(prompt: str) -> Iterator[str]:
    yield prompt


assert_type(words("why"), Iterator[str])
assert_type(awords("why"), AsyncIterator[str])
assert_type(guarded_words("why"), Iterator[str])
assert_type(words.using(stream=None)("why"), Iterator[str])


async def check_streams() -> None:
    assert_type(await opened("why"), AsyncIterator[bytes])
    assert_type([word async for word in awords("why")], list[str])


# Benches and health.


assert_type(list_benched(), list[BenchedModel])
bench_model("groq/llama")
bench_model("groq", 60.0, reason="maintenance")
bench_model("groq", until=timedelta(minutes=5))
bench_model(Target("groq/llama"), until=datetime.now(UTC) + timedelta(hours=1))
bench_model("groq", 60.0, reason="maintenance", by="alice")
assert_type(unbench_model("groq"), bool)
assert_type(unbench_model("groq", by="alice"), bool)
assert_type(list_benched()[0].by, str)
assert_type(is_benched("groq"), bool)
assert_type(health(), dict[str, TargetHealth])
assert_type(can_call(ask, tokens=12_000, spend_key="tenant-7"), CanCall)
assert_type(can_call(failover(CHAIN)).target, Target | None)
assert_type(can_call(CHAIN).retry_after, float | None)
assert_type(rate_limits(), dict[str, RateLimitState])
assert_type(rate_limits()["groq/llama"].requests_remaining, int | None)
assert_type(rate_limits()["groq/llama"].resets_at, datetime | None)
assert_type(limits.listen(CLIENT, key="groq"), list[int])
configure(listen=False)
assert_type(health(["groq/llama"])["groq/llama"].benched, BenchedModel | None)
assert_type(health(expected=CHAIN)["groq/llama"].status, Literal["healthy", "degraded", "down"])
assert_type(r.ListBenched(), list[BenchedModel])
assert_type(r.UnbenchModel("groq"), bool)
assert_type(r.IsBenched("groq"), bool)
r.BenchModel("groq")
reset()


# Classification.


assert_type(classify(ValueError()), Verdict)
assert_type(classify(ValueError()).kind, ErrorKind)
assert_type(classify(ValueError()).retry_after, float | None)


@classify.rule
def overloaded(error: BaseException) -> Verdict | None:
    return Verdict(ErrorKind.TRANSIENT, reason="overloaded") if "overloaded" in str(error) else None


# The rule stays what it was.
assert_type(overloaded(ValueError()), Verdict | None)


# Events, settings, traces.


def on_bench(event: TargetBenched) -> None: ...


def on_two(event: TargetBenched | AttemptFailed) -> None: ...


assert_type(observe(sees), Callable[[], None])
observe(on_bench, TargetBenched)
observe(on_two, TargetBenched, AttemptFailed)


with capture_events() as everything:
    assert_type(everything, list[Event])
with capture_events(TargetBenched) as benches:
    assert_type(benches, list[TargetBenched])


async def check_events() -> None:
    async with events() as stream:
        async for event in stream:
            assert_type(event, Event)


configure(retry_budget=0.2, max_wait=60.0, logging=False)
configure(breakers={"*": {"failures": 3, "cooldown": 10.0}, "groq": {"mode": "disabled"}})
configure(limits={"groq": Limit(requests=60, per="hour", max_concurrent=8), "*": None})
configure(limits={"groq": 60})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]  # a Limit
Limit(60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # by keyword
Limit(requests=60, per="week")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no period
assert_type(Limit(requests=60).requests, int | None)
assert_type(settings().limits, Mapping[str, Limit])
configure(attempts=2, timeout=30.0, reject=lambda answer: not answer, strategy="priority")
configure(attempts=None, reraise=None, on_unknown=None, breakers={"groq": None})
configure(attempts="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a number
configure(observers=())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # observe() is for all
assert_type(settings().attempts, int)
assert_type(settings().timeout, float | None)
assert_type(settings().max_wait, float)
configure(on_memory_pressure="warn", memory_pressure_cooldown=60)
configure(on_memory_pressure="bench")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no such word
configure(memory_pressure_cooldown=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # seconds
assert_type(settings().on_memory_pressure, Literal["skip", "warn", "off"])
assert_type(settings().memory_pressure_cooldown, float)
assert_type(settings().retry_budget, float | None)


def check_trace() -> None:
    assert_type(call_id(), str | None)
    with Trace() as trace, Trace(call_id="request-7"):
        ask("why")
    assert_type(trace.calls[0].call_id, str)
    assert_type(trace.calls[0].served_by, str | None)
    assert_type(trace.served_by, str | None)
    for record in trace.calls[0].attempts:
        assert_type(record, AttemptRecord)
        assert_type(record.kind, ErrorKind | None)


async def check_probes(by_text: dict[str, Callable[[], bool]]) -> None:
    async with probes.HealthProbe({"groq": probes.http_probe("https://x", headers={})}) as one:
        assert_type(one.running, bool)
        assert_type(await one.tick(), dict[str, probes.ProbeResult])
    probes.HealthProbe(by_text, interval=timedelta(seconds=1).total_seconds(), proves="answers")
    probes.HealthProbe({Target("groq/llama"): probes.ollama_probe()})
    both: dict[str | Target, Callable[[], object]] = {"groq": probes.call_probe(len, "")}
    both[Target("groq/llama")] = lambda: None
    probes.HealthProbe(both)
    assert_type(one.stop_thread(1.0), None)
    result = (await one.tick())["groq"]
    assert_type(result.ok, bool | None)
    assert_type(result.kind, ErrorKind | None)


# Errors.


def check_errors() -> None:
    try:
        ask("why")
    except ChainExhaustedError as error:
        assert_type(error.attempts, tuple[AttemptRecord, ...])
        assert_type(error.last_error, Exception | None)
        assert_type(error.kind, ErrorKind | None)
        assert_type(error.retry_after, float | None)
    except BreakerOpenError as error:
        assert_type(error.retry_after, float | None)


# Budgets.


def spending() -> None:
    r.configure(
        budgets=[r.Budget(usd=5, of="openai"), r.Budget(calls=9, per="day", of="key")],
        prices={"own/llama": (0.1, 0.2), "own/gpt": r.Price(1, 2, cached=0.1), "own": None},
    )
    with r.spend_key("tenant-7"):
        assert_type(r.spend(), list[r.SpendReport])
    assert_type(r.Target("own/llama", price=r.Price(1, 2)).key, str)
    r.failover(["groq/llama"], usage=lambda answer: r.Usage(1, 2))
    r.reset_spend("openai month usd")


configure(budgets=[Budget(usd=50, of="openai"), Budget(calls=9, per="day", of="key")])
configure(prices={"groq": (1, 2), "own/llama": Price(1, 2, cached=0.1), "*": None})
Budget(usd=50, per="week")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no period
assert_type(spend(), list[SpendReport])
assert_type(spend_total(), dict[str, Decimal])
with spend_key("tenant-7"):
    reset_spend()
failover(chain=CHAIN, usage=lambda answer: Usage(input=12, output=3))


# Chains by name and by rule.


@failover()
async def by_default(target: Target, prompt: str) -> str:
    return prompt


async def awaits_by_default() -> None:
    assert_type(await by_default("hi"), str)


def is_long(prompt: str) -> bool:
    return len(prompt) > 3


def first_of(chain: Chain) -> Failover:
    return failover(chain)


NESTED: list[list[str] | str | Target] = [CHAIN, "@fast", Target("openai/gpt-5-mini")]
for chain in (CHAIN, tuple(CHAIN), NESTED, "groq/llama", Target("groq/llama"), failover(CHAIN)):
    first_of(chain)
first_of(ask)  # its own function answers for the target
first_of(target for target in failover(CHAIN).chain)
first_of(chains.route(chains.rule("@fast", has_image=True), otherwise=NESTED))
chains.define({"fast": "groq/llama", "smart": [Target("openai/gpt-5-mini"), "@fast"]})
chains.define(
    {
        "main": chains.route(
            chains.rule("@fast", model="gpt-*", min_tokens=30_000),
            chains.rule(["@smart"], has_image=True, where=is_long),
            otherwise="@fast",
            messages="prompt",
            tokens=len,
        )
    }
)
chains.rule("@fast", min_token=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a wrong name
chains.rule("@fast", has_image="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
chains.define_profile("cheap", chains={"fast": "groq/llama"}, settings={"attempts": 1})
with chains.profile("cheap"):
    assert_type(chains.resolve("@fast"), tuple[Target, ...])
assert_type(chains.names(), list[str])
assert_type(chains.profiles(), list[str])
assert_type(chains.explain("main", prompt="hi"), chains.RouteExplanation)
assert_type(chains.explain("main", prompt="hi").rule, int | None)
chains.remove("fast", "smart")
configure(profile="cheap")
assert_type(settings().profile, str | None)
