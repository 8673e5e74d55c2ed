"""What looks configured and would have no effect is refused, and a spend key holds where it says."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from resilient_llm import (
    Budget,
    BudgetExceededError,
    ConfigurationError,
    Limit,
    Target,
    configure,
    failover,
    reset_spend,
    settings,
    spend,
    spend_key,
)


def refused(make: Any) -> str:
    """Return the message with which something is refused; no setting is changed by it."""
    before = settings()
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert before is settings()
    return str(raised.value)


def ask() -> str:
    return failover(Target("groq/llama", tags=("eu ",))).call(lambda *, target: target.key)


def keys() -> list[str | None]:
    """Return the key of each call since the last time, as the budget has counted them."""
    found = [row.key for row in spend() for _ in range(row.calls)]
    reset_spend()
    return found


# What would have no effect.


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Budget(calls=1, of="*"), "of='*' is not allowed: write 'all' for every target"),
        (lambda: Budget(calls=1, of=" * "), "write 'all'"),
        (lambda: configure(prices={"tag:eu": (1, 1)}), "prices['tag:eu'] names a tag"),
        (lambda: configure(breakers={"tag:eu": {"failures": 9}}), "breakers['tag:eu'] names a tag"),
        (lambda: configure(breakers={"tag:eu": None}), "breakers['tag:eu'] names a tag"),
        (lambda: configure(prices={"groq": (1, 1), "openai": 5}), "prices['openai']: price=5"),
        (lambda: configure(prices={"groq": (1, float("nan"))}), "prices['groq']: price[1]=nan"),
        (lambda: reset_spend(5), "name of type int"),
        (lambda: reset_spend(["all month calls"]), "name of type list"),
        (lambda: configure(limits={"groq": Limit(tokens=5, shared=True)}), "has shared=True"),
        (lambda: configure(limits={"tag:eu": Limit(tokens=5, shared=True)}), "limits['tag:eu']"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_refused(make: Any, said: str) -> None:
    """With what to write instead."""
    assert said in refused(make)


def test_a_tag_with_blanks_counts_in_its_budget() -> None:
    """Limits strip the tags of targets, and budgets do as well: no blank evades a cap."""
    configure(budgets=[Budget(calls=1, of="tag:eu")])
    ask()

    with pytest.raises(BudgetExceededError):
        ask()


# Where a spend key holds.


@pytest.fixture
def _by_key() -> None:
    configure(budgets=[Budget(calls=99, of="key")])


@pytest.mark.usefixtures("_by_key")
def test_nested_keys() -> None:
    """The innermost block counts, and its end gives the outer key back, also after an error."""
    with spend_key("a"):
        with pytest.raises(KeyError), spend_key("b"), spend_key("c"):
            ask()
            raise KeyError
        ask()
    ask()

    assert ["a", "c"] == keys()


@pytest.mark.usefixtures("_by_key")
def test_a_block_that_ends_in_another_context_leaves_that_alone() -> None:
    """A generator that is closed late takes no key from the code that happens to close it."""

    def holding() -> Iterator[None]:
        with spend_key("generator"):
            yield

    held = holding()
    contextvars.Context().run(next, held)

    with spend_key("closer"):
        held.close()
        ask()

    assert ["closer"] == keys()


@pytest.mark.usefixtures("_by_key")
def test_a_block_that_ends_in_a_copy_of_its_context_ends() -> None:
    """As that of a fixture or a dependency whose second half runs in a task of its own."""

    async def dependency() -> AsyncIterator[None]:
        with spend_key("request"):
            yield

    async def main() -> None:
        with spend_key("outer"):
            held = dependency()
            await anext(held)

            async def leave() -> None:
                await anext(held, None)
                ask()

            await asyncio.create_task(leave())

    asyncio.run(main())

    assert ["outer"] == keys()


@pytest.mark.usefixtures("_by_key")
def test_tasks_and_threads_have_the_key_of_the_context_they_began_with() -> None:
    """And what other tasks enter does not reach them."""

    async def one(key: str) -> None:
        with spend_key(key):
            await asyncio.sleep(0)
            ask()
            await asyncio.to_thread(ask)

    async def main() -> None:
        with spend_key("outer"):
            await asyncio.gather(one("a"), one("b"), asyncio.to_thread(ask))

    asyncio.run(main())

    assert ["a", "a", "b", "b", "outer"] == keys()


def test_a_spend_key_is_no_decorator() -> None:
    """It would end before an asynchronous function begins, and nothing would be capped."""
    assert "inside the function" in refused(lambda: spend_key("tenant-7")(ask))


def test_a_spend_key_is_entered_once() -> None:
    """Two tasks in one block would leave each other's."""
    with (block := spend_key("a")):
        assert "entered twice" in refused(block.__enter__)
    with block:
        pass
    block.__exit__(None, None, None)
