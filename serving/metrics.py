"""The service's Prometheus metrics. Ray exports them, with the prefix `ray_`, on each node's metrics port.

Names end in their unit; durations are seconds, as Prometheus wants them. The methods are what the rest of
the service knows; nothing else here does.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 48.0, 64.0, 128.0)
SHARES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)


class IngressMetrics:
    """What the ingress sees of calls and answers."""

    def __init__(self) -> None:
        self._calls = Counter(
            "clnet_calls_total", "Calls by method and gRPC code.", ("method", "code", "caller")
        )
        self._call_seconds = Histogram("clnet_call_seconds", "Duration of calls.", list(SECONDS), ("method",))
        self._answers = Counter("clnet_answers_total", "Localizations by status.", ("status",))
        self._plans = Counter("clnet_searches_total", "Searches by plan.", ("plan",))
        self._stage_seconds = Histogram(
            "clnet_stage_seconds", "Duration of the stages of a localization.", list(SECONDS), ("stage",)
        )
        self._inside = Gauge("clnet_requests_in_flight", "Requests being worked on.")

    def call(self, method: str, code: str, caller: str, seconds: float) -> None:
        """One call has ended."""
        self._calls.inc(1.0, tags={"method": method, "code": code, "caller": caller})
        self._call_seconds.observe(seconds, tags={"method": method})

    def answer(self, status: str, plan: str, stages_ms: Mapping[str, float]) -> None:
        """One image was localized."""
        self._answers.inc(1.0, tags={"status": status})
        self._plans.inc(1.0, tags={"plan": plan or "none"})
        for stage, spent_ms in stages_ms.items():
            if spent_ms > 0.0:  # buckets start at 0
                self._stage_seconds.observe(spent_ms / 1000.0, tags={"stage": stage})

    def in_flight(self, count: int) -> None:
        """So many requests are being worked on now."""
        self._inside.set(float(count))


class IndexMetrics:
    """What the index sees of its searches."""

    def __init__(self) -> None:
        self._shadow_recall = Histogram(
            "clnet_shadow_recall", "Share of the exact result that a plan found.", list(SHARES), ("plan",)
        )

    def shadow_recall(self, plan: str, recall: float) -> None:
        """A search was repeated exactly to see what its plan had missed."""
        self._shadow_recall.observe(recall, tags={"plan": plan})


class EncoderMetrics:
    """What an encoder sees of its batches."""

    def __init__(self) -> None:
        self._rows = Histogram("clnet_batch_rows", "Canvases embedded at once.", list(ROWS))

    def batch(self, rows: int) -> None:
        """One batch begins."""
        self._rows.observe(float(rows))
