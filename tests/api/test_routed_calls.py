"""Calls whose chain a route chooses."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_llm import ConfigurationError, Target, Trace, chains, failover
from resilient_llm._runtime import chains as living
from resilient_llm.chains import route, rule

pytestmark = pytest.mark.usefixtures("resilient_llm")

FAST, LONG, VISION, TOOLS, CLAUDE = (
    "groq/llama", "google/long", "openai/vision", "openai/tools", "anthropic/claude-sonnet",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def left() -> Iterator[None]:
    """After these tests their policies are none that ``chains.check`` and others look at."""
    yield
    for function in (ask, aask, items, aitems, Client.ask):
        living._policies.discard(function.policy)


@pytest.fixture(autouse=True)
def main() -> None:
    chains.define(
        {
            "fast": FAST,
            "long": LONG,
            "main": route(
                rule("@long", min_tokens=100),
                rule([VISION, CLAUDE], contains="picture"),
                otherwise="@fast",
            ),
        }
    )


@failover(chain=["@main", CLAUDE])
def ask(target: Target, prompt: str) -> str:
    return target.key


@failover(chain=["@main", CLAUDE])
async def aask(target: Target, prompt: str) -> str:
    return target.key


@failover(chain=["@main", CLAUDE])
def items(target: Target, prompt: str) -> Any:
    yield target.key


@failover(chain=["@main", CLAUDE])
async def aitems(target: Target, prompt: str) -> Any:
    yield target.key


def plain(target: Target, prompt: str) -> str:
    return target.key


async def aplain(target: Target, prompt: str) -> str:
    return target.key


async def _collected(stream: Any) -> str:
    found = [item async for item in stream]
    return found[0]


WAYS = {
    "function": ask,
    "coroutine function": lambda prompt: asyncio.run(aask(prompt)),
    "generator": lambda prompt: next(items(prompt)),
    "asynchronous generator": lambda prompt: asyncio.run(_collected(aitems(prompt))),
    "policy.call": lambda prompt: ask.policy.call(plain, prompt),
    "policy.call of a coroutine function": lambda prompt: asyncio.run(
        aask.policy.call(aplain, prompt)
    ),
    "method": lambda prompt: Client().ask(prompt),
}


class Client:
    @failover(chain="@main")
    def ask(self, target: Target, prompt: str) -> str:
        return target.key


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_the_first_rule_that_matches_chooses(way: Any) -> None:
    assert FAST == way("hi")
    assert LONG == way("picture " * 200)
    assert VISION == way("a picture")
    assert FAST == way("hi")


def test_the_rest_of_the_chain_follows() -> None:
    @failover(chain=["@main", CLAUDE], attempts=1)
    def failing(target: Target, prompt: str) -> str:
        if target.key != CLAUDE:
            raise ConnectionError
        return target.key

    for prompt, first in (("hi", FAST), ("a picture", VISION)):
        with Trace() as trace:
            assert CLAUDE == failing(prompt)
        assert [first, CLAUDE] == [attempt.target for attempt in trace.attempts]


def test_a_loop_takes_otherwise() -> None:
    for attempt in ask.policy:
        with attempt as target:
            assert FAST == target.key


def test_a_route_may_stand_in_a_chain_and_choose_among_routes() -> None:
    chains.define({"inner": route(rule("@fast", contains="short"), otherwise="@main")})
    outer = route(rule("@inner", contains="inner"), otherwise=TOOLS)

    @failover(chain=[outer, CLAUDE])
    def ask(target: Target, prompt: str) -> str:
        return target.key

    assert [TOOLS, FAST, VISION, FAST] == [
        ask(each) for each in ("hi", "inner short", "inner picture", "inner")
    ]
    assert [FAST, LONG, VISION, CLAUDE, TOOLS] == [target.key for target in ask.policy.chain]


def test_calls_follow_other_rules() -> None:
    assert VISION == ask("a picture")
    chains.define({"main": route(rule(TOOLS, contains="picture"), otherwise="@long")})
    assert (TOOLS, LONG) == (ask("a picture"), ask("hi"))
    chains.define({"main": FAST})
    assert (FAST, FAST) == (ask("a picture"), ask("hi"))
    chains.define({"main": route(rule(TOOLS, contains="picture"), otherwise="@long")})
    assert (TOOLS, LONG) == (ask("a picture"), ask("hi"))


def test_a_profile_may_make_a_chain_of_a_route() -> None:
    chains.define_profile("cheap", chains={"main": "@long"})
    with chains.profile("cheap"):
        assert LONG == ask("a picture")
    assert VISION == ask("a picture")


def test_where_is_given_the_arguments_as_the_caller_passed_them() -> None:
    seen: list[Any] = []

    def where(*args: Any, **kwargs: Any) -> bool:
        seen.append((args, kwargs))
        return True

    @failover(chain=route(rule(FAST, where=where), otherwise=LONG))
    def ask(target: Target, prompt: str, tier: str = "free", *, loud: bool = False) -> str:
        return target.key

    ask("a")
    ask(prompt="b", loud=True)
    ask("c", "paid")
    assert [(("a",), {}), ((), {"prompt": "b", "loud": True}), (("c", "paid"), {})] == seen


# --- model= -------------------------------------------------------------------------------------


def by_model(**conditions: Any) -> Any:
    return route(rule([VISION, CLAUDE], model="gpt-4*", **conditions), otherwise=FAST)


def test_a_model_that_a_rule_matches_does_not_pin() -> None:
    """Each target's own model takes its place."""
    called: list[str | None] = []

    @failover(chain=by_model(), attempts=1)
    def ask(prompt: str, *, model: str | None = None) -> str | None:
        called.append(model)
        if model == "vision":
            raise ConnectionError
        return model

    assert "claude-sonnet" == ask("hi", model="gpt-4o")
    assert ["vision", "claude-sonnet"] == called
    assert "llama" == ask("hi")
    assert "llama" == ask("hi", model="llama")
    with pytest.raises(ValueError, match=FAST):
        ask("hi", model="claude-sonnet")  # no rule matches, so it pins within otherwise


def test_the_model_is_replaced_where_it_is_an_argument_like_any_other() -> None:
    called: list[tuple[str, str]] = []

    @failover(chain=by_model(), attempts=1)
    def ask(target: Target, prompt: str, model: str = "") -> str:
        called.append((target.key, model))
        if target.key == VISION:
            raise ConnectionError
        return model

    assert "claude-sonnet" == ask("hi", "gpt-4o")
    assert "claude-sonnet" == ask("hi", model="gpt-4o")
    assert [(VISION, "vision"), (CLAUDE, "claude-sonnet")] * 2 == called
    assert "mine" == ask("hi", model="mine")


def test_the_model_of_an_own_call_is_replaced_too() -> None:
    def own(prompt: str, model: str = "") -> str:
        return f"own {model}"

    chain = route(rule(Target("own/one", call=own), model="gpt-4*"), otherwise=FAST)

    @failover(chain=chain)
    def ask(target: Target, prompt: str, model: str = "") -> str:
        return model

    assert "own one" == ask("hi", model="gpt-4o")


def test_two_models_take_two_rules() -> None:
    chain = route(
        rule(VISION, model="gpt-*", has_tools=False),
        rule(TOOLS, model="gpt-*"),
        otherwise=FAST,
    )

    @failover(chain=chain)
    async def ask(messages: list[Any], *, model: str | None = None, tools: Any = None) -> Any:
        return model

    messages = [{"role": "user", "content": "hi"}]
    assert "vision" == asyncio.run(ask(messages, model="gpt-4o"))
    assert "tools" == asyncio.run(ask(messages, model="gpt-4o", tools=[{"type": "function"}]))


# --- explain ------------------------------------------------------------------------------------


def test_explain_says_which_rule_and_why_not_the_others() -> None:
    found = chains.explain("main", prompt="a picture")

    assert (1, [VISION, CLAUDE]) == (found.rule, found.chain)
    assert ("min_tokens=100: the estimate is 3",) == found.reasons
    assert (None, "@fast") == (
        chains.explain("main", prompt="hi").rule, chains.explain("main", prompt="hi").chain,
    )  # fmt: skip
    assert 2 == len(chains.explain("main", prompt="hi").reasons)
    assert found == pickle.loads(pickle.dumps(found))


def test_explain_holds_no_text_of_the_call() -> None:
    assert "SECRET" not in repr(chains.explain("main", prompt="SECRET"))


@pytest.mark.parametrize(("name", "message"), [("mian", "did you mean '@main'"), ("fast", "chain")])
def test_explain_needs_a_route(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        chains.explain(name, prompt="hi")


def test_names_of_routes_are_explained_through_other_names() -> None:
    chains.define({"default": "@main"})

    assert 1 == chains.explain("default", prompt="a picture").rule


# --- many callers of one function -----------------------------------------------------------------


def test_each_choice_is_expanded_once() -> None:
    """Later calls of the same choice have the same caller, and so its figures and its order."""
    expansions = ask.__globals__[next(n for n in ask.__globals__ if n.endswith("entry"))].__self__
    for _ in range(3):
        for prompt in ("hi", "a picture"):
            ask(prompt)
    known = expansions._known.under
    (under,) = known.values()
    before = dict(under)
    for _ in range(3):
        for prompt in ("hi", "a picture"):
            ask(prompt)

    assert before == dict(under)
