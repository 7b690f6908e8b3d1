"""What operators see of the calls: audit log, traces, metrics."""

from __future__ import annotations

import time
import urllib.request
from collections import Counter

import grpc
import pytest
import ray

from serving.errors import CallFailed


@pytest.fixture
def refused(caller, client):
    """Calls of somebody without a key, and of somebody who may not do that."""
    with pytest.raises(CallFailed, match="UNAUTHENTICATED"):
        client(None).regions()
    with pytest.raises(grpc.RpcError, match=r"SCOPE|scope"):
        caller("reader").change("DeleteRegion", region="brig")


def test_the_audit_log_tells_who_did_what_and_shows_no_image(watched, caller, refused, small_world):
    caller("reader").localize(small_world.image, request_id="audited")
    (line,) = [call for call in watched.calls() if call.get("request_id") == "audited"]
    assert (line["method"], line["caller"], line["code"]) == ("Localize", "reader", "OK")
    assert line["image_bytes"] == len(small_world.image)
    assert line["status"] == "LOCALIZED"
    assert line["duration_ms"] > 0.0
    text = watched.audit_log.read_text()
    assert "key-of-the" not in text
    assert all(len(line) < 1000 for line in text.splitlines())
    codes = Counter((call["code"], call.get("caller")) for call in watched.calls())
    assert codes["UNAUTHENTICATED", None] > 0
    assert codes["PERMISSION_DENIED", "reader"] > 0


def test_a_trace_joins_client_ingress_encoder_and_index(watched, caller, small_world):
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    caller("reader").localize(small_world.image, ("traceparent", f"00-{trace}-{parent}-01"))
    spans = {span["name"]: span for span in watched.spans() if span["trace_id"] == trace}
    assert {name: spans[name]["service"] for name in ("Localize", "embed", "store.search")} == {
        "Localize": "clnet-ingress",
        "embed": "clnet-encoder",
        "store.search": "clnet-index",
    }
    assert spans["Localize"]["parent_id"] == parent
    assert spans["embed"]["parent_id"] == spans["encode"]["span_id"]
    assert spans["store.search"]["parent_id"] == spans["search"]["span_id"]
    for stage in ("decode", "canvas", "encode", "search", "fuse"):
        assert spans[stage]["parent_id"] == spans["Localize"]["span_id"]
    assert any(call.get("trace_id") == trace for call in watched.calls())


def test_prometheus_gets_the_metrics(ray_session, caller, refused, small_world):
    caller("reader").localize(small_world.image)
    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    deadline_s = time.monotonic() + 30.0  # Ray reports every 10 s
    wanted = {
        'ray_clnet_calls_total{', 'ray_clnet_call_seconds_bucket{', 'status="LOCALIZED"', 'plan="exact"',
        'stage="encode"', 'ray_clnet_batch_rows_bucket{', 'ray_clnet_requests_in_flight{',
        'code="UNAUTHENTICATED"',
    }  # fmt: skip
    missing = wanted
    while missing and time.monotonic() < deadline_s:
        text = urllib.request.urlopen(url, timeout=5).read().decode()
        ours = "\n".join(line for line in text.splitlines() if line.startswith("ray_clnet_"))
        missing = {name for name in wanted if name not in ours}
        time.sleep(0.5)
    assert not missing
