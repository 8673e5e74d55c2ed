"""`HealthProbe`: its options, and how it is started and stopped.

Owns the loop that runs, if one does. See `_loop` for what that does.
"""

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, Self

from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported
from resilient_llm._values.keys import shown
from resilient_llm._values.target import Target, normal_key
from resilient_llm.probes._calls import gives_items
from resilient_llm.probes._loop import Loop
from resilient_llm.probes._result import ProbeResult
from resilient_llm.probes._tick import Options, Runs, Tick
from resilient_llm.probes._waiting import Waiter

_PROVES: Final = ("reachable", "answers")


class HealthProbe:
    """Probes providers and targets in the background, all side by side.

    A key whose calls have just succeeded is skipped. What a result changes depends on the circuit
    of its key: see the how-to "Background health checks".

    Examples:
        >>> async with HealthProbe({"ollama": ollama_probe()}):
        ...     await serve()

    A synchronous program uses `start_thread` and `stop_thread`. A loop belongs to the state of the
    process in which it was started: it ends with an ``isolated()``, and rests while another one is
    inside. A thread starts again in a forked child; a loop in a task has to be started there.
    """

    def __init__(
        self,
        probes: Mapping[str, Callable[[], Any]]
        | Mapping[Target, Callable[[], Any]]
        | Mapping[str | Target, Callable[[], Any]],
        *,
        interval: float = 30.0,
        timeout: float = 3.0,
        jitter: float = 0.1,
        proves: Literal["reachable", "answers"] = "reachable",
    ) -> None:
        """Check the options; nothing is probed yet.

        Args:
            probes: ``{key: probe}``, a provider or a target each. A probe takes no arguments and
                is asynchronous or not. None or True is well, False is not well, and what it raises
                is classified. One that is not asynchronous runs in a thread, of which there are 64
                at most.
            interval: Seconds between the beginnings of two ticks.
            timeout: Seconds that one probe may take.
            jitter: The share, 0 to 1, by which an interval is longer or shorter by chance, so that
                many processes do not probe at the same moment.
            proves: What a probe that is well proves. ``"reachable"``: the server is there, and a
                cooldown ends early. ``"answers"``: it answers calls, which closes the circuit.

        Raises:
            ConfigurationError: If an option is not allowed.
        """
        checked, asynchronous = _checked_probes(probes)
        self._options = Options(
            MappingProxyType(checked),
            asynchronous,
            check.seconds("interval", interval),
            check.seconds("timeout", timeout),
            check.number("jitter", jitter, low=0.0, high=1.0),
            check.choice("proves", proves, _PROVES) == "answers",
        )
        self._start_over()
        number = id(self)
        _all[number] = weakref.ref(self, lambda _: _all.pop(number, None))

    def _start_over(self) -> None:
        self._lock = threading.RLock()
        self._runs = Runs()
        self._loop: Loop | None = None

    @property
    def running(self) -> bool:
        """Whether a loop was started and not stopped."""
        loop = self._loop
        return loop is not None and loop.is_running

    async def start(self) -> None:
        """Start the loop in the event loop that runs here; its first tick begins at once.

        A second time does nothing.

        Raises:
            RuntimeError: If it runs in a thread.
        """
        with self._lock:
            if self._is_running(in_thread=False):
                return
            loop = self._loop = Loop(self._options, self._runs, in_thread=False)
        loop.begin()  # without the lock: a task may run at once, and stop this

    async def stop(self) -> None:
        """Stop the loop; return when it and its probes have ended, after ``timeout`` at the latest.

        A synchronous probe that hangs is left behind in its thread. A second time does nothing,
        and nothing is done to a loop in a thread.
        """
        loop = self._loop
        if loop is not None and loop.thread is None:
            loop.end()
            await loop.wait_for_end(self._options.timeout)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def start_thread(self) -> None:
        """Start the loop in a daemon thread, for a synchronous program.

        Asynchronous probes run in an event loop of that thread. A second time does nothing.

        Raises:
            RuntimeError: If it runs in an event loop, or if no thread can be started.
        """
        with self._lock:
            if self._is_running(in_thread=True):
                return
            loop = self._loop = Loop(self._options, self._runs, in_thread=True)
        loop.begin_in_thread()

    def stop_thread(self, timeout: float = 5.0) -> None:
        """Stop the loop in the thread and wait for its end.

        A second time does nothing, and nothing is done to a loop in an event loop.

        Args:
            timeout: Seconds after which it returns in any case; the thread is a daemon.

        Raises:
            ConfigurationError: If ``timeout`` is not a number of seconds, 0 or more.
        """
        seconds = check.seconds("timeout", timeout, zero=True)
        loop = self._loop
        if loop is not None and loop.thread is not None:
            loop.end()
            loop.join(min(seconds, threading.TIMEOUT_MAX))

    async def tick(self) -> dict[str, ProbeResult]:
        """Probe every key now, whether a loop runs or not; return ``{key: result}``.

        It takes at most ``timeout`` seconds. A key whose probe is running is skipped.
        """
        tick = Tick(self._options, self._runs, runtime.registry, Waiter(), set())
        return await tick.run(lambda: False)

    def _is_running(self, *, in_thread: bool) -> bool:
        loop = self._loop
        if loop is None or not loop.is_running:
            return False
        if (loop.thread is not None) is not in_thread:
            raise RuntimeError(
                "the health probe runs in an event loop: call `await probe.stop()` first"
                if in_thread
                else "the health probe runs in a thread: call `probe.stop_thread()` first"
            )
        return True

    def _after_fork(self) -> None:
        loop = self._loop
        self._start_over()
        if loop is None:
            return
        was_in_thread = loop.is_running and loop.thread is not None
        loop.forget()
        if was_in_thread:
            self.start_thread()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<HealthProbe of {', '.join(self._options.probes)}, {state}>"

    def __reduce__(self) -> Any:
        raise TypeError("a HealthProbe cannot be pickled: make one in each process")


exported(HealthProbe, "resilient_llm.probes")


def _checked_probes(probes: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return ``{normalised key: probe}``, and the keys whose probe is asynchronous."""
    if not isinstance(probes, Mapping) or not probes:
        kind = "an empty mapping" if isinstance(probes, Mapping) else type(probes).__name__
        raise ConfigurationError(
            f"probes is {kind}, which is not allowed: write a mapping of keys to functions, such "
            'as {"ollama": ollama_probe()}'
        )
    checked: dict[str, Any] = {}
    for spec, probe in dict[Any, Any](probes).items():  # pyright: ignore[reportUnknownArgumentType]  # users' input
        try:
            key = _checked_key(spec)
        except ConfigurationError as error:
            raise ConfigurationError(f"probes[{shown(spec)}]: {error}") from None
        if key in checked:
            raise ConfigurationError(f"probes has {key!r} twice: write one probe for each key")
        if not callable(probe):
            raise ConfigurationError(
                f"probes[{key!r}] of type {type(probe).__name__} is not allowed: write a function "
                "without parameters, such as http_probe(url)"
            )
        if gives_items(probe):
            raise ConfigurationError(
                f"probes[{key!r}] gives items: write a function that returns None or True"
            )
        if not check.can_be_called(probe):
            raise ConfigurationError(
                f"probes[{key!r}] needs arguments, and a probe gets none: write a function without "
                "parameters, such as call_probe(fn, …) with those that fn is called with"
            )
        checked[key] = probe
    return checked, frozenset(key for key, probe in checked.items() if check.is_async(probe))


def _checked_key(spec: Any) -> str:
    """Return the normalised spelling of a key that a chain can have.

    A `Target` may be called as it likes. In a text a comma separates targets, and a star stands for
    all of something, neither of which one probe could speak for.
    """
    key = normal_key(spec)
    if not isinstance(spec, Target):
        if "," in key:
            raise ConfigurationError("a comma separates two keys: write one entry for each of them")
        if "*" in key.split("/", 1):
            raise ConfigurationError("a probe is for one key: write a provider or a target")
    return key


_all: Final[dict[int, weakref.ref[HealthProbe]]] = {}
"""``{id: a health probe}``, while it exists."""


def _after_fork() -> None:
    for reference in list(_all.values()):
        probe = reference()
        if probe is not None:
            probe._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
