"""Traps of a configuration that is loaded again: forks, and handlers in the midst of a load."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from resilient_llm import (
    ConfigReloaded,
    Target,
    chains,
    config,
    configure,
    failover,
    observe,
    settings,
)
from tests.concurrency.test_exchanges import interrupted

WITHIN_A_LOAD = [
    "reload", "run", "_load", "_exchange", "read", "problems_in_process", "changes", "change",
    "exchanged", "merged_settings", "unbind_all", "settle", "_done", "_tell", "deliver",
    "heed_changes", "config_of",
]  # fmt: skip


@failover(chain="@trapped")
def ask(target: Target) -> str:
    return target.key


@pytest.mark.timeout(60)
@pytest.mark.parametrize("function", WITHIN_A_LOAD)
def test_trap_54_a_handler_may_load_anywhere_in_a_load(function: str) -> None:
    """It does not wait for the code that it interrupts, and the newest content is in force."""
    source: dict[str, Any] = {"chains": {"trapped": "old/x"}}
    config.load(source)
    ask()
    told: list[tuple[str, ...]] = []
    observe(lambda event: told.append(event.changed), ConfigReloaded)

    def handler() -> None:
        source["chains"] = {"trapped": "newest/x"}
        config.reload()

    source["chains"] = {"trapped": "new/x"}
    with interrupted(function, handler) as entered:
        config.reload()

    assert [function] == entered
    assert "newest/x" == ask()
    assert {("chains.trapped",)} == set(told)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("function", WITHIN_A_LOAD)
def test_trap_54_a_handler_may_change_what_code_says_anywhere_in_a_load(function: str) -> None:
    """Neither change is lost."""
    source: dict[str, Any] = {"chains": {"trapped": "old/x"}}
    config.load(source)

    def handler() -> None:
        configure(attempts=7)
        chains.define({"ours": "ours/x"})

    source["chains"] = {"trapped": "new/x"}
    with interrupted(function, handler) as entered:
        config.reload()

    assert [function] == entered
    assert ("new/x", ["ours", "trapped"], 7) == (
        ask(),
        chains.names(),
        settings().attempts,
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("function", WITHIN_A_LOAD)
def test_trap_54_a_handler_that_raises_leaves_a_whole_state(function: str) -> None:
    """The old one or the new one, and the next reload finds no lock taken."""
    source: dict[str, Any] = {
        "chains": {"trapped": "old/x"},
        "targets": {"old/x": {"params": {"n": 1}}},
    }
    config.load(source)

    def handler() -> None:
        raise KeyboardInterrupt

    source["chains"] = {"trapped": "new/x"}
    with interrupted(function, handler), pytest.raises(KeyboardInterrupt):
        config.reload()

    assert ask() in {"old/x", "new/x"}
    loaded: list[str] = []
    thread = threading.Thread(target=lambda: loaded.append(config.reload().source))
    thread.start()
    thread.join(20.0)
    assert (["mapping"], "new/x") == (loaded, ask())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cannot fork")
def test_trap_20_a_forked_child_has_a_lock_of_its_own() -> None:
    """Also if another thread of the parent loads while it is forked."""
    is_read, goes_on = threading.Event(), threading.Event()

    class Source(dict[str, Any]):
        def __iter__(self) -> Any:
            is_read.set()
            assert goes_on.wait(20.0)
            return super().__iter__()

        def items(self) -> Any:
            return [(key, self[key]) for key in self]

    thread = threading.Thread(target=config.load, args=(Source(chains={"trapped": "old/x"}),))
    thread.start()
    assert is_read.wait(20.0)
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(20)
            config.load({"chains": {"trapped": "child/x"}})
            code = 0 if ask() == "child/x" else 2
        finally:
            os._exit(code)
    _, ended = os.waitpid(child, 0)
    goes_on.set()
    thread.join(20.0)

    assert (0, "old/x") == (os.waitstatus_to_exitcode(ended), ask())
