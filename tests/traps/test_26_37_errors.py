"""Traps of hints, retries and classification, through the real openai and anthropic clients.

The clients, sync and on asyncio, talk to providers on loopback; what is on the wire is written
in each test.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from resilient_llm import (
    AttemptFailed,
    BreakerOpenError,
    ChainExhaustedError,
    ResponseRejectedError,
    RetryScheduled,
    RetryStopped,
    Target,
    answers,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    list_benched,
    reset,
)
from resilient_llm.testing import FakeClock, capture_events
from tests.support.providers import (
    FAIR,
    Protocol,
    Provider,
    Reply,
    Silence,
    answer,
    begun_stream,
    error_event,
    limited,
    overloaded,
    refusal,
    stream,
)

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
pydantic = pytest.importorskip("pydantic")

PACKAGES: dict[str, Any] = {"openai": openai, "anthropic": anthropic}
OTHER = {"openai": "anthropic", "anthropic": "openai"}
MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-haiku"}
TARGETS = {name: f"{name}/{model}" for name, model in MODELS.items()}
ANSWERS = {name: f"{name} says it depends." for name in MODELS}

Conversation = Generator[Any, Any, Any]


# --- one way to write what sync and async code does with a client -------------------------------


@dataclass(frozen=True)
class Everything:
    """What a conversation yields to have a stream read to its end."""

    stream: Any


def finish(conversation: Conversation) -> Any:
    """Hand a conversation what it yields, as synchronous code has it; return its result."""
    got: Any = None
    while True:
        try:
            step = conversation.send(got)
        except StopIteration as end:
            return end.value
        got = list(step.stream) if isinstance(step, Everything) else step


async def afinish(conversation: Conversation) -> Any:
    """The same with everything awaited."""
    got: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = conversation.send(got) if error is None else conversation.throw(error)
        except StopIteration as end:
            return end.value
        got = error = None
        try:
            if isinstance(step, Everything):
                got = [piece async for piece in step.stream]
            else:
                got = await step if inspect.isawaitable(step) else step
        except BaseException as raised:
            error = raised


def create(client: Any, model: str, prompt: str = "Will it rain?", **options: Any) -> Any:
    """Send a request; the async clients give an awaitable."""
    messages = [{"role": "user", "content": prompt}]
    if hasattr(client, "chat"):
        return client.chat.completions.create(model=model, messages=messages, **options)
    return client.messages.create(model=model, messages=messages, max_tokens=50, **options)


def text_of(reply: Any) -> str:
    """Return the text of an answer."""
    if hasattr(reply, "choices"):
        return reply.choices[0].message.content
    return "".join(block.text for block in reply.content)


def text(client: Any, model: str) -> Conversation:
    """Ask for an answer; return its text."""
    return text_of((yield create(client, model)))


class World:
    """Both providers, and one way to call them through the library.

    Attributes:
        first: Protocol of the first target's provider; the other one is second.
        way: ``sync``, ``asyncio`` or ``trio``.
    """

    def __init__(self, first: str, way: str, providers: dict[str, Provider]) -> None:
        self.first = first
        self.second = OTHER[first]
        self.way = way
        self.sick = providers[self.first]
        self.well = providers[self.second]
        self.providers = providers
        self.target = TARGETS[self.first]
        self.fallback = TARGETS[self.second]
        self.package = PACKAGES[self.first]

    @property
    def sent(self) -> tuple[int, int]:
        """Requests that arrived at the first and at the second provider."""
        return len(self.sick.requests), len(self.well.requests)

    def client(self, provider: str, **options: Any) -> Any:
        """Return a client whose proxies and certificates are nobody's: loopback speaks plain HTTP."""
        package, prefix = PACKAGES[provider], "" if self.way == "sync" else "Async"
        hooks = options.pop("hooks", {})
        transport = getattr(package, f"Default{prefix}HttpxClient")
        name = {"openai": "OpenAI", "anthropic": "Anthropic"}[provider]
        return getattr(package, prefix + name)(
            base_url=self.providers[provider].url,
            api_key="not-a-key",
            http_client=transport(trust_env=False, verify=False, event_hooks=hooks),
            **{"max_retries": 0, **options},
        )

    def use(self, use: Callable[[dict[str, Any]], Any], **options: Any) -> Any:
        """Hand a client for each provider to ``use``, wait for what it gives, and close them."""
        if self.way == "sync":
            clients = {name: self.client(name, **options) for name in MODELS}
            try:
                return use(clients)
            finally:
                for client in clients.values():
                    client.close()

        async def with_clients() -> Any:
            clients = {name: self.client(name, **options) for name in MODELS}
            try:
                given = use(clients)
                return await given if inspect.isawaitable(given) else given
            finally:
                for client in clients.values():
                    with anyio.CancelScope(shield=True):
                        await client.close()

        return anyio.run(with_clients, backend=self.way)

    def ask(
        self,
        chain: Any = None,
        *,
        about: Callable[[Any, str], Conversation] = text,
        client: dict[str, Any] | None = None,
        **policy: Any,
    ) -> Any:
        """Call a decorated function once, by default with a chain of both; return what it returns."""
        policy = {"backoff": lambda number: 0.5, **policy}
        chain = [self.target, self.fallback] if chain is None else chain

        def use(clients: dict[str, Any]) -> Any:
            if self.way == "sync":

                @failover(chain, **policy)
                def ask(target: Target) -> Any:
                    return finish(about(clients[target.provider], target.model))

                return ask()

            @failover(chain, **policy)
            async def aask(target: Target) -> Any:
                return await afinish(about(clients[target.provider], target.model))

            return aask()

        return self.use(use, **client or {})

    def bare(self) -> Any:
        """Call the first target with nothing of the library around it."""
        settle = finish if self.way == "sync" else afinish
        return self.use(lambda clients: settle(text(clients[self.first], MODELS[self.first])))

    def guard(
        self,
        *,
        about: Callable[[Any, str], Conversation] = text,
        client: dict[str, Any] | None = None,
        fails: Any = None,
        times: int = 1,
        **options: Any,
    ) -> Any:
        """Call the first target inside its breaker, once or in a row; return what it says last.

        Args:
            fails: What leaves each of the blocks, if something does.
        """
        leaves = (
            contextlib.nullcontext if fails is None else functools.partial(pytest.raises, fails)
        )

        def use(clients: dict[str, Any]) -> Any:
            said = None
            for _ in range(times):
                with leaves(), breaker(self.target, **options):
                    said = finish(about(clients[self.first], MODELS[self.first]))
            return said

        async def ause(clients: dict[str, Any]) -> Any:
            said = None
            for _ in range(times):
                with leaves():
                    async with breaker(self.target, **options):
                        said = await afinish(about(clients[self.first], MODELS[self.first]))
            return said

        return self.use(use if self.way == "sync" else ause, **client or {})


@pytest.fixture
def providers() -> Iterator[dict[str, Provider]]:
    with ExitStack() as stack:
        protocols: tuple[Protocol, ...] = ("openai", "anthropic")
        yield {protocol: stack.enter_context(Provider(protocol)) for protocol in protocols}


def on(*worlds: str) -> pytest.MarkDecorator:
    """Run a test in these worlds only: ``openai-sync`` is the sync client of OpenAI, whose provider is first."""
    return pytest.mark.parametrize("world", worlds, indirect=True)


SYNC = ("openai-sync", "anthropic-sync")
ASYNC = ("openai-asyncio", "anthropic-asyncio")
OPENAI = ("openai-sync", "openai-asyncio")
ANTHROPIC = ("anthropic-sync", "anthropic-asyncio")
# Both clients and both ways, where all four would tell nothing new.
CROSSWISE = ("openai-asyncio", "anthropic-sync")


@pytest.fixture(params=SYNC + ASYNC)
def world(
    request: pytest.FixtureRequest, providers: dict[str, Provider], clock: FakeClock
) -> World:
    first, way = request.param.split("-")
    if way == "trio":
        pytest.importorskip("trio")
    return World(first, way, providers)


def benches() -> dict[str, tuple[str, str, float | None]]:
    """Return ``{key: (kind, reason, seconds left)}``."""
    return {each.model: (each.kind.value, each.reason, each.remaining) for each in list_benched()}


def jittered(seconds: float) -> Any:
    """Return what equals a bench of so many seconds, which jitter lengthens by at most a tenth."""
    return pytest.approx(seconds * 1.05, abs=seconds * 0.05)


def is_untouched(key: str) -> bool:
    """Whether nothing has harmed a target's health."""
    found = health([key])[key]
    return not found.benched and 0 == found.errors == found.consecutive_failures


# --- 26: every spelling of a wait ---------------------------------------------------------------


@dataclass(frozen=True)
class Spelling:
    """A hint as headers, and what it means.

    Attributes:
        headers: ``{name: value}``; ``{date}`` and ``{moment}`` are filled in with the time in 30 s.
        benched: Seconds for which the target is benched, None for not at all.
        waited: Seconds that a call without another target waits, None if it gives up at once.
    """

    headers: dict[str, str]
    benched: float | None
    waited: float | None


# Without a hint a rate limit benches for 15 s, and a hint benches for an hour at most. A call
# waits for a minute at most; "now" leaves the policy's own backoff of half a second.
SPELLINGS = {
    "seconds": Spelling({"retry-after": "1.5"}, 1.5, 1.5),
    "capitals": Spelling({"Retry-After": "20"}, 20.0, 20.0),
    "milliseconds": Spelling({"retry-after-ms": "250"}, 0.25, 0.25),
    "both": Spelling({"retry-after": "3", "retry-after-ms": "2500"}, 2.5, 2.5),
    "date": Spelling({"retry-after": "{date}"}, 30.0, 30.0),
    "past-date": Spelling({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None, 0.5),
    "moment": Spelling({"retry-after": "{moment}"}, 30.0, 30.0),
    "go-duration": Spelling({"retry-after": "6m0s"}, 360.0, None),
    "openai-bucket": Spelling(
        {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "6m0s",
            "x-ratelimit-reset-tokens": "9ms",
        },
        360.0,
        None,
    ),
    "anthropic-bucket": Spelling(
        {
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "{moment}",
        },
        30.0,
        30.0,
    ),
    "zero": Spelling({"retry-after": "0"}, None, 0.5),
    "negative": Spelling({"retry-after": "-1"}, 15.0, 15.0),
    "negative-ms": Spelling({"retry-after-ms": "-250"}, 15.0, 15.0),
    "absurd": Spelling({"retry-after": "99999999"}, 3600.0, None),
    "long-ms": Spelling({"retry-after-ms": "100000"}, 100.0, None),
    "absurd-ms": Spelling({"retry-after-ms": "99999999999"}, 3600.0, None),
    "absurd-date": Spelling({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 3600.0, None),
    "word": Spelling({"retry-after": "soon"}, 15.0, 15.0),
    "infinite": Spelling({"retry-after": "inf"}, 15.0, 15.0),
    "not-a-number": Spelling({"retry-after": "nan"}, 15.0, 15.0),
    "empty": Spelling({"retry-after": ""}, 15.0, 15.0),
}
every_spelling = pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)


def spelled(spelling: Spelling, protocol: Any, clock: FakeClock) -> Reply:
    """Return the 429 with this hint."""
    moment = datetime.fromtimestamp(clock.wall(), UTC) + timedelta(seconds=30)
    times = {"date": format_datetime(moment, usegmt=True), "moment": moment.isoformat()}
    said = limited(protocol)
    return Reply(
        429, said.body, {name: value.format(**times) for name, value in spelling.headers.items()}
    )


@every_spelling
def test_trap_26_a_target_is_benched_for_what_its_provider_meant(
    spelling: Spelling, world: World, clock: FakeClock
) -> None:
    """The other target answers at once; nothing sleeps; nonsense counts as no hint."""
    world.sick.says(spelled(spelling, world.first, clock))

    answered = world.ask()

    expected = (
        {}
        if spelling.benched is None
        else {world.target: ("rate_limited", "rate_limit", spelling.benched)}
    )
    assert (ANSWERS[world.second], (1, 1), []) == (answered, world.sent, clock.sleeps)
    assert expected == benches()


@on(*CROSSWISE)
@every_spelling
def test_trap_26_a_call_without_another_target_waits_as_long_or_not_at_all(
    spelling: Spelling, world: World, clock: FakeClock
) -> None:
    """What fits is waited for, to the moment; what is longer than a minute ends the call now."""
    world.sick.says(spelled(spelling, world.first, clock), FAIR)

    if spelling.waited is None:
        with pytest.raises(ChainExhaustedError) as caught:
            world.ask([world.target])
        assert spelling.benched == caught.value.retry_after
        assert ((1, 0), []) == (world.sent, clock.sleeps)
    else:
        assert ANSWERS[world.first] == world.ask([world.target])
        assert ((2, 0), [spelling.waited]) == (world.sent, clock.sleeps)


@on(*CROSSWISE)
@every_spelling
def test_trap_26_a_breaker_keeps_its_target_out_as_long(
    spelling: Spelling, world: World, clock: FakeClock
) -> None:
    """The client's own error leaves the block, and the next one is refused until the wait is over."""
    world.sick.says(spelled(spelling, world.first, clock), FAIR)
    world.guard(fails=world.package.RateLimitError)

    if spelling.benched is not None:
        clock.advance(spelling.benched * 0.99)
        with pytest.raises(BreakerOpenError) as refused:
            world.guard()
        assert pytest.approx(spelling.benched * 0.01) == refused.value.retry_after
        clock.advance(spelling.benched * 0.011)

    assert ANSWERS[world.first] == world.guard()
    assert ((2, 0), []) == (world.sent, clock.sleeps)


@on(*CROSSWISE)
@pytest.mark.parametrize("wait", ["9", "107", "99999999"])
def test_trap_26_no_wait_is_longer_than_the_longest_allowed(
    wait: str, world: World, clock: FakeClock
) -> None:
    """``max_wait`` holds for an overload as for a rate limit; the call ends and says when to come back."""
    configure(max_wait=5)

    for said in (limited(world.first, retry_after=wait), overloaded(world.first, retry_after=wait)):
        reset()
        world.sick.says(said, FAIR)
        with pytest.raises(ChainExhaustedError) as caught:
            world.ask([world.target])
        assert min(float(wait), 3600.0) == caught.value.retry_after

    assert ((2, 0), []) == (world.sent, clock.sleeps)


# --- 27: hints that differ ----------------------------------------------------------------------


def test_trap_27_the_latest_errors_hint_counts(world: World, clock: FakeClock) -> None:
    """9 s are waited for; the 107 s of the second error are too long and are what the caller is told."""
    world.sick.says(
        limited(world.first, retry_after="9"), limited(world.first, retry_after="107"), FAIR
    )

    with pytest.raises(ChainExhaustedError) as caught:
        world.ask([world.target])

    assert ([9.0], (2, 0)) == (clock.sleeps, world.sent)
    assert 107.0 == caught.value.retry_after
    assert {world.target: ("rate_limited", "rate_limit", 107.0)} == benches()
    assert isinstance(caught.value.last_error, world.package.RateLimitError)


def test_trap_27_a_shorter_hint_that_comes_later_counts_too(world: World, clock: FakeClock) -> None:
    """After 40 s the provider says 2 s: the call waits for 2 s and is answered."""
    world.sick.says(
        limited(world.first, retry_after="40"), limited(world.first, retry_after="2"), FAIR
    )

    assert ANSWERS[world.first] == world.ask([world.target])
    assert ([40.0, 2.0], (3, 0)) == (clock.sleeps, world.sent)


def test_trap_27_two_targets_have_a_hint_each(world: World, clock: FakeClock) -> None:
    """Each is benched for its own; the caller is told the sooner one."""
    world.sick.says(limited(world.first, retry_after="107"))
    world.well.says(limited(world.second, retry_after="90"))

    with pytest.raises(ChainExhaustedError) as caught:
        world.ask()

    assert {world.target: 107.0, world.fallback: 90.0} == {
        key: bench[2] for key, bench in benches().items()
    }
    assert (90.0, [], (1, 1)) == (caught.value.retry_after, clock.sleeps, world.sent)


def test_trap_27_of_two_hints_in_one_error_the_longer_counts(
    world: World, clock: FakeClock
) -> None:
    """The header says 9 s, the sentence 107 s."""
    said = refusal(
        world.first,
        429,
        "rate_limit_error",
        "Please try again in 1m47s.",
        code=None,
        retry_after="9",
    )
    world.sick.says(said)

    assert ANSWERS[world.second] == world.ask()
    assert {world.target: ("rate_limited", "rate_limit", 107.0)} == benches()


def test_trap_27_two_calls_under_way_extend_the_bench_of_a_breaker(
    world: World, clock: FakeClock
) -> None:
    """Both were admitted before the first 429: the longer hint stands, whichever comes last."""
    world.sick.says(limited(world.first, retry_after="107"), limited(world.first, retry_after="9"))

    with pytest.raises(world.package.RateLimitError), breaker(world.target):
        world.guard(fails=world.package.RateLimitError)
        world.bare()

    assert {world.target: ("rate_limited", "rate_limit", 107.0)} == benches()


# --- 28: longer than the deadline ---------------------------------------------------------------


def test_trap_28_a_hint_beyond_the_deadline_ends_the_call_now(
    world: World, clock: FakeClock
) -> None:
    """With 10 s left and a wait of 30 s nobody sleeps; the target is benched, and the error says when to come back."""
    world.sick.says(limited(world.first, retry_after="30"), FAIR)

    with capture_events(RetryStopped) as stopped, pytest.raises(ChainExhaustedError) as caught:
        world.ask([world.target], timeout=10)

    assert ([], (1, 0), ["hint"]) == (clock.sleeps, world.sent, [event.reason for event in stopped])
    assert 30.0 == caught.value.retry_after
    assert {world.target: ("rate_limited", "rate_limit", 30.0)} == benches()


def test_trap_28_a_hint_within_the_deadline_is_waited_for(world: World, clock: FakeClock) -> None:
    """9 s of 10 s are slept, and what is left is enough."""
    world.sick.says(limited(world.first, retry_after="9"), FAIR)

    assert ANSWERS[world.first] == world.ask([world.target], timeout=10)
    assert ([9.0], (2, 0)) == (clock.sleeps, world.sent)


def test_trap_28_the_deadline_counts_what_was_waited_before(world: World, clock: FakeClock) -> None:
    """6 s fit into 10 s; 6 s more do not."""
    world.sick.says(limited(world.first, retry_after="6"))

    with pytest.raises(ChainExhaustedError):
        world.ask([world.target], timeout=10)

    assert ([6.0], (2, 0)) == (clock.sleeps, world.sent)


# --- 29: another target is live -----------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 10.0])
def test_trap_29_a_rate_limit_moves_on_while_another_target_is_live(
    timeout: float | None, world: World, clock: FakeClock
) -> None:
    """However short the wait: one request each, and no sleep."""
    world.sick.says(limited(world.first, retry_after="1"), FAIR)

    assert ANSWERS[world.second] == world.ask(timeout=timeout)
    assert ([], (1, 1)) == (clock.sleeps, world.sent)
    assert {world.target: ("rate_limited", "rate_limit", 1.0)} == benches()


def test_trap_29_an_overload_with_a_wait_moves_on_too(world: World, clock: FakeClock) -> None:
    """A 529 with Retry-After is no reason to sleep while somebody else can answer."""
    world.sick.says(overloaded(world.first, retry_after="20"), FAIR)

    assert ANSWERS[world.second] == world.ask()
    assert ([], (1, 1)) == (clock.sleeps, world.sent)
    assert {world.target: ("transient", "overloaded", 20.0)} == benches()


def test_trap_29_a_benched_target_is_not_live(world: World, clock: FakeClock) -> None:
    """When the other one is benched, the wait that fits is waited for."""
    bench_model(world.fallback)
    world.sick.says(limited(world.first, retry_after="1"), FAIR)

    assert ANSWERS[world.first] == world.ask()
    assert ([1.0], (2, 0)) == (clock.sleeps, world.sent)


# --- 30: the clients' own retries ---------------------------------------------------------------


def method(client: Any) -> Any:
    """Return the client's own method, as a target's ``call=``."""
    return client.chat.completions.create if hasattr(client, "chat") else client.messages.create


@pytest.mark.parametrize("options", [{"max_retries": 2}, {"max_retries": 5}])
def test_trap_30_a_client_that_retries_is_warned_about_where_the_chain_is_written(
    options: dict[str, int], world: World
) -> None:
    """The warning names the target, the number and the remedy; a copy of the client without retries gets none."""

    def build(clients: dict[str, Any]) -> None:
        client = clients[world.first]
        with pytest.warns(
            UserWarning,
            match=f"{world.target} has max_retries={options['max_retries']}.*max_retries=0",
        ):
            failover([Target(world.target, call=method(client))])
        failover([Target(world.target, call=method(client.with_options(max_retries=0)))])

    world.use(build, **options)


def test_trap_30_an_attempt_is_one_request(world: World, clock: FakeClock) -> None:
    """Three attempts with a client that leaves retries to the chain: three requests, and our waits between them."""
    world.sick.says(overloaded(world.first))

    assert ANSWERS[world.second] == world.ask(attempts=3)
    assert ((3, 1), [0.5, 0.5]) == (world.sent, clock.sleeps)


def test_trap_30_retries_that_a_client_made_are_logged_once(
    world: World, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One attempt is three requests then; one line for each provider says so."""
    # The client obeys the wait, and would sleep for half a second otherwise; so does the chain.
    world.sick.says(overloaded(world.first, retry_after_ms="1"))

    for _ in range(2):
        assert ANSWERS[world.second] == world.ask(attempts=1, client={"max_retries": 2})
        clock.advance(1)

    told = [message for message in caplog.messages if "retried by itself" in message]
    assert (6, 2) == world.sent
    assert [f"the client of {world.first} retried by itself"] == [
        message.partition(":")[0] for message in told
    ]
    assert "max_retries=0" in told[0]


# Constructors of clients that retry unless told not to.
RETRYING = re.compile(
    r"\b(?:Async)?(?:Azure)?(?:OpenAI|Anthropic(?:Bedrock|Vertex)?|Groq|Together|Cerebras|Fireworks)\("
    r"|\bChat(?:OpenAI|Anthropic|Groq)\(|\blitellm\.a?completion\("
)
ROOT = Path(__file__).parents[2]
# Its plain client is what the guarded one is compared with.
RETRY_ON_PURPOSE = {ROOT / "resilient_llm" / "demo" / "clients.py"}
EXAMPLES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.py")),
    *sorted((ROOT / "resilient_llm").rglob("*.py")),
]


def clients_that_retry(page: str) -> list[str]:
    """Return the calls in a page, in code or in words, that make a client with retries of its own."""
    found = []
    for match in RETRYING.finditer(page):
        end, depth = match.end(), 1
        while depth and end < len(page):
            depth += {"(": 1, ")": -1}.get(page[end], 0)
            end += 1
        made = page[match.start() : end]
        if not re.search(r"\bmax_retries=0\b", made) and not _is_switched_off(made, page):
            found.append(made)
    return found


def _is_switched_off(made: str, page: str) -> bool:
    """Return whether an integration switches the retries off, which tests of its own see."""
    is_of_framework = made.startswith("Chat") or "completion(" in made
    return is_of_framework and "integrations" in page


def test_trap_30_our_examples_switch_the_clients_retries_off() -> None:
    """README, documentation, examples and the demo make no client with retries of its own, and they do make clients."""
    pages = {page: page.read_text(encoding="utf-8") for page in EXAMPLES}

    assert {} == {
        str(page.relative_to(ROOT)): bad
        for page, text in pages.items()
        if (bad := clients_that_retry(text)) and page not in RETRY_ON_PURPOSE
    }
    assert {"README.md", "docs", "examples", "resilient_llm"} == {
        page.relative_to(ROOT).parts[0] for page, text in pages.items() if RETRYING.search(text)
    }


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("OpenAI()", ["OpenAI()"]),
        (
            "openai.AsyncOpenAI(api_key=key(), max_retries=2)",
            ["AsyncOpenAI(api_key=key(), max_retries=2)"],
        ),
        (
            "a, b = Anthropic(max_retries=0), Anthropic(\n    timeout=5,\n)",
            ["Anthropic(\n    timeout=5,\n)"],
        ),
        ("OpenAI(base_url=url(), max_retries=0)", []),
    ],
)
def test_trap_30_a_client_with_retries_would_be_found(code: str, bad: list[str]) -> None:
    """The check of the examples sees what it looks for, with brackets and over lines."""
    assert bad == clients_that_retry(code)


# --- 31: an outage ------------------------------------------------------------------------------


@pytest.mark.slow
@on("openai-asyncio")
def test_trap_31_a_thousand_callers_of_a_provider_that_is_down(
    world: World, clock: FakeClock
) -> None:
    """With attempts=3 they send 1,200 requests, not 3,000: extra attempts stay within a fifth of the first ones."""
    configure(logging=False)  # a thousand lines tell nobody anything
    breaker(world.target, mode="metrics_only")
    world.sick.says(overloaded(world.first))

    async def outage(clients: dict[str, Any]) -> None:
        connections = anyio.CapacityLimiter(8)

        @failover([world.target], backoff=lambda number: 0.0)
        async def ask(target: Target) -> Any:
            async with connections:
                return await create(clients[world.first], target.model)

        async def caller() -> None:
            with pytest.raises(ChainExhaustedError):
                await ask()

        async with anyio.create_task_group() as callers:
            for _ in range(1_000):
                callers.start_soon(caller)

    with capture_events(RetryScheduled) as retries:
        world.use(outage)

    assert (200, (1_200, 0)) == (len(retries), world.sent)
    assert 1_200 == health()[world.target].total


@on("anthropic-sync")
def test_trap_31_a_breaker_ends_the_extra_attempts_of_a_thousand_threads(
    world: World, clock: FakeClock
) -> None:
    """Once it is open nothing more is sent, so that each of the threads adds its three attempts at most once."""
    configure(logging=False)
    world.sick.says(overloaded(world.first))
    threads = 8

    def outage(clients: dict[str, Any]) -> list[str]:
        @failover([world.target], backoff=lambda number: 0.0, when_all_benched="raise")
        def ask(target: Target) -> str:
            return finish(text(clients[world.first], target.model))

        def caller(number: int) -> str:
            try:
                return ask()
            except ChainExhaustedError as error:
                return type(error).__name__

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(caller, range(1_000)))

    with capture_events(RetryScheduled) as retries:
        ended = world.use(outage)

    assert ["ChainExhaustedError"] * 1_000 == ended
    assert len(retries) <= 10
    assert len(world.sick.requests) <= threads + len(retries)


# --- 32: each what it is ------------------------------------------------------------------------


def streamed(client: Any, model: str) -> Conversation:
    """Ask for a stream; return the text that came with it."""
    pieces = yield Everything((yield create(client, model, stream=True)))
    if hasattr(client, "chat"):
        return "".join(piece.choices[0].delta.content or "" for piece in pieces)
    return "".join(piece.delta.text for piece in pieces if piece.type == "content_block_delta")


@dataclass(frozen=True)
class Cause:
    """What a provider sends, and what it means.

    Attributes:
        charged: ``provider``, ``target`` or ``nobody``: who is benched by one call of a chain.
        seconds: For how long, without the jitter; a tenth at most is added.
        requests: How many the chain sends before it moves on.
        about: How the client is used.
    """

    protocol: Any
    says: Reply
    kind: str
    reason: str
    charged: str
    seconds: float = 0.0
    requests: int = 1
    about: Callable[[Any, str], Conversation] = text


def dead(protocol: str, says: Reply, reason: str, about: Any = text) -> Cause:
    """A provider that somebody has to see to: benched at once, for as long as anything is."""
    return Cause(protocol, says, "auth_dead", reason, "provider", 300.0, about=about)


def passing(protocol: str, says: Reply, reason: str, about: Any = text) -> Cause:
    """A trouble that passes: tried three times, which uses up the target."""
    return Cause(protocol, says, "transient", reason, "target", 30.0, requests=3, about=about)


def inside(protocol: Any, **error: Any) -> Reply:
    """A 200 whose stream begins well and goes on with an error."""
    return stream(begun_stream(protocol, "It dep"), error_event(protocol, error))


GEMINI_KEY = {
    "code": 400,
    "message": "API key not valid. Please pass a valid API key.",
    "status": "INVALID_ARGUMENT",
    "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}],
}
OPENAI_QUOTA = "You exceeded your current quota, please check your plan and billing details."
XAI_CREDITS = (
    "Your team 1 has either used all available credits or reached its monthly spending limit."
)
XAI_KEY = (
    "Incorrect API key provided: xa***ey. You can obtain an API key from https://console.x.ai."
)
ANTHROPIC_CREDITS = (
    "Your credit balance is too low to access the Anthropic API. "
    "Please go to Plans & Billing to upgrade or purchase credits."
)
ANTHROPIC_LIMITS = "You have reached your specified API usage limits. You will regain access on 2027-01-01 at 00:00 UTC."

CAUSES = {
    # A wait that is named does not make a spent quota a rate limit.
    "quota-as-429": dead(
        "openai",
        refusal(
            "openai",
            429,
            "insufficient_quota",
            OPENAI_QUOTA,
            code="insufficient_quota",
            retry_after="1",
        ),
        "insufficient_quota",
    ),
    "credits-as-429": dead(
        "openai",
        Reply(429, {"code": "Some resource has been exhausted", "error": XAI_CREDITS}),
        "insufficient_quota",
    ),
    "billing-as-400": dead(
        "openai",
        refusal(
            "openai",
            400,
            "invalid_request_error",
            "Billing hard limit has been reached",
            code="billing_hard_limit_reached",
        ),
        "insufficient_quota",
    ),
    "credits-as-400": dead(
        "anthropic",
        refusal("anthropic", 400, "invalid_request_error", ANTHROPIC_CREDITS),
        "insufficient_quota",
    ),
    "limits-as-400": dead(
        "anthropic",
        refusal("anthropic", 400, "invalid_request_error", ANTHROPIC_LIMITS),
        "insufficient_quota",
    ),
    "gemini-key-as-400": dead("openai", Reply(400, [{"error": GEMINI_KEY}]), "invalid_credentials"),
    "xai-key-as-400": dead(
        "openai",
        Reply(400, {"code": "Client specified an invalid argument", "error": XAI_KEY}),
        "invalid_credentials",
    ),
    "anthropic-key-as-400": dead(
        "anthropic",
        refusal("anthropic", 400, "authentication_error", "invalid x-api-key"),
        "invalid_credentials",
    ),
    "529": passing("anthropic", overloaded("anthropic"), "overloaded"),
    "529-without-a-word": passing(
        "openai", Reply(529, b"", {"content-type": "text/plain"}), "overloaded"
    ),
    "overload-in-openai-stream": passing(
        "openai",
        inside("openai", type="server_error", code="server_is_overloaded", message="Try later."),
        "overloaded",
        streamed,
    ),
    "quota-in-openai-stream": dead(
        "openai",
        inside(
            "openai", type="insufficient_quota", code="insufficient_quota", message=OPENAI_QUOTA
        ),
        "insufficient_quota",
        streamed,
    ),
    "402-in-openrouter-stream": dead(
        "openai",
        inside("openai", code=402, message="Insufficient credits"),
        "insufficient_quota",
        streamed,
    ),
    "429-in-openrouter-stream": Cause(
        "openai",
        inside("openai", code=429, message="Provider returned error"),
        "rate_limited",
        "rate_limit",
        "target",
        15.0,
        about=streamed,
    ),
    "502-in-openrouter-stream": passing(
        "openai", inside("openai", code=502, message="Provider returned error"), "gateway", streamed
    ),
    "overload-in-anthropic-stream": passing(
        "anthropic",
        inside("anthropic", type="overloaded_error", message="Overloaded"),
        "overloaded",
        streamed,
    ),
    "limit-in-anthropic-stream": Cause(
        "anthropic",
        inside(
            "anthropic",
            type="rate_limit_error",
            message="This request would exceed your rate limit.",
        ),
        "rate_limited",
        "rate_limit",
        "target",
        15.0,
        about=streamed,
    ),
    "key-in-anthropic-stream": dead(
        "anthropic",
        inside("anthropic", type="authentication_error", message="invalid x-api-key"),
        "invalid_credentials",
        streamed,
    ),
    "request-in-anthropic-stream": Cause(
        "anthropic",
        inside("anthropic", type="invalid_request_error", message="messages: roles must alternate"),
        "request_specific",
        "invalid_request",
        "nobody",
        about=streamed,
    ),
    "half-a-body-openai": passing(
        "openai", Reply(200, b'{"id": "chatcmpl-1", "choices": ['), "invalid_response"
    ),
    "half-a-body-anthropic": passing(
        "anthropic", Reply(200, b'{"id": "msg_1", "content": ['), "invalid_response"
    ),
}


def every_one_of(causes: dict[str, Cause], *ways: str) -> pytest.MarkDecorator:
    """Run a test for each of these, where its provider is first."""
    return pytest.mark.parametrize(
        ("world", "cause"),
        [
            pytest.param(f"{cause.protocol}-{way}", cause, id=f"{name}-{way}")
            for name, cause in causes.items()
            for way in ways
        ],
        indirect=["world"],
    )


@every_one_of(CAUSES, "sync", "asyncio")
def test_trap_32_a_chain_takes_it_for_what_it_is(
    world: World, cause: Cause, clock: FakeClock
) -> None:
    """Whatever the status: who is benched and for how long, how often it is tried; the other target's answer is whole."""
    world.sick.says(cause.says)

    with capture_events(AttemptFailed) as failures:
        answered = world.ask(about=cause.about)

    benched = {"provider": world.first, "target": world.target}.get(cause.charged)
    assert ANSWERS[world.second] == answered
    assert {(cause.kind, cause.reason)} == {(event.kind.value, event.reason) for event in failures}
    assert ((cause.requests, 1), [0.5] * (cause.requests - 1)) == (world.sent, clock.sleeps)
    assert (
        {} if benched is None else {benched: (cause.kind, cause.reason, jittered(cause.seconds))}
    ) == benches()


@every_one_of(CAUSES, "asyncio")
def test_trap_32_a_breaker_takes_it_for_what_it_is(
    world: World, cause: Cause, clock: FakeClock
) -> None:
    """The client's own error leaves; a dead account shuts the provider, a limit the target, a blip is counted."""
    world.sick.says(cause.says)

    world.guard(
        fails=(
            world.package.APIError,
            json.JSONDecodeError,
            world.package.APIResponseValidationError,
        ),
        about=cause.about,
    )

    benched = {"auth_dead": world.first, "rate_limited": world.target}.get(cause.kind)
    assert (set() if benched is None else {benched}) == set(benches())
    assert int(cause.kind == "transient") == health()[world.target].consecutive_failures
    assert (1, 0) == world.sent


def whole(client: Any, model: str) -> Conversation:
    """Ask for an answer; return it as the client gives it."""
    return (yield create(client, model))


HTML = b"<html><body>Please sign in to the network</body></html>"
CREDITS = {"error": {"code": 402, "message": "Insufficient credits"}}  # openrouter
OVERLOAD = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "Overloaded"},
    "request_id": "req_1",
}
SILENT = {
    "credits": dead("openai", Reply(200, CREDITS), "insufficient_quota", whole),
    "overload": passing("anthropic", Reply(200, OVERLOAD), "overloaded", whole),
    "html-openai": passing(
        "openai", Reply(200, HTML, {"content-type": "text/html"}), "invalid_response", whole
    ),
    "html-anthropic": passing(
        "anthropic", Reply(200, HTML, {"content-type": "text/html"}), "invalid_response", whole
    ),
}


@every_one_of(SILENT, "sync", "asyncio")
def test_trap_32_a_200_with_an_error_body(world: World, cause: Cause, clock: FakeClock) -> None:
    """The clients return it as an answer; ``reject=answers.broken`` takes it for the error that it is."""
    world.sick.says(cause.says)

    reply = world.ask(about=cause.about, reject=answers.broken)

    benched = {"provider": world.first, "target": world.target}[cause.charged]
    assert ANSWERS[world.second] == text_of(reply)
    assert (cause.requests, 1) == world.sent
    assert {benched: (cause.kind, cause.reason, jittered(cause.seconds))} == benches()


# --- 33: no memory pressure ---------------------------------------------------------------------

ECHOES = {
    "words": "Unknown field in a chatroom: zoom, bloom, boom, mushroom and oomph are not known.",
    "quoted": "Invalid 'messages': 'my chatroom says CUDA out of memory' is not what was expected.",
    "double-quoted": 'Failed to parse input at pos 0: "is my GPU oom, or not enough memory?"',
    "in-code": "1 validation error: input_value='cudaMalloc failed: out of memory', input_type=str",
}


@on(*CROSSWISE)
@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("message", ECHOES.values(), ids=ECHOES)
def test_trap_33_a_chatroom_is_no_memory_pressure(
    message: str, status: int, world: World, clock: FakeClock
) -> None:
    """Nobody is benched for memory by a part of a word or by an echoed prompt."""
    kind = "api_error" if status == 500 else "invalid_request_error"
    world.sick.says(refusal(world.first, status, kind, message))

    with capture_events(AttemptFailed) as failures:
        assert ANSWERS[world.second] == world.ask()

    expected = (
        ("transient", "server_error") if status == 500 else ("request_specific", "invalid_request")
    )
    assert {expected} == {(event.kind.value, event.reason) for event in failures}
    assert (3 if status == 500 else 1, 1) == world.sent
    assert [("transient", "server_error")] * (status == 500) == [
        bench[:2] for bench in benches().values()
    ]


@on(*CROSSWISE)
@pytest.mark.parametrize("message", ECHOES.values(), ids=ECHOES)
def test_trap_33_a_breaker_is_not_opened_by_an_echo(
    message: str, world: World, clock: FakeClock
) -> None:
    """Six such requests leave it closed and healthy."""
    world.sick.says(refusal(world.first, 400, "invalid_request_error", message))

    world.guard(fails=world.package.BadRequestError, times=6)

    assert ("closed", True) == (breaker(world.target).state, is_untouched(world.target))


@pytest.mark.parametrize(
    "message",
    [
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1024.00 MiB on device 0: cudaMalloc failed: out of memory",
        "model requires more system memory (8.4 GiB) than is available (5.6 GiB)",
        "llama runner process has terminated: signal: killed",
    ],
    ids=["llama.cpp", "ollama", "killed"],
)
def test_trap_33_a_server_that_is_out_of_memory_is(
    message: str, world: World, clock: FakeClock
) -> None:
    """The words of the server itself bench the target for two minutes, at once."""
    world.sick.says(refusal(world.first, 500, "api_error", message))

    assert ANSWERS[world.second] == world.ask()
    assert ((1, 1), []) == (world.sent, clock.sleeps)
    assert {world.target: ("memory_pressure", "out_of_memory", jittered(120))} == benches()


def chatty(client: Any, model: str) -> Conversation:
    """Fail with words of one's own after the answer."""
    yield create(client, model)
    raise RuntimeError("the chatroom zoomed in on a bloom, and on 'cannot allocate memory'")


def test_trap_33_the_callers_own_words_are_no_memory_pressure(
    world: World, clock: FakeClock
) -> None:
    """An error of the function around the client that says so is the caller's own, and benches nobody."""
    with pytest.raises(RuntimeError, match="chatroom"):
        world.ask(about=chatty)

    assert ((1, 0), {}, True) == (world.sent, benches(), is_untouched(world.target))


# --- 34: the caller's own bugs ------------------------------------------------------------------


def misspelt(client: Any, model: str) -> Conversation:
    """Call the client with an argument that it does not have."""
    yield create(client, model, temprature=0.2)


def mistaken(client: Any, model: str) -> Conversation:
    """Treat the answer as what it is not."""
    return text_of((yield create(client, model))) + 1


def unparsed(client: Any, model: str) -> Conversation:
    """Take the model's prose for JSON."""
    return json.loads(text_of((yield create(client, model))))


def mishandled(client: Any, model: str) -> Conversation:
    """Stumble over an error of the provider while handling it."""
    try:
        yield create(client, model)
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        return error.status_code + ": later"
    raise AssertionError("the provider was to fail")


BUGS: dict[Any, tuple[type[Exception], Any, int]] = {
    misspelt: (TypeError, FAIR, 0),
    mistaken: (TypeError, FAIR, 1),
    unparsed: (json.JSONDecodeError, FAIR, 1),
    mishandled: (TypeError, "overloaded", 1),
}
every_bug = pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)


@every_bug
def test_trap_34_a_bug_around_the_client_leaves_at_once(
    bug: Any, world: World, clock: FakeClock
) -> None:
    """As it is but for a note, after one try, to nobody's harm; the other target is not asked."""
    error, says, requests = BUGS[bug]
    world.sick.says(overloaded(world.first) if says == "overloaded" else says)

    with capture_events(AttemptFailed) as failures, pytest.raises(error) as caught:
        world.ask(about=bug)

    note = f"raised while calling {world.target}: {error.__name__} is treated as a bug in the "
    assert (error, None, [note + "program, so no other target is tried"]) == (
        type(caught.value),
        caught.value.__cause__,
        caught.value.__notes__,
    )
    assert ["caller_bug"] == [event.kind.value for event in failures]
    assert ((requests, 0), [], {}) == (world.sent, clock.sleeps, benches())
    assert is_untouched(world.target)


@on(*CROSSWISE)
@every_bug
def test_trap_34_a_bug_does_not_open_a_breaker(bug: Any, world: World, clock: FakeClock) -> None:
    """Six times in a row it leaves the block as it is and counts for nothing."""
    error, says, requests = BUGS[bug]
    world.sick.says(overloaded(world.first) if says == "overloaded" else says)

    world.guard(fails=error, times=6, about=bug)

    assert ("closed", True) == (breaker(world.target).state, is_untouched(world.target))
    assert (6 * requests, 0) == world.sent


# --- 35: refusals -------------------------------------------------------------------------------

AZURE_FILTER = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    "type": None,
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {"jailbreak": {"filtered": True}},
    },
}
OPENAI_FLAG = "Invalid prompt: your prompt was flagged as potentially violating our usage policy."
ANTHROPIC_FILTER = "Output blocked by content filtering policy"
REFUSALS = [
    ("openai-sync", Reply(400, {"error": AZURE_FILTER})),
    ("openai-asyncio", Reply(400, {"error": AZURE_FILTER})),
    (
        "openai-sync",
        refusal("openai", 400, "invalid_request_error", OPENAI_FLAG, code="invalid_prompt"),
    ),
    ("anthropic-sync", refusal("anthropic", 400, "invalid_request_error", ANTHROPIC_FILTER)),
    ("anthropic-asyncio", refusal("anthropic", 400, "invalid_request_error", ANTHROPIC_FILTER)),
]
every_refusal = pytest.mark.parametrize(
    ("world", "says"),
    REFUSALS,
    indirect=["world"],
    ids=["azure", "azure-async", "openai", "anthropic", "anthropic-async"],
)


@every_refusal
@pytest.mark.parametrize(
    "policy",
    [{}, {"on_content_policy": "raise", "on_request_error": "next"}],
    ids=["unset", "raise"],
)
def test_trap_35_a_refusal_is_not_sent_to_another_model(
    policy: dict[str, str], world: World, says: Reply, clock: FakeClock
) -> None:
    """The client's own error leaves as it is, after one request, and nobody's health suffers."""
    world.sick.says(says)

    with pytest.raises(world.package.BadRequestError) as caught:
        world.ask(**policy)

    assert (400, None, False) == (
        caught.value.status_code,
        caught.value.__cause__,
        hasattr(caught.value, "__notes__"),
    )
    assert ((1, 0), [], {}) == (world.sent, clock.sleeps, benches())
    assert is_untouched(world.target)


@every_refusal
@pytest.mark.parametrize("others", ["next", "raise"])
def test_trap_35_a_refusal_is_sent_on_if_asked_for(
    others: str, world: World, says: Reply, clock: FakeClock
) -> None:
    """With ``on_content_policy="next"``, whatever other requests' errors do; still to nobody's harm."""
    world.sick.says(says)

    assert ANSWERS[world.second] == world.ask(on_content_policy="next", on_request_error=others)
    assert ((1, 1), [], {}) == (world.sent, clock.sleeps, benches())
    assert is_untouched(world.target)


@every_refusal
def test_trap_35_a_breaker_does_not_mind_a_refusal(
    world: World, says: Reply, clock: FakeClock
) -> None:
    """Six refusals leave it closed and healthy."""
    world.sick.says(says)

    world.guard(fails=world.package.BadRequestError, times=6)

    assert ("closed", True) == (breaker(world.target).state, is_untouched(world.target))


def parsed(client: Any, model: str) -> Conversation:
    """Ask for structured output, for which the client of OpenAI raises on a filtered answer."""
    if not hasattr(client, "chat"):
        return (yield from text(client, model))

    class Weather(pydantic.BaseModel):
        rain: bool

    messages = [{"role": "user", "content": "Will it rain?"}]
    return (
        yield client.beta.chat.completions.parse(
            model=model, messages=messages, response_format=Weather
        )
    )


@on(*OPENAI)
def test_trap_35_a_filtered_answer_that_a_client_raises_for(world: World, clock: FakeClock) -> None:
    """``finish_reason: content_filter`` in a 200 is an error of the parsing helper, and a refusal."""
    world.sick.says(answer("openai", "", stopped="content_filter"))

    with pytest.raises(openai.ContentFilterFinishReasonError):
        world.ask(about=parsed)
    assert ANSWERS[world.second] == world.ask(about=parsed, on_content_policy="next")
    assert ((2, 1), {}) == (world.sent, benches())


@on(*ANTHROPIC)
def test_trap_35_a_refusal_that_is_an_answer(world: World, clock: FakeClock) -> None:
    """With ``reject=answers.filtered`` a ``stop_reason: refusal`` is treated like the error of a content policy."""
    world.sick.says(answer("anthropic", "", stopped="refusal"))

    with pytest.raises(ResponseRejectedError) as caught:
        world.ask(about=whole, reject=answers.filtered)
    answered = world.ask(about=whole, reject=answers.filtered, on_content_policy="next")

    assert (world.target, "content_policy") == (caught.value.target, caught.value.reason)
    assert ANSWERS[world.second] == text_of(answered)
    assert ((2, 1), {}) == (world.sent, benches())


# --- 36: a request too long ---------------------------------------------------------------------


def too_long(protocol: Any) -> Reply:
    """Return what the two say to a prompt above the model's window."""
    if protocol == "anthropic":
        return refusal(
            "anthropic",
            400,
            "invalid_request_error",
            "prompt is too long: 210843 tokens > 200000 maximum",
        )
    message = "This model's maximum context length is 8192 tokens. However, your messages resulted in 10345 tokens."
    return refusal("openai", 400, "invalid_request_error", message, code="context_length_exceeded")


def windows(world: World, *sizes: int | None) -> list[Target]:
    """Return a chain of the first provider's target, another one there, and the second provider's, with these windows."""
    specs = (world.target, f"{world.first}/other", world.fallback)
    return [Target(spec, context_window=size) for spec, size in zip(specs, sizes, strict=True)]


@pytest.mark.parametrize(
    "sizes",
    [
        (None, None, None),
        (8_000, None, None),
        (8_000, 8_000, 8_000),
        (8_000, 4_000, None),
        (None, 128_000, 200_000),
    ],
)
@on(*CROSSWISE)
@pytest.mark.parametrize("on_request_error", ["next", "raise"])
def test_trap_36_a_request_too_long_is_one_clear_error_when_nobody_is_known_to_take_more(
    on_request_error: str, sizes: tuple[int | None, ...], world: World, clock: FakeClock
) -> None:
    """One request in all; the client's own error leaves as it is."""
    world.sick.says(too_long(world.first))

    with pytest.raises(world.package.BadRequestError) as caught:
        world.ask(windows(world, *sizes), on_request_error=on_request_error)

    assert (400, None, False) == (
        caught.value.status_code,
        caught.value.__cause__,
        hasattr(caught.value, "__notes__"),
    )
    assert ((1, 0), [], {}) == (world.sent, clock.sleeps, benches())
    assert is_untouched(world.target)


def test_trap_36_a_request_too_long_goes_to_a_larger_target_only(
    world: World, clock: FakeClock
) -> None:
    """The one with the same window is passed over, the larger one answers."""
    world.sick.says(too_long(world.first))

    assert ANSWERS[world.second] == world.ask(windows(world, 8_000, 8_000, 128_000))
    assert [MODELS[world.first]] == [request.model for request in world.sick.requests]
    assert ((1, 1), [], {}) == (world.sent, clock.sleeps, benches())


def test_trap_36_what_was_too_long_twice_needs_more_than_both(
    world: World, clock: FakeClock
) -> None:
    """After 8,000 and 64,000 only 128,000 is asked; without it the second error leaves."""
    world.sick.says(too_long(world.first))

    assert ANSWERS[world.second] == world.ask(windows(world, 8_000, 64_000, 128_000))
    assert [MODELS[world.first], "other"] == [request.model for request in world.sick.requests]
    with pytest.raises(world.package.BadRequestError):
        world.ask(windows(world, 8_000, 64_000, 64_000))
    assert (4, 1) == world.sent


def test_trap_36_a_larger_target_that_is_benched_is_none(world: World, clock: FakeClock) -> None:
    """Nobody waits for it: the error leaves at once."""
    bench_model(world.fallback)
    world.sick.says(too_long(world.first))

    with pytest.raises(world.package.BadRequestError):
        world.ask(windows(world, 8_000, 8_000, 128_000))

    assert ((1, 0), []) == (world.sent, clock.sleeps)


@on(*CROSSWISE)
def test_trap_36_a_breaker_does_not_mind_a_request_too_long(world: World, clock: FakeClock) -> None:
    """Six of them leave it closed and healthy."""
    world.sick.says(too_long(world.first))

    world.guard(fails=world.package.BadRequestError, times=6)

    assert ("closed", True) == (breaker(world.target).state, is_untouched(world.target))


# --- 37: what passes through --------------------------------------------------------------------


def raising(world: World, interruption: type[BaseException]) -> dict[str, Any]:
    """Return options of a client inside which an interruption arrives when the answer has begun."""

    def hook(response: Any) -> None:
        raise interruption

    async def ahook(response: Any) -> None:
        raise interruption

    return {"hooks": {"response": [hook if world.way == "sync" else ahook]}}


INTERRUPTIONS = [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
every_interruption = pytest.mark.parametrize(
    "interruption", INTERRUPTIONS, ids=lambda one: one.__name__
)


@every_interruption
def test_trap_37_an_interruption_inside_a_client_passes_through_a_chain(
    interruption: type[BaseException], world: World, clock: FakeClock
) -> None:
    """It leaves after one request, counts for nothing, and nobody else is asked, though the answer was an overload."""
    world.sick.says(overloaded(world.first))

    with pytest.raises(interruption):
        world.ask(client=raising(world, interruption))

    assert ((1, 0), [], {}) == (world.sent, clock.sleeps, benches())
    assert (0, True) == (health([world.target])[world.target].total, is_untouched(world.target))


@every_interruption
def test_trap_37_an_interruption_inside_a_client_passes_through_a_breaker(
    interruption: type[BaseException], world: World, clock: FakeClock
) -> None:
    """Six in a row count for nothing; on probation the probe's place is free again."""
    world.guard(fails=interruption, times=6, client=raising(world, interruption))
    assert ("closed", 0, {}) == (
        breaker(world.target).state,
        health([world.target])[world.target].total,
        benches(),
    )

    world.sick.says(overloaded(world.first))
    world.guard(fails=world.package.APIStatusError, failures=1)
    world.sick.says(FAIR)
    clock.advance(33)
    world.guard(fails=interruption, client=raising(world, interruption))

    assert "half_open" == breaker(world.target).state
    assert ANSWERS[world.first] == world.guard()
    assert "closed" == breaker(world.target).state


def interrupt() -> None:
    """Press Ctrl-C in the main thread."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@pytest.fixture
def _heeded_ctrl_c() -> Iterator[None]:
    """Python's own handler, which whoever started the tests in the background may have switched off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeded_ctrl_c")
@pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="no way to press Ctrl-C from another thread"
)
@pytest.mark.parametrize("form", ["ask", "guard"])
def test_trap_37_ctrl_c_while_a_client_waits(form: str, world: World, clock: FakeClock) -> None:
    """KeyboardInterrupt leaves, no connection is left open, and nothing is counted."""
    world.sick.says(Silence(on_request=interrupt))

    with pytest.raises(KeyboardInterrupt):
        getattr(world, form)()

    assert world.sick.is_left_alone()
    assert ((1, 0), [], {}) == (world.sent, clock.sleeps, benches())
    assert 0 == health([world.target])[world.target].total


TASKS = ("openai-asyncio", "openai-trio", "anthropic-asyncio", "anthropic-trio")


def in_the_background(world: World, clients: dict[str, Any], form: str) -> Callable[[], Any]:
    """Return a coroutine function that asks the first target through a chain or a breaker."""

    async def guarded() -> None:
        async with breaker(world.target):
            await create(clients[world.first], MODELS[world.first])

    @failover([world.target, world.fallback], attempt_timeout=30)
    async def ask(target: Target) -> None:
        await create(clients[target.provider], target.model)

    return {"chain": ask, "breaker": guarded}[form]


@on(*TASKS)
@pytest.mark.parametrize("form", ["chain", "breaker"])
def test_trap_37_a_cancelled_task_leaves_no_connection_open(
    form: str, world: World, clock: FakeClock
) -> None:
    """Cancelled in the middle of a request: it is given up at the provider too, nobody else is asked, nothing counts."""
    world.sick.says(Silence())

    async def use(clients: dict[str, Any]) -> tuple[int, bool]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_the_background(world, clients, form))
            assert await anyio.to_thread.run_sync(world.sick.hears, 1)
            under_way = world.sick.open_connections
            tasks.cancel_scope.cancel()
        # The clients are still open here.
        return under_way, await anyio.to_thread.run_sync(world.sick.is_left_alone)

    assert (1, True) == world.use(use)
    assert ((1, 0), [], {}) == (world.sent, clock.sleeps, benches())
    assert (0, True) == (health([world.target])[world.target].total, is_untouched(world.target))


@on(*ASYNC)
@pytest.mark.parametrize("form", ["chain", "breaker"])
def test_trap_37_the_one_who_cancels_sees_the_cancellation(
    form: str, world: World, clock: FakeClock
) -> None:
    """``task.cancel()`` ends in CancelledError, and ``asyncio.timeout`` around a call in its TimeoutError."""
    world.sick.says(Silence())

    async def use(clients: dict[str, Any]) -> None:
        ask = in_the_background(world, clients, form)
        task = asyncio.create_task(ask())
        assert await asyncio.to_thread(world.sick.hears, 1)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task

        async def ends(limit: asyncio.Timeout) -> None:
            assert await asyncio.to_thread(world.sick.hears, 2)
            limit.reschedule(0)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                ending = asyncio.create_task(ends(limit))
                await ask()
        await ending

    world.use(use)

    assert ((2, 0), [], {}) == (world.sent, clock.sleeps, benches())
    assert 0 == health([world.target])[world.target].total


@on(*TASKS)
def test_trap_37_a_cut_off_by_the_chain_itself_is_a_timeout(world: World, clock: FakeClock) -> None:
    """Our own cancellation at the end of ``attempt_timeout`` is no cancellation: it is counted, and the next target answers."""
    world.sick.says(Silence())

    async def use(clients: dict[str, Any]) -> bool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_the_background(world, clients, "chain"))
            assert await anyio.to_thread.run_sync(world.sick.hears, 1)
            clock.advance(30)
        return await anyio.to_thread.run_sync(world.sick.is_left_alone)

    with capture_events(AttemptFailed) as failures:
        assert world.use(use)

    assert [("transient", "timeout")] == [(event.kind.value, event.reason) for event in failures]
    assert ((1, 1), []) == (world.sent, clock.sleeps)
    assert 1 == health()[world.target].consecutive_failures
