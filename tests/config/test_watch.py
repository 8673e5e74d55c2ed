"""A watched file is loaded again when it has changed, whole, soon, and whatever else happens.

Real time is the subject, so these tests wait for it. What the thread decides at which moment is
tested without one, at the end.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio

import resilient_llm
from resilient_llm import (
    ConfigReloaded,
    ConfigReloadFailed,
    ConfigurationError,
    Target,
    chains,
    config,
    failover,
    observe,
)
from resilient_llm.config import _watching
from resilient_llm.config._state import file_state, version_of
from resilient_llm.testing import capture_events, fake_clock, isolated
from tests.support.files import PATIENCE, eventually, write

GROQ, OPENAI, CLAUDE = "groq/llama", "openai/gpt-5-mini", "anthropic/claude-sonnet"
OFTEN = 0.02
NAME = "resilient_llm-config"
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="cannot fork")


def saying(target: str) -> str:
    return f'[chains]\nwatched = "{target}"\n'


@failover(chain="@watched")
def ask(target: Target) -> str:
    return target.key


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == NAME]


def warnings(caplog: Any) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = write(tmp_path / "llm.toml", saying(GROQ))
    config.load(path)
    return path


# --- changes ------------------------------------------------------------------------------------


def test_a_file_that_is_replaced_is_loaded_within_two_seconds(path: Path) -> None:
    """With the default interval; one time of three counts, for the machine may be busy."""
    took: list[float] = []
    with config.watch(), capture_events(ConfigReloaded) as events:
        for target in (OPENAI, CLAUDE, "mistral/small"):
            began_at = time.perf_counter()
            write(path, saying(target))
            eventually(lambda target=target: ask() == target)
            took.append(time.perf_counter() - began_at)
            if took[-1] < 2.0:
                break

    assert min(took) < 2.0
    assert len(took) == len(events)


def test_a_file_that_is_written_in_place_is_loaded(path: Path) -> None:
    """Also with the same size, and so soon that the times of the file may be the same."""
    with config.watch(interval=OFTEN):
        for target in ("groq/aaaa", "groq/bbbb", "groq/cccc"):
            path.write_text(saying(target), encoding="utf-8")
            eventually(lambda target=target: ask() == target)
            config.reload()


def test_a_link_that_is_pointed_elsewhere_is_followed(tmp_path: Path) -> None:
    """So does Kubernetes: ``..data`` is a link to a directory, and is replaced."""
    for name, target in (("a", GROQ), ("b", OPENAI)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "llm.toml", saying(target))
    (tmp_path / "..data").symlink_to("a")
    (tmp_path / "llm.toml").symlink_to("..data/llm.toml")
    config.load(tmp_path / "llm.toml")

    with config.watch(interval=OFTEN):
        (tmp_path / "..data_tmp").symlink_to("b")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

        eventually(lambda: ask() == OPENAI)


def test_a_file_that_is_gone_leaves_what_is_in_force(path: Path, caplog: Any) -> None:
    """It is a failure, which is logged once, and the file may come again."""
    with config.watch(interval=OFTEN), capture_events(ConfigReloaded, ConfigReloadFailed) as events:
        path.unlink()
        eventually(lambda: events)
        path.mkdir()
        eventually(lambda: 2 == len(events))
        path.rmdir()
        eventually(lambda: 3 == len(events))
        assert GROQ == ask()
        write(path, saying(OPENAI))
        eventually(lambda: ask() == OPENAI)

    assert [ConfigReloadFailed] * 3 + [ConfigReloaded] == [type(each) for each in events]
    told = warnings(caplog)
    assert 3 == len(told)
    assert "the file does not exist" in told[0]
    assert "the path is a directory" in told[1]
    assert "the file does not exist" in told[2]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_a_file_that_cannot_be_read_any_more_leaves_what_is_in_force(
    path: Path, caplog: Any
) -> None:
    """Its time does not change by that, but the time of its inode does."""
    with config.watch(interval=OFTEN):
        path.chmod(0)
        eventually(lambda: warnings(caplog))
        path.chmod(0o600)
        path.write_text(saying(OPENAI), encoding="utf-8")
        eventually(lambda: ask() == OPENAI)


def test_new_problems_are_logged_once(path: Path, caplog: Any) -> None:
    """The same ones again, after the file had none in between."""
    with config.watch(interval=OFTEN), capture_events(ConfigReloadFailed) as events:
        for text in ("[chains]\nwatched = 3\n", "[chains]\nwatched = 3\n# still\n", "[chains\n"):
            write(path, text)
            aged(path)
            eventually(lambda: file_state().version == version_of(str(path)))
        assert 2 == len(events)
        write(path, saying(OPENAI))
        eventually(lambda: ask() == OPENAI)
        write(path, "[chains\n")
        eventually(lambda: 3 == len(events))

    assert 3 == len(warnings(caplog))
    assert OPENAI == ask()


def test_a_reload_by_hand_tells_of_every_failure(path: Path) -> None:
    """The caller has asked; then the thread does not tell of it again."""
    write(path, "[chains\n")
    with capture_events(ConfigReloadFailed) as events:
        for _ in range(2):
            with pytest.raises(config.InvalidConfigError):
                config.reload()
        with config.watch(interval=OFTEN):
            aged(path)
            eventually(lambda: file_state().version == version_of(str(path)))

    assert 2 == len(events)


def test_a_watch_follows_load(path: Path, tmp_path: Path) -> None:
    """It looks at what is loaded, and at nothing as long as that is a mapping."""
    other = write(tmp_path / "other.toml", saying(OPENAI))
    with config.watch(interval=OFTEN) as watch:
        config.load({"chains": {"watched": CLAUDE}})
        assert (CLAUDE, True) == (ask(), watch.running)
        config.load(other)
        write(other, saying(GROQ))
        eventually(lambda: ask() == GROQ)


# --- the thread ---------------------------------------------------------------------------------


def test_all_watches_share_one_thread_which_ends_with_the_last(path: Path) -> None:
    """It looks at the shortest interval of them."""
    first = config.watch(interval=3600.0)
    eventually(threads)
    second = config.watch(interval=OFTEN)
    write(path, saying(OPENAI))
    eventually(lambda: ask() == OPENAI)
    (thread,) = threads()
    assert thread.daemon

    second.stop()
    second.stop()
    assert (True, False) == (first.running, second.running)
    third = config.watch(interval=OFTEN)
    write(path, saying(GROQ))
    eventually(lambda: ask() == GROQ)
    assert [thread] == threads()
    for watch in (first, third):
        watch.stop()

    eventually(lambda: not threads())
    assert "<Watch every 0.02 s, stopped>" == repr(third)


def test_after_the_stop_no_change_takes_effect(path: Path) -> None:
    """A reload that is under way is dropped."""
    for _ in range(20):
        with config.watch(interval=0.01):
            write(path, saying(OPENAI))
            time.sleep(0.01)
        found = ask()
        write(path, saying(GROQ))
        assert found == ask()
        config.reload()
    eventually(lambda: not threads())

    assert GROQ == ask()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_no_error_ends_the_thread(path: Path, error: type[BaseException]) -> None:
    """Whatever an observer raises."""

    def observer(event: object) -> None:
        raise error

    observe(observer, ConfigReloaded)
    with config.watch(interval=OFTEN):
        for target in (OPENAI, CLAUDE):
            write(path, saying(target))
            eventually(lambda target=target: ask() == target)


def test_it_runs_by_real_time(path: Path) -> None:
    """The fake clock of a test does not stop it."""
    with fake_clock(), config.watch(interval=OFTEN):
        write(path, saying(OPENAI))

        eventually(lambda: ask() == OPENAI)


def test_it_rests_inside_isolated_and_goes_on_afterwards(path: Path, tmp_path: Path) -> None:
    """One that is made inside ends with that."""
    with config.watch(interval=OFTEN) as outside:
        with isolated():
            write(path, saying(OPENAI))
            inner = write(tmp_path / "inner.toml", saying("inner/a"))
            config.load(inner)
            inside = config.watch(interval=OFTEN)
            write(inner, saying("inner/b"))
            eventually(lambda: ask() == "inner/b")
            assert (True, True) == (inside.running, outside.running)
        assert (GROQ, False) == (ask(), inside.running) or OPENAI == ask()
        eventually(lambda: ask() == OPENAI)
        write(inner, saying("inner/c"))
        inside.stop()

    eventually(lambda: not threads())


def test_a_watch_and_its_state_leave_nothing(path: Path) -> None:
    """What was loaded and watched inside a state ends with it."""
    with isolated():
        config.load(path)
        config.watch(interval=OFTEN)
        eventually(threads)

    eventually(lambda: not threads())
    assert config.current() is not None


@FORKS
def test_a_forked_child_has_a_thread_of_its_own(path: Path) -> None:
    """Both see a change, and the stop of the one leaves the other alone."""
    watch = config.watch(interval=OFTEN)
    eventually(threads)
    read, write_end = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(int(PATIENCE) * 2)
            eventually(lambda: ask() == OPENAI)
            watch.stop()
            os.write(write_end, b"x")
            eventually(lambda: not threads())
            code = 0
        finally:
            os._exit(code)
    write(path, saying(OPENAI))
    eventually(lambda: ask() == OPENAI)
    assert b"x" == os.read(read, 1)
    _, ended = os.waitpid(child, 0)
    write(path, saying(CLAUDE))
    eventually(lambda: ask() == CLAUDE)
    watch.stop()
    for end in (read, write_end):
        os.close(end)

    assert 0 == os.waitstatus_to_exitcode(ended)


def test_it_does_not_keep_the_process_alive(path: Path) -> None:
    """And an exit in the midst of it tells of nothing."""
    code = textwrap.dedent("""
        import sys
        from resilient_llm import config
        config.load(sys.argv[1])
        config.watch(interval=0.01)
        print("end")
    """)

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=Path(resilient_llm.__file__).parent.parent,
        check=False,
    )

    assert (0, "end\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("library", [asyncio, trio])
def test_calls_of_an_event_loop_see_the_changes(path: Path, library: Any) -> None:
    """The thread belongs to no loop."""

    @failover(chain="@watched")
    async def ask_later(target: Target) -> str:
        await library.sleep(0)
        return target.key

    async def main() -> None:
        with config.watch(interval=OFTEN):
            write(path, saying(OPENAI))
            until = time.perf_counter() + PATIENCE
            while await ask_later() != OPENAI:
                assert time.perf_counter() < until
                await library.sleep(0.005)

    asyncio.run(main()) if library is asyncio else trio.run(main)


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0, -1, 0.001, 3601, True, "0.5", None, float("nan")])
def test_an_interval_that_is_not_allowed(path: Path, interval: Any) -> None:
    """The message says what is."""
    with pytest.raises(ConfigurationError, match=r"interval=.*from 0\.01 to 3600"):
        config.watch(interval=interval)
    assert [] == threads()


def test_a_mapping_cannot_be_watched() -> None:
    """The message says what to do."""
    config.load({"chains": {"watched": GROQ}})

    with pytest.raises(ConfigurationError, match=r"a mapping is loaded.*call reload"):
        config.watch()


def test_a_watch_is_of_one_process(path: Path) -> None:
    """It cannot be pickled."""
    with config.watch() as watch, pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(watch)


# --- what the thread decides --------------------------------------------------------------------


class Steps:
    """The thread of a watch, without the thread: it looks when it is told to, at a given time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        self.read: list[str] = []
        monkeypatch.setattr(_watching, "_now", lambda: self.now)
        self.reloader = _watching.Reloader(file_state())
        self.reloader.add(self, 0.5)

    def look(self, seconds: float) -> str:
        """Let time pass, look, and return the target of calls."""
        self.now += seconds
        self.reloader._reload_if_needed(0.0)
        return ask()


def aged(path: Path) -> None:
    """Make a file look as if it had not been changed lately."""
    os.utime(path, (1_700_000_000, 1_700_000_000))


@pytest.fixture
def steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    aged(path)
    config.reload()
    return Steps(monkeypatch)


def test_a_change_is_loaded_when_it_has_stayed_for_one_interval(path: Path, steps: Steps) -> None:
    """A file that is being written changes, and begins the interval again."""
    assert GROQ == steps.look(0.5)
    path.write_text('[chains]\nwatched = "groq/ha', encoding="utf-8")
    assert GROQ == steps.look(0.5)
    assert GROQ == steps.look(0.4)
    path.write_text(saying("groq/half") + "# a", encoding="utf-8")
    assert GROQ == steps.look(0.4)
    path.write_text(saying("groq/whole") + "# and so on", encoding="utf-8")
    assert GROQ == steps.look(0.4)
    assert GROQ == steps.look(0.4)

    assert "groq/whole" == steps.look(0.1)


def test_a_change_that_is_taken_back_is_none(path: Path, steps: Steps) -> None:
    """The interval of the next one begins with that."""
    before = path.with_name("kept")
    path.rename(before)
    assert GROQ == steps.look(0.5)
    before.rename(path)  # only the time of its inode tells
    config.reload()
    assert GROQ == steps.look(0.4)
    write(path, saying(OPENAI))
    assert GROQ == steps.look(0.4)
    assert GROQ == steps.look(0.4)

    assert OPENAI == steps.look(0.2)


def test_what_changes_while_it_is_read_is_dropped(
    path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Neither half a file nor its problems are told; it is read when it stays."""
    from resilient_llm.config import _loading

    read = _loading.read

    def read_and_write(*args: Any, **options: Any) -> Any:
        try:
            return read(*args, **options)
        finally:
            path.write_text(f"{path.read_text(encoding='utf-8')}#", encoding="utf-8")

    monkeypatch.setattr(_loading, "read", read_and_write)
    for text in (saying(OPENAI), "[chains\n"):
        write(path, text)
        steps.look(0.5)
        assert GROQ == steps.look(0.5)
    assert [] == warnings(caplog)
    monkeypatch.setattr(_loading, "read", read)
    write(path, saying(OPENAI))
    steps.look(0.5)

    assert OPENAI == steps.look(0.5)


def test_a_file_that_was_just_changed_is_read_again(
    path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next change may leave its size and its times as they are. An older one is not."""
    from resilient_llm.config import _loading

    reads: list[float] = []
    read = _loading.read

    def count(*args: Any, **options: Any) -> Any:
        reads.append(steps.now)
        return read(*args, **options)

    monkeypatch.setattr(_loading, "read", count)
    for _ in range(5):
        steps.look(0.5)
    assert [] == reads
    write(path, saying(OPENAI))
    config.reload()
    for _ in range(5):
        steps.look(0.5)
    assert 3 == len(reads)
    aged(path)
    for _ in range(9):
        steps.look(0.5)

    assert 4 == len(reads)


def test_a_signal_is_answered_without_waiting_for_the_file_to_stay(
    path: Path, steps: Steps
) -> None:
    """Who sends it has finished to write."""
    write(path, saying(OPENAI))
    steps.reloader._is_asked = True

    assert OPENAI == steps.look(0.0)
    assert chains.names() == ["watched"]
