"""`ClassCache`: a cache of one computed value per class; an entry dies with its class."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class ClassCache(Generic[T]):
    """``cache[cls]``, or ``cache(cls)``: the value for a class.

    An entry does not keep its class alive, so thousands of short-lived classes do not leak.

    Two threads may compute a value at the same time; both get the same answer. A dictionary
    keyed by identity costs a third of a `weakref.WeakKeyDictionary`. It is safe because the
    entry is removed when the class is collected, before another object can get its id.
    """

    __slots__ = ("_compute", "_values")

    def __init__(self, compute: Callable[[type], T]) -> None:
        self._compute = compute
        self._values: dict[int, tuple[T, weakref.ref[type]]] = {}

    # CPython calls `__getitem__` directly; `__call__` costs twice as much.
    def __getitem__(self, cls: type) -> T:
        try:
            return self._values[id(cls)][0]
        except KeyError:
            pass
        return self._computed(cls)

    def __call__(self, cls: type) -> T:
        return self[cls]

    def __len__(self) -> int:
        return len(self._values)

    def _computed(self, cls: type) -> T:
        values, key = self._values, id(cls)

        def forget(_: object) -> None:
            values.pop(key, None)

        value = self._compute(cls)
        values[key] = (value, weakref.ref(cls, forget))
        return value
