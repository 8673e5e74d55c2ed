"""What leaves the process by OTLP, read by a receiver on loopback with OpenTelemetry's own formats."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from resilient_llm import Target, failover
from resilient_llm.observers import otel
from tests.support.ways import ProviderError


class Receiver:
    """What a collector has received."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.url = ""

    def take(self, path: str, body: bytes) -> None:
        if path.endswith("/traces"):
            traces = ExportTraceServiceRequest.FromString(body)
            for resource in traces.resource_spans:
                for scope in resource.scope_spans:
                    assert "resilient_llm" == scope.scope.name
                    assert scope.scope.version
                    self.spans.extend(scope.spans)
        else:
            metrics = ExportMetricsServiceRequest.FromString(body)
            for resource in metrics.resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics.update({each.name: each for each in scope.metrics})


@contextmanager
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found.take(self.path, body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def _attributes(span: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in span.attributes}


def test_spans_and_metrics_arrive_at_a_collector() -> None:
    """Kinds, parents, statuses, attributes and figures, as the wire has them."""

    @failover(["groq/llama", "openai/gpt"], attempts=1)
    def ask(target: Target) -> str:
        if target.provider == "groq":
            raise ProviderError(401)
        return "hello"

    with receiver() as found:
        tracers = TracerProvider()
        tracers.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{found.url}/v1/traces"))
        )
        exporter = OTLPMetricExporter(endpoint=f"{found.url}/v1/metrics")
        meters = MeterProvider([PeriodicExportingMetricReader(exporter)])
        uninstall = otel.install(tracers, meters)
        ask()
        uninstall()
        tracers.shutdown()
        meters.shutdown()

    failed, answered, call = found.spans
    assert [3, 3, 1] == [span.kind for span in found.spans]
    assert failed.parent_span_id == answered.parent_span_id == call.span_id
    assert [2, 0, 0] == [span.status.code for span in found.spans]
    assert "" == failed.status.message
    assert [] == list(failed.events)
    said = _attributes(failed)
    assert "T" in said.pop("resilient_llm.benched_until")
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "groq",
        "gen_ai.request.model": "llama",
        "error.type": "401",
        "resilient_llm.target": "groq/llama",
        "resilient_llm.attempt": 1,
        "resilient_llm.chain_position": 0,
        "resilient_llm.outcome": "auth_dead",
        "resilient_llm.reason": "invalid_credentials",
        "resilient_llm.call_id": _attributes(call)["resilient_llm.call_id"],
    } == said
    points = found.metrics["resilient_llm.attempts"].sum.data_points
    assert {("groq/llama", "auth_dead", 1), ("openai/gpt", "ok", 1)} == {
        (_attributes(point)["target"], _attributes(point)["outcome"], point.as_int)
        for point in points
    }
    (duration,) = found.metrics["resilient_llm.attempt.duration"].histogram.data_points
    assert 1 == duration.count
