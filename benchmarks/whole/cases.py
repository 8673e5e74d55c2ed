"""What is measured by `whole_calls.py`, as its server, its workers and itself need to know it.

Plain values of the standard library: this file is read in environments that have nothing
else in common.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

Mode = Literal["sync", "async"]
MODES: tuple[Mode, ...] = ("sync", "async")

FIRST_MODEL = "gpt-4o-mini"
SECOND_MODEL = "gpt-4.1-mini"
"""Names that every library's tables know, so that none takes the path of a model unknown to it."""

PROMPT = "Why is the sky blue?"
ALIVE = "Are you still alive?"
"""The prompt that a dead provider answers: it has been alive until a moment ago."""


@dataclass(frozen=True)
class Case:
    """One situation which every contender is put into."""

    name: str
    title: str
    first: Literal["healthy", "dead", "refused"]
    """What the first provider does; the second is always healthy."""
    policy: Literal["default", "once", "equal"]
    """How the contenders are set: by their defaults, one attempt and nothing remembered, or all alike."""
    is_first_call: bool = False
    """Whether each measured call is the first one after the provider's death."""
    has_history: bool = False
    """Whether calls saw the dead provider before the measured ones."""
    note: str = ""
    """What a reader of the figures has to know."""

    @property
    def waits(self) -> bool:
        """Whether contenders may wait or change with time, so that each is measured apart from the others."""
        return self.policy != "once" and self.first != "healthy"


CASES = (
    Case("healthy", "healthy first provider, defaults", "healthy", "default"),
    Case("once", "dead first provider (503), one attempt each, nothing remembered", "dead", "once"),
    Case(
        "refused",
        "dead first provider (connection refused), one attempt each, nothing remembered",
        "refused",
        "once",
    ),
    Case(
        "death",
        "first call after the death of the first provider (503), defaults",
        "dead",
        "default",
        is_first_call=True,
        note="Defaults differ, see the settings: some go on at once, others retry first. Waits between attempts are in "
        "the figures; they are random, and most of the time there is.",
    ),
    Case(
        "steady",
        "later calls with a dead first provider (503), defaults",
        "dead",
        "default",
        has_history=True,
        note="Who remembers the death leaves the dead provider out, but for a request now and then; the mean and the "
        "slowest call have it in them. Who does not pays for it in every call, with its waits if it retries.",
    ),
    Case(
        "benched",
        "later calls with a dead first provider (503), one attempt and 30 s of cooldown after one failure",
        "dead",
        "equal",
        has_history=True,
        note="Who has no cooldown is as before.",
    ),
)
COOLDOWN = 30.0
"""Seconds, where all are set alike."""
HISTORY = 3
"""Calls before the measured ones, in a case that has a history."""


@dataclass(frozen=True)
class Places:
    """Where the providers are."""

    port: int
    refused_port: int

    def url(self, provider: str) -> str:
        """Return the base URL of ``"healthy"``, ``"dead"``, ``"refused"`` or ``"second"``."""
        port = self.refused_port if provider == "refused" else self.port
        return f"http://127.0.0.1:{port}/{provider}/v1"


def answer_of(provider: str) -> str:
    """Return the text that a provider answers every prompt with."""
    return f"The answer of the provider called {provider}."


def completion_of(provider: str) -> bytes:
    """Return the body of a provider's answer, as the API documents it."""
    message = {
        "role": "assistant",
        "content": answer_of(provider),
        "refusal": None,
        "annotations": [],
    }
    return json.dumps(
        {
            "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
            "object": "chat.completion",
            "created": 1741569952,
            "model": SECOND_MODEL if provider == "second" else FIRST_MODEL,
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            ],
            "usage": {
                "prompt_tokens": 13,
                "completion_tokens": 9,
                "total_tokens": 22,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": 0,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 0,
                    "rejected_prediction_tokens": 0,
                },
            },
            "service_tier": "default",
            "system_fingerprint": "fp_44709d6fcb",
        }
    ).encode()
