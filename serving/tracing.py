"""OpenTelemetry traces that join client, ingress, encoder and index by the W3C header `traceparent`.

Off unless a place for the spans is set; then the OpenTelemetry packages are needed (extra `tracing`). Spans
hold names, times, counts and codes; never images, keys, priors or positions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

TRACEPARENT = "traceparent"

Carrier = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceSettings:
    """Where spans go; both may be set."""

    otlp_endpoint: str | None = None
    """A collector, e.g. http://127.0.0.1:4317."""
    file: Path | None = None
    """Lines of JSON, for looking without a collector."""

    @property
    def on(self) -> bool:
        """Whether spans go anywhere."""
        return self.otlp_endpoint is not None or self.file is not None


class Tracing:
    """Opens spans in one process; does nothing, and imports nothing, while tracing is off."""

    def __init__(self, service: str, settings: TraceSettings) -> None:
        self._tracer: Any = _tracer_of(service, settings) if settings.on else None

    @contextmanager
    def span(self, name: str, parent: Carrier | None = None, **attributes: str | float) -> Iterator[None]:
        """A span around a block, beneath `parent` or, without one, beneath the span around it."""
        if self._tracer is None:
            yield
            return
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415  only when tracing is on
            TraceContextTextMapPropagator,
        )

        context = TraceContextTextMapPropagator().extract(parent) if parent else None
        with self._tracer.start_as_current_span(name, context=context, attributes=attributes):
            yield

    def carrier(self) -> dict[str, str]:
        """What another process needs to continue the trace; empty while tracing is off."""
        if self._tracer is None:
            return {}
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415  only when tracing is on
            TraceContextTextMapPropagator,
        )

        found: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(found)
        return found


def carrier_in(metadata: Sequence[tuple[str, str | bytes]]) -> dict[str, str]:
    """The trace that a caller is in, from a call's metadata."""
    return {
        name: value
        for name, value in metadata
        if name in (TRACEPARENT, "tracestate") and isinstance(value, str)
    }


def trace_id_in(carrier: Carrier) -> str | None:
    """The trace's id (W3C Trace Context, section 3.2), for the audit log."""
    parts = carrier.get(TRACEPARENT, "").split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else None


def _tracer_of(service: str, settings: TraceSettings) -> Any:
    """A tracer of its own provider: the process-wide one belongs to Ray."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  only when tracing is on
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    if settings.file is not None:
        provider.add_span_processor(SimpleSpanProcessor(_file_exporter(service, settings.file)))
    if settings.otlp_endpoint is not None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415  the extra `tracing`
            OTLPSpanExporter,
        )

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint)))
    return provider.get_tracer("clnet-geoloc")


def _file_exporter(service: str, path: Path) -> SpanExporter:
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult  # noqa: PLC0415

    class FileExporter(SpanExporter):
        """One line a span, appended whole, so that several processes may share the file."""

        def __init__(self) -> None:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            for span in spans:
                os.write(self._file, f"{_line_of(span, service)}\n".encode())
            return SpanExportResult.SUCCESS

    return FileExporter()


def _line_of(span: ReadableSpan, service: str) -> str:
    context = span.get_span_context()
    assert context is not None  # a span that is exported has begun
    return json.dumps(
        {
            "service": service,
            "name": span.name,
            "trace_id": f"{context.trace_id:032x}",
            "span_id": f"{context.span_id:016x}",
            "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
            "start_ns": span.start_time,
            "end_ns": span.end_time,
            "attributes": dict(span.attributes or {}),
        }
    )
