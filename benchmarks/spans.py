"""Print what a call costs that is recorded with OpenTelemetry, beside the same spans made by hand.

    python benchmarks/spans.py            the table
    python benchmarks/spans.py --quick    a smoke test of the same

Each row is the ratio to a function that makes the same two spans with the same attributes by
``start_as_current_span``, measured in turns with it in the same run, beside the most that it may
be. `_timing.py` says how it is measured. Needs opentelemetry-sdk.
"""

from __future__ import annotations

import argparse
import platform
from typing import TYPE_CHECKING, Any, Final

from _timing import Effort, Function, async_timer, compare, sync_timer
from healthy import FULL, QUICK
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind

from resilient_llm import Target, failover
from resilient_llm.observers import otel
from resilient_llm.testing import isolated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan


class _KeepsNothing(InMemorySpanExporter):
    """Takes spans and keeps none, so that collections of garbage cost both sides the same."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def in_memory() -> Any:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_KeepsNothing()))
    return provider


def not_sampled() -> Any:
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(_KeepsNothing()))
    return provider


PROVIDERS: Final[dict[str, tuple[Callable[[], Any], float]]] = {
    "recorded in memory": (in_memory, 1.3),
    "no SDK": (NoOpTracerProvider, 2.5),
    "not sampled": (not_sampled, 2.5),
}
"""``{what: (what makes the provider, ratio to hold)}``."""

_CALL: Final = {"resilient_llm.call_id": "0123456789abcdef"}
_ATTEMPT: Final = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "groq",
    "gen_ai.request.model": "llama",
    "resilient_llm.target": "groq/llama",
    "resilient_llm.attempt": 1,
    "resilient_llm.chain_position": 0,
    "resilient_llm.call_id": "0123456789abcdef",
}
_ANSWERED: Final = {"resilient_llm.outcome": "ok"}
_OVER: Final = {
    "resilient_llm.outcome": "ok",
    "resilient_llm.attempts": 1,
    "resilient_llm.served_by": "groq/llama",
}


def by_hand(provider: Any) -> tuple[Function, Function]:
    """Return a function, and one that is asynchronous, that make the spans by hand."""
    span = provider.get_tracer("by hand").start_as_current_span

    def ask(prompt: str) -> str:
        with span("failover ask", attributes=_CALL) as call:
            with span("chat llama", kind=SpanKind.CLIENT, attributes=_ATTEMPT) as attempt:
                answer = prompt
                attempt.set_attributes(_ANSWERED)
            call.set_attributes(_OVER)
        return answer

    async def ask_async(prompt: str) -> str:
        with span("failover ask", attributes=_CALL) as call:
            with span("chat llama", kind=SpanKind.CLIENT, attributes=_ATTEMPT) as attempt:
                answer = prompt
                attempt.set_attributes(_ANSWERED)
            call.set_attributes(_OVER)
        return answer

    return ask, ask_async


def guarded() -> tuple[Function, Function]:
    """Return the same two functions under a policy."""

    @failover(["groq/llama", "openai/gpt"])
    def ask(target: Target, prompt: str) -> str:
        return prompt

    @failover(["groq/llama", "openai/gpt"])
    async def ask_async(target: Target, prompt: str) -> str:
        return prompt

    return ask, ask_async


def measured(what: str, effort: Effort) -> list[str]:
    """Return the rows of one provider."""
    make, limit = PROVIDERS[what]
    provider = make()
    rows: list[str] = []
    with isolated():
        otel.install(provider, metrics=False)
        pairs = zip(
            by_hand(provider), guarded(), (sync_timer, async_timer), ("", ", async"), strict=True
        )
        for hand, subject, timer, way in pairs:
            ratio = compare(timer(hand), {what: timer(subject)}, effort)[what]
            rows.append(
                f"{what + way:32} {ratio.median:6.2f} {ratio.low:7.2f}-{ratio.high:<7.2f} "
                f"{limit:8.1f} {ratio.baseline * 1e6:7.1f} µs"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean little")
    effort = QUICK if parser.parse_args().quick else FULL
    print(f"CPython {platform.python_version()} on {platform.machine()}, {platform.system()}")
    print(f"{'spans':32} {'ratio':>6} {'quartiles':>15} {'at most':>8} {'by hand':>10}")
    for what in PROVIDERS:
        print("\n".join(measured(what, effort)), flush=True)


if __name__ == "__main__":
    main()
