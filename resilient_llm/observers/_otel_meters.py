"""The instruments of OpenTelemetry that `otel` counts with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histogram in seconds, if no view of the user has others."""


class Meters:
    """The instruments."""

    def __init__(self, meter: Meter) -> None:
        counter = meter.create_counter
        self.calls = counter("resilient_llm.calls", "{call}", "Calls, by function and outcome.")
        self.attempts = counter(
            "resilient_llm.attempts", "{attempt}", "Attempts, by target and outcome."
        )
        self.duration = meter.create_histogram(
            "resilient_llm.attempt.duration",
            "s",
            "Duration of the attempts that succeeded, of streams to their end.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self.retries = counter(
            "resilient_llm.retries", "{retry}", "Retries on the same target, by what timed them."
        )
        self.failovers = counter(
            "resilient_llm.failovers", "{failover}", "Calls that went on to another target."
        )
        self.skips = counter(
            "resilient_llm.skips", "{skip}", "Targets that were passed over, by reason."
        )
        self.hedges = counter(
            "resilient_llm.hedges", "{hedge}", "Attempts that were started beside a slow one."
        )
        self.order_changes = counter(
            "resilient_llm.order_changes", "{change}", "Moves of a target by adaptive order."
        )
        self.tool_loops = counter(
            "resilient_llm.tool_loops",
            "{call}",
            "Calls whose conversation repeats one tool call, by function and action.",
        )
        self.spend = counter(
            "resilient_llm.spend", "{USD}", "USD that attempts were booked with, by target."
        )
