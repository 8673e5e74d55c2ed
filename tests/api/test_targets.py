"""Targets and chains: what a target is called, and what may be written as a chain."""

import dataclasses

import pytest

from resilient_llm import (
    BreakerOpenError,
    ChainExhaustedError,
    ConfigurationError,
    Target,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    unbench_model,
)
from tests.support.guards import fail, is_refused
from tests.support.ways import GROQ, OPENAI, down


def order_of(chain: object) -> list[str]:
    """The keys of the targets a chain calls, in the order it calls them."""
    called = []

    @failover(chain=chain, attempts=1)
    def ask(target: Target) -> None:
        called.append(target.key)
        raise down()

    with pytest.raises(ChainExhaustedError):
        ask()
    return called


# --- one target -------------------------------------------------------------------------------


def test_a_target_has_spec_key_provider_and_model():
    """A target is read from its spec."""
    target = Target("groq/llama-3.3-70b-versatile")

    assert (
        "groq/llama-3.3-70b-versatile",
        "groq/llama-3.3-70b-versatile",
        "groq",
        "llama-3.3-70b-versatile",
    ) == (
        target.spec,
        target.key,
        target.provider,
        target.model,
    )


def test_the_model_is_everything_behind_the_first_slash():
    """Further slashes belong to the model."""
    target = Target("openrouter/meta-llama/llama-3-70b")

    assert ("openrouter", "meta-llama/llama-3-70b") == (target.provider, target.model)


def test_the_provider_is_lower_case_and_the_model_as_it_is_written():
    """Only the provider is lower-cased."""
    target = Target("OpenAI/GPT-4o")

    assert ("openai", "GPT-4o", "openai/GPT-4o") == (target.provider, target.model, target.key)


@pytest.mark.parametrize(
    "spec", ["groq/llama", "Groq/llama", " groq/llama ", "GROQ/llama\n", "\tgroq/llama"]
)
def test_a_model_has_one_key_however_it_is_written(spec: str):
    """Case of the provider and blanks around the spec do not matter."""
    assert GROQ == Target(spec).key


def test_a_target_is_frozen():
    """What a target is does not change."""
    target = Target(GROQ)

    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        target.weight = 3


def test_a_target_is_hashable_and_equal_to_one_that_is_the_same():
    """Targets may be members of sets and keys of mappings, with options too."""
    plain = {Target(GROQ), Target(" Groq/llama "), Target(GROQ, priority=2)}
    rich = {
        Target(GROQ, params={"temperature": 0.5, "stop": ["a"]}, tags=("fast",)) for _ in range(2)
    }

    assert 2 == len(plain)
    assert 1 == len(rich)


def test_the_options_of_a_target_have_defaults():
    """What is not said about a target has its documented default."""
    target = Target(GROQ)

    assert (1, 1.0, ()) == (target.priority, target.weight, tuple(target.tags))
    assert [None] * 6 == [
        target.supports,
        target.call,
        target.attempt_timeout,
        target.price,
        target.context_window,
        target.max_output,
    ]
    assert not target.params


def test_the_options_of_a_target_can_be_read():
    """What is said about a target is kept."""
    target = Target(
        GROQ,
        account="tenant-7",
        params={"temperature": 0},
        attempt_timeout=20.0,
        priority=2,
        weight=0.5,
        price=(0.1, 0.4),
        context_window=128_000,
        max_output=8_000,
        supports=("tools",),
        tags=("eu", "fast"),
    )

    assert (20.0, 2, 0.5, (0.1, 0.4), 128_000, 8_000) == (
        target.attempt_timeout,
        target.priority,
        target.weight,
        tuple(target.price),
        target.context_window,
        target.max_output,
    )
    assert {"temperature": 0} == dict(target.params)
    assert ({"tools"}, {"eu", "fast"}) == (set(target.supports), set(target.tags))


def test_an_account_is_part_of_the_key():
    """The same model of two accounts has two keys."""
    target = Target(GROQ, account="tenant-7")

    assert "groq@tenant-7/llama" == target.key
    assert ("groq", "llama", "tenant-7") == (target.provider, target.model, target.account)
    assert target != Target(GROQ)


def test_accounts_harm_each_other_in_nothing():
    """The provider key of an account is `groq@tenant-7`."""
    fail("groq@tenant-7/llama", error=lambda: ConnectionRefusedError(111, "refused"), times=5)
    bench_model("groq")

    assert is_refused("groq@tenant-7/other")
    assert is_benched("groq@tenant-7")
    assert not is_refused("groq@tenant-8/llama")
    assert not is_benched("groq@tenant-8/llama")


@pytest.mark.parametrize("spec", ["", " ", "groq/", "/llama", "/", " / ", "groq/ "])
def test_a_spec_with_an_empty_half_is_refused(spec: str):
    """A spec has a provider and a model."""
    with pytest.raises(ConfigurationError) as caught:
        Target(spec)

    assert isinstance(caught.value, ValueError)
    assert "provider/model" in str(caught.value) or "groq/" in str(caught.value)


@pytest.mark.parametrize("spec", [None, 3, b"groq/llama", ["groq/llama"]], ids=str)
def test_a_spec_that_is_no_text_is_refused(spec: object):
    """A spec is a string."""
    with pytest.raises((ConfigurationError, TypeError)):
        Target(spec)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("attempt_timeout", 0),
        ("attempt_timeout", -1),
        ("attempt_timeout", float("nan")),
        ("attempt_timeout", True),
        ("attempt_timeout", "20"),
        ("weight", -1),
        ("weight", float("nan")),
        ("weight", float("inf")),
        ("weight", True),
        ("priority", "high"),
        ("priority", True),
        ("price", -1),
        ("price", (1, -1)),
        ("price", (1, 2, 3)),
        ("context_window", 0),
        ("context_window", -5),
        ("context_window", True),
        ("max_output", 0),
        ("max_output", "8k"),
        ("call", "not callable"),
        ("params", 3),
        ("params", "temperature"),
        ("account", ""),
        ("account", 7),
        ("tags", 3),
        ("supports", 3),
    ],
)
def test_a_bad_option_of_a_target_is_refused_where_it_is_written(option: str, value: object):
    """The error names the option."""
    with pytest.raises(ConfigurationError) as caught:
        Target(GROQ, **{option: value})

    assert option in str(caught.value)


# --- what a target brings to its call ---------------------------------------------------------


def answer_with(**given: object):
    """A function that returns what it was called with."""

    def ask(target: Target, prompt: str, **options: object) -> object:
        return prompt, options

    return failover(chain=[Target(GROQ, **given)])(ask)


def test_params_are_merged_over_the_keyword_arguments_of_the_call():
    """A target's own parameters win over the caller's."""
    ask = answer_with(params={"temperature": 0.2, "seed": 7})

    result = ask("x", temperature=1.0, top_p=0.5)

    assert ("x", {"temperature": 0.2, "seed": 7, "top_p": 0.5}) == result


def test_unset_removes_a_keyword_argument():
    """Target.UNSET takes away what a target does not understand."""
    ask = answer_with(params={"temperature": Target.UNSET, "never_given": Target.UNSET})

    result = ask("x", temperature=1.0, top_p=0.5)

    assert ("x", {"top_p": 0.5}) == result


def test_params_of_one_target_are_not_those_of_the_next():
    """Each target starts from the call's own arguments."""
    received = []

    @failover(chain=[Target(GROQ, params={"a": 1, "b": Target.UNSET}), OPENAI], attempts=1)
    def ask(target: Target, **options: object) -> None:
        received.append(options)
        raise down()

    with pytest.raises(ChainExhaustedError):
        ask(b=2)

    assert [{"a": 1}, {"b": 2}] == received


def test_call_is_used_for_its_target_instead_of_the_function():
    """A target with `call=` has its own function, which is given its target by the same rules."""

    def own(target: Target, prompt: str) -> str:
        return f"own {target.key} {prompt}"

    @failover(chain=[GROQ, Target(OPENAI, call=own)], attempts=1)
    def ask(target: Target, prompt: str) -> str:
        raise down()

    assert f"own {OPENAI} x" == ask("x")


def test_call_may_take_the_model_by_name():
    """A client's own method that takes `model=` is given the bare name."""

    def create(prompt: str, *, model: str) -> str:
        return f"{model} {prompt}"

    @failover(chain=[Target("openrouter/meta/llama", call=create)])
    def ask(prompt: str) -> str: ...

    assert "meta/llama x" == ask("x")


def test_a_bound_method_may_be_the_call_of_a_target():
    """`Target("groq/llama", call=client.create)` is how a method becomes an entry."""

    class Client:
        def create(self, prompt: str, *, model: str) -> str:
            return f"{model} {prompt}"

    @failover(chain=[Target(GROQ, call=Client().create)])
    def ask(prompt: str) -> str: ...

    assert "llama x" == ask("x")


# --- chains -----------------------------------------------------------------------------------


def primary(prompt: str = "") -> str:
    """A provider that is down."""
    raise down()


def secondary(prompt: str = "") -> str:
    """A provider that answers."""
    return f"secondary {prompt}"


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("a/x", ["a/x"]),
        ("a/x,b/y", ["a/x", "b/y"]),
        (" a/x , b/y/z ", ["a/x", "b/y/z"]),
        (["a/x", "b/y"], ["a/x", "b/y"]),
        (("a/x", "b/y"), ["a/x", "b/y"]),
        (Target("a/x"), ["a/x"]),
        ([Target("a/x"), "b/y"], ["a/x", "b/y"]),
        (["a/x", ["b/y", ["c/z"]], "d/w"], ["a/x", "b/y", "c/z", "d/w"]),
        (["a/x, b/y", ("c/z",)], ["a/x", "b/y", "c/z"]),
        (["a/x", "b/y", "a/x"], ["a/x", "b/y"]),
        (["a/x", " A/x ", Target("a/x"), ["a/x"]], ["a/x"]),
        (["a/x", Target("a/x", account="t")], ["a/x", "a@t/x"]),
        ([Target("a/x", weight=2.0), Target("a/x", weight=2.0)], ["a/x"]),
    ],
    ids=str,
)
def test_a_chain_may_be_written_in_many_ways(chain: object, expected: list[str]):
    """Specs, comma-separated strings, targets and nested sequences, flattened in order without equals."""
    assert expected == order_of(chain)


def test_priority_comes_before_the_order_of_the_chain():
    """Lower priorities are called first, equal ones in declared order."""
    chain = [Target("a/x", priority=3), "b/y", Target("c/z", priority=2), "d/w"]

    assert ["b/y", "d/w", "c/z", "a/x"] == order_of(chain)


def test_functions_of_a_module_may_be_entries():
    """An entry that is a function is called in its turn, with the call's arguments."""

    @failover(chain=[primary, secondary], attempts=1)
    def ask(prompt: str) -> str:
        pytest.fail("every entry has a function of its own")

    assert "secondary x" == ask("x")


def test_functions_and_specs_may_be_mixed():
    """A function is one entry of a chain among others."""

    @failover(chain=[GROQ, secondary], attempts=1)
    def ask(target: Target, prompt: str) -> str:
        raise down()

    assert "secondary x" == ask("x")


def test_functions_are_guarded_like_any_target():
    """A function that is down is skipped after it has failed often enough."""
    called = []

    @failover(chain=[primary, secondary], attempts=1, observers=[called.append])
    def ask(prompt: str) -> str: ...

    for _ in range(6):
        ask("x")

    assert 5 == sum(type(event).__name__ == "AttemptFailed" for event in called)


@pytest.mark.parametrize(
    ("chain", "named"),
    [
        ([], ""),
        ("", ""),
        ((), ""),
        ([[], []], ""),
        (",", ""),
        (["groq/llama", ""], ""),
        (["groq/llama", "  "], ""),
        (["groq/"], "groq/"),
        (["/llama"], "/llama"),
        ("groq/llama,", ""),
        (["groq/llama", 3], "int"),
        (["groq/llama", None], "None"),
        ([Target("groq/llama", weight=2.0), Target("groq/llama", weight=3.0)], "groq/llama"),
        (["groq/llama", Target(" Groq/llama", priority=2)], "groq/llama"),
        ([lambda prompt: prompt], "lambda"),
        ([[].append], "append"),
    ],
)
def test_a_chain_that_cannot_be_is_refused_where_it_is_written(chain: object, named: str):
    """The error names the entry and says what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        failover(chain=chain)

    assert isinstance(caught.value, ValueError)
    assert named in str(caught.value)
    assert len(str(caught.value)) > len(named) + 10


@pytest.mark.parametrize(
    "entry", [lambda prompt: prompt, "".join, [].append], ids=["lambda", "join", "append"]
)
def test_an_anonymous_function_is_refused_with_what_to_write_instead(entry: object):
    """A lambda or a bound method has no name a key could be made of."""
    with pytest.raises(ConfigurationError, match=r"Target\(.*call="):
        failover(chain=[entry])


def test_the_chain_is_the_same_for_positional_and_named_writing():
    """`chain` may be given by position."""

    @failover("a/x,b/y", attempts=1)
    def ask(target: Target) -> str:
        return target.key

    assert "a/x" == ask()


def test_a_chain_is_read_once_when_it_is_written():
    """Changing the list afterwards changes nothing."""
    chain = ["a/x"]
    policy = failover(chain=chain)
    chain.append("b/y")

    def ask(target: Target) -> str:
        bench_model("a/x")
        return target.key

    assert "a/x" == policy.call(ask)
    with pytest.raises((ChainExhaustedError, BreakerOpenError)):
        policy.call(ask)


KEY_USERS = {
    "Target": Target,
    "failover": failover,
    "breaker": breaker,
    "bench_model": bench_model,
    "unbench_model": unbench_model,
    "is_benched": is_benched,
    "health": lambda key: health([key]),
    "configure": lambda key: configure(breakers={key: {"failures": 3}}),
}


@pytest.mark.parametrize("use", KEY_USERS)
@pytest.mark.parametrize(
    "key",
    [
        "groq/" + "x" * 508,
        "groq/a\nb",
        "groq/a\x1b[31m",
        "gr\x00oq/a",
        "groq@ten\x7fant/a",
        "groq/\ud800x",
        "groq/\udcffy",
        "gr\udfffoq",
    ],
    ids=[
        "513 characters",
        "new line",
        "escape",
        "null",
        "delete",
        "high surrogate",
        "undecodable byte",
        "low surrogate",
    ],
)
def test_long_and_unprintable_keys_are_refused_everywhere(use: str, key: str) -> None:
    """Such a key could blow up a log or a label; the error shows its beginning only."""
    with pytest.raises(
        ConfigurationError, match=r"too long|control characters|lone surr"
    ) as refused:
        KEY_USERS[use](key)

    assert len(str(refused.value)) < 200
    assert str(refused.value).isprintable()


def test_the_account_counts_as_a_part_of_the_key() -> None:
    """It may be given apart from the spec."""
    assert 512 == len(Target("groq/" + "x" * 500, account="tenant").key)

    with pytest.raises(ConfigurationError, match="513 characters"):
        Target("groq/" + "x" * 500, account="tenant7")
    with pytest.raises(ConfigurationError, match="control characters"):
        Target("groq/llama", account="a\tb")
    with pytest.raises(ConfigurationError, match="lone surrogates"):
        Target("groq/llama", account="a\ud800b")
