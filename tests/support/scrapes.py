"""What a scrape says, read by prometheus_client's own parsers."""

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, openmetrics, parser
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics import parser as openmetrics_parser

__all__ = ["Scrape", "openmetrics", "scrape"]


class Scrape:
    """The samples of one scrape, by the name without the namespace."""

    def __init__(self, text: str, namespace: str = "resilient_llm") -> None:
        self.text = text
        self.samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        self.types: dict[str, str] = {}
        for family in parser.text_string_to_metric_families(text):
            if not family.name.startswith(f"{namespace}_"):
                continue
            self.types[family.name.removeprefix(f"{namespace}_")] = family.type
            for sample in family.samples:
                name = sample.name.removeprefix(f"{namespace}_")
                self.samples.setdefault(name, {})[_labels(sample.labels)] = sample.value

    def get(self, name: str, **labels: str) -> float | None:
        """Return a sample, or None."""
        return self.samples.get(name, {}).get(_labels(labels))

    def rows(self, name: str, *labels: str) -> dict[Any, float]:
        """Return ``{values of these labels: value}`` of a metric, without what is 0."""
        return {
            key[0] if len(key) == 1 else key: value
            for row, value in self.samples.get(name, {}).items()
            if value and (key := tuple(dict(row)[label] for label in labels))
        }


def _labels(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def scrape(registry: CollectorRegistry, namespace: str = "resilient_llm") -> Scrape:
    """Scrape a registry, in both formats."""
    text = exposition.generate_latest(registry).decode()
    list(openmetrics_parser.text_string_to_metric_families(text))  # raises where it is wrong
    return Scrape(generate_latest(registry).decode(), namespace)
