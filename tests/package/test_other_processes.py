"""Guarded functions of scripts and notebooks, which are sent to other processes by value."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("cloudpickle")
ROOT = Path(__file__).parents[2]

HEAD = """
import asyncio, pickle, subprocess, sys
import cloudpickle
from resilient_llm import (
    Attempt, StreamPolicy, Target, Trace, breaker, configure, failover, health, list_benched, testing
)
configure(logging=False)
CHAIN = ["groq/llama", "openai/gpt"]

@failover(chain=CHAIN, attempts=1)
def ask(target: Target, prompt: str, *, loud: bool = False, attempt: Attempt | None = None) -> str:
    if target.provider == "groq":
        raise ConnectionError("down")
    return prompt + (attempt and str(attempt.number))

@failover(chain=CHAIN)
async def aask(prompt: str, *, model: str | None = None) -> str:
    if model == "llama":
        raise ConnectionError("down")
    return f"{model}:{prompt}"

@failover(chain=CHAIN, attempts=1)
def words(prompt: str, *, model: str | None = None):
    if model == "llama":
        raise ConnectionError("down")
    sent = yield f"{model}:{prompt}"
    return sent

@failover(chain=CHAIN, attempts=1, stream=StreamPolicy(idle_timeout=5.0))
async def awords(target: Target, prompt: str):
    if target.model == "llama":
        raise ConnectionError("down")
    yield f"{target.model}:{prompt}"

@breaker("search", failures=1)
def search(query: str) -> str:
    if query == "bad":
        raise ConnectionError("down")
    return query.upper()

class Client:
    @failover(chain=CHAIN)
    def ask(self, target: Target, prompt: str) -> str:
        return f"{target.model}:{prompt}"

guard = breaker("guarded", failures=1)

def uses_all(prompt):
    with guard:
        return ask(prompt), asyncio.run(aask(prompt)), list(words(prompt)), search(prompt)

async def collected(prompt):
    return [item async for item in awords(prompt)]

def there(code, *values):
    # In a process that has not seen this module.
    sent = cloudpickle.dumps(values)
    program = "import sys, asyncio, inspect, cloudpickle\\nfrom resilient_llm import *\\n"
    program += "configure(logging=False)\\nvalues = cloudpickle.loads(sys.stdin.buffer.read())\\n" + code
    done = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True)
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    return done.stdout.decode().split()
"""


def run(body: str) -> None:
    """Run a script with these functions in its ``__main__``; it asserts by itself."""
    script = HEAD + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert 0 == done.returncode, done.stderr


WARM = ["", "ask('x'); asyncio.run(aask('x')); list(words('x')); asyncio.run(collected('x'))\n"]


@pytest.mark.parametrize("warm", WARM, ids=["never called", "called before"])
def test_functions_arrive_guarded(warm: str) -> None:
    """Each kind of function fails over there, and has its policy and signature."""
    run(
        warm
        + textwrap.dedent("""
    code = '''
    ask, aask, words, collected = values
    print(ask("a"), asyncio.run(aask("b")), *words("c"), *asyncio.run(collected("d")))
    print(ask.policy, words.policy, inspect.signature(ask), sep="\\\\n")
    print(inspect.isgeneratorfunction(words), inspect.iscoroutinefunction(aask))
    '''
    found = " ".join(there(code, ask, aask, words, collected))
    expected = "a1 gpt:b gpt:c gpt:d " + "Failover(groq/llama, openai/gpt) " * 2
    assert found == expected + "(prompt: str, *, loud: bool = False) -> str True True", found
    """)
    )


def test_they_share_the_circuits_of_the_process_that_they_come_to() -> None:
    """What is benched there is skipped there; the benches of the sender stay with it."""
    run("""
    list(words("x")), ask("x")
    code = '''
    words, ask = values
    print(len(list_benched()))
    for provider in ("groq", "groq/llama"):
        bench_model(provider)
    print(*words("a"), ask("b"))
    with Trace() as trace:
        ask("c")
    print([record.kind for record in trace.calls[0].attempts] and trace.served_by)
    unbench_model("groq"), unbench_model("groq/llama"), bench_model("openai/gpt")
    try:
        ask("d")
    except ChainExhaustedError as error:
        print(error.attempts[0].reason)
    '''
    found = there(code, words, ask)
    assert found == ["0", "gpt:a", "b1", "openai/gpt", "network"], found
    """)


def test_healthy_calls_are_made_by_the_wrapper_itself_again() -> None:
    """The first call binds it to the circuits of the process; the next one takes no detour."""
    run("""
    @failover("groq/llama")
    def plain(target: Target, prompt: str) -> str:
        return prompt

    plain("x")
    code = '''
    plain, = values
    plain("a")
    from resilient_llm._runtime.tracing import open_traces
    read = {name.rpartition("_r")[2].partition("_")[2]: name for name in plain.__code__.co_names}
    assert plain.__globals__[read["circuit"]].key == "groq/llama"
    assert plain.__globals__[read["open_traces"]] is open_traces
    before = health()["groq/llama"].total
    def entry(*given): raise AssertionError
    plain.__globals__[read["entry"]] = entry
    print(plain("b"), health()["groq/llama"].total - before)
    '''
    with Trace():
        assert there(code, plain) == ["b", "1"]
    with testing.fake_clock():
        plain("x")
        assert there(code, plain) == ["b", "1"]
    """)


def test_copies_methods_and_guards_are_sent_too() -> None:
    """A copy by ``using``, an object with a guarded method, and what refers to a guard."""
    run("""
    ask("x"), Client().ask("x"), search("x")
    try:
        search("bad")
    except ConnectionError:
        pass
    assert [each.model for each in list_benched()] == ["search"]
    code = '''
    patient, client, search, uses_all, policy = values
    print(patient("a"), patient.policy.chain[0], client.ask("b"), search("c"), *uses_all("d"))
    print(policy.call(client.ask.__wrapped__.__get__(client), "e"))
    print(patient.using(chain=["openai/gpt"])("f"))
    '''
    patient = ask.using(chain=["groq/llama", "mistral/small"])
    found = " ".join(there(code, patient, Client(), search, uses_all, ask.policy))
    assert found == (
        "a1 Target('groq/llama') llama:b C d1 gpt:d ['gpt:d'] D gpt:e f1"
    ), found
    """)


def test_a_generator_there_can_be_sent_to_and_closed() -> None:
    """What arrives is a generator function whose generators do what generators do."""
    run("""
    code = '''
    words, awords = values
    stream = words("a")
    print(next(stream))
    try:
        stream.send("sent")
    except StopIteration as end:
        print(end.value)
    stream = words("b")
    next(stream), stream.close()
    async def main():
        stream = awords("c")
        print(await anext(stream))
        await stream.aclose()
    asyncio.run(main())
    print(health()["openai/gpt"].total)
    '''
    found = there(code, words, awords)
    assert found == ["gpt:a", "None", "gpt:c", "3"], found
    """)


def test_joblib_runs_them_in_its_workers() -> None:
    """The workers of joblib get functions of ``__main__`` by value."""
    pytest.importorskip("joblib")
    run("""
    from joblib import Parallel, delayed
    list(words("x"))
    found = Parallel(n_jobs=2)(delayed(uses_all)(prompt) for prompt in ("a", "b"))
    assert found == [(f"{p}1", f"gpt:{p}", [f"gpt:{p}"], p.upper()) for p in "ab"], found
    """)
