"""Goes on with a call whose first attempt did not simply answer.

The wrapper or the `Caller` made that attempt before there was a `Call` and a call flow. Here the
next target is called without them if nothing else is to be done; else the call flow starts with
that attempt running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._binding.beginning import Beginning
from resilient_llm._binding.continuing import goes_on, judge_raised, pending_call, sent
from resilient_llm._binding.demands import Demands
from resilient_llm._binding.first_attempt import FirstAttempt, PendingCall
from resilient_llm._binding.reporting import new_id
from resilient_llm._binding.second_attempt import SecondAttempt, needs_no_flow
from resilient_llm._core.call.call_flow import call_flow, running_attempt
from resilient_llm._core.call.judging import fault_of
from resilient_llm._core.call.steps import Reply, Try
from resilient_llm._core.circuit.outbox import CallTag
from resilient_llm._core.circuit.permit import permit_of_inlined
from resilient_llm._drive.cancellation import was_cancelled, was_cut_off
from resilient_llm._drive.handover import adrive, drive
from resilient_llm._drive.results import is_awaitable, kind_of, refuse_unawaited
from resilient_llm._drive.sync import trim
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import event_names
from resilient_llm._values.errors import ResilientLLMError

if TYPE_CHECKING:
    from resilient_llm._binding.ordering import Drawn
    from resilient_llm._core.call.call import Call, Candidate
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step
    from resilient_llm._core.circuit.window import Generation
    from resilient_llm._core.in_flight import CountsOfTarget
    from resilient_llm._core.limits.held import Held
    from resilient_llm._values.target import Target
    from resilient_llm._values.verdict import Verdict


_names: Final = call_ids.switch


class Resuming(Beginning):
    """Binds one function, begins its calls, and goes on with them."""

    def on_failure(
        self,
        generation: Generation,
        entered_at: float,
        called: Target | Candidate | Drawn,
        error: BaseException,
        number: int | None = None,
        counts: CountsOfTarget | None = None,
        held: Held | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> SecondAttempt | PendingCall | None:
        """Find out how a call goes on after the wrapper's first attempt failed.

        ``called`` is the target, or what a strategy has drawn. ``number`` is that of the call, if
        calls carry their names. ``held`` is what the attempt holds of limits and budgets, if it
        spends; then the call flow books it, and estimates further attempts by the arguments.

        Returns:
            How the call goes on; None if the error is raised unchanged.
        """
        if number is None and call_ids.switch.is_on:
            number = call_ids.taken(entered_at)
        cancelled = (
            was_cancelled(error, since=entered_at)
            if self.injection.is_async
            else was_cut_off(error)
        )
        if held is not None:
            assert kwargs is not None
            try:
                first = self._limited_attempt(generation, entered_at, called, args, kwargs, held)
                return self._failed(first, error, cancelled=cancelled, args=args)
            except BaseException:  # perhaps of an interrupt before the call flow has it
                held.over()
                raise
        is_simple = self.candidates is not None and self.effect.is_simple and not cancelled
        first = self._wrappers_attempt(generation, entered_at, called, number, counts)
        if is_simple and first.candidate is not first.candidates[-1]:
            return self._moved_on(first, generation, error)
        return self._failed(first, error, cancelled=cancelled)

    def _moved_on(
        self, first: FirstAttempt, generation: Generation, error: BaseException
    ) -> SecondAttempt | PendingCall | None:
        """Begin the attempt on the next target if the call flow has nothing to do before it."""
        now, circuit = runtime.clock(), first.candidate.circuit
        if now >= self.look_at:
            self._look_at_log(now)
        if (
            self.hears_failures
            or first.candidate is not first.candidates[0]
            or first.options is not self.options
            or circuit.outbox.is_behind
            or not issubclass(type(error), Exception)
        ):
            return self._failed(first, error)
        assert first.deps is not None
        verdict = first.deps.classify(error)
        if not needs_no_flow(first.options, verdict):
            return self._failed(first, error, verdict=verdict)
        tag = CallTag(first.call_id or new_id, first.options.observers)
        tag.began_at = first.entered_at
        second = SecondAttempt(first, error, now, verdict, tag)
        second.charge_first(generation)
        return second if second.permit is not None else PendingCall(*self._flow_from(second))

    def _failed(
        self,
        first: FirstAttempt,
        error: BaseException,
        *,
        timed_out: bool = False,
        cancelled: bool = False,
        verdict: Verdict | None = None,
        args: tuple[Any, ...] = (),
    ) -> PendingCall | None:
        now = runtime.clock()
        call, flow, _ = self._running(first, args)
        reply = Reply(now, error=error, timed_out=timed_out, cancelled=cancelled, judged=verdict)
        return pending_call(call, flow, reply)

    def resume(
        self, pending: PendingCall | SecondAttempt, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go on after the first attempt, with the call flow if it is needed."""
        if isinstance(pending, SecondAttempt):
            kwargs = self.pins.without(kwargs)[0]
            try:
                result = pending.candidate.invoke(pending.first, args, kwargs)
            except BaseException as error:
                following = self._second_failed(pending, error, cancelled=was_cut_off(error))
                if following is None:
                    raise
            else:
                if type(result) is not self.plain_type and goes_on(result):
                    call, flow, step = self._flow_from(pending, args, kwargs)
                    return drive(call, flow, step, pending=result)
                following = self._second_answered(pending, result)
                if following is None:
                    return result
            pending = following
        call, step = self._resumed(pending, args, kwargs)
        try:
            return drive(call, pending.flow, step)
        except ResilientLLMError as error:
            trim(error)
            raise

    async def resume_async(
        self, pending: PendingCall | SecondAttempt, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go on after the first attempt, with the call flow if it is needed."""
        if isinstance(pending, SecondAttempt):
            kwargs = self.pins.without(kwargs)[0]
            try:
                result = pending.candidate.invoke(pending.first, args, kwargs)
                if is_awaitable(result):
                    result = await result
                    if kind_of(result) is None:
                        refuse_unawaited(result, pending.candidate.target.key)
            except BaseException as error:
                assert pending.permit is not None
                cancelled = was_cancelled(error, since=pending.permit.entered_at)
                following = self._second_failed(pending, error, cancelled=cancelled)
                if following is None:
                    raise
            else:
                if type(result) is not self.plain_type and goes_on(result):
                    call, flow, step = self._flow_from(pending, args, kwargs)
                    return await adrive(call, flow, step, pending=result)
                following = self._second_answered(pending, result)
                if following is None:
                    return result
            pending = following
        call, step = self._resumed(pending, args, kwargs)
        del args, kwargs
        try:
            return await adrive(call, pending.flow, step)
        except ResilientLLMError as error:
            trim(error)
            raise

    def _second_answered(self, second: SecondAttempt, result: Any) -> PendingCall | None:
        """Report the answer of the second target; return how the call goes on if it is refused."""
        ended_at, reject = runtime.clock(), self.reject
        if reject is not None:
            try:
                verdict = fault_of(said) if (said := reject(result)) else None
            except BaseException as error:
                call, flow, step = self._flow_from(second)
                judge_raised(call, flow, step, error)
                raise
            if verdict is not None:
                call, flow, _ = self._flow_from(second)
                return pending_call(call, flow, Reply(ended_at, judged=verdict))
        took = second.answered(ended_at)
        outbox = second.candidate.circuit.outbox
        if self.is_watched:
            runtime.dispatcher.emit(
                outbox, event_names.AttemptSucceeded, ended_at, second.tag, number=1, seconds=took
            )
        elif outbox.is_behind:
            runtime.dispatcher.deliver(outbox, second.tag)
        return None

    def _second_failed(
        self, second: SecondAttempt, error: BaseException, *, cancelled: bool = False
    ) -> PendingCall | None:
        """Go on with the call flow after the second target failed, too."""
        now = runtime.clock()
        call, flow, _ = self._flow_from(second)
        return pending_call(call, flow, Reply(now, error=error, cancelled=cancelled))

    def _flow_from(
        self,
        second: SecondAttempt,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> tuple[Call, CallFlow, Step]:
        """Start the call flow of a call that is at its second target."""
        call = self.new_call(args, second.first)
        call.kwargs = kwargs or {}
        return call, *second.flow(call)

    def _resumed(
        self, pending_call: PendingCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Call, Step]:
        call, step = pending_call.call, pending_call.step
        pending_call.step = None
        assert step is not None
        call.args = args
        call.kwargs = self.pins.without(kwargs)[0]
        return call, step

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
        permit.held = first.held
        running = running_attempt(call, first.candidate, permit, first.limits)
        running.hook = first.inside
        flow = call_flow(call, first.entered_at, running)
        next(flow)
        return call, flow, running

    def _limited_attempt(
        self,
        generation: Generation,
        entered_at: float,
        called: Target | Candidate | Drawn,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        held: Held,
    ) -> FirstAttempt:
        """Return what is known of a first attempt for which the wrapper has taken something."""
        first = self._wrappers_attempt(generation, entered_at, called)
        first.held = held
        spend: Any = held.spend
        if spend is not None:
            first.kwargs = self.pins.without(kwargs)[0]
            first.demands = Demands(first.options, self.injection, self.policy.chain)
            first.tokens = spend.estimate.input
            first.spend_key = spend.spend_key
        return first

    def _answered(self, first: FirstAttempt, answer: Any, now: float) -> PendingCall:
        """Return how a call goes on after a plain answer of an attempt that spends."""
        call, flow, _ = self._running(first)
        try:
            return PendingCall(call, flow, sent(call, flow, Reply(now, answer)))
        except BaseException:
            flow.close()
            call.clear()
            raise

    def _refused(self, first: FirstAttempt, now: float, verdict: Verdict) -> PendingCall:
        """Return how a call goes on after ``reject`` refused the answer."""
        call, flow, _ = self._running(first)
        return PendingCall(call, flow, sent(call, flow, Reply(now, judged=verdict)))
