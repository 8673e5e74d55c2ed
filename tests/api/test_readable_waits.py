"""How long waits read in the message of a refusal."""

import pytest

from resilient_llm import CallRejectedError


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.25 s"),
        (30.0, "30 s"),
        (119.4, "119 s"),
        (120.0, "2 min"),
        (121.0, "3 min"),
        (3_600.0, "1 h 0 min"),
        (111_880.0, "31 h 5 min"),
        (172_800.0, "2 d 0 h"),
        (2_588_000.0, "29 d 23 h"),
    ],
)
def test_a_wait_is_readable(seconds: float, text: str) -> None:
    """It is rounded up to the smaller of its two largest units, so nobody comes too early."""
    assert str(CallRejectedError("groq/x", "budget b", seconds)).endswith(f"; try again in {text}")


def test_no_wait_is_shown_if_none_is_known() -> None:
    """The message ends with the reason."""
    assert str(CallRejectedError("groq/x", "concurrency")).endswith("concurrency")
