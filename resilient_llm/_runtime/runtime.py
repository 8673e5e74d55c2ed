"""`Runtime`, the state of this process: clock, registry, settings, observers.

Owns what ``isolated()`` and ``fake_clock()`` exchange. There is one `Runtime`; what it
holds is exchanged, and decorated functions are then *unbound*: the circuit that their
wrapper reads is replaced by one that admits no call, so their next call goes through the
`Caller`, which binds them again. A healthy call pays nothing for that.

Lock order: this lock before the registry's.
"""

from __future__ import annotations

import math
import os
import random
import threading
import weakref
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilient_llm._core.adaptive import AdaptiveOrder, order_of
from resilient_llm._core.figures import PolicyFigures
from resilient_llm._core.in_flight import KeysInFlight
from resilient_llm._core.retry_budget import RetryBudgets
from resilient_llm._core.spending.local_ledger import LocalLedger
from resilient_llm._runtime.clock import Clock, SystemClock
from resilient_llm._runtime.configuration import (
    Code,
    InForce,
    check_shared_limits,
    merged_settings,
    names_and_profile,
    options_that_differ,
    profile_name,
)
from resilient_llm._runtime.dispatcher import Dispatcher
from resilient_llm._runtime.limiting import LimitsInForce
from resilient_llm._runtime.registry import Registry
from resilient_llm._values.adaptive import Adaptive
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.names import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from resilient_llm._core.call.hooks import Hook
    from resilient_llm._core.call.spending import UsageReader
    from resilient_llm._core.limits.reported import ReportedLimits
    from resilient_llm._core.spending.shared_ledger import SharedLedger
    from resilient_llm._core.stream.stream_state import ItemInspector
    from resilient_llm._values.plan import FileLayer
    from resilient_llm._values.policy import Family, Policy
    from resilient_llm._values.settings import Settings

_from_timestamp = datetime.fromtimestamp  # every event asks, so it is looked up once


_JITTER: Final = 0.02
"""Seconds by which the two clocks may seem to differ more, or less, before one has been set."""
_PARTS: Final = 2.0**20
"""Parts of a second in which their difference is kept. A moment of a datetime before the year 2242
is then the same, to the microsecond, when it was monotonic seconds in between."""
_EXACT: Final = 2.0**33
"""Unix seconds up to which that holds; moments after it are rounded to milliseconds."""

SHARING: Final = frozenset(
    {"state", "state_options", "state_timeout", "on_store_down", "state_name"}
)
"""Options of `configure` about what processes share."""
_LONGEST_FORK: Final = 1.0
"""Seconds that a fork waits for a thread that changes the settings."""
_WITH_KEYS: Final = frozenset({"breakers", "budgets", "limits", "prices"})
"""Options of `configure` that name targets."""


class Bound(Protocol):
    """A decorated function whose wrapper reads circuits of the present state."""

    def unbind(self) -> None: ...


class Shared(Protocol):
    """What a state of the process shares with other processes; see `mirror.SharedState`."""

    @property
    def is_started(self) -> bool: ...
    def start(self) -> None: ...
    def begin(self) -> None: ...
    def adjust(self, settings: Settings, /) -> None: ...
    def end(self) -> None: ...


class Attached(Protocol):
    """What belongs to one state of the process and ends with it, such as an exporter."""

    def end(self) -> object: ...


class Runtime:
    """The one state of the process; its parts are exchanged, the object stays."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._locked_by_forks: dict[int, Any] = {}
        """``{thread that forks: the lock that it has taken for that}``."""
        self.rng = random.Random()
        self.is_listening = False
        """Whether somebody listens to a client, so that each attempt must be known in it."""
        self.epoch = 0
        """Grows when functions are unbound, so that none is bound to what was exchanged."""
        # Plain dicts, which are copied in one step: a signal handler may bind a function at any
        # time, also on the thread that holds the lock.
        self._bound: dict[int, weakref.ref[Bound]] = {}
        """``{id: function that is bound to the present state}``."""
        self._stale: dict[int, weakref.ref[Bound]] = {}
        """Functions that `unbind_all` has still to unbind."""
        self.on_new_state: Callable[[Runtime], None] = lambda _: None
        """Called with every new state; the wiring adds the default observer."""
        self.item_inspector: Callable[[], ItemInspector]
        """Returns the inspector of stream items, imported on first use; set by the wiring."""
        self.usage_reader: Callable[[], UsageReader]
        """Returns what reads the usage of answers, imported on first use; set by the wiring."""
        self.open_store: Callable[[Any, Mapping[str, Any]], Any]
        """``(what the option state was given, its options) -> store``; nothing is connected."""
        self.share: Callable[[Runtime, Any], Shared]
        """``(state of the process, store) -> what shares it``; both are imported on first use, set
        by the wiring."""
        self.on_exchange: list[Callable[[], None]] = []
        """Called when a part is exchanged; for code that caches parts on its hot path."""
        self.system_clock = SystemClock()
        self.use_clock(self.system_clock)
        self.fresh(Code())

    def use_clock(self, clock: Clock) -> None:
        """Replace the clock."""
        self.time = clock
        self.clock = clock.monotonic
        self.wall = clock.wall
        self._wall_is_ahead = math.inf
        self._notify_exchanged()

    def fresh(self, code: Code) -> None:
        """Start with an empty state, no file, and what code has set."""
        names = Names(code.chains, code.profiles)
        self.in_force = InForce(code, None, names, code.settings, code.profile)
        """The settings and names of calls that start now; exchanged as a whole."""
        self.settings = self.in_force.settings
        self.dispatcher = Dispatcher(self.moment, lambda: self.clock(), self.steady_moment)
        self.registry = Registry(self.settings, lambda: self.clock(), self.rng, self.dispatcher)
        self.registry.hears = self.hears
        self.registry.on_new = self.begin_sharing
        self.circuits = self.registry.kept
        self.budgets = RetryBudgets()
        self.limits = LimitsInForce(lambda: self.clock())
        self.reported: dict[str, ReportedLimits] = {}
        """``{key: what its provider's headers have reported}``; see `hearing`."""
        self.ledger: LocalLedger | SharedLedger = LocalLedger()
        self.figures: weakref.WeakKeyDictionary[Family, PolicyFigures] = weakref.WeakKeyDictionary()
        """``{family of a policy: what its attempts took}``, for those that need it."""
        self.in_flight = KeysInFlight()
        """What runs on each key, while a policy chooses by it."""
        self.options_to_check: frozenset[str] = frozenset()
        """Options that were configured, and whose keys the next call looks at: `unused_keys`."""
        self.entries_told: frozenset[str] = frozenset()
        """Entries of these options of which the log has a warning."""
        self.sharing: Any = None
        """What shares this state with other processes (`mirror.SharedState`), or None."""
        self.state_given: Any = None
        """What the option ``state`` was given, as it was: a URL may have a password in it."""
        self.asks_environment = False
        """Whether a variable of the environment may still name a store."""
        self.attached: dict[Attached, None] = {}
        """What ends with this state. Entries come and go in one step each, without a lock."""
        self.on_new_state(self)
        self._notify_exchanged()

    def _notify_exchanged(self) -> None:
        for notify in self.on_exchange:
            notify()

    def moment(self, monotonic: float) -> datetime:
        """Return the aware UTC datetime of a monotonic moment, by the present wall clock.

        A moment beyond the range of datetime becomes the last one in its range.
        """
        try:
            return _from_timestamp(self.wall() + (monotonic - self.clock()), UTC)
        except (OverflowError, ValueError, OSError):
            return datetime.max.replace(tzinfo=UTC)

    def steady_moment(self, monotonic: float) -> datetime:
        """Return the aware UTC datetime of a monotonic moment, the same whenever it is asked for.

        For what lasts, such as the end of a bench, which many look at, and which an operator may
        have written as a datetime. A moment beyond the range of datetime becomes the last one in
        its range.
        """
        try:
            return _from_timestamp(self.unix(monotonic), UTC)
        except (OverflowError, ValueError, OSError):
            return datetime.max.replace(tzinfo=UTC)

    def unix(self, monotonic: float) -> float:
        """Return the unix seconds of a monotonic moment, the same whenever they are asked for."""
        seconds = float(monotonic) + self._ahead()
        return seconds if seconds <= _EXACT else round(seconds, 3)

    def monotonic(self, moment: datetime) -> float:
        """Return the monotonic seconds of an aware datetime; `steady_moment` gives it back."""
        return moment.timestamp() - self._ahead()

    def _ahead(self) -> float:
        """Return the seconds by which the wall clock is ahead of the monotonic one.

        The clocks are not read at one time, so each look finds another difference. The first one
        is kept until it can no longer be: then the wall clock was set.
        """
        before, wall, after = float(self.clock()), self.wall(), float(self.clock())
        ahead = self._wall_is_ahead
        if not wall - after - _JITTER <= ahead <= wall - before + _JITTER:
            # Rounded up, so that a bench never outlasts the moment that was given.
            ahead = math.ceil((wall - (before + after) / 2) * _PARTS) / _PARTS
            self._wall_is_ahead = ahead
        return ahead

    def bind(self, bound: Bound) -> None:
        """Remember a bound function, to unbind it at a change. Called under ``lock``."""
        number = id(bound)
        self._bound[number] = weakref.ref(bound, lambda gone: self._let_go(number, gone))

    def _let_go(self, number: int, gone: weakref.ref[Bound]) -> None:
        for known in (self._bound, self._stale):
            if number in known and known[number] is gone:
                del known[number]

    def begin_figures(self, policy: Policy, *, means: bool) -> PolicyFigures:
        """Return the same for a function that is bound now and keeps samples.

        Args:
            policy: The policy.
            means: Whether it needs the mean of each target.
        """
        with self.lock:
            figures = self.figures_of(policy)
            if figures.begin(self.clock(), means=means):
                self.unbind_all()  # others have kept samples in another way
        return figures

    def figures_of(self, policy: Policy) -> PolicyFigures:
        """Return the figures of a policy in the present state."""
        with self.lock:
            figures = self.figures.get(policy.family)
            if figures is None:
                figures = PolicyFigures(target.key for target in policy.chain)
                self.figures[policy.family] = figures
            return figures

    def count_in_flight(self, user: object) -> None:
        """Count what runs on each key from now on, as long as somebody who chooses by it exists.

        Calls of other functions are counted as well, so these are bound again.
        """
        with self.lock:
            is_counted = self.in_flight.is_used
            self.in_flight.use(user)
            if not is_counted:
                self.unbind_all()

    def order_of(self, policy: Policy, adaptive: Any) -> AdaptiveOrder | None:
        """Return how the targets of a policy are moved in the present state, if they are.

        Args:
            policy: The policy.
            adaptive: Its option, as it is in force.
        """
        if adaptive is False:
            return None
        priorities = [target.priority for target in policy.chain]
        if len(set(priorities)) == len(priorities):
            return None  # each is alone in its group
        options = Adaptive() if adaptive is True else adaptive
        with self.lock:
            order = order_of(options, policy.in_priority, self.figures_of(policy))
        order.begin(self.clock())
        return order

    def known_order_of(self, policy: Policy) -> AdaptiveOrder | None:
        """Return the same if a call has asked for it already; changes nothing."""
        adaptive, figures = policy.in_force(self.settings).adaptive, self.figures.get(policy.family)
        if adaptive is False or figures is None:
            return None
        return figures.orders.get(Adaptive() if adaptive is True else adaptive)

    def forget_figures(self) -> None:
        """Let the figures of all policies start anew."""
        with self.lock:
            self.figures = weakref.WeakKeyDictionary()
            self.unbind_all()

    def hears(self, key: str) -> bool:
        """Return whether attempts on a key have to ask what its provider reports of its limits."""
        if not self.settings.listen or not (self.is_listening or self.reported):
            return False
        found = (self.reported.get(each) for each in (key, key.partition("/")[0]))
        return self.is_listening or any(each is not None and each.has_figures for each in found)

    def unbind_all(self) -> None:
        """Send the next call of every decorated function through its `Caller`.

        An exchange that is begun is finished: what a signal handler raises meanwhile leaves when
        every function is unbound. A handler that itself exchanges the state finishes that of the
        code which it interrupted, too.
        """
        interrupt: BaseException | None = None
        with self.lock:
            self.epoch += 1
            self._stale, self._bound = {**self._stale, **self._bound}, {}
            while True:
                if not self._stale:
                    break
                try:
                    for number in list(self._stale):
                        reference = self._stale.get(number)
                        bound = None if reference is None else reference()
                        if bound is not None:
                            bound.unbind()
                        self._stale.pop(number, None)
                except BaseException as error:  # noqa: BLE001  # raised below
                    interrupt = interrupt or error
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt  # its traceback refers to this frame

    def configure(self, changes: dict[str, Any]) -> None:
        """Change process-wide defaults, for calls that start afterwards."""
        if self.asks_environment and "limits" in changes and "state" not in changes:
            self._ask_environment()  # which may name the store of shared limits
        changes = dict(changes)
        selects, profile = "profile" in changes, profile_name(changes.pop("profile", None))

        def configured(before: InForce) -> tuple[Code, FileLayer | None]:
            code = before.code.configured(changes)
            return (replace(code, profile=profile) if selects else code), before.file

        self.change(configured, changes.keys())

    def change(
        self,
        change: Callable[[InForce], tuple[Code, FileLayer | None]],
        options: Iterable[str] = (),
    ) -> InForce:
        """Exchange what code has set, or the file; return what was in force before.

        Args:
            change: Returns the new layers, or those of before. It is called under the lock, may
                raise, and is called again if a signal handler changes something meanwhile.
            options: Options of `configure` that the change names.

        Raises:
            ConfigurationError: If the change is not allowed; nothing is changed.
        """
        with self.lock:
            while True:
                was, changed = self.in_force, set(options)
                code, file = change(was)
                if code is was.code and file is was.file:
                    return was
                base = merged_settings(code, file)
                if was.file is not file:
                    changed |= options_that_differ(was, code, file, base)
                names, profile = names_and_profile(was, code, file)
                registry, before = self.registry, self.sharing
                given, store = self.state_given, None
                if not SHARING.isdisjoint(changed):
                    given, store = self._store_of(base, "state" in changed)
                state = self.settings.state if given is not None else None
                if store is not None:  # a URL may have a password in it
                    state = store.url if isinstance(given, str) else store
                base = replace(base, state=state) if base.state is not state else base
                in_force = InForce(code, file, names, base, profile)
                settings = in_force.settings
                check_shared_limits(settings, given, store, self.sharing)
                # A signal handler on this thread may have changed it meanwhile. From here on there
                # is no call until it is exchanged, so none comes between.
                if self.in_force is was:
                    self.in_force, self.settings = in_force, settings
                    break
            try:
                if not SHARING.isdisjoint(changed):
                    self.asks_environment = self.asks_environment and "state" not in changed
                    self._use_store(settings, given, store)
                elif self.sharing is not None:
                    self.sharing.adjust(settings)
                self.options_to_check |= _WITH_KEYS & changed
                self._apply(registry, budgets="budgets" in changed)
            finally:
                self.unbind_all()
        registry.settle()  # emits events, so without the lock
        if before is not self.sharing and before is not None:
            before.end()
        if before is not self.sharing and self.sharing is not None:
            self.sharing.begin()
        return was

    def _apply(self, registry: Registry, *, budgets: bool) -> None:
        """Have the parts follow the settings in force, also if a signal handler changes these.

        Called under the lock.
        """
        while True:
            settings = self.settings
            self.limits.use(settings.limits)
            if budgets:
                self.ledger.replace(settings.budgets, self.wall())
            registry.configure(settings)
            self.on_new_state(self)
            if settings is self.settings:
                return

    def _store_of(self, settings: Settings, names_state: bool) -> tuple[Any, Any]:
        """Return what the option ``state`` is given from now on, and the store if that is new.

        Args:
            settings: The new settings, with ``state`` as it was given.
            names_state: Whether the change names that option.
        """
        given = settings.state if names_state else self.state_given
        is_same = given is self.state_given or (
            isinstance(given, str) and given == self.state_given
        )
        if given is None or (
            is_same
            and self.sharing is not None
            and (
                not isinstance(given, str) or settings.state_options == self.settings.state_options
            )
        ):
            return given, None
        return given, self.open_store(given, settings.state_options)

    def _use_store(self, settings: Settings, given: Any, store: Any) -> None:
        """Share the state through another store, through none, or as before. Under the lock."""
        self.state_given = given
        if store is not None:
            self.sharing = self.share(self, store)
            self.ledger = self.sharing.ledger(self.ledger.to_local())
            self.ledger.replace(settings.budgets, self.wall())
        elif given is None:
            self.sharing = None
            self.ledger = self.ledger.to_local()
        else:
            self.sharing.adjust(settings)

    def begin_sharing(self) -> Any:
        """Return what shares this state, started in this process; None if it is not shared.

        Called when a key or a function comes into use, and by what shows the store. If the
        variable ``RESILIENT_LLM_STATE`` names no store that can be used, the log has an error.
        """
        if self.asks_environment:
            self._ask_environment()
        sharing = self.sharing
        if sharing is not None and not sharing.is_started:
            sharing.start()
        return sharing

    def _ask_environment(self) -> None:
        url = os.environ.get("RESILIENT_LLM_STATE")
        if not url:
            return
        with self.lock:
            if not self.asks_environment:
                return
            self.asks_environment = False
        try:
            self.configure({"state": url})
        except ConfigurationError as error:
            import logging

            logging.getLogger("resilient_llm").error(  # what it says is enough
                "RESILIENT_LLM_STATE is not used, so nothing is shared: %s", str(error)
            )

    def add_hook(self, hook: Hook) -> Callable[[], None]:
        """Enter and leave a hook around calls that start from now on, in the present state.

        Returns:
            A function that removes it. Calls that have begun keep it.
        """
        dispatcher = self.dispatcher
        with self.lock:
            dispatcher.hooks = (*dispatcher.hooks, hook)
            self.unbind_all()

        def remove() -> None:
            with self.lock:
                dispatcher.hooks = tuple(each for each in dispatcher.hooks if each is not hook)
                self.unbind_all()

        return remove

    def exchange(self, saved: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
        """Use a saved state, or a fresh one; return the previous one.

        A state that is left for a saved one ends, and what is attached to it.
        """
        try:
            if saved is not None:
                self._end_attached()
        finally:
            before = self._exchange(saved)
        return before

    def _exchange(self, saved: tuple[Any, ...] | None) -> tuple[Any, ...]:
        with self.lock:
            before = (
                self.in_force,
                self.dispatcher,
                self.registry,
                self.budgets,
                self.figures,
                self.in_flight,
                self.attached,
                self.limits,
                self.ledger,
                self.reported,
                self.options_to_check,
                self.entries_told,
                self.sharing,
                self.state_given,
                self.asks_environment,
            )
            try:
                self.registry.suspend(suspended=True)
                if saved is None:
                    code = self.in_force.code
                    self.fresh(Code(chains=code.chains, profiles=code.profiles))
                else:
                    self.in_force, self.dispatcher, self.registry = saved[:3]
                    self.settings = self.in_force.settings
                    self.budgets, self.figures, self.in_flight = saved[3:6]
                    self.attached, self.limits, self.ledger, self.reported = saved[6:10]
                    self.options_to_check, self.entries_told = saved[10:12]
                    self.sharing, self.state_given, self.asks_environment = saved[12:]
                    self.circuits = self.registry.kept
                    self.registry.suspend(suspended=False)
                    self._notify_exchanged()
            finally:
                self.unbind_all()
        return before

    def _end_attached(self) -> None:
        """End what is attached to the present state, the latest first, without a lock."""
        for each in reversed(list(self.attached)):
            try:
                each.end()
            except Exception:  # noqa: BLE001, S110  # what fails at its end is over, too
                pass
        self.attached.clear()

    def before_fork(self) -> None:
        """Wait until no other thread changes the settings, so that a child has a whole state."""
        lock = self.lock
        if lock.acquire(timeout=_LONGEST_FORK):
            self._locked_by_forks[threading.get_ident()] = lock

    def after_fork_in_parent(self) -> None:
        """Let other threads change the settings again."""
        lock = self._locked_by_forks.pop(threading.get_ident(), None)
        if lock is not None:
            lock.release()

    def after_fork(self) -> None:
        """Give the child process new locks and randomness, and none of the parent's leases."""
        self._locked_by_forks = {}
        self.lock = threading.RLock()
        self.rng.seed()
        self.dispatcher.after_fork()
        self.registry.after_fork()
        self.budgets.after_fork()
        self.limits.after_fork()
        self.ledger.after_fork()
        self.reported = {}
        self.in_flight = KeysInFlight()  # the attempts of the parent do not run here
        self.forget_figures()


runtime = Runtime()
runtime.asks_environment = True

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=runtime.before_fork,
        after_in_parent=runtime.after_fork_in_parent,
        after_in_child=runtime.after_fork,
    )
