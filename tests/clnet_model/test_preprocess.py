"""Street images onto the azimuth × elevation canvas."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clnet_model.errors import BadCamera, BadImage
from clnet_model.lens import Lens
from clnet_model.preprocess import (
    Camera,
    CanvasSpec,
    ImageLimits,
    LensCamera,
    Panorama,
    Perspective,
    decode_image,
    needed_width_px,
    roll_canvas,
    to_canvas,
)

SPEC = CanvasSpec()


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


def test_panorama_rows_are_elevations() -> None:
    image = np.zeros((256, 512, 3), np.uint8)
    image[128 - 32 : 128] = 200  # from the horizon up to 22.5 degrees
    canvas = to_canvas(image, Panorama(heading_deg=0), SPEC)
    bright = np.flatnonzero(canvas[:, 0, 0] > 100)
    assert (bright.min(), bright.max()) == (16, 31)


def test_low_panorama_is_masked_above_and_below() -> None:
    canvas = to_canvas(np.full((64, 512, 3), 90, np.uint8), Panorama(heading_deg=0), SPEC)
    observed = np.flatnonzero(canvas[:, 0, 3])
    assert (observed.min(), observed.max()) == (16, 47)  # 512 x 64 px see 45 degrees of elevation
    assert canvas[0].max() == 0


def test_shrinking_averages_instead_of_aliasing() -> None:
    stripes = np.zeros((1024, 2048, 3), np.uint8)
    stripes[:, ::2] = 255
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
    row = (canvas[..., 0].sum(axis=1) * np.arange(64)).sum() / canvas[..., 0].sum()
    assert abs(error) < 1.5
    assert abs(row - 31.5) < 1.5


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


def photo_like(width_px: int, height_px: int) -> Image.Image:
    """Blobs of all sizes down to a few pixels, the large ones stronger, as in photos."""
    rng = np.random.default_rng(4)
    layers = [
        Image.fromarray(rng.integers(0, 255, (height_px // step, width_px // step, 3), np.uint8)).resize(
            (width_px, height_px), Image.Resampling.BICUBIC
        )
        for step in (4, 16, 64, 256)
    ]
    return Image.fromarray(np.average(layers, axis=0, weights=(1, 2, 4, 8)).astype(np.uint8))


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    buffer, exif = io.BytesIO(), image.getexif()
    exif[0x0112] = orientation
    image.save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("camera", "size"),
    [
        (Panorama(heading_deg=20.0), (4096, 2048)),
        (Perspective(heading_deg=20.0, hfov_deg=90.0, pitch_deg=5.0), (3000, 2001)),
        (
            LensCamera(
                heading_deg=20.0,
                lens=Lens(
                    width_px=3001, height_px=2001, fx_px=1400.0, fy_px=1400.0, cx_px=1500.0, cy_px=1000.0
                ),
            ),
            (3001, 2001),
        ),
    ],
    ids=["panorama", "photo", "lens"],
)
def test_a_large_jpeg_decoded_smaller_gives_the_same_canvas(camera: Camera, size: tuple[int, int]) -> None:
    data, least_px = jpeg(photo_like(*size)), needed_width_px(camera, SPEC)
    small = decode_image(data, at_least_px=least_px)
    assert least_px <= small.shape[1] <= size[0] / 2
    whole, quick = to_canvas(decode_image(data), camera, SPEC), to_canvas(small, camera, SPEC)
    seen = (whole[..., 3] > 0) & (quick[..., 3] > 0)
    assert np.mean(whole[..., 3] != quick[..., 3]) < 0.01
    off = np.abs(whole[seen].astype(int) - quick[seen].astype(int))
    assert off.mean() < 1.5
    assert np.quantile(off, 0.99) < 8


def test_a_photo_lying_on_its_side_is_measured_upright() -> None:
    data = jpeg(photo_like(800, 1600), orientation=6)  # upright it is 1600 wide
    assert decode_image(data, at_least_px=400).shape == (200, 400, 3)
    assert decode_image(data, at_least_px=1601).shape == decode_image(data).shape == (800, 1600, 3)
    tall = jpeg(photo_like(600, 1600), orientation=6)
    assert decode_image(tall).shape == (600, 1600, 3)


@pytest.mark.parametrize(("size", "at_least_px"), [((16_384, 20), 600), ((4_000, 24), 200)])
def test_a_wide_and_thin_jpeg_is_decoded(size: tuple[int, int], at_least_px: int) -> None:
    pixels = decode_image(jpeg(Image.new("RGB", size, (90, 90, 90))), at_least_px=at_least_px)
    assert at_least_px <= pixels.shape[1] <= size[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_as_the_library_does(orientation: int) -> None:
    data = jpeg(photo_like(64, 96), orientation=orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_image(data), np.asarray(upright))


ODD = {  # an entry of a TIFF directory: tag, type, count, value or where it lies
    "a width in words": struct.pack("<HHI4s", 0x0100, 2, 4, b"100"),
    "a resolution that is no number": struct.pack("<HHII", 0x011A, 5, 1, 38),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_odd_exif_does_not_stop_an_image(odd: bytes) -> None:
    entries = sorted([odd, struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)])
    directory = b"II*\0" + struct.pack("<IH", 8, 2) + b"".join(entries) + struct.pack("<III", 0, 0, 0)
    file = io.BytesIO()
    photo_like(96, 64).save(file, "JPEG", exif=b"Exif\0\0" + directory)
    assert decode_image(file.getvalue()).shape == (96, 64, 3)


def test_what_is_no_jpeg_is_decoded_whole() -> None:
    assert decode_image(png(np.zeros((256, 512, 3), np.uint8)), at_least_px=64).shape == (256, 512, 3)


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


def test_a_photo_that_looks_past_the_canvas_is_refused() -> None:
    camera = Perspective(heading_deg=0.0, hfov_deg=20.0, pitch_deg=60.0)
    with pytest.raises(BadCamera, match="pitch_deg is 60: the image shows nothing between -45 and 45"):
        to_canvas(np.zeros((200, 200, 3), np.uint8), camera, SPEC)


def test_heading_must_be_a_number() -> None:
    with pytest.raises(BadCamera):
        Panorama(heading_deg=float("nan"))
