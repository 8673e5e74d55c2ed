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

from resilient_llm._binding import hooked
from resilient_llm._binding.continuing import judge_raised
from resilient_llm._binding.first_attempt import FirstAttempt, PendingAnswer, PendingCall
from resilient_llm._binding.resuming import Resuming
from resilient_llm._core.call.call_flow import call_flow
from resilient_llm._core.call.ending import emit_call_failed
from resilient_llm._core.call.judging import fault_of
from resilient_llm._core.call.steps import NO_ANSWER
from resilient_llm._drive.cancellation import was_cancelled, was_cut_off
from resilient_llm._drive.handover import adrive, drive
from resilient_llm._drive.results import is_awaitable, kind_of, refuse_unawaited
from resilient_llm._drive.session import Suspended
from resilient_llm._drive.sync import trim
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.profiles import open_blocks
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.errors import ConfigurationError, ResilientLLMError
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.target import Target
from resilient_llm.strategies import NOT_DRAWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._binding.ordering import Drawn
    from resilient_llm._core.call.call import Candidate
    from resilient_llm._core.circuit.window import Generation
    from resilient_llm._core.in_flight import CountsOfTarget
    from resilient_llm._core.limits.held import Held
    from resilient_llm._drive.hedging_asyncio import AsyncioRace


_names: Final = call_ids.switch


class Caller(Resuming):
    """Makes the calls of one function under one policy."""

    def _constants(self) -> dict[str, Any]:
        """Return the same, with where the healthy path ends."""
        return {
            **super()._constants(),
            "entry": self.entry,
            "on_failure": self.on_failure,
            "on_success": self.on_success,
            "on_limited_success": self.on_limited_success,
            "resume": self.resume_async if self.injection.is_async else self.resume,
        }

    # Entries.

    @property
    def entry(self) -> Callable[..., Any]:
        """The method that a wrapper calls which has this caller's code."""
        if self.injection.gives_items:
            return self.expansions.stream
        return self.enter_async if self.injection.is_async else self.enter

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any], drawn: Any = NOT_DRAWN) -> Any:
        """Make one call of the wrapper, for which other targets may have come into force.

        ``drawn`` is what the wrapper has drawn for it, if it has.
        """
        caller = self.expansions.usual
        if caller is None or open_blocks:
            caller, args, kwargs = self.expansions.chosen(args, kwargs)
        return caller.call(args, kwargs, drawn if caller is self else NOT_DRAWN)

    def enter_async(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], drawn: Any = NOT_DRAWN
    ) -> Any:
        """Return a coroutine that does the same."""
        caller = self.expansions.usual
        if caller is None or open_blocks:
            caller, args, kwargs = self.expansions.chosen(args, kwargs)
        return caller.call_async(args, kwargs, drawn if caller is self else NOT_DRAWN)

    def start_stream(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], spend_key: str | None
    ) -> Suspended:
        """Start the call of a generator function, whose first item was asked for."""
        first = self.begin(args, kwargs)
        first.spend_key = spend_key
        try:
            call = self.new_call(args, first)
            flow = call_flow(call, runtime.clock())
            return Suspended(call, flow, next(flow))
        finally:  # the session goes on with the call
            if first.entered is not None:
                call_ids.leave(first.entered)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], drawn: Any = NOT_DRAWN) -> Any:
        """Make one call; return an awaitable if the function does.

        ``drawn`` is what the wrapper has drawn for it, if it has.
        """
        first = self.begin(args, kwargs, drawn)
        try:
            generation = first.generation
            if generation is None:
                call = self.new_call(args, first)
                flow = call_flow(call, runtime.clock())
                try:
                    return drive(call, flow, next(flow))
                except ResilientLLMError as error:
                    trim(error)
                    raise
            candidate = first.candidate
            if first.deps is not None and first.deps.counts is not None:
                first.count_begin()
            inside = None if first.hook is None else first.begin_inside()
            entered = None if inside is None else inside.enter()
            try:
                try:
                    result = candidate.invoke(first, args, first.kwargs)
                finally:
                    if inside is not None:
                        inside.leave(entered)
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
        finally:
            if first.entered is not None:
                call_ids.leave(first.entered)

    async def call_async(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], drawn: Any = NOT_DRAWN
    ) -> Any:
        """Make one call; its first attempt is cut off at its limit."""
        first = self.begin(args, kwargs, drawn)
        try:
            generation = first.generation
            if generation is None or first.hedge_after is not None:
                go_on = self._by_flow if generation is None else self._hedged
                going_on = go_on(first, args)
                del args, kwargs
                return await going_on
            candidate, timed_out, still_counted, before = first.candidate, False, 0, None
            if first.deps is not None and first.deps.counts is not None:
                first.count_begin()
            inside = None if first.hook is None else first.begin_inside()
            entered = None if inside is None else inside.enter()
            try:
                try:
                    if first.limit is None:
                        result = candidate.invoke(first, args, first.kwargs)
                        if is_awaitable(result):
                            result = await result
                    else:
                        from resilient_llm._drive.attempting import TimeLimit

                        limit, result = TimeLimit(first.limit), None
                        try:
                            with limit:
                                result = candidate.invoke(first, args, first.kwargs)
                                if is_awaitable(result):
                                    result = await result
                        finally:
                            timed_out, still_counted = limit.ended_it, limit.still_counted
                            before = limit.counted_before
                        limit.check()
                finally:
                    if inside is not None:
                        inside.leave(entered)
            except BaseException as error:
                cut_off = timed_out and issubclass(type(error), Exception)
                cancelled = was_cancelled(error, before, own=still_counted, since=first.entered_at)
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
        finally:
            if first.entered is not None:
                call_ids.leave(first.entered)

    async def _by_flow(self, first: FirstAttempt, args: tuple[Any, ...]) -> Any:
        """Have the call flow make all attempts of a call."""
        call = self.new_call(args, first)
        del args
        flow = call_flow(call, runtime.clock())
        try:
            return await adrive(call, flow, next(flow))
        except ResilientLLMError as error:
            trim(error)
            raise

    async def _hedged(self, first: FirstAttempt, args: tuple[Any, ...]) -> Any:
        """Make a first attempt on asyncio that gets others beside it once it is slow."""
        from resilient_llm._drive.hedging_asyncio import AsyncioRace  # loaded with the first

        candidate, timed_out, still_counted, before = first.candidate, False, 0, None
        assert first.generation is not None
        assert first.hedge_after is not None
        if first.deps is not None and first.deps.counts is not None:
            first.count_begin()
        race = AsyncioRace(lambda: self._running(first, args, first.kwargs), first.hedge_after)
        inside = None if first.hook is None else first.begin_inside()
        entered = None if inside is None else inside.enter()
        result = pending = None
        try:
            try:
                with race:
                    if first.limit is None:
                        result = candidate.invoke(first, args, first.kwargs)
                        if is_awaitable(result):
                            result = await result
                    else:
                        from resilient_llm._drive.attempting import TimeLimit

                        limit = TimeLimit(first.limit)
                        try:
                            with limit:
                                result = candidate.invoke(first, args, first.kwargs)
                                if is_awaitable(result):
                                    result = await result
                        finally:
                            timed_out, still_counted = limit.ended_it, limit.still_counted
                            before = limit.counted_before
                        limit.check()
            finally:
                if inside is not None:
                    inside.leave(entered)
        except BaseException as error:
            cut_off = timed_out and issubclass(type(error), Exception)
            cancelled = was_cancelled(error, before, own=still_counted, since=first.entered_at)
            if race.has_begun:
                race.raised(error, timed_out=cut_off, cancelled=cancelled)
            else:
                pending = self._failed(first, error, timed_out=cut_off, cancelled=cancelled)
                if pending is None:
                    raise
        if race.has_begun:
            if race.made.reply is None:
                race.gave(result)
            result = None
            return await self._race_on(race)
        if pending is not None:
            return await self.resume_async(pending, args, first.kwargs)
        ended_at, target = runtime.clock(), candidate.target
        value = self.on_success(
            first.generation, first.entered_at, ended_at, target, result, args, first.kwargs, first
        )
        return await value() if type(value) is PendingAnswer else value

    async def _race_on(self, race: AsyncioRace) -> Any:
        """Go on with a call whose first attempt was slow, once that has ended."""
        assert race.call is not None
        assert race.flow is not None
        assert race.first.trial is not None
        try:
            return await adrive(race.call, race.flow, race.first.trial, pending=race)
        except ResilientLLMError as error:
            trim(error)
            raise

    def on_success(
        self,
        generation: Generation,
        entered_at: float,
        ended_at: float,
        called: Target | Candidate | Drawn,
        result: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        first: FirstAttempt | None = None,
        number: int | None = None,
        counts: CountsOfTarget | None = None,
    ) -> Any:
        """Do what an answer needs besides being counted; return it, or what replaces it.

        The only place for that: streams and awaitables are guarded further, ``reject`` is asked,
        and the circuit, observers and traces are told. A `FirstAttempt` is made for a call of the
        wrapper only where one is needed, since most answers need none. ``called`` is the target, or
        what a strategy has drawn. ``number`` is that of the call, if calls carry their names.
        """
        if first is None and _names.is_on:
            number = call_ids.taken(entered_at) if number is None else number
            if number is not None:
                first = self._wrappers_attempt(generation, entered_at, called, number, counts)
        if type(result) is not self.plain_type:
            known = first, generation, entered_at, called
            first, guarded = self._guard(*known, result, args, kwargs, counts)
            if guarded is not NO_ANSWER:
                try:
                    return guarded
                finally:  # an error of an attempt may keep this frame, and so the stream
                    guarded = None
        reject = self.reject
        entered = None if first is None or first.hook is None else hooked.entered(first, result)
        try:
            if reject is not None:
                try:
                    verdict = fault_of(said) if (said := reject(result)) else None
                except BaseException as error:
                    first = first or self._wrappers_attempt(
                        generation, entered_at, called, None, counts
                    )
                    judge_raised(*self._running(first), error)
                    raise
                if verdict is not None:
                    first = first or self._wrappers_attempt(
                        generation, entered_at, called, None, counts
                    )
                    pending = self._refused(first, ended_at, verdict)
                    if self.injection.is_async:
                        return PendingAnswer(lambda: self.resume_async(pending, args, kwargs))
                    return self.resume(pending, args, kwargs)
            if (
                first is None
                and counts is None
                and not self.is_watched
                and not self.effect.needs_figures
                and ended_at < generation.check_after
                and ended_at - entered_at < generation.slow_above
            ):
                generation.n += 1
            else:
                target = called if isinstance(called, Target) else called.target
                self._report(generation, entered_at, ended_at, target, first, counts)
            return result
        finally:
            if entered is not None:
                hooked.left(entered)

    def on_limited_success(
        self,
        generation: Generation,
        entered_at: float,
        ended_at: float,
        called: Target | Candidate | Drawn,
        result: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        held: Held,
    ) -> Any:
        """Do the same for an attempt that holds something, until its stream or awaitable is over.

        If it spends, the call flow does it, which books what it has used. ``held`` is what it
        holds of limits and budgets, and goes with what is guarded further.
        """
        try:
            return self._on_limited(
                generation, entered_at, ended_at, called, result, args, kwargs, held
            )
        except BaseException:  # perhaps of an interrupt before something else has it
            held.over()
            raise

    def _on_limited(
        self,
        generation: Generation,
        entered_at: float,
        ended_at: float,
        called: Target | Candidate | Drawn,
        result: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        held: Held,
    ) -> Any:
        if is_awaitable(result) or kind_of(result) is not None:
            first = self._limited_attempt(generation, entered_at, called, args, kwargs, held)
            return self.on_success(
                generation, entered_at, ended_at, called, result, args, kwargs, first
            )
        if held.spend is not None:
            if type(result) is not self.plain_type:
                self._is_plain(result)
            first = self._limited_attempt(generation, entered_at, called, args, kwargs, held)
            pending = self._answered(first, result, ended_at)
            if self.injection.is_async:
                return PendingAnswer(lambda: self.resume_async(pending, args, kwargs))
            return self.resume(pending, args, kwargs)
        try:
            return self.on_success(generation, entered_at, ended_at, called, result, args, kwargs)
        finally:
            held.over()

    def _guard(
        self,
        first: FirstAttempt | None,
        generation: Generation,
        entered_at: float,
        called: Target | Candidate | Drawn,
        result: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        counts: CountsOfTarget | None,
    ) -> tuple[FirstAttempt | None, Any]:
        """Return the first attempt, and what guards a stream or an awaitable, if it is one."""
        is_awaited, kind = is_awaitable(result), kind_of(result)
        if not is_awaited and kind is None:
            self._is_plain(result)
            if self.deps is not None and self.deps.hear is not None:
                target = called if isinstance(called, Target) else called.target
                self.deps.hear(result, target.key, entered_at, None)
            return first, NO_ANSWER
        first = first or self._wrappers_attempt(generation, entered_at, called, None, counts)
        if is_awaited:
            if not self.injection.is_async:
                first.count_withdrawn()  # until it is awaited, if ever
                return first, self._guard_awaitable(first, result, args, kwargs)
            self._refuse_unawaited(first, result)
            if kind is None:
                self._is_plain(result)
                return first, NO_ANSWER
        return first, self._guard_stream(first, result, args, kwargs)

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
            try:
                verdict = fault_of(self.reject(result))
            except BaseException as error:
                judge_raised(*self._running(first), error)
                raise
        if verdict is not None:
            return self._refused(first, ended_at, verdict)
        self._report(generation, first.entered_at, ended_at, first.candidate.target, first)
        return None

    async def _guard_awaitable(
        self, first: FirstAttempt, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Guard an awaitable that a plain function returned."""
        first.count_begin()
        if not call_ids.switch.is_on or not first.call_id:
            return await self._guarded(first, result, args, kwargs)
        entered = call_ids.enter(first.call_id)
        try:
            return await self._guarded(first, result, args, kwargs)
        finally:
            call_ids.leave(entered)

    async def _guarded(
        self, first: FirstAttempt, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.effect.has_limits or self.effect.is_hedged or first.held is not None:
            call, flow, running = self._running(first, args, kwargs)
            return await adrive(call, flow, running, pending=result)
        try:
            value = await result
        except BaseException as error:
            cancelled = was_cancelled(error, since=first.entered_at)
            pending = self._failed(first, error, cancelled=cancelled)
            if pending is None:
                raise
        else:
            if kind_of(value) is not None:
                return await self._guard_stream_async(first, value, args, kwargs)
            if is_awaitable(value):
                self._refuse_unawaited(first, value)
                return value
            assert first.generation is not None
            value = self.on_success(
                first.generation, first.entered_at, runtime.clock(), first.candidate.target,
                value, args, kwargs, first,
            )  # fmt: skip
            return await value if is_awaitable(value) else value
        return await self.resume_async(pending, args, kwargs)

    def _refuse_unawaited(self, first: FirstAttempt, answer: object) -> None:
        """End the call if an ``await`` is missing in the function; no health is harmed."""
        try:
            refuse_unawaited(answer, first.candidate.target.key)
        except ConfigurationError as error:
            pending = self._failed(first, error)
            if pending is not None:  # a rule calls it something else; there is no answer, though
                emit_call_failed(
                    pending.call, first.candidate, runtime.clock(), ErrorKind.CALLER_BUG
                )
                pending.flow.close()
                pending.call.clear()
            raise

    def _guard_stream(
        self, first: FirstAttempt, stream: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Guard a stream that the healthy path got as a result."""
        if self.injection.is_async:
            return PendingAnswer(lambda: self._guard_stream_async(first, stream, args, kwargs))
        call, flow, running = self._running(first, args, kwargs)
        try:
            return drive(call, flow, running, pending=stream)
        except ResilientLLMError as error:
            trim(error)
            raise

    async def _guard_stream_async(
        self, first: FirstAttempt, stream: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call, flow, running = self._running(first, args, kwargs)
        return await adrive(call, flow, running, pending=stream)
