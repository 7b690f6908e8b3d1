"""Intrinsics against OpenCV's formulas, written out here once more; what folds back; what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clnet_model.errors import BadLens
from clnet_model.lens import BrownConrady, KannalaBrandt, Lens

SIZE = {"width_px": 1280, "height_px": 960}
small = st.floats(-0.4, 0.4)
slight = st.floats(-0.02, 0.02)
browns = st.builds(BrownConrady, k1=small, k2=small, p1=slight, p2=slight, k3=small)
fisheyes = st.builds(KannalaBrandt, k1=slight, k2=slight, k3=slight, k4=slight)
directions = st.floats(-math.pi, math.pi)
shares = st.floats(0.0, 1.0)


def lens_with(distortion, **fields) -> Lens:
    values = {"fx_px": 700.0, "fy_px": 690.0, "cx_px": 655.0, "cy_px": 470.0, **SIZE, **fields}
    return Lens(**values, distortion=distortion)


def lens_or_skip(distortion, **fields) -> Lens:
    try:
        return lens_with(distortion, **fields)
    except BadLens:
        assume(False)
        raise


def ray(angle_rad: float, direction_rad: float) -> tuple[float, float, float]:
    off = math.sin(angle_rad)
    return off * math.cos(direction_rad), off * math.sin(direction_rad), math.cos(angle_rad)


def pixel(lens: Lens, right: float, down: float, forward: float) -> tuple[float, float, bool]:
    u, v, seen = lens.pixels(*(np.array([value]) for value in (right, down, forward)))
    return float(u[0]), float(v[0]), bool(seen[0])


def project_points(lens: Lens, right: float, down: float, forward: float) -> tuple[float, float]:
    """cv::projectPoints: https://docs.opencv.org/4.x/d9/d0c/group__calib3d.html"""
    d = lens.distortion
    x, y = right / forward, down / forward
    r2 = x**2 + y**2
    radial = 1 + d.k1 * r2 + d.k2 * r2**2 + d.k3 * r2**3
    x2 = x * radial + 2 * d.p1 * x * y + d.p2 * (r2 + 2 * x**2)
    y2 = y * radial + d.p1 * (r2 + 2 * y**2) + 2 * d.p2 * x * y
    return lens.fx_px * x2 + lens.cx_px, lens.fy_px * y2 + lens.cy_px


def fisheye_project_points(lens: Lens, right: float, down: float, forward: float) -> tuple[float, float]:
    """cv::fisheye::projectPoints: https://docs.opencv.org/4.x/db/d58/group__calib3d__fisheye.html"""
    d = lens.distortion
    a, b = right / forward, down / forward
    r = math.hypot(a, b)
    theta = math.atan(r)
    theta_d = theta * (1 + d.k1 * theta**2 + d.k2 * theta**4 + d.k3 * theta**6 + d.k4 * theta**8)
    scale = theta_d / r if r > 0 else 1.0
    return lens.fx_px * scale * a + lens.cx_px, lens.fy_px * scale * b + lens.cy_px


@settings(max_examples=200, deadline=None)
@given(browns, shares, directions)
def test_brown_conrady_is_opencvs(distortion, share, direction):
    lens = lens_or_skip(distortion)
    at = ray(share * lens.reach_rad, direction)
    u, v, seen = pixel(lens, *at)
    assume(seen)
    assert (u, v) == pytest.approx(project_points(lens, *at), abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(fisheyes, shares, directions)
def test_kannala_brandt_is_opencvs_fisheye(distortion, share, direction):
    lens = lens_or_skip(distortion, fx_px=350.0, fy_px=352.0)
    at = ray(share * min(lens.reach_rad, math.radians(89.0)), direction)
    u, v, seen = pixel(lens, *at)
    assume(seen)
    assert (u, v) == pytest.approx(fisheye_project_points(lens, *at), abs=1e-6)


def test_a_fisheye_sees_behind_itself():
    lens = lens_with(KannalaBrandt(), fx_px=340.0, fy_px=340.0, cx_px=640.0)
    u, _, seen = pixel(lens, *ray(math.radians(105.0), 0.0))
    assert seen
    assert u == pytest.approx(640.0 + 340.0 * math.radians(105.0))
    assert lens.hfov_deg == pytest.approx(2 * math.degrees(640.0 / 340.0), abs=1e-3)


@settings(max_examples=200, deadline=None)
@given(browns, shares, shares, directions, directions)
def test_no_two_rays_of_a_lens_share_a_point(distortion, first, second, one_way, other_way):
    """Inside of its reach the distortion is strictly monotone, (F(a) - F(b)) · (a - b) > 0: one to one."""
    lens = lens_or_skip(distortion)
    limit = math.tan(min(lens.reach_rad, math.radians(80.0)))
    a, b = (
        limit * share * np.array([math.cos(way), math.sin(way)])
        for share, way in ((first, one_way), (second, other_way))
    )
    assume(np.linalg.norm(a - b) > 1e-6)
    bent_a, bent_b = (np.array(distortion.bent(*(np.array(part) for part in (*at, 1.0)))) for at in (a, b))
    assert float((bent_a - bent_b) @ (a - b)) > 0.0


@settings(max_examples=200, deadline=None)
@given(fisheyes, directions)
def test_distance_from_the_centre_grows_with_the_angle(distortion, direction):
    lens = lens_or_skip(distortion, fx_px=350.0, fy_px=350.0)
    angles = np.linspace(0.0, lens.reach_rad, 500)
    x, y = distortion.bent(
        np.sin(angles) * math.cos(direction), np.sin(angles) * math.sin(direction), np.cos(angles)
    )
    assert (np.diff(np.hypot(x, y)) > 0.0).all()


@settings(max_examples=200, deadline=None)
@given(small, small, small)
def test_a_lens_reaches_up_to_its_fold(k1, k2, k3):
    """Without a tangential part nothing is given away: just beyond the reach the polynomial falls."""
    lens = lens_or_skip(BrownConrady(k1=k1, k2=k2, k3=k3))
    fold_rad = lens.fold_rad
    assume(fold_rad < math.radians(89.8))

    def slope(angle_rad):
        r2 = math.tan(angle_rad) ** 2
        return 1 + 3 * k1 * r2 + 5 * k2 * r2**2 + 7 * k3 * r2**3

    assert slope(fold_rad) > 0.0
    assert slope(fold_rad + math.radians(0.02)) <= 0.0
    assert not pixel(lens, *ray(fold_rad + math.radians(0.02), 0.3))[2]


def test_the_field_of_view_comes_from_the_intrinsics():
    pinhole = Lens(width_px=640, height_px=480, fx_px=320.0, fy_px=320.0, cx_px=320.0, cy_px=240.0)
    shifted = Lens(width_px=640, height_px=480, fx_px=320.0, fy_px=320.0, cx_px=100.0, cy_px=240.0)
    assert pinhole.hfov_deg == pytest.approx(90.0, abs=1e-4)
    sides = math.atan(100 / 320) + math.atan(540 / 320)
    assert shifted.hfov_deg == pytest.approx(math.degrees(sides), abs=1e-3)
    barrel = lens_with(BrownConrady(k1=-0.1))
    assert barrel.hfov_deg > lens_with(BrownConrady()).hfov_deg + 3.0


def test_the_image_circle_of_a_fisheye_ends_what_it_sees():
    lens = lens_with(KannalaBrandt(), fx_px=290.0, fy_px=290.0, max_angle_deg=92.5)
    assert lens.hfov_deg == pytest.approx(185.0, abs=1e-3)
    assert pixel(lens, *ray(math.radians(92.0), 0.0))[2]
    assert not pixel(lens, *ray(math.radians(93.0), 0.0))[2]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"width_px": 0}, "width_px"),
        ({"height_px": 100_001}, "height_px"),
        ({"fx_px": 0.0}, "fx_px"),
        ({"fy_px": -700.0}, "fy_px"),
        ({"fx_px": float("nan")}, "fx_px"),
        ({"fy_px": 7_000.0}, "fy_px"),
        ({"fx_px": 0.01, "fy_px": 0.01}, "fx_px"),
        ({"fx_px": 20_000.0, "fy_px": 20_000.0}, "fx_px"),
        ({"cx_px": 0.0}, "cx_px"),
        ({"cx_px": 1_281.0}, "cx_px"),
        ({"cy_px": float("inf")}, "cy_px"),
        ({"max_angle_deg": 2.0}, "max_angle_deg"),
        ({"max_angle_deg": float("nan")}, "max_angle_deg"),
        ({"distortion": BrownConrady(p1=float("nan"))}, "brown_conrady.p1"),
        ({"distortion": KannalaBrandt(k4=float("inf"))}, "kannala_brandt.k4"),
        ({"distortion": BrownConrady(k1=-8.0)}, "brown_conrady"),
        ({"distortion": BrownConrady(p2=1e308)}, "brown_conrady"),
        ({"distortion": KannalaBrandt(k1=-3.0)}, "kannala_brandt"),
        ({"distortion": KannalaBrandt(), "fx_px": 200.0, "fy_px": 200.0}, "fx_px"),
    ],
)
def test_what_no_camera_has_is_refused_by_field(fields, field):
    with pytest.raises(BadLens) as caught:
        lens_with(**{"distortion": BrownConrady(), **fields})
    assert caught.value.field == field
    assert caught.value.remedy


numbers = st.floats() | st.floats(-2000.0, 2000.0) | st.sampled_from([0.0, 5e-324, 1e308, -1e308])


@settings(max_examples=500, deadline=None)
@given(st.tuples(*[numbers] * 4), st.tuples(*[numbers] * 5), st.none() | numbers, st.booleans())
def test_any_numbers_make_a_lens_or_are_refused(pinhole, coefficients, max_angle_deg, is_fisheye):
    k1, k2, k3, k4, k5 = coefficients
    fisheye = KannalaBrandt(k1=k1, k2=k2, k3=k3, k4=k4)
    distortion = fisheye if is_fisheye else BrownConrady(k1=k1, k2=k2, p1=k3, p2=k4, k3=k5)
    values = dict(zip(("fx_px", "fy_px", "cx_px", "cy_px"), pinhole, strict=True))
    try:
        lens = lens_with(distortion, **values, max_angle_deg=max_angle_deg)
    except BadLens:
        return
    assert 5.0 <= lens.hfov_deg <= 220.0
    azimuth = np.linspace(-np.pi, np.pi, 64)
    u, v, seen = lens.pixels(np.sin(azimuth), np.full(64, 0.1), np.cos(azimuth))
    assert np.isfinite(u).all()
    assert np.isfinite(v).all()
    assert ((u >= 0) & (u <= 1280) & (v >= 0) & (v <= 960)).all()
    assert seen.dtype == bool
