"""Reads the spans and metrics that an SDK of OpenTelemetry has recorded in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from resilient_llm.observers import otel


class Recorded:
    """What was recorded: spans in the order in which they ended, and metrics."""

    def __init__(self, *processors: SpanProcessor, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(**options)
        for each in (SimpleSpanProcessor(self.exporter), *processors):
            self.tracers.add_span_processor(each)
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.tracer = self.tracers.get_tracer("the user's own")

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    @property
    def attempts(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.startswith("chat ")]

    @property
    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.startswith("failover ")]

    def span(self, name: str) -> ReadableSpan:
        """Return the only span of this name."""
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def parent(self, name: str) -> str | None:
        """Return the name of the parent of the only span of this name."""
        parent = self.span(name).parent
        if parent is None:
            return None
        return next(each.name for each in self.spans if each.context.span_id == parent.span_id)

    def counts(self, metric: str) -> Counter[tuple[Any, ...]]:
        """Return ``{(values of its attributes, by name): number}`` of a metric."""
        data = self.reader.get_metrics_data()
        counts: Counter[tuple[Any, ...]] = Counter()
        for resource in [] if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                for each in scope.metrics:
                    for point in each.data.data_points if each.name == metric else ():
                        labels = tuple(value for _, value in sorted(point.attributes.items()))
                        counts[labels] += getattr(point, "value", None) or getattr(
                            point, "count", 0
                        )
        return counts


@contextmanager
def recorded(*processors: SpanProcessor, **options: Any) -> Iterator[Recorded]:
    """Install `otel` with an SDK that records in memory, with options of ``install``."""
    found = Recorded(*processors)
    uninstall = otel.install(found.tracers, found.meters, **options)
    try:
        yield found
    finally:
        uninstall()


def attributes(span: ReadableSpan, *names: str) -> dict[str, Any]:
    """Return some attributes of a span, or all, without ``resilient_llm.`` before their names."""
    found = {name.removeprefix("resilient_llm."): value for name, value in span.attributes.items()}
    return {name: found[name] for name in names if name in found} if names else found
