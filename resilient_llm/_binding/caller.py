"""`Caller`: binds one function to the present state, and makes the calls of its wrapper.

A `Caller` belongs to one policy and one function. It binds: it takes circuits, clock and
settings from the runtime and puts into the generated wrapper what the healthy path reads.
The wrapper hands over what it does not do itself: the first call, a bench, a pinned call,
an open trace, an error.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from resilient_llm._binding.client_retries import notice_client_retries
from resilient_llm._binding.injection import injection_of
from resilient_llm._binding.pinning import find_target
from resilient_llm._core.call.call import Call, CallDeps, Candidate, share_of
from resilient_llm._core.call.call_flow import call_flow
from resilient_llm._core.call.steps import Reply, Reraise, Try
from resilient_llm._core.circuit.permit import permit_of_inlined
from resilient_llm._core.circuit.window import NEVER
from resilient_llm._drive.handover import adrive, drive
from resilient_llm._drive.results import kind_of
from resilient_llm._drive.session import Suspended
from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.tracing import named_call_id, note_call, open_trace
from resilient_llm._values import event_names
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    import types
    from collections.abc import Awaitable, Callable

    from resilient_llm._binding.injection import Injection
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step
    from resilient_llm._core.circuit.circuit import Circuit
    from resilient_llm._core.circuit.window import Generation
    from resilient_llm._runtime.clock import CancelScope
    from resilient_llm._values.policy import Policy
    from resilient_llm._values.target import Target


class Unbound:
    """Stands in an unbound wrapper for a circuit: it never admits a call."""

    slot = None
    shut_until = NEVER


class PendingStream:
    """A stream that an asynchronous function returned, not yet awaited to its first content."""

    __slots__ = ("_go",)

    def __init__(self, go: Callable[[], Awaitable[Any]]) -> None:
        self._go = go

    def __call__(self) -> Awaitable[Any]:
        return self._go()


class PendingCall:
    """A call flow that the healthy path handed over after its first attempt failed."""

    __slots__ = ("call", "step", "steps")

    def __init__(self, call: Call, steps: CallFlow, step: Step) -> None:
        self.call = call
        self.steps = steps
        self.step: Step | None = step


class Caller:
    """Makes the calls of one function under one policy."""

    def __init__(self, policy: Policy, injection: Injection) -> None:
        self.policy = policy
        self.injection = injection
        called = [_called(target, injection) for target in policy.chain]
        self.invokers = [
            (each.invoker(target), bool(each.gives_items))
            for target, each in zip(policy.chain, called, strict=True)
        ]
        """``(function that calls it, whether that is a generator function)`` for each target."""
        self.candidates: tuple[Candidate, ...] | None = None
        self.deps: CallDeps | None = None
        self.wrapper: dict[str, Any] = {}
        self.prefix = ""
        self.plain = self._is_plain()
        options = policy.options
        self.is_limited = injection.is_async and (
            options.timeout is not None or options.attempt_timeout is not None
        )
        """Whether its attempts are cut off at a limit, which the generated wrapper cannot do."""
        self.quiet = False
        """Whether nothing listens to successes."""
        self.is_stream = bool(injection.gives_items) or any(
            each is not None
            for each in (options.stream, *(target.stream for target in policy.chain))
        )
        """Whether its results are known to be streams."""

    # Binding.

    def _is_plain(self) -> bool:
        """Return whether the healthy path may make the first attempt by itself.

        This is the only list of what it cannot do: the call flow does the calls listed here.
        """
        options, injection = self.policy.options, self.injection
        return not (
            options.reject is not None
            or options.observers
            or options.stream is not None
            or injection.gives_items
            or options.strategy != "priority"
            or injection.attempt is not None
            or any(
                target.call is not None
                or target.params
                or target.removed
                or target.attempt_timeout is not None
                or target.stream is not None
                for target in self.policy.chain
            )
        )

    def bound(self) -> tuple[Candidate, ...]:
        """Return the candidates in the present state, by priority; bind first if unbound."""
        candidates = self.candidates
        return self._bind() if candidates is None else candidates

    def _bind(self) -> tuple[Candidate, ...]:
        with runtime.lock:
            targets = self.policy.chain
            by_key = {
                target.key: Candidate(
                    target, runtime.registry.circuit(target.key), invoke, is_generator=is_generator
                )
                for target, (invoke, is_generator) in zip(targets, self.invokers, strict=True)
            }
            candidates = tuple(by_key[target.key] for target in self.policy.in_priority)
            self.deps = CallDeps(
                classify=classify,
                notice=notice_client_retries,
                backoff=self.policy.backoff,
                budgets=runtime.budgets,
                settings=runtime.settings,
                rng=runtime.rng,
                item_inspector=runtime.item_inspector,
            )
            if self.is_stream:
                self.deps.item_inspector()  # its import must not count as waiting for a provider
            self.candidates = candidates
            runtime.bind(self)
            dispatcher = runtime.dispatcher
            self.quiet = (
                self.plain
                and not runtime.open_traces
                and not dispatcher.has_listeners(event_names.AttemptSucceeded)
            )
            if self.wrapper and self.quiet and not self.is_limited:
                others = (
                    ()
                    if dispatcher.has_skip_listeners()
                    else tuple(
                        (candidate.circuit, candidate.target) for candidate in candidates[1:]
                    )
                )
                second, second_target = others[0] if others else (Unbound, candidates[0].target)
                # The circuit last: once it is there, the wrapper reads the rest.
                self._put(target=candidates[0].target, clock=runtime.clock, others=others)
                self._put(second=second, second_target=second_target, circuit=candidates[0].circuit)
            return candidates

    def unbind(self) -> None:
        """Send the next call here; called with the runtime's lock held."""
        self.candidates = None
        if self.wrapper:
            self._put(circuit=Unbound, second=Unbound, others=())

    def _put(self, **values: Any) -> None:
        for name, value in values.items():
            self.wrapper[self.prefix + name] = value

    def wrap(self, code: types.CodeType, prefix: str) -> dict[str, Any]:
        """Return the globals of a wrapper with this code, unbound."""
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
            type=type,
            plain_type=str,
            entry=self.entry,
            pending_stream=PendingStream,
            on_failure=self.on_failure,
            resume=self.resume_async if self.injection.is_async else self.resume,
            on_success=self.on_success,
        )
        return self.wrapper

    # Entries.

    @property
    def entry(self) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        """The method that makes a call of this kind of function."""
        if self.injection.gives_items:
            return self.stream
        return self.call_async if self.injection.is_async else self.call

    def stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return an iterator that makes one call when its first item is asked for."""

        def start() -> Suspended:
            call = self.new_call(args, kwargs)
            steps = call_flow(call, runtime.clock())
            return Suspended(call, steps, next(steps))

        if self.injection.gives_items == "sync":
            from resilient_llm._drive import streams

            return streams.StreamSession(start).generator()
        from resilient_llm._drive import astreams

        return astreams.StreamSession(start).present()

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one call through the call flow; return an awaitable if the function does."""
        call = self.new_call(args, kwargs)
        steps = call_flow(call, runtime.clock())
        return drive(call, steps, next(steps))

    async def call_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one call through the call flow, or its first attempt without it if possible."""
        if self.is_limited:
            candidates = self.bound()
            generation = candidates[0].circuit.slot
            # The limit of this attempt depends on whether another target is live.
            is_plain = self.quiet and (
                len(candidates) == 1 or candidates[1].circuit.slot is not None
            )
            if is_plain and generation is not None and not self._pinned(kwargs)[1]:
                return await self._limited(candidates, generation, args, kwargs)
        call = self.new_call(args, kwargs)
        del args, kwargs
        steps = call_flow(call, runtime.clock())
        return await adrive(call, steps, next(steps))

    async def _limited(
        self,
        candidates: tuple[Candidate, ...],
        generation: Generation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Make the first attempt of a plain policy with limits; resume the flow if it fails."""
        from resilient_llm._drive import aio

        options, candidate = self.policy.options, candidates[0]
        limit, ends_deadline = options.attempt_timeout, False
        if options.timeout is not None:
            limit, ends_deadline = share_of(options.timeout, limit, is_last=len(candidates) == 1)
        assert limit is not None
        entered_at = runtime.clock()
        scope: CancelScope | None = None
        value = aio.CUT_OFF
        try:
            with runtime.time.cancel_after(limit) as scope:
                value = await candidate.invoke(None, args, self._pinned(kwargs)[0])
            if value is aio.CUT_OFF:
                raise aio.no_answer(limit)
        except BaseException as error:
            timed_out = scope is not None and scope.cancel_called and isinstance(error, Exception)
            pending_call = self.on_failure(
                generation,
                entered_at,
                candidate.target,
                error,
                timed_out=timed_out,
                ends_deadline=ends_deadline,
            )
            if pending_call is None:
                raise
        else:
            ended_at = runtime.clock()
            if (
                ended_at >= generation.check_after
                or ended_at - entered_at >= generation.slow_above
                or type(value) is not self.wrapper.get(self.prefix + "plain_type")
            ):
                value = self.on_success(
                    generation, entered_at, ended_at, candidate.target, value, args, kwargs
                )
                return await value() if type(value) is PendingStream else value
            generation.n += 1
            return value
        finally:
            scope = None
        return await self.resume_async(pending_call, args, kwargs)

    def new_call(
        self,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        entered_at: float | None = None,
    ) -> Call:
        """Return a call with its targets in order, named, timed and traced."""
        candidates = self.bound()
        options = self.policy.options
        if kwargs:
            kwargs, pinned = self._pinned(kwargs)
            candidates = (
                candidates
                if pinned is None
                else (next(candidate for candidate in candidates if candidate.target is pinned),)
            )
        if options.strategy != "priority" and len(candidates) > 1:
            candidates = self._ordered(candidates)
        trace = open_trace()
        now = runtime.clock() if entered_at is None else entered_at
        assert self.deps is not None
        call = Call(
            options,
            candidates,
            self.deps,
            named_call_id(trace) or f"{runtime.rng.getrandbits(64):016x}",
            None if options.timeout is None else now + options.timeout,
            knows_limit=self.injection.is_async or self.injection.attempt is not None,
        )
        call.args, call.kwargs = args, kwargs or {}
        call.is_stream = self.is_stream
        call.rebind = self.injection.rebound
        if trace is not None:
            note_call(trace, call)
        return call

    def _ordered(self, candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        by_target = {candidate.target.key: candidate for candidate in candidates}
        targets = list(
            self.policy.options.strategy(tuple(candidate.target for candidate in candidates))
        )
        unknown = [target for target in targets if getattr(target, "key", None) not in by_target]
        if unknown or not targets:
            raise ConfigurationError(
                "strategy gave no target, or one that is not in the chain: "
                "return some of those it was given"
            )
        return tuple(by_target[target.key] for target in dict.fromkeys(targets))

    def _pinned(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Target | None]:
        """Remove the arguments that pin the call to one target; return the rest and the target."""
        names = self.injection.names
        if not names:
            return kwargs, None
        rest = {
            name: value for name, value in kwargs.items() if name not in names or value is not None
        }
        pinned: Target | None = None
        for name in names:
            if name in rest and name != "provider":
                found = find_target(self.policy.chain, name, rest.pop(name))
                if pinned is not None and found is not pinned:
                    raise ValueError(
                        f"target= and model= name different targets: {pinned.key} and {found.key}"
                    )
                pinned = found
        return rest, pinned

    # Called by the healthy path.

    def on_failure(
        self,
        generation: Generation,
        entered_at: float,
        target: Target,
        error: BaseException,
        *,
        timed_out: bool = False,
        ends_deadline: bool = False,
    ) -> PendingCall | None:
        """Start a call flow after a failed first attempt; None if the error is raised unchanged.

        Args:
            generation: The closed period that admitted it.
            entered_at: When it was admitted.
            target: The target of the attempt.
            error: What it raised.
            timed_out: Whether it was cut off by its limit.
            ends_deadline: Whether that limit was the end of the whole deadline.
        """
        now = runtime.clock()
        call = self.new_call(entered_at=entered_at)
        candidate = call.candidates[0]
        if candidate.target is not target:
            candidate = next(
                candidate for candidate in call.candidates if candidate.target is target
            )
        permit = permit_of_inlined(candidate.circuit, generation, entered_at)
        steps = call_flow(
            call,
            now,
            (candidate, permit, Reply(now, error=error, timed_out=timed_out), ends_deadline),
        )
        step = next(steps)
        if type(step) is Reraise:
            steps.close()
            call.clear()
            return None
        return PendingCall(call, steps, step)

    def resume(
        self, pending_call: PendingCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go on with the call flow after a failed first attempt."""
        call, step = self._resumed(pending_call, args, kwargs)
        return drive(call, pending_call.steps, step)

    async def resume_async(
        self, pending_call: PendingCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go on with the call flow after a failed first attempt."""
        call, step = self._resumed(pending_call, args, kwargs)
        del args, kwargs
        return await adrive(call, pending_call.steps, step)

    def _resumed(
        self, pending_call: PendingCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Call, Step]:
        call, step = pending_call.call, pending_call.step
        pending_call.step = None
        assert step is not None
        call.args = args
        call.kwargs, _ = self._pinned(kwargs)
        return call, step

    def on_success(
        self,
        generation: Generation,
        entered_at: float,
        ended_at: float,
        target: Target,
        result: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Report a success that needs more than a count; return the answer."""
        if type(result) is not self.wrapper.get(self.prefix + "plain_type"):
            if not self.injection.is_async and inspect.isawaitable(result):
                return self._guard_awaitable(generation, entered_at, target, result, args, kwargs)
            if kind_of(result) is not None:
                return self._guard_stream(entered_at, target, result, args, kwargs)
            self._put(plain_type=type(result))
        took = ended_at - entered_at
        if ended_at < generation.check_after and took < generation.slow_above:
            generation.n += 1
        elif not generation.answered(ended_at, took, took):
            permit_of_inlined(self._circuit(target), generation, entered_at).succeeded(
                ended_at, took
            )
        if runtime.dispatcher.has_listeners(event_names.AttemptSucceeded):
            # The log level was lowered after the binding: emit this event, then unbind, so that
            # the next calls come through the caller.
            call = self.new_call(entered_at=entered_at)
            self._circuit(target).emit(
                event_names.AttemptSucceeded, ended_at, number=1, seconds=took, tag=call.tag
            )
            runtime.unbind_all()
        return result

    def _circuit(self, target: Target) -> Circuit:
        return next(candidate.circuit for candidate in self.bound() if candidate.target is target)

    async def _guard_awaitable(
        self,
        generation: Generation,
        entered_at: float,
        target: Target,
        result: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Guard an awaitable that a plain function returned."""
        options = self.policy.options
        if options.timeout is not None or options.attempt_timeout is not None:
            return await self._adopt_awaitable(result, target, args, kwargs)
        try:
            value = await result
        except BaseException as error:
            pending_call = self.on_failure(generation, entered_at, target, error)
            if pending_call is None:
                raise
        else:
            if kind_of(value) is not None:
                return await self._guard_stream_async(entered_at, target, value, args, kwargs)
            permit_of_inlined(self._circuit(target), generation, entered_at).succeeded(
                now := runtime.clock(), now - entered_at
            )
            return value
        return await self.resume_async(pending_call, args, kwargs)

    def _guard_stream(
        self,
        entered_at: float,
        target: Target,
        stream: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Guard a stream that the healthy path got as a result."""
        if self.injection.is_async:
            return PendingStream(
                lambda: self._guard_stream_async(entered_at, target, stream, args, kwargs)
            )
        call, steps, step, fits = self._start_at_first_attempt(entered_at, target, args, kwargs)
        if fits:
            return drive(call, steps, step, pending=stream)
        with suppress(Exception):
            stream.close()
        return drive(call, steps, step)

    async def _guard_stream_async(
        self,
        entered_at: float,
        target: Target,
        stream: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        from resilient_llm._drive import aopening

        call, steps, step, fits = self._start_at_first_attempt(entered_at, target, args, kwargs)
        if fits:
            return await adrive(call, steps, step, pending=stream)
        await aopening.close(stream)
        return await adrive(call, steps, step)

    def _start_at_first_attempt(
        self, entered_at: float, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Call, CallFlow, Step, bool]:
        """Start a call flow at the first attempt, which the healthy path made already.

        Returns:
            The call, its flow, the first step, and whether that step is the same attempt.
        """
        call = self.new_call(args, kwargs, entered_at=entered_at)
        steps = call_flow(call, entered_at)
        step = next(steps)
        return call, steps, step, type(step) is Try and step.candidate.target is target

    async def _adopt_awaitable(
        self, result: Any, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Let the call flow limit an awaitable that the healthy path got as a result."""
        call = self.new_call(args, kwargs)
        steps = call_flow(call, runtime.clock())
        step = next(steps)
        fits = type(step) is Try and step.candidate.target is target
        if not fits and inspect.iscoroutine(result):
            result.close()
        return await adrive(call, steps, step, pending=result if fits else None)


def _called(target: Target, injection: Injection) -> Injection:
    """Return the injection of a target's own ``call=``, else of the decorated function."""
    if target.call is not None:
        return injection_of(target.call, every_entry_calls=True)
    if injection.first is None and "target" not in injection.names:
        lost = sorted(name for name in target.params if not injection.accepts(name))
        if lost:
            raise ConfigurationError(
                f"params of {target.key} would be lost: the function takes no {', '.join(lost)}; "
                "give it such a parameter, **kwargs, or a Target"
            )
    return injection
