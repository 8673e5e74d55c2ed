"""What stores do when the process forks: a child has fresh locks and no connections."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forking(Protocol):
    """A store that has something to do at a fork."""

    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork_in_child(self) -> None: ...


_stores: set[weakref.ref[Forking]] = set()
_forking: dict[int, list[Forking]] = {}
"""``{thread that forks: stores that it waits for}``; others may be made meanwhile."""


def register(store: Forking) -> None:
    """Have a store called at each fork, while it exists."""
    _stores.add(weakref.ref(store, _stores.discard))


def _existing() -> list[Forking]:
    # A copy in one step: another thread may make a store now.
    known = [reference() for reference in list(_stores)]
    return [store for store in known if store is not None]


def _before() -> None:
    _forking[threading.get_ident()] = stores = _existing()
    for store in stores:
        store.before_fork()


def _in_parent() -> None:
    for store in _forking.pop(threading.get_ident(), ()):
        store.after_fork_in_parent()


def _in_child() -> None:
    _forking.clear()
    for store in _existing():
        store.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
