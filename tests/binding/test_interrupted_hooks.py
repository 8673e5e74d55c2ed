"""An interrupt while a hook begins or ends leaves neither a name nor a lent permit behind."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient_llm import Target, call_id, failover
from resilient_llm._core.circuit.permit import open_permits
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime
from tests.support.ways import GROQ


class Stop(BaseException):
    """What a signal handler raises."""


class Hook:
    """Raises at one of its steps."""

    def __init__(self, at: str) -> None:
        self.at = at

    def __call__(self, *_: object) -> "Hook":
        return self.step("begin")

    def step(self, name: str) -> "Hook":
        if name == self.at:
            raise Stop
        return self

    def attempt(self, *_: object) -> "Hook":
        return self.step("attempt")

    def enter(self) -> "Hook":
        return self.step("enter")

    def leave(self, _: object) -> None:
        self.step("leave")

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def plain() -> None:
    failover(GROQ)(_answers)()


def _answers(target: Target) -> str:
    return "yes"


def asynchronous() -> None:
    @failover(GROQ)
    async def ask(target: Target) -> str:
        return "yes"

    asyncio.run(ask())


def loop() -> None:
    for attempt in failover(GROQ):
        with attempt:
            break


def stream() -> None:
    @failover(GROQ)
    def ask(target: Target) -> Iterator[str]:
        yield "yes"

    list(ask())


@pytest.fixture(autouse=True)
def _names() -> Iterator[None]:
    call_ids.switch_on()
    yield
    call_ids.switch_off()


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("at", ["begin", "attempt", "enter", "leave"])
@pytest.mark.parametrize("form", [plain, asynchronous, loop, stream])
def test_an_interrupt_of_a_hook_leaves_nothing_behind(
    form: Callable[[], Any], at: str, is_first: bool
) -> None:
    """In the first call of a key, which takes another way, and in a later one."""
    if not is_first:
        form()
    remove = runtime.add_hook(Hook(at))  # type: ignore[arg-type]  # what a hook has, by its nature
    with pytest.raises(Stop):
        form()
    remove()

    assert call_id() is None
    assert () == tuple(permit for permit in open_permits.get() if not permit.is_reported)
