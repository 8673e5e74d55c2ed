"""A value per class: computed once, removed with the class."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class ClassCache(Generic[T]):
    """``known[cls]``, or ``known(cls)``: the value for a class; thousands of short-lived classes are no leak.

    Two threads may compute a value at the same time; both get the same answer. A dictionary
    by identity costs a third of what `weakref.WeakKeyDictionary` does: the entry of a class
    goes in the moment in which the class does, before anything else can have its identity.
    """

    __slots__ = ("_compute", "_known")

    def __init__(self, compute: Callable[[type], T]) -> None:
        self._compute = compute
        self._known: dict[int, tuple[T, weakref.ref[type]]] = {}

    # CPython enters `__getitem__` directly, and `__call__` by a detour of twice the cost.
    def __getitem__(self, cls: type) -> T:
        try:
            return self._known[id(cls)][0]
        except KeyError:
            pass
        return self._learn(cls)

    def __call__(self, cls: type) -> T:
        return self[cls]

    def __len__(self) -> int:
        return len(self._known)

    def _learn(self, cls: type) -> T:
        known, key = self._known, id(cls)

        def forget(_: object) -> None:
            known.pop(key, None)

        value = self._compute(cls)
        known[key] = (value, weakref.ref(cls, forget))
        return value
