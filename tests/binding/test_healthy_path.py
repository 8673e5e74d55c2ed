"""The generated wrapper's own first attempt: it decides as the call flow does, and takes no lock."""

import inspect
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from resilient_llm import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    Budget,
    Limit,
    Target,
    TargetSkipped,
    Trace,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    list_benched,
    observe,
)
from resilient_llm._binding.binding import Unbound
from resilient_llm._binding.injection import injection_of
from resilient_llm._binding.wrapper_code import generate
from resilient_llm._core.circuit import triggers, window
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import FakeClock, capture_events, fake_clock, isolated
from tests.support.ways import GROQ, OPENAI, ProviderError, down, on_both_loops, run_async

CHAIN = ["groq/llama", "openai/gpt"]

# Per scenario, what each call of the first target does, and each of the second; None is an answer.
SCENARIOS: dict[str, tuple[list[Exception | None], list[Exception | None]]] = {
    "healthy": ([None, None, None], []),
    "fails once": ([ProviderError(500), None], []),
    "fails over": ([ProviderError(500)] * 3, [None]),
    "rate limited": ([ProviderError(429, retry_after=20)], [None, None]),
    "dead key": ([ProviderError(401)], [None, None]),
    "wrong request": ([ProviderError(400), None], [None]),
    "caller's bug": ([TypeError("bug"), None], []),
    "nobody answers": ([ProviderError(500)] * 3, [ProviderError(503)] * 3),
    "provider unreachable": ([ConnectionRefusedError()] * 3, [None, None]),
}


def results_of(
    script: tuple[list[Exception | None], list[Exception | None]], *, traced: bool, warm: bool
) -> Any:
    """Make two calls; return their results, what is benched, and what was counted."""
    with isolated(), fake_clock() as clock:
        outcomes = {"groq/llama": list(script[0]), "openai/gpt": list(script[1])}
        ready = False

        @failover(chain=CHAIN, backoff=lambda n: 1.0)
        def ask(target: Target, prompt: str) -> str:
            if not ready:
                return prompt
            outcome = outcomes[target.key].pop(0) if outcomes[target.key] else None
            clock.advance(0.25)
            if outcome is not None:
                raise outcome
            return f"{target.key}: {prompt}"

        if warm:
            ask("warm up")  # binds the wrapper, so that what follows is its own first attempt
        ready = True
        results: list[Any] = []
        for prompt in ("one", "two"):
            with Trace() if traced else capture_events(TargetSkipped):
                try:
                    results.append(ask(prompt))
                except Exception as error:  # what leaves is compared by its class
                    results.append(type(error))
        numbers = {
            key: (
                each.status,
                each.state,
                each.total - (warm and key.startswith("groq")),
                each.errors,
                each.last_error,
            )
            for key, each in health().items()
        }
        benched = [(each.model, each.kind, each.reason) for each in list_benched()]
        return (
            results,
            numbers if not warm else {k: v[1:] for k, v in numbers.items()},
            benched,
            clock.sleeps,
        )


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_inlined_first_attempt_decides_as_the_call_flow_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers, errors, counts, benches and waits are the same with and without the inlined attempt."""
    monkeypatch.setattr(triggers, "JITTER", 0.0)  # or which bench ends first is left to chance
    inlined = results_of(SCENARIOS[name], traced=False, warm=True)
    by_call_flow = results_of(SCENARIOS[name], traced=True, warm=True)

    assert by_call_flow == inlined


def test_the_inlined_first_attempt_emits_the_same_events() -> None:
    """A failing first attempt emits the same whether the wrapper or the call flow made it."""

    def events(*, inline: bool) -> list[tuple[str, str]]:
        with isolated(), fake_clock():
            failing = False

            @failover(chain=CHAIN, attempts=2, backoff=lambda n: 1.0)
            def ask(target: Target) -> str:
                if failing and target.provider == "groq":
                    raise ProviderError(500)
                return target.key

            received: list[tuple[str, str]] = []
            stop = observe(lambda event: received.append((type(event).__name__, event.target)))
            if inline:
                stop()
                ask()
                from resilient_llm import (
                    AttemptFailed,
                    FailedOver,
                    RetryScheduled,
                    RetryStopped,
                    TargetBenched,
                )

                observe(
                    lambda event: received.append((type(event).__name__, event.target)),
                    *(AttemptFailed, FailedOver, RetryScheduled, RetryStopped, TargetBenched),
                )
            failing = True
            ask()
            return [
                each for each in received if each[0] not in ("AttemptSucceeded", "HealthChanged")
            ]

    assert events(inline=False) == events(inline=True)


class CountingLock:
    """A lock that counts how often any of its kind is taken."""

    taken = 0

    def __init__(self) -> None:
        self._lock = _REAL_RLOCK()
        self._times = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        CountingLock.taken += 1
        is_ours = self._lock.acquire(blocking, timeout)
        self._times += is_ours
        return is_ours

    def release(self) -> None:
        self._times -= 1
        self._lock.release()

    def _is_owned(self) -> bool:
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return, unused-ignore]  # not in the stubs

    def locked(self) -> bool:
        return self._times > 0

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


_REAL_RLOCK = threading.RLock


@pytest.fixture
def locks_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[Callable[[], object], int], int]]:
    """Count the locks of the library that are taken while a function is called so often."""
    monkeypatch.setattr(threading, "Lock", CountingLock)
    monkeypatch.setattr(threading, "RLock", CountingLock)

    def count(call: Callable[[], object], times: int) -> int:
        CountingLock.taken = 0
        for _ in range(times):
            call()
        return CountingLock.taken

    with isolated():
        yield count


LocksTaken = Callable[[Callable[[], object], int], int]


def test_a_healthy_call_takes_no_lock(locks_taken: LocksTaken) -> None:
    """Neither a decorated function nor a guard takes a lock while all is well; a failure does."""

    @failover(chain=CHAIN)
    def ask(target: Target) -> str:
        return target.key

    def guarded() -> None:
        with breaker("mistral"):
            pass

    def failing() -> None:
        with pytest.raises(ProviderError), breaker("mistral"):
            raise ProviderError(500)

    for _ in range(5):
        ask(), guarded()

    assert (0, 0) == (locks_taken(ask, 500), locks_taken(guarded, 500))
    assert locks_taken(failing, 1) > 0


def test_a_healthy_call_with_limits_and_budgets_takes_no_lock(locks_taken: LocksTaken) -> None:
    """It takes and settles all of them where neither a thread nor an interrupt comes between."""
    configure(
        limits={"groq": Limit(requests=10**9, tokens=10**9, max_concurrent=4)},
        budgets=[Budget(usd=100), Budget(calls=10**9)],
    )

    @failover(chain=[Target("groq/llama", price=(1, 2), max_output=10)])
    def ask(target: Target) -> str:
        return target.key

    for _ in range(5):
        ask()

    assert 0 == locks_taken(ask, 500)


def test_a_benched_target_is_skipped_without_a_lock_and_tried_again_after_its_bench(
    clock: Any, locks_taken: LocksTaken
) -> None:
    """The wrapper itself passes over a benched first target, until its bench is over."""

    @failover(chain=CHAIN)
    def ask(target: Target) -> str:
        return target.key

    ask()
    bench_model("groq/llama", 30)
    during = ask()
    taken = locks_taken(ask, 50)
    clock.advance(30)

    assert ("openai/gpt", 0, "groq/llama") == (during, taken, ask())


def test_a_half_open_target_is_probed_though_the_next_is_healthy(clock: Any) -> None:
    """After its cooldown the first target gets its probe from the next call."""
    down = True

    @failover(chain=CHAIN, attempts=2)
    def ask(target: Target) -> str:
        if down and target.provider == "groq":
            raise ProviderError(500)
        return target.key

    first = ask()
    down = False
    clock.advance(40)

    assert ("openai/gpt", "groq/llama", "closed") == (first, ask(), breaker("groq/llama").state)


def test_without_a_global_lock_every_success_takes_the_circuits(
    monkeypatch: pytest.MonkeyPatch, locks_taken: LocksTaken
) -> None:
    """The one switch for interpreters without a global lock turns the lock-free counting off."""
    monkeypatch.setattr(window, "LOCK_FREE", False)

    @failover(chain=CHAIN)
    def ask(target: Target) -> str:
        return target.key

    for _ in range(5):
        ask()

    assert locks_taken(ask, 10) >= 10
    assert 15 == health()["groq/llama"].total


def test_counts_are_exact_under_threads() -> None:
    """Eight threads that switch all the time lose no success, and a provider's sum is that of its targets."""

    @failover(chain=CHAIN)
    def ask(target: Target) -> str:
        return target.key

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [ask() for _ in range(5_000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)

    assert (40_000, 40_000) == (health()["groq/llama"].total, health()["groq"].total)


def test_a_guard_kept_in_a_variable_counts_exactly_under_threads() -> None:
    """One guard entered by eight threads at once counts each entry once and ends up empty."""
    guard = breaker("groq")

    def enter() -> None:
        for _ in range(1_000):
            with guard:
                pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=enter) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)

    assert 8_000 == health()["groq"].total


def test_the_busiest_key_is_not_the_longest_idle_one(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    """Keys whose calls take the healthy path count as used."""
    monkeypatch.setattr("resilient_llm._runtime.registry.MOST_KEYS", 20)
    with isolated():
        for number in range(200):
            with breaker("busy"):
                pass
            with breaker(f"tenant-{number}"):
                pass
            clock.advance(1.0)

        assert 200 == health()["busy"].total


def test_an_observer_of_successes_receives_every_call_and_costs_nothing_after(
    locks_taken: LocksTaken,
) -> None:
    """Each answer is told while somebody subscribes to successes, and none after that."""

    @failover(chain=CHAIN)
    def ask(target: Target) -> str:
        return target.key

    ask()
    with capture_events(AttemptSucceeded) as events:
        ask(), ask()
    ask()

    assert (2, 0) == (len(events), locks_taken(ask, 10))
    assert 4 + 10 == health()["groq/llama"].total


@pytest.mark.parametrize(
    "options",
    [
        {"reject": lambda answer: False},
        {"observers": (print,)},
        {"strategy": lambda targets: targets},
        {"timeout": 5},
    ],
    ids=["reject", "observers", "strategy", "timeout"],
)
def test_what_the_wrapper_cannot_do_itself_is_done_by_the_call_flow(
    options: dict[str, Any],
) -> None:
    """Policies with options that the inlined attempt knows nothing of still answer and count."""

    @failover(chain=CHAIN, **options)
    async def ask(target: Target, prompt: str) -> str:
        return f"{target.key}: {prompt}"

    async def twice() -> list[str]:
        return [await ask("a"), await ask("b")]

    assert ["groq/llama: a", "groq/llama: b"] == anyio.run(twice)
    assert 2 == health()["groq/llama"].total


def test_changed_settings_reach_functions_decorated_before(clock: Any) -> None:
    """configure() applies to the next call of a function that was bound already."""

    @failover(chain=["groq/llama"])
    def ask(target: Target) -> str:
        return target.key

    ask()
    configure(breakers={"groq/llama": {"mode": "forced_open"}})

    with pytest.raises(Exception, match="forced_open"):
        ask()


def test_a_lowered_level_is_noticed_by_functions_that_are_bound(
    clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """DEBUG switched on while the process runs shows the successes from a second later on."""

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        return target.key

    ask()
    ask()
    caplog.set_level(logging.DEBUG, logger="resilient_llm")
    clock.advance(1.0)
    ask()
    ask()

    assert 2 == sum(
        message.startswith("AttemptSucceeded groq/llama") for message in caplog.messages
    )


def test_a_raised_level_is_noticed_by_functions_that_were_bound_before(
    clock: Any, caplog: pytest.LogCaptureFixture, locks_taken: LocksTaken
) -> None:
    """A function that was first called at DEBUG takes the healthy path after that is over."""
    caplog.set_level(logging.DEBUG, logger="resilient_llm")

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        return target.key

    ask()
    ask()
    caplog.set_level(logging.WARNING, logger="resilient_llm")
    clock.advance(0.001)
    ask()
    wanted = plain_type_of(ask)

    assert (str, 0) == (wanted, locks_taken(ask, 10))


def plain_type_of(guarded: Any) -> Any:
    """Return the class of answers that need no look in a wrapper."""
    return guarded.__globals__["_r_plain_type"]


def is_bound(guarded: Any) -> bool:
    """Return whether a wrapper makes first attempts by itself."""
    return guarded.__globals__["_r_circuit"] is not Unbound


@pytest.mark.parametrize(
    "options",
    [{}, {"reject": lambda answer: False}, {"observers": (lambda event: None,)}],
    ids=["plain", "reject", "observers"],
)
def test_nobody_who_listens_unbinds_a_function(clock: Any, options: dict[str, Any]) -> None:
    """Observers, traces and `reject` leave the wrapper bound, and each is served."""

    @failover(chain=GROQ, **options)
    def ask(target: Target) -> str:
        return target.key

    ask()
    with Trace() as trace:
        ask()
    between = is_bound(ask)
    with capture_events(AttemptSucceeded) as events:
        ask()
        during = is_bound(ask)
        ask()
        after = is_bound(ask)

    assert (True, True, True, 1, 2) == (
        between, during, after, len(trace.calls), len(events),
    )  # fmt: skip
    assert 4 == health()[GROQ].total


def test_a_refused_first_answer_goes_on_as_in_the_call_flow(clock: Any) -> None:
    """`reject` is asked once about each answer, and the call goes on after the first attempt."""
    asked: list[str] = []
    answers = ["good", "bad", "good"]

    def reject(answer: str) -> str | None:
        asked.append(answer)
        return "empty" if answer == "bad" else None

    @failover(chain=CHAIN, reject=reject, backoff=lambda n: 1.0)
    def ask(target: Target) -> str:
        return answers.pop(0)

    ask()
    with capture_events(AttemptFailed, AttemptSucceeded) as events:
        ask()

    assert ["good", "bad", "good"] == asked
    assert [("AttemptFailed", CHAIN[0]), ("AttemptSucceeded", CHAIN[1])] == [
        (type(each).__name__, each.target) for each in events
    ]


def test_an_interrupted_binding_is_made_again(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function whose first call was interrupted still follows the state of the process."""

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        return target.key

    def interrupted(bound: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runtime, "bind", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask()
    ask()
    with isolated():
        ask()
        inside = health()[GROQ].total

    assert (1, 1) == (inside, health()[GROQ].total)


def test_a_function_is_never_bound_to_a_state_that_was_exchanged_meanwhile(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The binding is made again if the state changed while its circuits were looked up."""

    @failover(chain=GROQ)
    def ask(target: Target) -> str:
        return target.key

    find = runtime.registry.circuit
    changes = [{"failures": 7}]

    def circuit(key: str, *options: Any) -> Any:
        if changes:
            configure(breakers={GROQ: changes.pop()})
        return find(key, *options)

    monkeypatch.setattr(runtime.registry, "circuit", circuit)
    before = runtime.epoch
    ask()

    assert (before + 1, True) == (runtime.epoch, is_bound(ask))


def test_arguments_and_functions_of_single_targets_are_called_by_the_wrapper(
    clock: Any, locks_taken: LocksTaken
) -> None:
    """`params` and `call=` change what is called, not who makes the first attempt."""

    def own(prompt: str, temperature: float) -> str:
        return f"own {prompt} {temperature}"

    @failover(chain=[Target(GROQ, params={"temperature": 0.5}), Target(OPENAI, call=own)])
    def ask(target: Target, prompt: str, temperature: float = 1.0) -> str:
        return f"{target.key} {prompt} {temperature}"

    healthy = [ask("a"), ask("b", temperature=2.0)]
    taken = locks_taken(lambda: ask("c"), 10)
    bench_model(GROQ)

    assert [f"{GROQ} a 0.5", f"{GROQ} b 0.5"] == healthy
    assert (0, True, "own d 1.0") == (taken, is_bound(ask), ask("d"))


def test_a_policy_keeps_no_function_that_it_called(clock: Any) -> None:
    """`policy.call` remembers what it knows of a function as long as the function exists."""
    policy = failover(chain=GROQ)

    def made() -> weakref.ref[Any]:
        def ask(target: Target) -> str:
            return target.key

        for _ in range(3):
            policy.call(ask)
        return weakref.ref(ask)

    gone = made()

    assert gone() is None
    assert [] == list(policy._callers._known)


class Client:
    """A client whose methods take the target."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ask(self, target: Target, prompt: str, *, attempt: Attempt) -> str:
        return f"{self.name} {target.key} {prompt} {attempt.number}"


def test_a_policy_calls_the_method_of_each_object(clock: Any) -> None:
    """Bound methods of one class share what is known of their function."""
    policy = failover(chain=GROQ)

    answers = [policy.call(Client(name).ask, "hi") for name in ("one", "two")]

    assert [f"one {GROQ} hi 1", f"two {GROQ} hi 1"] == answers
    assert 1 == len(policy._callers._known)


def test_using_shares_the_generated_code() -> None:
    """`.using` makes a function of the same code, so it need not generate any."""

    @failover(chain=CHAIN)
    def ask(target: Target, prompt: str) -> str:
        return target.key

    other = ask.using(chain="openai/gpt")

    assert ask.__code__ is other.__code__  # type: ignore[attr-defined]
    assert ("groq/llama", "openai/gpt") == (ask("x"), other("x"))


def test_names_of_the_wrapper_never_meet_those_of_the_function() -> None:
    """Parameters that begin like the wrapper's own names push these aside."""

    def ask(target: Target, _r_state: str, *, _r_fn: int = 2) -> tuple[str, int]:
        return _r_state, _r_fn

    _, prefix, _, _ = generate(injection_of(ask))
    guarded = failover(chain=CHAIN)(ask)

    assert "__r_" == prefix
    assert (("a", 2), ("a", 3)) == (guarded("a"), guarded("a", _r_fn=3))


def test_an_attempt_in_the_middle_leaves_the_signature() -> None:
    """A parameter annotated Attempt is filled in wherever it stands."""

    @failover(chain=CHAIN)
    def ask(
        prompt: str, attempt: Attempt, n: int = 3, *, model: str = ""
    ) -> tuple[str, int, int, str]:
        return prompt, attempt.number, n, model

    assert ["prompt", "n", "model"] == list(inspect.signature(ask).parameters)
    assert ("hi", 1, 3, "llama") == ask("hi")
    assert ("hi", 1, 4, "llama") == ask("hi", n=4)


@on_both_loops
def test_a_bound_function_that_gives_awaitables_is_guarded_until_they_end(
    backend: str, clock: Any
) -> None:
    """Success, failure, retry and failover are those of the awaited answer, also past the first call."""
    outcomes: list[Any] = ["one", "two", down(), "three", TypeError("bug")]

    @failover(chain=[GROQ, OPENAI], backoff=lambda n: 1.0)
    def ask(target: Target) -> Any:
        async def answer() -> str:
            clock.advance(0.5)
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return f"{target.key} {outcome}"

        return answer()

    async def main() -> list[str]:
        answers = [await ask(), await ask(), await ask()]
        with pytest.raises(TypeError):
            await ask()
        return answers

    assert [f"{GROQ} one", f"{GROQ} two", f"{GROQ} three"] == run_async(main, backend=backend)
    assert (4, 1, [1.0]) == (health()[GROQ].total, health()[GROQ].errors, clock.sleeps)


@on_both_loops
def test_a_bound_function_that_gives_awaitables_is_timed(backend: str, clock: Any) -> None:
    """A policy's timeout cuts the awaitable off and leaves time for the next target."""
    hangs = False

    @failover(chain=[GROQ, OPENAI], timeout=8.0)
    def ask(target: Target) -> Any:
        async def answer() -> str:
            if hangs and target.key == GROQ:
                clock.advance(6.0)
                await anyio.sleep_forever()
            return target.key

        return answer()

    async def main() -> list[str]:
        nonlocal hangs
        healthy = [await ask(), await ask()]
        hangs = True
        return [*healthy, await ask()]

    assert [GROQ, GROQ, OPENAI] == run_async(main, backend=backend)
    assert "timeout" == health()[GROQ].last_error.reason  # type: ignore[union-attr]
