"""Cameras on the wire: what a request may say about its lens, and which field is named when it may not."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clnet_model.errors import BadLens
from clnet_model.lens import BrownConrady, KannalaBrandt, Lens
from serving.edge import query_from, request_from
from serving.errors import InvalidRequest
from serving.locate import Query, calibration_for, locate, look_around
from serving.pb import image_pb2, localization_service_pb2
from serving.refusals import refusal_of

DATA = b"bytes of an image"
PINHOLE = {
    "width_px": 640, "height_px": 480, "fx_px": 320.0, "fy_px": 320.0, "cx_px": 320.0, "cy_px": 240.0
}  # fmt: skip
small = st.floats(-0.01, 0.01)
lenses = st.builds(
    Lens,
    width_px=st.integers(1000, 1400),
    height_px=st.integers(700, 1000),
    fx_px=st.floats(500, 900),
    fy_px=st.floats(500, 900),
    cx_px=st.floats(400, 600),
    cy_px=st.floats(300, 500),
    distortion=st.builds(BrownConrady, k1=small, k2=small, p1=small, p2=small, k3=small)
    | st.builds(KannalaBrandt, k1=small, k2=small, k3=small, k4=small),
    max_angle_deg=st.none() | st.floats(10, 110),
)


def request(**fields) -> localization_service_pb2.LocalizeRequest:
    camera = image_pb2.LensCamera(**{**PINHOLE, **fields})
    return localization_service_pb2.LocalizeRequest(image=image_pb2.StreetImage(data=DATA, lens=camera))


def refused(message) -> Exception:
    with pytest.raises((InvalidRequest, BadLens)) as caught:
        query_from(message)
    return caught.value


@given(lenses, st.floats(-60, 60), st.floats(-180, 180))
def test_a_lens_survives_the_wire(lens, pitch_deg, roll_deg):
    query = Query(lens=lens, pitch_deg=pitch_deg, roll_deg=roll_deg)
    sent = request_from(DATA, query).SerializeToString()
    assert query_from(localization_service_pb2.LocalizeRequest.FromString(sent)) == query


def test_unset_distortion_is_a_pinhole():
    query = query_from(request())
    assert query.lens == Lens(**PINHOLE)
    assert (query.hfov_deg, query.pitch_deg, query.roll_deg) == (None, 0.0, 0.0)


@pytest.mark.parametrize("name", PINHOLE)
def test_every_intrinsic_is_required(name):
    message = request()
    message.image.lens.ClearField(name)
    assert refusal_of(refused(message)).field == f"image.lens.{name}"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"fx_px": 0.0}, "fx_px"),
        ({"fy_px": -1.0}, "fy_px"),
        ({"fx_px": math.nan}, "fx_px"),
        ({"fx_px": 9_000.0, "fy_px": 9_000.0}, "fx_px"),
        ({"fx_px": 9.0, "fy_px": 9.0}, "fx_px"),
        ({"cx_px": 641.0}, "cx_px"),
        ({"cy_px": -0.1}, "cy_px"),
        ({"width_px": -5}, "width_px"),
        ({"max_angle_deg": 111.0}, "max_angle_deg"),
        ({"brown_conrady": image_pb2.BrownConradyDistortion(k2=math.inf)}, "brown_conrady.k2"),
        ({"brown_conrady": image_pb2.BrownConradyDistortion(k1=-6.0)}, "brown_conrady"),
        ({"kannala_brandt": image_pb2.KannalaBrandtDistortion(k1=-6.0)}, "kannala_brandt"),
    ],
)
def test_what_no_camera_has_is_the_callers_fault(fields, field):
    refusal = refusal_of(refused(request(**fields)))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.reason == "BAD_LENS"
    assert refusal.field == f"image.lens.{field}"
    assert "; " in refusal.message  # what to do about it


@pytest.mark.parametrize(
    ("fields", "field"), [({"pitch_deg": 75.0}, "pitch_deg"), ({"roll_deg": math.nan}, "roll_deg")]
)
def test_an_impossible_pose_is_refused_when_it_is_used(fields, field, encoder, index):
    query = query_from(request(**fields))
    with pytest.raises(BadLens) as caught:
        locate(np.zeros((480, 640, 3), np.uint8), query, encoder=encoder, index=index)
    assert refusal_of(caught.value).field == f"image.lens.{field}"


def test_an_image_of_another_shape_is_refused(encoder, index):
    with pytest.raises(BadLens) as caught:
        locate(np.zeros((640, 480, 3), np.uint8), query_from(request()), encoder=encoder, index=index)
    assert refusal_of(caught.value).field == "image.lens.width_px"


def test_the_error_survives_pickling():
    error = BadLens("fx_px", "is 0", "give more")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_lens_finds_what_the_field_of_view_finds(encoder):
    """The same views, whichever way the same pinhole is described."""
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, 320:340] = 255
    by_lens, by_angle = (
        look_around(image, query, spec=encoder.canvas, step_deg=15.0)
        for query in (Query(lens=Lens(**PINHOLE)), Query(hfov_deg=90.0))
    )
    assert (by_lens.headings_deg == by_angle.headings_deg).all()
    assert np.abs(by_lens.canvases.astype(int) - by_angle.canvases.astype(int)).mean() < 0.2


def test_the_calibration_is_that_of_the_field_of_view(encoder):
    panorama = encoder.calibration.views[0]
    photo = replace(panorama, hfov_deg=90.0, heading_known=False)
    calibration = replace(encoder.calibration, views=(photo, replace(panorama, heading_known=False)))
    assert Query(lens=Lens(**PINHOLE)).seen_deg == pytest.approx(90.0, abs=1e-3)
    assert calibration_for(Query(lens=Lens(**PINHOLE)), calibration).hfov_deg == 90.0
    assert calibration_for(Query(), calibration).hfov_deg == 360.0
