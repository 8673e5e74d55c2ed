"""What the README and the runbook state about errors: who is called again, and what is benched."""

from __future__ import annotations

import pytest

from resilient_llm import Target, failover, list_benched
from resilient_llm.testing import fake_clock, http_error, isolated, scripted

MODEL = "groq/llama-3.3-70b-versatile"
CHAIN = [MODEL, "openai/gpt-5-mini"]


def calls_of_groq(error: Exception, *, calls: int = 1, attempts: int = 3) -> tuple[int, list[str]]:
    """Return the requests that groq got, and what is benched after the calls."""
    groq = scripted(*[error] * calls * attempts)

    @failover(chain=CHAIN, attempts=attempts)
    def ask(target: Target) -> str:
        return str(groq()) if target.provider == "groq" else "hello"

    with isolated(), fake_clock():
        for _ in range(calls):
            assert "hello" == ask()
        return len(groq.calls), [row.model for row in list_benched()]


@pytest.mark.parametrize(
    ("error", "requests", "benched"),
    [
        (http_error(503), 3, [MODEL]),
        (http_error(500), 3, [MODEL]),
        (ConnectionResetError(), 3, [MODEL]),
        (ConnectionRefusedError(), 3, ["groq"]),
        (TimeoutError(), 1, []),
        (http_error(429), 1, [MODEL]),
        (http_error(401), 1, ["groq"]),
        (http_error(402), 1, ["groq"]),
        (http_error(403), 1, [MODEL]),
        (http_error(404), 1, [MODEL]),
        (http_error(400), 1, []),
        (http_error(422), 1, []),
    ],
    ids=repr,
)
def test_an_error_is_retried_and_benched_as_the_tables_show(
    error: Exception, requests: int, benched: list[str]
) -> None:
    """One call makes so many requests to the first target, and benches the model or provider."""
    assert (requests, benched) == calls_of_groq(error)


def test_five_timeouts_in_a_row_bench_the_model() -> None:
    """A provider that hangs is benched by the fifth call, while another target is live."""
    assert (4, []) == calls_of_groq(TimeoutError(), calls=4)
    assert (5, [MODEL]) == calls_of_groq(TimeoutError(), calls=5)


def test_attempts_that_are_used_up_bench_only_from_two_on() -> None:
    """Two attempts of one call bench the target, and one attempt does not."""
    assert (1, []) == calls_of_groq(http_error(503), attempts=1)
    assert (2, [MODEL]) == calls_of_groq(http_error(503), attempts=2)


def test_a_timeout_is_retried_if_no_other_target_is_live() -> None:
    """A chain of one target tries again after a timeout."""
    client = scripted(TimeoutError(), "hello")

    @failover(chain=MODEL)
    def ask(target: Target) -> str:
        return str(client())

    with isolated(), fake_clock():
        assert "hello" == ask()
