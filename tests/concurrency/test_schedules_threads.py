"""The races of threads, each in many orders; and that they are found when a lock is taken out.

What `tests/support/schedules.py` says about the explorers holds here: every race under a lock is
run with switches before every opcode, by our scheduler and by frontrun; what is counted
without a lock, with switches where CPython has them.
"""

from __future__ import annotations

import contextlib
import dis
import gc
import itertools
import random
from collections.abc import Callable, Iterator
from types import CodeType, SimpleNamespace
from typing import Any

import pytest

from resilient_llm import (
    AttemptSucceeded,
    BreakerOpenError,
    ChainExhaustedError,
    Target,
    TargetBenched,
    TargetUnbenched,
    bench_model,
    breaker,
    configure,
    failover,
    health,
    is_benched,
    observe,
    unbench_model,
)
from resilient_llm._api import breaker as breaker_module
from resilient_llm._binding import caller as _caller
from resilient_llm._core.circuit import window
from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.circuit.outbox import CallTag, Fact, Inbox, Outbox
from resilient_llm._core.circuit.permit import Permit, admit
from resilient_llm._core.circuit.state import Block, Lease
from resilient_llm._core.retry_budget import RetryBudgets
from resilient_llm._runtime import dispatcher as _dispatcher
from resilient_llm._runtime import registry as _registry
from resilient_llm._runtime.dispatcher import Dispatcher
from resilient_llm._runtime.listening import Listeners
from resilient_llm._runtime.registry import Registry
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.settings import BreakerSettings, Settings
from resilient_llm._values.verdict import Verdict
from resilient_llm.testing import fake_clock
from tests.support.circuits import DOWN, NoJitter, limited
from tests.support.schedules import (
    EVERY_OPCODE,
    WHERE_CPYTHON_SWITCHES,
    Explored,
    Points,
    Race,
    RLock,
    explore,
    opcodes_of,
    reduce,
    switch_points,
)

# Circuits by themselves, whose events are delivered by whichever thread comes first.


class EventSink:
    """Records what circuits emit, from any thread."""

    def __init__(self) -> None:
        self.emitted: list[str] = []

    def has_listeners(self, kind: str, tag: object = None, /) -> bool:
        return True

    def emit(self, outbox: Outbox, kind: Any, at: float, tag: Any, /, **fields: Any) -> None:
        outbox.add(Fact(kind, at, tag, fields))
        self.deliver(outbox)

    def deliver(self, outbox: Outbox, tag: object = None, /) -> None:
        while outbox.pending:
            try:
                fact = outbox.pending.pop(0)
            except IndexError:
                return
            self.emitted.append(str(fact.kind))


def _state(*, provider: bool = False, **options: Any) -> SimpleNamespace:
    """Return a circuit that has been closed since 0, and room for what threads get."""
    sink = EventSink()

    def make(key: str, above: Circuit | None = None) -> Circuit:
        return Circuit(
            key, BreakerSettings(**options), now=0.0, rng=NoJitter(), sink=sink, provider=above
        )

    above = make("groq") if provider else None
    return SimpleNamespace(
        circuit=make("groq/llama", above), provider=above, sink=sink, got=[], make=make
    )


def _grant(state: Any, now: float = 0.0) -> Any:
    admission = state.circuit.admit(now)
    assert not isinstance(admission, Block)
    return admission


def _half_open(**options: Any) -> SimpleNamespace:
    """Return a circuit whose bench ends at 30, so that 40 is half-open."""
    state = _state(failures=1, **options)
    state.circuit.failure(_grant(state), 0.0, DOWN, 0.0)
    return state


def _with_grants(count: int, **options: Any) -> SimpleNamespace:
    state = _state(**options)
    state.grants = [_grant(state) for _ in range(count)]
    return state


def _ask(state: Any) -> None:
    state.got.append(state.circuit.admit(40.0))


def _fails(number: int, now: float = 1.0, verdict: Verdict = DOWN) -> Callable[[Any], None]:
    def fail(state: Any) -> None:
        state.circuit.failure(state.grants[number], now, verdict, 0.0)

    return fail


def _succeeds(number: int, now: float = 1.0) -> Callable[[Any], None]:
    def succeed(state: Any) -> None:
        state.circuit.success(state.grants[number], now, 0.0)

    return succeed


def _leases(expected: int) -> Callable[[Any], None]:
    def check(state: Any) -> None:
        admitted = [admission for admission in state.got if isinstance(admission, Lease)]
        refused = [admission for admission in state.got if isinstance(admission, Block)]
        assert (expected, len(state.got) - expected) == (len(admitted), len(refused))
        assert set(admitted) == set(state.circuit._state.half.leases)

    return check


def _tripped_once(state: Any) -> None:
    assert 1 == state.sink.emitted.count("TargetBenched")
    assert ("open", 30.0 + 1.0) == (state.circuit.state(1.0), state.circuit.shut_until)
    assert (2, 2, 2) == (*state.circuit.numbers(1.0), state.circuit.consecutive)


def _counted(total: int, errors: int) -> Callable[[Any], None]:
    def check(state: Any) -> None:
        assert (total, errors) == state.circuit.numbers(1.0)
        assert "closed" == state.circuit.state(1.0)

    return check


def _late_reports_change_nothing(state: Any) -> None:
    circuit = state.circuit
    assert 1 == state.sink.emitted.count("TargetBenched")
    assert 0 == state.sink.emitted.count("TargetUnbenched")
    assert ("open", 31.0, 1) == (circuit.state(2.0), circuit.shut_until, circuit.consecutive)
    total, errors = circuit.numbers(2.0)
    assert (1, True) == (
        errors,
        total in (1, 2),
    )  # the success came before the trip, or did not count


def _manual_stands(state: Any) -> None:
    circuit = state.circuit
    shown = circuit.bench_now(40.0)
    assert (True, "ops", 100.0) == (shown.manual, shown.reason, shown.until)
    assert 2 == state.sink.emitted.count("TargetBenched")
    assert ("open", "half_open") == (circuit.state(99.0), circuit.state(100.0))


def _probing(count: int = 1) -> SimpleNamespace:
    state = _half_open()
    state.grants = [_grant(state, 40.0)]
    return state


def _unbench(state: Any) -> None:
    state.got.append(state.circuit.unbench(41.0))


def _trusted_again(state: Any) -> None:
    circuit = state.circuit
    assert ("closed", None) == (circuit.state(41.0), circuit.bench_now(41.0))
    assert circuit.slot is circuit.generation
    # A probe's failure may come between, but is not what is left.
    assert (0, 0) == (circuit.failed_probes, circuit.consecutive)


def _paused_longest(state: Any) -> None:
    assert 61.0 == state.circuit.shut_until
    assert ("open", "closed") == (state.circuit.state(60.9), state.circuit.state(61.0))


def _roll(number: int) -> Callable[[Any], None]:
    """Count at the turn of buckets: each step begins a bucket or lets one leave the window."""

    def work(state: Any) -> None:
        for at in (1.0, 5.0, 9.5):
            admission = state.circuit.generation
            state.circuit.success(admission, at, 0.0)
            state.circuit.failure(admission, at, limited(0.0), 0.0)

    return work


def _rolled(state: Any) -> None:
    circuit, generation = state.circuit, state.circuit.generation
    sums = (generation._successes, generation._errors)
    assert sums == (
        sum(b.successes for b in generation._buckets),
        sum(b.errors for b in generation._buckets),
    )
    assert (12, 6) == circuit.numbers(9.5)
    assert (0, 0) == circuit.numbers(1_000.0)


def _answer_through_provider(state: Any) -> None:
    permit = admit(state.circuit, 2.0)
    state.got.append(permit)
    if isinstance(permit, Permit):
        permit.succeeded(2.0, 0.0)


def _provider_fails(state: Any) -> None:
    state.provider.failure(state.provider_admission, 1.0, DOWN, 0.0)


def _with_provider() -> SimpleNamespace:
    state = _state(provider=True, failures=1)
    state.provider_admission = state.provider.admit(0.0)
    return state


def _new_target(state: Any) -> None:
    state.got.append(state.make("groq/new", state.provider))


def _bench_and_back(state: Any) -> None:
    state.circuit.bench(1.0, 100.0, "ops")
    state.circuit.unbench(1.0)


def _shut_with_provider(state: Any) -> None:
    assert "open" == state.provider.state(1.0)
    for target in state.provider._targets_locked():
        assert None is target.slot
        assert state.provider.shut_until == target.shut_until


def _given_back(state: Any) -> None:
    state.circuit.share(())  # takes back what was given back
    half = state.circuit._state.half
    assert len(half.leases) <= 1
    assert [] == [lease for lease in half.leases if lease not in state.got]


def _give_back(state: Any) -> None:
    state.circuit.abandon(state.grants[0])
    state.circuit.abandon(state.grants[0])


CIRCUIT_RACES = [
    Race("one probe is admitted", _half_open, [_ask] * 3, _leases(1)),
    Race("two probes are admitted", lambda: _half_open(probes=2), [_ask] * 3, _leases(2)),
    Race(
        "a failing burst trips once",
        lambda: _with_grants(3, failures=2),
        [_fails(0), _fails(1), _fails(2)],
        _tripped_once,
    ),
    Race(
        "failures are counted",
        lambda: _with_grants(3),
        [_fails(0), _fails(1), _succeeds(2)],
        _counted(3, 2),
    ),
    Race(
        "a late success changes nothing",
        lambda: _with_grants(2, failures=1),
        [_fails(0), _succeeds(1)],
        _late_reports_change_nothing,
    ),
    Race(
        "a bench by hand stands beside a trip",
        lambda: _with_grants(1, failures=1),
        [_fails(0), lambda state: state.circuit.bench(1.0, 100.0, "ops")],
        _manual_stands,
    ),
    Race("unbenched while a probe fails", _probing, [_unbench, _fails(0, 40.5)], _trusted_again),
    Race(
        "unbenched while a probe succeeds", _probing, [_unbench, _succeeds(0, 40.5)], _trusted_again
    ),
    Race(
        "a pause is never shortened",
        lambda: _with_grants(3),
        [_fails(number, 1.0, limited(wait)) for number, wait in enumerate((5.0, 60.0, 2.0))],
        _paused_longest,
    ),
    Race(
        "the window rolls",
        lambda: _state(window=30.0, error_rate=1.0),
        [_roll(0), _roll(1)],
        _rolled,
    ),
    Race(
        "a provider trips while its target is benched and unbenched",
        _with_provider,
        [_provider_fails, _bench_and_back],
        _shut_with_provider,
    ),
    Race(
        "a provider trips while a target is new",
        _with_provider,
        [_provider_fails, _new_target],
        _shut_with_provider,
    ),
    Race(
        "a provider trips while a target is called",
        _with_provider,
        [_provider_fails, _answer_through_provider],
        _shut_with_provider,
    ),
    Race("a lease is given back while others ask", _probing, [_give_back, _ask, _ask], _given_back),
]

# The registry.

_LIMIT = 4


def _registry_state() -> SimpleNamespace:
    ticks = itertools.count(1.0)
    dispatcher = Dispatcher(lambda moment: moment)  # type: ignore[arg-type, return-value]  # nobody listens
    registry = Registry(
        Settings(breakers={"*": {"failures": 1}}), lambda: next(ticks), random.Random(0), dispatcher
    )
    return SimpleNamespace(registry=registry, got=[], clock=lambda: next(ticks))


def _get(*keys: str) -> Callable[[Any], None]:
    def get(state: Any) -> None:
        state.got.extend(state.registry.circuit(key) for key in keys)

    return get


def _same_for_all(state: Any) -> None:
    by_key: dict[str, set[int]] = {}
    for circuit in state.got:
        by_key.setdefault(circuit.key, set()).add(id(circuit))
    assert {1} == {len(each) for each in by_key.values()}
    listed = state.registry.circuits()
    assert all(circuit in listed for circuit in state.got)
    provider = state.registry.circuit("groq")
    targets = {circuit for circuit in state.got if circuit.key.startswith("groq/")}
    assert all(circuit.provider is provider for circuit in targets)
    assert targets == set(provider._targets_locked())


def _changes_settings(state: Any) -> None:
    state.registry.configure(Settings(breakers={"*": {"failures": 7}}))
    state.registry.settle()


def _names_option(state: Any) -> None:
    state.got.append(state.registry.circuit("groq", {"cooldown": 5.0}))


def _both_settings(state: Any) -> None:
    settings = state.registry.circuit("groq").settings
    assert (7, 5.0) == (settings.failures, settings.cooldown)


def _names(**options: Any) -> Callable[[Any], None]:
    def name(state: Any) -> None:
        state.registry.circuit("groq", options)

    return name


def _both_options(state: Any) -> None:
    settings = state.registry.circuit("groq").settings
    assert (2, 0.25) == (settings.failures, settings.error_rate)


REGISTRY_RACES = [
    Race(
        "two guards name options of one key",
        _registry_state,
        [_names(failures=2), _names(error_rate=0.25)],
        _both_options,
    ),
    Race("one new key for two", _registry_state, [_get("groq"), _get("groq")], _same_for_all),
    Race(
        "two new targets of one new provider",
        _registry_state,
        [_get("groq/a"), _get("groq/b"), _get("groq/a")],
        _same_for_all,
    ),
    Race(
        "settings change while a guard names an option",
        _registry_state,
        [_changes_settings, _names_option],
        _both_settings,
    ),
]

# Retry budgets.


def _budget_state(taken: int = 0) -> SimpleNamespace:
    budgets = RetryBudgets()
    for _ in range(taken):
        budgets.take("groq", 0.0, 0.2, 0)
    return SimpleNamespace(budgets=budgets, got=[])


def _take(state: Any) -> None:
    state.got.append(state.budgets.take("groq", 1.0, 0.2, 0))


def _one_taken(state: Any) -> None:
    assert 1 == state.got.count(True)


def _first_fails(state: Any) -> None:
    state.got.append(None)
    state.budgets.first_attempt_failed("groq", 1.0)


def _first_counted(state: Any) -> None:
    assert len(state.got) == sum(count for _, count in state.budgets._counts["groq"].first)


BUDGET_RACES = [
    Race(
        "the last extra attempt is taken once",
        lambda: _budget_state(taken=9),
        [_take] * 3,
        _one_taken,
    ),
    Race("first attempts are counted", _budget_state, [_first_fails] * 3, _first_counted),
]

# The whole library.


class Ticking:
    """A clock of which no two readings are the same; waiting takes no time."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1_000_000)

    def monotonic(self) -> float:
        return next(self._ticks) / 1e6

    wall = monotonic

    def sleep(self, seconds: float) -> None:
        pass

    def is_cut_off(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def ticking(_fresh_state: None) -> Iterator[None]:
    """Give the library a clock that no schedule depends on."""
    before = runtime.time
    runtime.use_clock(Ticking())  # type: ignore[arg-type]  # nothing here is asynchronous
    yield
    runtime.use_clock(before)


class DownError(ConnectionResetError):
    """What a provider that is down raises."""


WARM = 3
"""Calls after which a healthy circuit counts without its lock."""


# One for all states: the opcodes of a function that is new in each run would not be seen.
@failover(chain="groq/llama", attempts=1)
def _ask_groq(target: Target, fails: bool = False, emit: Callable[[], object] | None = None) -> str:
    if emit is not None:
        emit()
    if fails:
        raise DownError
    return target.key


def _library(**options: Any) -> SimpleNamespace:
    """Return a fresh state of the library with a decorated function that is bound and warm."""
    runtime.exchange()
    configure(logging=False, breakers={"*": options})
    state = SimpleNamespace(
        ask=_ask_groq, guard=breaker("groq/llama"), registry=runtime.registry, got=[]
    )
    for _ in range(WARM):
        _ask_groq()
    return state


def _calls(*fails: bool) -> Callable[[Any], None]:
    def call(state: Any) -> None:
        for each in fails:
            try:
                state.ask(each)
            except ChainExhaustedError:
                pass

    return call


def _enters(*fails: bool) -> Callable[[Any], None]:
    def enter(state: Any) -> None:
        for each in fails:
            _enter(state.guard, each)

    return enter


def _enters_fresh(*fails: bool) -> Callable[[Any], None]:
    def enter(state: Any) -> None:
        for each in fails:
            _enter(breaker("groq/llama"), each)

    return enter


def _enter(guard: Any, fails: bool = False) -> bool:
    """Go through a guard, in which others may be let in; return whether it let us."""
    try:
        with guard:
            assert guard.name  # a function of the package, so that others may come in here
            if fails:
                raise DownError
    except BreakerOpenError:
        return False
    except DownError:
        pass
    return True


def _health_says(total: int, errors: int) -> Callable[[Any], None]:
    def check(state: Any) -> None:
        now = health()
        assert (total, errors) == (now["groq/llama"].total, now["groq/llama"].errors)
        assert (total, errors) == (now["groq"].total, now["groq"].errors)

    return check


def _guard_is_free(check: Callable[[Any], None]) -> Callable[[Any], None]:
    def and_free(state: Any) -> None:
        check(state)
        assert state.guard._generation is breaker_module._EMPTY
        more = getattr(state.guard, "_more", None)
        assert more is None or [] == more.entries

    return and_free


def _exchanges(state: Any) -> None:
    runtime.exchange()
    configure(logging=False)


def _next_is_counted_here(state: Any) -> None:
    """A call that begins after an exchange belongs to the new state, whatever ran meanwhile."""
    old = state.registry.find("groq/llama")
    before = (*old.numbers(runtime.clock()), _here("groq/llama"))
    _calls(False)(state)
    _enter(state.guard)
    after = (*old.numbers(runtime.clock()), _here("groq/llama"))
    assert (*before[:2], before[2] + 2) == after


def _here(key: str) -> int:
    circuit = runtime.registry.find(key)
    return 0 if circuit is None else circuit.numbers(runtime.clock())[0]


def _failure_stays_with_its_state(state: Any) -> None:
    """What was admitted by one state is not counted by another; and nothing is counted twice."""
    old, new = state.registry.find("groq/llama"), runtime.registry.find("groq/llama")
    errors = [0 if each is None else each.numbers(runtime.clock())[1] for each in (old, new)]
    assert sum(errors) <= 1
    if state.got == [state.registry]:  # it ran before the exchange, so it was admitted before
        assert 0 == errors[1]
    _next_is_counted_here(state)


def _fails_and_notes_where(state: Any) -> None:
    with pytest.raises(ChainExhaustedError):
        state.ask(True, lambda: state.got.append(runtime.registry))


def _makes_guard(state: Any) -> None:
    state.guard = breaker("mistral")


def _new_guard_counts_here(state: Any) -> None:
    _enter(state.guard)
    assert 1 == _here("mistral")


def _configures(state: Any) -> None:
    configure(breakers={"*": {"failures": 1}})


def _trips_at_one(state: Any) -> None:
    """Whatever ran while the settings changed, the next failure is held against the new ones."""
    _calls(False, True)(state)
    assert is_benched("groq/llama")


def _few_keys() -> SimpleNamespace:
    """Return a state in which one key more than fit makes the registry let idle ones go."""
    state = _library(failures=1)
    state.guard = None
    runtime.registry._next_sweep = len(runtime.registry.kept)
    return state


def _makes_keys(state: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registry, "MOST_KEYS", 1)
        breaker("mistral")


def _still_benched(state: Any) -> None:
    assert is_benched("groq/llama")


def _few_keys_and_none_bound() -> SimpleNamespace:
    state = _few_keys()
    breaker("cohere")
    runtime.registry._next_sweep = len(runtime.registry.kept)
    return state


def _fails_in_a_fresh_guard(state: Any) -> None:
    _enter(breaker("cohere"), True)


def _cohere_is_benched(state: Any) -> None:
    assert is_benched("cohere")


def _listens(state: Any) -> None:
    received: list[Any] = []
    state.got.append(received)
    observe(received.append)


def _both_are_told(state: Any) -> None:
    bench_model("groq")
    assert [1, 1] == [
        sum(type(event).__name__ == "TargetBenched" for event in received) for received in state.got
    ]


def _listening() -> SimpleNamespace:
    state = _library(failures=100)
    observe(
        lambda event: state.got.append((event.target, type(event).__name__)),
        TargetBenched,
        TargetUnbenched,
    )
    return state


def _benches_and_back(state: Any) -> None:
    bench_model("groq/llama")
    unbench_model("groq/llama")


def _told_in_order(state: Any) -> None:
    names = [name for _, name in state.got]
    assert "TargetBenched" == names[0]
    # Both may bench before either ends it, and who finds no bench ends none.
    assert 2 == names.count("TargetBenched")
    assert names.count("TargetUnbenched") in (1, 2)
    assert "TargetUnbenched" == names[-1]
    assert not runtime.registry.circuit("groq/llama").outbox


def _half_open_library() -> SimpleNamespace:
    state = _library(failures=1, cooldown=1e-9)
    _enter(state.guard, True)
    state.inside = state.most = 0
    return state


def _probes(state: Any) -> None:
    guard = breaker("groq/llama")
    try:
        with guard:
            state.inside += 1
            if guard.state == "half_open":
                state.most = max(state.most, state.inside)
            state.inside -= 1
    except BreakerOpenError:
        pass


def _one_at_a_time(state: Any) -> None:
    assert 1 == state.most
    assert "closed" == breaker("groq/llama").state


@failover(chain="groq/llama")
def _ask_by_defaults(target: Target, answer: Any) -> Any:
    """Return the answer, or take it away from the answers still to give and raise."""
    if isinstance(answer, list):
        answer.pop()
        raise DownError
    return answer


def _unbound() -> SimpleNamespace:
    runtime.exchange()
    configure(logging=False, breakers={"*": {"failures": 100}})
    return SimpleNamespace()


def _bound_and_quiet() -> SimpleNamespace:
    state = _unbound()
    for _ in range(WARM):
        _ask_by_defaults("text")
    return state


def _answers(state: Any) -> None:
    with contextlib.suppress(ChainExhaustedError):  # where it begins after reject was configured
        _ask_by_defaults(1)


def _configures_options(state: Any) -> None:
    configure(attempts=2, backoff=lambda _: 0.0, on_unknown="raise")
    _ask_by_defaults("text")


def _two_attempts(state: Any) -> None:
    left = [1, 2, 3, 4]
    with pytest.raises(ChainExhaustedError):
        _ask_by_defaults(left)
    assert [1, 2] == left


def _refuses_numbers(state: Any) -> None:
    configure(reject=lambda answer: isinstance(answer, int))
    _ask_by_defaults("text")


def _numbers_are_refused(state: Any) -> None:
    with pytest.raises(ChainExhaustedError):
        _ask_by_defaults(1)


def _listens_to_successes(state: Any) -> None:
    state.got = []
    observe(state.got.append, AttemptSucceeded)
    _ask_by_defaults("text")


def _successes_are_told(state: Any) -> None:
    state.got.clear()
    _ask_by_defaults(1)
    assert ["AttemptSucceeded"] == [type(event).__name__ for event in state.got]


LIBRARY_RACES = [
    Race(
        "defaults change while a function is bound",
        _unbound,
        [_answers, _configures_options],
        _two_attempts,
    ),
    Race(
        "reject is configured while a function is bound",
        _unbound,
        [_answers, _refuses_numbers],
        _numbers_are_refused,
    ),
    Race(
        "reject is configured while an answer is seen",
        _bound_and_quiet,
        [_answers, _refuses_numbers],
        _numbers_are_refused,
    ),
    Race(
        "successes are observed while an answer is seen",
        _bound_and_quiet,
        [_answers, _listens_to_successes],
        _successes_are_told,
    ),
    Race(
        "healthy calls",
        lambda: _library(failures=9),
        [_calls(False, False), _calls(False)],
        _health_says(WARM + 3, 0),
    ),
    Race(
        "healthy calls beside failing ones",
        lambda: _library(failures=9),
        [_calls(False, True), _calls(True, False)],
        _health_says(WARM + 4, 2),
    ),
    Race(
        "guards made anew",
        lambda: _library(failures=9),
        [_enters_fresh(False, True), _enters_fresh(False, False)],
        _health_says(WARM + 4, 1),
    ),
    Race(
        "the state is exchanged during a call",
        _library,
        [_calls(False, False), _exchanges],
        _next_is_counted_here,
    ),
    Race(
        "the state is exchanged during a failing call",
        _library,
        [_fails_and_notes_where, _exchanges],
        _failure_stays_with_its_state,
    ),
    Race(
        "the state is exchanged during a guard's block",
        _library,
        [_enters(False), _exchanges],
        _next_is_counted_here,
    ),
    Race(
        "settings change during a call", _library, [_calls(False, True), _configures], _trips_at_one
    ),
    Race(
        "a bound circuit is let go while it trips",
        _few_keys,
        [_calls(True), _makes_keys],
        _still_benched,
    ),
    Race("two begin to listen", _library, [_listens, _listens], _both_are_told),
    Race("two tell", _listening, [_benches_and_back, _benches_and_back], _told_in_order),
    Race("guards of a half-open key", _half_open_library, [_probes, _probes], _one_at_a_time),
    Race(
        "a guard is made while the state is exchanged",
        _library,
        [_makes_guard, _exchanges],
        _new_guard_counts_here,
    ),
    Race(
        "an idle circuit is let go while it trips",
        _few_keys_and_none_bound,
        [_fails_in_a_fresh_guard, _makes_keys],
        _cohere_is_benched,
    ),
]
SHARED_GUARD = Race(
    "one guard for two",
    lambda: _library(failures=9),
    [_enters(False, False), _enters(False, False)],
    _guard_is_free(_health_says(WARM + 4, 0)),
)
SHARED_GUARD_FAILING = Race(
    "one guard for two, failing",
    lambda: _library(failures=9),
    [_enters(False, True), _enters(True, False)],
    _guard_is_free(_health_says(WARM + 4, 2)),
)
NEW_GUARD = Race(
    "one new guard for two",
    lambda: _library(failures=9),
    [_enters(False), _enters(False)],
    _guard_is_free(_health_says(WARM + 2, 0)),
)


def _entered_before() -> SimpleNamespace:
    state = _library(failures=9)
    state.guard._enter_slowly()  # as where a circuit is not closed: the entry is noted with its owner
    return state


def _leaves(state: Any) -> None:
    state.guard.__exit__(None, None, None)


LEFT_ELSEWHERE = Race(
    "a guard left by one who did not enter it, while another comes and goes",
    _entered_before,
    [_enters(False), _leaves],
    _guard_is_free(_health_says(WARM + 2, 0)),
)

# Events: one thread at a time delivers those of a key, and none is left behind.


def _listened_to() -> SimpleNamespace:
    dispatcher, got = Dispatcher(lambda moment: moment), []  # type: ignore[arg-type, return-value, var-annotated]
    dispatcher.listeners.subscribe(lambda event: got.append((type(event).__name__, event.at)), ())
    one = Circuit("groq", BreakerSettings(), now=0.0, rng=NoJitter(), sink=dispatcher)
    return SimpleNamespace(circuit=one, got=got)


def _benches_at(now: float) -> Callable[[Any], None]:
    def bench(state: Any) -> None:
        state.circuit.bench(now, now + 100.0, "ops")

    return bench


def _none_is_left_behind(state: Any) -> None:
    benched = [at for name, at in state.got if name == "TargetBenched"]
    assert [1.0, 2.0] == sorted(benched)
    assert not state.circuit.outbox


TELLING = Race(
    "two tell of one key", _listened_to, [_benches_at(1.0), _benches_at(2.0)], _none_is_left_behind
)


def _with_two_observers(slow: Callable[[Any, Any], None]) -> SimpleNamespace:
    """Return a key with an observer that does something slow, and one that does not."""
    dispatcher = Dispatcher(lambda moment: moment)  # type: ignore[arg-type, return-value]  # a number will do
    state = SimpleNamespace(slow=[], quick=[], gate=RLock())

    def be_slow(event: Any) -> None:
        slow(state, event)
        state.slow.append(event.at)

    dispatcher.listeners.subscribe(be_slow, (TargetBenched,))
    dispatcher.listeners.subscribe(lambda event: state.quick.append(event.at), (TargetBenched,))
    state.circuit = Circuit("groq", BreakerSettings(), now=0.0, rng=NoJitter(), sink=dispatcher)
    return state


def _waits_for_the_gate(state: Any, event: Any) -> None:
    with state.gate:
        pass


def _benches_behind_the_gate(state: Any) -> None:
    with state.gate:
        _benches_at(2.0)(state)


def _benches_once_more(state: Any, event: Any) -> None:
    if event.at < 10.0:
        state.circuit.bench(event.at + 10.0, 100.0, "an observer")


def _both_got(*moments: float) -> Callable[[Any], None]:
    def check(state: Any) -> None:
        assert list(moments) == sorted(state.quick)
        assert list(moments) == sorted(state.slow)
        for moment in moments:
            if moment + 10.0 in moments:
                assert state.quick.index(moment) < state.quick.index(moment + 10.0)
                assert state.slow.index(moment) < state.slow.index(moment + 10.0)
        assert not state.circuit.outbox

    return check


BUSY_OBSERVERS = [
    TELLING,
    Race(
        "an observer that waits for a thread that emits",
        lambda: _with_two_observers(_waits_for_the_gate),
        [_benches_at(1.0), _benches_behind_the_gate],
        _both_got(1.0, 2.0),
    ),
    Race(
        "an observer that emits",
        lambda: _with_two_observers(_benches_once_more),
        [_benches_at(1.0), _benches_at(2.0)],
        _both_got(1.0, 2.0, 11.0, 12.0),
    ),
]


def _with_slow_observer() -> SimpleNamespace:
    """Return a key of which an observer waits for a gate, and notes how many are in it at once."""
    dispatcher = Dispatcher(lambda moment: moment)  # type: ignore[arg-type, return-value]  # a number will do
    state = SimpleNamespace(
        dispatcher=dispatcher, outbox=Outbox("groq"), got=[], inside=0, most=0, gate=RLock()
    )

    def slow(event: Any) -> None:
        state.inside += 1
        state.most = max(state.most, state.inside)
        with state.gate:
            state.got.append(event.at)
        state.inside -= 1

    state.slow = slow
    # Kept by the state: an address that is used again would be found as an observer's inbox.
    state.others = [lambda event, n=n: n for n in range(_dispatcher.MOST_IDLE)]
    return state


def _succeed(state: Any, at: float, *observers: Callable[[Any], object]) -> None:
    tag = CallTag("call", observers)
    state.dispatcher.emit(state.outbox, AttemptSucceeded.__name__, at, tag, number=1, seconds=0.0)


def _with_idle_inboxes() -> SimpleNamespace:
    """Let the key keep as many idle inboxes as it may; the next to go is the slow observer's."""
    state = _with_slow_observer()
    for observer in (state.slow, *state.others[1:]):
        _succeed(state, 0.0, observer)
    return state


def _removes_the_idle_inbox_and_succeeds(state: Any) -> None:
    _succeed(state, 2.0, state.others[0])
    _succeed(state, 3.0, state.slow)


def _with_its_number_in_use() -> SimpleNamespace:
    """Let the slow observer, of the process, have the number of one that is gone."""
    state = _with_slow_observer()
    state.dispatcher.listeners.subscribe(state.slow, ())
    number = id(state.dispatcher.listeners.all[0])
    state.outbox.inboxes = {number: Inbox(_dispatcher.NOBODY, is_lasting=False)}
    state.got.append(0.0)
    return state


def _behind_the_gate(*observers: str) -> Callable[[Any], None]:
    def succeed(state: Any) -> None:
        with state.gate:
            _succeed(state, 1.0, *(getattr(state, name) for name in observers))

    return succeed


def _succeeds_for_two(state: Any) -> None:
    _succeed(state, 3.0, state.others[0])


def _one_at_a_time_got_all(state: Any) -> None:
    assert [0.0, 1.0, 3.0] == sorted(state.got)
    assert 1 == state.most
    assert not state.outbox


REPLACED_INBOXES = [
    Race(
        "an idle inbox is removed while its observer is called",
        _with_idle_inboxes,
        [_behind_the_gate("slow"), _removes_the_idle_inbox_and_succeeds],
        _one_at_a_time_got_all,
    ),
    Race(
        "an idle inbox is found by an observer of the process",
        _with_its_number_in_use,
        [_behind_the_gate(), _succeeds_for_two],
        _one_at_a_time_got_all,
    ),
]

LOCKED_RACES = CIRCUIT_RACES + REGISTRY_RACES + BUDGET_RACES


def over(races: list[Race]) -> pytest.MarkDecorator:
    """Parametrise a test over races, as its argument ``race``."""
    return pytest.mark.parametrize("race", races, ids=str)


def _holds(explored: Explored) -> None:
    assert None is explored.violation, explored.violation


@over(LOCKED_RACES)
def test_what_a_lock_guards_holds_wherever_threads_switch(race: Race) -> None:
    """With switches before every opcode, whatever the order."""
    _holds(explore(race, EVERY_OPCODE))


SMALL = {
    "one probe is admitted",
    "a late success changes nothing",
    "unbenched while a probe fails",
    "unbenched while a probe succeeds",
    "a lease is given back while others ask",
    "the last extra attempt is taken once",
    "first attempts are counted",
}
"""Races of which two threads can be explored to the end."""


@over([race for race in LOCKED_RACES if race.name in SMALL])
def test_what_a_lock_guards_holds_in_every_order_that_makes_a_difference(race: Race) -> None:
    """The same for two threads, explored to the end by a tool that knows what touches what."""
    explored = reduce(race)

    _holds(explored)
    assert explored.is_complete


GUARD_RACES = [SHARED_GUARD, SHARED_GUARD_FAILING, LEFT_ELSEWHERE]


@over(LIBRARY_RACES + GUARD_RACES)
def test_what_is_counted_without_a_lock_holds_wherever_cpython_switches(race: Race) -> None:
    """The library as it is, with switches where a global lock allows them."""
    _holds(explore(race, WHERE_CPYTHON_SWITCHES, is_lock_free=True))


@pytest.mark.slow
@over(LIBRARY_RACES)
def test_the_library_without_a_global_lock_holds_wherever_threads_switch(race: Race) -> None:
    """Its fallback for interpreters without one, with switches before every opcode."""
    _holds(explore(race, EVERY_OPCODE, is_lock_free=False))


@pytest.mark.slow
@over([NEW_GUARD, *GUARD_RACES])
def test_one_guard_for_two_holds_without_a_global_lock(race: Race) -> None:
    """A guard kept in a variable may be entered by two threads also where they switch at every opcode.

    What it notes of its entries is under no lock, not even in the fallback. It holds by its order:
    an entry is in the list before the guard is noted as taken, and out of it before the guard is
    noted as free.
    """
    _holds(explore(race, opcodes_of(breaker_module), is_lock_free=False, runs=600))


@over(BUSY_OBSERVERS)
def test_every_event_is_emitted_whoever_delivers_it(race: Race) -> None:
    """No thread waits for an observer, and what it leaves there is delivered, once and in order."""
    _holds(explore(race, opcodes_of(_dispatcher), runs=600))


@over(REPLACED_INBOXES)
def test_no_two_threads_are_in_one_observer_though_idle_inboxes_come_and_go(race: Race) -> None:
    """A thread that has looked an inbox up does not use it beside another one of that observer."""
    _holds(explore(race, opcodes_of(_dispatcher), runs=1_200))


# The same explorations, with something taken out: they must see it.


def _named(name: str) -> Race:
    return next(race for race in LOCKED_RACES + LIBRARY_RACES if race.name == name)


WITHOUT_A_LOCK = pytest.mark.parametrize(
    ("lock", "race"),
    [
        pytest.param(lock, _named(name), id=f"{lock}: {name}")
        for lock, name in [
            ("circuit", "one probe is admitted"),
            ("circuit", "a failing burst trips once"),
            ("retry budget", "the last extra attempt is taken once"),
        ]
    ],
)


@WITHOUT_A_LOCK
@pytest.mark.parametrize(
    "points", [EVERY_OPCODE, WHERE_CPYTHON_SWITCHES], ids=lambda points: points.__name__
)
def test_a_lock_that_is_taken_out_is_missed(lock: str, race: Race, points: Points) -> None:
    """Without the lock, the exploration that held with it finds a violation; also where CPython switches."""
    explored = explore(race, points, without=lock)

    assert explored.violation is not None


def test_the_lock_of_the_registry_is_missed_without_a_global_lock() -> None:
    """With a global lock its changes are single steps; without it, an option would be lost."""
    explored = explore(
        _named("two guards name options of one key"), EVERY_OPCODE, without="registry", runs=2_000
    )

    assert explored.violation is not None


@pytest.mark.parametrize(
    ("lock", "name"),
    [
        ("circuit", "one probe is admitted"),
        ("retry budget", "the last extra attempt is taken once"),
    ],
)
def test_a_lock_that_is_taken_out_is_missed_in_the_orders_that_make_a_difference(
    lock: str, name: str
) -> None:
    """The same, explored by a tool that knows what touches what."""
    explored = reduce(_named(name), without=lock)

    assert explored.violation is not None


def test_a_second_look_at_who_listens_that_is_taken_out_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those who begin to listen at once would lose one another."""
    publish = Listeners._publish

    def publish_once(listeners: Listeners) -> None:
        fixed = Listeners()
        fixed._present, fixed.by_kind = dict(listeners._present), listeners.by_kind
        publish(fixed)

    monkeypatch.setattr(Listeners, "_publish", publish_once)

    explored = explore(
        _named("two begin to listen"), WHERE_CPYTHON_SWITCHES, is_lock_free=True, runs=900
    )

    assert explored.violation is not None


@pytest.mark.parametrize(
    "call", [_calls(False), _enters_fresh(False)], ids=["a decorated function", "a guard"]
)
def test_counting_without_a_lock_would_lose_counts_if_threads_switched_anywhere(
    call: Callable[[Any], None],
) -> None:
    """Why the one switch is there: an interpreter without a global lock must not count that way."""
    race = Race(
        "healthy calls", lambda: _library(failures=9), [call, call], _health_says(WARM + 2, 0)
    )

    explored = explore(race, EVERY_OPCODE, is_lock_free=True, runs=600)

    assert explored.violation is not None


def test_a_deadlock_is_found() -> None:
    """Two threads that take two locks in opposite order are seen to wait for one another."""

    def fresh() -> SimpleNamespace:
        return SimpleNamespace(one=_state().circuit, other=_state().circuit)

    def nested(first: Circuit, second: Circuit) -> None:
        with first._lock:
            second.status(0.0)

    race = Race(
        "locks in opposite order",
        fresh,
        [
            lambda state: nested(state.one, state.other),
            lambda state: nested(state.other, state.one),
        ],
        lambda state: None,
    )
    explored = explore(race, EVERY_OPCODE)

    assert explored.violation is not None
    assert "deadlock" in explored.violation


def test_a_race_takes_the_same_steps_each_time() -> None:
    """What a plan did once it does again, if neither time passes nor garbage is collected meanwhile."""
    gc.collect()
    gc.disable()
    try:
        with fake_clock():
            explored = [
                explore(_named("guards made anew"), WHERE_CPYTHON_SWITCHES, is_lock_free=True)
                for _ in range(2)
            ]
    finally:
        gc.enable()

    assert explored[0] == explored[1]


# What CPython compiles the counting to.


def _stores_of(code: CodeType, name: str) -> list[tuple[int, int]]:
    """Return ``(offset of the load, offset of the store)`` of every ``x.name += …``."""
    found: list[tuple[int, int]] = []
    loaded: int | None = None
    for each in dis.get_instructions(code):
        if each.opname == "LOAD_ATTR" and each.argval == name:
            loaded = each.offset
        elif each.opname == "STORE_ATTR" and each.argval == name and loaded is not None:
            found.append((loaded, each.offset))
            loaded = None
    return found


def _interrupted(code: CodeType, begin: int, end: int) -> list[int]:
    return [point for point in sorted(switch_points(code)) if begin < point <= end]


def _wrapper_code(*, is_async: bool) -> CodeType:
    if is_async:

        @failover(chain="groq/llama")
        async def ask(target: Target) -> str:
            return target.key
    else:

        @failover(chain="groq/llama")
        def ask(target: Target) -> str:  # type: ignore[misc, unused-ignore]  # one of the two
            return target.key

    code: CodeType = ask.__code__  # type: ignore[attr-defined, unused-ignore]  # a function at run time
    return code


HOT = [
    ("the wrapper", _wrapper_code(is_async=False), "n"),
    ("the async wrapper", _wrapper_code(is_async=True), "n"),
    ("a guard", breaker_module.Breaker.__exit__.__code__, "n"),
    ("the caller", _caller.Caller._report.__code__, "n"),
    ("the caller's first attempt", _caller.Caller.call.__code__, "n"),
    ("a measured success", window.Generation.answered.__code__, "n"),
    ("a success's duration", window.Generation.answered.__code__, "seconds"),
    ("successes with a duration", window.Generation.answered.__code__, "timed"),
]


@pytest.mark.parametrize(
    ("code", "name"), [pytest.param(code, name, id=where) for where, code, name in HOT]
)
def test_no_switch_lies_between_the_load_and_the_store_of_a_count(
    code: CodeType, name: str
) -> None:
    """On the Python that runs this, what is counted without a lock is counted in one go."""
    counted = _stores_of(code, name)

    assert counted
    assert [] == [point for load, store in counted for point in _interrupted(code, load, store)]


def test_no_switch_lies_between_a_guards_look_and_what_it_notes() -> None:
    """A guard for several threads is entered in one go, from finding it free to being taken."""
    code = breaker_module.Breaker.__dict__["__enter__"].__code__
    offsets = {(each.opname, each.argval): each.offset for each in dis.get_instructions(code)}

    assert [] == _interrupted(code, offsets["LOAD_ATTR", "slot"], offsets["STORE_ATTR", "_at"])


def test_no_switch_lies_between_a_guards_last_look_and_its_being_free() -> None:
    """A guard for several threads is left in one go, from finding its entry to being free."""
    code = breaker_module.Breaker.__exit__.__code__
    offsets: dict[tuple[str, Any], list[int]] = {}
    for each in dis.get_instructions(code):
        offsets.setdefault((each.opname, each.argval), []).append(each.offset)
    (looked,) = offsets["LOAD_ATTR", "_generation"]
    freed = offsets["STORE_ATTR", "_generation"]

    assert 2 == len(freed)  # of blocks that follow each other closely, and of those that do not
    assert [] == _interrupted(code, looked, max(freed))


def test_a_call_between_load_and_store_is_seen() -> None:
    """What is looked for above would be found: a count that is made by a function, or in a loop."""

    def by_call(generation: Any) -> None:
        generation.n += abs(1)

    def by_loop(generation: Any) -> None:
        generation.n = generation.n + sum(each for each in (1,))

    assert all(
        _interrupted(function.__code__, load, store)
        for function in (by_call, by_loop)
        for load, store in _stores_of(function.__code__, "n")
    )
