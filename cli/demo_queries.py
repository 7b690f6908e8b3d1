"""The four ways in which the demo asks for every image, as gRPC requests and judged answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc
from google.type import latlng_pb2
from mercantile import LngLat
from pyproj import Geod

from cli.errors import DemoFailed
from cli.metrics import Outcome, RankedPatch, rank_of
from serving.pb import answer_pb2, image_pb2, localization_service_pb2, prior_pb2
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub
from tiling.grid import GridSpec, patch_at

GPS_SIGMA_M = 100.0
"""Noise of the demo's GPS fixes, standard deviation per axis."""
GPS_R95_M = GPS_SIGMA_M * math.sqrt(-2.0 * math.log(0.05))
"""Radius that holds 95 % of such fixes (Rayleigh distribution): 245 m."""
HEADING_ACCURACY_DEG = 15.0
PHOTO_HFOV_DEG = 90.0
RANKED_PATCHES = 20
"""Candidates asked for: R@10 with room for ties."""
CALL_TIMEOUT_S = 60.0

WGS84 = Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetImage:
    """One street image with its truth and what its sensors said."""

    image_id: str
    path: Path
    kind: Literal["panorama", "photo"]
    position: LngLat
    heading_deg: float
    hfov_deg: float
    heading_measured_deg: float
    gps: LngLat

    @property
    def gps_error_m(self) -> float:
        """Distance between the fix and the truth."""
        return distance_m(self.position, self.gps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a client knows when it asks."""

    key: str
    title: str
    explanation: str
    kind: Literal["panorama", "photo"] = "panorama"
    gps: bool = False
    heading: Literal["known", "measured", "unknown"] = "known"


SETTINGS = (
    Setting(
        key="with_prior",
        title="With a GPS prior",
        explanation=f"Panoramas, north known, with a GPS fix of {GPS_SIGMA_M:.0f} m noise as a soft prior.",
        gps=True,
    ),
    Setting(
        key="no_prior",
        title="No prior",
        explanation="The same panoramas, north known, anywhere in the city.",
    ),
    Setting(
        key="unknown_heading",
        title="Heading unknown",
        explanation="The same panoramas, anywhere in the city, looking anywhere.",
        heading="unknown",
    ),
    Setting(
        key="photo_90deg",
        title="90° photos",
        explanation=f"Ordinary photos, 90° wide, with the GPS prior and a compass good to "
        f"±{HEADING_ACCURACY_DEG:.0f}°.",
        kind="photo",
        gps=True,
        heading="measured",
    ),
)


def locate_all(
    images: Sequence[StreetImage],
    setting: Setting,
    *,
    channel: grpc.Channel,
    grid: GridSpec,
    tick: Callable[[], None],
) -> tuple[Outcome, ...]:
    """Locate every image that the setting is about, one call after the other.

    Raises:
        DemoFailed: the service refused a call.
    """
    stub = LocalizationServiceStub(channel)
    outcomes = []
    for image in images:
        if image.kind == setting.kind:
            outcomes.append(locate_one(image, setting, stub=stub, grid=grid))
            tick()
    return tuple(outcomes)


def locate_one(
    image: StreetImage, setting: Setting, *, stub: LocalizationServiceStub, grid: GridSpec
) -> Outcome:
    """One timed call, judged against the truth."""
    request = request_for(image, setting)
    began_s = time.perf_counter()
    try:
        response = stub.Localize(request, timeout=CALL_TIMEOUT_S)
    except grpc.RpcError as error:
        raise DemoFailed(
            f"the service refused {image.image_id} ({setting.key}): {error.code().name}: {error.details()}"
        ) from error
    return judge(image, response, grid=grid, latency_ms=(time.perf_counter() - began_s) * 1000.0)


def request_for(image: StreetImage, setting: Setting) -> localization_service_pb2.LocalizeRequest:
    """The request that a client with this much knowledge would send."""
    request = localization_service_pb2.LocalizeRequest(
        image=_street_image(image),
        max_candidate_patches=RANKED_PATCHES,
        request_id=f"{setting.key}/{image.image_id}",
    )
    match setting.heading:
        case "known":
            request.heading_prior.CopyFrom(prior_pb2.HeadingPrior(heading_deg=image.heading_deg))
        case "measured":
            prior = prior_pb2.HeadingPrior(
                heading_deg=image.heading_measured_deg, accuracy_deg=HEADING_ACCURACY_DEG
            )
            request.heading_prior.CopyFrom(prior)
        case "unknown":
            pass
        case _:
            raise ValueError(f"heading {setting.heading!r} is none of known, measured, unknown")
    if setting.gps:
        request.position_prior.CopyFrom(_gps_prior(image.gps))
    return request


def _street_image(image: StreetImage) -> image_pb2.StreetImage:
    data = image.path.read_bytes()
    if image.kind == "panorama":
        return image_pb2.StreetImage(data=data, panorama=image_pb2.PanoramaCamera())
    return image_pb2.StreetImage(data=data, perspective=image_pb2.PerspectiveCamera(hfov_deg=image.hfov_deg))


def _gps_prior(fix: LngLat) -> prior_pb2.PositionPrior:
    """SOFT, since one fix in twenty lies outside of its own 95 % circle."""
    circle = prior_pb2.CirclePrior(
        centre=latlng_pb2.LatLng(latitude=fix.lat, longitude=fix.lng),
        radius_m=GPS_R95_M,
        confidence_level=0.95,
    )
    return prior_pb2.PositionPrior(circle=circle, mode=prior_pb2.PRIOR_MODE_SOFT)


def judge(
    image: StreetImage,
    response: localization_service_pb2.LocalizeResponse,
    *,
    grid: GridSpec,
    latency_ms: float,
) -> Outcome:
    """The answer beside the truth; the first hypothesis is the answer."""
    ranked = [
        RankedPatch(quadkey=patch.quadkey, score=patch.probability) for patch in response.candidate_patches
    ]
    best = response.hypotheses[0] if response.hypotheses else None
    found = LngLat(lng=best.position.longitude, lat=best.position.latitude) if best else None
    return Outcome(
        image_id=image.image_id,
        status=_status_name(response.status),
        true_position=image.position,
        found_position=found,
        error_m=distance_m(image.position, found) if found else math.inf,
        true_patch_rank=rank_of(patch_at(image.position, grid).quadkey, ranked),
        found_quadkey=ranked[0].quadkey if ranked else None,
        probability=best.probability if best else 0.0,
        r68_m=best.r68_m if best else math.inf,
        r95_m=best.r95_m if best else math.inf,
        latency_ms=latency_ms,
    )


def _status_name(status: answer_pb2.LocalizationStatus.ValueType) -> str:
    return answer_pb2.LocalizationStatus.Name(status).removeprefix("LOCALIZATION_STATUS_")


def distance_m(a: LngLat, b: LngLat) -> float:
    """Geodesic distance on the WGS84 ellipsoid."""
    return float(WGS84.inv(a.lng, a.lat, b.lng, b.lat)[2])
