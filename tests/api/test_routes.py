"""`chains.rule` and `chains.route`, and which rule a call takes."""

from __future__ import annotations

import asyncio
import functools
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient_llm import ConfigurationError, Target, needs
from resilient_llm._binding.injection import injection_of, loop_injection
from resilient_llm._binding.routing import CallFacts, explained
from resilient_llm._values.plan import Route, Rule
from resilient_llm._values.route import route_of, rule_of
from resilient_llm.chains._routes import route, rule

CHAIN = "groq/llama"
PNG = "data:image/png;base64,iVBORw0KGgo="
HI = {"role": "user", "content": "Hi"}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}
TOOLS = [{"type": "function", "function": {"name": "get"}}]
CODE = "```\nx\n```"


def ask(target: Target, messages: Any, tools: Any = None, **more: Any) -> None: ...


def ask_by_model(prompt: Any, *, target: Any = None, model: Any = None) -> None: ...


def facts(function: Callable[..., Any], *args: Any, **kwargs: Any) -> CallFacts:
    return CallFacts(injection_of(function), args, kwargs)


def takes(conditions: dict[str, Any], *args: Any, **kwargs: Any) -> bool:
    """Return whether a call takes a rule with these conditions."""
    return 0 == facts(ask, *args, **kwargs).choose(
        route(rule(CHAIN, **conditions), otherwise=CHAIN)
    )


def always(*_: Any, **__: Any) -> bool:
    return True


def count(*_: Any, **__: Any) -> int:
    return 7


async def later(*_: Any, **__: Any) -> bool:
    return True


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ({}, "at least one condition of model, min_tokens, has_image, has_tools, min_code_share, contains, regex, where"),
        ({"has_imag": True}, "a rule has no condition 'has_imag': did you mean has_image"),
        ({"model": ""}, "model='' is not allowed"),
        ({"model": 7}, "model of type int is not allowed: write a text"),
        ({"model": None}, "model of type NoneType"),
        ({"contains": ""}, "contains='' is not allowed"),
        ({"contains": b"x"}, "contains of type bytes"),
        ({"regex": ""}, "regex='' is not allowed"),
        ({"min_tokens": -1}, "min_tokens=-1 is not allowed: write a whole number, 0 or more"),
        ({"min_tokens": 1.5}, "min_tokens=1.5 is not allowed"),
        ({"min_tokens": True}, "min_tokens=True is not allowed"),
        ({"min_tokens": "30000"}, "min_tokens='30000' is not allowed"),
        ({"has_image": 1}, "has_image=1 is not allowed: write True or False"),
        ({"has_tools": "yes"}, "has_tools='yes' is not allowed"),
        ({"has_image": None}, "has_image=None is not allowed"),
        ({"min_code_share": 0}, "min_code_share=0 is not allowed: write a number above 0 to 1"),
        ({"min_code_share": 1.01}, "min_code_share=1.01 is not allowed"),
        ({"min_code_share": True}, "min_code_share=True is not allowed"),
        ({"min_code_share": float("nan")}, "min_code_share=nan is not allowed"),
        ({"where": "x"}, "where of type str is not allowed: write a function of a call's arguments"),
        ({"where": later}, "where is an async function, which is not allowed"),
    ],
)  # fmt: skip
def test_a_rule_that_is_refused(conditions: dict[str, Any], said: str) -> None:
    """The message says what is wrong, what was given and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        rule(CHAIN, **conditions)
    with pytest.raises(ConfigurationError):
        rule_of(CHAIN, conditions)

    assert said in str(caught.value)


def test_the_chain_of_a_rule_is_checked() -> None:
    """As that of `failover` is, and so is ``otherwise``."""
    with pytest.raises(ConfigurationError, match="blank entry"):
        rule(" ,", has_image=True)
    with pytest.raises(ConfigurationError, match="chain is empty"):
        route(otherwise=[])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rules": ["@fast"]}, "rule 1 of the route is of type str: write chains.rule"),
        ({"rules": "@fast"}, "rules of type str are not allowed"),
        ({"rules": 7}, "rules of type int are not allowed"),
        ({"messages": "a b"}, "messages 'a b' is not allowed: write the name of an argument"),
        ({"messages": 7}, "messages of type int is not allowed"),
        ({"tokens": 7}, "tokens of type int is not allowed"),
        ({"tokens": later}, "tokens is an async function"),
    ],
)
def test_a_route_that_is_refused(change: dict[str, Any], said: str) -> None:
    """The message says what is wrong, what was given and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        route_of(**{"rules": (), "otherwise": CHAIN, **change})

    assert said in str(caught.value)


def test_a_route_without_rules() -> None:
    """All calls take ``otherwise``."""
    assert facts(ask, "Hi").choose(route(otherwise=CHAIN)) is None


# --- what they are --------------------------------------------------------------------------------


def test_a_rule_is_equal_to_itself_only() -> None:
    """So that routes can be keys, whatever they hold."""
    one, other = rule(CHAIN, has_image=True), rule(CHAIN, has_image=True)

    assert one == one
    assert one != other
    assert route(one, otherwise=CHAIN) != route(one, otherwise=CHAIN)
    assert 2 == len({one, other})


def test_a_rule_cannot_be_changed() -> None:
    """Nor can the chain that it was given be."""
    chain = [CHAIN]
    made = rule(chain, has_image=True)
    chain.append("openai/gpt-5")

    assert [CHAIN] == made.chain
    with pytest.raises(AttributeError):
        made.chain = "openai/gpt-5"  # type: ignore[misc]  # as a user may try
    with pytest.raises(TypeError):
        made.conditions["has_image"] = False  # type: ignore[index]  # as a user may try


def test_what_they_show() -> None:
    """Names of conditions, and none of their values."""
    made = rule(CHAIN, contains="secret", min_tokens=1)

    assert "<rule: contains, min_tokens>" == repr(made)
    assert "<route of 1 rules>" == repr(route(made, otherwise=CHAIN))


def test_a_chain_that_can_be_read_once() -> None:
    """It is kept as it was read."""
    assert (CHAIN,) == rule(iter([CHAIN]), has_image=True).chain


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(protocol: int) -> None:
    """A route that arrives elsewhere chooses alike."""
    inner = route(rule("@code", min_code_share=0.5), otherwise=[CHAIN])
    made = route(
        rule("@a", model="gpt-*", contains="x"),
        rule([inner, "@b"], where=always),
        otherwise="@c",
        messages="prompt",
        tokens=count,
    )

    back: Route = pickle.loads(pickle.dumps(made, protocol))

    assert {"model": "gpt-*", "contains": "x"} == dict(back.rules[0].conditions)
    assert ("prompt", count, "@c") == (back.messages, back.tokens, back.otherwise)
    assert isinstance(back.rules[1].chain[0], Route)
    assert 0 == facts(ask_by_model, "x", model="gpt-4").choose(back)
    assert 1 == facts(ask_by_model, "y", model="gpt-4").choose(back)


def test_a_rule_with_a_regex_pickles() -> None:
    """It is compiled where it arrives."""
    pytest.importorskip("re2")
    back: Rule = pickle.loads(pickle.dumps(rule(CHAIN, regex="H.")))

    assert 0 == facts(ask, "Hi").choose(route(back, otherwise=CHAIN))


# --- model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "model", "expected"),
    [
        ("gpt-4*", "gpt-4o", True),
        ("gpt-4*", "GPT-4o", False),
        ("gpt-4*", "openai/gpt-4o", False),
        ("gpt-?o", "gpt-4o", True),
        ("gpt-[45]o", "gpt-5o", True),
        ("*", "gpt-4o", True),
        ("*", None, False),
        ("*", 7, False),
        ("*", "", False),
        ("gpt-4", "gpt-4\n", False),
        ("claude-opus-4-8[1m]", "claude-opus-4-8[1m]", False),
        ("claude-opus-4-8[[]1m]", "claude-opus-4-8[1m]", True),
        ("claude-*[[]1m]", "claude-opus-4-8[1m]", True),
        ("claude-*[[]1m]", "claude-opus-4-8", False),
    ],
)
def test_model(glob: str, model: Any, expected: bool) -> None:
    """The glob has to match the whole name, in upper and lower case."""
    made = route(rule(CHAIN, model=glob), otherwise=CHAIN)
    call = facts(ask_by_model, "Hi", model=model)

    assert (0 if expected else None) == call.choose(made)
    assert expected is call.uses_model


def test_model_does_not_pin() -> None:
    """What is passed on has no ``model=``, so that each target's own is filled in."""
    call = facts(ask_by_model, "Hi", target="groq/llama", model="gpt-4o")
    call.choose(route(rule(CHAIN, contains="Hi"), otherwise=CHAIN))
    before = call.arguments_without_model()
    call.choose(route(rule(CHAIN, model="gpt-*", contains="Hi"), otherwise=CHAIN))

    assert (("Hi",), {"target": "groq/llama", "model": "gpt-4o"}) == before
    assert (("Hi",), {"target": "groq/llama"}) == call.arguments_without_model()
    assert not call.replaces_model


def test_a_rule_with_model_that_fails_otherwise_leaves_the_pin() -> None:
    """Only the rule that is chosen counts."""
    call = facts(ask_by_model, "Hi", model="gpt-4o")
    call.choose(
        route(
            rule(CHAIN, model="gpt-*", contains="Bye"), rule(CHAIN, contains="Hi"), otherwise=CHAIN
        )
    )

    assert not call.uses_model
    assert (("Hi",), {"model": "gpt-4o"}) == call.arguments_without_model()


def test_the_default_of_model_is_no_model() -> None:
    """Frameworks pass what the caller left out."""

    def ask(prompt: str, *, model: str = "auto") -> None: ...

    made = route(rule(CHAIN, model="*"), otherwise=CHAIN)

    assert facts(ask, "Hi", model=str(b"auto", "ascii")).choose(made) is None
    assert facts(ask, "Hi").choose(made) is None
    assert 0 == facts(ask, "Hi", model="gpt-4o").choose(made)


def test_an_own_parameter_of_the_function_is_replaced() -> None:
    """Where ``model`` is a parameter like any other, each attempt is given its target's."""

    def ask(target: Target, model: str, prompt: str = "") -> None: ...

    made = route(rule(CHAIN, model="gpt-*"), otherwise=CHAIN)
    for call in (facts(ask, "gpt-4o", "Hi"), facts(ask, model="gpt-4o", prompt="Hi")):
        assert not call.replaces_model
        assert 0 == call.choose(made)
        assert call.replaces_model
        args, kwargs = call.arguments_without_model()
        replaced = injection_of(ask).rebound(args or (), kwargs, {"model": "llama"})
        assert replaced in ((("llama", "Hi"), {}), ((), {"model": "llama", "prompt": "Hi"}))


def test_model_among_keywords() -> None:
    """A function that takes it among ``**kwargs`` is given none."""
    call = facts(ask, "Hi", model="gpt-4o", seed=1)

    assert 0 == call.choose(route(rule(CHAIN, model="gpt-*"), otherwise=CHAIN))
    assert not call.replaces_model
    assert (("Hi",), {"seed": 1}) == call.arguments_without_model()


# --- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "expected"), [(0, True), (1, True), (100, True), (101, False), (30_000, False)]
)
def test_min_tokens(least: int, expected: bool) -> None:
    """The estimate is that of `needs.estimate_tokens`."""
    assert expected is takes({"min_tokens": least}, "x" * 400)
    assert expected is takes({"min_tokens": least}, [{"role": "user", "content": "x" * 400}])
    assert expected is takes({"min_tokens": least}, "", tools=None, other="x" * 400)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("x" * 400,), {"tools": TOOLS}),
        (([HI, IMAGE],), {"temperature": 1.0}),
        ((), {"messages": "Hi", "user_id": "x" * 400}),
        ((PNG,), {"more": ["a", "b"]}),
    ],
)
def test_the_estimate_is_that_of_needs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Neither more nor less than it."""
    named = {"tools": None, **dict(zip(["messages"], args, strict=False)), **kwargs}
    expected = needs.estimate_tokens().of_arguments(named, ())

    assert expected == facts(ask, *args, **kwargs).tokens(None)
    assert takes({"min_tokens": expected}, *args, **kwargs)
    assert not takes({"min_tokens": expected + 1}, *args, **kwargs)


def test_arguments_that_pin_are_no_input() -> None:
    """The name of a model is not sent."""
    assert 1 == facts(ask_by_model, "Hi", model="x" * 400, target="y" * 400).tokens(None)


def test_tokens_of_a_route() -> None:
    """It gets the arguments as they were passed, without those that pin."""
    seen: list[Any] = []

    def tokens(*args: Any, **kwargs: Any) -> int:
        seen.append((args, kwargs))
        return 50

    made = route(
        rule(CHAIN, min_tokens=51), rule(CHAIN, min_tokens=50), otherwise=CHAIN, tokens=tokens
    )

    assert 1 == facts(ask_by_model, "Hi", model="gpt-4o").choose(made)
    assert [(("Hi",), {})] == seen


def test_tokens_may_be_those_of_needs() -> None:
    """They read the arguments by name."""
    made = route(rule(CHAIN, min_tokens=100), otherwise=CHAIN, tokens=needs.estimate_tokens())

    assert 0 == facts(ask, "x" * 400).choose(made)
    assert facts(ask, "x" * 396).choose(made) is None


@pytest.mark.parametrize("given", [None, "7", 1.5, True, -1, 2**70])
def test_tokens_that_give_no_number(given: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No rule with ``min_tokens`` matches, not even with 0, and that is logged once."""
    made = route(
        rule(CHAIN, min_tokens=0),
        rule(CHAIN, contains="Hi"),
        otherwise=CHAIN,
        tokens=lambda *_: given,
    )

    with caplog.at_level(logging.WARNING, "resilient_llm"):
        chosen = [facts(ask, "Hi").choose(made) for _ in range(3)]

    assert [1, 1, 1] == chosen
    assert 1 == len(caplog.records)


# --- images, tools --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        (([IMAGE],), {}, True),
        (([IMAGE, HI],), {}, True),
        (([HI],), {}, False),
        (("Hi",), {}, False),
        ((), {"messages": [IMAGE]}, True),
        ((PNG,), {}, True),
        ((iter([IMAGE]),), {}, None),
        ((object(),), {}, None),
        (([HI, object()],), {}, None),
        (([IMAGE, object()],), {}, True),
        ((None,), {}, None),
    ],
)
def test_has_image(args: tuple[Any, ...], kwargs: dict[str, Any], expected: bool | None) -> None:
    """It is what `needs.from_messages` finds; what cannot be read is neither."""
    assert (expected is True) is takes({"has_image": True}, *args, **kwargs)
    assert (expected is False) is takes({"has_image": False}, *args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        (("Hi",), {}, False),
        (("Hi", TOOLS), {}, True),
        (("Hi",), {"tools": TOOLS}, True),
        (("Hi",), {"tools": []}, False),
        (("Hi",), {"functions": TOOLS}, True),
        (("Hi",), {"config": {"tools": TOOLS}}, True),
        (([HI, {"role": "tool", "content": "42"}],), {}, True),
        ((iter([HI]),), {}, None),
        ((iter([HI]), TOOLS), {}, True),
    ],
)
def test_has_tools(args: tuple[Any, ...], kwargs: dict[str, Any], expected: bool | None) -> None:
    """It is what `needs.from_messages` finds; what cannot be read is neither."""
    assert (expected is True) is takes({"has_tools": True}, *args, **kwargs)
    assert (expected is False) is takes({"has_tools": False}, *args, **kwargs)


def test_a_conversation_that_is_too_large_is_not_without_images() -> None:
    """What is beyond the bounds was not read."""
    parts = [{"type": "text", "text": "x"}] * 600_000

    assert not takes({"has_image": False}, [{"role": "user", "content": parts}])


# --- the text -------------------------------------------------------------------------------------


def test_contains() -> None:
    """Upper and lower case differ, and only the last message of the user is looked at."""
    assert takes({"contains": "ref"}, "a refund")
    assert not takes({"contains": "Ref"}, "a refund")
    assert not takes({"contains": "Hi"}, [HI, {"role": "user", "content": "Bye"}])
    assert takes({"contains": "a\nb"}, [{"role": "user", "content": ["a", "b"]}])
    assert not takes({"contains": "Hi"}, iter([HI]))


def test_min_code_share() -> None:
    """The share itself is enough."""
    text = "x" * (len(CODE) - 1) + "\n" + CODE

    assert takes({"min_code_share": 0.5}, text)
    assert not takes({"min_code_share": 0.51}, text)
    assert takes({"min_code_share": 1}, CODE)
    assert not takes({"min_code_share": 0.01}, "")
    assert not takes({"min_code_share": 0.01}, iter([HI]))


def test_regex() -> None:
    """RE2 searches in the first 20,000 characters, whatever they are."""
    pytest.importorskip("re2")

    assert takes({"regex": r"order\s+#\d+"}, "my order #17")
    assert not takes({"regex": "Order"}, "my order")
    assert takes({"regex": "(?i)ORDER"}, "my order")
    assert takes({"regex": "é{3}$"}, "é" * 20_000)
    assert takes({"regex": "x"}, "é" * 19_999 + "x")
    assert not takes({"regex": "x"}, "é" * 20_000 + "x")
    assert takes({"regex": "x"}, "\ud800x")
    assert not takes({"regex": "."}, iter([HI]))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(secret", "missing )"),
        ("secret[z-a]", "invalid character class range"),
        ("*secret", "no argument for repetition operator"),
        ("(?<=secret)x", "invalid perl operator"),
        (r"(secret)\1", "invalid escape sequence"),
        ("(a{1000}){1000}secret", "invalid repetition size"),
        (r"(?i)(?:\pL{1,100}\s){1,10}secret", "pattern too large"),
        ("\ud800secret", "it holds half of a character"),
    ],
)
def test_a_regex_that_is_none(pattern: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The message says why without the pattern, and nothing is written to stderr."""
    pytest.importorskip("re2")
    with pytest.raises(ConfigurationError) as caught:
        rule(CHAIN, regex=pattern)

    assert f"regex is not a pattern of RE2: {said}; " in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None
    assert ("", "") == capfd.readouterr()


def test_a_regex_that_other_engines_take_for_ever_with(capfd: pytest.CaptureFixture[str]) -> None:
    """RE2 takes linear time and bounded memory, and is silent about it."""
    pytest.importorskip("re2")

    assert not takes({"regex": "(x+x+)+y"}, "x" * 20_000)
    assert not takes({"regex": "(a?){100}(a|b)*a(a|b){200}c"}, "abba" * 5_000)
    assert ("", "") == capfd.readouterr()


def test_regex_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install; no other condition needs it."""
    monkeypatch.setitem(sys.modules, "re2", None)

    rule(CHAIN, model="*", contains="x", min_code_share=0.5, has_image=True)
    with pytest.raises(ConfigurationError, match=r"pip install resilient_llm\[regex\]"):
        rule(CHAIN, regex="x")


def test_another_package_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for google-re2."""
    monkeypatch.setitem(sys.modules, "re2", logging)

    with pytest.raises(ConfigurationError, match="google-re2"):
        rule(CHAIN, regex="x")


def test_google_re2_loads_when_a_regex_is_used() -> None:
    """Routes without one do not import it."""
    script = (
        "import sys\n"
        "from resilient_llm.chains._routes import rule\n"
        "rule('groq/llama', model='*', contains='x')\n"
        "assert 're2' not in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# --- where ----------------------------------------------------------------------------------------


def test_where_gets_the_call() -> None:
    """It gets the arguments as the caller passed them, ``self`` included."""
    seen: list[Any] = []

    class Client:
        def ask(self, target: Target, prompt: str, *, tier: str = "free") -> None: ...

    def where(*args: Any, **kwargs: Any) -> bool:
        seen.append((args, kwargs))
        return True

    client = Client()
    made = route(rule(CHAIN, where=where), otherwise=CHAIN)

    assert 0 == facts(Client.ask, client, "Hi", tier="paid").choose(made)
    assert 0 == facts(Client.ask, client, prompt="Hi").choose(made)
    assert [((client, "Hi"), {"tier": "paid"}), ((client,), {"prompt": "Hi"})] == seen


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (True, True),
        (1, True),
        ("x", True),
        (False, False),
        (0, False),
        ("", False),
        (None, False),
        ([], False),
    ],
)
def test_where_is_true(given: Any, expected: bool) -> None:
    """What it gives counts as Python takes it."""
    assert expected is takes({"where": lambda *_, **__: given}, "Hi")


def test_where_may_take_what_pins_the_call() -> None:
    """Without it, a pinned call is asked about like any other."""
    asks_model = route(
        rule(CHAIN, where=lambda prompt, model=None: model == "gpt-4o"), otherwise=CHAIN
    )
    asks_all = route(
        rule(CHAIN, where=lambda prompt, **kwargs: kwargs == {"model": "gpt-4o"}), otherwise=CHAIN
    )
    asks_prompt = route(rule(CHAIN, where=lambda prompt: prompt == "Hi"), otherwise=CHAIN)
    call = facts(ask_by_model, "Hi", model="gpt-4o")

    assert [0, 0, 0] == [call.choose(each) for each in (asks_model, asks_all, asks_prompt)]


def test_where_of_an_ordinary_argument() -> None:
    """An argument named like one that pins is passed, where it does not pin."""

    def ask(target: Target, prompt: str, provider: str = "") -> None: ...

    made = route(rule(CHAIN, where=lambda prompt: True), otherwise=CHAIN)

    assert facts(ask, "Hi", provider="x").choose(made) is None


def _raises(error: BaseException) -> Callable[..., Any]:
    def where(*_: Any, **__: Any) -> bool:
        raise error

    return where


class _NoTruth:
    def __bool__(self) -> bool:
        raise LookupError("my prompt")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (_raises(ValueError("my prompt")), "raised ValueError"),
        (lambda *_, **__: _NoTruth(), "raised LookupError"),
        (lambda: True, "raised TypeError"),
        (lambda *_, **__: later(), "gave coroutine, which has to be awaited"),
    ],
)
def test_a_where_that_fails(
    where: Callable[..., Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not match, and one WARNING has the type of the error, and not its message."""
    made = route(rule(CHAIN, where=where), rule(CHAIN, has_image=False), otherwise=CHAIN)

    with caplog.at_level(logging.DEBUG, "resilient_llm"):
        chosen = [facts(ask, "Hi").choose(made) for _ in range(3)]

    assert [1, 1, 1] == chosen
    assert ["WARNING"] == [each.levelname for each in caplog.records]
    assert said in caplog.text
    assert "my prompt" not in caplog.text


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError(), GeneratorExit()]
)
def test_49_what_ends_a_call_passes_through_where(error: BaseException) -> None:
    """It is no failure of the function."""
    for made in (
        route(rule(CHAIN, where=_raises(error)), otherwise=CHAIN),
        route(rule(CHAIN, min_tokens=1), otherwise=CHAIN, tokens=_raises(error)),
    ):
        with pytest.raises(type(error)) as caught:
            facts(ask, "Hi").choose(made)
        assert error is caught.value


def test_where_is_asked_last_and_once() -> None:
    """Not if another condition fails, and not again by another rule or route."""
    calls: list[int] = []

    def where(*_: Any, **__: Any) -> bool:
        calls.append(1)
        return False

    call = facts(ask, "Hi")
    assert call.choose(route(rule(CHAIN, where=where, contains="Bye"), otherwise=CHAIN)) is None
    assert [] == calls
    for _ in range(2):
        call.choose(route(rule(CHAIN, where=where), rule("@x", where=where), otherwise=CHAIN))
    assert [1] == calls


# --- how arguments are found ----------------------------------------------------------------------


def test_all_conditions_must_hold() -> None:
    """One that fails is enough."""
    conditions = {"contains": "Hi", "has_tools": True, "min_tokens": 1}

    assert takes(conditions, "Hi", TOOLS)
    assert not takes(conditions, "Hi")
    assert not takes({**conditions, "has_image": True}, "Hi", TOOLS)


def test_the_first_rule_that_matches_counts() -> None:
    """The order is that of the route."""
    made = route(
        rule("@a", contains="x"), rule("@b", contains="H"), rule("@c", contains="i"), otherwise="@d"
    )

    assert [1, 2, None] == [facts(ask, text).choose(made) for text in ("Hi", "i", "?")]


@pytest.mark.parametrize("first", ["messages", "contents", "input", "prompt"])
def test_the_first_argument_of_messages_that_a_call_has(first: str) -> None:
    """One that is not given, or None, is no such argument."""
    made = route(rule(CHAIN, contains=first), otherwise=CHAIN)

    def ask(
        target: Target,
        prompt: Any = None,
        input: Any = None,
        contents: Any = None,
        messages: Any = None,
    ) -> None: ...

    names = ["messages", "contents", "input", "prompt"]
    given = {name: name for name in names[names.index(first) :]}

    assert 0 == facts(ask, **given).choose(made)
    assert 0 == CallFacts.of_arguments({"messages": None, **given}).choose(made)


def test_the_placeholder_of_an_sdk_is_not_given() -> None:
    """The next argument counts."""
    openai = pytest.importorskip("openai")
    made = route(rule(CHAIN, contains="Hi"), otherwise=CHAIN)

    assert 0 == CallFacts.of_arguments({"messages": openai.NOT_GIVEN, "input": "Hi"}).choose(made)


def test_messages_names_the_argument() -> None:
    """No other is read, and a route may read another than the next."""

    def ask(target: Target, prompt: str, question: str = "by default") -> None: ...

    by_name = route(rule(CHAIN, contains="by default"), otherwise=CHAIN, messages="question")
    call = facts(ask, "Hi")

    assert 0 == call.choose(by_name)
    assert call.choose(route(rule(CHAIN, contains="by default"), otherwise=CHAIN)) is None
    assert facts(ask, "Hi", "?").choose(by_name) is None
    missing = route(
        rule(CHAIN, contains="Hi"), rule(CHAIN, has_image=False), otherwise=CHAIN, messages="text"
    )
    assert call.choose(missing) is None


def test_a_conversation_without_a_name() -> None:
    """A list among ``*args`` is taken for it."""

    def ask(target: Target, *args: Any) -> None: ...

    assert 0 == facts(ask, 1, [HI]).choose(route(rule(CHAIN, contains="Hi"), otherwise=CHAIN))


def test_a_function_that_is_passed_first() -> None:
    """It is no argument of the call."""
    seen: list[Any] = []

    def where(*args: Any) -> bool:
        seen.append(args)
        return True

    made = route(rule(CHAIN, contains="Hi", where=where), otherwise=CHAIN)
    call = CallFacts(injection_of(ask).passed(), (ask, "Hi"), {})

    assert 0 == call.choose(made)
    assert [("Hi",)] == seen
    assert ((ask, "Hi"), {}) == call.arguments_without_model()
    assert 0 == facts(ask, "Hi").choose(made)


def test_a_loop_takes_otherwise() -> None:
    """Nothing is known of it, and no function is asked."""
    made = route(
        rule(CHAIN, where=_raises(AssertionError())), rule(CHAIN, min_tokens=0), otherwise="@x"
    )
    call = CallFacts(loop_injection(is_async=False), None, {})

    assert call.choose(made) is None
    assert (None, {}) == call.arguments_without_model()
    assert [
        "where: a loop has no arguments to look at",
        "min_tokens: a loop has no arguments to look at",
    ] == call.reasons(made)


def test_a_partial_and_a_bound_method() -> None:
    """Their calls are read by the parameters that are left."""

    class Client:
        def ask(self, target: Target, prompt: str) -> None: ...

    made = route(rule(CHAIN, contains="Hi"), otherwise=CHAIN)

    assert 0 == facts(Client().ask, "Hi").choose(made)
    assert 0 == facts(functools.partial(ask_by_model, target=None), "Hi").choose(made)


class _Hostile:
    def __getattribute__(self, name: str) -> Any:
        raise SystemError(name)

    def __eq__(self, other: object) -> bool:
        raise SystemError("eq")

    __hash__ = None  # type: ignore[assignment]  # as hostile objects have it

    def __iter__(self) -> Iterator[Any]:
        raise SystemError("iter")


ALL_CONDITIONS: list[dict[str, Any]] = [
    {"model": "*"},
    {"min_tokens": 10**9},
    {"has_image": True},
    {"has_image": False},
    {"has_tools": True},
    {"has_tools": False},
    {"min_code_share": 0.1},
    {"contains": "Hi"},
]


@pytest.mark.parametrize("condition", ALL_CONDITIONS, ids=str)
def test_a_hostile_argument_matches_nothing(condition: dict[str, Any]) -> None:
    """Nothing of it is run, and nothing is raised."""
    made = route(rule(CHAIN, **condition), otherwise=CHAIN)

    for call in (
        facts(ask, _Hostile(), model=_Hostile()),
        facts(ask_by_model, _Hostile(), model=_Hostile()),
        CallFacts.of_arguments({"messages": _Hostile(), "model": _Hostile()}),
    ):
        assert call.choose(made) is None
        assert 1 == len(call.reasons(made))


# --- explanations ---------------------------------------------------------------------------------


def test_reasons() -> None:
    """For each rule that was passed over: what was asked for, and what was found instead."""
    made = route(
        rule("@a", model="gpt-4*"),
        rule("@b", min_tokens=30_000),
        rule("@c", has_image=True),
        rule("@d", has_tools=True),
        rule("@e", min_code_share=0.5),
        rule("@f", contains="secret"),
        rule("@g", where=lambda **_: False),
        rule("@h", where=_raises(ValueError("secret"))),
        rule("@i", has_image=False, contains="secret too"),
        rule(["@j"], contains="Hi"),
        rule("@k", has_image=False),
        otherwise="@l",
    )

    explanation = explained(
        made, CallFacts.of_arguments({"prompt": "Hi there", "model": "own secret"})
    )

    assert 9 == explanation.rule
    assert ["@j"] == explanation.chain
    assert (
        "model='gpt-4*': the call names another model",
        "min_tokens=30000: the estimate is 2",
        "has_image=True: no image was found",
        "has_tools=True: no tools were found",
        "min_code_share=0.5: the share is 0",
        "contains: the text does not contain it",
        "where: the function gave nothing true",
        "where: the function failed",
        "contains: the text does not contain it",
    ) == explanation.reasons


def test_reasons_of_other_calls() -> None:
    """Those of a call without a model, with an image and with tools, and of one that is unread."""
    made = route(
        rule("@a", model="*"),
        rule("@b", has_image=False),
        rule("@c", has_tools=False),
        rule("@d", contains="x"),
        rule("@e", min_code_share=0.25),
        otherwise="@f",
    )
    of_tokens = route(rule("@a", min_tokens=0), otherwise="@f", tokens=lambda **_: None)
    unread = CallFacts.of_arguments({"messages": iter([])})

    assert [
        "model='*': the call names no model",
        "has_image=False: an image was found",
        "has_tools=False: tools were found",
        "contains: the text does not contain it",
        "min_code_share=0.25: the share is 0",
    ] == CallFacts.of_arguments({"messages": [IMAGE], "tools": TOOLS}).reasons(made)
    assert [
        "model='*': the call names no model",
        "has_image=False: the conversation cannot be read",
        "has_tools=False: the conversation cannot be read",
        "contains: no text of a user was found",
        "min_code_share=0.25: no text of a user was found",
    ] == unread.reasons(made)
    assert ["min_tokens=0: there is no estimate"] == unread.reasons(of_tokens)
    explanation = explained(made, unread)
    assert (None, "@f", 5) == (explanation.rule, explanation.chain, len(explanation.reasons))


def test_the_reason_of_a_regex() -> None:
    """The pattern is not shown."""
    pytest.importorskip("re2")
    made = route(rule("@a", regex="secret"), otherwise="@f")

    assert ["regex: the text does not have it"] == CallFacts.of_arguments({"prompt": "Hi"}).reasons(
        made
    )


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "`" * 1_000_000,
        "```\n" * 250_000,
        "~~~ `\n```" * 100_000,
        "ab" * 500_000,
        " " * 1_000_000,
        "iVBOR" * 200_000,
        "é" * 1_000_000,
    ],
    ids=lambda text: text[:8],
)
def test_a_prompt_of_a_million_characters(text: str) -> None:
    """It is read by every condition, and the limit of each test bounds the time."""
    conditions = [
        {"model": "*a*b*c*d*e*f"},
        *ALL_CONDITIONS[1:-1],
        {"contains": "a" * 100_000 + "b"},
    ]
    made = route(
        *(rule(CHAIN, **each) for each in conditions if each != {"has_image": False}),
        otherwise=CHAIN,
    )

    for messages in (
        text,
        [{"role": "user", "content": [text]}],
        [{"role": "user", "content": list(text[:100_000])}],
    ):
        call = facts(ask, messages, model=text)
        call.choose(made)
        assert call.conversation(None).text is not None
