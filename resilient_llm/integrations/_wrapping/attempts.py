"""`Attempts`: the functions that call a method of the client of one target.

The policies of `WrappedClients` guard them. Each calls the public method of the SDK, so that what
was patched there, as tracers do, is called.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from resilient_llm._values.errors import CallRejectedError
from resilient_llm._values.target import Attempt, Target  # noqa: TC001  # read from signatures
from resilient_llm.integrations._wrapping.protocols import VIEWS
from resilient_llm.integrations._wrapping.raw_responses import Unwrapping

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient_llm.integrations._wrapping.protocols import Protocol

Path = tuple[str, ...]
"""Names of the attributes that lead from a client to a method, with those of views."""


class Attempts:
    """Makes the functions that call the clients of one protocol.

    Args:
        protocol: How the SDK names its options.
        clients: ``{provider key: its client, which does not retry}``.
    """

    def __init__(self, protocol: Protocol, clients: Mapping[str, Any]) -> None:
        self.protocol = protocol
        self._clients = clients

    def is_told(self, path: Path) -> bool:
        """Return whether the attempts of a method have to be told how long they may take.

        Those of asynchronous methods are cancelled at their limit.
        """
        return not self.protocol.is_awaited(*split(path))

    def function(self, path: Path, *, is_told: bool) -> Callable[..., Any]:
        """Return the function that calls a method of the client of one target.

        Args:
            path: The method.
            is_told: Whether a synchronous function is told how long it may take.
        """
        if self.is_told(path):
            attempt = self._told(path) if is_told else self._sync(path)
        elif self.protocol.gives_manager(*split(path)):
            attempt = self._manager(path)
        else:
            attempt = self._async(path)
        attempt.__name__ = path[-1]
        attempt.__qualname__ = ".".join(path)
        return attempt

    def _sync(self, path: Path) -> Callable[..., Any]:
        def attempt(_target: Target, /, *args: Any, **kwargs: Any) -> Any:
            return self._call(path, _target, args, kwargs, None)

        return attempt

    def _told(self, path: Path) -> Callable[..., Any]:
        def attempt(_target: Target, /, *args: Any, _attempt: Attempt, **kwargs: Any) -> Any:
            return self._call(path, _target, args, kwargs, _attempt.remaining)

        return attempt

    def _call(
        self,
        path: Path,
        target: Target,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        remaining: float | None,
    ) -> Any:
        with Unwrapping() as raw:
            method, arguments = self._prepared(path, target, kwargs, remaining)
            answer = method(*args, **arguments)
            if "with_streaming_response" in path:
                return answer.__enter__()  # the caller's block closes what this gives
            return raw.keep(answer.parse(), answer) if raw.is_raw else answer

    def _manager(self, path: Path) -> Callable[..., Any]:
        # Its limit is kept by whoever enters the manager: it is taken, and not passed on.
        def attempt(_target: Target, /, *args: Any, _attempt: Attempt, **kwargs: Any) -> Any:
            method, arguments = self._prepared(path, _target, kwargs, None)
            return method(*args, **arguments)

        return attempt

    def _async(self, path: Path) -> Callable[..., Any]:
        is_streaming = "with_streaming_response" in path

        async def attempt(_target: Target, /, *args: Any, **kwargs: Any) -> Any:
            with Unwrapping() as raw:
                method, arguments = self._prepared(path, _target, kwargs, None)
                if is_streaming:
                    return await method(*args, **arguments).__aenter__()
                answer = await method(*args, **arguments)
                if not raw.is_raw:
                    return answer
                held: Any = answer.parse()
                if inspect.isawaitable(held):
                    held = await held
                return raw.keep(held, answer)

        return attempt

    def _prepared(
        self, path: Path, target: Target, kwargs: dict[str, Any], remaining: float | None
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the method of a target's client, and the arguments of one attempt.

        Raises:
            CallRejectedError: If the target has no client, or its client no such method.
        """
        client = self._clients.get(target.provider_key)
        if client is None:
            raise CallRejectedError(target.key, "no_client")
        try:
            method = at(client, path)
        except AttributeError:
            raise CallRejectedError(target.key, "no_such_method") from None
        # A model among the arguments is one that the target's `params` name.
        arguments = self.protocol.prepare({"model": target.model, **kwargs})
        if remaining is not None:
            arguments = self.protocol.limited(client, arguments, remaining)
        return method, arguments


def at(holder: Any, path: Path) -> Any:
    """Return what attributes of these names lead to."""
    for name in path:
        holder = getattr(holder, name)
    return holder


def split(path: Path) -> tuple[str, str]:
    """Return the path of a resource, and the name of its method, without views."""
    names = [name for name in path if name not in VIEWS]
    return ".".join(names[:-1]), names[-1]
