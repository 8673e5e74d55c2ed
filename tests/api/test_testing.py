"""`resilient_llm.testing`: blocks that are left in another order than they were entered."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from resilient_llm import bench_model, is_benched, testing
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import _isolation, fake_clock, isolated

Block = Callable[[], AbstractContextManager[Any]]
BLOCKS: dict[str, Block] = {"isolated": isolated, "fake_clock": fake_clock}


@pytest.mark.parametrize("second", BLOCKS)
@pytest.mark.parametrize("first", BLOCKS)
def test_blocks_left_in_another_order_raise_and_restore_the_real_state(
    monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    """The mistake is an error, and what was benched and which time it was are back after it."""
    monkeypatch.setattr(_isolation, "_restores", [])  # what isolates the tests is not meant
    bench_model("real/one")
    real_time = runtime.time
    outer, inner = BLOCKS[first](), BLOCKS[second]()
    outer.__enter__()
    inner.__enter__()

    with pytest.raises(RuntimeError, match="leave the inner one first"):
        outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)

    assert is_benched("real/one")
    assert real_time is runtime.time


def test_blocks_left_in_order_restore_one_after_the_other() -> None:
    """Each gives back the state that it found."""
    bench_model("real/one")

    with isolated():
        bench_model("outer/one")
        with isolated(), fake_clock():
            assert not is_benched("outer/one")
        assert is_benched("outer/one")
        assert not is_benched("real/one")

    assert is_benched("real/one")


@pytest.mark.parametrize("name", testing.__all__)
def test_what_it_offers_belongs_to_it(name: str) -> None:
    """Classes and functions name the module that users import them from, and pickles find them."""
    value = getattr(testing, name)

    assert ("resilient_llm.testing", name) == (value.__module__, value.__qualname__)
    assert value is pickle.loads(pickle.dumps(value))
