"""`store_contract`: checks that a store does what `resilient_llm.stores` says, clause by clause.

A clause is a small function whose name is the sentence that it checks. It uses names of its own,
so that clauses do not disturb each other in one store.
"""

from __future__ import annotations

from collections.abc import Callable

from resilient_llm.stores import Store
from resilient_llm.testing._contract import _benches, _losses, _money
from resilient_llm.testing._contract._session import Clause

__all__ = ["store_contract"]

CLAUSES = _benches.CLAUSES + _losses.CLAUSES + _money.CLAUSES


def store_contract(make: Callable[[], Store]) -> None:
    """Check that a store does what the library asks of one.

    It takes a few seconds, and pretends that data was lost. So give it a store in which nothing
    else is kept.

    Examples:
        >>> store_contract(MemoryStore)

    Args:
        make: Returns a store. Called several times; if the stores share their data, that is
            checked as well. All of them are closed at the end.

    Raises:
        AssertionError: If it does not; the message begins with the clause.
    """
    for clause in CLAUSES:
        name = clause.__name__.replace("_", " ")
        given = Clause(make)
        try:
            given.begin()
            clause(given)
        except AssertionError as error:
            given.close()  # whatever comes of that, this is what is wrong
            raise AssertionError(f"{name}: {error}") from error
        except Exception as error:
            given.close()
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
        except BaseException:  # an interrupt
            given.close()
            raise
        for error in given.close():
            raise AssertionError(
                f"a store can be closed: {type(error).__name__}: {error} (after {name!r})"
            ) from error
