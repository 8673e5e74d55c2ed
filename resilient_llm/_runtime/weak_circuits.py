"""`WeakCircuits`: circuits by key, none of which is kept alive by being listed here.

Owns the references. A `weakref.WeakValueDictionary` does in several steps of Python code what is
one step here, and raises where a signal handler or a finaliser comes between them on the same
thread. Here each step is one operation of a dict or of a deque.
"""

from __future__ import annotations

import weakref
from collections import deque

from resilient_llm._core.circuit.circuit import Circuit


class _Reference(weakref.ref[Circuit]):
    """A reference that remembers its key."""

    __slots__ = ("key",)
    key: str


class WeakCircuits:
    """Circuits by key, held weakly. What changes it is called under the registry's lock."""

    __slots__ = ("_gone", "_references")

    def __init__(self) -> None:
        self._references: dict[str, _Reference] = {}
        self._gone: deque[weakref.ref[Circuit]] = deque()
        """References to circuits that exist no more, still listed: a finaliser takes no lock."""

    def get(self, key: str) -> Circuit | None:
        """Return the circuit of a key, if it exists."""
        reference = self._references.get(key)
        return None if reference is None else reference()

    def values(self) -> list[Circuit]:
        """Return all circuits that exist."""
        references = list(self._references.values())
        return [each for reference in references if (each := reference()) is not None]

    def add(self, key: str, made: Circuit) -> Circuit:
        """Add a circuit, unless its key has one; return the one that is listed."""
        self._clear_up()
        reference = _Reference(made, self._gone.append)
        reference.key = key
        while True:
            listed = self._references.setdefault(key, reference)
            circuit = listed()
            if circuit is not None:
                return circuit
            self._discard(listed)

    def _clear_up(self) -> None:
        try:
            while True:
                reference = self._gone.popleft()
                assert isinstance(reference, _Reference)
                self._discard(reference)
        except IndexError:
            pass

    def _discard(self, reference: _Reference) -> None:
        key, references = reference.key, self._references
        # Nothing is called between the question and the deletion: see _core/circuit/window.py.
        if key in references and references[key] is reference:
            del references[key]
