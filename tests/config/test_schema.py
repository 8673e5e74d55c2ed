"""The JSON schema of a file agrees with the reader."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_llm._api.configuring import Changes
from resilient_llm._values.conditions import RuleConditions
from resilient_llm._values.policy import FailoverOptions
from resilient_llm._values.settings import BreakerOptions
from resilient_llm._values.stream_policy import StreamOptions
from resilient_llm.config import _default_options, _options, validate
from resilient_llm.config._kinds import Kind
from resilient_llm.config._schema import schema
from resilient_llm.config._sections import SECTIONS
from tests.config import bad_files

SCHEMA = schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
GOOD = sorted((Path(__file__).parent / "good").iterdir())

BASES: dict[str, tuple[Mapping[str, Kind], Any]] = {
    "settings": (_default_options.SETTINGS, lambda options: {"settings": options}),
    "stream": (_default_options.STREAM, lambda options: {"settings": {"stream": options}}),
    "adaptive": (_default_options.ADAPTIVE, lambda options: {"settings": {"adaptive": options}}),
    "tool_loop": (_default_options.TOOL_LOOP, lambda options: {"settings": {"tool_loop": options}}),
    "profile": (
        _default_options.PROFILE,
        lambda options: {"profiles": {"p": {"settings": options, "chains": {}}}},
    ),
    "breaker": (_options.BREAKER, lambda options: {"breakers": {"groq": options}}),
    "target": (_options.TARGET, lambda options: {"targets": {"a/b": options}}),
    "limit": (
        _options.LIMIT,
        lambda options: {
            "limits": {"a": {"requests": 1, "max_concurrent": 1, "max_queued": 1, **options}}
        },
    ),
    "budget": (
        _options.BUDGET,
        lambda options: {
            "budgets": [options if {"usd", "tokens"} & set(options) else {"calls": 1, **options}]
        },
    ),
    "price": (
        _options.PRICE,
        lambda options: {"prices": {"a/b": {"input": 1, "output": 1, **options}}},
    ),
    "state": (_options.STATE, lambda options: {"state": options}),
    "rule": (
        _options.CONDITIONS,
        lambda options: {
            "routes": {"r": {"otherwise": "a/b", "rules": [{"chain": "a/b", **options}]}}
        },
    ),
}
"""``{name: (its options, function from options to a file with them)}``"""
OPTIONS = [(base, name) for base, (kinds, _) in BASES.items() for name in kinds]

VALUES: list[Any] = [
    None, True, False, -(2**63), 2**63 - 1, 2**63, 2**70, -1, 0, 1, 2, 3, 5, 10, 11, 256, 257,
    60, 61, 86_400, 86_401, 3600, 3601, 10**12 - 1, 10**12, 2.0, 1.0, 0.0, -0.0, -0.5, 0.001, 0.0009,
    0.1, 0.0999, 0.5, 1.5, 9.99, 1e300, 5e-324, "", " ", "x", "1", "true", "messages", "two words",
    "p50", "p49", "p99", "p100", "next", "raise", "warn", "off", "enforce", "minute", "month",
    "skip", "priority", "soonest", "accept", "restart", "local", "replace", "UTC", "all", "tag:eu",
    "groq", "groq/llama", "sqlite:///a/b", "${X:-1}", "${X:-true}", "${X:-x}", "a${X:-1}", "$${X}",
    "x" * 65, "x" * 201, "x" * 513, [], {}, [1, 2], [0.1, 0.2], [1], [1, 2, 3], [-1, 2], ["x"],
    ["x", ""], ["two words"], [[]], ["${X:-1}", 2], {"x": 1}, {"input": 1, "output": 2},
    {"input": 1}, {"idle_timeout": 3}, {"idle_timeout": 0}, {"window": 1}, {"repeats": 2},
    {"action": "raise"}, 1e-7, 123456.123456,
]  # fmt: skip


def accepts(file: Any) -> bool:
    return VALIDATOR.is_valid(file)


def test_the_schema_is_a_schema() -> None:
    """It is one of draft 2020-12, and plain JSON."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)

    assert SCHEMA == json.loads(json.dumps(SCHEMA))
    assert "https://json-schema.org/draft/2020-12/schema" == SCHEMA["$schema"]
    assert {*SECTIONS, "$schema"} == set(SCHEMA["properties"])


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_it_accepts_what_is_read(path: Path) -> None:
    """All examples."""
    text = path.read_text("utf-8")
    loaders: dict[str, Any] = {".toml": tomllib.loads, ".json": json.loads}
    given = loaders.get(path.suffix, yaml.safe_load)(text)

    VALIDATOR.validate(given)


def each_property(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in node.get("properties", {}).items():
        yield f"{path}.{name}", each
        yield from each_property(each, f"{path}.{name}")
    for form in (*node.get("anyOf", ()), node.get("items"), node.get("additionalProperties")):
        if isinstance(form, dict):
            yield from each_property(form, f"{path}[]")


def test_each_option_has_a_description() -> None:
    """Editors show it."""
    found = dict(each_property(SCHEMA))

    assert len(found) > 150
    assert [] == [path for path, each in found.items() if not each.get("description")]


@pytest.mark.parametrize(("base", "name"), OPTIONS)
def test_each_option_tells_what_is_allowed(base: str, name: str) -> None:
    """So that a message that must not show the value can say it."""
    assert BASES[base][0][name].allowed


@pytest.mark.parametrize(("base", "name"), OPTIONS)
def test_messages_have_the_words_of_a_file(base: str, name: str) -> None:
    """TOML has no None, and writes true and false; what may be None in code can be left out."""
    _, file_of = BASES[base]
    problems = [problem for value in VALUES for problem in validate(file_of({name: value}))]

    assert problems
    for problem in problems:
        said = f"{problem.message} {problem.allowed}".replace("NoneType", "")
        said = re.sub("'[^']*'", "", said).removesuffix(" None")  # no .allowed
        assert not re.search(r"\b(None|True|False|sequence|mapping)\b", said), problem
        assert "leave" not in (problem.allowed or "")


@pytest.mark.parametrize(("base", "name"), OPTIONS)
def test_it_agrees_with_the_reader_on_values(base: str, name: str) -> None:
    """What the reader accepts it accepts, and of numbers and words no more than that."""
    kinds, file_of = BASES[base]
    kind = kinds[name]
    has_more: list[Any] = []
    for value in VALUES:
        file = file_of({name: value})
        is_read = validate(file) == [] or _is_of_others(file, name)
        if is_read:
            assert accepts(file), value
        elif accepts(file):
            has_more.append(value)

    # A schema cannot tell 2.0 from 2, count decimals, or look into a text.
    assert [] == [
        value
        for value in has_more
        if not isinstance(value, (str, list, dict))
        if not (kind.is_number and isinstance(value, float) and value == int(value))
        if value not in (1e-7, 5e-324, 10**12, 1e300)
    ]
    if kind.words and not kind.is_number and name not in ("per",):
        words = [value for value in has_more if isinstance(value, str) and "${" not in value]
        assert [] == words


def _is_of_others(file: Any, name: str) -> bool:
    """Return whether the only problem is that the option lacks another one."""
    (problem, *others) = validate(file)
    return not others and any(
        each in problem.message
        for each in (
            "restart_marker is given with",
            "is not defined: none is defined",
            "write exactly one of",
            "Budget without a cap",
            "Limit() limits nothing",
            "is given without its limit",
        )
    )


@pytest.mark.parametrize("base", BASES)
def test_it_refuses_unknown_options(base: str) -> None:
    """As the reader does."""
    file = BASES[base][1]({"unknown": 1})

    assert not accepts(file)
    assert validate(file)


@pytest.mark.parametrize(
    "file",
    [
        {},
        {"unknown": {}},
        {"settings": []},
        {"budgets": {}},
        {"chains": {"a": []}},
        {"chains": {"a": ""}},
        {"chains": {"a": ["a/b", 3]}},
        {"chains": {"a": ["a/b", ["c/d"]]}},
        {"chains": {"@a": "a/b"}},
        {"profiles": {"two words": {}}},
        {"profiles": {"a": {"routes": {}}}},
        {"routes": {"a": {}}},
        {"routes": {"a": {"otherwise": "a/b", "tokens": "x"}}},
        {"routes": {"a": {"otherwise": "a/b", "rules": [{"chain": "a/b"}]}}},
        {"routes": {"a": {"otherwise": "a/b", "rules": [{"has_tools": True}]}}},
        {"prices": {"a/b": {"input": 1}}},
        {"prices": {"a/b": None}},
        {"breakers": {"": {}}},
        {"targets": {"a/b": {"account": "x"}}},
        {"settings": {"backoff": 1}},
        {"settings": {"timeout": "30"}},
        {"settings": {"timeout": "${A}${B}"}},
    ],
)
def test_it_refuses_what_the_reader_refuses(file: Any) -> None:
    """The same wrong sections, names and chains."""
    assert not accepts(file)
    assert file == {} or validate(file)


@pytest.mark.parametrize(
    "name",
    [
        "unknown_section.toml",
        "unknown_options.toml",
        "elsewhere.toml",
        "wrong_sections.toml",
        "wrong_entries.toml",
        "wrong_ranges.toml",
        "wrong_words.toml",
        "routes.toml",
        "bad_names.toml",
        "empty_chain.toml",
    ],
)
def test_it_refuses_bad_files(name: str) -> None:
    """Those whose problems are of single options."""
    given = tomllib.loads((bad_files.FOLDER / name).read_text("utf-8"))

    assert not accepts(given)


def test_the_file_has_the_options_of_code() -> None:
    """A new option of `configure` or of a class is put into the file on purpose."""
    sections = {"breakers", "prices", "budgets", "limits", "state", "state_options"}
    of_store = {"state_timeout", "on_store_down", "state_name"}
    code = {"backoff", "reject"}

    expected = set(get_type_hints(Changes)) - sections - of_store - code
    assert expected | {"profile"} == set(_default_options.SETTINGS)
    assert set(_default_options.FAILOVER) <= set(FailoverOptions.__annotations__)
    assert set(BreakerOptions.__annotations__) == set(_options.BREAKER)
    assert set(StreamOptions.__annotations__) - {"commit"} == set(_default_options.STREAM)
    assert set(RuleConditions.__annotations__) - {"where"} == set(_options.CONDITIONS)
    target = set(_options.Target("a/b").options()) - {"call", "account"}
    assert target | {"unset"} == set(_options.TARGET)
    assert set(_options.Limit.__dataclass_fields__) == set(_options.LIMIT)
    assert set(_options.Budget.__dataclass_fields__) == set(_options.BUDGET)
    assert set(_options.Price.__dataclass_fields__) == set(_options.PRICE)
    assert set(_default_options.Adaptive.__dataclass_fields__) == set(_default_options.ADAPTIVE)
    assert set(_default_options.ToolLoop.__dataclass_fields__) - {"_"} == set(
        _default_options.TOOL_LOOP
    )


# Whole files.

SPECS = st.sampled_from(["groq/a", "openai/b", "@x", "@y", "groq/a, @x", "${V:-a/b}", "", "groq"])
CHAINS = SPECS | st.lists(SPECS, max_size=3)
NAMES = st.sampled_from(["x", "y", "z/1", "", "two words"])
ANY = st.sampled_from(VALUES)


def options_of(base: str) -> Any:
    """Return a strategy for a table with options of one kind, most of them with likely values."""
    names = st.sampled_from([*BASES[base][0], "unknown"])
    return st.dictionaries(names, ANY, max_size=2)


RULES = st.fixed_dictionaries({"chain": CHAINS}).flatmap(
    lambda rule: options_of("rule").map(lambda options: {**options, **rule})
)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "settings": options_of("settings"),
        "breakers": st.dictionaries(
            st.sampled_from(["groq", "*", "a/b", "/"]), options_of("breaker"), max_size=2
        ),
        "targets": st.dictionaries(
            st.sampled_from(["a/b", "A/b", "a"]), options_of("target"), max_size=2
        ),
        "chains": st.dictionaries(NAMES, CHAINS, max_size=3),
        "profiles": st.dictionaries(
            NAMES,
            st.fixed_dictionaries(
                {},
                optional={
                    "chains": st.dictionaries(NAMES, CHAINS, max_size=2),
                    "settings": options_of("profile"),
                },
            ),
            max_size=2,
        ),
        "routes": st.dictionaries(
            NAMES,
            st.fixed_dictionaries(
                {"otherwise": CHAINS}, optional={"rules": st.lists(RULES, max_size=2)}
            ),
            max_size=2,
        ),
        "limits": st.dictionaries(
            st.sampled_from(["groq", "tag:eu", "*"]), options_of("limit"), max_size=2
        ),
        "budgets": st.lists(options_of("budget"), max_size=2),
        "prices": st.dictionaries(st.sampled_from(["a/b", "groq", "*"]), ANY, max_size=2),
        "state": options_of("state"),
    },
)


@given(FILES)
@settings(max_examples=400, deadline=None)
def test_it_accepts_every_file_that_is_read(file: dict[str, Any]) -> None:
    """What has no problem fits the schema, whatever is written together."""
    if file and validate(file) == []:
        VALIDATOR.validate(file)
