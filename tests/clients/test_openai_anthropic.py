"""The real openai and anthropic clients, sync, on asyncio and on trio, against servers on loopback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import pytest

from resilient_llm import (
    AttemptFailed,
    BreakerOpenError,
    ChainExhaustedError,
    ErrorKind,
    Target,
    breaker,
    failover,
    health,
    is_benched,
    list_benched,
)
from resilient_llm.demo.servers import Condition, Server
from resilient_llm.testing import FakeClock, capture_events

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

MESSAGES = [{"role": "user", "content": "Will it rain?"}]
PACKAGES = {"openai": openai, "anthropic": anthropic}
OTHER = {"openai": "anthropic", "anthropic": "openai"}
MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-haiku"}
TARGETS = {provider: f"{provider}/{model}" for provider, model in MODELS.items()}


class World:
    """Both providers on loopback, and one way to call them.

    Attributes:
        first: Provider of the first target; the other one is second.
        way: ``sync``, ``asyncio`` or ``trio``.
        servers: ``{provider: its server}``.
    """

    def __init__(self, first: str, way: str, servers: dict[str, Server]) -> None:
        self.first = first
        self.second = OTHER[first]
        self.way = way
        self.servers = servers
        self.chain = [TARGETS[self.first], TARGETS[self.second]]

    @property
    def sick(self) -> Server:
        return self.servers[self.first]

    def client(self, provider: str, *, max_retries: int = 0) -> Any:
        package = PACKAGES[provider]
        name = {"openai": "OpenAI", "anthropic": "Anthropic"}[provider]
        prefix = "" if self.way == "sync" else "Async"
        http_client = getattr(package, f"Default{prefix}HttpxClient")(trust_env=False)
        return getattr(package, prefix + name)(
            base_url=self.servers[provider].url,
            api_key="not-a-key",
            max_retries=max_retries,
            http_client=http_client,
        )

    def ask(self, use: Callable[[dict[str, Any]], Any], *, max_retries: int = 0) -> Any:
        """Make a client for each provider, hand them to ``use``, wait for what it gives, and close them.

        On asyncio and trio, all in one event loop.
        """
        if self.way == "sync":
            clients = {
                provider: self.client(provider, max_retries=max_retries) for provider in TARGETS
            }
            try:
                return use(clients)
            finally:
                for client in clients.values():
                    client.close()

        async def story() -> Any:
            clients = {
                provider: self.client(provider, max_retries=max_retries) for provider in TARGETS
            }
            try:
                return await use(clients)
            finally:
                for client in clients.values():
                    with anyio.CancelScope(shield=True):
                        await client.close()

        return anyio.run(story, backend=self.way)

    def call(self, *, max_retries: int = 0, **policy: Any) -> str:
        """Call a decorated function once; return the model that answered."""
        if self.way == "sync":

            def use_sync(clients: dict[str, Any]) -> Any:
                @failover(self.chain, **policy)
                def ask(target: Target, prompt: str) -> str:
                    return create(clients, target.provider, prompt).model

                return ask("Will it rain?")

            return self.ask(use_sync, max_retries=max_retries)

        async def use(clients: dict[str, Any]) -> Any:
            @failover(self.chain, **policy)
            async def ask(target: Target, prompt: str) -> str:
                return (await create(clients, target.provider, prompt)).model

            return await ask("Will it rain?")

        return self.ask(use, max_retries=max_retries)


def create(clients: dict[str, Any], provider: str, prompt: str) -> Any:
    """Send a request with a provider's client; the async ones give an awaitable."""
    messages = [{"role": "user", "content": prompt}]
    if provider == "openai":
        return clients[provider].chat.completions.create(model=MODELS[provider], messages=messages)
    return clients[provider].messages.create(
        model=MODELS[provider], messages=messages, max_tokens=50
    )


def method(client: Any) -> Any:
    """Return the client's own method, as a target's ``call=``."""
    return client.chat.completions.create if hasattr(client, "chat") else client.messages.create


@pytest.fixture(params=["sync", "asyncio", "trio"])
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "trio":
        pytest.importorskip("trio")
    return request.param


@pytest.fixture(params=["openai", "anthropic"])
def world(request: pytest.FixtureRequest, way: str, clock: FakeClock) -> Iterator[World]:
    with ExitStack() as stack:
        servers = {
            "openai": stack.enter_context(Server("openai")),
            "anthropic": stack.enter_context(Server("anthropic")),
        }
        yield World(request.param, way, servers)


def test_the_first_target_answers(world: World) -> None:
    """In fair weather only the first target is called."""
    assert MODELS[world.first] == world.call()
    assert 0 == len(world.servers[world.second].requests)


def test_overload_is_retried_then_moves_on(world: World) -> None:
    """A 503 or 529 is tried three times, benches the target alone, and the other provider answers."""
    world.sick.switch(Condition.OVERLOADED)

    with capture_events(AttemptFailed) as failures:
        answered = world.call()

    assert MODELS[world.second] == answered
    assert 3 == len(world.sick.requests)
    assert {("overloaded", 503 if world.first == "openai" else 529)} == {
        (e.reason, e.status) for e in failures
    }
    assert [TARGETS[world.first]] == [each.model for each in list_benched()]


def test_a_refused_connection_is_the_providers(world: World) -> None:
    """A server that is not there is charged to the provider, and the other one answers."""
    world.sick.switch(Condition.REFUSED)

    answered = world.call()

    assert MODELS[world.second] == answered
    assert [(world.first, ErrorKind.TRANSIENT, "network")] == [
        (b.model, b.kind, b.reason) for b in list_benched()
    ]


@pytest.mark.slow
def test_it_is_used_again_when_it_is_back(world: World, clock: FakeClock) -> None:
    """After an outage and its cooldown the first target serves again."""
    world.sick.switch(Condition.REFUSED)
    world.call()
    world.sick.switch(Condition.OK)

    during = world.call()
    clock.advance(60)
    after = world.call()

    assert (MODELS[world.second], MODELS[world.first]) == (during, after)
    assert [] == list_benched()


def test_a_dead_key_benches_the_provider_at_once(world: World) -> None:
    """One 401 is enough: the provider is benched for the longest cooldown."""
    world.sick.switch(Condition.DEAD_KEY)

    answered = world.call()

    (bench,) = list_benched()
    assert MODELS[world.second] == answered
    assert 1 == len(world.sick.requests)
    assert (world.first, ErrorKind.AUTH_DEAD, "invalid_credentials") == (
        bench.model,
        bench.kind,
        bench.reason,
    )
    assert bench.remaining is not None
    assert 300 <= bench.remaining <= 330


@pytest.mark.slow
def test_a_rate_limit_benches_for_what_the_provider_asked(world: World, clock: FakeClock) -> None:
    """A 429 is not retried: the target sits out its Retry-After and is used again after it."""
    world.sick.switch(Condition.RATE_LIMITED, retry_after=42)
    first = world.call()
    (bench,) = list_benched()
    world.sick.switch(Condition.OK)

    clock.advance(41)
    before_the_end = world.call()
    clock.advance(2)
    after = world.call()

    assert (TARGETS[world.first], ErrorKind.RATE_LIMITED, 42.0) == (
        bench.model,
        bench.kind,
        bench.remaining,
    )
    assert [MODELS[world.second], MODELS[world.second], MODELS[world.first]] == [
        first,
        before_the_end,
        after,
    ]
    assert 2 == len(world.sick.requests)


def test_a_bad_request_goes_to_the_next(world: World) -> None:
    """A 400 may be fine elsewhere: the other target is asked, and nobody's health suffers."""
    world.sick.switch(Condition.BAD_REQUEST)

    assert MODELS[world.second] == world.call()
    assert 1 == len(world.sick.requests)
    assert [] == list_benched()
    assert 0 == health()[TARGETS[world.first]].consecutive_failures


def test_a_bad_request_is_raised_if_asked_for(world: World) -> None:
    """With ``on_request_error="raise"`` the client's own error leaves as it is."""
    world.sick.switch(Condition.BAD_REQUEST)

    with pytest.raises(PACKAGES[world.first].BadRequestError) as raised:
        world.call(on_request_error="raise")

    assert 400 == raised.value.status_code
    assert 0 == len(world.servers[world.second].requests)


def test_nobody_answers(world: World) -> None:
    """When both fail, the group holds each client's own error in the order of the chain."""
    world.sick.switch(Condition.DEAD_KEY)
    world.servers[world.second].switch(Condition.OVERLOADED)

    with pytest.raises(ChainExhaustedError) as raised:
        world.call()

    first, second = raised.value.exceptions
    assert isinstance(first, PACKAGES[world.first].AuthenticationError)
    assert isinstance(second, PACKAGES[world.second].InternalServerError)


def test_a_clients_own_method_is_a_targets_call(world: World) -> None:
    """``create`` of a client is called with the target's model and params, and fails over like any function."""
    world.sick.switch(Condition.OVERLOADED)

    def use(clients: dict[str, Any]) -> Any:
        chain = [
            Target(
                TARGETS[world.first], call=method(clients[world.first]), params={"max_tokens": 20}
            ),
            Target(
                TARGETS[world.second],
                call=method(clients[world.second]),
                params={"max_tokens": 30, "extra_body": {"top_k": 5}, "service_tier": Target.UNSET},
            ),
        ]
        return failover(chain)(never)(messages=MESSAGES, service_tier="auto")

    if world.way == "sync":

        def never(*, messages: Any, service_tier: str) -> Any:
            raise AssertionError("every target has a call of its own")
    else:

        async def never(*, messages: Any, service_tier: str) -> Any:
            raise AssertionError("every target has a call of its own")

    answer = world.ask(use)

    (sent,) = world.servers[world.second].requests
    assert MODELS[world.second] == answer.model
    assert [(20, "auto")] * 3 == [
        (each.body["max_tokens"], each.body["service_tier"]) for each in world.sick.requests
    ]
    assert MODELS[world.second] == sent.body["model"]
    assert (30, 5) == (sent.body["max_tokens"], sent.body["top_k"])
    assert "service_tier" not in sent.body


def test_policy_call_takes_a_clients_method(world: World) -> None:
    """``policy.call(client.….create)`` needs no function of one's own; an async client's gives an awaitable."""
    policy = failover(TARGETS[world.first])

    answer = world.ask(
        lambda clients: policy.call(method(clients[world.first]), messages=MESSAGES, max_tokens=20)
    )

    assert MODELS[world.first] == answer.model


def test_a_client_that_retries_is_named_where_the_chain_is_written(world: World) -> None:
    """A target's ``call=`` of a client with ``max_retries=2`` is a warning at decoration."""

    def build(clients: dict[str, Any]) -> None:
        with pytest.warns(
            UserWarning, match=f"the client of {TARGETS[world.first]} has max_retries=2"
        ):
            failover([Target(TARGETS[world.first], call=method(clients[world.first]))])

    async def abuild(clients: dict[str, Any]) -> None:
        build(clients)

    world.ask(build if world.way == "sync" else abuild, max_retries=2)


@pytest.mark.slow
def test_a_clients_own_retries_are_noticed_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors of requests that the client had retried by itself are told of in one line for each provider."""
    # The client obeys this, and would wait for half a second otherwise.
    world.sick.switch(Condition.OVERLOADED, retry_after=0.01)

    with caplog.at_level(logging.WARNING, logger="resilient_llm"):
        world.call(max_retries=1, attempts=1)
        world.call(max_retries=1, attempts=1)

    told = [record for record in caplog.records if "retried by itself" in record.getMessage()]
    assert 1 == len(told)
    assert f"the client of {world.first} retried by itself" in told[0].getMessage()


def test_a_breaker_around_a_client_opens(world: World) -> None:
    """Overloads are counted by ``with breaker``, which then sends nothing more."""
    world.sick.switch(Condition.OVERLOADED)
    key = TARGETS[world.first]
    overloaded = PACKAGES[world.first].InternalServerError

    def use(clients: dict[str, Any]) -> None:
        for _ in range(2):
            with pytest.raises(overloaded), breaker(key, failures=2):
                create(clients, world.first, "Will it rain?")
        with pytest.raises(BreakerOpenError), breaker(key):
            create(clients, world.first, "Will it rain?")

    async def ause(clients: dict[str, Any]) -> None:
        for _ in range(2):
            with pytest.raises(overloaded):
                async with breaker(key, failures=2):
                    await create(clients, world.first, "Will it rain?")
        with pytest.raises(BreakerOpenError):
            async with breaker(key):
                await create(clients, world.first, "Will it rain?")

    world.ask(use if world.way == "sync" else ause)

    assert 2 == len(world.sick.requests)
    assert is_benched(key)


@pytest.mark.parametrize("way", ["asyncio", "trio"], indirect=True)
def test_a_cancelled_probe_leaves_its_place(world: World, clock: FakeClock) -> None:
    """Cancelled while the one probe is on its way, the place is free again and the next call takes it."""
    world.sick.switch(Condition.DEAD_KEY)
    world.call()
    clock.advance(331)
    world.sick.switch(Condition.SILENT)
    world.sick.requests.clear()

    async def use(clients: dict[str, Any]) -> str:
        @failover(world.chain)
        async def ask(target: Target, prompt: str) -> str:
            return (await create(clients, target.provider, prompt)).model

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "Will it rain?")
            while not world.sick.requests:  # noqa: ASYNC110  # it arrives over a real socket, in another thread
                await anyio.sleep(0.001)
            state_in_flight = breaker(world.first).state
            tasks.cancel_scope.cancel()
        world.sick.switch(Condition.OK)
        assert "half_open" == state_in_flight
        assert "half_open" == breaker(world.first).state
        return await ask("Will it rain?")

    assert MODELS[world.first] == world.ask(use)
    assert "closed" == breaker(world.first).state
    assert 0 == health()[TARGETS[world.first]].errors
