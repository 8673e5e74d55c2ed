"""`Node`: stands in for a client, a resource of one, or a view of either.

It answers ``isinstance`` as the SDK's own does, gives guarded methods where the protocol says so,
and leaves all else to the first client. Attributes that are set on it stay on it.
"""

from __future__ import annotations

import functools
import inspect
from types import MethodType
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from resilient_llm.integrations._wrapping.protocols import VIEWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._api.failover import Failover
    from resilient_llm.integrations._wrapping.attempts import Path
    from resilient_llm.integrations._wrapping.wrapped import WrappedClients

_STATE = "_resilient_llm"


class Node:
    """A stand-in for what is found at a path of the first client."""

    _resilient_llm: tuple[WrappedClients, Path, Any]

    def __init__(self, wrapped: WrappedClients, path: Path, original: Any) -> None:
        self._resilient_llm = wrapped, path, original

    @classmethod
    def of_client(cls, wrapped: WrappedClients) -> Node:
        """Return the stand-in for the first client."""
        return _node(wrapped, (), wrapped.first)

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # a stand-in
        return _kind(self._resilient_llm[2])

    def __getattr__(self, name: str) -> Any:
        if name == _STATE:  # while it is copied
            raise AttributeError(name)
        wrapped, path, original = self._resilient_llm
        found = _own(self, wrapped, path, name)
        if found is None:
            return getattr(original, name)
        # Of two threads one stores it, and both return that.
        return vars(self).setdefault(name, found)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._resilient_llm[2]), *vars(self)} - {_STATE})

    def __repr__(self) -> str:
        wrapped, path, original = self._resilient_llm
        place = f" at {'.'.join(path)}" if path else ""
        return f"<wrapped {original.__class__.__name__}{place} of {', '.join(wrapped.originals)}>"

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a wrapped client cannot be pickled or copied deeply: wrap clients again")


class _SyncNode(Node):
    """What is entered by ``with``; its end closes all clients."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        wrapped, path, _ = self._resilient_llm
        with _Closing() as closing:
            for each in _all_at(wrapped, path):
                closing.attempt(functools.partial(_kind(each).__exit__, each, *error))


class _AsyncNode(Node):
    """What is entered by ``async with``; its end closes all clients."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        wrapped, path, _ = self._resilient_llm
        with _Closing() as closing:
            for each in _all_at(wrapped, path):
                await closing.aattempt(_kind(each).__aexit__(each, *error))


class _BothNode(_SyncNode, _AsyncNode):
    """What is entered by either."""


class _Closing:
    """Closes several things, all of them even if one fails; raises one failure at the end.

    That is the first one, but a cancellation or an interrupt leaves before any error.
    """

    def __init__(self) -> None:
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # its traceback refers to this frame

    def attempt(self, close: Callable[[], Any]) -> None:
        try:
            close()
        except BaseException as error:  # noqa: BLE001  # raised when all are closed
            self._keep(error)

    async def aattempt(self, closing: Any) -> None:
        try:
            await closing
        except BaseException as error:  # noqa: BLE001  # raised when all are closed
            self._keep(error)

    def _keep(self, error: BaseException) -> None:
        kept = self._failure
        if kept is None or (isinstance(kept, Exception) and not isinstance(error, Exception)):
            self._failure = error


def policy_behind(client: Any) -> Failover | None:
    """Return the policy of a stand-in; None for anything else."""
    return client._resilient_llm[0].policy if is_node(client) else None


def is_node(client: Any) -> bool:
    """Return whether this is a stand-in. ``isinstance`` would also ask what it stands for."""
    return issubclass(type(client), Node)


def _node(wrapped: WrappedClients, path: Path, original: Any) -> Node:
    protocol = wrapped.protocol
    plain = {None: "", True: "async", False: "sync"}[protocol.is_async] if not path else ""
    kind = protocol.exits.get(".".join(path), plain)
    cls = {"": Node, "sync": _SyncNode, "async": _AsyncNode, "both": _BothNode}[kind]
    return cls(wrapped, path, original)


def _own(node: Node, wrapped: WrappedClients, path: Path, name: str) -> Any:
    """Return what a stand-in has in place of the attribute of its original; None if nothing."""
    protocol = wrapped.protocol
    plain = ".".join(each for each in path if each not in VIEWS)
    inner = f"{plain}.{name}" if plain else name
    if name in VIEWS:
        is_view = protocol.has_views and not set(VIEWS) & set(path)
        return _child(wrapped, path, name) if is_view else None
    if protocol.is_guarded(plain, name):
        return _method(node, wrapped, (*path, name))
    if protocol.leads_to_guarded(inner):
        return _child(wrapped, path, name)
    if not path and protocol.copies and name in ("with_options", "copy"):
        return _copier(node, wrapped, name)
    if name in protocol.closers.get(plain, ()):
        return _closer(node, wrapped, path, name)
    return None


def _child(wrapped: WrappedClients, path: Path, name: str) -> Node:
    inner = (*path, name)
    return _node(wrapped, inner, wrapped.original_at(inner))


def _method(node: Node, wrapped: WrappedClients, path: Path) -> Any:
    call = wrapped.method(path)

    def method(_: Node, /, *args: Any, **kwargs: Any) -> Any:
        return call(args, kwargs)

    async def amethod(_: Node, /, *args: Any, **kwargs: Any) -> Any:
        return await call(args, kwargs)

    return _bound(node, wrapped.original_at(path), method, amethod)


def _copier(node: Node, wrapped: WrappedClients, name: str) -> Any:
    def copied(_: Node, /, **options: Any) -> Any:
        return Node.of_client(wrapped.with_options(options))

    return _bound(node, getattr(wrapped.first, name), copied)


def _closer(node: Node, wrapped: WrappedClients, path: Path, name: str) -> Any:
    def closed(_: Node, /) -> None:
        with _Closing() as closing:
            for each in _all_at(wrapped, path):
                closing.attempt(getattr(each, name))

    async def aclosed(_: Node, /) -> None:
        with _Closing() as closing:
            for each in _all_at(wrapped, path):
                await closing.aattempt(getattr(each, name)())

    return _bound(node, getattr(wrapped.original_at(path), name), closed, aclosed)


def _bound(
    node: Node, original: Any, function: Callable[..., Any], afunction: Any = None
) -> Callable[..., Any]:
    """Return one of two functions, as a method of a stand-in that looks like the original's.

    Args:
        node: The stand-in.
        original: A method, or a function that a view has in place of one.
        function: What is called; it takes the stand-in first.
        afunction: The same if the original is a coroutine function.
    """
    chosen = afunction if inspect.iscoroutinefunction(original) else function
    plain = getattr(original, "__func__", None)
    if plain is not None:
        return MethodType(functools.update_wrapper(chosen, plain), node)
    bound = functools.partial(chosen, node)
    return functools.update_wrapper(bound, original)


def _all_at(wrapped: WrappedClients, path: Path) -> list[Any]:
    """Return what all clients have at a path, each object once."""
    found: list[Any] = []
    for client in wrapped.originals.values():
        for name in path:
            client = getattr(client, name)
        if all(each is not client for each in found):
            found.append(client)
    return found


def _kind(holder: Any) -> Any:
    return cast("Any", type(holder))
