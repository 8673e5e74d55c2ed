"""Real processes that share a store: exit, fork, kill, and workers that come and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient_llm import bench_model, configure, is_benched, list_benched, store_status
from tests.support.sharing import eventually, never
from tests.support.valkey import Server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a store that is empty."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/app.db"
        return
    server = Server()
    yield server.url
    server.close()


def use(url: str) -> None:
    """Let this process share the store."""
    configure(state=url, state_options={"poll": 0.1})
    assert store_status(wait=10).connected


class Worker:
    """Another process, which runs some code and says what it prints, line by line."""

    def __init__(self, url: str, code: str) -> None:
        head = (
            "import os, sys, time\n"
            "import resilient_llm as r\n"
            f"r.configure(state={url!r}, state_options={{'poll': 0.1}})\n"
            "def say(*what): print(*what, flush=True)\n"
            "def eventually(f):\n"
            "    until = time.monotonic() + 10\n"
            "    while not f():\n"
            "        assert time.monotonic() < until, 'it has not come'\n"
            "        time.sleep(0.005)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _started.append(self)

    def line(self) -> str:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        """Let it go on where it waits for a line."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ends(self) -> str:
        """Wait until it has ended well; return what else it said."""
        out, error = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, error
        assert "Traceback" not in error, error
        return out

    def close(self) -> None:
        """End it if it still runs, and close its pipes."""
        with self.process:
            self.process.kill()


_started: list[Worker] = []


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    """A test that fails leaves nothing to the next one."""
    yield
    while _started:
        _started.pop().close()


def test_a_bench_outlives_its_process(url: str) -> None:
    """What a process does last is sent while it exits, within a second."""
    Worker(url, "r.bench_model('groq', 3600, reason='incident', by='ada')").ends()

    use(url)
    found = eventually(list_benched)
    assert ("groq", "incident", "ada") == (found[0].model, found[0].reason, found[0].by)
    assert 3500 < found[0].remaining < 3600


@pytest.mark.parametrize("is_used", [True, False], ids=["used before", "not used before"])
def test_a_bench_while_the_process_exits_is_sent(url: str, is_used: bool) -> None:
    """Of a function that ``atexit`` calls, even if it is the first thing that is shared."""
    used = "assert r.store_status(wait=10).connected\n" if is_used else ""
    Worker(url, f"{used}import atexit\natexit.register(lambda: r.bench_model('groq', 600))").ends()

    use(url)
    assert "groq" == eventually(list_benched)[0].model


def test_an_exit_does_not_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    """For longer than a second."""
    pytest.importorskip("redis")
    worker = Worker(
        f"unix://{tmp_path}/nobody",
        "r.bench_model('groq'); r.store_status(wait=0.1); say(time.time())",
    )
    ended_at = float(worker.line())
    worker.ends()
    import time

    assert time.time() - ended_at < 5


@pytest.mark.parametrize("way", ["fork", "multiprocessing"])
def test_trap_20_a_child_is_a_process_of_its_own(url: str, way: str) -> None:
    """It knows what its parent knew, shares what it does, and goes on learning; so does the parent."""
    fork = (
        "pid = os.fork()\nif not pid:\n    child()\n    r.store_status(wait=5)\n"
        "    eventually(lambda: not r.store_status().pending)\n    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    processes = (
        "import multiprocessing\n"
        "child_process = multiprocessing.get_context('fork').Process(target=child)\n"
        "child_process.start(); child_process.join(); assert child_process.exitcode == 0\n"
    )
    worker = Worker(
        url,
        "assert r.store_status(wait=10).connected\n"
        "r.bench_model('groq', reason='parent')\n"
        "eventually(lambda: not r.store_status().pending)\n"
        "def child():\n"
        "    assert [each.reason for each in r.list_benched()] == ['parent']\n"
        "    assert r.store_status(wait=10).connected\n"
        "    r.bench_model('openai', reason='child')\n"
        "    eventually(lambda: r.store_status().peers >= 2)\n"
        + (fork if way == "fork" else processes)
        + "eventually(lambda: r.is_benched('openai'))\n"
        "say(sorted(each.reason for each in r.list_benched()))\n"
        "sys.stdin.readline()\n"
        "eventually(lambda: r.is_benched('mistral'))\n",
    )
    assert "['child', 'parent']" == worker.line()
    use(url)
    eventually(lambda: {each.reason for each in list_benched()} == {"parent", "child"})
    bench_model("mistral")
    worker.go_on()
    worker.ends()


def test_a_child_drops_what_its_parent_had_not_sent(tmp_path: Path) -> None:
    """It is the parent's to send; a child that sends it too would do it twice."""
    pytest.importorskip("redis")
    worker = Worker(
        f"unix://{tmp_path}/nobody",
        "r.bench_model('groq'); r.store_status(wait=0.1)\n"
        "eventually(lambda: r.store_status().last_error)\n"
        "assert r.store_status().pending == 1\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    assert r.store_status().pending == 0, r.store_status()\n"
        "    assert r.is_benched('groq')\n"
        "    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "assert r.store_status().pending == 1\n",
    )
    worker.ends()


def test_workers_of_a_prefork_server(url: str) -> None:
    """Configured before the fork: the master has no thread, and each worker its own."""
    worker = Worker(
        url,
        "import threading\n"
        "assert threading.active_count() == 1\n"
        "pids = []\n"
        "for number in range(3):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        assert r.store_status(wait=10).connected\n"
        "        if number == 0:\n"
        "            r.bench_model('groq')\n"
        "        eventually(lambda: r.is_benched('groq'))\n"
        "        eventually(lambda: not r.store_status().pending)\n"
        "        os._exit(0)\n"
        "    pids.append(pid)\n"
        "assert threading.active_count() == 1\n"
        "assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]\n",
    )
    worker.ends()


def test_a_process_that_is_killed_leaves_its_benches(url: str) -> None:
    """They last until their end, and anybody may end them."""
    worker = Worker(
        url,
        "r.bench_model('groq', reason='killed')\n"
        "eventually(lambda: r.store_status(wait=5).pending == 0 and r.store_status().connected)\n"
        "say('sent')\n"
        "time.sleep(60)\n",
    )
    assert "sent" == worker.line()
    worker.process.send_signal(signal.SIGKILL)
    worker.process.communicate(timeout=10)

    use(url)
    eventually(lambda: is_benched("groq"))
    from resilient_llm import unbench_model

    assert unbench_model("groq")
    never(lambda: is_benched("groq"))


def test_trap_54_a_signal_handler_may_bench(url: str) -> None:
    """Wherever it interrupts."""
    worker = Worker(
        url,
        "import signal\n"
        "assert r.store_status(wait=10).connected\n"
        "r.bench_model('openai'); r.unbench_model('openai')\n"
        "signal.signal(signal.SIGUSR1, lambda *_: r.bench_model('groq', reason='signal'))\n"
        "say('ready')\n"
        "for _ in range(200):\n"
        "    r.bench_model('openai'); r.unbench_model('openai')\n"
        "eventually(lambda: r.is_benched('groq'))\n"
        "eventually(lambda: not r.store_status().pending)\n",
    )
    assert "ready" == worker.line()
    worker.process.send_signal(signal.SIGUSR1)
    worker.ends()
    use(url)

    eventually(lambda: [each.reason for each in list_benched()] == ["signal"])


def test_trap_45_many_workers_agree(url: str) -> None:
    """Four processes bench and unbench at once; in the end all of them know the same."""
    code = """
        import random
        random.seed({number})
        assert r.store_status(wait=10).connected
        say('ready')
        sys.stdin.readline()
        for _ in range(40):
            key = random.choice(['groq', 'openai', 'mistral'])
            if random.random() < 0.5:
                r.bench_model(key, reason=str({number}))
            else:
                r.unbench_model(key)
        eventually(lambda: not r.store_status().pending)
        say('sent')
        for _ in sys.stdin:
            say(sorted((each.model, each.reason) for each in r.list_benched()))
    """
    workers = [Worker(url, code.format(number=number)) for number in range(4)]
    for each in workers:
        assert "ready" == each.line()
    for each in workers:
        each.go_on()
    for each in workers:
        assert "sent" == each.line()

    def views() -> set[str]:
        for each in workers:
            each.go_on()
        return {each.line() for each in workers}

    eventually(lambda: 1 == len(views()))
    never(lambda: 1 < len(views()))
    for each in workers:
        each.ends()


def test_start_up_with_many_keys(url: str) -> None:
    """10,000 tenants' keys in the store are read at once, and each is benched here."""
    worker = Worker(
        url,
        "for number in range(10_000):\n"
        "    r.bench_model(f'groq@tenant{number}', 3600)\n"
        "eventually(lambda: not r.store_status(wait=5).pending)\n",
    )
    worker.ends()
    configure(state=url)

    assert store_status(wait=30).last_sync_at is not None
    assert 10_000 == len(list_benched())
