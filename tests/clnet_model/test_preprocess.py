"""Street images onto the azimuth × elevation canvas."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from clnet_model.errors import BadCamera, BadConfig, BadImage
from clnet_model.preprocess import (
    CanvasSpec,
    ImageLimits,
    Panorama,
    Perspective,
    decode_image,
    roll_canvas,
    to_canvas,
)

SPEC = CanvasSpec()
EVEN = CanvasSpec(horizon_deg=None)


def png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def panorama_with_mark(azimuth_deg: float, heading_deg: float) -> NDArray[np.uint8]:
    """A dark panorama looking at `heading_deg` with a bright stripe at a true azimuth."""
    image = np.zeros((256, 512, 3), np.uint8)
    column = ((azimuth_deg - heading_deg + 180) % 360) / 360 * 512
    image[:, (np.arange(-4, 4) + round(column)) % 512] = 255
    return image


def brightest_azimuth(canvas: NDArray[np.uint8]) -> float:
    weight = canvas[..., 0].astype(float).sum(axis=0)
    azimuth = np.radians((np.arange(canvas.shape[1]) + 0.5) * 360 / canvas.shape[1] - 180)
    return float(np.degrees(np.angle((weight * np.exp(1j * azimuth)).sum())))


@settings(max_examples=40, deadline=None)
@given(azimuth=st.floats(-180, 180), heading=st.floats(-400, 400))
def test_panorama_puts_every_azimuth_where_it_belongs(azimuth: float, heading: float) -> None:
    canvas = to_canvas(panorama_with_mark(azimuth, heading), Panorama(heading_deg=heading), SPEC)
    error = (brightest_azimuth(canvas) - azimuth + 180) % 360 - 180
    assert abs(error) < 1.0


@settings(max_examples=40, deadline=None)
@given(heading=st.floats(-180, 180), offset=st.floats(-200, 200))
def test_rolling_a_canvas_equals_a_larger_heading(heading: float, offset: float) -> None:
    image = panorama_with_mark(20, 0)
    rolled = roll_canvas(to_canvas(image, Panorama(heading_deg=heading), SPEC), offset)
    direct = to_canvas(image, Panorama(heading_deg=heading + offset), SPEC)
    error = (brightest_azimuth(rolled) - brightest_azimuth(direct) + 180) % 360 - 180
    assert abs(error) < 0.2


@pytest.mark.parametrize("spec", [SPEC, EVEN])
def test_panorama_rows_are_elevations(spec: CanvasSpec) -> None:
    image = np.zeros((256, 512, 3), np.uint8)
    image[128 - 32 : 128] = 200  # from the horizon up to 22.5 degrees
    canvas = to_canvas(image, Panorama(heading_deg=0), spec)
    bright = np.flatnonzero(canvas[:, 0, 0] > 100)
    elevation = spec.row_elevations_deg()
    inside = np.flatnonzero((elevation > 0) & (elevation < 22.5))
    assert np.abs(np.array([bright.min(), bright.max()]) - [inside.min(), inside.max()]).max() <= 1
    assert canvas[inside[2:-2], :, :3].min() == canvas[inside[2:-2], :, :3].max() == 200


def test_rows_are_dense_at_the_horizon_and_even_without_one() -> None:
    heights = -np.diff(SPEC.elevations_deg(np.arange(65) / 64))
    assert heights.sum() == pytest.approx(90)
    assert heights[31] == heights.min() == pytest.approx(0.585, abs=0.01)
    assert (np.diff(heights[32:]) > 0).all()
    assert np.allclose(-np.diff(EVEN.elevations_deg(np.arange(65) / 64)), 90 / 64)
    far = CanvasSpec(horizon_deg=1000.0).row_elevations_deg()  # hardly bent
    assert np.abs(far - EVEN.row_elevations_deg()).max() < 0.02


@pytest.mark.parametrize("horizon_deg", [0.0, -3.0, float("nan"), 1e9])
def test_an_impossible_horizon_is_refused(horizon_deg: float) -> None:
    with pytest.raises(BadConfig, match="horizon_deg"):
        CanvasSpec(horizon_deg=horizon_deg)


@pytest.mark.parametrize("spec", [SPEC, EVEN])
def test_photo_and_panorama_of_one_scene_agree_where_both_see(spec: CanvasSpec) -> None:
    """A smooth scene, painted as a function of direction: both cameras must put it in the same places."""

    def paint(azimuth: NDArray[np.float64], elevation: NDArray[np.float64]) -> NDArray[np.uint8]:
        red = 127 + 100 * np.sin(2 * azimuth)
        green = 127 + 100 * np.sin(5 * elevation)
        return np.dstack([red, green, 127 + 60 * np.cos(azimuth)]).astype(np.uint8)

    azimuth = np.radians((np.arange(1024) + 0.5) * 360 / 1024 - 180)
    elevation = np.radians(90 - (np.arange(512) + 0.5) * 180 / 512)[:, None]
    panorama = paint(*np.broadcast_arrays(azimuth, elevation))
    right, up = np.meshgrid((np.arange(320) + 0.5) / 160 - 1, (119.5 - np.arange(240)) / 160)  # 90 degrees
    photo = paint(np.arctan(right), np.arctan2(up, np.hypot(right, 1)))
    whole = to_canvas(panorama, Panorama(heading_deg=0), spec)
    part = to_canvas(photo, Perspective(heading_deg=0, hfov_deg=90), spec)
    both = (whole[..., 3] > 0) & (part[..., 3] > 0)
    assert both.mean() > 0.12
    difference = np.abs(whole[both].astype(int) - part[both].astype(int))
    assert difference.mean() < 2
    assert np.percentile(difference, 99) < 12


@pytest.mark.parametrize("spec", [SPEC, EVEN])
def test_low_panorama_is_masked_above_and_below(spec: CanvasSpec) -> None:
    canvas = to_canvas(np.full((64, 512, 3), 90, np.uint8), Panorama(heading_deg=0), spec)
    observed = np.flatnonzero(canvas[:, 0, 3])
    expected = np.flatnonzero(np.abs(spec.row_elevations_deg()) <= 22.5)  # 512 x 64 px see 45 degrees
    assert (observed == expected).all()
    assert canvas[0].max() == 0
    assert (canvas[observed, :, :3] == 90).all()  # what was not seen darkens nothing


def test_shrinking_averages_instead_of_aliasing() -> None:
    stripes = np.zeros((1024, 2048, 3), np.uint8)
    stripes[::2, ::2] = stripes[1::2, 1::2] = 255
    canvas = to_canvas(stripes, Panorama(heading_deg=0), SPEC)
    assert canvas[..., :3].astype(float).std() < 4


@settings(max_examples=40, deadline=None)
@given(
    heading=st.floats(-180, 180), hfov=st.floats(40, 110), turn=st.floats(-0.4, 0.4), pitch=st.floats(-15, 15)
)
def test_perspective_agrees_with_the_pinhole_equation(
    heading: float, hfov: float, turn: float, pitch: float
) -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    azimuth = np.radians(turn * hfov)  # of a bright spot at the camera's height, relative to the heading
    focal = 160 / np.tan(np.radians(hfov / 2))
    p = np.radians(pitch)
    depth, rise = np.cos(azimuth) * np.cos(p), -np.cos(azimuth) * np.sin(p)
    u, v = 160 + focal * np.sin(azimuth) / depth, 120 - focal * rise / depth
    if not (8 < u < 312 and 8 < v < 232):
        return
    image[int(v) - 4 : int(v) + 5, int(u) - 4 : int(u) + 5] = 255
    canvas = to_canvas(image, Perspective(heading_deg=heading, hfov_deg=hfov, pitch_deg=pitch), SPEC)
    error = (brightest_azimuth(canvas) - heading - np.degrees(azimuth) + 180) % 360 - 180
    row_weight = canvas[..., 0].sum(axis=1)
    elevation = (row_weight * SPEC.row_elevations_deg()).sum() / row_weight.sum()
    assert abs(error) < 1.5
    assert abs(elevation) < 1.5


def test_perspective_masks_what_the_camera_did_not_see() -> None:
    canvas = to_canvas(np.full((240, 320, 3), 120, np.uint8), Perspective(heading_deg=0, hfov_deg=90), SPEC)
    columns = canvas[32, :, 3] > 0
    assert columns.sum() == 64
    assert columns[96:160].all()
    assert canvas[canvas[..., 3] == 0].max() == 0


def test_decoding_honours_exif_orientation() -> None:
    image = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert decode_image(buffer.getvalue()).shape == (40, 20, 3)


def test_sixteen_bit_grey_keeps_its_range() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)).save(buffer, "PNG")
    decoded = decode_image(buffer.getvalue())
    assert decoded.min() == 0
    assert 120 < decoded.mean() < 135


def test_bytes_that_are_no_image_are_refused() -> None:
    with pytest.raises(BadImage, match="not a readable image"):
        decode_image(b"GIF89a and then nothing")


def test_truncated_image_is_refused() -> None:
    data = png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(BadImage):
        decode_image(data[: len(data) // 2])


def test_wide_image_is_refused_from_its_header() -> None:
    image = Image.new("L", (50_000, 20))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    with pytest.raises(BadImage, match="50000 x 20 px, the limit is 16384"):
        decode_image(buffer.getvalue())


def test_bomb_is_refused_before_decoding() -> None:
    data = bytearray(png(np.zeros((16, 16, 3), np.uint8)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # the header now claims 3.6 gigapixels
    with pytest.raises(BadImage):
        decode_image(bytes(data))


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(BadImage, match="limit is 10"):
        decode_image(b"x" * 11, limits=ImageLimits(max_bytes=10))


@pytest.mark.parametrize("hfov_deg", [0.0, 4.9, 171.0, float("nan")])
def test_impossible_fields_of_view_are_refused(hfov_deg: float) -> None:
    with pytest.raises(BadCamera):
        Perspective(heading_deg=0, hfov_deg=hfov_deg)


def test_heading_must_be_a_number() -> None:
    with pytest.raises(BadCamera):
        Panorama(heading_deg=float("nan"))
