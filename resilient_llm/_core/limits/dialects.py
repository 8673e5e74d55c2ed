"""The headers in which providers report what is left of their rate limits: one table.

A row is one figure of one dialect. To add a provider, add its rows, with the page that documents
them, and an answer of it in tests/core/test_rate_headers.py.

Rows of several dialects may have the same headers. The dialect of the key's own provider is read
first, then the others in the order of the table, until one can read the reset that came.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Counts = Literal["requests", "tokens", "input", "output"]
"""What a figure counts: requests, all tokens of a call, or those of its input or output alone."""
Unit = Literal["duration", "seconds", "rfc3339", "epoch"]
"""How a reset is written: ``6m0s``, a number of seconds, a date, or seconds or milliseconds since
1970, which differ by a factor that no clock is wrong by."""
Scope = Literal["target", "provider"]
Kind = Literal["refill", "window"]
"""*refill*: the reset is when the figure is the limit again, and until then it grows evenly.
*window*: the figure stands until the reset, and is the limit from then on."""


class Row(NamedTuple):
    """One figure of one dialect.

    Attributes:
        dialect: Name of the dialect; of a provider, as it stands in keys.
        counts: What the figure counts.
        remaining: Header with the figure.
        limit: Header with its limit.
        reset: Header with its reset, or None if there is none.
        unit: How the reset is written.
        kind: How the figure comes back.
        scope: Whose figure it is.
        source: Page that documents it.
        period: Seconds of its window, where the name says it and there is no reset.
    """

    dialect: str
    counts: Counts
    remaining: str
    limit: str
    reset: str | None
    unit: Unit
    kind: Kind
    scope: Scope
    source: str
    period: float | None = None


_OPENAI: Final = "https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers"
_GROQ: Final = "https://console.groq.com/docs/rate-limits"
# The only pages with the unit of Azure's reset; it sends -1 where it does not count.
_AZURE: Final = "https://learn.microsoft.com/en-us/answers/questions/5625878"
_XAI: Final = "https://docs.x.ai/docs/consumption-and-rate-limits"
_ANTHROPIC: Final = "https://docs.anthropic.com/en/api/rate-limits#response-headers"
# Limits of requests differ between the models of one key, so they are the target's.
_MISTRAL: Final = "https://github.com/mistralai/client-ts/issues/169"
_CEREBRAS: Final = "https://inference-docs.cerebras.ai/support/rate-limits"
# One limit is that of a model, another that of all free models: to pause the provider for it would
# pause the paid ones, too.
_OPENROUTER: Final = "https://openrouter.ai/docs/api-reference/limits"
_TOGETHER: Final = "https://docs.together.ai/docs/rate-limits"
_DRAFT_06: Final = "https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-06"
STRUCTURED_SOURCE: Final = (
    "https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-10"
)

STRUCTURED: Final = "ratelimit"
"""Header of the later drafts, whose value is read in `headers`: ``"day";r=50;t=30``."""
POLICY: Final = "ratelimit-policy"
"""Header with the limits of these figures: ``"day";q=100;w=60``."""


def _named_after(
    dialect: str, unit: Unit, kind: Kind, source: str, *, resets: bool = True
) -> tuple[Row, ...]:
    """Return the rows of a dialect with the headers that OpenAI has."""
    return tuple(
        Row(
            dialect,
            counts,
            f"x-ratelimit-remaining-{counts}",
            f"x-ratelimit-limit-{counts}",
            f"x-ratelimit-reset-{counts}" if resets else None,
            unit,
            kind,
            "target",
            source,
        )
        for counts in ("requests", "tokens")
    )


def _anthropic(counts: Counts, name: str) -> Row:
    start = f"anthropic-ratelimit-{name}-"
    return Row(
        "anthropic",
        counts,
        f"{start}remaining",
        f"{start}limit",
        f"{start}reset",
        "rfc3339",
        "refill",
        "target",
        _ANTHROPIC,
    )


def _mistral(counts: Counts, name: str, period: float | None) -> Row:
    return Row(
        "mistral",
        counts,
        f"x-ratelimit-remaining-{name}",
        f"x-ratelimit-limit-{name}",
        None,
        "seconds",
        "window",
        "target",
        _MISTRAL,
        period,
    )


def _cerebras(counts: Counts, span: str) -> Row:
    return Row(
        "cerebras",
        counts,
        f"x-ratelimit-remaining-{counts}-{span}",
        f"x-ratelimit-limit-{counts}-{span}",
        f"x-ratelimit-reset-{counts}-{span}",
        "seconds",
        "window",
        "target",
        _CEREBRAS,
        60.0 if span == "minute" else None,
    )


ROWS: Final[tuple[Row, ...]] = (
    *_named_after("openai", "duration", "refill", _OPENAI),
    *_named_after("groq", "duration", "refill", _GROQ),
    *_named_after("azure", "seconds", "window", _AZURE),
    *_named_after("xai", "seconds", "window", _XAI, resets=False),
    _anthropic("requests", "requests"),
    _anthropic("tokens", "tokens"),
    _anthropic("input", "input-tokens"),
    _anthropic("output", "output-tokens"),
    *(_cerebras("requests", span) for span in ("minute", "hour", "day")),
    *(_cerebras("tokens", span) for span in ("minute", "hour", "day")),
    _mistral("requests", "req-minute", 60.0),
    _mistral("tokens", "tokens-minute", 60.0),
    _mistral("tokens", "tokens-month", None),
    Row(
        "openrouter",
        "requests",
        "x-ratelimit-remaining",
        "x-ratelimit-limit",
        "x-ratelimit-reset",
        "epoch",
        "window",
        "target",
        _OPENROUTER,
    ),
    Row(
        "together",
        "requests",
        "x-ratelimit-remaining",
        "x-ratelimit-limit",
        "x-ratelimit-reset",
        "seconds",
        "window",
        "target",
        _TOGETHER,
    ),
    Row(
        "together",
        "tokens",
        "x-tokenlimit-remaining",
        "x-tokenlimit-limit",
        None,
        "seconds",
        "window",
        "target",
        _TOGETHER,
    ),
    Row(
        "ietf-fields",
        "requests",
        "ratelimit-remaining",
        "ratelimit-limit",
        "ratelimit-reset",
        "seconds",
        "window",
        "provider",
        _DRAFT_06,
    ),
)

BY_HEADER: Final[dict[str, tuple[Row, ...]]] = {
    name: tuple(row for row in ROWS if row.remaining == name)
    for name in dict.fromkeys(row.remaining for row in ROWS)
}
"""``{header with a figure: its rows, in the order of the table}``."""
