"""The weather of the demo: which provider has what trouble, when, and for how long.

Owns the record of what the weather really was, which decides whether a call that was lost
could have been served.
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
class Spell:
    """Bad weather at one provider.

    Attributes:
        provider: Where.
        begins: When, as a share of the whole demo, in [0, 1].
        ends: When it is fair again; 1 for never.
        condition: What kind of bad weather.
        words: What an operator would say.
        share: Share of the requests that it happens to.
    """

    provider: str
    begins: float
    ends: float
    condition: Condition
    words: str
    share: float = 1.0


FORECAST: Final = (
    Spell("openai", 0.0, 1.0, Condition.DEAD_KEY, "has a dead key: every request is a 401"),
    Spell(
        "deepseek",
        0.08,
        0.6,
        Condition.BREAKS_OFF,
        "streams die in the middle: the connection is cut",
    ),
    Spell(
        "together",
        0.1,
        0.75,
        Condition.STALLED,
        "streams never start: keep-alives, and not one word",
    ),
    Spell("groq", 0.15, 0.45, Condition.REFUSED, "goes down: connections are refused"),
    Spell("anthropic", 0.17, 0.27, Condition.LIMIT_USED_UP, "has no request left, its headers say"),
    Spell("anthropic", 0.28, 0.43, Condition.RATE_LIMITED, "limits the rate: 429 with Retry-After"),
    Spell(
        "groq",
        0.72,
        0.87,
        Condition.OVERLOADED,
        "is overloaded: half of the requests are a 503",
        share=0.5,
    ),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """The weather at a provider changed.

    Attributes:
        at: Monotonic seconds.
        provider: Where.
        condition: What it is from then on.
        words: What an operator would say.
    """

    at: float
    provider: str
    condition: Condition
    words: str


class Weather:
    """Turns the servers as the forecast says, and remembers when it did.

    Attributes:
        turns: What has happened, oldest first.
    """

    def __init__(
        self, servers: Mapping[str, Server], seconds: float, when_turned: Callable[[Turn], object]
    ) -> None:
        self.turns: list[Turn] = []
        self._servers = servers
        self._seconds = seconds
        self._when_turned = when_turned

    def now(self, provider: str) -> Condition:
        """Return the weather at a provider."""
        return next(
            (turn.condition for turn in reversed(self.turns) if turn.provider == provider),
            Condition.FAIR,
        )

    def was_fair(self, provider: str, began: float, ended: float) -> bool:
        """Return whether a provider would have answered at every moment of a call."""
        turns = [turn for turn in self.turns if turn.provider == provider and turn.at <= ended]
        if not turns:
            return True
        return turns[-1].condition is Condition.FAIR and turns[-1].at <= began

    def could_serve(self, providers: Iterable[str], began: float, ended: float) -> bool:
        """Return whether any of these providers would have answered at every moment of a call."""
        return any(self.was_fair(provider, began, ended) for provider in providers)

    async def blow(self, began: float) -> None:
        """Turn every spell on and off at its time.

        Args:
            began: When the demo began, in monotonic seconds.
        """
        changes = [(spell.begins, spell, True) for spell in FORECAST]
        changes += [(spell.ends, spell, False) for spell in FORECAST if spell.ends < 1.0]
        for share, spell, begins in sorted(changes, key=lambda change: change[0]):
            await asyncio.sleep(max(0.0, began + share * self._seconds - time.monotonic()))
            await (self._begin(spell) if begins else self._end(spell))

    async def _begin(self, spell: Spell) -> None:
        # Written down before it begins and after it has ended: what counts as fair was fair.
        self._turned(spell, spell.condition, spell.words)
        retry_after = None
        if spell.condition in (Condition.RATE_LIMITED, Condition.LIMIT_USED_UP):
            retry_after = round((spell.ends - spell.begins) * self._seconds, 3)
        server = self._servers[spell.provider]
        await asyncio.to_thread(
            server.turn, spell.condition, retry_after=retry_after, share=spell.share
        )

    async def _end(self, spell: Spell) -> None:
        await asyncio.to_thread(self._servers[spell.provider].turn, Condition.FAIR)
        self._turned(spell, Condition.FAIR, "is well again")

    def _turned(self, spell: Spell, condition: Condition, words: str) -> None:
        turn = Turn(time.monotonic(), spell.provider, condition, words)
        self.turns.append(turn)
        self._when_turned(turn)
