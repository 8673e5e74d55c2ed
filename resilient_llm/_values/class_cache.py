"""A value per class: computed once, removed with the class."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class ClassCache(Generic[T]):
    """``cache[cls]``, or ``cache(cls)``: the value for a class, computed when first asked for.

    Entries go with their classes, so that thousands of short-lived classes are no leak.

    Two threads may compute a value at the same time; both get the same answer. A dictionary
    by identity costs a third of what `weakref.WeakKeyDictionary` does: the entry is removed when
    the class is freed, before another object can have its identity.
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
