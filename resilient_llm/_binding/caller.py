"""`Caller`: makes the calls of one function that its wrapper does not make by itself.

A `Caller` belongs to one policy and one function. Its wrapper makes healthy calls by itself,
with what `Binding` puts into it. The wrapper hands over what it does not do itself: the first
call, a bench, a pinned call, a call inside a trace, an error, and answers of which somebody
wants to know.

A first attempt is made before there is a `Call` and a call flow, by the wrapper or here. Only
what goes on after it needs them: the call flow then starts with that attempt running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._binding.binding import Binding
from resilient_llm._binding.choosing import ordered
from resilient_llm._binding.first_attempt import FirstAttempt, PendingAnswer, PendingCall
from resilient_llm._core.call.call import Call, Candidate, share_of
from resilient_llm._core.call.call_flow import call_flow, running_attempt
from resilient_llm._core.call.judging import fault_of
from resilient_llm._core.call.steps import NO_ANSWER, Reply, Reraise
from resilient_llm._core.circuit import window
from resilient_llm._core.circuit.outbox import CallTag
from resilient_llm._core.circuit.permit import permit_of_inlined
from resilient_llm._drive.cancellation import was_cancelled, was_cut_off
from resilient_llm._drive.handover import adrive, drive
from resilient_llm._drive.results import is_awaitable, is_decided_by_class, kind_of
from resilient_llm._drive.session import Suspended
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.tracing import named_call_id, note_call, open_trace
from resilient_llm._values.kinds import AttemptRecord

if TYPE_CHECKING:
    import types
    from collections.abc import Callable

    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step, Try
    from resilient_llm._core.circuit.window import Generation
    from resilient_llm._values.target import Target
    from resilient_llm._values.verdict import Verdict


LOOK_AGAIN: Final = 1.0
"""Seconds after which a function that is not watched looks at the level of the log again.

That changes without notice. A function that is watched looks more often, since it would save more.
"""


class Caller(Binding):
    """Makes the calls of one function under one policy."""

    def wrap(self, code: types.CodeType, prefix: str) -> dict[str, Any]:
        """Return the globals of a wrapper with this code, unbound."""
        return self._wrapped(
            code,
            prefix,
            entry=self.entry,
            on_failure=self.on_failure,
            on_success=self.on_success,
            resume=self.resume_async if self.injection.is_async else self.resume,
        )

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
            call = self.new_call(args, self.begin(kwargs))
            flow = call_flow(call, runtime.clock())
            return Suspended(call, flow, next(flow))

        if self.injection.gives_items == "sync":
            from resilient_llm._drive import streams

            return streams.StreamSession(start).generator()
        from resilient_llm._drive import astreams

        return astreams.StreamSession(start).present()

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one call; return an awaitable if the function does."""
        first = self.begin(kwargs)
        generation = first.generation
        if generation is None:
            call = self.new_call(args, first)
            flow = call_flow(call, runtime.clock())
            return drive(call, flow, next(flow))
        candidate = first.candidate
        try:
            result = candidate.invoke(first, args, first.kwargs)
        except BaseException as error:
            pending = self._failed(first, error, cancelled=was_cut_off(error))
            if pending is None:
                raise
        else:
            ended_at = runtime.clock()
            if (
                type(result) is self.quiet_type
                and first.outcome is None
                and ended_at < generation.check_after
                and ended_at - first.entered_at < generation.slow_above
            ):
                generation.n += 1
                return result
            return self.on_success(
                generation, first.entered_at, ended_at, candidate.target, result,
                args, first.kwargs, first,
            )  # fmt: skip
        return self.resume(pending, args, first.kwargs)

    async def call_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one call; its first attempt is cut off at its limit."""
        first = self.begin(kwargs)
        generation = first.generation
        if generation is None:
            call = self.new_call(args, first)
            del args, kwargs
            flow = call_flow(call, runtime.clock())
            return await adrive(call, flow, next(flow))
        candidate, timed_out, still_counted = first.candidate, False, 0
        try:
            if first.limit is None:
                result = candidate.invoke(first, args, first.kwargs)
                if is_awaitable(result):
                    result = await result
            else:
                from resilient_llm._drive.aio import TimeLimit

                limit, result = TimeLimit(first.limit), None
                try:
                    with limit:
                        result = candidate.invoke(first, args, first.kwargs)
                        if is_awaitable(result):
                            result = await result
                finally:
                    timed_out, still_counted = limit.ended_it, limit.still_counted
                limit.check()
        except BaseException as error:
            cut_off = timed_out and issubclass(type(error), Exception)
            cancelled = was_cancelled(error, own=still_counted)
            pending = self._failed(first, error, timed_out=cut_off, cancelled=cancelled)
            if pending is None:
                raise
        else:
            ended_at = runtime.clock()
            value = self.on_success(
                generation, first.entered_at, ended_at, candidate.target, result,
                args, first.kwargs, first,
            )  # fmt: skip
            return await value() if type(value) is PendingAnswer else value
        return await self.resume_async(pending, args, first.kwargs)

    # Before the first attempt.

    def begin(self, kwargs: dict[str, Any]) -> FirstAttempt:
        """Choose the targets of a call; admit its first attempt if the call flow is not needed."""
        candidates = self.candidates
        if candidates is None:
            candidates = self._bind()
        if kwargs and self.injection.names:
            kwargs, pinned = self.pins.without(kwargs)
            if pinned is not None:
                candidates = (self.by_key[pinned.key],)
        options = self.options
        if options.strategy != "priority":
            candidates = ordered(options.strategy, candidates)
        first = FirstAttempt(candidates, candidates[0], kwargs, options, self.deps)
        trace = open_trace()
        if trace is not None:
            first.call_id = named_call_id(trace) or _new_id()
            first.outcome = note_call(trace, first.call_id)
        elif self.takes_attempt:
            first.call_id = _new_id()
        first.entered_at = runtime.clock()
        generation = candidates[0].circuit.slot
        if (
            generation is not None
            and not self.is_stream
            and (not self.needs_limits or self._limit(first))
        ):
            first.generation = generation
        return first

    def _limit(self, first: FirstAttempt) -> bool:
        """Set the limit of a first attempt; return False if that depends on more than is known."""
        candidates, timeout = first.candidates, first.options.timeout
        limit = first.limit = self.limits[first.candidate.target.key]
        first.limits = limit, False
        if timeout is not None:
            # The limit depends on whether another target is live.
            if len(candidates) > 1 and candidates[1].circuit.slot is None:
                return False
            first.limits = share_of(timeout, limit, is_last=len(candidates) == 1)
            first.limit = first.limits[0]
        return True

    def new_call(self, args: tuple[Any, ...], first: FirstAttempt) -> Call:
        """Return the call that was begun, with its targets in order, named, timed and traced."""
        options = first.options
        assert first.deps is not None
        call = Call(
            options,
            first.candidates,
            first.deps,
            first.call_id or _new_id,
            None if options.timeout is None else first.entered_at + options.timeout,
            knows_limit=self.injection.is_async or self.injection.attempt is not None,
            outcome=first.outcome,
            rebind=self.injection.rebound,
        )
        call.args, call.kwargs = args, first.kwargs
        if self.is_stream:
            call.is_stream = True
        return call

    # After the first attempt.

    def on_failure(
        self, generation: Generation, entered_at: float, target: Target, error: BaseException
    ) -> PendingCall | None:
        """Start a call flow after the wrapper's first attempt failed.

        Returns:
            How the call goes on; None if the error is raised unchanged.
        """
        cancelled = was_cancelled(error) if self.injection.is_async else was_cut_off(error)
        first = self._wrappers_attempt(generation, entered_at, target)
        return self._failed(first, error, cancelled=cancelled)

    def _failed(
        self,
        first: FirstAttempt,
        error: BaseException,
        *,
        timed_out: bool = False,
        cancelled: bool = False,
    ) -> PendingCall | None:
        now = runtime.clock()
        call, flow, _ = self._running(first)
        step = flow.send(Reply(now, error=error, timed_out=timed_out, cancelled=cancelled))
        if type(step) is Reraise:
            flow.close()
            call.clear()
            return None
        return PendingCall(call, flow, step)

    def resume(
        self, pending_call: PendingCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go on with the call flow after the first attempt."""
        call, step = self._resumed(pending_call, args, kwargs)
        return drive(call, pending_call.flow, step)

    async def resume_async(
        self, pending_call: PendingCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go on with the call flow after the first attempt."""
        call, step = self._resumed(pending_call, args, kwargs)
        del args, kwargs
        return await adrive(call, pending_call.flow, step)

    def _resumed(
        self, pending_call: PendingCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Call, Step]:
        call, step = pending_call.call, pending_call.step
        pending_call.step = None
        assert step is not None
        call.args = args
        call.kwargs = self.pins.without(kwargs)[0]
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
        first: FirstAttempt | None = None,
    ) -> Any:
        """Do what an answer needs besides being counted; return it, or what replaces it.

        The only place for that: streams and awaitables are guarded further, ``reject`` is asked,
        and the circuit, observers and traces are told. A `FirstAttempt` is made for a call of the
        wrapper only where one is needed, since most answers need none.
        """
        if type(result) is not self.plain_type:
            if is_awaitable(result) and not self.injection.is_async:
                first = first or self._wrappers_attempt(generation, entered_at, target)
                return self._guard_awaitable(first, result, args, kwargs)
            if kind_of(result) is not None:
                first = first or self._wrappers_attempt(generation, entered_at, target)
                return self._guard_stream(first, result, args, kwargs)
            self._is_plain(result)
        reject = self.reject
        if (
            reject is not None
            and (said := reject(result))
            and (verdict := fault_of(said)) is not None
        ):
            first = first or self._wrappers_attempt(generation, entered_at, target)
            pending = self._refused(first, ended_at, verdict)
            if self.injection.is_async:
                return PendingAnswer(lambda: self.resume_async(pending, args, kwargs))
            return self.resume(pending, args, kwargs)
        self._report(generation, entered_at, ended_at, target, first)
        return result

    def _report(
        self,
        generation: Generation,
        entered_at: float,
        ended_at: float,
        target: Target,
        first: FirstAttempt | None,
    ) -> None:
        """Report an answer to its circuit, the trace around the call and its observers."""
        took = ended_at - entered_at
        if ended_at < generation.check_after and took < generation.slow_above:
            generation.n += 1
        else:
            if not generation.answered(ended_at, took, took):
                self._count_under_lock(generation, entered_at, ended_at, target, first)
            if ended_at >= self.look_at:
                self._look_at_log(ended_at)
            if not self.is_watched:
                outbox = self._candidate(target).circuit.outbox
                if outbox.is_behind:
                    runtime.dispatcher.deliver(outbox)
        if first is not None and first.outcome is not None:
            first.outcome.served_by = target.key
            first.outcome.records.append(AttemptRecord(target.key, 1, seconds=took))
        if self.is_watched:
            if self.candidates is None:
                self._bind()
            runtime.dispatcher.emit_success(
                self.by_key[target.key].circuit.outbox,
                ended_at,
                took,
                (first.call_id if first is not None else "") or _new_id(),
                self.options.observers,
            )

    def _count_under_lock(
        self,
        generation: Generation,
        entered_at: float,
        ended_at: float,
        target: Target,
        first: FirstAttempt | None,
    ) -> None:
        """Count an answer under the lock of its circuit."""
        options = self.options if first is None else first.options
        tag = CallTag((first.call_id if first is not None else "") or _new_id(), options.observers)
        permit_of_inlined(self._candidate(target).circuit, generation, entered_at).succeeded(
            ended_at, ended_at - entered_at, cooldown=options.cooldown, tag=tag
        )

    def left(
        self,
        first: FirstAttempt,
        result: Any,
        error: BaseException | None,
        *,
        timed_out: bool,
        cancelled: bool,
    ) -> PendingCall | None:
        """Report the first attempt of a loop; return how the call goes on, None if it is over."""
        if error is not None:
            return self._failed(first, error, timed_out=timed_out, cancelled=cancelled)
        ended_at, generation = runtime.clock(), first.generation
        assert generation is not None
        verdict = None
        if self.reject is not None and result is not NO_ANSWER:
            verdict = fault_of(self.reject(result))
        if verdict is not None:
            return self._refused(first, ended_at, verdict)
        self._report(generation, first.entered_at, ended_at, first.candidate.target, first)
        return None

    def _wrappers_attempt(
        self, generation: Generation, entered_at: float, target: Target
    ) -> FirstAttempt:
        """Return what is known of a first attempt that the wrapper made."""
        was_bound, candidates = self.candidates is not None, self.bound()
        assert self.deps is not None
        options, deps = self.in_force.began_with(entered_at, self.deps, was_bound=was_bound)
        # Not from `by_key`, which another thread may have replaced since.
        candidate = candidates[0]
        if candidate.target is not target:
            candidate = next(each for each in candidates if each.target.key == target.key)
        first = FirstAttempt(candidates, candidate, {}, options, deps)
        first.generation, first.entered_at = generation, entered_at
        return first

    def _candidate(self, target: Target) -> Candidate:
        if self.candidates is None:
            self._bind()
        return self.by_key[target.key]

    def _running(
        self,
        first: FirstAttempt,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> tuple[Call, CallFlow, Try]:
        """Start the call flow of a call whose first attempt was begun without one."""
        call = self.new_call(args, first)
        if kwargs:
            call.kwargs = self.pins.without(kwargs)[0]
        assert first.generation is not None
        permit = permit_of_inlined(first.candidate.circuit, first.generation, first.entered_at)
        running = running_attempt(call, first.candidate, permit, first.limits)
        flow = call_flow(call, first.entered_at, running)
        next(flow)
        return call, flow, running

    def _refused(self, first: FirstAttempt, now: float, verdict: Verdict) -> PendingCall:
        """Return how a call goes on after ``reject`` refused the answer."""
        call, flow, _ = self._running(first)
        return PendingCall(call, flow, flow.send(Reply(now, judged=verdict)))

    def _is_plain(self, answer: object) -> None:
        """Remember the class of a plain answer, if all its objects are."""
        if not is_decided_by_class(answer):
            return
        plain_type = type(answer)
        if window.LOCK_FREE:
            self._see_plain(plain_type)
            return
        with runtime.lock:
            self._see_plain(plain_type)

    def _look_at_log(self, now: float) -> None:
        """Notice that the level of the log was changed."""
        self._look_again_at(now + (window.REST if self.is_watched else LOOK_AGAIN))
        epoch, wanted = runtime.epoch, self._wanted_events()
        if wanted[0] == self.is_watched:
            return
        with runtime.lock:
            if self.candidates is not None and epoch == runtime.epoch:
                self._publish(self.candidates, *wanted)

    async def _guard_awaitable(
        self, first: FirstAttempt, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Guard an awaitable that a plain function returned."""
        if self.has_limits:
            call, flow, running = self._running(first, args, kwargs)
            return await adrive(call, flow, running, pending=result)
        try:
            value = await result
        except BaseException as error:
            pending = self._failed(first, error, cancelled=was_cancelled(error))
            if pending is None:
                raise
        else:
            if kind_of(value) is not None:
                return await self._guard_stream_async(first, value, args, kwargs)
            if is_awaitable(value):
                return value
            assert first.generation is not None
            value = self.on_success(
                first.generation, first.entered_at, runtime.clock(), first.candidate.target,
                value, args, kwargs, first,
            )  # fmt: skip
            return await value if is_awaitable(value) else value
        return await self.resume_async(pending, args, kwargs)

    def _guard_stream(
        self, first: FirstAttempt, stream: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Guard a stream that the healthy path got as a result."""
        if self.injection.is_async:
            return PendingAnswer(lambda: self._guard_stream_async(first, stream, args, kwargs))
        call, flow, running = self._running(first, args, kwargs)
        return drive(call, flow, running, pending=stream)

    async def _guard_stream_async(
        self, first: FirstAttempt, stream: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call, flow, running = self._running(first, args, kwargs)
        return await adrive(call, flow, running, pending=stream)


def _new_id() -> str:
    return runtime.rng.getrandbits(64).to_bytes(8).hex()  # a format costs twice the time
