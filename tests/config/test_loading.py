"""Loading a configuration and loading it again: what calls find, what is kept, what is refused."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import re
import signal
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

import resilient_llm
from resilient_llm import (
    Budget,
    ConfigReloaded,
    ConfigReloadFailed,
    ConfigurationError,
    Limit,
    Target,
    bench_model,
    chains,
    config,
    configure,
    failover,
    health,
    is_benched,
    observe,
    settings,
    spend,
)
from resilient_llm._runtime.runtime import runtime
from resilient_llm.config import InvalidConfigError
from resilient_llm.config._state import status
from resilient_llm.testing import FakeClock, capture_events, isolated
from tests.support.files import write

GROQ, OPENAI, CLAUDE = "groq/llama", "openai/gpt-5-mini", "anthropic/claude-sonnet"
FAST = {"chains": {"fast": GROQ}}


def asking(chain: Any = "@fast", **options: Any) -> Any:
    @failover(chain=chain, **options)
    def ask(target: Target, prompt: str = "") -> str:
        return target.key

    return ask


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "llm.toml", f'[chains]\nfast = "{GROQ}"\n')


def problems_of(source: Any, **options: Any) -> list[tuple[str, str]]:
    """Return where the problems of a load are, and what they say; nothing may be changed by it."""
    before = runtime.in_force
    with pytest.raises(InvalidConfigError) as caught:
        config.load(source, **options)
    assert runtime.in_force is before
    return [(each.where, each.message) for each in caught.value.problems]


# --- load ---------------------------------------------------------------------------------------


def test_calls_of_functions_that_were_decorated_before_find_the_names(path: Path) -> None:
    """A file may be loaded at any time."""
    ask = asking()

    config.load(path)

    assert GROQ == ask("hi")


def test_a_load_returns_the_names_of_what_it_has_loaded(path: Path) -> None:
    """Names only, and no values."""
    before = datetime.now(UTC)
    write(
        path,
        f'[chains]\nslow = "{OPENAI}"\nfast = "{GROQ}"\n[profiles.cheap]\nsettings = '
        f'{{ attempts = 1 }}\n[routes.main]\notherwise = "@fast"\n[[routes.main.rules]]\n'
        'chain = "@slow"\nhas_image = true\n',
    )

    loaded = config.load(str(path))

    assert (str(path), ("fast", "main", "slow"), ("cheap",), ()) == (
        loaded.source,
        loaded.chains,
        loaded.profiles,
        loaded.shadowed,
    )
    assert before <= loaded.loaded_at <= datetime.now(UTC)
    assert loaded == config.current()


def test_a_mapping_may_be_loaded() -> None:
    """Its source is called so."""
    loaded = config.load(FAST)

    assert ("mapping", ("fast",)) == (loaded.source, loaded.chains)
    assert GROQ == asking()("hi")


def test_nothing_is_loaded_at_first() -> None:
    """And what needs something says so."""
    assert config.current() is None
    for call in (config.reload, config.watch):
        with pytest.raises(ConfigurationError, match=re.escape("call resilient_llm.config.load()")):
            call()


def test_without_a_source_the_environment_names_the_path(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is that path."""
    monkeypatch.setenv("RESILIENT_LLM_CONFIG", str(path))

    assert str(path) == config.load().source


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_source_at_all_a_load_says_which_variable_is_not_set(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable is one that is not set."""
    monkeypatch.delenv("RESILIENT_LLM_CONFIG", raising=False)
    if value is not None:
        monkeypatch.setenv("RESILIENT_LLM_CONFIG", value)

    with pytest.raises(ConfigurationError, match="RESILIENT_LLM_CONFIG is not set"):
        config.load()


def test_a_load_with_problems_changes_nothing(path: Path) -> None:
    """All problems are told, and calls go on as before."""
    ask = asking()
    loaded = config.load(path)
    write(path, '[chains]\nfast = "groq"\n[settings]\nattempts = 0\n')

    with pytest.raises(InvalidConfigError) as caught:
        config.reload()

    assert {f"{path}: chains.fast", f"{path}: settings.attempts"} == {
        each.where for each in caught.value.problems
    }
    assert (GROQ, 3, loaded) == (ask("hi"), settings().attempts, config.current())


def test_a_provider_that_the_application_does_not_have_is_a_problem_in_a_reload_too(
    path: Path,
) -> None:
    """The providers of a load are remembered, also those of an iterator."""
    config.load(path, providers=iter(["groq"]))
    write(path, f'[chains]\nfast = "{OPENAI}"\n')

    for _ in range(2):
        with pytest.raises(InvalidConfigError, match="openai"):
            config.reload()


def test_a_new_load_takes_the_place_of_the_one_before(path: Path) -> None:
    """Nothing of the earlier one is left."""
    config.load({"chains": {"other": GROQ}, "settings": {"attempts": 2}})

    loaded = config.load(path)

    assert (("fast",), 3, ["fast"]) == (loaded.chains, settings().attempts, chains.names())


def test_a_reload_reads_the_path_of_the_load_in_another_directory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may change its directory; problems name the path as it was given."""
    monkeypatch.chdir(path.parent)
    config.load(path.name)
    monkeypatch.chdir("/")
    write(path, f'[chains]\nfast = "{OPENAI}"\n')

    assert path.name == config.reload().source
    assert OPENAI == asking()("hi")
    write(path, "[chains]\nfast = 3\n")
    with pytest.raises(InvalidConfigError, match=f"^{path.name}: chains.fast"):
        config.reload()


def test_a_reload_of_a_mapping_reads_what_it_holds_by_then() -> None:
    """The object is read again, and what is in force does not change before."""
    source = {"chains": {"fast": GROQ}, "targets": {GROQ: {"params": {"n": [1]}}}}
    config.load(source)
    source["chains"]["fast"] = OPENAI
    assert GROQ == asking()("hi")

    with capture_events(ConfigReloaded) as events:
        config.reload()

    assert OPENAI == asking()("hi")
    assert [("mapping", ("chains.fast",))] == [(each.source, each.changed) for each in events]


def test_a_failed_load_of_another_source_leaves_the_one_that_is_loaded(path: Path) -> None:
    """A reload reads the one before."""
    config.load(path)
    with pytest.raises(InvalidConfigError), capture_events(ConfigReloadFailed) as events:
        config.load({"chains": {"fast": "groq"}})

    assert str(path) == config.reload().source
    assert [] == events  # nothing that is loaded was loaded again


@pytest.mark.parametrize("source", [3, b"llm.toml", ["llm.toml"], object()])
def test_a_source_of_another_type_is_refused(source: Any) -> None:
    """The message says what is allowed."""
    ((where, message),) = problems_of(source)

    assert "mapping" == where
    assert "write a path or a mapping" in message


# --- profiles -----------------------------------------------------------------------------------

PROFILES = {
    "chains": {"fast": GROQ},
    "profiles": {
        "cheap": {"chains": {"fast": OPENAI}, "settings": {"attempts": 1}},
        "best": {"chains": {"fast": CLAUDE}, "settings": {"attempts": 5}},
    },
    "settings": {"profile": "cheap"},
}


@pytest.mark.parametrize(
    ("in_code", "variable", "expected"),
    [
        (None, None, OPENAI),
        (None, "", OPENAI),
        (None, "best", CLAUDE),
        ("mine", "best", "mistral/small"),
        ("mine", "unknown", "mistral/small"),
        ("mine", None, "mistral/small"),
    ],
)
def test_code_the_environment_and_the_file_select_the_profile(
    in_code: str | None, variable: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order."""
    monkeypatch.delenv("RESILIENT_LLM_PROFILE", raising=False)
    if variable is not None:
        monkeypatch.setenv("RESILIENT_LLM_PROFILE", variable)
    chains.define_profile("mine", chains={"fast": "mistral/small"})
    configure(profile=in_code)

    config.load(PROFILES)

    assert expected == asking()("hi")


def test_a_profile_of_the_environment_may_be_defined_by_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both define profiles."""
    monkeypatch.setenv("RESILIENT_LLM_PROFILE", "mine")
    chains.define_profile("mine", chains={"fast": OPENAI})

    config.load(FAST)

    assert (OPENAI, "mine") == (asking()("hi"), settings().profile)


def test_a_profile_of_the_environment_that_does_not_exist_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message shows the name of the variable and not its value."""
    monkeypatch.setenv("RESILIENT_LLM_PROFILE", "expensive-secret")

    ((where, message),) = problems_of(PROFILES)

    (problem,) = config.validate(PROFILES)
    assert "mapping: RESILIENT_LLM_PROFILE" == where
    assert "${RESILIENT_LLM_PROFILE} selects a profile that is not defined" in message
    assert (where, message, "best, cheap") == (problem.where, problem.message, problem.allowed)
    assert problem.suggestion is None
    assert "secret" not in message


def test_a_profile_of_the_environment_is_a_problem_beside_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All problems are found at once, and without any profile it is said that there is none."""
    monkeypatch.setenv("RESILIENT_LLM_PROFILE", "unknown")

    found = problems_of({"chains": {"fast": "@slow"}})

    assert ["mapping: chains.fast", "mapping: RESILIENT_LLM_PROFILE"] == [each[0] for each in found]
    assert found[1][1].endswith("not defined: none is defined")


def test_a_check_finds_what_code_has_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a load accepts in this process has no problem: names, profiles, a selected profile."""
    source = {"chains": {"fast": "@mine"}, "settings": {"profile": "own"}}
    without = [each.where for each in config.validate(source)]
    chains.define({"mine": GROQ})
    chains.define_profile("own", chains={"mine": OPENAI})
    monkeypatch.setenv("RESILIENT_LLM_PROFILE", "own")
    in_code = config.validate(source)
    monkeypatch.setenv("RESILIENT_LLM_PROFILE", "unknown")
    configure(profile="own")

    assert ["mapping: chains.fast", "mapping: settings.profile"] == without
    assert [] == in_code == config.validate(source)
    assert ("fast",) == config.load(source).chains


@pytest.mark.parametrize(
    ("providers", "said"),
    [
        (5, "providers of type int is not allowed"),
        (b"groq", "providers of type bytes is not allowed"),
        ({"groq": 1}, "providers of type dict is not allowed"),
        ([3], "providers has an entry of type int"),
        (["groq", None], "providers has an entry of type NoneType"),
        (["groq/llama"], "providers: 'groq/llama' is the name of no provider"),
        (["groq@me"], "providers: 'groq@me' is the name of no provider"),
        (["@fast"], "providers: '@fast' is the name of no provider"),
        ([""], "providers: '' is blank"),
        ("groq,,openai", "providers: '' is blank"),
    ],
)
def test_providers_that_are_none_are_refused(providers: Any, said: str) -> None:
    """By everything that takes them, with what is allowed."""
    for function in (config.load, config.validate):
        with pytest.raises(ConfigurationError) as caught:
            function(FAST, providers=providers)
        assert not isinstance(caught.value, InvalidConfigError)
        assert str(caught.value) == (
            f"{said}: write a list of names of providers, such as ['groq', 'openai'], or None "
            "for any"
        )
    assert config.current() is None


@pytest.mark.parametrize("providers", ["Groq, openai", [" groq "], iter(["GROQ"]), {"groq"}])
def test_providers_may_be_any_iterable_of_names(providers: Any) -> None:
    """Case and blanks do not count; a reload has them, too, if they came from an iterator."""
    config.load(FAST, providers=providers)

    config.reload()

    assert ("fast",) == config.current().chains  # type: ignore[union-attr]  # it is loaded


def test_another_profile_of_the_environment_is_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload reads the variable again."""
    config.load(PROFILES)
    monkeypatch.setenv("RESILIENT_LLM_PROFILE", "best")

    with capture_events(ConfigReloaded) as events:
        config.reload()

    assert [("settings.profile",)] == [each.changed for each in events]
    assert CLAUDE == asking()("hi")


# --- what code hides ----------------------------------------------------------------------------


def test_what_code_hides_is_shown() -> None:
    """It is what code says now, and not only what it said at the load."""
    source = {
        "settings": {"attempts": 2, "timeout": 9.0, "retry_budget": 0.5, "profile": "cheap"},
        "breakers": {"groq": {"cooldown": 20.0, "failures": 3}, "openai": {"cooldown": 5.0}},
        "limits": {"groq": {"requests": 10}, "openai": {"requests": 10}},
        "prices": {"groq": [1, 2], "openai": [1, 2]},
        "budgets": [{"name": "all", "usd": 10.0, "per": "day"}],
        "chains": {"fast": GROQ, "slow": OPENAI},
        "routes": {
            "main": {"otherwise": "@fast", "rules": [{"chain": "@slow", "has_tools": True}]}
        },
        "profiles": {"cheap": {"settings": {"attempts": 1}}, "best": {}},
        "state": {"namespace": "ours", "timeout": 0.5},
    }
    assert () == config.load(source).shadowed

    configure(
        attempts=4,
        retry_budget=None,
        breakers={"groq": {"cooldown": 30.0}},
        limits={"groq": Limit(requests=1)},
        prices={"groq": (3, 4)},
        budgets=[Budget(name="mine", usd=1.0, per="day")],
        state_timeout=1.0,
        state_options={"poll": 2.0},
    )
    chains.define({"fast": OPENAI, "main": GROQ})
    chains.define_profile("cheap", settings={"attempts": 1})
    configure(profile="cheap")

    loaded = config.current()
    assert loaded is not None
    assert (
        "breakers.groq.cooldown",
        "budgets",
        "chains.fast",
        "limits.groq",
        "prices.groq",
        "profiles.cheap",
        "routes.main",
        "settings.attempts",
        "settings.profile",
        "settings.retry_budget",
        "state.namespace",
        "state.timeout",
    ) == loaded.shadowed
    assert loaded.shadowed == config.reload().shadowed


def test_what_code_takes_back_is_not_hidden_any_more() -> None:
    """Then the file counts again."""
    config.load({"settings": {"attempts": 2}, "chains": {"fast": GROQ}})
    configure(attempts=4)
    chains.define({"fast": OPENAI})

    configure(attempts=None)
    chains.remove("fast")

    loaded = config.current()
    assert loaded is not None
    assert ((), 2, GROQ) == (loaded.shadowed, settings().attempts, asking()("hi"))


# --- what only the process knows ----------------------------------------------------------------


def test_names_that_code_has_defined_are_known() -> None:
    """A file may refer to them."""
    chains.define({"ours": GROQ})

    config.load({"chains": {"fast": "@ours"}})

    assert GROQ == asking()("hi")


def test_a_loop_through_a_name_of_code_is_a_problem() -> None:
    """It is shown, with the place in the file."""
    chains.define({"ours": "@theirs", "theirs": GROQ})
    chains.define_profile("cheap", chains={"more": "@again"})

    (first,) = problems_of({"chains": {"theirs2": "@ours", "fast": "@ours"}} | _loop())
    (second,) = problems_of({"chains": {"again": "@more", "more": GROQ}})

    assert "mapping: chains.other" == first[0]
    assert "@mine → @other → @mine" in first[1]
    assert "mapping: chains.again" == second[0]
    assert "form a loop under profile 'cheap': @again → @more → @again" in second[1]


def _loop() -> dict[str, Any]:
    chains.define({"mine": "@other"})
    return {"chains": {"other": "@mine"}}


def test_a_name_in_use_must_stay() -> None:
    """The problem names the function, also if another name stands between the two."""
    ask = asking("@fast")
    config.load({"chains": {"fast": "@base", "base": GROQ, "free": GROQ}})

    for source in (
        {"chains": {"base": GROQ, "free": GROQ}},
        {"routes": {"other": {"otherwise": GROQ, "rules": [{"chain": GROQ, "has_tools": True}]}}},
    ):
        ((where, message),) = problems_of(source)
        assert "mapping: chains.fast" == where
        assert "'@fast' is not defined any more" in message
        assert "used by tests.config.test_loading.asking.<locals>.ask" in message

    config.load({"chains": {"fast": GROQ}})  # neither of the others is in use now
    assert GROQ == ask("hi")


def test_a_name_behind_a_name_of_code_must_stay() -> None:
    """Code may define names by those of a file."""
    config.load({"chains": {"base": GROQ, "tools": OPENAI}})
    chains.define({"fast": "@base"})
    chains.define_profile("cheap", chains={"fast": "@tools"})

    found = problems_of({"chains": {"other": GROQ}})

    assert ["mapping: chains.base", "mapping: chains.tools"] == [where for where, _ in found]
    assert "used by the name '@fast' of chains.define:" in found[0][1]
    assert "used by the profile 'cheap' of chains.define_profile:" in found[1][1]


def test_a_route_in_use_must_stay() -> None:
    """It is a name like those of chains."""
    ask = asking("@main")
    rules = [{"chain": GROQ, "has_tools": True}]
    config.load({"routes": {"main": {"otherwise": OPENAI, "rules": rules}}})

    ((where, _),) = problems_of(FAST)

    assert ("mapping: routes.main", OPENAI) == (where, ask("hi"))


def test_a_name_in_use_that_only_a_profile_has_must_stay() -> None:
    """The problem names the profile."""
    ask = asking("@fast")
    config.load({"profiles": {"cheap": {"chains": {"fast": GROQ}}}})

    ((where, _),) = problems_of({"profiles": {"cheap": {}}})

    assert "mapping: profiles.cheap.chains.fast" == where
    with chains.profile("cheap"):
        assert GROQ == ask("hi")


def test_a_name_that_code_defines_as_well_may_go() -> None:
    """It still stands for something."""
    ask = asking("@fast")
    config.load(FAST)
    chains.define({"fast": OPENAI})

    config.load({"chains": {"other": GROQ}})

    assert OPENAI == ask("hi")


def test_a_name_that_was_never_defined_is_no_problem_of_a_file() -> None:
    """Code may define it later."""
    ask = asking("@later")

    config.load(FAST)
    config.load({"chains": {"other": GROQ}})

    with pytest.raises(ConfigurationError, match="'@later' is not defined"):
        ask("hi")


def test_a_name_of_policies_that_are_gone_may_go() -> None:
    """A policy counts as long as something refers to it, a function itself not included."""

    def call() -> None:
        @failover(chain="@fast")
        def ask(target: Target) -> Any:
            return ask

        assert ask() is ask

    config.load(FAST)
    gc.disable()
    try:
        call()
        assert ("other",) == config.load({"chains": {"other": GROQ}}).chains
    finally:
        gc.enable()


def test_many_users_of_a_name_are_counted() -> None:
    """The message stays short."""
    config.load(FAST)
    chains.define({f"n{number}": "@fast" for number in range(9)})

    ((_, message),) = problems_of({"chains": {"other": GROQ}})

    assert "the name '@n2' of chains.define and 6 more:" in message


def test_the_profile_of_the_process_must_stay() -> None:
    """If code has selected it; what the file selects, it may also change."""
    config.load(PROFILES)
    configure(profile="best")

    ((where, message),) = problems_of(FAST)

    assert "mapping: profiles.best" == where
    assert "configure(profile=…) has selected it" in message
    configure(profile=None)
    config.load(FAST)
    assert (GROQ, None) == (asking()("hi"), settings().profile)


def test_the_profile_of_an_open_block_must_stay() -> None:
    """Also in a task that was started inside and outlasts it."""
    config.load(PROFILES)

    with chains.profile("best"):
        ((where, message),) = problems_of(FAST)

    assert "mapping: profiles.best" == where
    assert "a block of chains.profile has it" in message
    config.load(FAST)


def test_another_store_is_a_problem_of_a_reload(tmp_path: Path) -> None:
    """Each option is; the first load may have one."""
    state = {"url": f"sqlite:///{tmp_path}/llm.db", "namespace": "a"}
    config.load({"state": dict(state)})
    config.reload()

    for changed, where in (
        ({"state": {**state, "namespace": "b"}}, ["mapping: state.namespace"]),
        ({"state": {**state, "poll": 2.0}}, ["mapping: state.poll"]),
        (FAST, ["mapping: state.namespace", "mapping: state.url"]),
    ):
        found = problems_of(changed)
        assert where == [each for each, _ in found]
        assert all(str(tmp_path) not in message for _, message in found)


def test_a_store_that_comes_later_is_a_problem_too() -> None:
    """A process that serves calls keeps what it shares them through."""
    config.load(FAST)

    ((where, _),) = problems_of({**FAST, "state": {"timeout": 0.5}})

    assert "mapping: state.timeout" == where


@pytest.mark.parametrize("has_store", [False, True])
def test_a_limit_of_all_processes_needs_a_store_that_has_limits(
    has_store: bool, tmp_path: Path
) -> None:
    """It is a problem, and the URL of the store is not shown."""
    source: dict[str, Any] = {"limits": {"groq": {"requests": 60, "shared": True}}}
    if has_store:
        source["state"] = {"url": f"sqlite:///{tmp_path}/llm.db"}

    ((where, message),) = problems_of(source)

    assert where.startswith("mapping: limits")
    assert "a store in Redis or Valkey" in message
    assert "sqlite" not in message


# --- what is kept -------------------------------------------------------------------------------


def test_benches_and_counts_are_kept(path: Path) -> None:
    """Those of automatic benches as well as those by hand."""
    config.load(path)
    ask = asking(["@fast", CLAUDE])
    for _ in range(3):
        ask("hi")
    bench_model(GROQ, 60.0)
    write(path, f'[chains]\nfast = "{GROQ}"\n[breakers.groq]\nfailures = 9\n')

    config.reload()

    assert (True, 3, CLAUDE) == (is_benched(GROQ), health()[GROQ].total, ask("hi"))


def test_spending_of_budgets_that_did_not_change_is_kept() -> None:
    """That of another budget begins again."""
    source: dict[str, Any] = {
        "prices": {"*": [1_000_000, 0]},
        "budgets": [
            {"name": "kept", "calls": 10, "per": "day"},
            {"name": "new", "calls": 10, "per": "day"},
        ],
    }
    config.load(source)
    asking(GROQ)("hi")
    source["budgets"][1]["per"] = "hour"
    source["settings"] = {"attempts": 2}

    config.reload()

    assert {"kept": 1, "new": 0} == {each.budget: each.spent for each in spend()}


def test_what_has_not_changed_leaves_calls_alone(path: Path) -> None:
    """No function is bound again, and what is in force is the same object."""
    config.load(path)
    ask = asking()
    ask("hi")
    write(path, path.read_text(encoding="utf-8"))

    with capture_events() as events:
        before, epoch = runtime.in_force, runtime.epoch
        config.reload()
        assert (before, epoch) == (runtime.in_force, runtime.epoch)

    assert [] == events


# --- events -------------------------------------------------------------------------------------


def test_a_change_is_an_event_with_what_differs(path: Path) -> None:
    """Sorted; the first load is none."""
    with capture_events(ConfigReloaded) as events:
        config.load(path)
        assert [] == events
        write(
            path,
            f'[chains]\nfast = "{OPENAI}"\nslow = "{GROQ}"\n[settings]\nattempts = 2\n'
            "[breakers.groq]\ncooldown = 3\n[[budgets]]\nname = 'all'\ncalls = 3\nper = 'day'\n",
        )
        config.reload()

    (event,) = events
    assert ("budgets", "breakers.groq", "chains.fast", "chains.slow", "settings.attempts") == (
        *sorted(event.changed, key=lambda part: part != "budgets"),
    )
    assert tuple(sorted(event.changed)) == event.changed
    assert (str(path), "", "") == (event.source, event.target, event.call_id)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"n": 1}, {"n": True}),
        ({"n": 1}, {"n": 1.0}),
        ({"n": [1, 2]}, {"n": [2, 1]}),
        ({"n": {"a": 0}}, {"n": {"a": False}}),
        ({"n": 1}, {"n": 1, "m": None}),
    ],
)
def test_values_that_python_takes_for_equal_are_a_change(before: Any, after: Any) -> None:
    """A provider does not take them for equal."""
    source: dict[str, Any] = {"targets": {GROQ: {"params": before}}}
    config.load(source)
    source["targets"][GROQ]["params"] = after

    with capture_events(ConfigReloaded) as events:
        config.reload()

    assert [(f"targets.{GROQ}",)] == [each.changed for each in events]


def test_a_failed_reload_is_an_event_with_all_problems(path: Path, caplog: Any) -> None:
    """The error has the same ones; the log has them at WARNING."""
    config.load(path)
    write(path, "[chains]\nfast = 3\n[settings]\nattempts = 0\n")

    with capture_events(ConfigReloadFailed) as events, pytest.raises(InvalidConfigError) as caught:
        config.reload()

    (event,) = events
    assert (str(path), caught.value.problems) == (event.source, event.problems)
    assert 2 == len(event.problems)
    (record,) = caplog.records
    assert ("WARNING", event.problems) == (record.levelname, record.problems)
    assert event.problems == pickle.loads(pickle.dumps(event)).problems


def test_events_hold_no_value_of_the_environment(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Neither do errors, the log or what is shown of the file."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CHAIN", "groq/topsecret")
    monkeypatch.setenv("COUNT", "-topsecret")
    write(path, '[chains]\nfast = "${CHAIN}"\n')
    config.load(path)
    write(path, '[chains]\nfast = "${CHAIN}, openai/x"\n')

    with capture_events() as events:
        config.reload()
        write(path, '[chains]\nfast = "${CHAIN}"\n[settings]\nattempts = "${COUNT}"\n')
        with pytest.raises(InvalidConfigError) as caught:
            config.reload()

    shown = [*events, caught.value, repr(caught.value), config.current(), *caplog.messages]
    assert 2 == len(events)
    assert "topsecret" not in " ".join(map(repr, shown)) + " ".join(map(str, shown))
    frames = caught.tb
    while frames is not None:
        if "resilient_llm" in frames.tb_frame.f_code.co_filename.split("tests")[0]:
            assert "topsecret" not in repr(frames.tb_frame.f_locals)
        frames = frames.tb_next


def test_observers_are_called_without_a_lock(path: Path) -> None:
    """One may have another thread load, and wait for that."""
    config.load(path)
    loaded: list[str] = []

    def observer(event: ConfigReloaded) -> None:
        thread = threading.Thread(target=lambda: loaded.append(config.reload().source), daemon=True)
        thread.start()
        thread.join(20.0)
        chains.define({"from_observer": GROQ})

    observe(observer, ConfigReloaded)
    write(path, f'[chains]\nfast = "{OPENAI}"\n')

    config.reload()

    assert [str(path)] == loaded
    assert "from_observer" in chains.names()


def test_the_status_tells_of_the_last_failure(path: Path, clock: FakeClock) -> None:
    """Until a reload has succeeded."""
    assert (None, (), None) == status()
    config.load(path)
    write(path, "[chains]\nfast = 3\n")
    clock.advance(5.0)
    with pytest.raises(InvalidConfigError) as caught:
        config.reload()

    loaded = config.current()
    assert loaded is not None
    failed = status()
    assert (loaded, caught.value.problems) == failed[:2]
    assert failed.failed_at == loaded.loaded_at + timedelta(seconds=5)

    write(path, f'[chains]\nfast = "{OPENAI}"\n')
    config.reload()
    assert (config.current(), (), None) == status()


# --- one at a time, and one state ---------------------------------------------------------------


class Slow(Mapping[str, Any]):
    """A mapping that waits when it is read, until it is told to go on."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.is_read = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.readers = self.most_readers = 0

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __iter__(self) -> Any:
        self.readers += 1
        self.most_readers = max(self.most_readers, self.readers)
        self.is_read.set()
        assert self.goes_on.wait(20.0)
        yield from self.content
        self.readers -= 1

    def __len__(self) -> int:
        return len(self.content)


def test_reloads_run_one_at_a_time() -> None:
    """The second one begins to read when the first one is over; calls and changes do not wait."""
    source = Slow({"chains": {"fast": GROQ}})
    config.load(source)
    source.is_read.clear()
    source.goes_on.clear()
    threads = [threading.Thread(target=config.reload) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert source.is_read.wait(20.0)

    configure(attempts=2)
    chains.define({"other": OPENAI})
    assert GROQ == asking()("hi")
    source.goes_on.set()
    for thread in threads:
        thread.join(20.0)

    assert 1 == source.most_readers


def test_what_code_changes_while_a_file_is_read_is_not_lost() -> None:
    """A name that code removes meanwhile is a problem of the file that refers to it."""
    chains.define({"base": GROQ})
    source = Slow({"chains": {"fast": "@base"}})
    source.goes_on.clear()
    errors: list[BaseException] = []

    def load() -> None:
        try:
            config.load(source)
        except InvalidConfigError as error:
            errors.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    assert source.is_read.wait(20.0)
    chains.remove("base")
    configure(attempts=7)
    source.goes_on.set()
    thread.join(20.0)

    (error,) = errors
    assert "'@base' is not defined" in str(error)
    assert 7 == settings().attempts


def test_a_state_of_the_process_that_is_left_while_a_file_is_read_does_not_get_it() -> None:
    """What belongs to one state never comes into another."""
    source = Slow({"chains": {"fast": GROQ}})
    source.goes_on.clear()
    errors: list[BaseException] = []

    def load() -> None:
        try:
            config.load(source)
        except ConfigurationError as error:
            errors.append(error)

    with isolated():
        thread = threading.Thread(target=load)
        thread.start()
        assert source.is_read.wait(20.0)
    source.goes_on.set()
    thread.join(20.0)

    (error,) = errors
    assert "the state of the process was exchanged" in str(error)
    assert config.current() is None


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="has no such signal")
def test_a_signal_handler_may_load_in_the_midst_of_a_load(path: Path) -> None:
    """What was read before it is older than what it has read, and is read again."""
    interrupts: list[int] = []

    class Interrupted(Mapping[str, Any]):
        def __init__(self) -> None:
            self.content: dict[str, Any] = {"chains": {"fast": GROQ}}

        def __getitem__(self, key: str) -> Any:
            return self.content[key]

        def __len__(self) -> int:
            return len(self.content)

        def __iter__(self) -> Any:
            yield from self.content
            if config.current() is not None and not interrupts:
                interrupts.append(1)
                self.content = {"chains": {"fast": OPENAI}}
                signal.raise_signal(signal.SIGUSR1)

    loaded: list[Any] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: loaded.append(config.reload()))
    try:
        config.load(Interrupted())
        with capture_events(ConfigReloaded) as events:
            config.reload()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert (1, OPENAI) == (len(loaded), asking()("hi"))
    assert [("chains.fast",)] == [each.changed for each in events]


def test_a_call_that_has_begun_ends_with_what_it_began_with() -> None:
    """So do streams; the next call has the new state."""
    config.load({"chains": {"fast": [GROQ, CLAUDE]}, "targets": {CLAUDE: {"params": {"n": 1}}}})

    @failover(chain="@fast", attempts=1)
    def ask(target: Target) -> Any:
        if target.key == GROQ:
            config.load({"chains": {"fast": OPENAI}, "targets": {CLAUDE: {"params": {"n": 2}}}})
            raise ConnectionError
        return target.key, dict(target.params)

    @failover(chain="@fast")
    def stream(target: Target) -> Any:
        yield target.key
        config.load({"chains": {"fast": GROQ}})
        yield target.key

    assert (CLAUDE, {"n": 1}) == ask()
    assert [OPENAI, OPENAI] == list(stream())
    assert [GROQ, GROQ] == list(stream())


def test_a_coroutine_that_was_made_before_a_load_sees_one_state() -> None:
    """It starts when it is awaited."""
    config.load({"chains": {"fast": GROQ}, "settings": {"profile": "a"}, "profiles": {"a": {}}})

    @failover(chain="@fast")
    async def ask(target: Target) -> str:
        return target.key

    async def main() -> tuple[str, str]:
        first = ask()
        config.load({"chains": {"fast": OPENAI}})
        return await first, await ask()

    assert asyncio.run(main())[1] == OPENAI
    config.load({"chains": {"fast": GROQ}})
    assert trio.run(main)[1] == OPENAI


# --- states of the process ----------------------------------------------------------------------


def test_isolated_has_no_file(path: Path) -> None:
    """One that is loaded inside ends with it."""
    config.load(path)
    with isolated():
        assert config.current() is None
        with pytest.raises(ConfigurationError):
            config.reload()
        config.load({"chains": {"fast": OPENAI}})
        assert (("fast",), OPENAI) == (config.current().chains, asking()("hi"))  # type: ignore[union-attr]

    assert (str(path), GROQ) == (config.current().source, asking()("hi"))  # type: ignore[union-attr]
    write(path, f'[chains]\nfast = "{CLAUDE}"\n')
    config.reload()
    assert CLAUDE == asking()("hi")


def test_isolated_starts_with_built_in_settings() -> None:
    """And with the names of code alone."""
    config.load({"settings": {"attempts": 2}, "chains": {"fast": GROQ}})
    chains.define({"ours": OPENAI})

    with isolated():
        assert (3, ["ours"]) == (settings().attempts, chains.names())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cannot fork")
def test_a_child_that_is_forked_in_the_midst_of_a_load_may_load(path: Path) -> None:
    """No lock of another thread of the parent is taken with it."""
    source = Slow({"chains": {"fast": GROQ}})
    source.goes_on.clear()
    thread = threading.Thread(target=config.load, args=(source,))
    thread.start()
    assert source.is_read.wait(20.0)

    child = os.fork()
    if not child:
        status_of_child = 1
        try:
            signal.alarm(20)
            config.load(path)
            ask = asking()
            status_of_child = 0 if ask("hi") == GROQ else 2
        finally:
            os._exit(status_of_child)
    _, ended = os.waitpid(child, 0)
    source.goes_on.set()
    thread.join(20.0)

    assert 0 == os.waitstatus_to_exitcode(ended)
    assert config.current() is not None


def test_loading_imports_no_sdk_and_no_event_loop(path: Path) -> None:
    """Nor does anything else of it load what is not needed."""
    import subprocess

    code = (
        "import sys; from resilient_llm import config; config.load(sys.argv[1]); config.reload(); "
        "config.watch().stop(); print(sorted(set(sys.modules) & "
        "{'asyncio', 'anyio', 'openai', 'yaml', 'httpx', 'redis'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(resilient_llm.__file__).parent.parent,
    )

    assert "[]" == done.stdout.strip()


# --- lines of the log ---------------------------------------------------------------------------


def lines_of(caplog: Any) -> list[tuple[str, str]]:
    """Return the lines of the log that are no event, with their level."""
    return [
        (each.levelname, each.getMessage())
        for each in caplog.records
        if each.name == "resilient_llm" and not hasattr(each, "event")
    ]


def test_a_file_that_is_again_as_it_was_has_a_line_in_the_log(path: Path, caplog: Any) -> None:
    """No event tells that the problems are gone, since nothing changed."""
    caplog.set_level(logging.INFO, "resilient_llm")
    good = path.read_text()
    config.load(path)
    config.reload()
    write(path, "[chain]\n")
    with pytest.raises(InvalidConfigError):
        config.reload()
    before = lines_of(caplog)
    write(path, good)

    with capture_events(ConfigReloaded, ConfigReloadFailed) as events:
        config.reload()
        config.reload()

    assert [] == before == list(events)
    assert [("INFO", f"{path} can be read again; nothing changed")] == lines_of(caplog)


def test_a_repaired_file_that_differs_has_an_event_and_no_line(path: Path, caplog: Any) -> None:
    """The event is in the log already."""
    caplog.set_level(logging.INFO, "resilient_llm")
    config.load(path)
    write(path, "[chain]\n")
    with pytest.raises(InvalidConfigError):
        config.reload()
    write(path, f'[chains]\nfast = "{OPENAI}"\n')

    config.reload()

    assert [] == lines_of(caplog)


HIDDEN: dict[str, Any] = {
    "settings": {"timeout": 9.0, "attempts": 2, "profile": "cheap"},
    "breakers": {"groq": {"cooldown": 20.0, "failures": 3}},
    "chains": {"fast": GROQ, "slow": GROQ, "free": GROQ, "gone": GROQ},
    "profiles": {"cheap": {"chains": {"fast": OPENAI}, "settings": {"attempts": 1}}, "b": {}},
}


def changed_of(source: dict[str, Any], caplog: Any) -> tuple[list[tuple[str, str]], Any]:
    """Change much of a mapping and load it again; return the lines of the log, and the event."""
    config.load(source)
    source["settings"] = {"timeout": 8.0, "attempts": 4, "profile": "cheap"}
    source["breakers"] = {"groq": {"cooldown": 10.0, "failures": 4}}
    source["chains"] = {"fast": CLAUDE, "slow": CLAUDE, "free": CLAUDE}
    with capture_events(ConfigReloaded) as events:
        config.reload()
    (event,) = events
    return lines_of(caplog), event.changed


def test_a_change_that_code_or_the_profile_hides_is_a_warning(caplog: Any) -> None:
    """One line names what has no effect and why; the event has all that differs in the file."""
    caplog.set_level(logging.INFO, "resilient_llm")
    chains.define({"slow": OPENAI, "gone": OPENAI})
    configure(timeout=7.0, breakers={"groq": {"cooldown": 5.0}})
    caplog.clear()

    lines, changed = changed_of(dict(HIDDEN), caplog)

    assert [
        (
            "WARNING",
            "mapping was loaded: "
            "breakers.groq.cooldown has no effect, since code sets it; "
            "chains.fast has no effect, since the profile 'cheap' has it; "
            "chains.gone has no effect, since code defines it; "
            "chains.slow has no effect, since code defines it; "
            "settings.attempts has no effect, since the profile 'cheap' has it; "
            "settings.timeout has no effect, since code sets it",
        )
    ] == lines
    assert (
        "breakers.groq",
        "chains.fast",
        "chains.free",
        "chains.gone",
        "chains.slow",
        "settings.attempts",
        "settings.timeout",
    ) == changed


def test_a_change_that_nothing_hides_is_no_warning(caplog: Any) -> None:
    """Without a profile and without code, all of the file holds."""
    caplog.set_level(logging.INFO, "resilient_llm")
    source = {**HIDDEN, "settings": {"timeout": 9.0}}
    config.load(source)
    source["settings"] = {"timeout": 8.0}

    config.reload()

    assert [] == lines_of(caplog)


@pytest.mark.parametrize(
    ("code", "variable", "why"),
    [
        ("b", None, "code sets it"),
        (None, "cheap", "RESILIENT_LLM_PROFILE selects a profile"),
    ],
)
def test_another_profile_in_the_file_may_have_no_effect(
    code: str | None,
    variable: str | None,
    why: str,
    caplog: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Code and the environment are asked before the file."""
    caplog.set_level(logging.INFO, "resilient_llm")
    if variable is not None:
        monkeypatch.setenv("RESILIENT_LLM_PROFILE", variable)
    source = dict(HIDDEN)
    config.load(source)
    configure(profile=code)
    caplog.clear()
    source["settings"] = {**HIDDEN["settings"], "profile": "b"}

    config.reload()

    said = f"mapping was loaded: settings.profile has no effect, since {why}"
    assert [("WARNING", said)] == lines_of(caplog)


def test_lines_are_written_without_the_lock_of_loads(path: Path) -> None:
    """A handler of the log may load again."""
    held: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "can be read again" in record.getMessage():
                thread = threading.Thread(target=lambda: held.append(bool(config.reload())))
                thread.start()
                thread.join(10)

    good = path.read_text()
    config.load(path)
    write(path, "[chain]\n")
    with pytest.raises(InvalidConfigError):
        config.reload()
    write(path, good)
    handler, logger = Handler(), logging.getLogger("resilient_llm")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        config.reload()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)

    assert [True] == held
