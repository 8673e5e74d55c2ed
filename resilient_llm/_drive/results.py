"""Tells what a function returned: a plain answer, an iterator of items, or a manager of one.

The class decides, by the special methods that Python defines, since no SDK is imported:

- An iterator is a stream, unless it is a file or has a length.
- A context manager is a manager of a stream if entering it is all that can be done with it, for
  example ``client.messages.stream(…)`` of anthropic or what ``@contextmanager`` makes. A context
  manager with other public methods is an answer by itself.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, cast

from resilient_llm._values.built_in import class_name
from resilient_llm._values.class_cache import ClassCache
from resilient_llm._values.errors import ConfigurationError

# Attributes in which stream objects of SDKs keep the iterator that all their methods read from:
# openai, anthropic and others of the same generator; mistralai (seen November 2026).
_HOLDERS: Final = ("_iterator", "generator")


class ResultKind:
    """What can be done with the objects of a class, if they are not plain answers.

    Attributes:
        items: Whether ``for`` gives items of a stream.
        async_items: Whether ``async for`` does.
        manager: Whether ``with`` gives a stream.
        async_manager: Whether ``async with`` does.
    """

    __slots__ = ("async_items", "async_manager", "items", "manager")

    def __init__(
        self, *, items: bool, async_items: bool, manager: bool, async_manager: bool
    ) -> None:
        self.items = items
        self.async_items = async_items
        self.manager = manager
        self.async_manager = async_manager

    @property
    def is_manager(self) -> bool:
        """Whether it must be entered before there is a stream."""
        return not (self.items or self.async_items)


def _kind(cls: type) -> ResultKind | None:
    # An object with a length is complete, and so is every answer of a `MagicMock`.
    is_whole = hasattr(cls, "read") or hasattr(cls, "__len__")
    items = _has(cls, "__iter__", "__next__") and not is_whole
    async_items = _has(cls, "__aiter__", "__anext__") and not is_whole
    only_managers = not (items or async_items) and _is_nothing_else(cls)
    manager = only_managers and _has(cls, "__enter__", "__exit__")
    async_manager = only_managers and _has(cls, "__aenter__", "__aexit__")
    if not (items or async_items or manager or async_manager) or hasattr(cls, "__await__"):
        return None
    return ResultKind(
        items=items, async_items=async_items, manager=manager, async_manager=async_manager
    )


def _has(cls: type, *names: str) -> bool:
    return all(getattr(cls, name, None) is not None for name in names)


def _is_nothing_else(cls: type) -> bool:
    """Return whether a class has no method or attribute with a public name."""
    return all(name.startswith("_") for each in cls.__mro__[:-1] for name in vars(each))


_kinds: ClassCache[ResultKind | None] = ClassCache(_kind)


def kind_of(value: object) -> ResultKind | None:
    """Return what can be done with a value that is not a plain answer; None for a plain answer."""
    return _kinds[type(value)]


def special(value: object, name: str) -> Any:
    """Return a special method as Python finds it: on the class."""
    return getattr(type(value), name).__get__(value)


def is_awaitable(value: object) -> bool:
    """Return whether ``await`` takes it; at a tenth of the cost of ``inspect.isawaitable``."""
    return hasattr(type(value), "__await__")


def _is_forgotten(cls: type) -> bool:
    return (
        hasattr(cls, "__await__")
        and not _has(cls, "__iter__", "__next__")
        and not _has(cls, "__aiter__")
        and not _has(cls, "__aenter__", "__aexit__")
    )


_forgotten: ClassCache[bool] = ClassCache(_is_forgotten)


def refuse_unawaited(answer: object, key: str) -> None:
    """Refuse an awaitable as the answer of an asynchronous attempt: an ``await`` is missing in it.

    Its error would leave the caller's own ``await``, where nothing is counted any more. What can
    also be iterated or entered is left alone. A coroutine is closed, so that Python does not
    warn that nobody awaited it.

    Args:
        answer: What the attempt gave.
        key: Key of its target.

    Raises:
        ConfigurationError: If the answer only waits to be awaited.
    """
    if not _forgotten[type(answer)]:
        return
    if issubclass(type(answer), Coroutine):
        cast("Coroutine[Any, Any, Any]", answer).close()
    raise ConfigurationError(
        f"the function that was called for {key} returned an object of type "
        f"{class_name(type(answer))}, which nobody has awaited: write `return await …` in it"
    )


def holder_of(stream: object, iterates: str) -> str | None:
    """Return the attribute that holds the iterator which a stream's methods read from, or None.

    Args:
        stream: The SDK's stream object.
        iterates: Special method of the iterator: ``"__next__"`` or ``"__anext__"``.
    """
    for name in _HOLDERS:
        if hasattr(type(stream), name):
            continue  # a method, or a property, which would run code of the SDK
        try:
            # Not from its `__dict__`: reading that makes every attribute of the object slower.
            held: object = object.__getattribute__(stream, name)
        except AttributeError:
            continue
        if hasattr(type(held), iterates):
            return name
    return None
