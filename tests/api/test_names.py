"""Names of chains and profiles: what calls find behind them, and when."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import pickle
import random
import signal
import threading
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    ChainExhaustedError,
    ConfigurationError,
    Limit,
    Target,
    Trace,
    bench_model,
    breaker,
    call_id,
    can_call,
    chains,
    configure,
    failover,
    observe,
    settings,
    strategies,
)
from resilient_llm._binding import binding, expansions, wrapper_globals
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import isolated
from tests.support.interrupts import interrupted_at

pytestmark = pytest.mark.usefixtures("resilient_llm")

GROQ, OPENAI, MISTRAL, CLAUDE = (
    "groq/llama", "openai/gpt-5-mini", "mistral/small", "anthropic/claude-sonnet",
)  # fmt: skip


def down(target: Target, *_: Any) -> str:
    raise ConnectionError(target.key)


def asking(chain: Any = "@fast", **options: Any) -> Any:
    @failover(chain=chain, **options)
    def ask(target: Target, prompt: str = "") -> str:
        return target.key

    return ask


# --- names --------------------------------------------------------------------------------------


def test_a_name_may_be_defined_after_the_decorator() -> None:
    ask = asking(["@fast", CLAUDE])
    chains.define({"fast": f"{GROQ}, {OPENAI}"})

    assert GROQ == ask("hi")
    assert [GROQ, OPENAI, CLAUDE] == [target.key for target in ask.policy.chain]


@pytest.mark.parametrize("chain", ["@fast", f"@fast, {CLAUDE}", ["@fast"], [["@fast"], CLAUDE]])
def test_a_name_may_stand_wherever_a_spec_does(chain: Any) -> None:
    chains.define({"fast": GROQ})

    assert GROQ == asking(chain)()
    assert GROQ == asking(CLAUDE).using(chain=chain)()


def test_failover_without_a_chain_means_the_default_one() -> None:
    chains.define({"fast": GROQ, "default": "@fast"})

    @failover()
    def ask(target: Target) -> str:
        return target.key

    assert GROQ == ask()


def test_every_change_holds_for_calls_that_start_afterwards() -> None:
    chains.define({"fast": GROQ})
    ask = asking()
    assert GROQ == ask()
    for chain in (OPENAI, GROQ, f"{MISTRAL}, {GROQ}", "@other"):
        chains.define({"fast": chain, "other": CLAUDE})
        assert ask.policy.chain[0].key == ask()
    assert CLAUDE == ask()


def test_asynchronous_functions_and_loops_follow_as_well() -> None:
    chains.define({"fast": GROQ})
    policy = failover(chain="@fast")

    @policy
    async def ask(target: Target) -> str:
        return target.key

    async def plain(target: Target) -> str:
        return target.key

    async def looped() -> str:
        async for attempt in policy:
            async with attempt as target:
                return target.key
        raise AssertionError

    async def all_ways() -> list[str]:
        return [await ask(), await policy.call(plain), await looped()]

    for chain in (GROQ, OPENAI):
        chains.define({"fast": chain})
        assert [chain] * 3 == asyncio.run(all_ways())


def test_generators_and_synchronous_loops_follow_as_well() -> None:
    policy = failover(chain="@fast")

    @policy
    def items(target: Target) -> Any:
        yield target.key

    for chain in (GROQ, OPENAI):
        chains.define({"fast": chain})
        assert [chain] == list(items())
        assert [chain] == [target.key for attempt in policy for target in [attempt.__enter__()]
                           if not attempt.__exit__(None, None, None)][:1]  # fmt: skip


def test_a_call_expands_its_chain_when_it_starts() -> None:
    """A stream, a coroutine and a call of a policy start when they are asked for something."""
    chains.define({"fast": GROQ})
    policy = failover(chain="@fast")

    @policy
    def items(target: Target) -> Any:
        yield target.key

    @policy
    async def ask(target: Target) -> str:
        return target.key

    async def plain(target: Target) -> str:
        return target.key

    stream, asked, called = items(), ask(), policy.call(plain)
    chains.define({"fast": OPENAI})

    assert [OPENAI] == list(stream)

    async def both() -> list[str]:
        return [await asked, await called]

    assert [OPENAI, OPENAI] == asyncio.run(both())


def test_a_running_call_keeps_its_chain() -> None:
    chains.define({"fast": f"{GROQ}, {OPENAI}"})
    called: list[str] = []

    @failover(chain="@fast", attempts=1)
    def ask(target: Target) -> str:
        called.append(target.key)
        if len(called) == 1:
            chains.define({"fast": MISTRAL})
            raise ConnectionError
        return target.key

    assert OPENAI == ask()
    assert MISTRAL == ask()


def test_a_running_stream_keeps_its_chain_and_options() -> None:
    chains.define({"fast": f"{GROQ}, {OPENAI}"})

    @failover(chain="@fast", attempts=1)
    def items(target: Target) -> Any:
        if target.key == GROQ:
            raise ConnectionError
        yield target.key
        yield target.key

    stream = items()
    assert OPENAI == next(stream)
    chains.define({"fast": MISTRAL})
    assert [OPENAI] == list(stream)
    assert [MISTRAL] * 2 == list(items())


def test_an_unknown_name_is_refused_before_any_attempt() -> None:
    chains.define({"fast": GROQ, "smart": OPENAI})
    called: list[str] = []

    @failover(chain="@fsat, groq/llama")
    def ask(target: Target) -> None:
        called.append(target.key)

    with pytest.raises(ConfigurationError) as raised:
        ask()
    message = str(raised.value)
    assert "'@fsat'" in message
    assert "@fast, @smart" in message
    assert "did you mean '@fast'?" in message
    assert [] == called
    for look in (lambda: ask.policy.chain, lambda: chains.resolve("@fsat")):
        with pytest.raises(ConfigurationError, match="@fsat"):
            look()


def test_without_names_the_message_says_so() -> None:
    with pytest.raises(ConfigurationError, match="none is defined"):
        asking("@fast")()


def test_define_takes_all_or_none() -> None:
    chains.define({"fast": GROQ})
    with pytest.raises(ConfigurationError, match=r"names\['smart'\]: .*empty"):
        chains.define({"fast": OPENAI, "smart": []})

    assert GROQ == asking()()
    assert ["fast"] == chains.names()


@pytest.mark.parametrize(
    ("names", "loop"),
    [
        ({"a": "@a"}, "@a → @a"),
        ({"a": "@b", "b": ["groq/llama", "@c"], "c": "@a"}, "@a → @b → @c → @a"),
        ({"x": "@b", "b": "@c", "c": "@b"}, "@b → @c → @b"),
        ({"a": chains.route(chains.rule("@a", has_image=True), otherwise=GROQ)}, "@a → @a"),
        ({"a": chains.route(chains.rule(GROQ, has_image=True), otherwise="@b"), "b": "@a"},
         "@a → @b → @a"),
    ],
)  # fmt: skip
def test_loops_are_refused_and_shown(names: dict[str, Any], loop: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        chains.define(names)

    assert loop in str(raised.value)
    assert [] == chains.names()


def test_a_loop_under_a_profile_is_refused_too() -> None:
    chains.define({"a": "@b", "b": GROQ})
    with pytest.raises(ConfigurationError, match="profile 'cheap': @a → @b → @a"):
        chains.define_profile("cheap", chains={"b": "@a"})
    chains.define_profile("cheap", chains={"b": OPENAI})

    chains.define({"b": "@c", "c": GROQ})
    with pytest.raises(ConfigurationError, match="@b → @c → @b"):
        chains.define({"c": "@b"})


@pytest.mark.parametrize("name", ["", "-a", ".a", "/a", "_a", "a b", "ä", "a\n", "a" * 101, "a,b"])
def test_names_that_are_not_allowed(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="1 to 100 of the characters"):
        chains.define({name: GROQ})
    with pytest.raises(ConfigurationError, match="1 to 100 of the characters"):
        chains.define_profile(name)


@pytest.mark.parametrize("name", ["a", "7", "a" * 100, "team/chat", "v1.2_x-Y"])
def test_names_that_are_allowed(name: str) -> None:
    chains.define({name: GROQ})

    assert GROQ == asking(f"@{name}")()
    assert [name] == chains.names()


def test_names_are_sorted() -> None:
    chains.define({"b": GROQ, "a": GROQ, "C": GROQ})

    assert ["C", "a", "b"] == chains.names()


def test_remove_takes_all_or_none() -> None:
    chains.define({"a": GROQ, "b": GROQ})
    with pytest.raises(ConfigurationError, match=r"'@bb' is not defined.*did you mean '@b'"):
        chains.remove("a", "bb")
    assert ["a", "b"] == chains.names()
    chains.remove("a", "b")

    assert [] == chains.names()
    with pytest.raises(ConfigurationError, match="@a"):
        asking("@a")()


def test_resolve_expands_all_names_and_each_route_whole() -> None:
    route = chains.route(chains.rule(MISTRAL, has_tools=True), otherwise="@fast")
    chains.define({"fast": f"{GROQ}, {OPENAI}", "main": route})

    found = chains.resolve(["@main", CLAUDE, GROQ])
    assert [MISTRAL, GROQ, OPENAI, CLAUDE] == [target.key for target in found]
    assert found == failover(chain=["@main", CLAUDE, GROQ]).chain
    assert [GROQ] == [target.key for target in chains.resolve(GROQ)]


def test_the_first_options_count_but_those_of_an_own_target_win() -> None:
    cold, warm, own = (Target(GROQ, params={"temperature": each}) for each in (0.1, 0.9, 0.5))
    chains.define({"cold": cold, "warm": [warm, OPENAI]})

    def temperatures(chain: Any) -> list[Any]:
        return [target.params.get("temperature") for target in chains.resolve(chain)]

    assert [0.1, None] == temperatures("@cold, @warm")
    assert [0.9, None] == temperatures("@warm, @cold")
    assert [0.5, None] == temperatures(["@warm", "@cold", own])
    assert [None, None] == temperatures([GROQ, "@warm"])  # a text comes first here


def test_check_lists_two_sets_of_options_in_one_chain() -> None:
    cold, warm = (Target(GROQ, params={"temperature": each}) for each in (0.1, 0.9))
    chains.define({"cold": cold, "warm": warm})
    both, own = asking("@cold, @warm"), asking(["@cold", "@warm", Target(GROQ)])

    (problem,) = [each for each in chains.check() if "two sets" in each]
    assert GROQ in problem
    assert "asking.<locals>.ask" in problem
    assert GROQ == both() == own()


def test_check_lists_unknown_names() -> None:
    ask = asking("@fsat")
    chains.define({"fast": GROQ})

    (problem,) = [each for each in chains.check() if "'@fsat' is not defined" in each]
    assert "did you mean '@fast'" in problem
    assert "asking.<locals>.ask" in problem
    chains.define({"fsat": "@fast"})
    assert GROQ == ask()
    assert [] == [each for each in chains.check() if "@fsat" in each and "asking" in each]


def test_names_in_a_policy_in_a_chain_stay_names() -> None:
    inner = failover(chain="@fast")
    outer = asking([inner, CLAUDE])
    chains.define({"fast": GROQ})
    assert GROQ == outer()
    chains.define({"fast": OPENAI})
    assert OPENAI == outer()


def test_a_thousand_names_in_a_row_and_doubled_names_are_expanded_once() -> None:
    """2 to the 200 paths lead to the target."""
    names: dict[str, Any] = {f"n{i}a": f"@n{i + 1}a, @n{i + 1}b" for i in range(200)}
    names |= {f"n{i}b": f"@n{i + 1}a, @n{i + 1}b" for i in range(200)}
    chains.define({**names, "n200a": GROQ, "n200b": OPENAI})

    assert [GROQ, OPENAI] == [target.key for target in chains.resolve("@n0a")]


# --- what a function must be ---------------------------------------------------------------------


def test_a_function_without_a_target_is_refused_at_decoration() -> None:
    chains.define({"fast": Target(GROQ, call=down)})
    with pytest.raises(ConfigurationError, match="is given no target"):
        failover(chain="@fast")(lambda prompt: prompt)
    with pytest.raises(ConfigurationError, match="every entry of the chain needs its own call="):
        failover(chain=Target(GROQ, call=down))(lambda prompt: prompt).using(chain="@fast")


def test_a_target_by_name_is_enough() -> None:
    chains.define({"fast": GROQ})

    @failover(chain="@fast")
    def ask(*, model: str = "") -> str:
        return model

    assert "llama" == ask()


def test_an_attempt_timeout_that_the_function_cannot_keep_is_ignored() -> None:
    chains.define({"fast": Target(GROQ, attempt_timeout=5.0)})

    assert GROQ == asking()()


def test_params_that_the_function_cannot_take_are_ignored_and_listed() -> None:
    chains.define({"fast": Target(GROQ, params={"temperature": 0.5, "prompt": "x"})})

    @failover(chain="@fast")
    def ask(prompt: str = "", *, model: str = "") -> str:
        return f"{model} {prompt}"

    assert "llama x" == ask()
    (problem,) = [each for each in chains.check() if "temperature" in each]
    assert "ask" in problem
    assert GROQ in problem


def test_an_attempt_timeout_of_the_policy_is_still_refused() -> None:
    with pytest.raises(ConfigurationError, match="attempt_timeout"):
        asking("@fast", attempt_timeout=5.0)


# --- pins ---------------------------------------------------------------------------------------


def pinnable() -> Any:
    @failover(chain=["@fast", CLAUDE])
    def ask(*, target: Target | None = None, model: str | None = None) -> str:
        assert target is not None
        return target.key

    return ask


def test_calls_are_pinned_within_the_expanded_chain() -> None:
    ask = pinnable()
    chains.define({"fast": f"{GROQ}, {OPENAI}"})
    assert OPENAI == ask(model="gpt-5-mini")
    assert OPENAI == ask(target=OPENAI)
    chains.define({"fast": GROQ})
    with pytest.raises(ValueError, match="groq/llama, anthropic/claude-sonnet"):
        ask(model="gpt-5-mini")


@pytest.mark.parametrize("name", ["target", "model"])
def test_a_name_does_not_pin(name: str) -> None:
    chains.define({"fast": GROQ})
    with pytest.raises(ValueError, match=r'\.using\(chain="@fast"\)'):
        pinnable()(**{name: "@fast"})
    with pytest.raises(ValueError, match=r'\.using\(chain="@fast"\)'):
        asking_by_model()(model="@fast")


def asking_by_model() -> Any:
    @failover(chain=GROQ)
    def ask(*, model: str = "") -> str:
        return model

    return ask


# --- profiles -----------------------------------------------------------------------------------


def test_a_profile_replaces_chains_and_defaults() -> None:
    chains.define({"fast": GROQ, "smart": OPENAI})
    chains.define_profile("cheap", chains={"fast": MISTRAL}, settings={"attempts": 1})
    ask, smart = asking(), asking("@smart")
    with chains.profile("cheap"):
        assert (MISTRAL, OPENAI) == (ask(), smart())
        assert (1, "cheap") == (settings().attempts, settings().profile)

    assert (GROQ, OPENAI) == (ask(), smart())
    assert (3, None) == (settings().attempts, settings().profile)
    assert ["cheap"] == chains.profiles()


def test_defaults_of_a_profile_hold_for_literal_chains_as_well() -> None:
    chains.define_profile("one", settings={"attempts": 1})
    calls: list[str] = []

    @failover(chain=GROQ, backoff=lambda _: 0.0, reraise=True)
    def ask(target: Target) -> None:
        calls.append(target.key)
        raise ConnectionError

    with chains.profile("one"), pytest.raises(ConnectionError):
        ask()
    assert 1 == len(calls)
    with pytest.raises(ConnectionError):
        ask()
    assert 1 + 3 == len(calls)


def test_what_a_policy_names_is_stronger_than_a_profile() -> None:
    chains.define_profile("one", settings={"attempts": 1, "reraise": True})
    calls: list[str] = []

    @failover(chain=GROQ, attempts=2, backoff=lambda _: 0.0)
    def ask(target: Target) -> None:
        calls.append(target.key)
        raise ConnectionError

    with chains.profile("one"), pytest.raises(ConnectionError):
        ask()
    assert 2 == len(calls)


def test_a_profile_is_stronger_than_configure() -> None:
    configure(attempts=5)
    chains.define_profile("one", settings={"attempts": 1})
    with chains.profile("one"):
        assert 1 == settings().attempts
        configure(attempts=4)
        assert 1 == settings().attempts
    assert 4 == settings().attempts


def test_an_inner_block_replaces_the_outer_one() -> None:
    chains.define({"fast": GROQ, "smart": GROQ})
    chains.define_profile("a", chains={"fast": OPENAI})
    chains.define_profile("b", chains={"smart": MISTRAL})
    ask, smart = asking(), asking("@smart")
    with chains.profile("a"):
        assert (OPENAI, GROQ) == (ask(), smart())
        with chains.profile("b"):
            assert (GROQ, MISTRAL) == (ask(), smart())
        assert (OPENAI, GROQ) == (ask(), smart())
        with chains.profile(None):
            assert (GROQ, GROQ) == (ask(), smart())
    assert (GROQ, GROQ) == (ask(), smart())


def test_the_profile_of_the_process() -> None:
    chains.define({"fast": GROQ})
    chains.define_profile("cheap", chains={"fast": OPENAI})
    chains.define_profile("dear", chains={"fast": MISTRAL})
    ask = asking()
    configure(profile="cheap")
    assert (OPENAI, "cheap") == (ask(), settings().profile)
    with chains.profile("dear"):
        assert MISTRAL == ask()
        with chains.profile(None):
            assert (GROQ, None) == (ask(), settings().profile)
    assert OPENAI == ask()
    configure(profile=None)
    assert (GROQ, None) == (ask(), settings().profile)


@pytest.mark.parametrize(
    "use", [lambda: chains.profile("chaep"), lambda: configure(profile="chaep")]
)
def test_an_unknown_profile_is_refused(use: Any) -> None:
    chains.define_profile("cheap")
    with pytest.raises(ConfigurationError, match=r"profile 'chaep'.*cheap.*did you mean 'cheap'"):
        use()


def test_profiles_hold_in_tasks_and_copied_contexts() -> None:
    """Also after the block is left, and nowhere else."""
    chains.define({"fast": GROQ})
    chains.define_profile("cheap", chains={"fast": OPENAI})
    ask = asking()

    async def main() -> list[str]:
        go = asyncio.Event()

        async def later() -> str:
            await go.wait()
            return ask()

        with chains.profile("cheap"):
            inside = asyncio.create_task(later())
            threaded = await asyncio.to_thread(ask)
        outside = asyncio.create_task(later())
        go.set()
        return [threaded, await inside, await outside, ask()]

    assert [OPENAI, OPENAI, GROQ, GROQ] == asyncio.run(main())
    with chains.profile("cheap"):
        context = contextvars.copy_context()
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(ask()))
        thread.start()
        thread.join()
    assert [GROQ] == found
    assert OPENAI == context.run(ask)
    assert GROQ == ask()


def test_a_profile_block_and_a_trace_may_be_nested_in_any_order() -> None:
    chains.define({"fast": GROQ})
    chains.define_profile("cheap", chains={"fast": OPENAI})
    ask = asking()
    with chains.profile("cheap"):
        with Trace() as trace:
            assert OPENAI == ask()
        assert OPENAI == ask()
        assert OPENAI == trace.served_by
    with Trace() as trace:
        with chains.profile("cheap"):
            ask()
        ask()
    assert [OPENAI, GROQ] == [call.served_by for call in trace.calls]
    with Trace() as outer, chains.profile("cheap"), Trace() as inner:
        ask()
    assert (OPENAI, OPENAI) == (outer.served_by, inner.served_by)
    assert GROQ == ask()


def test_after_the_last_block_nothing_is_left_of_it() -> None:
    from resilient_llm._runtime.profiles import open_blocks
    from resilient_llm._runtime.tracing import open_traces

    chains.define_profile("cheap")
    for _ in range(3):
        with chains.profile("cheap"), Trace(), chains.profile(None):
            assert 2 == len(open_blocks)
    gc.collect()
    assert ({}, set()) == (open_blocks, open_traces)


def test_a_block_is_entered_once() -> None:
    chains.define_profile("cheap")
    block = chains.profile("cheap")
    with block:
        pass
    with pytest.raises(RuntimeError, match="make a new one"), block:
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": {"attemps": 1}}, "attemps"),
        ({"settings": {"attempts": 0}}, "attempts=0"),
        ({"settings": {"needs": "tools"}}, "needs"),
        ({"settings": {"max_wait": 1.0}}, "max_wait"),
        ({"settings": {"chain": GROQ}}, "chain"),
        ({"chains": {"fast": ""}}, "chains\\['fast'\\]"),
        ({"chains": [GROQ]}, "chains"),
        ({"settings": 7}, "settings"),
    ],
)
def test_profiles_that_are_not_allowed(arguments: dict[str, Any], message: str) -> None:
    chains.define_profile("cheap", settings={"attempts": 2})
    with pytest.raises(ConfigurationError, match=f"profile 'cheap': .*{message}"):
        chains.define_profile("cheap", **arguments)

    with chains.profile("cheap"):
        assert 2 == settings().attempts


# --- states of the process ------------------------------------------------------------------------


def test_isolated_keeps_names_and_ends_with_those_defined_inside() -> None:
    chains.define({"fast": GROQ})
    chains.define_profile("cheap", chains={"fast": OPENAI})
    configure(profile="cheap", attempts=5)
    ask = asking()
    assert OPENAI == ask()
    with isolated():
        assert (GROQ, None, 3) == (ask(), settings().profile, settings().attempts)
        chains.define({"fast": MISTRAL, "new": CLAUDE})
        chains.define_profile("dear")
        assert MISTRAL == ask()

    assert (OPENAI, ["fast"], ["cheap"]) == (ask(), chains.names(), chains.profiles())


def test_policies_with_names_can_be_copied_and_pickled() -> None:
    policy = failover(chain=["@fast", CLAUDE], attempts=2)
    chains.define({"fast": GROQ})

    for again in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy)):
        assert policy.chain == again.chain
        chains.define({"fast": OPENAI})
        assert OPENAI == again.chain[0].key
        chains.define({"fast": GROQ})


def test_can_call_takes_names() -> None:
    chains.define({"fast": GROQ})
    with breaker("x"):
        pass
    assert GROQ == can_call("@fast").target.key  # type: ignore[union-attr]
    assert GROQ == can_call(asking()).target.key  # type: ignore[union-attr]


def test_chains_that_came_and_went_leave_nothing() -> None:
    ask = asking()
    for number in range(50):
        chains.define({"fast": f"groq/m{number}"})
        assert f"groq/m{number}" == ask()
    gc.collect()
    names = [name for name in ask.__globals__ if name.endswith("entry")]
    assert 2 >= len(names), names
    assert 100 > len(ask.__globals__)


def test_a_coroutine_of_earlier_code_ends_with_its_own_chain() -> None:
    """Its code and what that reads stay until it is over."""
    chains.define({"fast": f"{GROQ}, {OPENAI}"})
    called: list[str] = []

    @failover(chain="@fast", attempts=1)
    async def ask(target: Target, gate: asyncio.Event) -> str:
        called.append(target.key)
        await gate.wait()
        if target.key == GROQ:
            raise ConnectionError
        return target.key

    async def main() -> list[str]:
        open_gate, gate = asyncio.Event(), asyncio.Event()
        open_gate.set()
        assert OPENAI == await ask(open_gate)
        first = asyncio.create_task(ask(gate))
        await asyncio.sleep(0)
        for number in range(5):
            chains.define({"fast": f"mistral/m{number}"})
            assert f"mistral/m{number}" == await ask(open_gate)
        gc.collect()
        gate.set()
        return [await first]

    assert [OPENAI] == asyncio.run(main())


# --- whatever code the wrapper has ------------------------------------------------------------------


KINDS: dict[str, Any] = {
    "plain": dict,
    "observed": lambda: observe(lambda _: None) and {},
    "call_id": lambda: call_id() or {},
    "places": lambda: configure(limits={"*": Limit(max_concurrent=9)}) or {},
    "tokens": lambda: configure(limits={"*": Limit(tokens=10**9)}) or {},
    "budget": lambda: configure(budgets=[Budget(calls=10**9)]) or {},
    "round_robin": lambda: {"strategy": "round_robin"},
    "least_busy": lambda: {"strategy": "least_busy"},
    "least_latency": lambda: {"strategy": "least_latency"},
    "adaptive": lambda: {"adaptive": True},
    "sticky": lambda: {"strategy": strategies.sticky(lambda prompt: prompt)},
    "reject": lambda: {"reject": lambda answer: not answer},
    "timeout": lambda: {"timeout": 60.0},
    "needs": lambda: {"needs": ("tools",)},
    "exported": lambda: _exported() or {},
}


def _exported() -> None:
    from prometheus_client import CollectorRegistry

    from resilient_llm.observers import prometheus

    prometheus.install(CollectorRegistry())


@pytest.mark.filterwarnings("ignore:timeout=")
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", KINDS)
def test_calls_follow_whatever_code_the_wrapper_has(kind: str, *, is_async: bool) -> None:
    """Healthy calls, failed ones and failovers, with the names of the chain of their start."""
    options = {"attempts": 1, **KINDS[kind]()}
    chains.define({"fast": f"{GROQ}, {OPENAI}"})
    fails: set[str] = set()

    def answer(target: Target, prompt: str) -> str:
        if target.key in fails:
            raise ConnectionError
        return target.key

    async def aanswer(target: Target, prompt: str) -> str:
        return answer(target, prompt)

    decorated = failover(chain="@fast", **options)(aanswer if is_async else answer)
    ask = (lambda: asyncio.run(decorated("hi"))) if is_async else (lambda: decorated("hi"))

    for number in range(4):
        first, second = f"a{number}/m", f"b{number}/m"
        if number != 2:  # once the same chain stays
            chains.define({"fast": f"{first}, {second}"})
        else:
            first, second = "a1/m", "b1/m"
            chains.define({"other": GROQ})
        fails = set()
        assert {first, second} >= {ask() for _ in range(4)}
        fails = {first}
        assert {second} == {ask() for _ in range(2)}
        fails = {second}
        assert {first} == {ask() for _ in range(2)}
        fails = {first, second}
        with pytest.raises(ChainExhaustedError):
            ask()


def test_the_names_in_generated_code_are_used_again() -> None:
    """On some versions of Python they are never freed, and chains may change for years."""
    ask = asking("@fast")
    prefixes: set[str] = set()
    for number in range(20):
        chains.define({"fast": f"groq/{number}"})
        assert f"groq/{number}" == ask()
        prefixes |= {name.split("_")[1] for name in ask.__code__.co_names if name.startswith("_r")}

    assert len(prefixes) <= 3


def test_the_names_of_code_that_runs_are_not_used_again() -> None:
    """Calls that are under way read what they began with, however often the chain changes."""

    @failover(chain="@fast")
    async def ask(target: Target, gate: asyncio.Event | None = None) -> str:
        if gate is not None:
            await gate.wait()
        return target.key

    async def main() -> list[str]:
        gate, calls = asyncio.Event(), list[asyncio.Task[str]]()
        for number in range(10):
            chains.define({"fast": f"groq/{number}"})
            await ask()
            calls += [asyncio.create_task(ask(gate)) for _ in range(2)]
            await asyncio.sleep(0)
        gate.set()
        return [await call for call in calls]

    assert [f"groq/{number // 2}" for number in range(20)] == asyncio.run(main())


# --- blocks that are left in another order, or elsewhere ---------------------------------------------


def test_blocks_of_generators_that_are_read_in_turn_end_with_them() -> None:
    from resilient_llm._runtime.tracing import has_trace

    chains.define({"fast": GROQ})
    for name, target in (("a", OPENAI), ("b", MISTRAL), ("c", CLAUDE)):
        chains.define_profile(name, chains={"fast": target})
    ask = asking()

    def items(name: str | None) -> Any:
        with chains.profile(name):
            yield ask()

    first, second, third = items("a"), items("b"), items("c")
    found = [next(first), next(second), next(third)]
    assert [OPENAI, MISTRAL, CLAUDE] == found
    second.close()
    assert CLAUDE == ask()
    first.close()
    assert CLAUDE == ask()
    third.close()

    assert GROQ == ask()
    assert has_trace() is None


def test_a_trace_between_blocks_that_are_left_in_another_order() -> None:
    chains.define({"fast": GROQ})
    chains.define_profile("cheap", chains={"fast": OPENAI})
    ask, outer, trace, inner = asking(), chains.profile("cheap"), Trace(), chains.profile(None)
    outer.__enter__()
    trace.__enter__()
    inner.__enter__()
    assert GROQ == ask()
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    assert GROQ == ask()
    trace.__exit__(None, None, None)
    assert GROQ == ask()
    assert 2 == len(trace.calls)


def test_an_asynchronous_generator_that_is_left_early_takes_its_profile_with_it() -> None:
    """asyncio closes it in a context of its own."""
    chains.define({"fast": GROQ})
    chains.define_profile("cheap", chains={"fast": OPENAI})
    ask = asking()

    async def answers() -> Any:
        with chains.profile("cheap"):
            for _ in range(3):
                yield ask()

    async def main() -> list[str]:
        async for answer in answers():
            found = [answer]
            break
        for _ in range(10):
            gc.collect()
            await asyncio.sleep(0)
        return [*found, ask(), settings().profile or ""]

    assert [OPENAI, GROQ, ""] == asyncio.run(main())


def test_long_lines_of_names_and_routes_are_expanded() -> None:
    names: dict[str, Any] = {f"n{i}": f"@n{i + 1}" for i in range(5_000)}
    chains.define({**names, "n5000": GROQ})
    nested: Any = GROQ
    for _ in range(2_000):
        nested = chains.route(chains.rule(OPENAI, contains="x"), otherwise=[nested])

    assert GROQ == asking("@n0")()
    assert [OPENAI, GROQ] == [target.key for target in chains.resolve(nested)]
    assert GROQ == asking(nested)("hi")


def test_a_long_loop_is_shown_without_its_middle() -> None:
    with pytest.raises(ConfigurationError) as raised:
        chains.define({f"n{i}": f"@n{(i + 1) % 1_500}" for i in range(1_500)})

    assert "more)" in str(raised.value)
    assert 200 > len(str(raised.value))


@pytest.mark.parametrize("names", [(None,), (["a"],), ("@fast",), ("", "fast")])
def test_remove_refuses_what_is_no_name(names: Any) -> None:
    chains.define({"fast": GROQ})
    with pytest.raises(ConfigurationError, match="is not allowed"):
        chains.remove(*names)
    assert ["fast"] == chains.names()


@pytest.mark.parametrize(
    "use",
    [
        lambda: Target("@fast"),
        lambda: breaker("@fast"),
        lambda: bench_model("@fast", 5),
        lambda: configure(limits={"@fast": Limit(requests=1)}),
        lambda: configure(prices={"@fast": (1, 2)}),
        lambda: configure(breakers={"@fast": {}}),
        lambda: Budget(calls=1, of="@fast"),
    ],
)
def test_a_name_where_only_a_key_may_be(use: Any) -> None:
    chains.define({"fast": GROQ})
    with pytest.raises(ConfigurationError, match="stands for a chain"):
        use()


def test_a_name_with_its_mark_where_it_is_written_without() -> None:
    for use in (lambda: chains.explain("@fast"), lambda: chains.define({"@fast": GROQ})):
        with pytest.raises(ConfigurationError, match="'fast', without '@'"):
            use()


def test_a_signal_handler_may_define_and_call_at_any_time() -> None:
    """Whatever code of the function is given its wrapper just then."""
    chains.define_profile("p", chains={"fast": "p/p"})
    ask = asking()

    def handler(*_: Any) -> None:
        chains.define({"fast": "s/x"})
        ask()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for number in range(3_000):
            signal.setitimer(signal.ITIMER_REAL, 2e-5 + number % 100 * 5e-6)
            chains.define({"fast": f"m{number % 7}/x"})
            ask()
            with chains.profile("p"):
                assert "p/p" == ask()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    chains.define({"fast": CLAUDE})
    assert [CLAUDE] * 3 == [ask() for _ in range(3)]


def test_every_way_to_call_has_the_profile_of_its_context() -> None:
    """Also if the way was gone before, without a profile."""
    chains.define({"fast": GROQ})
    chains.define_profile("cheap", chains={"fast": OPENAI})
    policy = failover(chain="@fast")

    def plain(target: Target) -> str:
        return target.key

    async def aplain(target: Target) -> str:
        return target.key

    @policy
    def items(target: Target) -> Any:
        yield target.key

    def looped() -> str:
        for attempt in policy:
            with attempt as target:
                return target.key
        raise AssertionError

    def all_ways() -> set[str]:
        return {
            policy.call(plain),
            asyncio.run(policy.call(aplain)),
            policy(plain)(),
            next(items()),
            looped(),
        }

    for _ in range(2):
        assert {GROQ} == all_ways()
        with chains.profile("cheap"):
            assert {OPENAI} == all_ways()


def test_what_was_drawn_of_the_chain_of_before_is_not_called() -> None:
    """A name is defined while the wrapper draws, and what it draws is benched."""

    class Defining(random.Random):
        is_armed = False

        def random(self) -> float:
            if self.is_armed:
                self.is_armed = False
                chains.define({"fast": f"{CLAUDE}, {MISTRAL}"})
                bench_model("groq")
                bench_model("openai")
            return super().random()

    runtime.rng = rng = Defining()
    chains.define({"fast": f"{GROQ}, {OPENAI}"})
    ask = asking(strategy="random")
    assert {GROQ, OPENAI} >= {ask() for _ in range(5)}
    rng.is_armed = True

    assert ask() in (CLAUDE, MISTRAL)
    assert not rng.is_armed


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_handler_may_define_and_call_before_any_opcode(*, is_async: bool) -> None:
    """While the wrapper is given other code, or reads what it was given."""

    @failover(chain="@fast")
    def ask(target: Target) -> str:
        return target.key

    @failover(chain="@fast")
    async def aask(target: Target) -> str:
        return target.key

    def call() -> str:
        return asyncio.run(aask()) if is_async else ask()

    def call_at_once() -> str:
        if not is_async:
            return ask()
        try:
            aask().send(None)
        except StopIteration as stopped:
            return stopped.value
        raise AssertionError

    def handler() -> None:
        chains.define({"fast": "s/x"})
        configure(limits={"*": Limit(max_concurrent=9)})  # other code is wanted, too
        assert "s/x" == call_at_once()

    for step in range(1, 100_000, 7):
        chains.define({"fast": f"m{step % 5}/x"})
        configure(limits={"*": None})
        with interrupted_at(step, handler, expansions, binding, wrapper_globals) as steps:
            assert call_at_once() in ("s/x", f"m{step % 5}/x")
        assert {"s/x" if steps[0] >= step else f"m{step % 5}/x"} == {call_at_once() for _ in "ab"}
        if steps[0] < step:
            break
    chains.define({"fast": CLAUDE})
    assert [CLAUDE] * 3 == [call() for _ in range(3)]
    gc.collect()
    assert 150 > len((aask if is_async else ask).__globals__)
