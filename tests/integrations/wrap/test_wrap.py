"""What `wrap` promises of the client that it returns: choice of models, attributes, copies, end."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import logging
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from resilient_llm import (
    AttemptFailed,
    BreakerOpenError,
    ChainExhaustedError,
    ConfigurationError,
    FailedOver,
    Failover,
    StreamPolicy,
    Target,
    Trace,
    bench_model,
    chains,
    configure,
)
from resilient_llm._runtime.chains import living_policies
from resilient_llm.integrations import policy_of, wrap
from resilient_llm.testing import capture_events
from tests.integrations.wrap.providers import TEXT, AnyProvider

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
groq = pytest.importorskip("groq")
genai = pytest.importorskip("google.genai")

MESSAGES: Any = [{"role": "user", "content": "Why is the sky blue?"}]
CHAIN = ["one/model-1", "two/model-2", "two/model-3"]


class World:
    """Two providers and a wrapped client of them."""

    def __init__(self, one: AnyProvider, two: AnyProvider) -> None:
        self.one = one
        self.two = two
        self._made: list[Any] = []

    def client(self, server: AnyProvider, kind: str = "OpenAI", **options: Any) -> Any:
        given = {"max_retries": 0, "api_key": "not-a-key", **options}
        made = getattr(openai, kind)(base_url=f"{server.root}/v1", **given)
        self._made.append(made)
        return made

    def clients(self, kind: str = "OpenAI", **options: Any) -> dict[str, Any]:
        return {
            "one": self.client(self.one, kind, **options),
            "two": self.client(self.two, kind, **options),
        }

    def wrap(self, chain: Any = CHAIN, **options: Any) -> Any:
        return wrap(self.clients(), chain=chain, attempts=1, **options)

    def asked(self) -> list[str]:
        """Return the models that were asked for, those of the first provider first."""
        return [*self.one.models, *self.two.models]

    def close(self) -> None:
        for client in self._made:
            closing = client.close()
            if inspect.isawaitable(closing):
                asyncio.run(_awaited(closing))


async def _awaited(closing: Any) -> None:
    await closing


@pytest.fixture
def world() -> Iterator[World]:
    with AnyProvider() as one, AnyProvider() as two:
        made = World(one, two)
        yield made
        made.close()


def ask(client: Any, **given: Any) -> Any:
    return client.chat.completions.create(messages=MESSAGES, **given)


# --- which targets a model stands for ----------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"model": "auto"}, {"model": openai.NOT_GIVEN}])
def test_no_model_and_auto_follow_the_chain(world: World, given: dict[str, Any]) -> None:
    """A call without a model, or with auto, goes to the first target of the chain."""
    assert ask(world.wrap(), **given).model == "model-1"
    assert world.asked() == ["model-1"]


def test_a_model_of_the_chain_goes_first(world: World) -> None:
    """A bare name of the chain is tried first, and the rest of the chain follows in its order."""
    client = world.wrap()
    assert ask(client, model="model-3").model == "model-3"
    world.two.fails(503)
    assert ask(client, model="model-3").model == "model-1"
    assert world.asked() == ["model-1", "model-3", "model-3"]


def test_several_targets_of_one_model_go_first(world: World) -> None:
    """All targets of the named model come before the others, in declared order."""
    client = world.wrap(chain=["one/a", "one/b", "two/b"])
    world.one.fails(503)
    assert ask(client, model="b").model == "b"
    assert (world.one.models, world.two.models) == (["b"], ["b"])
    world.one.fails(503, 503)
    world.two.fails(503)
    with pytest.raises(openai.InternalServerError):
        ask(client, model="b")
    assert world.one.models[1:] == ["b", "a"]
    assert world.two.models[1:] == ["b"]


def _backwards(targets: Sequence[Target]) -> list[Target]:
    return list(targets)[::-1]


@pytest.mark.parametrize(
    "strategy", ["round_robin", "random", "weighted", "least_busy", _backwards]
)
def test_a_model_goes_first_under_each_strategy(world: World, strategy: Any) -> None:
    """The strategy orders what comes after the named model."""
    client = world.wrap(strategy=strategy)
    for _ in range(6):
        assert ask(client, model="model-2").model == "model-2"


def test_priorities_do_not_beat_the_named_model(world: World) -> None:
    """A target of the named model is tried before one with a lower priority."""
    chain = [Target("one/model-1", priority=-5), Target("two/model-2", priority=9)]
    assert ask(world.wrap(chain=chain), model="model-2").model == "model-2"


def test_the_named_model_keeps_its_options(world: World) -> None:
    """The params of a target hold for it when its model is named."""
    chain = [Target("one/model-1"), Target("two/model-2", params={"temperature": 0.25})]
    ask(world.wrap(chain=chain), model="model-2", temperature=0.75)
    assert world.two.requests[0].body["temperature"] == 0.25


def test_a_spec_pins_the_call(world: World) -> None:
    """A spec with a client is the only target that is called, also one that the chain lacks."""
    client = world.wrap()
    assert ask(client, model="two/model-9").model == "model-9"
    world.two.fails(503)
    with pytest.raises(openai.InternalServerError):
        ask(client, model="two/model-2")
    assert world.asked() == ["model-9", "model-2"]


def test_a_spec_of_an_account_pins_to_its_client(world: World) -> None:
    """An account has a client of its own, under its whole key."""
    clients = {"one": world.client(world.one), "one@eu": world.client(world.two)}
    client = wrap(clients, chain=["one/m", "one@eu/m"], attempts=1)
    ask(client, model="one@eu/m")
    assert (world.one.models, world.two.models) == ([], ["m"])
    world.one.fails(503)
    assert ask(client).model == "m"
    assert (len(world.one.models), len(world.two.models)) == (1, 2)


def test_an_alias_is_its_chain(world: World) -> None:
    """A name stands for its chain, looked up by each call."""
    client = world.wrap()
    chains.define({"fast": "two/model-7"})
    assert ask(client, model="@fast").model == "model-7"
    chains.define({"fast": "one/model-8"})
    assert ask(client, model="@fast").model == "model-8"
    with pytest.raises(ConfigurationError, match=r"@fats.*did you mean '@fast'"):
        ask(client, model="@fats")


def test_the_chain_itself_may_be_a_name(world: World) -> None:
    """A wrapped client follows a name that is defined again, with its models and pins."""
    chains.define({"main": "one/a, two/b"})
    client = world.wrap(chain="@main")
    assert ask(client, model="b").model == "b"
    chains.define({"main": "two/c, one/d"})
    assert ask(client).model == "c"
    assert ask(client, model="d").model == "d"
    with pytest.raises(ValueError, match="'c', 'd'"):
        ask(client, model="b")


def test_a_target_that_a_name_adds_without_a_client_is_passed_over(world: World) -> None:
    """A change of a chain that names a provider without a client stops no call."""
    chains.define({"main": "one/a"})
    client = world.wrap(chain="@main")
    chains.define({"main": "three/x, one/a"})
    with capture_events() as events:
        assert ask(client).model == "a"
    failed = [event for event in events if isinstance(event, AttemptFailed)]
    assert [(event.target, event.reason) for event in failed] == [("three/x", "rejected")]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("model-4", "model='model-4': expected 'auto', 'model-1', 'model-2', 'model-3'"),
        ("modle-2", "did you mean 'model-2'"),
        ("three/model-1", "a spec with a client"),
        ("", "model=''"),
        (None, "model of type NoneType"),
        (7, "model of type int"),
    ],
)
def test_any_other_model_is_an_error(world: World, model: Any, message: str) -> None:
    """What stands for no target is a ValueError that lists what does, and nothing is sent."""
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        ask(world.wrap(), model=model)
    assert world.asked() == []


def test_policies_are_kept_and_bounded(world: World) -> None:
    """A client that is given many names keeps the policies of the last of them."""
    client = world.wrap()
    for number in range(300):
        ask(client, model=f"one/model-{number}")
    gc.collect()
    policies = [each for each in gc.get_objects() if type(each) is Failover]
    assert 200 < len(policies) < 300


# --- what callers catch ------------------------------------------------------------------------


def test_callers_catch_the_errors_of_the_sdk(world: World) -> None:
    """The last target's own error leaves, unless reraise is False."""
    world.one.fails(503)
    world.two.fails(503, 400)
    with pytest.raises(openai.BadRequestError):
        ask(world.wrap())
    world.one.fails(400)
    world.two.fails(400, 400)
    with pytest.raises(ChainExhaustedError):
        ask(world.wrap(reraise=False))


def test_if_none_was_called_the_chain_is_exhausted(world: World) -> None:
    """With every target benched there is no error of the SDK to raise."""
    client = world.wrap()
    bench_model("one")
    bench_model("two")
    with pytest.raises(ChainExhaustedError) as raised:
        ask(client)
    assert isinstance(raised.value.last_error, BreakerOpenError)


def test_options_are_those_of_failover(world: World) -> None:
    """Options reach the policy, whose calls are traced as any others."""

    def is_of_the_first(reply: Any) -> bool:
        return reply.model == "model-1"

    client = world.wrap(reject=is_of_the_first)
    with Trace() as trace:
        assert ask(client).model == "model-2"
    assert [each.target for each in trace.calls[0].attempts] == ["one/model-1", "two/model-2"]
    assert policy_of(client) is policy_of(client.chat.completions)
    assert isinstance(policy_of(client), Failover)


# --- how it looks ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["OpenAI", "AsyncOpenAI"])
def test_it_looks_like_the_sdks_own(world: World, kind: str) -> None:
    """isinstance, coroutine functions, signatures and docstrings are those of the SDK."""
    clients = world.clients(kind)
    own = clients["one"]
    client = wrap(clients, chain=CHAIN)
    assert isinstance(client, getattr(openai, kind))
    assert isinstance(client.chat.completions, type(own.chat.completions))
    for path in (
        "chat.completions.create",
        "chat.completions.parse",
        "chat.completions.stream",
        "responses.create",
        "responses.parse",
        "embeddings.create",
        "chat.completions.with_raw_response.create",
        "chat.completions.with_streaming_response.create",
        "close",
        "with_options",
    ):
        mine, theirs = _at(client, path), _at(own, path)
        assert inspect.iscoroutinefunction(mine) is inspect.iscoroutinefunction(theirs), path
        assert inspect.signature(mine) == inspect.signature(theirs), path
        assert mine.__name__ == theirs.__name__
        assert mine.__doc__ == theirs.__doc__
    assert "chat" in dir(client)
    assert str(client.base_url) == str(own.base_url)


def _at(holder: Any, path: str) -> Any:
    for name in path.split("."):
        holder = getattr(holder, name)
    return holder


def test_resources_are_the_same_object_each_time(world: World) -> None:
    """A resource is made once, also by many threads at once."""
    client = world.wrap()
    assert client.chat is client.chat
    assert client.chat.completions is client.chat.completions
    assert client.with_raw_response.chat is client.with_raw_response.chat
    for _ in range(50):
        fresh = world.wrap()
        gate = threading.Barrier(4)
        seen: list[Any] = []

        def look(fresh: Any = fresh, gate: Any = gate, seen: Any = seen) -> None:
            gate.wait()
            seen.append(fresh.chat.completions)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(each) for each in seen}) == 1


def test_attributes_that_are_set_stay(world: World) -> None:
    """A patch of a method, as tracers do it, and any other attribute stays where it was set."""
    client = world.wrap()
    inner = client.chat.completions.create
    calls: list[str] = []

    def traced(**given: Any) -> Any:
        calls.append(given["model"])
        return inner(**given)

    client.chat.completions.create = traced
    client.label = "mine"
    client.chat.note = 7
    assert ask(client, model="auto").model == "model-1"
    assert calls == ["auto"]
    assert (client.label, client.chat.note) == ("mine", 7)
    del client.chat.completions.create
    ask(client, model="auto")
    assert calls == ["auto"]
    with pytest.raises(AttributeError):
        client.no_such_thing  # noqa: B018  # looked up


def test_a_client_without_retries_is_used_itself(world: World) -> None:
    """Later patches of it, and a later key, hold; the log has no line about it."""
    clients = world.clients()
    client = wrap(clients, chain=CHAIN)
    clients["one"].api_key = "another-key"
    seen: list[str] = []
    create = clients["one"].chat.completions.create

    def patched(**given: Any) -> Any:
        seen.append(given["model"])
        return create(**given)

    clients["one"].chat.completions.create = patched
    ask(client, model="auto")
    assert seen == ["model-1"]
    assert world.one.requests[0].headers["authorization"] == "Bearer another-key"


def test_a_client_with_retries_is_copied(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Its copy does not retry, one INFO line names it, and the client itself is left as it was."""
    clients = {"one": world.client(world.one, max_retries=5), "two": world.client(world.two)}
    with caplog.at_level(logging.INFO, logger="resilient_llm"):
        client = wrap(clients, chain=CHAIN, attempts=1)
    lines = [record for record in caplog.records if "max_retries=0" in record.getMessage()]
    assert [(record.levelname, "the client of one" in record.getMessage()) for record in lines] == [
        ("INFO", True)
    ]
    world.one.fails(503, 503)
    assert ask(client).model == "model-2"
    assert len(world.one.requests) == 1
    assert clients["one"].max_retries == 5


def test_a_patch_that_a_copy_loses_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A tracer that patched the object itself is not in the copy: one WARNING names the method."""
    traced = world.client(world.one, max_retries=2)
    traced.chat.completions.create = traced.chat.completions.create
    plain = world.client(world.two, max_retries=2)
    with caplog.at_level(logging.WARNING, logger="resilient_llm"):
        client = wrap({"one": traced, "two": plain}, chain=CHAIN)
    (record,) = caplog.records
    assert "chat.completions.create of the client of one was replaced" in record.getMessage()
    assert ask(client).model == "model-1"


def test_limits_of_streams_leave_whole_answers_alone(world: World) -> None:
    """A limit for the first content holds for calls that ask for a stream, and for no others."""
    client = world.wrap(stream=StreamPolicy(first_item_timeout=0.2))
    gate = threading.Timer(0.6, world.one.release)
    world.one.holds = True
    gate.start()
    assert ask(client).model == "model-1"
    gate.join()
    world.one.is_released = False
    with ask(client, stream=True) as chunks:
        assert next(iter(chunks)).model == "model-2"
    world.one.release()


def test_wrapped_clients_have_names_of_their_providers(world: World) -> None:
    """Metrics tell two wrapped clients of one SDK apart, and name few of many keys."""
    clients = {f"p{number}": world.client(world.one) for number in range(6)}
    first = wrap({"p0": clients["p0"]}, chain="p0/a")
    many = wrap(clients, chain="p1/b")
    ask(first)
    ask(many)
    named = {name for each in living_policies() for name in each.functions}
    assert {"wrap[p0].chat.completions.create", "wrap[p0,p1,p2,p3,+2].chat.completions.create"} <= (
        named
    )


def test_a_limit_that_is_configured_later_holds(world: World) -> None:
    """A deadline set for the process ends a sync attempt of a client that was wrapped before."""
    client = world.wrap()
    assert ask(client).model == "model-1"
    world.one.is_silent = True
    configure(timeout=2.0)
    assert ask(client).model == "model-2"
    world.one.is_silent = False
    configure(timeout=None)
    assert ask(client).model == "model-1"


def test_a_client_that_cannot_be_copied_is_refused(world: World) -> None:
    """A client that retries and whose class cannot copy itself needs max_retries=0 from its owner."""

    class Uncopied(openai.OpenAI):
        def with_options(self, **options: Any) -> Any:
            raise TypeError("no such option")

    client = Uncopied(base_url=world.one.root, api_key="k", max_retries=1)
    with pytest.raises(ConfigurationError, match=r"client of one .* build it with max_retries=0"):
        wrap({"one": client}, chain="one/m")
    client.close()


def test_the_rest_is_the_first_clients(world: World) -> None:
    """What is not guarded goes to the first client as it was given, with its retries."""
    clients = {"one": world.client(world.one, max_retries=5), "two": world.client(world.two)}
    client = wrap(clients, chain=CHAIN)
    assert client.files is clients["one"].files
    assert client.post == clients["one"].post
    assert client.max_retries == 5
    assert client.chat.completions.messages is clients["one"].chat.completions.messages


def test_a_method_that_a_client_lacks_passes_its_target_over(world: World) -> None:
    """Groq has no responses: the call goes to a client that has."""
    one = groq.Groq(base_url=world.one.root, api_key="not-a-key", max_retries=0)
    client = wrap({"one": one, "two": world.client(world.two)}, chain=CHAIN, attempts=1)
    with capture_events() as events:
        assert client.responses.create(model="auto", input="Hi").output_text == TEXT
    moved = [event for event in events if isinstance(event, FailedOver)]
    assert [(event.from_target, event.reason) for event in moved] == [("one/model-1", "rejected")]
    assert world.asked() == ["model-2"]
    one.close()


def test_a_wrapped_client_may_be_wrapped(world: World) -> None:
    """A chain of chains: the inner one is a client like any other."""
    inner = wrap({"two": world.client(world.two)}, chain="two/model-2", attempts=1)
    outer = wrap({"one": world.client(world.one), "two": inner}, chain=CHAIN[:2], attempts=1)
    world.one.fails(503)
    assert ask(outer).model == "model-2"


# --- copies ------------------------------------------------------------------------------------


def test_with_options_changes_timeout_and_attempts(world: World) -> None:
    """max_retries is attempts less one, timeout that of the clients; the client itself is kept."""
    client = world.wrap()
    for name in ("with_options", "copy"):
        changed = getattr(client, name)(timeout=7.0, max_retries=1)
        assert policy_of(changed)._declared.options.attempts == 2
        world.one.fails(503)
        assert ask(changed, model="auto").model == "model-1"
        assert isinstance(changed, openai.OpenAI)
    assert policy_of(client)._declared.options.attempts == 1
    assert len(world.one.requests) == 4


def test_with_options_takes_the_clients_own_http_client(world: World) -> None:
    """Frameworks that pass on what the client has change nothing; empty changes are none."""
    client = world.wrap()
    same = client.with_options(
        http_client=client._client, default_headers={}, api_key=None, timeout=openai.NOT_GIVEN
    )
    assert ask(same, model="auto").model == "model-1"


@pytest.mark.parametrize(
    "given",
    [
        {"api_key": "another"},
        {"base_url": "http://127.0.0.1:1"},
        {"default_headers": {"x": "secret"}},
        {"http_client": object()},
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": True},
    ],
)
def test_with_options_refuses_the_rest(world: World, given: dict[str, Any]) -> None:
    """Another key or address would be that of one provider: it is an error without the value."""
    with pytest.raises(ConfigurationError) as raised:
        world.wrap().with_options(**given)
    assert next(iter(given)) in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_copy_leaves_the_retries_of_the_rest(world: World) -> None:
    """What is not guarded retries as in a copy of the first client itself."""
    one = world.client(world.one, max_retries=1)
    client = wrap({"one": one}, chain="one/m", attempts=1)
    assert client.with_options(timeout=3.0).max_retries == 1
    changed = client.with_options(max_retries=2)
    assert changed.max_retries == 2
    world.one.fails(503)
    assert ask(changed, model="auto").model == "m"
    assert len(world.one.requests) == 2


def test_a_name_may_not_stand_for_a_call(world: World) -> None:
    """A target with a call= would be called instead of a client: it is refused in a name as well."""
    chains.define({"own": [Target("one/x", call=ask)], "main": "one/m"})
    client = world.wrap(chain="@main")
    with pytest.raises(ConfigurationError, match="call= of its own"):
        ask(client, model="@own")
    chains.define({"main": [Target("one/x", call=ask)]})
    with pytest.raises(ConfigurationError, match="call= of its own"):
        ask(client)
    assert world.asked() == []


def test_a_name_without_any_client_is_refused(world: World) -> None:
    """A name of targets of which none has a client is a ValueError that lists the clients."""
    chains.define({"far": "three/x, four/y"})
    with pytest.raises(ValueError, match=r"@far has a client: there is 'one', 'two'"):
        ask(world.wrap(), model="@far")


def test_a_pinned_client_that_lacks_a_method_says_so(world: World) -> None:
    """A call that is pinned to a client without the method is an AttributeError, as by itself."""
    one = groq.Groq(base_url=world.one.root, api_key="not-a-key", max_retries=0)
    client = wrap({"one": one, "two": world.client(world.two)}, chain=CHAIN)
    with pytest.raises(AttributeError, match="responses"):
        client.responses.create(model="one/model-1", input="Hi")
    one.close()


def test_params_may_name_the_model(world: World) -> None:
    """The params of a target win over the rest, also for the model that is sent."""
    chain = [Target("one/gpt-5", params={"model": "deployment-7"})]
    assert ask(world.wrap(chain=chain), model="auto").model == "deployment-7"


def test_a_header_that_is_left_out_is_no_credential(world: World) -> None:
    """The SDK's word for a header that is not sent passes."""
    ask(world.wrap(), extra_headers={"Authorization": openai.Omit()})
    assert len(world.one.requests) == 1


def test_copies_and_pickles(world: World) -> None:
    """A copy is a client of the same policy; what cannot be copied says so."""
    client = world.wrap()
    assert policy_of(copy.copy(client)) is policy_of(client)
    assert ask(copy.copy(client)).model == "model-1"
    for fails in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="wrap"):
            fails(client)


# --- its end -----------------------------------------------------------------------------------


def test_closing_closes_all(world: World) -> None:
    """close and with close every client; with gives the wrapper itself."""
    clients = world.clients()
    wrap(clients, chain=CHAIN).close()
    assert all(client.is_closed() for client in clients.values())
    clients = world.clients()
    client = wrap(clients, chain=CHAIN)
    with client as entered:
        assert entered is client
    assert all(each.is_closed() for each in clients.values())


def test_closing_async_clients_closes_all(world: World) -> None:
    """The same for asynchronous clients."""

    async def main() -> None:
        clients = world.clients("AsyncOpenAI")
        client = wrap(clients, chain=CHAIN)
        async with client as entered:
            assert entered is client
        assert all(each.is_closed() for each in clients.values())
        clients = world.clients("AsyncOpenAI")
        await wrap(clients, chain=CHAIN).close()
        assert all(each.is_closed() for each in clients.values())

    asyncio.run(main())


def test_a_client_that_fails_to_close_does_not_keep_others_open(world: World) -> None:
    """All are closed, and the first failure is raised."""
    clients = world.clients()

    def broken() -> None:
        raise OSError("it does not close")

    one = clients["one"]
    one.close = broken
    with pytest.raises(OSError, match="does not close"):
        wrap(clients, chain=CHAIN).close()
    assert clients["two"].is_closed()
    del one.close


@pytest.mark.parametrize("kind", ["OpenAI", "AsyncOpenAI"])
def test_an_interrupt_in_closing_leaves_before_an_error(world: World, kind: str) -> None:
    """A cancellation or an interrupt is not lost behind the error of a client closed before."""
    clients = world.clients(kind)
    client = wrap(clients, chain=CHAIN)

    def raising(error: BaseException) -> Any:
        def broken() -> None:
            raise error

        async def abroken() -> None:
            raise error

        return broken if kind == "OpenAI" else abroken

    clients["one"].close = raising(OSError("it does not close"))
    clients["two"].close = raising(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        closing = client.close()
        if kind == "AsyncOpenAI":
            asyncio.run(_awaited(closing))
    for each in clients.values():
        del each.close


def test_closing_google(world: World) -> None:
    """Both sides of a client of Google close those of all."""
    made = [
        genai.Client(api_key="k", http_options=genai.types.HttpOptions(base_url=each.root))
        for each in (world.one, world.two)
    ]
    client = wrap(dict(zip(("one", "two"), made, strict=True)), chain=CHAIN)

    async def main() -> None:
        async with client.aio as entered:
            assert entered is client.aio

    asyncio.run(main())
    with client:
        pass
    assert all(each._api_client._httpx_client.is_closed for each in made)


# --- bad input ---------------------------------------------------------------------------------


def _make(name: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(openai, name)(api_key="k", **more)


class _OtherGoogle:
    """A client of another package of Google."""


_OtherGoogle.__name__, _OtherGoogle.__module__ = "Client", "google.cloud.storage.client"

BAD: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "no clients": (dict, CHAIN, "clients is no client"),
    "a list": (lambda: [_make("OpenAI")()], CHAIN, "clients is list"),
    "unknown class": (lambda: {"one": object()}, CHAIN, "'one' is of type object"),
    "another package of Google": (lambda: {"one": _OtherGoogle()}, CHAIN, "is of type Client;"),
    "the class": (lambda: {"one": openai.OpenAI}, CHAIN, "pass the object, not its class"),
    "a blank key": (lambda: {" ": _make("OpenAI")()}, CHAIN, "not the key of a provider"),
    "a key of no text": (lambda: {7: _make("OpenAI")()}, CHAIN, "not the key of a provider"),
    "a key with a line": (lambda: {"a\nb": _make("OpenAI")()}, CHAIN, "control characters"),
    "a model as key": (lambda: {"one/m": _make("OpenAI")()}, CHAIN, "names a model"),
    "sync with async": (
        lambda: {"one": _make("OpenAI")(), "two": _make("AsyncOpenAI")()},
        CHAIN,
        "synchronous and the other one is asynchronous",
    ),
    "two protocols": (
        lambda: {"one": _make("OpenAI")(), "two": anthropic.Anthropic(api_key="k")},
        CHAIN,
        "two protocols, openai and anthropic",
    ),
    "a target without client": (
        lambda: {"one": _make("OpenAI")()},
        CHAIN,
        "'two/model-2' has no client: add one under 'two'; there is 'one'",
    ),
    "an account without client": (
        lambda: {"one": _make("OpenAI")()},
        ["one@eu/m"],
        "add one under 'one@eu'",
    ),
    "a target with call=": (
        lambda: {"one": _make("OpenAI")()},
        [Target("one/m", call=print)],
        "has a call= of its own",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_where_it_is_written(name: str) -> None:
    """Each mistake is a ConfigurationError that says what is wrong."""
    make, chain, message = BAD[name]
    with pytest.raises(ConfigurationError, match=message):
        wrap(make(), chain=chain)


@pytest.mark.parametrize("options", [{"atempts": 2}, {"attempts": 0}, {"hedge": 1.0}])
def test_options_are_checked_at_once(options: dict[str, Any]) -> None:
    """An unknown option, a value out of range and a hedge of sync clients are refused."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        wrap({"one": openai.OpenAI(api_key="k", max_retries=0)}, chain="one/m", **options)


@pytest.mark.parametrize(
    "headers", [{b"Authorization": b"secret"}, [("X-API-Key", "secret")], {"API-KEY": "secret"}]
)
def test_a_credential_is_seen_in_each_form(world: World, headers: Any) -> None:
    """Names of headers may be bytes, and headers pairs."""
    with pytest.raises(ValueError, match="credential"):
        ask(world.wrap(), extra_headers=headers)
    assert world.asked() == []


def test_policy_of_takes_wrapped_clients_only() -> None:
    """Anything else is an error that names its type."""
    with pytest.raises(ConfigurationError, match="not OpenAI"):
        policy_of(openai.OpenAI(api_key="k"))
