"""The copy of a method that ``.using`` makes, which has to be given its object.

``client.ask.using(…)`` is the attribute of a plain function: Python asks the function for it and
tells it nothing of ``client``. A descriptor would know, and would double the cost of every call
of a method. So the copy takes the object as its first argument, and says so where it is missing.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._binding.injection import Injection


def copy_of_method(wrapper: Any, injection: Injection) -> Any:
    """Return a copy by ``.using``: that of a method checks its first argument."""
    owner = _owner_of(injection)
    if not owner:
        return wrapper
    refuse = functools.partial(_refuse_without_object, injection.fn.__name__, owner)
    front = _async_front(wrapper, refuse) if injection.is_async else _front(wrapper, refuse)
    functools.update_wrapper(front, wrapper)
    front.__wrapped__ = injection.fn
    front.__signature__ = wrapper.__signature__
    return front


def _owner_of(injection: Injection) -> str:
    """Return the name of the class that a method was written in; empty if it is a function."""
    first = injection.parameters[0].name if injection.parameters else ""
    owner, _, _ = getattr(injection.fn, "__qualname__", "").rpartition(".")
    if first not in ("self", "cls") or owner.endswith("<locals>"):
        return ""
    return owner.rpartition("<locals>.")[2]


def _front(wrapper: Callable[..., Any], refuse: Callable[..., None]) -> Any:
    def copy(*args: Any, **kwargs: Any) -> Any:
        refuse(args, kwargs)
        return wrapper(*args, **kwargs)

    return copy


def _async_front(wrapper: Callable[..., Any], refuse: Callable[..., None]) -> Any:
    async def copy(*args: Any, **kwargs: Any) -> Any:
        refuse(args, kwargs)
        return await wrapper(*args, **kwargs)

    return copy


def _refuse_without_object(
    name: str, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Raise a TypeError if the first argument does not have this method."""
    if (args and _has_method(args[0], name, owner)) or not kwargs.keys().isdisjoint(
        ("self", "cls")
    ):
        return
    raise TypeError(
        f"{owner}.{name}.using(…) needs its object as first argument, also where it was reached "
        f"through one: write {owner}.{name}.using(…)(obj, …)"
    )


def _has_method(candidate: Any, name: str, owner: str) -> bool:
    """Return whether this is an object of the class, or one that takes its place."""
    names = (name, f"_{owner.rpartition('.')[2].lstrip('_')}{name}")
    mine: type[Any] = cast(
        "type[Any]", candidate if isinstance(candidate, type) else type(candidate)
    )
    if any(each in vars(cls) for cls in inspect.getmro(mine) for each in names):
        return True
    # A stand-in, such as a Mock, may have it by other means.
    return any(hasattr(candidate, each) for each in names)
