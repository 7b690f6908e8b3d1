"""Malformed images and messages: everything is answered or refused as the caller's fault, never as ours."""

from __future__ import annotations

import io
import resource
import warnings

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError, Message
from google.type.latlng_pb2 import LatLng
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clnet_model.preprocess import decode_image
from serving.edge import query_from, timeout_from
from serving.locate import decoded, locate
from serving.pb import (
    geometry_pb2,
    image_pb2,
    localization_service_pb2,
    prior_pb2,
    region_service_pb2,
    track_pb2,
)
from serving.refusals import refusal_of
from serving.region_messages import area_from, change_from, generation_page_of, page_of
from serving.track_messages import odometry_from, time_s_of

ALLOWED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
}
FEW, MANY = 300, 35_000


def encoded(kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (16, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, kind, **options)
    return data.getvalue()


IMAGES = [encoded("JPEG"), encoded("JPEG", progressive=True), encoded("PNG"), encoded("WEBP")]

numbers = st.one_of(
    st.floats(), st.sampled_from([0.0, -0.0, 1e308, -1e308, 5e-324, 180.0, -180.0, 90.0, 90.0000001, 360.0])
)
places = st.builds(
    LatLng,
    latitude=st.one_of(st.floats(-95, 95), numbers),
    longitude=st.one_of(st.floats(-190, 190), numbers),
)
rings = st.builds(geometry_pb2.LinearRing, positions=st.lists(places, max_size=6))
polygons = st.builds(geometry_pb2.Polygon, rings=st.lists(rings, max_size=3))
circles = st.builds(prior_pb2.CirclePrior, centre=places, radius_m=numbers, confidence_level=numbers)
boxes = st.builds(geometry_pb2.BoundingBox, south_west=places, north_east=places)
polygon_priors = st.builds(prior_pb2.PolygonPrior, polygons=st.lists(polygons, max_size=3))
names = st.one_of(st.text(max_size=140), st.sampled_from(["brig", "", "..", "a/b", "\x00", "A" * 64]))
stamps = st.builds(
    prior_pb2.TimeRange().start_time.__class__,
    seconds=st.integers(-(2**63), 2**63 - 1),
    nanos=st.integers(-(2**31), 2**31 - 1),
)
leaves = st.one_of(
    st.builds(prior_pb2.PositionPrior, circle=circles, mode=st.integers(0, 5)),
    st.builds(prior_pb2.PositionPrior, polygon=polygon_priors, mode=st.integers(0, 5)),
    st.builds(prior_pb2.PositionPrior, bounding_box=boxes, mode=st.integers(0, 5)),
    st.builds(
        prior_pb2.PositionPrior,
        corridor=st.builds(
            prior_pb2.CorridorPrior, positions=st.lists(places, max_size=5), half_width_m=numbers
        ),
    ),
    st.builds(
        prior_pb2.PositionPrior,
        regions=st.builds(prior_pb2.RegionPrior, names=st.lists(names, max_size=3)),
    ),
    st.builds(
        prior_pb2.PositionPrior,
        time_range=st.builds(prior_pb2.TimeRange, start_time=stamps, end_time=stamps),
    ),
    st.just(prior_pb2.PositionPrior()),
)
priors = st.recursive(
    leaves,
    lambda parts: st.builds(
        lambda kind, priors: prior_pb2.PositionPrior(**{kind: prior_pb2.CompositePrior(priors=priors)}),
        st.sampled_from(["all_of", "any_of"]),
        st.lists(parts, max_size=4),
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good image with some bytes changed, cut or doubled; or none at all."""
    data = bytearray(draw(st.sampled_from(IMAGES)))
    for _ in range(draw(st.integers(0, 6))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at:]
            case 2:
                data[at:at] = draw(st.binary(max_size=8))
            case _:
                data += data[at : at + 64]
    return bytes(data)


INTRINSICS = ("fx_px", "fy_px", "cx_px", "cy_px", "max_angle_deg", "pitch_deg", "roll_deg")
slight = st.floats(-0.3, 0.3)
distortions = {
    "brown_conrady": st.builds(
        image_pb2.BrownConradyDistortion, k1=slight, k2=slight, p1=slight, p2=slight, k3=slight
    ),
    "kannala_brandt": st.builds(
        image_pb2.KannalaBrandtDistortion, k1=slight, k2=slight, k3=slight, k4=slight
    ),
}


@st.composite
def lens_cameras(draw: st.DrawFn) -> image_pb2.LensCamera:
    """A camera that might be, with up to two of its numbers replaced by any."""
    focal_px = draw(st.floats(8.0, 60.0))
    camera = image_pb2.LensCamera(
        width_px=64, height_px=32, fx_px=focal_px, fy_px=focal_px, cx_px=draw(st.floats(20, 44)), cy_px=16.0
    )
    kind = draw(st.sampled_from([*distortions, None]))
    if kind is not None:
        getattr(camera, kind).CopyFrom(draw(distortions[kind]))
    for _ in range(draw(st.integers(0, 2))):
        match draw(st.integers(0, 3)):
            case 0:
                setattr(camera, draw(st.sampled_from(["width_px", "height_px"])), draw(st.integers(-5, 200)))
            case 1 if kind is not None:
                setattr(getattr(camera, kind), draw(st.sampled_from(["k1", "k2", "k3"])), draw(numbers))
            case _:
                setattr(camera, draw(st.sampled_from(INTRINSICS)), draw(st.floats(-60, 60) | numbers))
    return camera


pictures = st.one_of(damaged(), st.binary(max_size=300))
requests = st.builds(
    localization_service_pb2.LocalizeRequest,
    image=st.one_of(
        st.builds(image_pb2.StreetImage, data=pictures, panorama=st.just(image_pb2.PanoramaCamera())),
        st.builds(
            image_pb2.StreetImage,
            data=st.sampled_from(IMAGES),
            perspective=st.builds(image_pb2.PerspectiveCamera, hfov_deg=numbers, pitch_deg=numbers),
        ),
        st.builds(image_pb2.StreetImage, data=st.sampled_from(IMAGES), lens=lens_cameras()),
        st.builds(image_pb2.StreetImage, data=pictures),
    ),
    heading_prior=st.one_of(
        st.none(), st.builds(prior_pb2.HeadingPrior, heading_deg=numbers, accuracy_deg=numbers)
    ),
    position_prior=st.one_of(st.none(), priors),
    regions=st.lists(names, max_size=3),
    max_hypotheses=st.integers(-(2**31), 2**31 - 1) | st.integers(1, 50),
    max_candidate_patches=st.integers(-(2**31), 2**31 - 1) | st.integers(0, 200),
    timeout_s=numbers,
    request_id=names,
)


def refused_well(error: Exception) -> None:
    refusal = refusal_of(error)
    assert refusal.code in ALLOWED, f"{refusal.code}: {error!r}"
    assert len(refusal.message) < 4_000
    assert refusal.trailing_metadata()[0][1]


def answer(request, encoder, index) -> None:
    """What the ingress does with a request, in this process."""
    try:
        query = query_from(request)
        timeout_from(request, 30.0)
        image = decoded(request.image.data, query, spec=encoder.canvas)
        locate(image, query, encoder=encoder, index=index)
    except Exception as error:
        refused_well(error)


def fuzzed(strategy, check, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(value):
        check(value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pillow and shapely complain about what they are fed
        run()


AMOUNTS = [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])]


@pytest.mark.parametrize("examples", AMOUNTS)
def test_requests_of_any_content(encoder, index, examples):
    fuzzed(requests, lambda request: answer(request, encoder, index), examples)


@pytest.mark.parametrize("examples", AMOUNTS)
def test_lenses_of_any_numbers(encoder, index, examples):
    """A good image and no prior: the canvas is reached as often as the numbers allow."""
    images = st.builds(image_pb2.StreetImage, data=st.sampled_from(IMAGES), lens=lens_cameras())
    asked = st.builds(localization_service_pb2.LocalizeRequest, image=images)
    fuzzed(asked, lambda request: answer(request, encoder, index), examples)


@pytest.mark.parametrize("examples", AMOUNTS)
def test_images_of_any_bytes(examples):
    def check(data):
        try:
            decode_image(data, at_least_px=20)
        except Exception as error:
            refused_well(error)

    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fuzzed(pictures, check, examples)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb < 300.0


@pytest.mark.parametrize("examples", AMOUNTS)
def test_messages_of_any_bytes(encoder, index, examples):
    """A good message with bytes changed, as it would come over the wire."""
    good = localization_service_pb2.LocalizeRequest(
        image=image_pb2.StreetImage(data=IMAGES[0], panorama=image_pb2.PanoramaCamera()),
        position_prior=prior_pb2.PositionPrior(
            circle=prior_pb2.CirclePrior(centre=LatLng(latitude=46.3, longitude=7.9), radius_m=100.0)
        ),
        request_id="r",
    ).SerializeToString()

    def check(edits):
        data = bytearray(good)
        for at, value in edits:
            data[at % len(data)] = value
        try:
            request = localization_service_pb2.LocalizeRequest.FromString(bytes(data))
        except DecodeError:
            return  # gRPC refuses it before it reaches us
        answer(request, encoder, index)

    fuzzed(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8), check, examples)


def others() -> st.SearchStrategy[tuple[object, Message]]:
    """The other requests, each with what reads it."""
    coverage = st.one_of(
        st.builds(localization_service_pb2.GetCoverageRequest, circle=circles),
        st.builds(localization_service_pb2.GetCoverageRequest, polygon=polygon_priors),
        st.builds(localization_service_pb2.GetCoverageRequest, bounding_box=boxes),
    )
    frames = st.builds(
        localization_service_pb2.LocalizeStreamRequest,
        capture_time=stamps,
        odometry=st.builds(
            track_pb2.Odometry, distance_m=numbers, distance_sigma_m=numbers, course_deg=numbers,
            course_sigma_deg=numbers,
        ),
    )  # fmt: skip
    sizes = st.integers(-(2**31), 2**31 - 1)
    changes = st.sampled_from(
        [
            region_service_pb2.PromoteGenerationRequest,
            region_service_pb2.DeleteGenerationRequest,
            region_service_pb2.RollBackRegionRequest,
        ]
    )
    return st.one_of(
        st.tuples(st.just(area_from), coverage),
        st.tuples(st.just(time_s_of), frames),
        st.tuples(st.just(odometry_from), frames),
        st.tuples(
            st.just(lambda request: page_of([], request)),
            st.builds(region_service_pb2.ListRegionsRequest, page_size=sizes, page_token=names),
        ),
        st.tuples(
            st.just(lambda request: generation_page_of([], request)),
            st.builds(region_service_pb2.ListGenerationsRequest, page_size=sizes, page_token=names),
        ),
        st.tuples(
            st.just(change_from),
            changes.flatmap(lambda kind: st.builds(kind, region=names, request_id=names)),
        ),
    )


@pytest.mark.parametrize("examples", AMOUNTS)
def test_every_other_request_of_any_content(examples):
    def check(case):
        read, request = case
        try:
            read(request)
        except Exception as error:
            refused_well(error)

    fuzzed(others(), check, examples)
