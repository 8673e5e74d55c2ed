"""`breaker(name)` and `Breaker`: a guard on the process-wide circuit of a name.

A guard counts the outcomes of its blocks and refuses to enter while its circuit is open. It
holds no task, loop or thread. Of several entries at once, the first one is stored in two
slots. The others, and those that took a lease, are in a list together with their owners.
"""

import inspect
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.circuit.permit import (
    Permit,
    admit,
    charged_circuit,
    heard_attempt,
    permit_of_inlined,
    pop_permit,
    push_permit,
)
from resilient_llm._core.circuit.state import Block
from resilient_llm._core.circuit.window import LOCK_FREE, Generation
from resilient_llm._core.limits.admitting import admit_within
from resilient_llm._core.limits.held import STORE_UNAVAILABLE, LimitBlock, TargetLimits
from resilient_llm._drive.cancellation import was_cancelled
from resilient_llm._drive.tasks import current_task
from resilient_llm._runtime.answered_headers import hear_if_any
from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.limits_of_target import limits_on
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values import event_names
from resilient_llm._values.built_in import class_name
from resilient_llm._values.errors import (
    BreakerOpenError,
    CallRejectedError,
    ConfigurationError,
    StoreUnavailableError,
)
from resilient_llm._values.exported import exported
from resilient_llm._values.health import State
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.settings import BreakerOptions, checked_options
from resilient_llm._values.target import normal_key

if TYPE_CHECKING:
    from resilient_llm._core.call.entering import EntryAsked

F = TypeVar("F")

# A copy of what every call of `breaker` reads from the runtime, which saves an attribute lookup.
_circuits = runtime.circuits


class _Present:
    """A copy of what every entry reads, for the same reason.

    Not a name of the module: freezegun replaces every function of `time` that it finds in one.
    """

    clock = runtime.clock


def _look_again() -> None:
    global _circuits  # see above
    _Present.clock, _circuits = runtime.clock, runtime.circuits


runtime.on_exchange.append(_look_again)

_EMPTY = Generation(0.0, 1.0)
"""Stands for no entry. Its ``check_after`` is past, so leaving never takes the fast path."""
_FIRST_LEFT = Generation(0.0, 1.0)
"""Stands for a first entry that has left before the others: new entries join the list."""
_MANY = float("-inf")
"""Stands for the time of the first entry while there are others. Such an entry took longer than
any limit, so leaving does not take the fast path either."""


class _Entry:
    """An entry other than the guard's first one."""

    __slots__ = ("owner", "permit")

    def __init__(self, owner: object, permit: Permit) -> None:
        self.owner = owner
        self.permit = permit


class _ExtraEntries:
    """What few guards need: their options, and the entries other than the first."""

    __slots__ = ("entries", "first_at", "options")

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.first_at = 0.0
        self.entries: list[_Entry] = []


@exported
class Breaker:
    """A guard; made by `breaker`. For ``with``, ``async with`` and as decorator.

    A guard kept in a variable may be entered nested and by many tasks and threads at once,
    and left from another task than it was entered in.
    """

    __slots__ = ("_at", "_circuit", "_extra", "_generation")

    _circuit: Circuit
    _generation: Generation
    _at: float
    _extra: _ExtraEntries  # set only when needed

    def __enter__(self) -> "Breaker":
        now = _Present.clock()
        generation = self._circuit.slot
        # From here to the stores nothing is called, so no other thread comes in between
        # (see the theory of operation in _core/circuit/window.py).
        if generation is not None and self._generation is _EMPTY:
            self._generation = generation
            self._at = now
            return self
        return self._enter_slowly()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        now = _Present.clock()
        generation = self._generation
        if (
            error is None
            and now < generation.check_after
            and now - self._at < generation.slow_above
        ):
            generation.n += 1
            self._generation = _EMPTY
            return
        is_first = generation is not _EMPTY and generation is not _FIRST_LEFT
        if error is None and is_first and (entered_at := self._at) != _MANY:
            # Blocks that are far apart end here. The guard is free before anything is called.
            self._generation = _EMPTY
            if not generation.answered(now, now - entered_at, now - entered_at):
                report_outcome(permit_of_inlined(self._circuit, generation, entered_at), None, now)
            return
        self._leave(error)

    async def __aenter__(self) -> "Breaker":
        if self.enters_at_once:
            return self.__enter__()
        permit, asked = self._admitted()
        if asked is not None:
            from resilient_llm._drive.asking import await_answer  # loaded with the first

            try:
                await await_answer(asked.question, asked.seconds)
                self._answered(permit, asked)
            except BaseException:  # a refusal; or a cancellation: nobody else would give it back
                permit.withdrawn()
                raise
        return self._enter_with(permit)

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(error_type, error, traceback)

    @property
    def enters_at_once(self) -> bool:
        """Whether to enter never waits for a store."""
        circuit = self._circuit
        return circuit.slot is not None or circuit.telling.changes is None

    @property
    def state(self) -> State:
        """The present state of the key: ``"closed"``, ``"open"`` or ``"half_open"``."""
        return self._here().state(runtime.clock())

    @property
    def name(self) -> str:
        """The key that is guarded."""
        return self._circuit.key

    def record(self, error: BaseException | None, seconds: float) -> None:
        """Report a call that was made elsewhere and has just ended.

        It counts in the state in which it began. While a rate limit pauses the key, a call that
        names a longer wait extends the pause.

        Args:
            error: What it raised, or None if it succeeded.
            seconds: How long it took, 0 or more.

        Raises:
            ConfigurationError: If ``seconds`` is not a duration.
        """
        took = check.seconds("seconds", seconds, zero=True)
        if error is not None and not issubclass(type(error), BaseException):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
            raise ConfigurationError(
                f"error of type {type(error).__name__} is not allowed: write an exception, or None"
            )
        now = runtime.clock()
        circuit = self._here()
        permit = admit(circuit, now)
        if isinstance(permit, Block):
            # Nothing is admitted now, so this call was admitted in an earlier state. The wait
            # that it was told has just begun, though.
            if error is not None:
                verdict = classify(error)
                charged_circuit(circuit, verdict).extend_pause(now, verdict, now - took)
            return
        permit.entered_at = now - took
        permit.give_back_newer()
        report_outcome(permit, error, now)

    def __call__(self, fn: F, /) -> F:
        """Guard a function, method, generator or callable object; its signature is kept.

        If it returns a stream, or a context manager of one, the stream is guarded until it ends.
        """
        from resilient_llm._binding.breaker_decorator import guarded

        return guarded(self, fn)

    def __repr__(self) -> str:
        return f"breaker({self._circuit.key!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Not its entries: the blocks that are inside this guard leave this one.
        return Breaker, (), (self._circuit.key, _options_of(self))

    def __setstate__(self, state: tuple[str, dict[str, Any]]) -> None:
        key, options = state
        _fill(self, key, options)

    def again(self) -> "Breaker":
        """Return a fresh guard like this one, with the settings that its circuit has now."""
        guard = Breaker()
        guard._circuit = self._here()  # its options are applied where its circuit is new
        guard._generation = _EMPTY
        options = _options_of(self)
        if options:
            guard._extra = _ExtraEntries(options)
        return guard

    def taken(self) -> Permit:
        """Leave the guard without a report; return the permit, which is still to be reported."""
        permit = self._take()
        try:
            pop_permit(permit)
        except BaseException:  # an interrupt: nobody else would report it
            permit.abandoned()
            raise
        return permit

    def _here(self) -> Circuit:
        """Return the circuit of this key in the present state of the process."""
        circuit = self._circuit
        if circuit.suspended or runtime.circuits.get(circuit.key) is not circuit:
            options = _options_of(self)
            circuit = self._circuit = runtime.registry.circuit(circuit.key, options)
        return circuit

    def _enter_slowly(self) -> "Breaker":
        permit, asked = self._admitted()
        if asked is not None:
            from resilient_llm._drive.asking import wait_for_answer  # loaded with the first

            try:
                wait_for_answer(asked.question, asked.seconds)
                self._answered(permit, asked)
            except BaseException:  # a refusal, or an interrupt
                permit.withdrawn()
                raise
        return self._enter_with(permit)

    def _admitted(self) -> "tuple[Permit, EntryAsked | None]":
        """Return the permit of an entry that has no slot, and what is asked of the store for it.

        Raises:
            BreakerOpenError: If the key is blocked.
            CallRejectedError: If a limit refuses it.
            StoreUnavailableError: If the store gives no answer, and the limit may not do without.
        """
        circuit = self._here()
        now = runtime.clock()
        limits = None
        if circuit.is_limited:
            limits = _limits_of(circuit)
        permit = admit_within(limits, circuit, now)
        if isinstance(permit, Block):
            raise _refusal(circuit.key, permit, now)
        if circuit.telling.changes is None or not (
            permit.leases or (limits is not None and limits.is_shared)
        ):
            return permit, None
        try:
            from resilient_llm._core.call.entering import EntryAsked, ask_to_enter

            asked = ask_to_enter(permit, limits, runtime.ledger.entries, now)
            if isinstance(asked, EntryAsked) or asked is None:
                return permit, asked
            raise _refusal(circuit.key, asked, now)
        except BaseException:  # a refusal, or an interrupt
            permit.withdrawn()
            raise

    def _answered(self, permit: Permit, asked: "EntryAsked") -> None:
        """Take the answer of the store.

        Raises:
            BreakerOpenError: If another process probes.
            CallRejectedError: If a limit refuses it.
            StoreUnavailableError: If there is no answer, and the limit may not do without.
        """
        now = runtime.clock()
        block = asked.block(now)
        if block is not None:
            raise _refusal(permit.circuit.key, block, now)
        permit.entered_at = now

    def _enter_with(self, permit: Permit) -> "Breaker":
        try:
            entry = _Entry(_owner(), permit)
            push_permit(permit)
            extra = _extra_of(self)
            if extra is None:
                with runtime.lock:  # two threads must not each make one
                    extra = _extra_of(self)
                    if extra is None:
                        extra = self._extra = _ExtraEntries({})
        except BaseException:  # an interrupt: guards inside this code would know of it for ever
            permit.withdrawn()
            raise
        extra.entries.append(entry)
        if self._generation is _EMPTY:
            self._generation, self._at = _FIRST_LEFT, _MANY
        elif self._generation is not _FIRST_LEFT and self._at != _MANY:
            extra.first_at, self._at = self._at, _MANY
        return self

    def _leave(self, error: BaseException | None) -> None:
        permit = self.taken()
        cancelled = error is not None and was_cancelled(error, since=permit.entered_at)
        report_outcome(permit, error, runtime.clock(), cancelled=cancelled)

    def _take(self) -> Permit:
        """Return the permit of the entry that is being left."""
        extra = _extra_of(self)
        while extra is not None and (
            entries := extra.entries[:]
        ):  # a copy: other threads change the list
            owner = _owner()
            mine = [entry for entry in entries if entry.owner == owner]
            # Left from another task: the first entry has no owner on record, so it goes first.
            if not mine and self._generation is not _FIRST_LEFT and self._generation is not _EMPTY:
                break
            entry = (mine or entries)[-1]
            try:
                extra.entries.remove(entry)
            except ValueError:
                continue  # another thread took it
            if not extra.entries and self._generation is _FIRST_LEFT:
                self._generation = _EMPTY
            return entry.permit
        # Read once more: another thread may have entered since, as the second into a new guard.
        # From here to the last read nothing is called, so no other comes in between.
        try:
            extra = self._extra
        except AttributeError:
            extra = None
        generation = self._generation
        self._generation = _FIRST_LEFT if extra is not None and extra.entries else _EMPTY
        if generation is _EMPTY or generation is _FIRST_LEFT:
            raise RuntimeError(f"{self!r} was left more often than it was entered")
        entered_at = extra.first_at if extra is not None and self._at == _MANY else self._at
        return permit_of_inlined(self._circuit, generation, entered_at)


if not LOCK_FREE:
    Breaker.__enter__ = Breaker._enter_slowly


def _extra_of(guard: Breaker) -> _ExtraEntries | None:
    return getattr(guard, "_extra", None)


def _options_of(guard: Breaker) -> dict[str, Any]:
    extra = _extra_of(guard)
    return {} if extra is None else extra.options


def _limits_of(circuit: Circuit) -> TargetLimits | None:
    """Return the limits that an entry must pass, configured and reported, or None."""
    key, provider = circuit.key, circuit.provider or circuit
    around = heard_attempt()
    if around is not None and key in (around.key, around.provider_key):
        # What is sent inside is the request of the attempt around it, which has asked for it.
        return runtime.limits.of(key, provider.key)
    return limits_on(key, provider.key)


def _refusal(key: str, block: Block, now: float) -> CallRejectedError:
    """Return the error of an entry that is refused."""
    retry_after = None if block.until is None else max(0.0, block.until - now)
    if isinstance(block, LimitBlock):
        return CallRejectedError(key, block.reason, retry_after)
    if block.reason == STORE_UNAVAILABLE:
        return StoreUnavailableError(key, block.reason)
    return BreakerOpenError(key, block.reason, retry_after)


def _owner() -> object:
    return threading.get_ident(), current_task()


def report_outcome(
    permit: Permit, error: BaseException | None, now: float, *, cancelled: bool = False
) -> None:
    """Report the outcome of a block.

    Args:
        permit: What admitted it.
        error: What it raised, or None.
        now: Monotonic seconds.
        cancelled: Whether it was cancelled, and raised this error instead.
    """
    if type(error) is GeneratorExit:
        permit.abandoned()  # the consumer stopped, which is not the provider's outcome
        return
    if error is None:
        permit.succeeded(now, now - permit.entered_at)
        return
    hear_if_any(error, permit.circuit.key, permit.entered_at, permit.held)
    verdict = classify(error)
    if cancelled or verdict.kind is ErrorKind.CANCELLED:
        permit.cancelled(now)
        return
    permit.failed(error, now, verdict)
    if verdict.kind is ErrorKind.UNKNOWN:
        permit.circuit.emit(
            event_names.UnknownError, now, type_name=class_name(type(error)), status=verdict.status
        )


def breaker(name: str, **options: Unpack[BreakerOptions]) -> Breaker:
    """Return a guard on the process-wide circuit of a name, the one that chains use.

    An option that is named changes the setting of the circuit for all that use it; the other
    settings stay.

    Examples:
        >>> async with breaker("groq"):
        ...     reply = await client.chat.completions.create(...)

        >>> @breaker("search", failures=3, cooldown=10)
        ... def search(query: str) -> list[str]: ...

    Args:
        name: ``"provider"`` or ``"provider/model"``; ``"provider@account/…"`` for one account.
        failures: Failures in a row that open the circuit, 1 or more.
        error_rate: Share of failures in the window that opens it, above 0 and at most 1.
        min_calls: Calls in the window that a share needs to count, 1 or more.
        window: Seconds of the sliding window.
        slow_call: Seconds from which a call counts as slow, or None.
        slow_rate: Share of slow calls in the window that opens the circuit.
        cooldown: Seconds of the first bench.
        max_cooldown: Seconds of the longest bench; a failed probe doubles the next one.
        probes: Calls at once while the circuit is half-open.
        successes_to_close: Successful probes in a row that close it.
        probe_lease: Seconds after which another call gets the place of a probe that has not
            ended; None for the longest of attempt timeout, cooldown and ten average successes.
        bad_rate: Share of answers of kind ``bad_response`` in the window that opens the circuit,
            or None. With it such an answer also fails a probe.
        mode: ``"enforce"``; ``"metrics_only"`` counts and rejects nothing; ``"disabled"`` does
            neither; ``"forced_open"`` rejects every call.

    Raises:
        ConfigurationError: If the name is not a key, or an option is unknown or out of range.
        BreakerOpenError: When the guard is entered while its circuit is open.
    """
    if not options:
        try:
            circuit = _circuits[name]
        except (KeyError, TypeError):  # new, spelled differently, or not a text
            pass
        else:
            guard = Breaker()  # without __init__, which would double the cost
            guard._circuit = circuit
            guard._generation = _EMPTY
            return guard
    if inspect.isroutine(name):
        raise ConfigurationError(
            f'{getattr(name, "__name__", "a function")} is not a name: write @breaker("name")'
        )
    return _of(normal_key(name), checked_options(options))


def _of(key: str, options: dict[str, Any]) -> Breaker:
    guard = Breaker()
    _fill(guard, key, options)
    return guard


def _fill(guard: Breaker, key: str, options: dict[str, Any]) -> None:
    guard._circuit = runtime.registry.circuit(key, options)
    guard._generation = _EMPTY
    if options:
        guard._extra = _ExtraEntries(options)
