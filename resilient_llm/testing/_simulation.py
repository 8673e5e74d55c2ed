"""Simulations: `simulate` runs a policy against given weather, in virtual time.

Owns the state that the thread of a simulation uses meanwhile. The policy is the real one, in the
real asynchronous driver; only time, randomness and the providers are simulated. `run` does the
same for any asynchronous function, which benchmarks use for other policies.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from resilient_llm._api.failover import Failover, failover
from resilient_llm._runtime.runtime import Runtime, runtime
from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError, ResilientLLMError
from resilient_llm._values.target import Target
from resilient_llm.testing._http_errors import FakeHTTPError
from resilient_llm.testing._report import Report, SentAttempt, SimulatedCall, report_of
from resilient_llm.testing._thread_state import in_this_thread, is_divided
from resilient_llm.testing._virtual_time import VirtualClock, VirtualLoop
from resilient_llm.testing._weather import Weather, outcome, weather_of

_running = threading.Lock()
"""Held while a simulation runs: one thread at a time has a state of its own."""


def _after_fork() -> None:
    """Let a forked child simulate, unless it is in the midst of a simulation itself."""
    global _running  # noqa: PLW0603  # the old one stays locked in the child
    if not is_divided():
        _running = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_NOTICES_SIGNALS: Final = 0.2
"""Seconds between two looks of a caller that waits for a simulation."""
_NOT_SERVED: Final = (ResilientLLMError, FakeHTTPError, TimeoutError)
"""What a call raises that is not served; but not if a function of the user's own raised it."""


class _OwnError(Exception):
    """Carries such an error of a function of the user's own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Send(Protocol):
    """Sends one attempt of a call to a simulated target; returns its answer."""

    async def __call__(self, call: SimulatedCall, key: str, /) -> SentAttempt: ...


Serve = Callable[[SimulatedCall], Awaitable[Any]]
"""A policy: serves a call and returns the answer of one of its attempts, or raises."""


def simulate(
    policy_or_chain: Any,
    weather: Mapping[Any, Weather],
    *,
    rate: float = 1.0,
    seconds: float = 600.0,
    seed: int = 0,
) -> Report:
    """Run a policy against simulated providers, and return what its callers would have met.

    The policy runs in the real asynchronous code, on a clock that jumps from one event to the
    next: ten minutes take a second or less. It has a separate state, so no bench, count or
    observer goes in or out; what `configure` set holds. Other threads go on as always, in real
    time and in the state of the process. Each call is given its number as its only argument, for
    functions such as ``needs`` and strategies. Nothing is sent: functions of targets,
    ``observers`` and ``reject`` of the policy are not used, since every simulated answer is good.
    Equal seeds give equal traffic and equal reports.

    Examples:
        >>> weather = {
        ...     "groq/llama": Weather(faults=[Fault("outage", 120, 300)]),
        ...     "openai/gpt-5-mini": Weather(latency=2.0),
        ... }
        >>> print(simulate(ask.policy, weather, rate=5).table())

    Args:
        policy_or_chain: A policy, a function that it decorates, or a chain for `failover`.
        weather: ``{key of a target or of its provider: Weather}``, for every target of the chain.
        rate: Calls per second, at random moments (Poisson), above 0.
        seconds: How long calls start, above 0; those that run then are run to their end.
        seed: A whole number.

    Raises:
        ConfigurationError: If a value is not allowed, or a target has no weather.
        RuntimeError: If another simulation runs in this process.
    """
    policy = _policy_of(policy_or_chain)
    skies = weather_of(policy.chain, weather)

    def policy_to_serve(send: Send) -> Serve:
        calls: dict[int, SimulatedCall] = {}

        async def sent(target: Target, number: int, **_: Any) -> SentAttempt:
            return await send(calls[number], target.key)

        guarded: Any = _offline(policy)(sent)

        async def serve(call: SimulatedCall) -> Any:
            calls[call.number] = call
            try:
                return await guarded(call.number)
            except _NOT_SERVED as error:
                if _is_raised_here(error):
                    raise
                raise _OwnError(error) from None
            finally:
                del calls[call.number]

        return serve

    return run(policy_to_serve, skies, rate=rate, seconds=seconds, seed=seed)


def _policy_of(given: Any) -> Failover:
    for each in (given, getattr(given, "policy", None)):
        if isinstance(each, Failover):
            return each
    return failover(given)


def _is_raised_here(error: Exception) -> bool:
    """Return whether this library raised an error, not a function of the user's own."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    package = __name__.partition(".")[0]
    name = "" if step is None else step.tb_frame.f_globals.get("__name__", "")
    return name.partition(".")[0] == package


def _offline(policy: Failover) -> Failover:
    """Return a copy that calls nothing of the user's own that was made for real answers."""

    def without_call(target: Target) -> Target:
        options = target.options()
        options["call"] = None
        return Target(target.spec, **options)

    chain = [each if each.call is None else without_call(each) for each in policy.chain]
    return policy.using(chain=chain, reject=None, observers=())


def run(
    policy: Callable[[Send], Serve],
    weather: Mapping[str, Weather],
    *,
    rate: float,
    seconds: float,
    seed: int,
) -> Report:
    """Run any policy against simulated providers.

    Args:
        policy: Called once in the isolated state, with the function that sends an attempt;
            returns the function that serves a call.
        weather: ``{key of a target: its weather}``
        rate: Calls per second.
        seconds: How long calls start.
        seed: A whole number.
    """
    check.number("rate", rate, above=0.0)
    seconds = check.seconds("seconds", seconds)
    check.whole("seed", seed, low=None)
    simulation = _Simulation(weather, float(rate), seconds, seed)
    running = _running
    if not running.acquire(blocking=False):
        raise RuntimeError(
            "a simulation runs in this process, and there can be one at a time: run them one after "
            "the other, or in processes of their own"
        )
    return _in_a_free_thread(lambda: simulation.run(policy), simulation.stop, running.release)


class _Simulation:
    """One simulation: its traffic, and what becomes of it."""

    def __init__(
        self, weather: Mapping[str, Weather], rate: float, seconds: float, seed: int
    ) -> None:
        self._weather = weather
        self._rate = rate
        self._seconds = seconds
        self._seed = seed
        self._calls: list[SimulatedCall] = []
        self._failure: BaseException | None = None
        """What a function of the user's own raised; it ends the simulation."""
        self._is_stopped = False

    def stop(self) -> None:
        """Start no further call; may be called from any thread."""
        self._is_stopped = True

    def run(self, policy: Callable[[Send], Serve]) -> Report:
        loop = VirtualLoop()
        with (
            _state_of_its_own(VirtualClock(loop, runtime.time), self._seed),
            asyncio.Runner(loop_factory=lambda: loop) as runner,
        ):
            runner.run(self._traffic(policy(self._send)))
        if self._failure is not None:
            # Not in the loop, which keeps a cancellation for itself.
            try:
                raise self._failure
            finally:
                self._failure = None
        return report_of(self._calls, self._weather)

    async def _traffic(self, serve: Serve) -> None:
        """Start the calls, at moments that depend on the seed and the rate alone."""
        arrivals = random.Random(f"{self._seed} arrivals")
        loop, at = asyncio.get_running_loop(), 0.0
        async with asyncio.TaskGroup() as group:
            while True:
                at += arrivals.expovariate(self._rate)
                if at >= self._seconds:
                    break
                await asyncio.sleep(at - loop.time())
                if self._is_stopped or self._failure is not None:
                    break
                call = SimulatedCall(len(self._calls), loop.time())
                self._calls.append(call)
                group.create_task(self._call(serve, call))

    async def _call(self, serve: Serve, call: SimulatedCall) -> None:
        try:
            answer = await serve(call)
        except ConfigurationError as error:  # such as of a strategy
            self._failure = error
        except _OwnError as raised:
            self._failure = raised.error
        except _NOT_SERVED:
            pass
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the simulation is interrupted
            self._failure = error
        except Exception as error:  # noqa: BLE001  # raised when the other calls have ended
            self._failure = error
        else:
            call.served_by = answer
        call.ended_at = asyncio.get_running_loop().time()

    async def _send(self, call: SimulatedCall, key: str, /) -> SentAttempt:
        now = asyncio.get_running_loop().time()
        number = 1 + sum(each.key == key for each in call.attempts)
        attempt = SentAttempt(key, now)
        call.attempts.append(attempt)
        comes = outcome(
            self._weather[key], now, seed=self._seed, key=key, call=call.number, attempt=number
        )
        await asyncio.sleep(comes.seconds)
        comes.raise_error()
        attempt.answered_at = asyncio.get_running_loop().time()
        return attempt


@contextmanager
def _state_of_its_own(clock: VirtualClock, seed: int) -> Generator[None, None, None]:
    """Have this thread, and no other one, use a fresh state with this clock and this randomness."""
    in_force = runtime.in_force
    state = Runtime()
    state.item_inspector, state.on_new_state = runtime.item_inspector, runtime.on_new_state
    state.usage_reader = runtime.usage_reader
    state.rng = random.Random(f"{seed} policy")  # before the new state, which takes it over
    state.use_clock(clock)
    before = state.exchange()
    try:
        state.in_force, state.settings = in_force, in_force.settings
        # Budgets are not played: their periods are of the wall clock, and simulated attempts have
        # no price. Nothing is booked in the ledger of the process.
        state.configure({"logging": False, "budgets": []})
        with in_this_thread(state):
            yield
    finally:
        state.exchange(before)
        runtime.unbind_all()


def _in_a_free_thread(
    work: Callable[[], Report], stop: Callable[[], object], end: Callable[[], object]
) -> Report:
    """Do work that runs an event loop; in a thread of its own if one runs in this one.

    It sees nothing of the context of the caller, such as its `Trace` or the call around it.

    Args:
        work: The work.
        stop: Has it end soon; called when the caller is interrupted.
        end: Called once, when the work is over or will never begin.
    """
    context = contextvars.Context()

    def whole() -> Report:
        try:
            return context.run(work)
        finally:
            end()

    if not _runs_a_loop():
        return whole()
    results: list[Report] = []
    errors: list[BaseException] = []

    def do() -> None:
        if not is_begun.acquire(blocking=False):
            return  # the caller was interrupted before
        try:
            results.append(whole())
        except BaseException as error:  # noqa: BLE001  # raised by the caller's thread
            errors.append(error)
        finally:
            is_done.set()

    is_begun = threading.Lock()
    """Taken once: by the work, or by an interrupt that comes first, so that it never begins."""
    # Not a join: before Python 3.13, a thread whose join was interrupted passes for one that ended.
    is_done = threading.Event()
    try:
        threading.Thread(target=do, name="resilient_llm-simulation", daemon=True).start()
        # A signal that comes just before a wait begins is noticed when the wait ends.
        while True:
            if is_done.wait(_NOTICES_SIGNALS):
                break
    except BaseException:
        stop()
        if is_begun.acquire(blocking=False):
            end()
        else:
            is_done.wait()  # the real state must be back before anybody goes on
        raise
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()
    return results[0]


def _runs_a_loop() -> bool:
    """Return whether asyncio or trio runs in this thread."""
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
