"""Tells what a function returned: a plain answer, a stream of items, or a manager of one.

The class decides, by the special methods that Python defines, since no SDK is imported:

- An iterator is a stream, unless it is a file or has a length.
- An object that only can be iterated is a stream if it can be closed, and neither has a length
  nor can be indexed or searched, for example the ``EventStream`` of boto3. An HTTP response is
  an answer: it offers its body in other ways as well, which items that are held back would
  leave without their beginning.
- A context manager is a manager of a stream if entering it is all that can be done with it, for
  example ``client.messages.stream(…)`` of anthropic or what ``@contextmanager`` makes. A context
  manager that can be iterated or has other public methods is an answer by itself.

Tracers put the objects of SDKs into a ``wrapt.ObjectProxy``, whose class has nearly every special
method. There the object inside decides, and the class of the proxy only says what it passes on.
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
# Proxies in proxies: a tracer within a tracer, around an object that a guard gave.
_MOST_PROXIES: Final = 8


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
        self,
        *,
        items: bool = False,
        async_items: bool = False,
        manager: bool = False,
        async_manager: bool = False,
    ) -> None:
        self.items = items
        self.async_items = async_items
        self.manager = manager
        self.async_manager = async_manager

    @property
    def is_manager(self) -> bool:
        """Whether it must be entered before there is a stream."""
        return not (self.items or self.async_items)

    @property
    def is_either(self) -> bool:
        """Whether the consumer decides if it is read by ``for`` or by ``async for``."""
        return self.items and self.async_items


_BY_OBJECT: Final = ResultKind()
"""Stands for classes of which the single object must be looked at."""


def _kind(cls: type) -> ResultKind | None:
    if hasattr(cls, "__await__"):
        return None
    if _is_proxy(cls):
        return _BY_OBJECT
    # An object with a length is complete, and so is every answer of a `MagicMock`.
    if hasattr(cls, "read") or hasattr(cls, "__len__"):
        return _kind_of_manager(cls)
    is_iterator = _has(cls, "__iter__", "__next__") or _has(cls, "__aiter__", "__anext__")
    if is_iterator:
        return _kind_of_stream(cls)
    return _BY_OBJECT if _is_closable_iterable(cls) else _kind_of_manager(cls)


def _kind_of_stream(cls: type) -> ResultKind:
    is_closable = _is_closable_iterable(cls)
    return ResultKind(
        items=_has(cls, "__iter__") and (is_closable or _has(cls, "__next__")),
        async_items=_has(cls, "__aiter__") and (is_closable or _has(cls, "__anext__")),
    )


def _kind_of_manager(cls: type) -> ResultKind | None:
    manager = _has(cls, "__enter__", "__exit__")
    async_manager = _has(cls, "__aenter__", "__aexit__")
    is_iterated = _has(cls, "__iter__") or _has(cls, "__aiter__")
    if is_iterated or not (manager or async_manager) or not _is_nothing_else(cls):
        return None
    return ResultKind(manager=manager, async_manager=async_manager)


def _is_closable_iterable(cls: type) -> bool:
    """Return whether a class may be that of a stream which is not its own iterator."""
    return (
        (_has(cls, "__iter__") or _has(cls, "__aiter__"))
        and (_has(cls, "close") or _has(cls, "aclose"))
        and not any(hasattr(cls, name) for name in ("__getitem__", "__contains__"))
        and not any(name.startswith("iter_") for each in cls.__mro__ for name in vars(each))
    )


def _has(cls: type, *names: str) -> bool:
    return all(getattr(cls, name, None) is not None for name in names)


def _is_nothing_else(cls: type) -> bool:
    """Return whether a class has no method or attribute with a public name."""
    return all(name.startswith("_") for each in cls.__mro__[:-1] for name in vars(each))


def _is_proxy(cls: type) -> bool:
    return any(_is_of_wrapt(each) for each in cls.__mro__)


def _is_of_wrapt(cls: type) -> bool:
    """Return whether it is the transparent proxy itself, of whichever wrapt or copy of it."""
    return cls.__name__.endswith("ObjectProxy") and hasattr(cls, "__wrapped__")


def _kind_of_class(cls: type) -> ResultKind | None:
    try:
        return _kind(cls)
    except Exception:  # noqa: BLE001  # anybody's metaclass may raise anything
        return None


_kinds: ClassCache[ResultKind | None] = ClassCache(_kind_of_class)


def kind_of(value: object) -> ResultKind | None:
    """Return what can be done with a value that is not a plain answer; None for a plain answer."""
    kind = _kinds[type(value)]
    return kind if kind is not _BY_OBJECT else _kind_of_object(value, _MOST_PROXIES)


def is_decided_by_class(value: object) -> bool:
    """Return whether all objects of its class are of the same kind."""
    return _kinds[type(value)] is not _BY_OBJECT


def _kind_of_object(value: object, most: int) -> ResultKind | None:
    cls = type(value)
    if not _is_proxy(cls):
        # Temporary files hand all but a few methods on to the file inside them.
        return None if _holds(value, "read") else _kind_of_stream(cls)
    given: ResultKind | None = getattr(cls, "_self_kind", None)
    if given is not None:  # what a guard of ours gave
        return given
    inner = wrapped_by(value)
    if inner is None or most == 0:
        return None
    kind = _kinds[type(inner)]
    if kind is _BY_OBJECT:
        kind = _kind_of_object(inner, most - 1)
    if kind is None:
        return _kind_of_own(cls, type(inner))
    items = kind.items and _has(cls, "__iter__")
    async_items = kind.async_items and _has(cls, "__aiter__")
    manager = kind.manager and _has(cls, "__enter__", "__exit__")
    async_manager = kind.async_manager and _has(cls, "__aenter__", "__aexit__")
    if not (items or async_items or manager or async_manager):
        return None
    return ResultKind(
        items=items, async_items=async_items, manager=manager, async_manager=async_manager
    )


def _kind_of_own(cls: type, inner: type) -> ResultKind | None:
    """Return the kind of a proxy that makes an iterator of what is a plain answer without it."""
    if any(hasattr(inner, name) for name in ("read", "__len__", "__await__")):
        return None
    own = {name for each in cls.__mro__[:-1] if not _is_of_wrapt(each) for name in vars(each)}
    items = {"__iter__", "__next__"} <= own
    async_items = {"__aiter__", "__anext__"} <= own
    return ResultKind(items=items, async_items=async_items) if items or async_items else None


def _holds(value: object, name: str) -> bool:
    try:
        return hasattr(value, name)
    except Exception:  # noqa: BLE001  # anybody's object may raise anything
        return False


def wrapped_by(value: object) -> object:
    """Return the object inside a transparent proxy; None if it has none, or is no proxy."""
    if not _is_proxy(type(value)):
        return None
    try:
        return object.__getattribute__(value, "__wrapped__")
    except Exception:  # noqa: BLE001  # it is not there yet, or is made on demand
        return None


def _is_response(cls: type) -> bool:
    """Return whether a class is that of an HTTP response whose body may not be read.

    A client and a file can be closed as well, but are used after the answer.
    """
    if not (_has(cls, "aclose") or _has(cls, "close")):
        return False
    names = {name for each in cls.__mro__ for name in vars(each)}
    is_answered = "headers" in names and not names.isdisjoint(("status", "status_code"))
    return is_answered or any(
        name.startswith(("iter_", "aiter_")) and _has(cls, name) for name in names
    )


def _is_response_class(cls: type) -> bool:
    try:
        return _is_response(cls)
    except Exception:  # noqa: BLE001  # as for their kinds
        return False


_responses: ClassCache[bool] = ClassCache(_is_response_class)


def is_open_answer(value: object) -> bool:
    """Return whether nobody but the reader of an answer would close it: a stream, or a response.

    A manager that is not entered has nothing open.
    """
    kind = kind_of(value)
    if kind is not None:
        return not kind.is_manager
    for _ in range(_MOST_PROXIES):
        inner = wrapped_by(value)
        if inner is None:
            break
        value = inner
    return _responses[type(value)] or issubclass(type(value), Coroutine)


def special(value: object, name: str) -> Any:
    """Return a special method as Python finds it: on the class."""
    return getattr(type(value), name).__get__(value)


def is_awaitable(value: object) -> bool:
    """Return whether ``await`` takes it; at a tenth of the cost of ``inspect.isawaitable``."""
    try:
        return hasattr(type(value), "__await__")
    except Exception:  # noqa: BLE001  # anybody's metaclass may raise anything
        return False


def _is_forgotten(cls: type) -> bool:
    try:
        return (
            hasattr(cls, "__await__")
            and not _has(cls, "__iter__", "__next__")
            and not _has(cls, "__aiter__")
            and not _has(cls, "__aenter__", "__aexit__")
        )
    except Exception:  # noqa: BLE001  # as for their kinds
        return False


_forgotten: ClassCache[bool] = ClassCache(_is_forgotten)


def refuse_unawaited(answer: object, key: str) -> None:
    """Refuse an awaitable as the answer of an asynchronous attempt: an ``await`` is missing in it.

    Its error would leave the caller's own ``await``, where nothing is counted. What can
    also be iterated or entered is left alone. A coroutine is closed, so that Python does not
    warn that it was not awaited.

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
        f"{class_name(type(answer))}, which was not awaited: write `return await …` in it"
    )


def holder_of(stream: object, iterates: str) -> tuple[object, str] | None:
    """Return where a stream keeps the iterator which its methods read from, or None.

    Args:
        stream: The SDK's stream object, or a tracer's proxy of it.
        iterates: Special method of the iterator: ``"__next__"`` or ``"__anext__"``.

    Returns:
        The object itself, or the one inside its proxies, and the name of the attribute.
    """
    for _ in range(_MOST_PROXIES):
        inner = wrapped_by(stream)
        if inner is None:
            break
        stream = inner
    for name in _HOLDERS:
        if hasattr(type(stream), name):
            continue  # a method, or a property, which would run code of the SDK
        try:
            # Not from its `__dict__`: reading that makes every attribute of the object slower.
            held: object = object.__getattribute__(stream, name)
        except AttributeError:
            continue
        if hasattr(type(held), iterates):
            return stream, name
    return None
