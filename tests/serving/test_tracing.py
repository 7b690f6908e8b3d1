"""Spans reach an OpenTelemetry collector, and nothing is said of images or places."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serving.tracing import TRACEPARENT, TraceSettings, Tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(TraceServiceServicer):
    """Keeps what it is sent, by service and name."""

    def __init__(self) -> None:
        self.spans: dict[tuple[str, str], Span] = {}
        self.url = ""

    def Export(self, request: ExportTraceServiceRequest, context: object) -> ExportTraceServiceResponse:
        for resource in request.resource_spans:
            [service] = [
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            ]
            for scope in resource.scope_spans:
                self.spans |= {(service, span.name): span for span in scope.spans}
        return ExportTraceServiceResponse()

    def wait_for(self, count: int) -> None:
        deadline_s = time.monotonic() + 20.0
        while len(self.spans) < count and time.monotonic() < deadline_s:
            time.sleep(0.05)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(collector, server)
    collector.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(None)


def test_spans_of_two_processes_arrive_as_one_trace(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # ms; the exporter's own setting
    settings = TraceSettings(otlp_endpoint=collector.url)
    ingress, encoder = Tracing("clnet-ingress", settings), Tracing("clnet-encoder", settings)
    with ingress.span("Localize", {TRACEPARENT: f"00-{TRACE}-{PARENT}-01"}, bytes=1234):
        carrier = ingress.carrier()
    with encoder.span("embed", carrier, rows=4):
        pass
    collector.wait_for(2)
    call, embed = collector.spans["clnet-ingress", "Localize"], collector.spans["clnet-encoder", "embed"]
    assert call.trace_id.hex() == embed.trace_id.hex() == TRACE
    assert call.parent_span_id.hex() == PARENT
    assert embed.parent_span_id == call.span_id
    assert {each.key for each in call.attributes} == {"bytes"}


def test_a_collector_that_is_away_costs_the_caller_nothing() -> None:
    tracing = Tracing("clnet-ingress", TraceSettings(otlp_endpoint="http://127.0.0.1:9"))
    began_s = time.monotonic()
    for _ in range(100):
        with tracing.span("Localize"):
            pass
    assert time.monotonic() - began_s < 1.0
