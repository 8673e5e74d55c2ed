"""`Binding`: takes what the calls of one function read from the state of the process.

Circuits, clock and settings come from the runtime, and the part of them that the healthy path
reads is put into the generated wrapper. The wrapper is unbound when that state is exchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._binding.choosing import Pins
from resilient_llm._binding.client_retries import notice_client_retries
from resilient_llm._binding.first_attempt import NoAnswer, PendingAnswer
from resilient_llm._binding.invoking import called_injection, invoker_of
from resilient_llm._binding.options_in_force import OptionsInForce
from resilient_llm._core.backoff import as_backoff
from resilient_llm._core.call.call import CallDeps, Candidate
from resilient_llm._core.circuit.window import NEVER
from resilient_llm._drive.results import is_awaitable
from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.tracing import has_trace, open_traces
from resilient_llm._values import event_names

if TYPE_CHECKING:
    import types
    from collections.abc import Callable

    from resilient_llm._binding.injection import Injection
    from resilient_llm._values.policy import Options, Policy
    from resilient_llm._values.target import Target


class Unbound:
    """Stands in an unbound wrapper for a circuit: it never admits a call."""

    slot = None
    shut_until = NEVER


class Binding:
    """Binds one function under one policy to the present state of the process."""

    def __init__(self, policy: Policy, injection: Injection) -> None:
        self.policy = policy
        self.injection = injection
        chain = policy.chain
        called = [called_injection(target, injection) for target in chain]
        self.invokers = {
            target.key: invoker_of(target, each, injection)
            for target, each in zip(chain, called, strict=True)
        }
        """``{key: function that calls the target}``"""
        self.generators = {
            target.key: bool(each.gives_items) for target, each in zip(chain, called, strict=True)
        }
        self.pins = Pins(chain, injection.names)
        self.takes_attempt = any(each.attempt is not None for each in called)
        self.calls_by_invoker = any(
            target.call is not None or target.params or target.removed for target in chain
        )
        """Whether the wrapper calls its targets through ``invokers``."""
        self.in_force = OptionsInForce(policy, injection)
        self._use(policy.options)
        self.candidates: tuple[Candidate, ...] | None = None
        self.by_key: dict[str, Candidate] = {}
        self.deps: CallDeps | None = None
        self.wrapper: dict[str, Any] = {}
        self.prefix = ""
        self.plain_type: type = str
        """The class of the last answer that was no stream and no awaitable."""
        self.quiet_type: type = NoAnswer
        """``plain_type`` if nobody wants to know of answers, else a class that no answer has."""
        self.is_watched = True
        """Whether an observer or the log wants to know of each answer."""
        self.look_at = NEVER
        """When the level of the log is looked at again, which changes without notice."""

    # Binding.

    def _use(self, options: Options) -> None:
        """Make calls with these options from now on."""
        injection, chain = self.injection, self.policy.chain
        self.options = options
        self.backoff = as_backoff(options.backoff)
        self.reject = options.reject
        self.limits: dict[str, float | None] = {
            target.key: (
                options.attempt_timeout
                if target.attempt_timeout is None
                else target.attempt_timeout
            )
            for target in chain
        }
        """``{key: seconds that an attempt may take, within the deadline}``"""
        self.is_stream = bool(injection.gives_items) or any(
            each is not None for each in (options.stream, *(target.stream for target in chain))
        )
        """Whether its results are known to be streams."""
        self.has_limits = options.timeout is not None or any(
            limit is not None for limit in self.limits.values()
        )
        self.needs_limits = self.has_limits and (injection.is_async or self.takes_attempt)
        """Whether a first attempt must know its limit, to keep it or to pass it on."""
        self.cuts_off = self.has_limits and injection.is_async
        """Whether attempts are cut off at their limit."""
        self.is_inlined = not (
            self.is_stream or self.takes_attempt or self.cuts_off or options.strategy != "priority"
        )
        """Whether the wrapper may make the first attempt by itself.

        This is the only list of what it cannot do.
        """

    def bound(self) -> tuple[Candidate, ...]:
        """Return the candidates in the present state, by priority; bind first if unbound."""
        candidates = self.candidates
        return self._bind() if candidates is None else candidates

    def _bind(self) -> tuple[Candidate, ...]:
        while True:
            epoch = runtime.epoch
            by_key = {
                target.key: Candidate(
                    target,
                    runtime.registry.circuit(target.key),
                    self.invokers[target.key],
                    is_generator=self.generators[target.key],
                )
                for target in self.policy.chain
            }
            if self.in_force.use(runtime.settings, self.deps, runtime.clock()):
                self._use(self.in_force.options)
            deps = CallDeps(
                classify=classify,
                notice=notice_client_retries,
                fails_first=runtime.dispatcher.fails_first,
                backoff=self.backoff,
                budgets=runtime.budgets,
                settings=runtime.settings,
                rng=runtime.rng,
                item_inspector=runtime.item_inspector,
            )
            if self.is_stream:
                deps.item_inspector()  # its import must not count as waiting for a provider
            candidates = tuple(by_key[target.key] for target in self.policy.in_priority)
            with runtime.lock:
                if epoch != runtime.epoch:
                    continue  # the state was exchanged meanwhile
                self.by_key, self.deps = by_key, deps
                self._look_again_at(NEVER)
                runtime.bind(self)
                self._publish(candidates)
                # Last: after an interrupt before this line, the next call binds again.
                self.candidates = candidates
                return candidates

    def _publish(self, candidates: tuple[Candidate, ...]) -> None:
        """Put into the wrapper what its healthy path reads."""
        self._watch()
        if not self.wrapper or not self.is_inlined:
            return
        others: tuple[tuple[Any, Target], ...] = ()
        if not self._is_listened_to(event_names.TargetSkipped):
            others = tuple((candidate.circuit, candidate.target) for candidate in candidates[1:])
        second, second_target = others[0] if others else (Unbound, candidates[0].target)
        # The circuit last: once it is there, the wrapper reads the rest.
        self._put(target=candidates[0].target, clock=runtime.clock, others=others)
        self._put(second=second, second_target=second_target, circuit=candidates[0].circuit)

    def _is_listened_to(self, kind: event_names.EventName) -> bool:
        return bool(self.options.observers) or runtime.dispatcher.has_listeners(kind)

    def _watch(self) -> None:
        """Have each answer looked at if somebody wants to know of it, and only then."""
        self.is_watched = self._is_listened_to(event_names.AttemptSucceeded)
        is_asked = self.is_watched or self.options.reject is not None
        self.quiet_type = NoAnswer if is_asked else self.plain_type
        if self.wrapper:
            self._put(plain_type=self.quiet_type)

    def _look_again_at(self, moment: float) -> None:
        """Look at the level of the log with the first answer after this moment."""
        self.look_at = moment
        if self.wrapper:
            self._put(look_at=moment)

    def unbind(self) -> None:
        """Send the next call here; called with the runtime's lock held."""
        self.candidates = None
        if self.wrapper:
            self._put(circuit=Unbound, second=Unbound, others=())

    def _put(self, **values: Any) -> None:
        for name, value in values.items():
            self.wrapper[self.prefix + name] = value

    def _wrapped(
        self, code: types.CodeType, prefix: str, **handlers: Callable[..., Any]
    ) -> dict[str, Any]:
        """Return the globals of a wrapper with this code, unbound.

        Args:
            code: The code.
            prefix: Of the names of the globals.
            **handlers: What the wrapper calls where its healthy path ends.
        """
        self.prefix = prefix
        self.wrapper = {
            "__builtins__": __builtins__,
            "__name__": getattr(self.injection.fn, "__module__", __name__),
        }
        self._put(
            circuit=Unbound,
            second=Unbound,
            others=(),
            target=self.policy.chain[0],
            second_target=self.policy.chain[0],
            clock=runtime.clock,
            fn=self.injection.fn,
            invokers=self.invokers,
            open_traces=open_traces,
            has_trace=has_trace,
            type=type,
            is_awaitable=is_awaitable,
            plain_type=NoAnswer,
            look_at=NEVER,
            pending_answer=PendingAnswer,
            **handlers,
        )
        return self.wrapper
