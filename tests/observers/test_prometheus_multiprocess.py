"""The multiprocess mode of prometheus_client: what several processes write, and what is read."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

from tests.support.scrapes import Scrape

ROOT = Path(__file__).parents[2]
ASK = """
import os, signal, sys, threading, time
from resilient_llm import Target, bench_model, failover
from resilient_llm.observers import prometheus

@failover(chain=["groq/llama", "openai/gpt"], attempts=1)
def ask(target: Target, fails: bool = False) -> str:
    if fails and target.provider == "groq":
        raise TimeoutError
    return target.key

"""
OK = {"target": "groq/llama", "outcome": "ok"}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def run(directory: Path, code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ASK + code],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=check,
        timeout=60,
    )


def read(directory: Path, namespace: str = "resilient_llm") -> Scrape:
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(directory))
    return Scrape(generate_latest(registry).decode(), namespace)


def test_a_process_writes_at_its_exit(tmp_path: Path) -> None:
    """What was counted is in the files when the process has ended, labels and buckets included."""
    run(
        tmp_path,
        "prometheus.install(buckets=(0.5, 5))\n"
        "for _ in range(10): ask()\n"
        "ask(True)\n"
        "bench_model('openai', 600, reason='my own words')\n",
    )
    seen = read(tmp_path)

    assert {("groq/llama", "ok"): 10, ("groq/llama", "transient"): 1, ("openai/gpt", "ok"): 1} == (
        seen.rows("attempts_total", "target", "outcome")
    )
    assert {("__main__.ask", "ok"): 11} == seen.rows("calls_total", "function", "outcome")
    assert 0 == seen.get("calls_total", function="__main__.ask", outcome="failed")
    assert 10 == seen.get("attempt_seconds_bucket", target="groq/llama", le="0.5")
    assert 10 == seen.get("attempt_seconds_count", target="groq/llama")
    assert (seen.get("attempt_seconds_sum", target="groq/llama") or 0.0) > 0.0
    assert {("groq/llama", "openai/gpt", "timeout"): 1} == seen.rows(
        "failovers_total", "from_target", "to_target", "reason"
    )
    assert {("openai", "manual"): 1} == seen.rows("benched", "target", "kind")
    assert 1 == seen.get("live_targets", function="__main__.ask")
    assert "my own words" not in seen.text


def test_a_thread_writes_each_second(tmp_path: Path) -> None:
    """A process that is killed loses what came after the last write, and no more."""
    directory = tmp_path / "files"
    directory.mkdir()
    killed = run(
        directory,
        "from prometheus_client import CollectorRegistry, multiprocess\n"
        "registry = CollectorRegistry()\n"
        "multiprocess.MultiProcessCollector(registry)\n"
        "exporter = prometheus.install()\n"
        "ask()\n"
        "exporter.flush()\n"  # a kill while the client makes a file leaves one it cannot read
        "for _ in range(6): ask()\n"
        "end = time.monotonic() + 30\n"
        f"while registry.get_sample_value('resilient_llm_attempts_total', {OK}) != 7:\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.02)\n"
        "ask()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
        check=False,
    )

    assert -signal.SIGKILL == killed.returncode, killed.stderr
    assert read(directory).get("attempts_total", **OK) in (7, 8)


def test_a_flush_writes_at_once(tmp_path: Path) -> None:
    """``flush`` does what the thread would do, also under a fake clock; an uninstall does, too."""
    said = run(
        tmp_path,
        "from prometheus_client import CollectorRegistry, multiprocess\n"
        "from resilient_llm.testing import fake_clock\n"
        "registry = CollectorRegistry()\n"
        "multiprocess.MultiProcessCollector(registry)\n"
        f"seen = lambda: registry.get_sample_value('resilient_llm_attempts_total', {OK})\n"
        "exporter = prometheus.install()\n"
        "with fake_clock():\n"
        "    ask(), ask()\n"
        "    assert exporter.flush() is True\n"
        "    print(seen())\n"
        "    ask()\n"
        "    exporter()\n"
        "    print(seen())\n"
        "    ask()\n"
        "    exporter.flush()\n"
        "    print(seen(), exporter.dropped)\n",
    )

    assert ["2.0", "3.0", "3.0 0"] == said.stdout.splitlines()


def test_forked_workers_add_up(tmp_path: Path) -> None:
    """Workers that are forked from a preloaded application count their own calls, like gunicorn's."""
    run(
        tmp_path,
        "prometheus.install()\n"
        "for _ in range(5): ask()\n"
        "children = []\n"
        "for number in range(3):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        for _ in range(100 * (number + 1)): ask()\n"
        "        if number == 2: bench_model('openai/gpt')\n"
        "        sys.exit(0)\n"
        "    children.append(pid)\n"
        "for pid in children: os.waitpid(pid, 0)\n",
    )
    seen = read(tmp_path)

    assert 605 == seen.get("attempts_total", **OK)
    assert 605 == seen.get("calls_total", function="__main__.ask", outcome="ok")
    assert 605 == seen.get("attempt_seconds_bucket", target="groq/llama", le="+Inf")
    # The greatest of the processes: benched somewhere, live somewhere.
    assert 1 == seen.get("benched", target="openai/gpt", kind="manual")
    assert 2 == seen.get("live_targets", function="__main__.ask")


def test_workers_of_multiprocessing_add_up(tmp_path: Path) -> None:
    """Processes of multiprocessing write at their exit, forked or started anew."""
    script = tmp_path / "workers.py"
    directory = tmp_path / "files"
    directory.mkdir()
    script.write_text(
        ASK + "import multiprocessing\n"
        "def work(number):\n"
        "    prometheus.install() if number else None\n"
        "    for _ in range(50): ask()\n"
        "if __name__ == '__main__':\n"
        "    prometheus.install()\n"
        "    ask()\n"
        "    for number, method in enumerate(('fork', 'spawn')):\n"
        "        worker = multiprocessing.get_context(method).Process(target=work, args=(number,))\n"
        "        worker.start()\n"
        "        worker.join()\n"
        "        assert worker.exitcode == 0\n"
    )
    subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory), "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )

    assert 101 == read(directory).get("attempts_total", **OK)


def test_dead_workers_take_their_gauges_with_them(tmp_path: Path) -> None:
    """The gauges of a process that is marked dead are gone; its counters stay."""
    said = run(
        tmp_path,
        "prometheus.install()\nask()\nbench_model('openai/gpt')\nprint(os.getpid())\n",
    )
    before = read(tmp_path)
    multiprocess.mark_process_dead(int(said.stdout), str(tmp_path))
    after = read(tmp_path)

    assert (1, None) == tuple(
        each.get("benched", target="openai/gpt", kind="manual") for each in (before, after)
    )
    assert 1 == after.get("attempts_total", **OK)


def test_running_attempts_are_summed(tmp_path: Path) -> None:
    """``in_flight`` is the sum over the processes."""
    script = (
        "prometheus.install()\n"
        "inside = threading.Event()\n"
        "@failover(chain=['groq/llama'])\n"
        "def hang(target: Target) -> None:\n"
        "    inside.set()\n"
        "    threading.Event().wait()\n"
        "threading.Thread(target=hang, daemon=True).start()\n"
        "inside.wait()\n"
    )
    for _ in range(2):
        run(tmp_path, script)

    assert 2 == read(tmp_path).get("in_flight", target="groq/llama")


def test_forks_in_the_midst_of_writes_leave_the_client_usable(tmp_path: Path) -> None:
    """A child that is forked while another thread writes can count, with the client's own metrics, too."""
    run(
        tmp_path,
        "import prometheus_client\n"
        "mine = prometheus_client.Counter('mine', 'of the application')\n"
        "exporter = prometheus.install()\n"
        "for number in range(200):\n"
        "    failover(chain=[f'p{number}/m']).call(lambda target: None) if 0 else None\n"
        "    bench_model(f'p{number}/m')\n"
        "stop = threading.Event()\n"
        "def write():\n"
        "    while not stop.is_set():\n"
        "        ask()\n"
        "        exporter.flush()\n"
        "threading.Thread(target=write, daemon=True).start()\n"
        "for _ in range(40):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        signal.alarm(20)\n"
        "        mine.inc()\n"
        "        ask()\n"
        "        exporter.flush()\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "stop.set()\n",
    )
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(tmp_path))

    assert 40 == registry.get_sample_value("mine_total")


def test_nothing_is_registered(tmp_path: Path) -> None:
    """The registry that collects the files can be named at the install without anything coming twice."""
    said = run(
        tmp_path,
        "from prometheus_client import CollectorRegistry, generate_latest, multiprocess\n"
        "registry = CollectorRegistry()\n"
        "multiprocess.MultiProcessCollector(registry)\n"
        "exporter = prometheus.install(registry)\n"
        "ask()\n"
        "exporter.flush()\n"
        "print(generate_latest(registry).decode())\n",
    )
    lines = [line for line in said.stdout.splitlines() if line and not line.startswith("#")]

    assert len(lines) == len({line.rpartition(" ")[0] for line in lines})
    assert 1 == Scrape(said.stdout).get("attempts_total", **OK)


def test_two_exporters_of_a_process_need_two_namespaces(tmp_path: Path) -> None:
    """The files are those of the process, so a second exporter would count twice under one namespace."""
    said = run(
        tmp_path,
        "from prometheus_client import CollectorRegistry\n"
        "from resilient_llm import ConfigurationError\n"
        "first = prometheus.install()\n"
        "for options in ({}, {'registry': CollectorRegistry()}):\n"
        "    try: prometheus.install(**options)\n"
        "    except ConfigurationError as error: print(error)\n"
        "second = prometheus.install(CollectorRegistry(), namespace='llm')\n"
        "ask()\n"
        "first()\n"
        "ask()\n"
        "prometheus.install()\n"
        "ask()\n",
    )
    registry_taken, namespace_taken = said.stdout.splitlines()

    assert "an exporter already" in registry_taken
    assert "namespace='resilient_llm'" in namespace_taken
    assert 3 == read(tmp_path, "llm").get("attempts_total", **OK)
    assert 2 == read(tmp_path).get("attempts_total", **OK)


def test_an_uninstall_leaves_no_alarm(tmp_path: Path) -> None:
    """After an uninstall no gauge in the files says that something is benched or that nothing is live."""
    said = run(
        tmp_path,
        "exporter = prometheus.install()\n"
        "ask()\n"
        "bench_model('groq'), bench_model('openai')\n"
        "exporter.flush()\n"
        "exporter()\n",
    )
    seen = read(tmp_path)

    assert "" == said.stdout
    assert {} == seen.rows("benched", "target", "kind")
    assert {} == seen.rows("bench_until_timestamp_seconds", "target")
    assert {} == seen.rows("state", "target")
    assert 1 == seen.get("live_targets", function="__main__.ask")
    assert 1 == seen.get("attempts_total", **OK)


def test_a_directory_that_is_missing_is_told(tmp_path: Path) -> None:
    """A directory that cannot be written is a mistake of the configuration, told at the install."""
    said = run(
        tmp_path / "missing",
        "from resilient_llm import ConfigurationError\n"
        "try: prometheus.install()\n"
        "except ConfigurationError as error: print(error)\n",
    )

    assert "PROMETHEUS_MULTIPROC_DIR" in said.stdout


def test_an_exporter_of_an_isolated_state_ends_with_it(tmp_path: Path) -> None:
    """Inside ``isolated()`` an exporter writes, and its thread ends with the block."""
    said = run(
        tmp_path,
        "import json\n"
        "from resilient_llm.testing import isolated\n"
        "with isolated():\n"
        "    prometheus.install()\n"
        "    ask()\n"
        "ask()\n"
        "prometheus.install()\n"
        "print(json.dumps([t.name for t in threading.enumerate() if 'prometheus' in t.name]))\n",
    )
    names: Any = json.loads(said.stdout)

    assert len(names) <= 2
    assert 1 == read(tmp_path).get("attempts_total", **OK)


def test_a_name_that_no_encoding_takes_is_written(tmp_path: Path) -> None:
    """The name of a function may be any text; what cannot be encoded is escaped in the file."""
    run(
        tmp_path,
        "def odd(target: Target) -> str: return target.key\n"
        "odd.__qualname__ = 'odd_\\udcff'\n"
        "prometheus.install()\n"
        "failover(chain=['groq/llama'])(odd)()\n",
    )

    assert 1 == read(tmp_path).get("calls_total", function="__main__.odd_\\udcff", outcome="ok")
