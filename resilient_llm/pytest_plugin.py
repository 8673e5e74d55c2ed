"""Fixtures for pytest: ``isolated_llm`` isolates a test, ``fake_clock`` moves its time by hand.

``resilient_llm`` is another name of the first. With ``isolated_llm = true`` in the configuration
of pytest every test is isolated, whether it asks for the fixture or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from resilient_llm.testing import FakeClock


_OPTION: Final = "isolated_llm"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        _OPTION, "run every test in a fresh state of resilient_llm", type="bool", default=False
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    names: list[str] | None = getattr(item, "fixturenames", None)
    if names is not None and _OPTION not in names and item.config.getini(_OPTION):
        names.insert(0, _OPTION)


@pytest.fixture(name="isolated_llm")
def _isolated_llm() -> Generator[Any, None, None]:
    """Run the test in a fresh state of the process; gives the package."""
    import resilient_llm
    from resilient_llm.testing import isolated

    with isolated():
        yield resilient_llm


@pytest.fixture(name="resilient_llm")
def _resilient_llm(isolated_llm: Any) -> Any:
    """Run the test in a fresh state of the process; gives the package."""
    return isolated_llm


@pytest.fixture(name="fake_clock")
def _fake_clock() -> Generator[FakeClock, None, None]:
    """Give a clock that is moved by hand."""
    from resilient_llm.testing import fake_clock

    with fake_clock() as clock:
        yield clock
