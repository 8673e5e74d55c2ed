"""`Binding`: takes what the calls of one function read from the state of the process.

Circuits, clock and settings come from the runtime, and the part of them that the healthy path
reads is put into the generated wrapper. The wrapper is unbound when that state is exchanged.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from resilient_llm._binding.adapting import Adapting
from resilient_llm._binding.asking import takes_call
from resilient_llm._binding.choosing import Pins
from resilient_llm._binding.client_retries import notice_client_retries
from resilient_llm._binding.demands import Demands
from resilient_llm._binding.first_attempt import NoAnswer
from resilient_llm._binding.inlined_limits import InlinedLimits, inlined_limits
from resilient_llm._binding.invoking import called_injection, invoker_of
from resilient_llm._binding.options_in_force import OptionsEffect, OptionsInForce
from resilient_llm._binding.ordering import ChainOrder, Drawing, order_for
from resilient_llm._binding.unhedged import tell_unhedged
from resilient_llm._binding.usage import own_reader
from resilient_llm._binding.wrapper_code import Kind
from resilient_llm._binding.wrapper_globals import AllCallers, Unbound, WrapperGlobals
from resilient_llm._core.call.call import Candidate
from resilient_llm._core.call.call_deps import CallDeps
from resilient_llm._core.circuit import window
from resilient_llm._core.circuit.window import NEVER
from resilient_llm._core.in_flight import FunctionInFlight
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.answered_headers import hear_if_any
from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.limits_of_target import limits_on
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.spending import room_in, spending
from resilient_llm._values import event_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from resilient_llm._binding.injection import Injection
    from resilient_llm._binding.ordering import KeyedOrder, UsersOrder
    from resilient_llm._core.call.spending import Spending
    from resilient_llm._core.figures import PolicyFigures
    from resilient_llm._core.in_flight import Counts
    from resilient_llm._runtime.configuration import InForce, Process
    from resilient_llm._values.policy import Options, Policy
    from resilient_llm._values.settings import Settings
    from resilient_llm._values.target import Target


class Binding(WrapperGlobals):
    """Binds one function under one policy to the present state of the process."""

    def __init__(
        self,
        policy: Policy,
        injection: Injection,
        expansions: AllCallers,
        in_state: InForce,
        profile: str | Process | None,
    ) -> None:
        super().__init__(policy, injection, expansions)
        self.in_state = in_state
        """The state whose settings its calls have."""
        self.profile = profile
        chain = policy.chain
        called = [called_injection(target, injection) for target in chain]
        self.invokers = {
            target.key: invoker_of(target, each, injection)
            for target, each in zip(chain, called, strict=True)
        }
        self.generators = {
            target.key: bool(each.gives_items) for target, each in zip(chain, called, strict=True)
        }
        self.pins = Pins(chain, injection.defaults_of_names)
        self.takes_attempt = any(each.attempt is not None for each in called)
        self.in_force = OptionsInForce(policy, injection)
        self._use(self._effect_of(policy.options))
        self.candidates: tuple[Candidate, ...] | None = None
        self.by_key: dict[str, Candidate] = {}
        self.order: ChainOrder | KeyedOrder | UsersOrder | None = None
        """How each call orders its targets; None if by priority."""
        self.deps: CallDeps | None = None
        self.estimates: Demands | None = None
        """Estimates the tokens of each call, if budgets, limits of tokens or what a provider has
        reported of its own ask for that."""
        self.inlined_limits: InlinedLimits | None = None
        """What the wrapper reads to take by itself what its first target asks, if it can."""
        self.plain_type: type = str
        """The class of the last answer that was no stream and no awaitable."""
        self.quiet_type: type = NoAnswer
        """``plain_type`` if nothing wants to know of answers, else a class that no answer has."""
        self.is_watched = True
        """Whether an observer or the log wants to know of each answer."""
        self.hears_failures = True
        """Whether an observer or the log wants to know of failed attempts, or of failovers."""
        self.is_asked = True
        """Whether ``reject``, an observer or the log wants to know of each answer."""
        self.look_at = NEVER
        """When the level of the log is looked at again, which changes without notice."""

    def replace_model(self) -> None:
        """Give each target its own model, in place of the one that the caller passed."""
        for target in self.policy.chain:
            invoke, rebound = self.invokers[target.key], self.injection.rebound
            self.invokers[target.key] = _with_argument(invoke, rebound, {"model": target.model})

    # Binding.

    def _use(self, effect: OptionsEffect) -> None:
        """Make calls with these options from now on."""
        self.effect = effect
        self.options = effect.options
        self.reject = effect.options.reject
        self.limits = effect.limits
        self.is_stream = effect.is_stream
        self.needs_limits = effect.needs_limits

    def bound(self) -> tuple[Candidate, ...]:
        """Return the candidates in the present state, by priority; bind first if unbound."""
        candidates = self.candidates
        return self._bind() if candidates is None else candidates

    def _effect_of(self, options: Options) -> OptionsEffect:
        return OptionsEffect(
            options, self.injection, self.policy.chain, takes_attempt=self.takes_attempt
        )

    def _bind(self) -> tuple[Candidate, ...]:
        _warn_of_unused_keys()
        while True:
            # Everything is found out first, without the lock. It is used only if nothing was
            # exchanged meanwhile: another thread may have bound to a newer state.
            epoch, settings = runtime.epoch, self.expansions.settings_for(self)
            options, effect = self.in_force.under(settings), self.effect
            if options is not effect.options:
                effect = self._effect_of(options)
            figures = None
            if effect.needs_figures:
                means = options.strategy == "least_latency"
                figures = runtime.begin_figures(self.policy, means=means)
            counts = self._counts(options)
            by_key = self._candidates(figures, counts)
            deps = self._deps(effect, settings, by_key.values(), figures, counts)
            if effect.is_stream:
                deps.item_inspector()  # its import must not count as waiting for a provider
            candidates = tuple(by_key[target.key] for target in self.policy.in_priority)
            for each in candidates:
                if each.limits is not None and each.limits.all:
                    runtime.registry.limit(each.circuit)
            estimates = None
            if any(deps.needs_estimate(each.limits) for each in candidates):
                estimates = effect.demands or Demands(options, self.injection, self.policy.chain)
            order = self._order(options, candidates, deps)
            inlined = None
            if estimates is not None or candidates[0].limits is not None:
                inlined = self._inlined_limits(effect, deps, order, candidates, estimates)
            wanted = self._wanted_events()
            if self.wrapper and not self.is_retired:  # generated here, without the lock
                self._code(self._kind(effect, deps, order, inlined))
            with runtime.lock:
                if epoch != runtime.epoch:
                    continue
                self.in_force.use(options, settings, self.deps, runtime.time)
                self._use(effect)
                self.by_key, self.deps, self.order = by_key, deps, order
                self.estimates, self.inlined_limits = estimates, inlined
                self.plain_type = str  # the next answer of another class is looked at for headers
                self._look_again_at(NEVER)
                runtime.bind(self)
                self._publish(candidates, *wanted)
                # Last: after an interrupt before this line, the next call binds again.
                self.candidates = candidates
                if epoch == runtime.epoch:
                    return candidates
                # A signal handler exchanged the state in the midst of that, and perhaps bound.
                self.unbind()

    def _candidates(
        self, figures: PolicyFigures | None, counts: Counts | None
    ) -> dict[str, Candidate]:
        """Return ``{key: candidate}`` of all targets, in declared order."""
        return {
            target.key: Candidate(
                target,
                runtime.registry.circuit(target.key),
                self.invokers[target.key],
                is_generator=self.generators[target.key],
                keep=None if figures is None else figures.keep_of(target.key),
                counts=None if counts is None else counts.target(target.key),
                limits=limits_on(target.key, target.provider_key, target.tags),
            )
            for target in self.policy.chain
        }

    def _deps(
        self,
        effect: OptionsEffect,
        settings: Settings,
        candidates: Iterable[Candidate],
        figures: PolicyFigures | None,
        counts: Counts | None,
    ) -> CallDeps:
        """Return what call flows need of the present state."""
        return CallDeps(
            classify=functools.partial(classify.under, settings.on_memory_pressure),
            notice=notice_client_retries,
            fails_first=runtime.dispatcher.fails_first,
            backoff=effect.backoff,
            budgets=runtime.budgets,
            settings=settings,
            rng=runtime.rng,
            item_inspector=runtime.item_inspector,
            clock=runtime.clock,
            counts=counts,
            figures=figures,
            spending=self._spending(effect, settings, candidates),
            hear=hear_if_any if settings.listen else None,
            tell_unhedged=functools.partial(tell_unhedged, self.injection.called),
        )

    def _order(
        self, options: Options, candidates: tuple[Candidate, ...], deps: CallDeps
    ) -> ChainOrder | KeyedOrder | UsersOrder | None:
        """Return how each call orders its targets; None if by priority."""
        counts = deps.counts
        adaptive = runtime.order_of(self.policy, options.adaptive)
        return order_for(
            options,
            candidates,
            settings=deps.settings,
            rng=runtime.rng,
            clock=runtime.clock,
            step_of=lambda name: runtime.figures_of(self.policy).step_of(name),
            figures=deps.figures,
            in_flight=counts.of if isinstance(counts, FunctionInFlight) else None,
            adjustment=None
            if adaptive is None
            else Adapting(adaptive, candidates, options, counts),
            has_room=room_in(deps.spending)
            if deps.settings.budgets and deps.spending is not None
            else None,
        )

    def asks_each(self, candidates: tuple[Candidate, ...]) -> bool:
        """Return whether each attempt has to ask limits or budgets."""
        return self.estimates is not None or any(each.limits is not None for each in candidates)

    def _spending(
        self, effect: OptionsEffect, settings: Settings, candidates: Iterable[Candidate]
    ) -> Spending | None:
        """Return where attempts are booked or settled; None if nobody asks what they use.

        They are booked if budgets are configured or somebody observes it by name: an observer of
        all events does not count, since each call would pay for it. Else limits of tokens may ask.
        """
        is_booked = bool(settings.budgets) or runtime.dispatcher.listeners.is_named(
            event_names.SpendRecorded
        )
        # The store that has shared limits is asked by the ledger.
        is_booked = is_booked or any(
            each.limits is not None and each.limits.is_shared for each in candidates
        )
        if not is_booked and not any(
            each.limits is not None and each.limits.has_tokens for each in candidates
        ):
            return None
        own = own_reader(effect.options.usage, self.injection.called)
        return spending(own, is_booked=is_booked)

    def _counts(self, options: Options) -> Counts | None:
        """Return where calls of the function are counted now, if they are."""
        if options.strategy == "least_busy":
            runtime.count_in_flight(self)
        else:
            runtime.in_flight.leave(self)
        chain, ledger, keys = self.policy.chain, runtime.dispatcher.ledger, runtime.in_flight
        exported = None if ledger is None else ledger.bound(self, self.injection.called, chain)
        return FunctionInFlight(keys, chain, exported) if keys.is_used else exported

    def _wanted_events(self) -> tuple[bool, bool, bool]:
        """Return whether somebody wants to know of answers, of failures, and of skipped targets.

        Asks the log, which is foreign code, so it is called without a lock.
        """
        is_exported = runtime.dispatcher.ledger is not None
        return (
            self._is_listened_to(event_names.AttemptSucceeded)
            or (bool(runtime.settings.budgets) and self._is_listened_to(event_names.SpendRecorded)),
            is_exported
            or runtime.in_flight.is_used
            or self._is_listened_to(event_names.AttemptFailed)
            or self._is_listened_to(event_names.FailedOver),
            is_exported or self._is_listened_to(event_names.TargetSkipped),
        )

    def _publish(
        self,
        candidates: tuple[Candidate, ...],
        is_watched: bool,
        hears_failures: bool,
        tells_skips: bool,
    ) -> None:
        """Put into the wrapper what its healthy path reads. Called under the runtime's lock."""
        self._watch(is_watched)
        self.hears_failures = hears_failures
        if not self.wrapper or self.is_retired or self.in_state is not runtime.in_force:
            return  # a call that began before the last change binds it, and no later one may come
        if self.effect.is_inlined and runtime.dispatcher.hooks:
            return
        kind = self._kind(self.effect, self.deps, self.order, self.inlined_limits)
        self._use_code(kind)
        if not self.effect.is_inlined:
            return
        if self.asks_each(candidates):
            if kind.limited is not None:
                self._publish_limited()
            return
        self._publish_inlined(candidates, tells_skips=tells_skips)

    def _publish_inlined(self, candidates: tuple[Candidate, ...], *, tells_skips: bool) -> None:
        """Put what a wrapper reads that calls its targets by itself."""
        order = self.order
        counts = None if self.deps is None else self.deps.counts
        if counts is not None:
            if not window.LOCK_FREE:
                return  # each call takes a lock anyway, so the `Caller` makes it
            self._put(target_counts=counts.target(candidates[0].target.key))
        if isinstance(order, ChainOrder):
            self._put(clock=runtime.clock)
            draw = order.draw_if_all_live if tells_skips else order.draw_at_once
            self._put_circuits(self.variants[-1], Unbound, Unbound, (), Drawing(draw))
            return
        if self.effect.lacks:
            candidates, chain = self._capable_of(candidates), candidates
            if not candidates or (tells_skips and candidates[0] is not chain[0]):
                self._put_circuits(self.variants[-1], Unbound, Unbound, ())
                return  # each call has skips to tell of
        others: tuple[tuple[Any, Target], ...] = ()
        if not tells_skips:
            others = tuple((candidate.circuit, candidate.target) for candidate in candidates[1:])
        second, second_target = others[0] if others else (Unbound, candidates[0].target)
        self._put(target=candidates[0].target, clock=runtime.clock)
        self._put(second_target=second_target)
        self._put_circuits(self.variants[-1], candidates[0].circuit, second, others)

    def _publish_limited(self) -> None:
        """Put what a wrapper reads that takes by itself what its first target asks."""
        self._put(clock=runtime.clock)
        self._put_circuits(self.variants[-1], self.inlined_limits, Unbound, ())

    def _capable_of(self, candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        """Return those that can take every call of the function."""
        lacks = self.effect.lacks
        return tuple(each for each in candidates if each.target.key not in lacks)

    def _is_listened_to(self, kind: event_names.EventName) -> bool:
        return bool(self.policy.options.observers) or runtime.dispatcher.has_listeners(kind)

    def _watch(self, is_watched: bool) -> None:
        """Have each answer looked at if somebody wants to know of it, and only then."""
        self.is_watched = is_watched
        self.is_asked = (
            is_watched
            or (self.effect.needs_figures and not isinstance(self.order, ChainOrder))
            or self.options.reject is not None
            or bool(runtime.dispatcher.hooks)
        )
        quiet_type = NoAnswer if self.is_asked else self.plain_type
        # The wrapper counts by itself, and the `Caller` where it looks at an answer.
        is_counted = self.deps is not None and self.deps.keeps_figures
        self.quiet_type = NoAnswer if is_counted else quiet_type
        if self.wrapper:
            self.wrapper[self.plain_type_name] = quiet_type

    def _see_plain(self, plain_type: type) -> None:
        """Remember the class of a plain answer, so that the next is recognised at once.

        Another thread, or a signal handler, may be in `_watch`, and that must not be undone.
        So nothing is called between the question and the stores: then neither comes between
        (see the theory of operation in _core/circuit/window.py). On an interpreter without a
        global lock it is called under the runtime's lock, as `_watch` is.
        """
        self.plain_type = plain_type
        if not self.is_asked:
            if self.deps is None or not self.deps.keeps_figures:
                self.quiet_type = plain_type
            if self.wrapper:
                self.wrapper[self.plain_type_name] = plain_type

    def _look_again_at(self, moment: float) -> None:
        """Look at the level of the log with the first answer after this moment."""
        self.look_at = moment
        if self.wrapper:
            self._put(look_at=moment)

    def unbind(self) -> None:
        """Send the next call here; called with the runtime's lock held."""
        self.candidates = None
        if self.wrapper and not self.is_retired:
            for variant in self.variants:
                self._put_circuits(variant, Unbound, Unbound, ())
            self._put(target_counts=None)
            self.pass_arguments_on()

    def _kind(
        self,
        effect: OptionsEffect,
        deps: CallDeps | None,
        order: ChainOrder | KeyedOrder | UsersOrder | None,
        inlined: InlinedLimits | None = None,
    ) -> Kind:
        """Return which code the wrapper is to have."""
        by_invoker = self.calls_by_invoker
        if effect.takes_call:
            return Kind(by_invoker, order="passed")
        if not effect.is_inlined:
            return Kind(by_invoker)
        counts = deps.counts if deps is not None and window.LOCK_FREE else None
        return Kind(
            by_invoker,
            limited=None if inlined is None else inlined.kind,
            counting=counts is not None and counts.is_exported,
            in_flight=isinstance(counts, FunctionInFlight),
            measuring=order is not None and effect.needs_figures,
            carries_ids=call_ids.switch.is_on,
            order="" if order is None else "drawn",
        )

    def _inlined_limits(
        self,
        effect: OptionsEffect,
        deps: CallDeps,
        order: ChainOrder | KeyedOrder | UsersOrder | None,
        candidates: tuple[Candidate, ...],
        estimates: Demands | None,
    ) -> InlinedLimits | None:
        """Return what a wrapper reads to take by itself what its first target asks, if it can."""
        if (
            order is not None
            or deps.keeps_figures
            or effect.lacks
            or not effect.is_inlined
            or not window.LOCK_FREE
            or call_ids.switch.is_on
        ):
            return None
        return inlined_limits(
            candidates[0], deps.spending, estimates, has_budgets=bool(deps.settings.budgets)
        )

    def pass_arguments_on(self) -> None:
        """Have an unbound wrapper pass its arguments on as they are, if a function wants that."""
        strategy = self.policy.options.strategy
        if "strategy" not in self.policy.named:
            strategy = runtime.settings.strategy
        if takes_call(self.policy.options, strategy):
            self._use_code(Kind(self.calls_by_invoker, order="passed"))


def _with_argument(
    invoke: Callable[..., Any], rebound: Callable[..., Any], changes: dict[str, Any]
) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]:
    """Return an invoker that calls another one with other values for some arguments."""

    def changed(step: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = rebound(args, kwargs, changes)
        return invoke(step, args, kwargs)

    return changed


def _warn_of_unused_keys() -> None:
    """Log which keys of new options no policy has."""
    if runtime.options_to_check:
        from resilient_llm._runtime.unused_keys import warn_of_unused_keys

        warn_of_unused_keys()
