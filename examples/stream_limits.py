"""Timeouts of streams: until the first content, and between two items with content.

python examples/stream_limits.py
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from resilient_llm import (
    StreamInterruptedError,
    StreamPolicy,
    Target,
    Trace,
    configure,
    failover,
    health,
)

stalls_at = {"groq": 0, "openai": 99}


@failover(
    chain=[
        "groq/llama-3.3-70b-versatile",
        # This model reasons before it answers, so it may take longer.
        Target(
            "openai/gpt-5-mini", stream=StreamPolicy(first_item_timeout=20.0, idle_timeout=10.0)
        ),
    ],
    attempts=1,
    stream=StreamPolicy(first_item_timeout=0.3, idle_timeout=0.2),
)
async def ask(target: Target, prompt: str) -> AsyncGenerator[str, None]:
    for number, word in enumerate(["The ", "sky ", "is ", "blue.\n"]):
        while number == stalls_at[target.provider]:
            await asyncio.sleep(0.05)
            yield ""  # a keep-alive is not content and resets no timeout
        await asyncio.sleep(0.02)
        yield word


async def show(prompt: str) -> None:
    async with aclosing(ask(prompt)) as words:
        async for word in words:
            print(word, end="", flush=True)


async def main() -> None:
    configure(logging=False)

    with Trace() as trace:
        await show("Why is the sky blue?")
    for attempt in trace.calls[0].attempts:
        print(f"  {attempt.target}: {attempt.reason or 'answered'} after {attempt.seconds:.2f} s")

    stalls_at["groq"] = 2
    try:
        await show("Why is the sky blue?")
    except StreamInterruptedError as error:
        print("\n ", error)

    report = health()["openai/gpt-5-mini"]
    print(
        f"openai: the first word after {report.first_content:.2f} s, "
        f"the whole stream {report.latency:.2f} s"
    )


asyncio.run(main())
