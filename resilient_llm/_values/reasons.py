"""The closed set of short reasons, and the word of it that stands for any text.

Reasons of rules, of ``reject`` and of operators are free texts. Where they would become labels of
metrics, `reason_word` replaces what is not in the set, so that nothing private is exported and
the number of time series stays small.
"""

from __future__ import annotations

from typing import Final

REASONS: Final = frozenset(
    "conflict gateway hung invalid_response model_loading network overloaded server_error "
    "stream_error stream_interrupted timeout too_early "
    "capacity quota_window rate_limit "
    "account_disabled endpoint_not_found insufficient_quota invalid_credentials model_not_found "
    "permission_denied region_unsupported "
    "out_of_memory "
    "content_policy context_length_exceeded invalid_output invalid_request output_truncated "
    "too_large unsupported_parameter "
    "rejected empty caller_bug control_flow cancelled time_limit unclassified".split()
)
"""Reasons of verdicts. Keep in sync with the table in docs/reference/kinds.md."""
OF_PROBES: Final = frozenset({"probe"})
"""Of what is not well for a health probe, without a reason of its own."""
OF_LIMITS: Final = frozenset(
    {"request_limit", "token_limit", "request_too_large", "concurrency", "unpriced"}
)
"""Reasons of limits and budgets; that of a budget which is spent is ``budget <name>``."""
OF_SKIPS: Final = OF_LIMITS | {
    "slow",
    "forced_open",
    "context_window",
    "max_attempts",
    "probes taken",
    "last resort taken",
}
"""Further reasons why a target is skipped."""
PREFIXES: Final = frozenset({"budget", "lacks"})
"""Reasons that name something after this word, as in ``budget openai month``."""
MANUAL: Final = "manual"
"""Stands for every bench by hand."""
OTHER: Final = "other"
"""Stands for every text that is not in the set."""

_ALL: Final = REASONS | OF_PROBES | OF_SKIPS | PREFIXES


def reason_word(reason: str) -> str:
    """Return the reason itself if it is in the closed set; else its first word, or ``other``."""
    if reason in _ALL:
        return reason
    word = reason.partition(" ")[0]
    return word if word in PREFIXES else OTHER
