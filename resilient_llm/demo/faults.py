"""The faults of the demo: which provider fails in which way, when, and for how long.

Owns the record of the faults that really were in force. The record decides whether a call that
failed could have been answered.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from resilient_llm.demo.servers import Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from resilient_llm.demo.servers import Server


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one provider.

    Attributes:
        provider: The provider that fails.
        begins: When it begins, as a share of the whole demo, in [0, 1].
        ends: When it ends; 1 for never.
        condition: How the server behaves meanwhile.
        sentence: What happens, for the log; at most 60 characters.
        share: Share of the requests that fail.
    """

    provider: str
    begins: float
    ends: float
    condition: Condition
    sentence: str
    share: float = 1.0


SCHEDULE: Final = (
    Fault("openai", 0.0, 1.0, Condition.DEAD_KEY, "openai has a revoked key: it answers 401."),
    Fault("deepseek", 0.08, 0.6, Condition.BREAKS_OFF, "deepseek cuts its streams in the middle."),
    Fault(
        "together",
        0.1,
        0.75,
        Condition.STALLED,
        "together sends keep-alives in place of content.",
    ),
    Fault("groq", 0.15, 0.45, Condition.REFUSED, "groq is down: it refuses connections."),
    Fault(
        "anthropic",
        0.17,
        0.27,
        Condition.LIMIT_USED_UP,
        "anthropic reports in its headers: no request is left.",
    ),
    Fault(
        "anthropic",
        0.28,
        0.43,
        Condition.RATE_LIMITED,
        "anthropic limits the rate: 429 with Retry-After.",
    ),
    Fault(
        "groq",
        0.72,
        0.87,
        Condition.OVERLOADED,
        "groq is overloaded: half of the requests get a 503.",
        share=0.5,
    ),
)


@dataclass(frozen=True, slots=True)
class FaultChange:
    """A fault began or ended.

    Attributes:
        at: Monotonic seconds.
        provider: The provider.
        condition: How the provider behaves from then on.
        sentence: What happened, for the log.
    """

    at: float
    provider: str
    condition: Condition
    sentence: str


class FaultInjector:
    """Switches the servers by the schedule, and records when it did.

    Attributes:
        changes: What has happened, oldest first.
    """

    def __init__(
        self,
        servers: Mapping[str, Server],
        seconds: float,
        on_change: Callable[[FaultChange], object],
    ) -> None:
        self.changes: list[FaultChange] = []
        self._servers = servers
        self._seconds = seconds
        self._on_change = on_change

    def now(self, provider: str) -> Condition:
        """Return the present condition of a provider."""
        return next(
            (each.condition for each in reversed(self.changes) if each.provider == provider),
            Condition.OK,
        )

    def was_ok(self, provider: str, began: float, ended: float) -> bool:
        """Return whether a provider would have answered at every moment of a call."""
        changes = [each for each in self.changes if each.provider == provider and each.at <= ended]
        if not changes:
            return True
        return changes[-1].condition is Condition.OK and changes[-1].at <= began

    def could_answer(self, providers: Iterable[str], began: float, ended: float) -> bool:
        """Return whether any of these providers would have answered at every moment of a call."""
        return any(self.was_ok(provider, began, ended) for provider in providers)

    async def run(self, began: float) -> None:
        """Begin and end every fault at its time.

        Args:
            began: When the demo began, in monotonic seconds.
        """
        changes = [(fault.begins, fault, True) for fault in SCHEDULE]
        changes += [(fault.ends, fault, False) for fault in SCHEDULE if fault.ends < 1.0]
        for share, fault, begins in sorted(changes, key=lambda change: change[0]):
            await asyncio.sleep(max(0.0, began + share * self._seconds - time.monotonic()))
            await (self._begin(fault) if begins else self._end(fault))

    async def _begin(self, fault: Fault) -> None:
        # Recorded before it begins and after it has ended: what is recorded as ok was ok.
        self._record(fault.provider, fault.condition, fault.sentence)
        retry_after = None
        if fault.condition in (Condition.RATE_LIMITED, Condition.LIMIT_USED_UP):
            retry_after = round((fault.ends - fault.begins) * self._seconds, 3)
        server = self._servers[fault.provider]
        await asyncio.to_thread(
            server.switch, fault.condition, retry_after=retry_after, share=fault.share
        )

    async def _end(self, fault: Fault) -> None:
        await asyncio.to_thread(self._servers[fault.provider].switch, Condition.OK)
        self._record(fault.provider, Condition.OK, f"{fault.provider} works again.")

    def _record(self, provider: str, condition: Condition, sentence: str) -> None:
        change = FaultChange(time.monotonic(), provider, condition, sentence)
        self.changes.append(change)
        self._on_change(change)
