"""Spans and metrics for OpenTelemetry; needs the extra ``otel``.

``install()`` makes a span for each call and one for each attempt, and counts calls, attempts,
retries, failovers and skipped targets. It needs the API of OpenTelemetry only: without an SDK it
records nothing, at little cost, as instrumentation should.

    from resilient_llm.observers import otel

    uninstall = otel.install()

The span of an attempt is current while the function runs, so what an instrumented SDK or HTTP
client records there becomes its child. It is current during each read of a stream as well, and
never between two reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm.observers._exporter import Exporter
from resilient_llm.observers._otel_attributes import ATTRIBUTES, PROVIDERS, Attribute

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    Spans = Literal["attempts", "call", "off"]

__all__ = ["ATTRIBUTES", "PROVIDERS", "Attribute", "install"]

_SPANS: Final = ("attempts", "call", "off")


def install(
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    *,
    spans: Spans = "attempts",
    metrics: bool = True,
) -> Exporter:
    """Record the calls that start from now on as spans and metrics of OpenTelemetry.

    A second install on the same provider logs a warning, since it records each call once more.

    Args:
        tracer_provider: Makes the tracer; None for the global provider, which may be set later.
        meter_provider: Makes the meter; None for the global provider.
        spans: ``"attempts"`` for a span per call with a child per attempt. ``"call"`` for the
            call's alone, where an instrumented SDK makes a span per request: tokens would be
            counted twice otherwise. ``"off"`` for none.
        metrics: Whether to count calls and attempts, and to measure how long attempts take.

    Returns:
        The exporter; calling it uninstalls it. A call that runs then is recorded to its end.

    Raises:
        ConfigurationError: If an option is not allowed.
        ImportError: If the API of OpenTelemetry is not installed.
    """
    check.choice("spans", spans, _SPANS)
    check.flag("metrics", metrics)
    _check_provider("tracer_provider", tracer_provider, "get_tracer")
    _check_provider("meter_provider", meter_provider, "get_meter")
    try:
        from resilient_llm.observers._otel_spans import Recorder
    except ImportError as missing:
        raise ImportError(
            "resilient_llm.observers.otel needs the API of OpenTelemetry: "
            'pip install "resilient-llm[otel]"',
            name=missing.name,
        ) from missing
    exporter = Exporter("otel")
    recorder = Recorder(exporter)
    if spans != "off":
        recorder.trace_with(tracer_provider, attempts=spans == "attempts")
    if metrics:
        recorder.count_with(meter_provider)
    if spans != "off" or metrics:
        for other in exporter.entered:
            twice = recorder.does_as(other)
            if twice:
                exporter.warn(
                    f"installed twice on the same provider, so each call {twice}: uninstall one, "
                    "by calling what install() returned"
                )
                break
        exporter.enter_calls(recorder)
    if metrics:
        from resilient_llm._values.events import OrderChanged

        exporter.listen(recorder.moved, OrderChanged)
    return exporter


def _check_provider(name: str, provider: Any, method: str) -> None:
    if provider is not None and not callable(getattr(provider, method, None)):
        raise ConfigurationError(
            f"{name}={type(provider).__name__} is not allowed: write a provider of OpenTelemetry, "
            f"which has {method}(), or None for the global one"
        )
