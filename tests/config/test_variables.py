"""Variables of the environment in a configuration."""

from __future__ import annotations

import pickle
import re
import traceback
from typing import Any

import pytest

from resilient_llm import StreamPolicy, chains, config
from resilient_llm.config import InvalidConfigError
from resilient_llm.config._environment import selected_profile
from resilient_llm.config._reading import read

ENVIRON = {"A": "groq", "EMPTY": "", "REFERS": "${A}", "N": "3", "F": "2.5", "T": "true"}


def text(written: str, environ: dict[str, str] = ENVIRON) -> Any:
    """Return what a text becomes in a place where any text may stand."""
    given = {"targets": {"a/b": {"params": {"x": written}}}}
    return read(given, environ=environ).targets["a/b"]["params"]["x"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("${A}", "groq"),
        ("a ${A} b ${A}", "a groq b groq"),
        ("${NONE:-x}", "x"),
        ("${NONE:-}", ""),
        ("${A:-x}", "groq"),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${NONE:-a:-b $c}", "a:-b $c"),
        ("${REFERS}", "${A}"),
        ("$${A}", "${A}"),
        ("$${A} ${A}", "${A} groq"),
        ("$$${A}", "$${A}"),
        ("$A ${A}", "$A groq"),
        ("$", "$"),
        ("{A}", "{A}"),
        ("${N}", "3"),
        ("$${", "${"),
    ],
)
def test_what_a_text_becomes(written: str, expected: str) -> None:
    """Variables are replaced once, a default counts if one is empty, and `$${` is `${`."""
    assert expected == text(written)


@pytest.mark.parametrize(
    "written", ["${A", "${}", "${1}", "${A-x}", "${A:?x}", "${ A }", "${A${A}}"]
)
def test_what_is_no_variable(written: str) -> None:
    """Other forms of a shell are a problem, and not taken for text."""
    with pytest.raises(InvalidConfigError, match=r"begins no variable: write \$\{NAME\}"):
        text(written)


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("${A:-${B}}", "another variable"),
        ("${A:-x/y, ${B:-z}}", "another variable"),
        ("x${A:-{y}}", "a brace"),
        ('${A:-{"a": 1}}', "a brace"),
    ],
)
def test_a_default_with_braces(written: str, what: str) -> None:
    """It is said of the default, whose text is not shown."""
    with pytest.raises(InvalidConfigError) as caught:
        text(written)

    (problem,) = caught.value.problems
    assert (
        f"the default of '${{A:-' cannot hold {what}: write ${{NAME}} or ${{NAME:-default}}, "
        "whose default is text without braces" == problem.message
    )


@pytest.mark.parametrize("value", ["cheap", "cheap\n", " \tcheap "])
def test_blanks_around_the_name_of_a_profile(value: str) -> None:
    """A variable that is read from a file often ends in a line break."""
    given = {"settings": {"profile": "${P}"}, "profiles": {"cheap": {}}}

    assert "cheap" == read(given, environ={"P": value}).profile
    assert "cheap" == selected_profile({"RESILIENT_LLM_PROFILE": value})


@pytest.mark.parametrize("environ", [{}, {"RESILIENT_LLM_PROFILE": " "}])
def test_no_profile_is_selected(environ: dict[str, str]) -> None:
    """Blanks alone are no name, as an empty variable is none."""
    assert None is selected_profile(environ)


@pytest.mark.parametrize(("written", "value"), [("${F}", "false"), ("${N}", "0.2")])
def test_a_variable_in_params_is_text(written: str, value: str) -> None:
    """No type is expected there, so nothing is guessed."""
    given = {"targets": {"a/b": {"params": {"x": written, "y": [{"z": written}]}}}}

    params = read(given, environ={"F": "false", "N": "0.2"}).targets["a/b"]["params"]

    assert {"x": value, "y": [{"z": value}]} == params


def test_keys_are_left_alone() -> None:
    """Values alone are replaced."""
    layer = read({"targets": {"a/b": {"params": {"${A}": 1}}}}, environ=ENVIRON)

    assert {"${A}": 1} == layer.targets["a/b"]["params"]


@pytest.mark.parametrize(
    ("section", "option", "written", "value"),
    [
        ("settings", "attempts", "${N}", 3),
        ("settings", "timeout", "${F}", 2.5),
        ("settings", "timeout", "${NONE:-1e1}", 10.0),
        ("settings", "timeout", "${NONE:- 7 }", 7.0),
        ("settings", "reraise", "${T}", True),
        ("settings", "reraise", "${NONE:-False}", False),
        ("settings", "adaptive", "${T}", True),
        ("settings", "hedge", "${F}", 2.5),
        ("settings", "hedge", "p${NONE:-95}", "p95"),
        ("settings", "strategy", "${NONE:-random}", "random"),
        ("settings", "stream", {"idle_timeout": "${N}"}, StreamPolicy(idle_timeout=3)),
        ("state", "namespace", "n${N}", {"namespace": "n3"}),
        ("state", "namespace", "${N}", {"namespace": "3"}),
    ],
)
def test_one_variable_is_what_is_expected(
    section: str, option: str, written: Any, value: Any
) -> None:
    """A number or a boolean where one is expected, and a text elsewhere."""
    layer = read({section: {option: written}}, environ=ENVIRON)

    (found,) = layer.settings.values()
    assert value == found
    assert type(value) is type(found) or section == "state"


@pytest.mark.parametrize(
    ("option", "written"),
    [
        ("attempts", "${N}0"),
        ("attempts", "${N}${N}"),
        ("attempts", "${F}"),
        ("timeout", "${NONE:-inf}"),
        ("timeout", "${NONE:-1_000}"),
        ("timeout", "${NONE:-0x10}"),
        ("timeout", "${NONE:-\u0663}"),
        ("timeout", "${EMPTY}"),
        ("reraise", "${NONE:-yes}"),
        ("reraise", "${NONE:-1}"),
        ("attempts", "${T}"),
    ],
)
def test_what_is_no_number_and_no_boolean(option: str, written: str) -> None:
    """Only a value that is one variable is read as one, and only as JSON writes them."""
    with pytest.raises(InvalidConfigError, match="has a value that is not allowed"):
        read({"settings": {option: written}}, environ=ENVIRON)


def test_variables_in_lists() -> None:
    """Each item of a price may be one."""
    layer = read({"prices": {"a/b": ["${F}", "${N}"]}}, environ=ENVIRON)

    assert (2.5, 3.0) == layer.settings["prices"]["a/b"]


def test_one_problem_for_each_missing_variable_of_a_text() -> None:
    """The option itself has no other problem then."""
    given = {"chains": {"a": "${X}/${Y}/${X}"}, "settings": {"timeout": "${X}"}}

    with pytest.raises(InvalidConfigError) as caught:
        read(given, environ={})

    assert [
        ("mapping: chains.a", "the variable X is not set: set it, or write ${X:-default}"),
        ("mapping: chains.a", "the variable Y is not set: set it, or write ${Y:-default}"),
        ("mapping: settings.timeout", "the variable X is not set: set it, or write ${X:-default}"),
    ] == [(each.where, each.message) for each in caught.value.problems]


SECRET = "SECRETsk-1234567890"
PLACES: dict[str, Any] = {
    "settings": {
        "attempts": "${S}",
        "adaptive": {"window": "${S}"},
        "tool_loop": {"argument": "${S} x"},
        "strategy": "${S}",
        "stream": {"on_empty": "${S}", "restart_marker": "${S}"},
        "profile": "${S}",
        "hedge": "${S}",
    },
    "breakers": {"groq": {"mode": "${S}", "cooldown": "${S}"}},
    "targets": {
        "groq/x": {
            "tags": "${S}",
            "supports": ["${S} x", 3],
            "price": "${S}",
            "weight": "${S}",
            "stream": "${S}",
            "unset": ["a", "${S}"],
            "params": {"${S}": "${S}", "a": 1},
        },
        "groq/y": "${S}",
    },
    "chains": {
        "a": "${S}",
        "b": ["${S}/", "x/y", "@${S}", ["${S}"]],
        "c": "@${S}",
        "d": "${S}/x",
        "e": ["${S}", "y"],
        "f": "groq/x, ${S}",
    },
    "profiles": {"p": {"chains": {"a": "${S}"}, "settings": {"timeout": "${S}"}}, "q": "${S}"},
    "routes": {
        "r": {
            "otherwise": "${S}",
            "messages": "${S} x",
            "rules": [
                {"chain": "${S}", "regex": "(${S}"},
                {"chain": "x/y", "regex": "(${S}"},
                {"chain": "x/y", "min_tokens": "${S}"},
                {"chain": "x/y", "model": "${S}${S}", "has_tools": "${S}"},
                "${S}",
            ],
        },
        "s": {"otherwise": "x/y", "rules": "${S}"},
    },
    "limits": {"groq": {"per": "${S}", "requests": 1}, "a": {"shared": "${S}"}, "b": "${S}"},
    "budgets": [
        {"usd": "${S}"},
        {"calls": 1, "zone": "${S}"},
        {"calls": 1, "of": "tag: ${S}"},
        {"calls": 1, "name": "${S}"},
        {"calls": 2, "name": "${S}"},
        {"calls": 2, "per": "${S}"},
        "${S}",
    ],
    "prices": {"a/b": ["${S}", 1], "a/c": "${S}", "a/d": {"input": "${S}", "output": 1}},
    "state": {
        "url": "redis://user:${S}@host:no/0",
        "namespace": "${S} x",
        "poll": "${S}",
        "on_corrupt": "${S}",
        "name": "${S}\n",
    },
}


@pytest.mark.parametrize("section", PLACES)
def test_the_value_of_a_variable_is_in_no_message(section: str) -> None:
    """Not in the problems, the error, its notes, frames or pickle, whatever is wrong with it."""
    source = {section: PLACES[section]}

    with pytest.raises(InvalidConfigError) as caught:
        read(source, environ={"S": SECRET}, providers=["openai"])

    error = caught.value
    shown = [str(error), repr(error), str(pickle.dumps(error))]
    for each in error.problems:
        shown += [repr(each), str(each)]
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    inside = [frame for frame in trace.stack if "resilient_llm" in frame.filename]
    shown += [str(frame.locals) for frame in inside]
    assert inside
    for words in shown:
        assert "secretsk" not in words.lower()
    assert None is error.__context__


def test_names_of_variables_are_in_messages() -> None:
    """What is written is shown instead of the value."""
    with pytest.raises(InvalidConfigError, match=r"timeout='\$\{S\}' has a value"):
        read({"settings": {"timeout": "${S}"}}, environ={"S": SECRET})


def test_a_route_of_a_file_explains_itself_with_names_of_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chain and reasons are what is written; what calls do is what the variables say."""
    for name, value in (("SEC", "sk-live-1234"), ("GLOB", "sk-glob-*"), ("LEAST", "7141")):
        monkeypatch.setenv(name, value)
    config.load(
        {
            "routes": {
                "main": {
                    "otherwise": "groq/${SEC}",
                    "rules": [
                        {"chain": "a/b", "model": "${GLOB}"},
                        {"chain": "a/b", "min_tokens": "${LEAST}"},
                        {"chain": ["groq/${SEC}", "c/d"], "contains": "Hi"},
                    ],
                }
            }
        }
    )

    otherwise = chains.explain("main", prompt="Why?", model="gpt")
    listed = chains.explain("main", prompt="Hi")

    assert (None, "groq/${SEC}") == (otherwise.rule, otherwise.chain)
    assert (2, ["groq/${SEC}", "c/d"]) == (listed.rule, listed.chain)
    assert "model=${GLOB}: the call names another model" == otherwise.reasons[0]
    assert re.fullmatch(r"min_tokens=\$\{LEAST\}: the estimate is \d", otherwise.reasons[1])
    for each in (otherwise, listed):
        assert not any(value in str(each) for value in ("sk-live", "sk-glob", "7141"))
    assert "groq/sk-live-1234" in [each.key for each in chains.resolve("@main")]


def test_a_rule_of_a_file_is_pickled_with_what_is_written() -> None:
    """A copy shows no value of a variable either."""
    layer = read(
        {"routes": {"main": {"otherwise": "a/b", "rules": [{"chain": "a/${A}", "model": "${A}"}]}}},
        environ=ENVIRON,
    )
    route: Any = pickle.loads(pickle.dumps(layer.names["main"]))

    (rule,) = route.rules
    assert ("a/${A}", {"model": "groq"}, {"model": "${A}"}) == (
        rule.chain,
        dict(rule.conditions),
        dict(rule.written),
    )
    assert ("a/groq",) == rule.plan.written
