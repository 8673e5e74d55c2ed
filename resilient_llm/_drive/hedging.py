"""Runs attempts of one call side by side, on asyncio and on trio.

The first attempt runs in the task of the caller, so a call that needs no hedge costs little more
than a timer. A hedge runs in a task of its own, in a copy of the caller's context. The call flow
decides everything: it is told which attempt is slow and which has ended, and says what is done.

Theory of operation. Nothing is decided in the task of an attempt: a callback of the loop sends
the replies to the call flow, one loop cycle after an attempt has ended. So what ends at once is
told together: cancellations first, then answers, the oldest before the others, then errors. When
the call flow asks for it, all attempts that run are cancelled, and the caller's task waits until
each has ended and has closed its stream. A hedge that has a stream keeps its task until it is
known whether that stream has won: what a task has opened is closed in it. On asyncio it is read in
that task, too (see `hosting`). A cancellation of the caller never ends that wait, and leaves the
call after it.

Owns the tasks and the timer of each race.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio import CancelledError
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from resilient_llm._core.call.steps import Deliver, Done, Race, Reply, Reraise, Stop, Try
from resilient_llm._drive.contexts import Within
from resilient_llm._drive.opening import StartedStream
from resilient_llm._drive.racers import Made, Racer, is_signal, made_by, rank
from resilient_llm._drive.results import is_awaitable, is_open_answer, kind_of
from resilient_llm._drive.tasks import waker
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.time_limit import cancellable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.call_flow import CallFlow
    from resilient_llm._core.call.steps import Step
    from resilient_llm._core.spending.asking import Asked


class BaseRace(ABC):
    """The attempts of one call that run side by side, beginning with one in the caller's task.

    Attributes:
        has_begun: Whether the first attempt was slow, so that the call flow was told.
        call: The call, once there is one.
        flow: Its call flow.
        first: The first attempt.
    """

    def __init__(self, start: Callable[[], tuple[Call, CallFlow, Try]], hedge_after: float) -> None:
        """Prepare a race.

        Args:
            start: Returns the call, its call flow, and the attempt that runs.
            hedge_after: Seconds after which the first attempt is slow.
        """
        self._start_call = start
        self._hedge_after = hedge_after
        self._asked: Asked | None = None
        self.has_begun = False
        self.call: Call | None = None
        self.flow: CallFlow | None = None
        self.first = Racer(None)
        self.made = Made()
        """What came of the first attempt, if its race goes on without it."""
        self._racers = [self.first]
        """Those of which the call flow was not told, the oldest first."""
        self._hedges: list[Racer] = []
        """All that have a task of their own."""
        self._told: Racer | None = None
        """The one of which the call flow was told last, before anything was stopped."""
        self._enters = False
        """Whether a manager that an attempt gives is entered, or else is its answer."""
        self._given: Any = None
        """That manager."""
        self._left: list[Any] = []
        """Answers that nobody gets, and that may be open."""
        self._callers = copy_context()
        self._context: Context | None = None
        """The copy of the caller's context in which the call flow runs."""
        self._timer: Any = None
        self._step: Step | None = None
        """What the call flow asks for when the race is over."""
        self._is_stopping = False
        self._is_abandoned = False
        """Whether the caller's coroutine was closed, which can await nothing then."""
        self._leaving: BaseException | None = None
        """The error of that attempt."""
        self._broken: BaseException | None = None
        """What the call flow has raised: an error of ``reject``, or an interrupt."""
        self._interrupted: BaseException | None = None
        """The cancellation of the caller."""

    # Different on asyncio and on trio.

    @abstractmethod
    def _call_after(self, seconds: float, callback: Callable[[], object]) -> Any:
        """Call a function later; return what has a ``cancel``."""

    @abstractmethod
    def _call_soon(self, callback: Callable[[], object]) -> None:
        """Call a function when all tasks that can run now have run."""

    @abstractmethod
    def _start_task(self, racer: Racer) -> None:
        """Start the task of a hedge, in a copy of the caller's context."""

    @abstractmethod
    async def _wait(self) -> None:
        """Wait for `_wake`."""

    @abstractmethod
    def _wake(self) -> None:
        """Have the caller's task look at what it waits for."""

    @abstractmethod
    async def _wait_for_verdict(self, racer: Racer) -> None:
        """Wait until it is known whether an attempt has won, in its task."""

    @abstractmethod
    def _host(self, racer: Racer) -> None:
        """Have the stream that has won read in its own task, where that can be done."""

    @abstractmethod
    def _decided(self, racer: Racer) -> None:
        """End that wait."""

    @abstractmethod
    async def _check_cancelled(self) -> None:
        """Raise the cancellation of the caller that a stopped attempt in its task has swallowed."""

    @abstractmethod
    def _shielded(self) -> AbstractContextManager[Any]:
        """Return what holds a cancellation off that is in force already."""

    # The first attempt.

    def begin(self) -> None:
        """Take over the call, which has its call flow from now on."""
        self.call, self.flow, self.first.trial = self._start_call()
        self.first.trial.hedge_after = self._hedge_after

    def _arm(self, racer: Racer, seconds: float) -> None:
        """Have the call flow told if an attempt has not answered after so many seconds."""
        self._timer = self._call_after(seconds, lambda: self._inside(lambda: self._due(racer)))

    def _disarm(self) -> None:
        self._asked = None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    async def run(self, pending: Any, *, enters: bool) -> tuple[Step, Any]:
        """Make the first attempt, and go on with the race; return as `race` does."""
        trial, seconds = self.first.trial, self._hedge_after
        assert trial is not None
        self._enters = enters
        if pending is not None and not is_awaitable(pending):  # some of the time is used up
            seconds = max(0.0, seconds - (runtime.clock() - trial.permit.entered_at))
        self._arm(self.first, seconds)
        self.made = await self._make_first(pending)
        del pending
        return await self.go_on()

    async def _make_first(self, pending: Any) -> Made:
        call, first = self.call, self.first
        assert call is not None
        assert first.trial is not None
        scope: Any = cancellable()
        first.scope, first.stop = scope, scope.cancel
        first.trial.has_begun = True
        try:
            return await made_by(call, first.trial, pending, scope, enters=self._enters)
        except BaseException:  # it is closed, and the coroutines inside were closed before
            first.is_running = False
            self._abandon()
            raise

    async def go_on(self) -> tuple[Step, Any]:
        """Go on when the first attempt has given something; return as `race` does."""
        while self.has_begun and self._must_go_on and not self.first.is_stopped:
            value, self.made = self.made.value, Made()
            self.made = await self._make_first(value)
            del value
        made, self.made = self.made, Made()
        if not self.has_begun:
            self._disarm()
            self.first.is_running = False  # a callback of the timer may be on its way
            return await self._ended_in_time(made)
        if made.reply is not None and type(made.reply.error) is GeneratorExit:
            made.reply = None
            self.first.is_running = False
            self._abandon()
            raise GeneratorExit
        self._ended(self.first, made)
        made.reply = made.started = made.value = None
        return await self._finish()

    @property
    def _must_go_on(self) -> bool:
        """Whether what the first attempt has given must be awaited, read or entered now."""
        if self.made.reply is not None:
            return False
        kind = kind_of(self.made.value)
        return self._enters or kind is None or not kind.is_manager

    async def _ended_in_time(self, made: Made) -> tuple[Step, Any]:
        """Return what the call flow asks for after an attempt that was alone."""
        trial, reply, started = self.first.trial, made.reply, made.started
        step: Any = None
        assert trial is not None
        assert self.flow is not None
        if reply is None:
            trial.has_begun = False
            return trial, made.value
        error = reply.error
        try:
            try:
                step = self.flow.send(reply)
            finally:
                if started is not None and type(step) not in (Deliver, Done):
                    await started.opened.aabandon()
            if type(step) is Reraise:
                assert error is not None
                raise error
            return step, started if type(step) in (Deliver, Done) else None
        finally:
            made.reply = made.started = reply = error = started = None
            self._clear()

    # What the call flow is told, and what it asks for.

    def _inside(self, callback: Callable[[], object]) -> None:
        """Run a callback of the loop in a copy of the caller's context."""
        if self._context is None:
            self._context = self._callers.copy()
        try:
            self._context.run(callback)
        except BaseException as error:  # noqa: BLE001  # it leaves the caller's task
            self._breaks(error)

    def _breaks(self, error: BaseException) -> None:
        """End the race with an error that no attempt has raised."""
        if self._broken is None:
            self._broken = error
        try:
            self._stop()
        finally:
            self._wake()

    def _due(self, racer: Racer) -> None:
        """Tell the call flow that an attempt is slow."""
        self._disarm()
        if not racer.is_running or self._is_decided:
            return
        if self.flow is None:
            self.begin()
        self.has_begun = True
        assert racer.trial is not None
        self._send(Reply.due(racer.trial, runtime.clock()))
        racer.was_slow = True

    def _send(self, reply: Reply) -> None:
        """Send a reply to the call flow, and do what it asks for."""
        assert self.flow is not None
        try:
            step = self.flow.send(reply)
        except BaseException as error:  # noqa: BLE001  # it leaves the caller's task
            self._breaks(error)
            return
        if type(step) is Race:
            if step.trial is not None:
                self._start(step.trial)
            elif step.asked is not None:
                self._ask(step.asked, step.beside)
        elif type(step) is Stop:
            self._stop()
        else:
            self._step = step

    def _ask(self, asked: Asked, beside: Try | None) -> None:
        """Tell the call flow once more of a slow attempt when the store has answered."""
        racers, soon = (self.first, *self._hedges), waker()
        racer = next(each for each in racers if each.trial is beside)

        def look() -> None:
            if self._asked is asked:  # the race is not over
                self._asked = None
                self._call_soon(lambda: self._due(racer))

        self._arm(racer, asked.seconds)
        self._asked, asked.wake = asked, lambda: soon(look)
        if asked.answer is not None:  # it came before there was somebody to wake
            soon(look)

    def _start(self, trial: Try) -> None:
        racer = Racer(trial)
        trial.leaves_scopes = True
        self._start_task(racer)  # may raise: what has no task is not waited for
        self._racers.append(racer)
        self._hedges.append(racer)
        if trial.hedge_after is not None and racer.is_running:
            self._arm(racer, trial.hedge_after)

    def _stop(self) -> None:
        """Cancel all attempts that run; also those that were cancelled, but go on."""
        self._is_stopping = True
        self._disarm()
        for racer in (self.first, *self._hedges):
            if racer.is_running:
                racer.is_stopped = True
                assert racer.stop is not None
                racer.stop()
            elif racer is not self._told:
                self._has_lost(racer)

    def _has_lost(self, racer: Racer) -> None:
        """Have the stream of an attempt closed."""
        if racer.has_won is None:
            racer.has_won = False
            self._decided(racer)

    def _ended(self, racer: Racer, made: Made) -> None:
        """Take what came of an attempt, and tell the call flow soon."""
        racer.is_running = False
        reply = made.reply
        if reply is None:
            reply = Reply(runtime.clock(), made.value)
            reply.is_pending = True
        racer.started = made.started
        if racer.is_stopped:
            if made.started is None:
                self._leaves(reply.value)
            error, reply.error, reply.value = reply.error, None, None
            if is_signal(error) and (racer is self.first or not self._is_cancellation(error)):
                self._interrupted = self._interrupted or error
            del error
            self._has_lost(racer)
        reply.trial, reply.is_stopped = racer.trial, racer.is_stopped
        racer.reply = reply
        if self.has_begun:
            self._call_soon(self._decide)

    @abstractmethod
    def _is_cancellation(self, error: BaseException | None) -> bool:
        """Return whether it is the cancellation of a task."""

    @property
    def _is_decided(self) -> bool:
        """Whether the call flow asks for something that ends the race."""
        return self._step is not None or self._is_stopping or self._is_abandoned

    def _decide(self) -> None:
        """Tell the call flow of all that has ended, as long as the race goes on."""
        while not self._is_decided:
            ended = [each for each in self._racers if each.reply is not None]
            if not ended:
                break
            # The sort is stable: of equal ends, the older attempt's comes first.
            self._tell(min(ended, key=rank))
        self._wake()

    def _tell(self, racer: Racer) -> None:
        """Tell the call flow what came of an attempt."""
        reply, racer.reply = racer.reply, None
        assert reply is not None
        self._racers.remove(racer)
        self._told, self._leaving = racer, reply.error
        if reply.is_pending:
            self._given = reply.value
        self._send(reply)
        if not self._is_decided:  # it was rejected, or has failed
            self._has_lost(racer)

    def _interrupt(self, error: BaseException) -> None:
        """Take that the caller was cancelled while it waited for the others."""
        if self._interrupted is None:
            self._interrupted = error
        if self._is_decided or not self._racers:
            return
        racer = next((each for each in self._racers if each.is_running), self._racers[0])
        self._racers.remove(racer)
        self._told, racer.reply = None, None
        reply = Reply(runtime.clock(), error=error)
        reply.trial = racer.trial
        self._send(reply)
        self._stop()

    # The end.

    async def _finish(self) -> tuple[Step, Any]:
        """Wait until the race is over and nothing of it runs; return as `race` does."""
        try:
            await self._until(lambda: self._is_decided or self._must_close_first)
            while True:
                if not self._must_close_first:
                    break
                await self._close(self.first)
                await self._until(lambda: self._is_decided)
            await self._until(self._only_the_last_is_left)
            await self._until_checked()
            self._tell_losers()
            step, last = self._step, self._told
            started = None if last is None else last.started
            wins = started is not None and type(step) in (Deliver, Done)
            if last is not None:
                last.has_won = last.has_won is None and wins and self._interrupted is None
                self._decided(last)
                await self._until(self._is_over(last))
                wins = last.has_won and self._interrupted is None
                if not wins:
                    await self._close(last)
                    if started is not None and type(step) is Deliver:
                        await self._taken_back(started)
            await self._close_left(step)
            self._raise(step)
            assert step is not None
            if type(step) is Try:  # it is entered elsewhere, perhaps never
                step.has_begun = step.leaves_scopes = False
                if last is not None and last.was_slow:
                    step.hedge_after = None
                return step, self._given
            if wins and last is not None and last.context is not None and last.host is None:
                assert started is not None
                started.opened.within = Within(last.context)
            return step, started if wins else None
        finally:
            step = last = started = None
            self._clear()

    @property
    def _must_close_first(self) -> bool:
        """Whether the first attempt has given a stream that is not the answer."""
        first = self.first
        return first.started is not None and first.has_won is False and not first.is_closed

    def _is_over(self, racer: Racer) -> Callable[[], bool]:
        """Return what tells whether an attempt has no task, or none any more."""
        return lambda: racer.is_over or racer is self.first

    def _only_the_last_is_left(self) -> bool:
        return all(each.is_over or each is self._told for each in self._hedges)

    async def _until(self, is_true: Callable[[], bool]) -> None:
        """Wait until something is true; a cancellation is noted, and does not end that."""
        with ExitStack() as shields:
            while True:
                if is_true():
                    break
                try:
                    await self._wait()
                except GeneratorExit:
                    self._abandon()
                    raise
                except BaseException as error:  # noqa: BLE001  # it is raised at the end
                    self._interrupt(error)
                    shields.enter_context(self._shielded())

    def _abandon(self) -> None:
        """Cancel all attempts of a coroutine that is closed, and can await nothing.

        The call flow is closed next, which settles each of them.
        """
        self._is_abandoned = True
        with suppress(RuntimeError):  # its loop is closed, too
            self._stop()
            for racer in self._hedges:
                if racer.is_running:
                    continue
                self._has_lost(racer)

    async def _taken_back(self, started: StartedStream) -> None:
        """Tell the call flow that the stream which has won was not handed over."""
        if self._interrupted is None:  # only its task was cancelled, or is so first
            try:
                await self._check_cancelled()
            except BaseException as error:  # noqa: BLE001  # it is raised at the end
                self._interrupt(error)
        error = self._interrupted = self._interrupted or CancelledError()
        self._send(started.reply(runtime.clock(), error, ()))
        del error

    async def _until_checked(self) -> None:
        if self.first.is_stopped and self._interrupted is None:
            try:
                await self._check_cancelled()
            except BaseException as error:  # noqa: BLE001  # it is raised at the end
                self._interrupt(error)

    async def _close(self, racer: Racer) -> None:
        """Close the stream of an attempt that has no task, or none any more."""
        started, is_closed, racer.is_closed = racer.started, racer.is_closed, True
        if started is not None and not is_closed:
            await self._closed(started)

    async def _closed(self, value: Any) -> None:
        """Close a stream that was begun, or something else that is open."""
        try:
            if isinstance(value, StartedStream):
                await value.opened.aabandon()
            else:
                from resilient_llm._drive import aopening  # loads anyio

                await aopening.ASYNC.close(value)
        except Exception:  # noqa: BLE001  # its errors are dropped
            return
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001  # it is raised at the end
            self._interrupt(error)

    def _tell_losers(self) -> None:
        """Tell the call flow what came of those that were stopped, or came too late."""
        while self._racers and self._step is None and self._broken is None:
            racer = self._racers.pop(0)
            reply, racer.reply = racer.reply, None
            assert reply is not None
            if racer.started is None:
                self._leaves(reply.value)
            self._send(reply)
            reply = None

    def _leaves(self, value: Any) -> None:
        """Note an answer that nobody gets, if it may be open."""
        if value is not None and is_open_answer(value):
            self._left.append(value)

    async def _close_left(self, step: Step | None) -> None:
        """Close the answers that nobody gets, also that of an attempt which has won in vain."""
        for racer in self._racers:  # of which the call flow could not be told any more
            if racer.reply is not None and racer.started is None:
                self._leaves(racer.reply.value)
        while True:
            answer = step.value if type(step) is Done else None
            if self._broken is not None or self._interrupted is not None:
                self._leaves(answer)
                answer = None
                if type(step) is Done:
                    step.value = None
            if not self._left:
                return
            value = self._left.pop()
            if value is not answer:
                await self._closed(value)
            value = answer = None

    def _raise(self, step: Step | None) -> None:
        """Raise what leaves the call, if anything does."""
        error = self._broken or self._interrupted
        if error is None and type(step) is Reraise:
            error = self._leaving
        try:
            if error is not None:
                raise error
        finally:
            error = None

    def _clear(self) -> None:
        """Let go of the call, and of everything that holds an error or a frame."""
        self._disarm()
        self._broken = self._interrupted = self._leaving = self._step = None
        self._told = self.call = self.flow = self._context = self._given = None
        for racer in self._hedges:
            racer.started = None
        self._racers, self._hedges, self._left = [], [], []
        self.first.reply = self.first.started = self.first.stop = None

    # A hedge.

    async def _run(self, racer: Racer) -> None:
        """Make the attempt of a hedge, in a task of its own. Raises nothing."""
        trial, call = racer.trial, self.call
        assert trial is not None
        assert call is not None
        trial.has_begun = True
        try:
            scope = racer.scope or nullcontext()
            made = await made_by(call, trial, None, scope, enters=self._enters)
            self._ended(racer, made)
            made.reply = made.started = made.value = None
            if racer.started is None:
                return
            try:
                await self._wait_for_verdict(racer)
            except BaseException:  # noqa: BLE001  # a cancellation ends here, with the task
                racer.has_won = racer.has_won or False
            if racer.has_won:
                self._host(racer)
            else:
                await self._close(racer)
        finally:
            del trial, call
            racer.is_over = True
            self._wake()
