"""One call that a client is to make, and how an answer is read to its end. Knows no client."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from tests.replay.cases import Case

KEY = "not-a-key"
QUESTION = "Will it rain?"
MESSAGES = [{"role": "user", "content": QUESTION}]


@dataclass(frozen=True)
class Call:
    """What a client is told.

    Attributes:
        url: Where the server is, without a path.
        timeout: How long the client waits, in seconds.
        before: Filled by clients that ask around first: ``{part of a path: JSON to answer}``.
    """

    case: Case
    url: str
    timeout: float
    before: dict[str, Any]

    @property
    def api(self) -> str:
        return self.case.api

    @property
    def model(self) -> str:
        return self.case.model

    @property
    def is_async(self) -> bool:
        return self.case.is_async

    @property
    def is_stream(self) -> bool:
        return self.case.is_stream

    @property
    def streamed(self) -> dict[str, bool]:
        """The argument by which most clients are asked for a stream."""
        return {"stream": True} if self.is_stream else {}

    def read(self, answer: Any) -> Any:
        """Return the answer, a streamed one as a list."""
        return list(answer) if self.is_stream else answer

    async def aread(self, answer: Any) -> Any:
        """Return the answer, awaited if it must be, a streamed one as a list."""
        if inspect.isawaitable(answer):
            answer = await answer
        return [piece async for piece in answer] if self.is_stream else answer
