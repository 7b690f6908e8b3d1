"""Images of real lenses on the canvas: a known panorama is photographed through a lens and comes back."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clnet_model.errors import BadCamera, BadLens
from clnet_model.lens import BrownConrady, KannalaBrandt, Lens
from clnet_model.preprocess import CanvasSpec, LensCamera, Panorama, Perspective, to_canvas

SPEC = CanvasSpec()
PANORAMA_PX = (2048, 1024)
PINHOLE = Lens(width_px=640, height_px=480, fx_px=320.0, fy_px=320.0, cx_px=320.0, cy_px=240.0)
DASHCAM = Lens(
    width_px=960, height_px=540, fx_px=420.0, fy_px=424.0, cx_px=488.0, cy_px=262.0,
    distortion=BrownConrady(k1=-0.28, k2=0.09, p1=0.001, p2=-0.0015, k3=-0.012),
)  # fmt: skip
FISHEYE = Lens(
    width_px=960, height_px=720, fx_px=285.0, fy_px=285.0, cx_px=470.0, cy_px=366.0,
    distortion=KannalaBrandt(k1=-0.02, k2=0.004, k3=-0.002, k4=0.0003),
)  # fmt: skip


def panorama() -> NDArray[np.uint8]:
    """Colours that change over some 12 degrees, as streets do at the canvas's resolution."""
    coarse = np.random.default_rng(5).integers(0, 255, (16, 32, 3), dtype=np.uint8)
    wrapped = np.concatenate([coarse, coarse, coarse], axis=1)
    wide = Image.fromarray(wrapped).resize((3 * PANORAMA_PX[0], PANORAMA_PX[1]), Image.Resampling.BICUBIC)
    return np.asarray(wide)[:, PANORAMA_PX[0] : 2 * PANORAMA_PX[0]]


def unbent(lens: Lens, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Rays (right, down, forward) of bent points: the inverse that the code under test does without."""
    d = lens.distortion
    if isinstance(d, KannalaBrandt):
        angles = np.linspace(0, 2.6, 20_000)
        bent = angles * (1 + d.k1 * angles**2 + d.k2 * angles**4 + d.k3 * angles**6 + d.k4 * angles**8)
        radius = np.hypot(x, y)
        angle = np.interp(radius, bent, angles)
        off = np.sin(angle) / np.maximum(radius, 1e-12)
        return x * off, y * off, np.cos(angle)
    a, b = x.copy(), y.copy()
    for _ in range(60):  # as cv::undistortPoints
        r2 = a * a + b * b
        radial = 1 + d.k1 * r2 + d.k2 * r2**2 + d.k3 * r2**3
        dx = 2 * d.p1 * a * b + d.p2 * (r2 + 2 * a * a)
        dy = d.p1 * (r2 + 2 * b * b) + 2 * d.p2 * a * b
        a, b = (x - dx) / radial, (y - dy) / radial
    norm = np.sqrt(1 + a * a + b * b)
    return a / norm, b / norm, 1 / norm


def photographed(
    world: NDArray[np.uint8], lens: Lens, heading_deg: float, pitch_deg: float, roll_deg: float
) -> NDArray[np.uint8]:
    """What a camera with this lens sees of a panorama that looks north."""
    u, v = np.meshgrid(np.arange(lens.width_px) + 0.5, np.arange(lens.height_px) + 0.5)
    rays = np.stack(unbent(lens, (u - lens.cx_px) / lens.fx_px, (v - lens.cy_px) / lens.fy_px))  # (3, h, w)
    h, p, r = np.radians([heading_deg, pitch_deg, roll_deg])
    forward = np.array([np.sin(h) * np.cos(p), np.cos(h) * np.cos(p), np.sin(p)])  # east, north, up
    level = np.array([np.cos(h), -np.sin(h), 0.0])
    above = np.cross(level, forward)
    right = np.cos(r) * level - np.sin(r) * above  # lowered by the roll
    down = -np.cos(r) * above - np.sin(r) * level
    east, north, up = np.tensordot(np.stack([right, down, forward]), rays, axes=(0, 0))
    column = (np.degrees(np.arctan2(east, north)) + 180) / 360 * PANORAMA_PX[0]
    row = (90 - np.degrees(np.arcsin(np.clip(up, -1, 1)))) / 180 * PANORAMA_PX[1]
    return world[
        np.clip(row.astype(int), 0, PANORAMA_PX[1] - 1), np.clip(column.astype(int), 0, PANORAMA_PX[0] - 1)
    ]


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8], seen: NDArray[np.bool_]) -> float:
    """Mean absolute difference of the colours, grey levels of 255."""
    return float(np.abs(one[seen][:, :3].astype(int) - other[seen][:, :3].astype(int)).mean())


@pytest.mark.parametrize(("lens", "least_share"), [(PINHOLE, 0.15), (DASHCAM, 0.2), (FISHEYE, 0.45)])
@pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (70.0, 9.0, 0.0), (-140.0, -6.0, 14.0)])
def test_a_panorama_seen_through_a_lens_comes_back(lens, least_share, pose):
    world = panorama()
    heading_deg, pitch_deg, roll_deg = pose
    camera = LensCamera(heading_deg=heading_deg, lens=lens, pitch_deg=pitch_deg, roll_deg=roll_deg)
    canvas = to_canvas(photographed(world, lens, *pose), camera, SPEC)
    truth = to_canvas(world, Panorama(heading_deg=0.0), SPEC)
    seen = canvas[..., 3] > 0
    assert seen.mean() > least_share
    assert difference(canvas, truth, seen) < 1.0  # 0.4 to 0.7


@pytest.mark.parametrize("lens", [DASHCAM, FISHEYE])
def test_a_lens_taken_for_a_pinhole_does_not(lens):
    """How much the distortion is worth: without it the same canvas is wrong by tens of grey levels."""
    world = panorama()
    image = photographed(world, lens, 0.0, 0.0, 0.0)
    flat = Perspective(heading_deg=0.0, hfov_deg=min(170.0, lens.hfov_deg))
    canvas = to_canvas(image, flat, SPEC)
    truth = to_canvas(world, Panorama(heading_deg=0.0), SPEC)
    assert difference(canvas, truth, canvas[..., 3] > 0) > 30.0  # 48 and 69


@pytest.mark.parametrize(
    ("hfov_deg", "heading_deg", "pitch_deg"), [(90, 0, 0), (65, 33, 7), (120, -100, -20)]
)
def test_pinhole_intrinsics_equal_the_field_of_view(hfov_deg, heading_deg, pitch_deg):
    focal_px = 320.0 / np.tan(np.radians(hfov_deg / 2))
    lens = Lens(width_px=640, height_px=480, fx_px=focal_px, fy_px=focal_px, cx_px=320.0, cy_px=240.0)
    image = photographed(panorama(), lens, heading_deg, pitch_deg, 0.0)
    by_lens = to_canvas(image, LensCamera(heading_deg=heading_deg, lens=lens, pitch_deg=pitch_deg), SPEC)
    by_angle = to_canvas(
        image, Perspective(heading_deg=heading_deg, hfov_deg=hfov_deg, pitch_deg=pitch_deg), SPEC
    )
    both = (by_lens[..., 3] > 0) & (by_angle[..., 3] > 0)
    assert (by_lens[..., 3] != by_angle[..., 3]).sum() <= 12  # a row: its shrunk height is rounded otherwise
    assert difference(by_lens, by_angle, both) < 0.5


def test_a_resized_image_needs_no_other_intrinsics():
    image = photographed(panorama(), DASHCAM, 0.0, 0.0, 0.0)
    camera = LensCamera(heading_deg=0.0, lens=DASHCAM)
    whole = to_canvas(image, camera, SPEC)
    half = to_canvas(np.asarray(Image.fromarray(image).resize((480, 270))), camera, SPEC)
    odd = to_canvas(np.asarray(Image.fromarray(image).resize((333, 187))), camera, SPEC)
    for canvas in (half, odd):
        assert difference(canvas, whole, (canvas[..., 3] > 0) & (whole[..., 3] > 0)) < 2.0


@pytest.mark.parametrize("size", [(540, 960), (960, 720), (960, 530)])
def test_an_image_of_another_shape_is_refused(size):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    with pytest.raises(BadLens, match="960 x 540, the image is"):
        to_canvas(image, LensCamera(heading_deg=0.0, lens=DASHCAM), SPEC)


@pytest.mark.parametrize("distortion", [BrownConrady(k1=-0.3), KannalaBrandt(k1=-0.16)])
def test_what_folds_back_is_not_seen(distortion):
    """Pixels beyond the fold are red; no direction may find them, nor the green ones a second time."""
    lens = Lens(
        width_px=640, height_px=640, fx_px=350.0, fy_px=350.0, cx_px=320.0, cy_px=320.0, distortion=distortion
    )
    fold_rad = lens.fold_rad
    x, _ = distortion.bent(np.array(np.sin(fold_rad)), np.array(0.0), np.array(np.cos(fold_rad)))
    u, v = np.meshgrid(np.arange(640) + 0.5 - 320, np.arange(640) + 0.5 - 320)
    inside = np.hypot(u, v) <= 350.0 * x
    image = np.where(inside[..., None], (0, 255, 0), (255, 0, 0)).astype(np.uint8)
    canvas = to_canvas(image, LensCamera(heading_deg=0.0, lens=lens), SPEC)
    azimuth, elevation = np.meshgrid(
        (np.arange(256) + 0.5) * 360 / 256 - 180, 45 - (np.arange(64) + 0.5) * 90 / 64
    )
    angle_rad = np.arccos(np.cos(np.radians(azimuth)) * np.cos(np.radians(elevation)))
    seen = canvas[..., 3] > 0
    assert seen.any()
    assert not seen[angle_rad > fold_rad].any()
    assert canvas[angle_rad < 0.9 * fold_rad][:, 0].max() < 128


def test_an_image_that_shows_nothing_of_the_canvas_is_refused():
    lens = Lens(width_px=640, height_px=480, fx_px=3000.0, fy_px=3000.0, cx_px=320.0, cy_px=240.0)
    with pytest.raises(BadLens, match="shows nothing"):
        to_canvas(np.zeros((480, 640, 3), np.uint8), LensCamera(heading_deg=0, lens=lens, pitch_deg=60), SPEC)


@pytest.mark.parametrize("fields", [{"pitch_deg": 61.0}, {"roll_deg": 181.0}, {"pitch_deg": float("nan")}])
def test_an_impossible_pose_is_refused(fields):
    with pytest.raises(BadCamera):
        LensCamera(heading_deg=0.0, lens=PINHOLE, **fields)
