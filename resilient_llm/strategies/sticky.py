"""The strategy ``sticky(key)``: calls with one key go to one target, as long as that is live.

Weighted rendezvous hashing (D. Thaler, C. Ravishankar, "A name-based mapping scheme for
rendezvous", 1996; weights as in J. Resch, "New hashing algorithms for data storage", 2015): each
target has a score of its own for a key, and the order is that of the scores. So a target that goes
moves only the keys of which it had the best score.

The functions below are the same in every process and every release: a change of one of them would
send every key to another target. tests/strategies/test_sticky.py holds some of their values.
"""

from __future__ import annotations

import sys
from hashlib import blake2b
from math import log
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values.sticky import Sticky

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from resilient_llm.strategies._order import Candidate

_MASK: Final = 2**64 - 1
_STEP: Final = 2.0**-64
"""What 64 bits count as a share; one is added, so that no share is zero."""


def sticky(key: Callable[..., str | bytes | int | UUID | None]) -> Sticky:
    """Return a strategy that sends calls with the same key to the same target.

    For prompt caches, which know what one account has sent before, and for rate limits per user.
    The order of the others is the key's own as well, so that a benched target's keys spread over
    all others, by `Target.weight`.

    Examples:
        >>> @failover(chain=CHAIN, strategy=strategies.sticky(lambda prompt, *, user: user))
        ... def ask(target: Target, prompt: str, *, user: str) -> str: ...

    Args:
        key: Called with the arguments of each call as they were passed, ``self`` included; gives
            a str, bytes, an int, a UUID, or None for the order in which targets are declared. Its
            error leaves the call, as does the TypeError for a key of another type. In the loop
            form there are no arguments, so it is not called, and the key is None.

    Raises:
        ConfigurationError: If ``key`` is not callable, or asynchronous.
    """
    return Sticky(key)


def hash_of_key(key: Any) -> int | None:
    """Return 64 bits for a key; None for the key None.

    Raises:
        TypeError: If the key is of another type. The message does not repeat it.
    """
    if isinstance(key, str):
        data = b"s" + key.encode("utf-8", "surrogatepass")
    elif isinstance(key, int):
        data = b"i%x" % key
    elif key is None:
        return None
    elif isinstance(key, bytes):
        data = b"b" + key
    elif isinstance(key, _uuid()):
        data = b"u" + key.bytes
    else:
        raise TypeError(
            f"the key of sticky() is of type {type(key).__name__}: "
            "expected str, bytes, int, UUID or None"
        )
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def numbers_of_target(key: str) -> tuple[int, int]:
    """Return two times 64 bits for the key of a target; the second is odd."""
    digest = blake2b(b"t" + key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") | 1


class StickyOrder:
    """The order of one priority group for calls with a key.

    The score of a target is ``ln(u) / weight``, the largest comes first, where u in (0, 1] is the
    lower 64 bits of ``(key ^ offset) * factor``, as a share. It grows with u, so that targets of
    one weight are compared without the logarithm.
    """

    __slots__ = ("_candidates", "_has_one_weight", "_numbers")

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._candidates = tuple(candidates)
        self._numbers = [
            (*numbers_of_target(each.target.key), each.target.weight) for each in candidates
        ]
        self._has_one_weight = len({each.target.weight for each in candidates}) == 1

    def first(self, key_hash: int | None) -> Candidate:
        """Return the first candidate in the order of a key; the first declared if there is none."""
        if key_hash is None:
            return self._candidates[0]
        scores = self._scores(key_hash)
        return self._candidates[scores.index(max(scores))]

    def whole(self, key_hash: int | None) -> Sequence[Candidate]:
        """Return all candidates in the order of a key; as declared if there is none."""
        if key_hash is None:
            return self._candidates
        scores = self._scores(key_hash)
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return [self._candidates[at] for at in order]

    def _scores(self, key_hash: int) -> list[float]:
        if self._has_one_weight:
            return [((key_hash ^ offset) * factor) & _MASK for offset, factor, _ in self._numbers]
        return [
            log((((key_hash ^ offset) * factor) & _MASK) * _STEP + _STEP) / weight
            for offset, factor, weight in self._numbers
        ]


def _uuid() -> Any:
    """Return the class, if anything has loaded it."""
    return getattr(sys.modules.get("uuid"), "UUID", ())
