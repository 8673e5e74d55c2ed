"""``resilient-llm doctor`` with a configuration file: checked first, loaded, and used for names."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resilient_llm import config
from resilient_llm._runtime import chains
from resilient_llm.cli._doctor import clients, providers
from resilient_llm.testing import isolated
from tests.cli.conftest import Output, Run

FILE = """
[settings]
timeout = 20.0
[chains]
fast = ["acme/m", "other/n"]
[routes.main]
otherwise = "@fast"
rules = [{ chain = "third/o", has_tools = true }]
"""
FUNCTION = """
from resilient_llm import Target, failover

@failover("@{name}")
async def ask(target: Target, prompt: str) -> str:
    return target.key
"""

Doctor = Callable[..., Output]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[Doctor]:
    """Write a module, if there is one, and a file, and run the doctor on these arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert clients.PROVIDERS  # it is loaded, so that it does not keep what is set here
    monkeypatch.setattr(providers, "PROVIDERS", {})  # nothing is reached over the network
    monkeypatch.setattr(chains, "_policies", weakref.WeakSet())  # of other tests
    for name in ("CONFIG", "PROFILE"):
        monkeypatch.delenv(f"RESILIENT_LLM_{name}", raising=False)

    def examine(*arguments: str, file: str = FILE, module: str = "") -> Output:
        Path("config.toml").write_text(file)
        Path("looked_at.py").write_text(textwrap.dedent(module))
        importlib.invalidate_caches()
        sys.modules.pop("looked_at", None)
        with isolated():
            return run("doctor", *arguments, "--json")

    yield examine
    sys.modules.pop("looked_at", None)


def found(output: Output) -> dict[tuple[str, str], tuple[str, str]]:
    """Return ``{(target, check): (status, message)}``."""
    return {
        (each["target"], each["check"]): (each["status"], each["message"])
        for each in json.loads(output.out)
    }


def test_a_file_alone_stands_for_all_of_its_targets(doctor: Doctor) -> None:
    """All targets of its chains and routes are looked at, with its settings."""
    output = doctor("config.toml")

    rows = found(output)
    assert 0 == output.status
    assert ("ok", "it is loaded, with 2 chains and routes and 0 profiles") == rows[
        "config.toml", "config"
    ]
    assert ["acme/m", "other/n", "third/o"] == [key for key, check in rows if check == "key"]
    assert ("ok", "at most 20s by the policy") == rows["acme/m", "timeout"]


def test_a_file_without_chains(doctor: Doctor) -> None:
    """There is no target to look at."""
    output = doctor("config.toml", file="[settings]\ntimeout = 1.0\n")

    assert 0 == output.status
    assert [("config.toml", "config")] == list(found(output))


@pytest.mark.parametrize("arguments", [("config.toml",), ("looked_at:ask", "config.toml")])
def test_each_problem_of_the_file_is_an_error(doctor: Doctor, arguments: tuple[str, ...]) -> None:
    """They are named with their places, exit 1, and nothing else is looked at."""
    file = "[settings]\ntimeot = 1.0\n[chains]\nfast = '@slow'\n"

    output = doctor(*arguments, file=file, module=FUNCTION.format(name="fast"))

    rows = found(output)
    assert 1 == output.status
    assert [
        ("config.toml: settings.timeot", "config"),
        ("config.toml: chains.fast", "config"),
    ] == list(rows)
    assert {"error"} == {status for status, _ in rows.values()}
    assert "did you mean timeout?" in rows["config.toml: settings.timeot", "config"][1]


def test_names_of_a_policy_stand_for_what_the_file_says(doctor: Doctor) -> None:
    """A function with a name in its chain is looked at with the targets of the file."""
    output = doctor("looked_at:ask", "config.toml", module=FUNCTION.format(name="main"))

    rows = found(output)
    assert 0 == output.status
    assert ["third/o", "acme/m", "other/n"] == [key for key, check in rows if check == "key"]
    assert "ok" == rows["config.toml", "config"][0]


def test_an_unknown_name_in_a_policy_is_an_error(doctor: Doctor) -> None:
    """With the file, and without one: calls of the function would raise."""
    module = FUNCTION.format(name="fats")

    with_file = doctor("looked_at:ask", "config.toml", module=module)
    without = doctor("looked_at:ask", module=module)

    said = (
        "looked_at.ask: name '@fats' is not defined: there is @fast, @main; did you mean '@fast'?"
    )
    assert (1, 1) == (with_file.status, without.status)
    assert (
        "error",
        f"{said}: its calls raise ConfigurationError",
    ) == found(with_file)["*", "chains"]
    assert "name '@fats' is not defined: none is defined" in found(without)["*", "chains"][1]


def test_live_does_not_call_a_function_with_an_unknown_name(doctor: Doctor) -> None:
    """The error is told once, instead of a failure of each call."""
    output = doctor("looked_at:ask", "config.toml", "--live", module=FUNCTION.format(name="fats"))

    assert 1 == output.status
    assert not any(check == "live" for _, check in found(output))


def test_live_calls_the_targets_of_the_file(doctor: Doctor) -> None:
    """``--live`` calls the function once for each target that the file gives it."""
    output = doctor("looked_at:ask", "config.toml", "--live", module=FUNCTION.format(name="fast"))

    assert ["acme/m", "other/n"] == [key for key, check in found(output) if check == "live"]


def test_what_check_finds_is_a_warning(doctor: Doctor) -> None:
    """Options of the file that the function cannot use are shown."""
    module = """
        from resilient_llm import failover

        @failover("@fast")
        def ask(prompt: str, *, model: str = "") -> str:
            return model
    """
    file = FILE + '[targets."acme/m"]\nparams = { seed = 1 }\n'

    rows = found(doctor("looked_at:ask", "config.toml", file=file, module=module))

    assert "warning" == rows["*", "chains"][0]
    assert "params['seed'] of 'acme/m' does not hold for looked_at.ask" in rows["*", "chains"][1]


def test_names_of_code_are_known_to_the_file(doctor: Doctor) -> None:
    """The module is imported before the file is loaded, since names may come from both."""
    module = 'from resilient_llm import chains\nchains.define({"slow": "a/b"})\n'
    module += FUNCTION.format(name="fast")

    output = doctor(
        "looked_at:ask", "config.toml", file="[chains]\nfast = '@slow'\n", module=module
    )

    assert 0 == output.status
    assert ("a/b", "key") in found(output)


def test_what_code_hides_is_a_warning(doctor: Doctor) -> None:
    """Names that both have are those of code."""
    module = 'from resilient_llm import chains\nchains.define({"fast": "a/b"})\n'
    module += FUNCTION.format(name="fast")

    rows = found(doctor("looked_at:ask", "config.toml", module=module))

    assert "warning" == rows["config.toml", "config"][0]
    assert "code hides chains.fast" in rows["config.toml", "config"][1]
    assert ("a/b", "key") in rows


def test_a_module_that_loads_a_wrong_file(doctor: Doctor) -> None:
    """The problems are shown, and not that the module cannot be imported."""
    module = 'from resilient_llm import config\nconfig.load("config.toml")\n'

    output = doctor("looked_at:ask", "config.toml", file="[chain]\n", module=module)

    assert 1 == output.status
    assert [("config.toml: chain", "config")] == list(found(output))


def test_a_module_that_cannot_be_imported(doctor: Doctor) -> None:
    """With a file that is well it is wrong use, as without one."""
    output = doctor("looked_at:nothing", "config.toml", module="")

    assert (2, "") == (output.status, output.out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("config.toml", "--live"), "--live cannot call"),
        (("config.ini",), "write MODULE:NAME, as in shop.llm:ask, or a file that ends in .toml"),
        (("config.toml", "config.toml"), "write MODULE:NAME"),
    ],
)
def test_wrong_use(doctor: Doctor, arguments: tuple[str, ...], said: str) -> None:
    """A file cannot be called, and two files are no function."""
    output = doctor(*arguments)

    assert (2, "") == (output.status, output.out)
    assert said in output.err


def test_no_value_of_the_environment_is_shown(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem with a variable shows the variable."""
    monkeypatch.setenv("LLM_SECRET", "nobody-may-see-this")

    output = doctor("config.toml", file="[settings]\ntimeout = '${LLM_SECRET}'\n")

    assert 1 == output.status
    assert "${LLM_SECRET}" in output.out
    assert "nobody-may-see-this" not in output.out + output.err


def test_the_file_is_loaded_where_the_doctor_runs(doctor: Doctor) -> None:
    """Nothing of it is left behind outside of the isolated state of these tests."""
    doctor("config.toml")

    assert config.current() is None
