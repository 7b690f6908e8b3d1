"""An answer as GeoJSON (RFC 7946): a point for each place, and circles that hold 68 and 95 % around it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from pyproj import Geod

if TYPE_CHECKING:
    from serving.pb.answer_pb2 import Hypothesis
    from serving.pb.localization_service_pb2 import LocalizeResponse

CIRCLE_VERTICES = 64
WGS84 = Geod(ellps="WGS84")


def feature_collection(answer: LocalizeResponse) -> str:
    """The hypotheses, best first; what is said of all of them stands in each."""
    from serving.pb import answer_pb2

    status = answer_pb2.LocalizationStatus.Name(answer.status).removeprefix("LOCALIZATION_STATUS_")
    common = {
        "status": status,
        "prior_conflict": answer.prior_conflict,
        "model_digest": answer.model_digest,
    }
    features = [
        feature
        for rank, hypothesis in enumerate(answer.hypotheses, start=1)
        for feature in _features(rank, hypothesis, common)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)


def _features(rank: int, hypothesis: Hypothesis, common: dict[str, Any]) -> list[dict[str, Any]]:
    at = hypothesis.position
    facts = {
        **common,
        "rank": rank,
        "probability": hypothesis.probability,
        "r68_m": hypothesis.r68_m,
        "r95_m": hypothesis.r95_m,
        "heading_deg": hypothesis.heading_deg,
    }
    point = {"type": "Point", "coordinates": [at.longitude, at.latitude]}
    circles = [
        (f"r{level}", _circle(at.longitude, at.latitude, radius_m))
        for level, radius_m in ((68, hypothesis.r68_m), (95, hypothesis.r95_m))
    ]
    return [
        {"type": "Feature", "geometry": geometry, "properties": {"kind": kind, **facts}}
        for kind, geometry in [("position", point), *circles]
    ]


def _circle(lng: float, lat: float, radius_m: float) -> dict[str, Any]:
    """A geodesic circle, counter-clockwise; beyond 180 degrees it goes on, as map libraries expect it."""
    azimuths = -np.arange(CIRCLE_VERTICES + 1) * 360.0 / CIRCLE_VERTICES
    ones = np.ones(CIRCLE_VERTICES + 1)
    lngs, lats, _ = WGS84.fwd(lng * ones, lat * ones, azimuths, radius_m * ones)
    near = lng + (np.asarray(lngs) - lng + 180.0) % 360.0 - 180.0
    ring = np.column_stack([near, lats]).round(8).tolist()
    ring[-1] = ring[0]
    return {"type": "Polygon", "coordinates": [ring]}
