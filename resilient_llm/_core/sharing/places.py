"""Places of probes: what callers ask for, what is held, and what is given back.

Owns the claims of this process. A caller waits for at most a moment that it names. A claim
without an answer may have been done, so its place is given back like one that is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from resilient_llm._core.sharing.steps import PlaceAnswered
from resilient_llm._values.sharing import Claim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient_llm._values.sharing import Claimed

MOST_CLAIMS: Final = 100
"""Claims of one step."""


class _Asked:
    """What callers of one key wait for."""

    __slots__ = ("lease", "tickets")

    def __init__(self) -> None:
        self.lease = 0.0
        self.tickets: dict[object, float] = {}
        """``{ticket: the moment until which its caller waits}``"""


class Places:
    """The claims of this process."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked] = {}
        self._sent: dict[str, _Asked | None] = {}
        """What the present step claims; None for a place that it gives back."""
        self._held: dict[str, float] = {}
        """``{key: until when this process has the place, or may have it}``"""
        self._released: dict[str, None] = {}
        self._answers: list[PlaceAnswered] = []
        """What callers are told whose question has become needless."""

    def ask(self, key: str, lease: float, ticket: object, until: float) -> None:
        """Ask for the place of a key, or renew it."""
        asked = self._asked.setdefault(key, _Asked())
        asked.lease = lease
        asked.tickets[ticket] = until
        self._released.pop(key, None)

    def release(self, key: str) -> None:
        """Give a place back: the circuit has closed or opened, or the probe ended in nothing."""
        asked = self._asked.pop(key, None)
        if asked is not None:
            self._answers += [PlaceAnswered(ticket, "unclaimed") for ticket in asked.tickets]
        if key in self._held or key in self._sent:
            self._released[key] = None

    def take_answers(self) -> list[PlaceAnswered]:
        """Return what callers are told whose question has become needless."""
        answers, self._answers = self._answers, []
        return answers

    def release_all(self) -> None:
        """Give every place back."""
        self._released.update(dict.fromkeys(self._held))

    def next_claims(self, now: float) -> tuple[Claim, ...]:
        """Take what is claimed by the next step; empty if there is nothing."""
        for key in [key for key in self._released if self._held.get(key, now) < now]:
            del self._released[key]
        claims: list[Claim] = []
        self._sent = {}
        for key in list(self._released)[:MOST_CLAIMS]:
            del self._released[key]
            self._sent[key] = None
            claims.append(Claim(key, None))
        for key in list(self._asked)[: MOST_CLAIMS - len(claims)]:
            asked = self._sent[key] = self._asked.pop(key)
            self._held[key] = now + asked.lease
            claims.append(Claim(key, asked.lease))
        return tuple(claims)

    def answered(self, claimed: Sequence[Claimed], now: float) -> list[PlaceAnswered]:
        """Take in what the store has answered."""
        effects: list[PlaceAnswered] = []
        sent, self._sent = self._sent, {}
        for (key, asked), each in zip(sent.items(), claimed, strict=True):
            if asked is None or not each.is_held:
                self._held.pop(key, None)
            else:
                self._held[key] = now + each.ends_in
            outcome: Literal["held", "refused"] = "held" if each.is_held else "refused"
            tickets = () if asked is None else asked.tickets
            effects += [PlaceAnswered(ticket, outcome, each.ends_in) for ticket in tickets]
        return effects

    def unanswered(self) -> list[PlaceAnswered]:
        """Take in that the step had no answer: callers probe all the same."""
        sent, self._sent = self._sent, {}
        effects: list[PlaceAnswered] = []
        for key, asked in sent.items():
            if asked is None:
                self._released.setdefault(key)
                continue
            effects += [PlaceAnswered(ticket, "unclaimed") for ticket in asked.tickets]
        return effects

    def ask_again(self) -> None:
        """Ask again for what the present step has asked: the store did nothing."""
        sent, self._sent = self._sent, {}
        for key, asked in sent.items():
            if asked is None:
                self._held.pop(key, None)  # the store has lost all places
                continue
            newer = self._asked.setdefault(key, _Asked())
            newer.lease = newer.lease or asked.lease
            newer.tickets = {**asked.tickets, **newer.tickets}

    def refuse_waiting(self, now: float | None = None) -> list[PlaceAnswered]:
        """Answer those whose time is over; all of them without a moment."""
        effects: list[PlaceAnswered] = []
        for key, asked in list(self._asked.items()):
            for ticket, until in list(asked.tickets.items()):
                if now is None or until <= now:
                    del asked.tickets[ticket]
                    effects.append(PlaceAnswered(ticket, "unclaimed"))
            if not asked.tickets:
                del self._asked[key]
        return effects

    def deadline(self) -> float | None:
        """Return the next moment at which a caller waits no longer."""
        return min(
            (until for asked in self._asked.values() for until in asked.tickets.values()),
            default=None,
        )

    def has_work(self) -> bool:
        """Return whether there is something to send."""
        return bool(self._asked or self._released)
