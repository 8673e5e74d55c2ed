"""Observing events: a counter for metrics, and an asynchronous consumer.

python examples/observers.py
"""

from __future__ import annotations

import asyncio
from collections import Counter

from resilient_llm import (
    AttemptFailed,
    Event,
    FailedOver,
    Target,
    TargetBenched,
    configure,
    events,
    failover,
    observe,
)

counts: Counter[str] = Counter()


def count(event: Event) -> None:
    counts[f"{type(event).__name__} {event.target}"] += 1


@failover(chain=["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"], attempts=1)
async def ask(target: Target, prompt: str) -> str:
    if target.provider == "groq":
        raise ConnectionResetError("this provider is down")
    return f"{target.key} answers"


async def watch(ready: asyncio.Event) -> None:
    async with events() as stream:
        ready.set()
        async for event in stream:
            if isinstance(event, FailedOver):
                print(
                    f"watcher: moved from {event.from_target} to {event.to_target}, {event.reason}"
                )
            elif isinstance(event, TargetBenched):
                print(f"watcher: {event.target} is benched, {event.trigger}")
                return


async def main() -> None:
    configure(logging=False)  # the default observer would write the same to the log
    stop = observe(count, AttemptFailed, FailedOver, TargetBenched)
    ready = asyncio.Event()
    watcher = asyncio.create_task(watch(ready))
    await ready.wait()
    for number in range(6):
        await ask(f"question {number}")
    await watcher
    stop()
    for what, how_often in sorted(counts.items()):
        print(f"{how_often} x {what}")


asyncio.run(main())
