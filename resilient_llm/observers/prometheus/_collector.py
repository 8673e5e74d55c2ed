"""The collector: gives a registry of prometheus_client what a scrape asks for."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from resilient_llm.observers.prometheus._families import FAMILIES, bound_texts, encodable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from resilient_llm.observers.prometheus._families import Family, Labels, Metrics


class Collector:
    """Reads the counts when it is asked for them, and keeps none itself."""

    def __init__(self, namespace: str, metrics: Metrics) -> None:
        self._namespace = namespace
        self._metrics = metrics
        self._bounds = metrics.reading.bounds

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values, for the registry to find names that are taken."""
        return (self._family(each, {}) for each in FAMILIES)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics with their present values."""
        return (self._family(family, values) for family, values in self._metrics.values())

    def _family(self, family: Family, values: Mapping[Labels, Any]) -> Metric:
        from prometheus_client import core

        name = f"{self._namespace}_{family.name}"
        if family.type == "histogram":
            histogram = core.HistogramMetricFamily(name, family.help, labels=family.labels)
            for labels, seconds in values.items():
                histogram.add_metric(
                    encodable(labels), self._buckets(seconds.buckets), sum_value=seconds.seconds
                )
            return histogram
        make = core.CounterMetricFamily if family.type == "counter" else core.GaugeMetricFamily
        metric = make(name, family.help, labels=family.labels)
        for labels, value in values.items():
            metric.add_metric(encodable(labels), value)
        return metric

    def _buckets(self, buckets: list[int]) -> list[tuple[str, float]]:
        return list(zip(bound_texts(self._bounds), accumulate(buckets), strict=True))
