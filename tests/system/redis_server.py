"""Servers of Debian's redis-server, and what a session meets on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from resilient_llm._values.sharing import (
    Charge,
    Claim,
    DataLostError,
    Entry,
    Reserve,
    Settle,
    StoreError,
    Take,
)
from resilient_llm.testing._contract._session import Session, bench, end, name
from tests.support.valkey import Server

PROGRAM = "redis-server"
BASE = "resilient_llm:{resilient_llm}:"

STEPS: tuple[Callable[[Session], object], ...] = (
    lambda session: session.look(),
    lambda session: session.publish(bench("groq"), end("openai", 5, "a")),
    lambda session: session.claim(Claim("groq", 30.0)),
    lambda session: session.reserve(
        Reserve(name(), (Charge("one", 0, None, 5, 100),), (Take("bucket", 1, 1.0, 9),))
    ),
    lambda session: session.settle(Settle(name(), (Entry("one", 0, None, 5, 1, 0),))),
)


@pytest.fixture
def started() -> Iterator[Callable[..., Server]]:
    """Start a server of Debian, which ends with the test."""
    servers: list[Server] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_SERVER", PROGRAM)

        def start(*options: str, port: int = 0, sentinel: str = "") -> Server:
            servers.append(Server(*options, port=port, sentinel=sentinel))
            return servers[-1]

        yield start
    for each in servers:
        each.close()


def reason_of(step: Callable[[], object]) -> str:
    """Return why a step fails, ``"lost"`` if data is gone, or an empty text."""
    try:
        step()
    except StoreError as error:
        return error.reason
    except DataLostError:
        return "lost"
    return ""


def reasons(session: Session) -> list[str]:
    """Return why each step fails: a look, then those that change something."""
    return [reason_of(lambda step=step: step(session)) for step in STEPS]


def spent(session: Session, account: str = "one") -> int:
    """Return what an account has, as a new session finds it."""
    found = Session(session.store)
    found.look()
    assert found.seen is not None
    return sum(each.spent for each in found.seen.balances if each.account == account)


def keys(session: Session) -> set[object]:
    """Return the keys that are benched, as a new session finds them."""
    return {each.key for each in Session(session.store).look() if each.through is None}
