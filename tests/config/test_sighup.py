"""SIGHUP has the configuration loaded again, beside whatever else handles it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import resilient_llm
from resilient_llm import (
    ConfigReloaded,
    ConfigReloadFailed,
    ConfigurationError,
    Target,
    config,
    failover,
)
from resilient_llm.testing import capture_events, isolated
from tests.support.files import PATIENCE, eventually, write

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="has no such signal")

GROQ, OPENAI, CLAUDE = "groq/llama", "openai/gpt-5-mini", "anthropic/claude-sonnet"


def saying(target: str) -> str:
    return f'[chains]\nhung_up = "{target}"\n'


@failover(chain="@hung_up")
def ask(target: Target) -> str:
    return target.key


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """Leave the signal as it was, and harmless inside."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = write(tmp_path / "llm.toml", saying(GROQ))
    config.load(path)
    return path


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def test_a_signal_has_the_file_loaded_again(path: Path) -> None:
    """In a thread, and not before it comes."""
    uninstall = config.reload_on_sighup()
    write(path, saying(OPENAI))
    assert GROQ == ask()

    hang_up()

    eventually(lambda: ask() == OPENAI)
    uninstall()
    eventually(lambda: all(each.name != "resilient_llm-config" for each in threading.enumerate()))


def test_a_mapping_is_read_again_too() -> None:
    """A signal asks for a reload, whatever is loaded."""
    source = {"chains": {"hung_up": GROQ}}
    config.load(source)
    uninstall = config.reload_on_sighup()
    source["chains"]["hung_up"] = OPENAI

    hang_up()

    eventually(lambda: ask() == OPENAI)
    uninstall()


def test_a_failure_is_told_once(path: Path, caplog: Any) -> None:
    """As that of a watch: what is in force stays, and there is no error anywhere."""
    uninstall = config.reload_on_sighup()
    write(path, "[chains\n")
    with capture_events(ConfigReloadFailed) as events:
        hang_up()
        eventually(lambda: events)
        hang_up()
        write(path, saying(OPENAI))
        hang_up()
        eventually(lambda: ask() == OPENAI)

    uninstall()
    assert (1, 1) == (
        len(events),
        len([each for each in caplog.records if each.levelname == "WARNING"]),
    )


def test_the_handler_of_before_is_called_with_the_same_arguments(path: Path) -> None:
    """And is there again after the uninstalling; a second time does nothing."""
    calls: list[tuple[int, bool]] = []

    def before(number: int, frame: object) -> None:
        calls.append((number, frame is not None))

    signal.signal(signal.SIGHUP, before)
    uninstall = config.reload_on_sighup()
    write(path, saying(OPENAI))

    hang_up()

    eventually(lambda: ask() == OPENAI)
    assert [(signal.SIGHUP, True)] == calls
    uninstall()
    assert before is signal.getsignal(signal.SIGHUP)
    uninstall()
    assert before is signal.getsignal(signal.SIGHUP)


def test_an_error_of_the_handler_of_before_leaves_as_it_would(path: Path) -> None:
    """The file is loaded all the same."""

    def before(number: int, frame: object) -> None:
        raise InterruptedError("before")

    signal.signal(signal.SIGHUP, before)
    uninstall = config.reload_on_sighup()
    write(path, saying(OPENAI))

    with pytest.raises(InterruptedError, match="before"):
        signal.raise_signal(signal.SIGHUP)

    eventually(lambda: ask() == OPENAI)
    uninstall()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_handlers_may_be_installed_and_uninstalled_in_any_order(
    path: Path, order: tuple[int, int]
) -> None:
    """At the end everything is as it was."""
    calls: list[int] = []

    def before(number: int, frame: object) -> None:
        calls.append(number)

    signal.signal(signal.SIGHUP, before)
    uninstalls = [config.reload_on_sighup(), config.reload_on_sighup()]
    write(path, saying(OPENAI))
    hang_up()
    eventually(lambda: ask() == OPENAI)
    uninstalls[order[0]]()
    write(path, saying(CLAUDE))
    hang_up()
    eventually(lambda: ask() == CLAUDE)

    uninstalls[order[1]]()

    assert before is signal.getsignal(signal.SIGHUP)
    assert [signal.SIGHUP] * 2 == calls


def test_a_handler_that_was_installed_later_stays(path: Path) -> None:
    """And what it calls only passes the signal on."""
    calls: list[str] = []
    signal.signal(signal.SIGHUP, lambda *_: calls.append("first"))
    uninstall = config.reload_on_sighup()
    ours: Any = signal.getsignal(signal.SIGHUP)

    def later(number: int, frame: Any) -> None:
        calls.append("later")
        ours(number, frame)

    signal.signal(signal.SIGHUP, later)
    write(path, saying(OPENAI))
    hang_up()
    eventually(lambda: ask() == OPENAI)

    uninstall()

    assert later is signal.getsignal(signal.SIGHUP)
    with capture_events(ConfigReloaded) as events:
        hang_up()
        eventually(lambda: 4 == len(calls))
    assert (["later", "first"] * 2, []) == (calls, events)


def test_off_the_main_thread_it_is_refused(path: Path) -> None:
    """Only the main thread can install a handler."""
    errors: list[BaseException] = []

    def install() -> None:
        try:
            config.reload_on_sighup()
        except ConfigurationError as error:
            errors.append(error)

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()

    assert "off the main thread" in str(errors[0])
    assert signal.SIG_IGN is signal.getsignal(signal.SIGHUP)


def test_uninstalling_off_the_main_thread_says_what_is_left(path: Path) -> None:
    """It loads nothing any more."""
    uninstall = config.reload_on_sighup()
    errors: list[BaseException] = []

    def end() -> None:
        try:
            uninstall()
        except ConfigurationError as error:
            errors.append(error)

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()

    assert "only the main thread" in str(errors[0])
    write(path, saying(OPENAI))
    hang_up()
    assert GROQ == ask()
    uninstall()


def test_without_the_signal_it_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.delattr(signal, "SIGHUP")
    try:
        with pytest.raises(ConfigurationError, match="has no signal SIGHUP"):
            config.reload_on_sighup()
    finally:
        monkeypatch.undo()


def test_before_the_first_load_a_signal_changes_nothing(path: Path) -> None:
    """The handler may be installed first."""
    with isolated():
        uninstall = config.reload_on_sighup()
        hang_up()
        config.load(path)
        write(path, saying(OPENAI))
        hang_up()
        eventually(lambda: ask() == OPENAI)
        uninstall()


def test_one_that_was_installed_inside_isolated_ends_with_it(path: Path) -> None:
    """One of outside waits until that is left."""
    uninstall = config.reload_on_sighup()
    outside = signal.getsignal(signal.SIGHUP)
    with isolated():
        config.load({"chains": {"hung_up": "inner/a"}})
        config.reload_on_sighup()
        assert outside is not signal.getsignal(signal.SIGHUP)
    assert outside is signal.getsignal(signal.SIGHUP)

    with isolated():
        write(path, saying(OPENAI))
        hang_up()
        assert config.current() is None

    eventually(lambda: ask() == OPENAI)
    uninstall()


def test_a_handler_of_asyncio_goes_on(path: Path) -> None:
    """If it was installed before; a loop that is asked later replaces ours."""

    async def main() -> list[str]:
        loop, calls = asyncio.get_running_loop(), list[str]()
        loop.add_signal_handler(signal.SIGHUP, calls.append, "asyncio")
        uninstall = config.reload_on_sighup()
        write(path, saying(OPENAI))
        hang_up()
        until = time.perf_counter() + PATIENCE
        while ask() != OPENAI or not calls:
            assert time.perf_counter() < until
            await asyncio.sleep(0.005)
        uninstall()
        hang_up()
        while len(calls) < 2:
            assert time.perf_counter() < until
            await asyncio.sleep(0.005)
        loop.remove_signal_handler(signal.SIGHUP)
        return calls

    assert ["asyncio"] * 2 == asyncio.run(main())


def test_a_thousand_signals_while_the_file_is_loaded(path: Path) -> None:
    """They come anywhere in the code of a load, and none waits for anything."""
    uninstall = config.reload_on_sighup()
    is_over = threading.Event()

    def send() -> None:
        for _ in range(1_000):
            hang_up()
            time.sleep(0)
        is_over.set()

    thread = threading.Thread(target=send)
    thread.start()
    number = 0
    while not is_over.is_set():
        number += 1
        write(path, saying(f"groq/{number}"))
        config.reload()
        assert f"groq/{number}" == ask()
    thread.join()

    write(path, saying(OPENAI))
    hang_up()
    eventually(lambda: ask() == OPENAI)
    uninstall()


def test_a_real_process_and_its_child(path: Path) -> None:
    """A service answers the signal of an operator, and so does each worker that it forks."""
    code = textwrap.dedent(r"""
        import os, sys, time
        from resilient_llm import Target, config, failover

        @failover(chain="@hung_up")
        def ask(target: Target) -> str:
            return target.key

        config.load(sys.argv[1])
        config.reload_on_sighup()
        worker = os.fork()
        os.write(1, b"%d\n" % os.getpid())  # in one piece
        before = ask()
        until = time.monotonic() + 40
        while ask() == before and time.monotonic() < until:
            time.sleep(0.005)
        os.write(1, ask().encode() + b"\n")
        if not worker:
            os._exit(0)
        os.waitpid(worker, 0)
    """)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(resilient_llm.__file__).parent.parent,
    )
    assert process.stdout is not None
    with process:
        numbers = [int(process.stdout.readline()) for _ in range(2)]
        write(path, saying(OPENAI))
        for number in numbers:
            os.kill(number, signal.SIGHUP)
        answers = process.stdout.read().split()

    assert ([OPENAI] * 2, 0) == (answers, process.returncode)
