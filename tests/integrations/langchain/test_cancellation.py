"""Calls of the adapter that are cancelled at every one of their awaits, and streams that are left."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from resilient_llm import (
    AttemptCancelled,
    AttemptFailed,
    AttemptSucceeded,
    breaker,
    configure,
    health,
)
from resilient_llm.integrations import langchain
from resilient_llm.testing import fake_clock, isolated
from tests.integrations.langchain.adapters import PROMPT
from tests.integrations.scenarios import LLAMA, MINI
from tests.support.stepping import cancelled_at, no_lease_is_taken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integrations.langchain.adapters import Providers


class Slow(BaseChatModel):
    """A model that lets others run between all that it does.

    Attributes:
        fails: Whether it fails before it answers.
        begun: How many of its calls have begun.
    """

    fails: bool = False
    begun: list[int] = Field(default_factory=lambda: [0])

    @property
    def _llm_type(self) -> str:
        return "slow"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        self.begun[0] += 1
        await asyncio.sleep(0)
        if self.fails:
            raise ConnectionError("down")
        await asyncio.sleep(0)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("It is."))])

    async def _astream(
        self, messages: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.begun[0] += 1
        await asyncio.sleep(0)
        if self.fails:
            raise ConnectionError("down")
        for text in ("It", " is."):
            await asyncio.sleep(0)
            yield ChatGenerationChunk(message=AIMessageChunk(content=text))


async def _ainvoke(llm: Any) -> None:
    await llm.ainvoke(PROMPT)


async def _astream(llm: Any) -> None:
    async with aclosing(llm.astream(PROMPT)) as stream:
        async for _ in stream:
            await asyncio.sleep(0)


def _adapter(*, first_fails: bool) -> SimpleNamespace:
    """Return an adapter over two models, with the ends of its attempts."""
    configure(breakers={"*": {"failures": 3}}, logging=False)
    first, second = Slow(fails=first_fails, begun=[0]), Slow(begun=[0])
    ended: list[Any] = []
    ends = (AttemptSucceeded, AttemptFailed, AttemptCancelled)
    llm = langchain.failover(
        {LLAMA: first, MINI: second},
        attempts=1,
        observers=[lambda event: ended.append(event) if isinstance(event, ends) else None],
    )
    return SimpleNamespace(llm=llm, models=(first, second), ended=ended)


@pytest.mark.parametrize("call", [_ainvoke, _astream])
@pytest.mark.parametrize("first_fails", [False, True])
def test_a_call_cancelled_at_any_await(call: Any, first_fails: bool) -> None:
    """Every attempt that began has ended, nothing runs, no lease is held, no health is harmed."""

    async def once(n: int) -> bool:
        state = _adapter(first_fails=first_fails)
        came = await cancelled_at(n, lambda: call(state.llm), "asyncio")
        assert len(state.ended) == sum(each.begun[0] for each in state.models), n
        no_lease_is_taken(LLAMA, MINI)
        assert health([MINI])[MINI].errors == 0
        assert health([LLAMA])[LLAMA].errors <= first_fails
        with breaker(MINI):  # it is let through
            pass
        # LangChain's own streams are closed by the garbage collector, in tasks.
        for _ in range(3):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return came

    n = 0
    came = True
    while came:
        with isolated(), fake_clock():
            came = asyncio.run(once(n))
        n += 1
    assert n > 2


def test_a_stream_that_is_left_ends_its_request(providers: Providers) -> None:
    """Leaving a stream early closes the model's own stream, and counts as a success."""

    async def main() -> None:
        stream = providers.adapter().astream(PROMPT)
        async for chunk in stream:
            if chunk.text:
                break
        await stream.aclose()
        assert health()[LLAMA].total == 1  # at once, and not when garbage is collected

    asyncio.run(main())
    for chunk in (stream := providers.adapter().stream(PROMPT)):
        if chunk.text:
            break
    stream.close()  # type: ignore[attr-defined]

    assert providers.groq.is_quiet()
    assert health()[LLAMA].total == 2
    assert health()[LLAMA].errors == 0


def test_a_time_limit_around_a_real_call(providers: Providers) -> None:
    """A real call that its caller cancels leaves its connection, and no second model is called."""

    async def main() -> None:
        llm = providers.adapter()
        task = asyncio.ensure_future(llm.ainvoke(PROMPT))
        await asyncio.to_thread(providers.groq.hears, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    from tests.support.providers import Provider, Silence

    with Provider("openai") as silent:
        silent.says(Silence())
        providers.groq = silent  # type: ignore[assignment]
        asyncio.run(main())
        assert silent.is_quiet()

    assert not providers.openai.requests
    assert health()[LLAMA].errors == 0
