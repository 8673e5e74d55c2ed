"""How many characters values have as compact JSON: exact up to a size, and from samples beyond it.

All values of a call are measured together: either all of them are read whole, or each gets a share
of what may be read, so that neither their order nor one that is huge hides another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm._core.base64_text import SHORTEST, is_base64
from resilient_llm._core.held import is_bare, items_of, record_of, text_of, word_of

if TYPE_CHECKING:
    from collections.abc import Collection

MOST: Final = 200_000
"""Values that are read in one call."""
SAMPLE: Final = 64
"""What may be read for each list or object of a sample."""
DEEPEST: Final = 32
ATTACHED: Final = 3_200
"""Characters that base64 counts as, which is no text: 800 tokens."""


def size_of_all(values: list[tuple[Any, Collection[int]]]) -> int:
    """Return the characters of values as compact JSON; never raises.

    Args:
        values: Each with the ids of what is around it, so that what contains itself is read once.
    """
    size, exact = 0, _Exact(MOST)
    for value, around in values:
        size += exact.size_of(value, set(around), 0)
        if exact.left < 0:
            return _sampled(values, 0, MOST)
    return size


class _Exact:
    """Reads everything, unless it is too much.

    Attributes:
        left: How much more may be read; less than 0 once that was not enough.
    """

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def size_of(self, value: object, around: set[int], depth: int) -> int:
        """Return the characters of a value, which are too few once nothing is left."""
        cls: Any = type(value)
        if cls is str or is_bare(cls) or issubclass(cls, str):
            return _size_of_leaf(value)
        if depth > DEEPEST or id(value) in around:
            return 0
        around.add(id(value))
        try:
            return self._size_of_inner(value, around, depth)
        except Exception:  # noqa: BLE001  # foreign code, such as the hash of a key
            return 0
        finally:
            around.discard(id(value))

    def _size_of_inner(self, value: object, around: set[int], depth: int) -> int:
        cls, count = type(value), 0
        if cls is dict or cls is list:
            count = len(cast("list[Any]", value))
        if self.left < count:
            self.left = -1
            return 0
        size, children = _opened(value)
        self.left -= len(children) + 1
        if self.left >= 0:
            for child in children:
                cls: Any = type(child)  # pyright: ignore[reportUnknownVariableType]  # of anything
                if cls is str and len(child) < SHORTEST and child[:1] != "d":
                    size += len(child) + 2
                elif cls is str or is_bare(cls):
                    size += _size_of_leaf(child)
                else:
                    size += self.size_of(child, around, depth + 1)
                    if self.left < 0:
                        break
        return size


def _sampled(values: list[tuple[Any, Collection[int]]], depth: int, most: int) -> int:
    """Return the characters of lists and objects, of which no more than so much is read.

    Those that are small are read whole, and the others share what is left then.
    """
    some = _some_of(values, max(most // SAMPLE, 1))
    share = most // (2 * len(some))
    size, large = 0, values[:0]
    for value, around in some:
        exact = _Exact(share)
        found = exact.size_of(value, set(around), depth)
        if exact.left < 0:
            large.append((value, around))
        else:
            size += found
            most -= share - exact.left
    for value, around in large:
        size += _size_from_sample(value, around, depth, max(most, 0) // len(large))
    return size * len(values) // len(some)


def _size_from_sample(value: object, around: Collection[int], depth: int, most: int) -> int:
    if depth > DEEPEST:
        return 0
    try:
        size, children = _opened(value, max(most, 1))
    except Exception:  # noqa: BLE001  # foreign code, such as the hash of a key
        return 0
    some = _some_of(children, max(most // 2, 1))
    inner: list[tuple[Any, Collection[int]]] = []
    leaves = 0
    beyond = {*around, id(value)}
    for child in some:
        cls: Any = type(child)  # pyright: ignore[reportUnknownVariableType]  # of anything
        if is_bare(cls) or issubclass(cls, str):
            leaves += _size_of_leaf(child)
        elif id(child) not in beyond:
            inner.append((child, beyond))
    if inner:
        leaves += _sampled(inner, depth + 1, max(most - len(some), 1))
    return size + (leaves * len(children) // len(some) if some else 0)


def _some_of(values: list[Any], most: int) -> list[Any]:
    """Return so many of them, from everywhere, and not at the same distance each."""
    count = len(values)
    if count <= most:
        return values
    width = count // most
    return [values[index * count // most + index * 40_503 % width] for index in range(most)]


def _opened(value: object, most: int = 0) -> tuple[int, list[Any]]:
    """Return the characters of a list or object without its values, and these."""
    if type(value) is dict:
        record, is_dict = cast("dict[Any, Any]", value), True
    else:
        found = items_of(value, MOST * 50)
        if found is not None:
            return max(len(found[0]) + found[1] + 1, 2), found[0]
        record, is_dict = record_of(value), issubclass(type(value), dict)
        if record is None:
            word = word_of(value)
            return len(word) + 2 if word else 0, []
    # By ids: a class may have an `__eq__` and a `__hash__` of its own.
    if is_dict and set(map(id, map(type, record))) == {id(str)}:
        return sum(map(len, record)) + 4 * len(record) + 1, list(record.values())
    size, fields = 1, list[Any]()
    for name, field in record.items():
        if type(name) is str and (is_dict or field is not None):
            size += len(name) + 4
            fields.append(field)
        elif is_bare(type(name)):  # pyright: ignore[reportUnknownArgumentType]  # of anything
            size += _size_of_leaf(name) + 4
            fields.append(field)
    return max(size, 2), fields


def _size_of_leaf(value: Any) -> int:
    """Return the characters of a text, a number, a truth value or nothing as JSON."""
    cls: Any = type(value)  # pyright: ignore[reportUnknownVariableType]  # of anything
    if cls is str:
        return len(value) + 2 if not is_base64(value) else ATTACHED + 2
    if cls is int:
        bits = value.bit_length()  # Python refuses to write thousands of digits
        return len(repr(value)) if bits < 64 else bits // 3
    if cls is float:
        return len(repr(value))
    if issubclass(cls, str):
        return _size_of_leaf(text_of(value))
    return 4 if value is None or value is True else 5 if value is False else 0
