"""What the demo guards, and with which options: the chains, the budget and the settings.

Needs no client package. The summary names every option of this file that is not a default.
"""

from __future__ import annotations

from typing import Final

from resilient_llm import StreamPolicy, Target

CHAIN: Final = (
    # USD per million tokens. Where a budget is in force, the longest answer is reserved.
    Target("groq/llama-3.3-70b", price=(0.59, 0.79), max_output=10),
    Target("anthropic/claude-haiku", price=(1, 5)),
    Target("openai/gpt-5-mini", price=(0.25, 2)),
    Target("mistral/mistral-small", price=(0.1, 0.3)),
)
"""The targets of ``ask``. The plain clients call the first one."""
STREAMING: Final = (
    Target("deepseek/deepseek-chat"),
    Target("together/llama-4-scout", stream=StreamPolicy(first_item_timeout=0.4)),
    Target("cerebras/gpt-oss-120b"),
)
"""The targets of the readers, which stream."""
RESTARTED: Final = object()
"""The item that a reader receives when a stream is restarted."""
RESTARTS: Final = StreamPolicy(on_interrupt="restart", restart_marker=RESTARTED)
BUDGET: Final = "groq this month"
DEADLINE: Final = 10.0
WORKERS: Final = 4
READERS: Final = 2
PROMPTS: Final = (
    "Why is the sky blue?",
    "What is a squall line?",
    "Name three kinds of stone.",
)

FAILURES: Final = 3
# Shares of the whole demo, so that every recovery is seen however long the demo lasts.
_COOLDOWN: Final = 0.06
_MAX_COOLDOWN: Final = 0.2


def cooldown(seconds: float) -> float:
    """Return the first cooldown of every circuit breaker in a demo of this length."""
    return round(_COOLDOWN * seconds, 2)


def max_cooldown(seconds: float) -> float:
    """Return the longest cooldown of every circuit breaker in a demo of this length."""
    return round(_MAX_COOLDOWN * seconds, 2)


def code_line() -> str:
    """Return the decorator that is under test, with each target by its provider's name."""
    names = ", ".join(target.provider for target in CHAIN)
    return f"@failover(chain=[{names}], timeout={DEADLINE:g})"


def traffic_line() -> str:
    """Return what calls the decorated function."""
    return f"{WORKERS} workers call ask(), {READERS} readers read streams"


def options_lines(seconds: float) -> list[str]:
    """Return what the demo sets that is not a default, for the summary."""
    first_item = next(each.stream.first_item_timeout for each in STREAMING if each.stream)
    return [
        f"Not defaults: failures={FAILURES}, cooldown={cooldown(seconds):g}, "
        f"max_cooldown={max_cooldown(seconds):g}, timeout={DEADLINE:g}, a budget,",
        f'  StreamPolicy(on_interrupt="{RESTARTS.on_interrupt}"), '
        f"first_item_timeout={first_item:g}, logging=False",
    ]
