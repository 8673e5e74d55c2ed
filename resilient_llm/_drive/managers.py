"""Transparent proxies of context managers that give a stream: ``with fn(…) as stream``.

Entering one makes the call, so the time until then does not count. Leaving it ends the stream
and leaves the SDK's own manager.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from resilient_llm._drive.opening import SYNC, OpenStream
from resilient_llm._drive.proxies import Proxied
from resilient_llm._drive.results import kind_of
from resilient_llm._drive.streams import StreamSession
from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._core.call.call import Call
    from resilient_llm._core.call.steps import Try
    from resilient_llm._drive.opening import StreamIO
    from resilient_llm._drive.session import Suspended


class EnteredGuard(Protocol):
    """What `GuardedManager` needs of an entered breaker."""

    def __exit__(self, error_type: Any, error: Any, traceback: Any, /) -> Any: ...


class Manager(Proxied):
    """A manager of a stream under a failover policy; entered once, as those of the SDKs are."""

    def __init__(self, suspended: Suspended) -> None:
        super().__init__(suspended.given)  # pyright: ignore[reportUnknownMemberType]  # it has no types
        self._self_suspended: Suspended | None = suspended
        self._self_given_at = runtime.clock()
        self._self_session: Any = None

    def _self_resume(self) -> Suspended:
        """Return the suspended call, to the first that enters."""
        suspended, self._self_suspended = self._self_suspended, None
        if suspended is None:
            raise RuntimeError(
                "this manager of a stream was entered already: call the function again"
            )
        # Nothing was asked of the provider until now. A manager comes of a Try of a call flow.
        call, step = cast("Call", suspended.call), cast("Try", suspended.step)
        idle = runtime.clock() - self._self_given_at
        step.permit.entered_at += idle
        if call.deadline is not None:
            call.deadline += idle
        return suspended

    def __enter__(self) -> Any:
        session = StreamSession(self._self_resume())
        entered = session.enter()
        self._self_session = session
        return entered

    def __exit__(self, *error: Any) -> Any:
        session, self._self_session = self._self_session, None
        return None if session is None else session.leave(*error)

    async def __aenter__(self) -> Any:
        from resilient_llm._drive import astreams  # loads anyio

        session = astreams.StreamSession(self._self_resume())
        entered = await session.aenter()
        self._self_session = session
        return entered

    async def __aexit__(self, *error: Any) -> Any:
        session, self._self_session = self._self_session, None
        return None if session is None else await session.aleave(*error)


class GuardedManager(Proxied):
    """A manager of a stream inside one entered breaker, which its stream takes over.

    Args:
        manager: The SDK's manager.
        guard: The entered breaker.
        suspend: Returns the suspended call of the breaker, given the open stream.
    """

    def __init__(
        self, manager: Any, guard: EnteredGuard, suspend: Callable[[OpenStream], Suspended]
    ) -> None:
        super().__init__(manager)  # pyright: ignore[reportUnknownMemberType]  # it has no types
        self._self_guard: EnteredGuard | None = guard
        self._self_suspend = suspend
        self._self_session: Any = None

    def _self_exit_guard(self, error: BaseException | None) -> None:
        guard, self._self_guard = self._self_guard, None
        if guard is not None:
            guard.__exit__(type(error), error, None)

    def _self_opened(self, io: StreamIO, stream: Any) -> Suspended | None:
        """Return the suspended call with the stream; None if the manager gave something else."""
        opened = OpenStream(io, self.__wrapped__, stream, kind_of(stream), is_managed=True)
        if not opened.is_stream:
            self._self_exit_guard(None)
            return None
        self._self_guard = None  # the suspended call reports from now on
        return self._self_suspend(opened)

    def __enter__(self) -> Any:
        try:
            stream = self.__wrapped__.__enter__()
        except BaseException as error:
            self._self_exit_guard(error)
            raise
        suspended = self._self_opened(SYNC, stream)
        if suspended is None:
            return stream
        self._self_session = StreamSession(suspended)
        return self._self_session.enter()

    def __exit__(self, *error: Any) -> Any:
        session, self._self_session = self._self_session, None
        return self.__wrapped__.__exit__(*error) if session is None else session.leave(*error)

    async def __aenter__(self) -> Any:
        from resilient_llm._drive import aopening, astreams  # load anyio

        try:
            stream = await self.__wrapped__.__aenter__()
        except BaseException as error:
            self._self_exit_guard(error)
            raise
        suspended = self._self_opened(aopening.ASYNC, stream)
        if suspended is None:
            return stream
        self._self_session = astreams.StreamSession(suspended)
        return await self._self_session.aenter()

    async def __aexit__(self, *error: Any) -> Any:
        session, self._self_session = self._self_session, None
        if session is None:
            return await self.__wrapped__.__aexit__(*error)
        return await session.aleave(*error)

    def __del__(self) -> None:
        self._self_exit_guard(GeneratorExit())  # it was never entered
