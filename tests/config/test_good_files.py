"""What a file without problems says."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import Adaptive, Budget, Limit, Price, Settings, StreamPolicy, Target, ToolLoop
from resilient_llm._values.names import Names, with_options
from resilient_llm._values.plan import FileLayer, Plan, Profile, Route, Rule
from resilient_llm.config import validate
from resilient_llm.config._reading import read

GOOD = Path(__file__).parent / "good"
FORMATS = ("contract.toml", "contract.json", "contract.yaml")


def plain(value: Any) -> Any:
    """Return something as values that can be compared; a route has no equality of its own."""
    if isinstance(value, Rule):
        return "rule", plain(value.chain), plain(value.plan), plain(value.conditions)
    if isinstance(value, Route):
        rules = [plain(each) for each in value.rules]
        return "route", rules, value.otherwise, plain(value.otherwise_plan), value.messages
    if isinstance(value, Plan):
        return value.entries
    if isinstance(value, Profile):
        return plain(value.chains), plain(value.settings)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return value


def content(layer: FileLayer) -> dict[str, Any]:
    """Return all that a layer says, but for where it is from."""
    return {name: plain(getattr(layer, name)) for name in FileLayer.__slots__ if name != "source"}


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_says_the_same_in_each_format(name: str) -> None:
    """TOML, JSON, YAML and a mapping give one layer."""
    path = GOOD / name
    given = json.loads((GOOD / "contract.json").read_text("utf-8"))

    layer = read(path, environ={})

    assert content(read(given, environ={})) == content(layer)
    assert str(path) == layer.source
    assert "mapping" == read(given, environ={}).source


def test_what_the_example_says() -> None:
    """Each section is where the library looks for it."""
    layer = read(GOOD / "contract.toml", environ={})

    assert StreamPolicy(first_item_timeout=10.0) == layer.settings["stream"]
    assert {"groq": {"cooldown": 20.0}} == layer.settings["breakers"]
    assert {"stream", "breakers"} == set(layer.settings)
    options = layer.targets["groq/llama-3.3-70b-versatile"]
    assert {"params": {"temperature": 0.2, "seed": Target.UNSET}} == dict(options)
    names = Names(layer.names, layer.profiles, layer.targets)
    assert ["fast", "team/chat", "main"] == list(layer.names)
    fast = layer.names["fast"]
    assert isinstance(fast, Plan)
    assert ["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"] == [
        each.key for each in fast.targets
    ]
    assert {"seed"} == names.target(fast.entries[0]).removed
    cheap = layer.profiles["cheap"]
    assert {"attempts": 1} == cheap.settings
    assert {"fast"} == set(cheap.chains)
    main = layer.names["main"]
    assert isinstance(main, Route)
    assert "@fast" == main.otherwise
    assert [("@team/chat", {"has_tools": True})] == [
        (each.chain, dict(each.conditions)) for each in main.rules
    ]


def test_what_all_options_say() -> None:
    """Each option of each section can be written, and is what code would have given."""
    layer = read(GOOD / "everything.toml", environ={})

    settings = Settings().changed(layer.settings)
    assert (2, 5, 30.0, 10.0, 20.0) == (
        settings.attempts,
        settings.max_attempts,
        settings.timeout,
        settings.attempt_timeout,
        settings.cooldown,
    )
    assert ("least_latency", "p95", 2) == (settings.strategy, settings.hedge, settings.max_hedges)
    assert Adaptive(30.0, 2.0, 5, 0.2, 3, 0.0) == settings.adaptive
    assert ToolLoop("raise", repeats=4, argument="conversation") == settings.tool_loop
    assert isinstance(settings.stream, StreamPolicy)
    assert ("restart", "again", 1000) == (
        settings.stream.on_interrupt,
        settings.stream.restart_marker,
        settings.stream.keep_text,
    )
    assert (0.5, 0.0, "warn", 60.0, False, False) == (
        settings.retry_budget,
        settings.max_wait,
        settings.on_memory_pressure,
        settings.memory_pressure_cooldown,
        settings.listen,
        settings.logging,
    )
    assert "metrics_only" == settings.breakers["*"]["mode"]
    assert Limit(max_concurrent=100) == settings.limits["*"]
    assert settings.limits["tag:eu"].shared
    assert ["all of it", "all day tokens", "key hour calls"] == [
        each.name for each in settings.budgets
    ]
    assert Budget(calls=0, per="hour", of="key") == settings.budgets[2]
    assert (0.1, 0.2) == settings.prices["own/llama"]
    assert Price(0.1, 0.2, 0.05, 0.3) == settings.prices["own/qwen"]
    assert (1.0, 2.0) == settings.prices["*"]
    assert "sqlite:///var/lib/app/state.db" == settings.state
    assert {"namespace": "app", "poll": 2.0, "on_corrupt": "refuse"} == settings.state_options
    assert (0.5, "refuse", "web-1") == (
        settings.state_timeout,
        settings.on_store_down,
        settings.state_name,
    )
    assert "cheap" == layer.profile
    assert "profile" not in layer.settings


def test_the_options_of_a_target() -> None:
    """A spec that is written as text becomes the target that code would have built."""
    layer = read(GOOD / "everything.toml", environ={})

    assert {"groq@eu/llama", "openai/gpt"} == set(layer.targets)
    target = with_options(Target("groq@eu/llama"), layer.targets["groq@eu/llama"])
    expected = Target(
        "groq@eu/llama",
        params={
            "temperature": 0.2,
            "stop": ["a", "b"],
            "extra": {"deep": {"deeper": 1}},
            "seed": Target.UNSET,
            "user": Target.UNSET,
        },
        attempt_timeout=5.0,
        stream=StreamPolicy(idle_timeout=3.0),
        priority=-2,
        weight=0.5,
        price=(0.1, 0.2),
        context_window=128_000,
        max_output=8_000,
        supports=["tools", "vision"],
        tags=["eu"],
    )
    assert expected == target
    other = with_options(Target("openai/gpt"), layer.targets["openai/gpt"])
    assert Price(0.1, 0.2, 0.05) == other.price
    assert {"tools"} == other.supports


def test_the_profiles_and_routes_of_a_file() -> None:
    """Their options are checked values."""
    layer = read(GOOD / "everything.toml", environ={})

    cheap = layer.profiles["cheap"]
    assert {"attempts": 1, "adaptive": True, "stream": StreamPolicy(on_empty="accept")} == dict(
        cheap.settings
    )
    assert {"fast", "own"} == set(cheap.chains)
    assert (0, 0) == (
        len(layer.profiles["nothing"].chains),
        len(layer.profiles["nothing"].settings),
    )
    main, other = layer.names["main"], layer.names["plain"]
    assert isinstance(main, Route)
    assert isinstance(other, Route)
    assert "conversation" == main.messages
    (rule,) = main.rules
    assert ["@fast", "openai/gpt"] == rule.chain
    assert {
        "model": "gpt-*",
        "min_tokens": 30_000,
        "has_image": True,
        "has_tools": False,
        "min_code_share": 0.5,
        "contains": "SELECT",
        "regex": r"\bTODO\b",
    } == dict(rule.conditions)
    assert () == other.rules


def test_a_null_in_a_profile_is_a_value() -> None:
    """It is what `define_profile` takes: no deadline, say; and it takes nothing back."""
    layer = read({"profiles": {"a": {"settings": {"timeout": None, "stream": None}}}})

    assert {"timeout": None, "stream": None} == dict(layer.profiles["a"].settings)
    (problem,) = validate({"profiles": {"a": {"settings": {"attempts": None}}}})
    assert "attempts=null is not allowed: write a whole number, 1 or more" == problem.message


def test_the_parts_tell_two_versions_apart() -> None:
    """What is written is there by section and key, with variables replaced and keys normalised."""
    layer = read(GOOD / "everything.toml", environ={})

    parts = layer.parts
    given = tomllib.loads((GOOD / "everything.toml").read_text("utf-8"))
    assert 2 == parts["settings.attempts"]
    assert "cheap" == parts["settings.profile"]
    assert given["chains"]["fast"] == parts["chains.fast"]
    assert given["profiles"]["cheap"] == parts["profiles.cheap"]
    assert given["routes"]["main"] == parts["routes.main"]
    assert given["targets"]["Groq@eu/llama"] == parts["targets.groq@eu/llama"]
    assert given["breakers"]["*"] == parts["breakers.*"]
    assert given["limits"]["tag:eu"] == parts["limits.tag:eu"]
    assert given["budgets"] == parts["budgets"]
    assert [0.1, 0.2] == parts["prices.own/llama"]
    assert "sqlite:///var/lib/app/state.db" == parts["state.url"]
    sections = {each.partition(".")[0] for each in parts}
    assert set(given) == sections
    varied = read({"chains": {"a": "${BEST}/x"}}, environ={"BEST": "groq"})
    assert {"chains.a": "groq/x"} == dict(varied.parts)


def test_a_layer_cannot_be_changed() -> None:
    """Neither the mappings of a layer nor those in them."""
    layer = read(GOOD / "everything.toml", environ={})

    for mapping in (
        layer.settings,
        layer.settings["breakers"],
        layer.settings["breakers"]["*"],
        layer.settings["limits"],
        layer.settings["prices"],
        layer.settings["state_options"],
        layer.targets,
        layer.targets["openai/gpt"],
        layer.names,
        layer.profiles,
        layer.profiles["cheap"].chains,
        layer.profiles["cheap"].settings,
        layer.parts,
    ):
        with pytest.raises(TypeError):
            mapping["x"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        layer.profile = None  # type: ignore[misc]
    assert isinstance(layer.settings["budgets"], tuple)


def test_the_repr_of_a_layer_shows_nothing_of_it() -> None:
    """It may hold what variables of the environment stand for."""
    layer = read({"chains": {"a": "${X}/y"}}, environ={"X": "SECRET"})

    assert "<configuration of 'mapping'>" == repr(layer)


def test_a_null_is_what_configure_takes() -> None:
    """None takes an option of `failover` back, and is no limit for the retry budget."""
    layer = read({"settings": {"timeout": None, "retry_budget": None, "profile": None}})

    assert {"timeout": None, "retry_budget": None} == dict(layer.settings)
    assert None is Settings().changed(layer.settings).retry_budget
    assert None is layer.profile


def test_names_of_code_may_be_used() -> None:
    """A chain may refer to a name, and the process to a profile, that code has defined."""
    layer = read(
        {"chains": {"a": "@of-code"}, "settings": {"profile": "of-code"}},
        known_names=["of-code"],
        known_profiles=["of-code"],
    )

    assert "of-code" == layer.profile
    assert ["a"] == list(layer.names)


def test_a_name_of_a_profile_is_known_in_that_profile_alone() -> None:
    """Each profile may define names of its own."""
    profiles = {"a": {"chains": {"own": "groq/x", "b": "@own"}}, "c": {"chains": {"b": "@own"}}}

    assert ["mapping: profiles.c.chains.b"] == [
        each.where for each in validate({"profiles": profiles})
    ]


def test_a_profile_may_break_a_chain_that_would_loop_under_another() -> None:
    """Loops are looked for under each profile by itself."""
    given = {
        "chains": {"a": "@b", "b": "groq/x"},
        "profiles": {"fine": {"chains": {"a": "groq/y"}}, "loop": {"chains": {"b": "@a"}}},
    }

    assert ["mapping: profiles.loop.chains.b"] == [each.where for each in validate(given)]


def test_a_provider_that_is_not_known() -> None:
    """It is a problem in each place that names a target."""
    given = {
        "targets": {"grok@eu/x": {"priority": 2}, "Groq/x": {}},
        "chains": {"a": ["groq/x", "grok/x"], "b": "openai/x, groq/y"},
        "profiles": {"p": {"chains": {"a": "grok/y"}}},
        "routes": {"r": {"otherwise": "grok/z", "rules": [{"chain": "grok/w", "has_tools": True}]}},
    }

    problems = validate(given, providers=["GROQ", "anthropic"])

    assert [
        "chains.a[1]",
        "chains.b",
        "profiles.p.chains.a",
        "routes.r.rules[0].chain",
        "routes.r.otherwise",
        'targets."grok@eu/x"',
    ] == [each.where.partition(": ")[2] for each in problems]
    assert "provider 'grok' is not known: known are anthropic, groq; did you mean 'groq'?" == (
        problems[0].message
    )
    assert ("groq", "anthropic, groq") == (problems[0].suggestion, problems[0].allowed)
    assert [] == validate(given, providers="groq, grok, openai")
    assert [] == validate(given)


OF_OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"limits": {"gorq": {"requests": 1}}}, "limits.gorq"),
    ({"limits": {" Gorq@eu/a ": {"requests": 1}}}, 'limits." Gorq@eu/a "'),
    ({"limits": {"gorq@eu": {"requests": 1}}}, 'limits."gorq@eu"'),
    ({"limits": {"all": {"requests": 1}}}, "limits.all"),
    ({"prices": {"gorq/a": [1, 1]}}, 'prices."gorq/a"'),
    ({"prices": {"gorq": {"input": 1, "output": 1}}}, "prices.gorq"),
    ({"prices": {"key": [1, 1]}}, "prices.key"),
    ({"budgets": [{"usd": 1, "of": "groq"}, {"usd": 1, "of": "gorq"}]}, "budgets[1].of"),
    ({"budgets": [{"usd": 1, "of": "gorq@eu/a"}]}, "budgets[0].of"),
    ({"breakers": {"gorq/a": {"failures": 1}}}, 'breakers."gorq/a"'),
    ({"breakers": {"gorq@eu/a": {"failures": 1}}}, 'breakers."gorq@eu/a"'),
]


@pytest.mark.parametrize(("given", "place"), OF_OTHERS, ids=lambda each: str(each)[:40])
def test_a_key_of_a_provider_that_is_not_known(given: dict[str, Any], place: str) -> None:
    """A key that no client serves has no effect, so it is a problem."""
    (problem,) = validate(given, providers=["groq"])

    assert f"mapping: {place}" == problem.where
    assert "is not known: known are groq" in problem.message
    assert [] == validate(given)


def test_keys_that_belong_to_no_provider() -> None:
    """They are fine whatever providers there are; ``search`` may be the name of a guard."""
    given = {
        "breakers": {"*": {"failures": 3}, "search": {"failures": 2}, "groq/a": {"failures": 2}},
        "limits": {"*": {"requests": 1}, "tag: eu/west": {"requests": 2}, "Groq": {"requests": 3}},
        "prices": {"*": [1, 2], "groq@eu/a": [1, 2]},
        "budgets": [
            {"calls": 1, "of": "all"},
            {"calls": 1, "of": "key"},
            {"calls": 1, "of": "tag:eu"},
            {"calls": 1, "of": "groq@eu"},
            {"calls": 2, "name": "without of"},
        ],
    }

    assert [] == validate(given, providers=["groq"])


def test_a_budget_whose_provider_is_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message shows the variable, and not what it stands for."""
    monkeypatch.setenv("WHOSE", "gorq")
    given = {"budgets": [{"usd": 1, "of": "${WHOSE}/a"}]}

    (problem,) = validate(given, providers=["groq"])

    assert "'${WHOSE}/a' has a provider that is not known: known are groq" == problem.message


def test_a_key_that_is_not_allowed_is_one_problem() -> None:
    """It is not said as well that its provider is not known."""
    given = {"limits": {"/a": {"requests": 1}}, "budgets": [{"usd": 1, "of": "gorq/"}]}

    problems = validate(given, providers=["groq"])

    assert 2 == len(problems)
    assert all("has an empty half" in each.message for each in problems)


@pytest.mark.parametrize("name", [*FORMATS, "everything.toml"])
def test_validate_finds_nothing_in_a_good_file(name: str) -> None:
    """The list of problems is empty."""
    assert [] == validate(GOOD / name)
    assert [] == validate(str(GOOD / name))


def test_a_file_may_name_its_schema() -> None:
    """Editors look for it there; the reader does not."""
    given = {"$schema": "https://example.org/schema.json", "chains": {"a": "groq/x"}}

    assert {"chains.a": "groq/x"} == dict(read(given).parts)


def test_tuples_are_lists() -> None:
    """In a mapping of Python they are written where a file has a list."""
    layer = read({"prices": {"a/b": (0.1, 0.2)}, "chains": {"a": ("groq/x", "openai/y")}})

    assert (0.1, 0.2) == layer.settings["prices"]["a/b"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chains": {3: "groq/x"}}, "a key of type int is no text"),
        ({3: "groq/x"}, "a key of type int is no text"),
        ({"chains": {"a": Target("groq/x")}}, "a value of type Target is not allowed"),
        ({"settings": {"stream": StreamPolicy()}}, "a value of type StreamPolicy is not allowed"),
        ({"settings": {"timeout": b"3"}}, "a value of type bytes is not allowed"),
    ],
)
def test_a_mapping_holds_what_a_file_could_hold(given: Any, message: str) -> None:
    """Objects of Python are for code."""
    (problem,) = validate(given)

    assert message in problem.message


@pytest.mark.parametrize("source", [3, None, b"config.toml", ["config.toml"]])
def test_a_source_is_a_path_or_a_mapping(source: Any) -> None:
    """Anything else is a problem as well."""
    (problem,) = validate(source)

    assert f"a source of type {type(source).__name__} is not allowed" in problem.message
    assert "mapping" == problem.where


def test_a_mapping_that_holds_itself() -> None:
    """It is too deep."""
    given: dict[str, Any] = {}
    given["targets"] = given

    (problem,) = validate(given)

    assert "nested deeper than 16" in problem.message
