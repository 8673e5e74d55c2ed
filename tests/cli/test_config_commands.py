"""``resilient-llm check``, ``route`` and ``config-schema``: what they print of a file, and how they end."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resilient_llm import cli
from resilient_llm.chains import define as define_names
from resilient_llm.chains import explain, names, profiles, route, rule
from resilient_llm.config import validate
from resilient_llm.config._schema import schema
from resilient_llm.testing import isolated
from tests.cli.conftest import Run

FILE = """
[settings]
timeout = 30.0

[chains]
fast = ["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"]
"team/chat" = "@fast, ${BEST:-anthropic/claude-sonnet}"

[profiles.cheap]
chains = { fast = "groq/llama-3.3-70b-versatile" }
settings = { attempts = 1, stream = { first_item_timeout = 10.0 } }

[routes.main]
otherwise = "@fast"
[[routes.main.rules]]
chain = "@team/chat"
has_tools = true
[[routes.main.rules]]
chain = ["@fast", "openai/gpt-5"]
model = "gpt-*"
min_tokens = 10
"""
WRONG = """
[settings]
timeot = 30.0
[chains]
fast = "@slow"
"""
SECRET = "a-value-of-the-environment"
PROMPT = "a-prompt-that-nobody-may-see"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder with a file, without what the machine has set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESILIENT_LLM_PROFILE", raising=False)
    Path("config.toml").write_text(FILE)


@pytest.fixture
def messages() -> Path:
    """A conversation without tools."""
    return conversation([{"role": "user", "content": PROMPT}])


def conversation(value: Any) -> Path:
    path = Path("messages.json")
    path.write_text(json.dumps(value))
    return path


# check


def test_check_prints_chains_routes_and_profiles(run: Run) -> None:
    """A file without problems is listed as it is written, with what names stand for; exit 0."""
    assert (
        0,
        """\
chains
  fast       groq/llama-3.3-70b-versatile, openai/gpt-5-mini
  team/chat  @fast, ${BEST:-anthropic/claude-sonnet}
             = groq/llama-3.3-70b-versatile, openai/gpt-5-mini, ${BEST:-anthropic/claude-sonnet}

routes
  main
    rules[0]   @team/chat  if has_tools = true
    rules[1]   @fast, openai/gpt-5  if model = "gpt-*", min_tokens = 10
    otherwise  @fast

profiles
  cheap
    chains.fast = groq/llama-3.3-70b-versatile
    settings.attempts = 1
    settings.stream = { first_item_timeout = 10.0 }
""",
        "",
    ) == run("check", "config.toml")


def test_check_as_json(run: Run) -> None:
    """``--json`` has the same as one object in ASCII, and an empty list of problems."""
    status, out, err = run("check", "config.toml", "--json")

    found = json.loads(out)
    assert (0, "") == (status, err)
    assert out.isascii()
    assert ["source", "problems", "chains", "routes", "profiles"] == list(found)
    assert ("config.toml", []) == (found["source"], found["problems"])
    assert {
        "chain": "@fast, ${BEST:-anthropic/claude-sonnet}",
        "targets": [
            "groq/llama-3.3-70b-versatile",
            "openai/gpt-5-mini",
            "${BEST:-anthropic/claude-sonnet}",
        ],
    } == found["chains"]["team/chat"]
    assert [
        {"chain": "@team/chat", "conditions": {"has_tools": True}},
        {"chain": ["@fast", "openai/gpt-5"], "conditions": {"model": "gpt-*", "min_tokens": 10}},
    ] == found["routes"]["main"]["rules"]
    assert "@fast" == found["routes"]["main"]["otherwise"]
    assert "openai/gpt-5" in found["routes"]["main"]["targets"]
    assert {
        "chains": {"fast": "groq/llama-3.3-70b-versatile"},
        "settings": {"attempts": 1, "stream": {"first_item_timeout": 10.0}},
    } == found["profiles"]["cheap"]


def test_check_prints_all_problems(run: Run) -> None:
    """A file with problems is exit 1, and each problem is a line as ``str(problem)`` gives it."""
    Path("config.toml").write_text(WRONG)
    problems = validate("config.toml")

    status, out, err = run("check", "config.toml")

    assert 2 == len(problems)
    assert (1, [str(each) for each in problems]) == (status, out.splitlines())
    assert "config.toml: 2 problems\n" == err


def test_problems_as_json(run: Run) -> None:
    """``--json`` has each problem with all of its attributes, and is exit 1 as well."""
    Path("config.toml").write_text(WRONG)

    status, out, err = run("check", "config.toml", "--json")

    found = json.loads(out)
    assert (1, "", "config.toml") == (status, err, found["source"])
    assert {"where", "message", "allowed", "suggestion", "line"} == found["problems"][0].keys()
    assert "timeout" == found["problems"][0]["suggestion"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("no.toml", "does not exist"), ("config.ini", "a name that ends in '.ini'")],
)
def test_a_file_that_cannot_be_read_is_a_problem(run: Run, name: str, said: str) -> None:
    """A file that is missing or of no known format is a problem like others: exit 1."""
    status, out, _ = run("check", name)

    assert 1 == status
    assert out.startswith(f"{name}: ")
    assert said in out


def test_check_with_providers(run: Run) -> None:
    """``--providers`` makes every spec of another provider a problem; blanks do not count."""
    known = run("check", "config.toml", "--providers", "groq, openai,anthropic")
    status, out, _ = run("check", "config.toml", "--providers", "groq,anthropic")

    assert 0 == known.status
    assert 1 == status
    assert "config.toml: chains.fast[1]: provider 'openai' is not known" in out


@pytest.mark.parametrize("given", ["", "groq,", ",", " "])
def test_an_empty_provider_is_wrong_use(run: Run, given: str) -> None:
    """A list of providers with an empty name is exit 2, and not a list that allows nothing."""
    status, out, err = run("check", "config.toml", "--providers", given)

    assert (2, "") == (status, out)
    assert "--providers: '' is blank: write --providers groq,openai" in err


def test_check_with_what_is_no_provider(run: Run) -> None:
    """A target instead of a provider is wrong use, too."""
    status, out, err = run("check", "config.toml", "--providers", "groq,openai/gpt-5")

    assert (2, "") == (status, out)
    assert (
        "--providers: 'openai/gpt-5' is the name of no provider: write --providers groq,openai"
    ) in err


@pytest.mark.parametrize("command", ["check", "route"])
def test_a_profile_of_the_environment_that_the_file_does_not_have(
    command: str, run: Run, messages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a problem of the file in this environment, as it is for a load: exit 1."""
    monkeypatch.setenv("RESILIENT_LLM_PROFILE", SECRET)
    more = ("main", "--messages", str(messages)) if command == "route" else ()

    status, out, err = run(command, "config.toml", *more)
    (problem,) = json.loads(run(command, "config.toml", *more, "--json").out)["problems"]

    assert 1 == status
    assert (
        "config.toml: RESILIENT_LLM_PROFILE: ${RESILIENT_LLM_PROFILE} selects a profile that is "
        "not defined: there is cheap\n"
    ) == out
    assert SECRET not in out + err
    assert ("config.toml: RESILIENT_LLM_PROFILE", "cheap", None) == (
        problem["where"],
        problem["allowed"],
        problem["line"],
    )


def test_check_needs_a_file(run: Run) -> None:
    """Without a file it is exit 2."""
    status, out, err = run("check")

    assert (2, "") == (status, out)
    assert err.startswith("usage: resilient-llm check")


def test_check_of_settings_alone(run: Run) -> None:
    """A file without names prints nothing that a script could take for one."""
    Path("config.toml").write_text("[settings]\ntimeout = 1.0\n")

    assert (0, "", "config.toml has no chain, no route and no profile\n") == run(
        "check", "config.toml"
    )


def test_no_value_of_the_environment_is_printed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable is printed by its name, wherever it stands, as text and as JSON."""
    for name in ("SPEC", "GLOB", "STRATEGY"):
        monkeypatch.setenv(name, f"groq/{SECRET}")
    monkeypatch.setenv("STRATEGY", "round_robin")
    Path("config.toml").write_text(
        "[chains]\na = '${SPEC}'\nb = ['@a', 'x/${GLOB}']\n"
        "[routes.r]\notherwise = '${SPEC}'\nrules = [{ chain = '${SPEC}', model = '${GLOB}' }]\n"
        "[profiles.p]\nchains = { a = '${SPEC}' }\nsettings = { strategy = '${STRATEGY}' }\n"
    )
    messages = conversation("Hi")

    shown = [
        run("check", "config.toml"),
        run("check", "config.toml", "--json"),
        run("check", "config.toml", "--providers", "openai"),
        run("route", "config.toml", "r", "--messages", str(messages)),
        run("route", "config.toml", "r", "--messages", str(messages), "--json"),
        run("route", "config.toml", "r", "--messages", str(messages), "--model", "x"),
    ]

    assert [0, 0, 1, 0, 0, 0] == [each.status for each in shown]
    assert all("${" in each.out for each in shown)
    assert not any(
        word in each.out + each.err for each in shown for word in (SECRET, "round_robin")
    )
    assert "rules[0]   model=${GLOB}: the call names another model" in shown[-1].out


def test_a_variable_with_a_comma_in_its_default_is_one_entry(run: Run) -> None:
    """What a name stands for is split at commas, but not inside of a variable."""
    Path("config.toml").write_text("[chains]\na = 'x/y'\nb = '@a, ${B:-c/d,e/f} , g/h'\n")

    found = json.loads(run("check", "config.toml", "--json").out)

    assert ["x/y", "${B:-c/d,e/f}", "g/h"] == found["chains"]["b"]["targets"]


def test_control_characters_are_escaped(run: Run) -> None:
    """What a file has moves no cursor and makes no line of its own."""
    Path("config.toml").write_text(
        '[chains]\na = "groq/${X:-\\u001b[31m\\u202e}"\n'
        '[routes.r]\notherwise = "@a"\nrules = [{chain = "@a", contains = "\\n\\u001b[2J"}]\n'
    )

    status, out, err = run("check", "config.toml")

    assert (1 if "problem" in err else 0) == status
    assert "\\x1b" in out
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err


def test_check_loads_nothing(run: Run) -> None:
    """Neither command leaves names or settings in the process."""
    with isolated():
        before = names(), profiles()
        run("check", "config.toml")
        run("route", "config.toml", "main", "--messages", str(conversation("Hi")))

        assert before == (names(), profiles())


# route


def test_route_prints_the_chain_and_why(run: Run, messages: Path) -> None:
    """The first line is the chain as it is written; then its targets, its rule, and those before."""
    assert (
        0,
        """\
@fast
  targets    groq/llama-3.3-70b-versatile, openai/gpt-5-mini
  chosen by  main.otherwise
  rules[0]   has_tools=True: no tools were found
  rules[1]   model='gpt-*': the call names no model
""",
        "",
    ) == run("route", "config.toml", "main", "--messages", str(messages))


def test_route_takes_a_model(run: Run) -> None:
    """``--model`` is what the call passes as ``model=``; the rule that matches is named."""
    path = conversation([{"role": "user", "content": "words " * 100}])

    status, out, _ = run(
        "route", "config.toml", "main", "--messages", str(path), "--model", "gpt-5"
    )

    assert (0, "@fast, openai/gpt-5") == (status, out.splitlines()[0])
    assert "chosen by  main.rules[1]" in out
    assert "rules[0]   has_tools=True: no tools were found" in out


def test_route_as_json(run: Run, messages: Path) -> None:
    """``--json`` has the same as one object."""
    status, out, err = run("route", "config.toml", "main", "--messages", str(messages), "--json")

    assert (0, "") == (status, err)
    assert {
        "route": "main",
        "profile": None,
        "rule": None,
        "chain": "@fast",
        "targets": ["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"],
        "reasons": [
            "has_tools=True: no tools were found",
            "model='gpt-*': the call names no model",
        ],
    } == json.loads(out)


@pytest.mark.parametrize(
    "value",
    [
        "Hi",
        [{"role": "user", "content": "Hi"}],
        [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}],
        [],
        [3, None],
    ],
)
@pytest.mark.parametrize("model", [None, "gpt-5"])
def test_route_is_what_explain_says(run: Run, value: Any, model: str | None) -> None:
    """The command decides as ``chains.explain`` does of a route in code."""
    arguments = {"messages": value} | ({} if model is None else {"model": model})
    with isolated():
        define_names(
            {
                "fast": "groq/llama-3.3-70b-versatile, openai/gpt-5-mini",
                "team/chat": "@fast, anthropic/claude-sonnet",
                "main": route(
                    rule("@team/chat", has_tools=True),
                    rule(["@fast", "openai/gpt-5"], model="gpt-*", min_tokens=10),
                    otherwise="@fast",
                ),
            }
        )
        expected = explain("main", **arguments)

    out = run(
        *("route", "config.toml", "main", "--json", "--messages", str(conversation(value))),
        *(() if model is None else ("--model", model)),
    ).out

    found = json.loads(out)
    assert (expected.rule, expected.chain) == (found["rule"], found["chain"])
    assert list(expected.reasons) == found["reasons"]


def test_the_messages_go_into_the_argument_that_the_route_names(run: Run) -> None:
    """A route with ``messages = "question"`` finds them."""
    Path("config.toml").write_text(
        "[routes.r]\nmessages = 'question'\notherwise = 'a/b'\n"
        "rules = [{ chain = 'c/d', contains = 'code' }]\n"
    )

    assert (
        "c/d"
        == run(
            "route", "config.toml", "r", "--messages", str(conversation("some code"))
        ).out.partition("\n")[0]
    )


def test_route_follows_a_name_that_stands_for_a_route(run: Run, messages: Path) -> None:
    """``@`` before the name makes no difference, and a name of a route may be given."""
    Path("config.toml").write_text(FILE.replace("[chains]", "[chains]\ndefault = '@main'"))

    for name in ("default", "@main"):
        status, out, _ = run("route", "config.toml", name, "--messages", str(messages))
        assert (0, True) == (status, "chosen by  main.otherwise" in out)


def test_messages_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--messages -`` reads them from standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"Hi"')))

    assert 0 == run("route", "config.toml", "main", "--messages", "-").status


def test_the_profile_of_the_process(
    run: Run, messages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are looked up under the profile of the variable, else of the file's settings."""
    Path("config.toml").write_text(
        FILE.replace("timeout = 30.0", "profile = 'cheap'") + "[profiles.other]\nchains = {}\n"
    )
    arguments = ("route", "config.toml", "main", "--messages", str(messages))

    of_file = run(*arguments).out
    monkeypatch.setenv("RESILIENT_LLM_PROFILE", "other")
    of_variable = run(*arguments).out
    monkeypatch.setenv("RESILIENT_LLM_PROFILE", "other\n")
    assert of_variable == run(*arguments).out

    assert "profile    cheap" in of_file
    assert "targets    groq/llama-3.3-70b-versatile\n" in of_file
    assert "profile    other" in of_variable
    assert "openai/gpt-5-mini" in of_variable


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mian", "name '@mian' is not defined: there is @fast, @main, @team/chat; did you mean '@main'?"),
        ("fast", "'@fast' stands for a chain"),
        ("", "name '' is not allowed"),
    ],
)  # fmt: skip
def test_what_is_no_route_is_wrong_use(run: Run, messages: Path, name: str, said: str) -> None:
    """A name that the file does not have, or that stands for a chain, is exit 2."""
    status, out, err = run("route", "config.toml", name, "--messages", str(messages))

    assert (2, "") == (status, out)
    assert said in err


def test_route_of_a_file_with_problems(run: Run, messages: Path) -> None:
    """The problems are printed as ``check`` prints them, exit 1."""
    Path("config.toml").write_text(WRONG)

    assert run("check", "config.toml") == run(
        "route", "config.toml", "main", "--messages", str(messages)
    )
    as_json = run("route", "config.toml", "main", "--messages", str(messages), "--json")
    assert (1, 2) == (as_json.status, len(json.loads(as_json.out)["problems"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f'[{{"{PROMPT}"'.encode(), "is not JSON (line 1, column "),
        (b"", "is not JSON"),
        (f'{{"{PROMPT}": 1}}'.encode(), "has neither: write a list of messages, or a text"),
        (b"3", "has neither"),
        (b"null", "has neither"),
        (PROMPT.encode("utf-16"), "is not UTF-8"),
        (b"[" * 100_000, "cannot be read"),
        (b"[" + b"9" * 5000 + b"]", "cannot be read"),
    ],
)
def test_messages_that_cannot_be_read_are_wrong_use(run: Run, content: bytes, said: str) -> None:
    """Bad JSON is exit 2 and one clear line, without anything of the messages."""
    Path("m.json").write_bytes(content)

    status, out, err = run("route", "config.toml", "main", "--messages", "m.json")

    assert (2, "") == (status, out)
    assert said in err.splitlines()[-1]
    assert PROMPT not in err


def test_a_byte_order_mark_is_no_part_of_the_messages(run: Run) -> None:
    """Editors on Windows write one."""
    Path("m.json").write_bytes(b'\xef\xbb\xbf"Hi"')

    assert 0 == run("route", "config.toml", "main", "--messages", "m.json").status


@pytest.mark.parametrize("name", ["no.json", ".", "a\0b"])
def test_messages_that_are_missing_are_wrong_use(run: Run, name: str) -> None:
    """A file that is not there, or is none, is exit 2."""
    status, out, err = run("route", "config.toml", "main", "--messages", name)

    assert (2, "") == (status, out)
    assert "cannot be read" in err.splitlines()[-1]


def test_route_needs_messages(run: Run) -> None:
    """Without messages it is exit 2."""
    status, _, err = run("route", "config.toml", "main")

    assert 2 == status
    assert "--messages" in err


@pytest.mark.parametrize("extra", [(), ("--json",), ("--model", "gpt-5")])
def test_nothing_of_the_messages_is_printed(run: Run, extra: tuple[str, ...]) -> None:
    """Whatever rules look at, the output holds no text of the messages."""
    conditions = ["has_image = true", "has_tools = true", "min_code_share = 0.9"]
    conditions += ["contains = 'nothing of it'", "min_tokens = 100000", "model = 'llama'"]
    if importlib.util.find_spec("re2") is not None:
        conditions.append("regex = 'nothing+'")
    rules = ", ".join(f"{{ chain = 'a/b', {each} }}" for each in conditions)
    Path("config.toml").write_text(f"[routes.r]\notherwise = 'c/d'\nrules = [{rules}]\n")
    path = conversation([{"role": "user", "content": f"```\n{PROMPT}\n```\n" + PROMPT * 50}])

    status, out, err = run("route", "config.toml", "r", "--messages", str(path), *extra)

    assert (0, "") == (status, err)
    assert len(conditions) <= len(out.splitlines())
    assert PROMPT not in out


# config-schema


def test_config_schema_prints_the_schema(run: Run) -> None:
    """It is the schema of the reader, as JSON in ASCII."""
    status, out, err = run("config-schema")

    assert (0, "") == (status, err)
    assert out.isascii()
    assert schema() == json.loads(out)


# Ctrl-C.


@pytest.mark.parametrize("command", ["check", "route", "config_schema"])
def test_ctrl_c_is_130(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """A command that is interrupted ends with 130 and no traceback."""
    module = importlib.import_module(f"resilient_llm.cli.{command}")

    def interrupted(options: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal was handled")

    monkeypatch.setattr(module, "run", interrupted)
    arguments = {
        "check": ["config.toml"],
        "route": ["config.toml", "main", "--messages", "m.json"],
        "config_schema": [],
    }[command]

    assert (130, "", "") == run(command.replace("_", "-"), *arguments)


@pytest.mark.slow
def test_the_commands_as_a_process() -> None:
    """The exit statuses are those of the process."""
    Path("wrong.toml").write_text(WRONG)
    root = str(Path(cli.__file__).parents[2])
    statuses = [
        subprocess.run(
            [sys.executable, "-m", "resilient_llm", *arguments],
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode
        for arguments in (
            ["check", "config.toml"],
            ["check", "wrong.toml"],
            ["check"],
            ["config-schema"],
        )
    ]

    assert [0, 1, 2, 0] == statuses
