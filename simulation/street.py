"""The street camera: column-wise ray casting over the world's height fields.

For every column one ray walks away from the camera in growing steps; rows are resolved from the bottom up as
ever higher solids come by, and crowns fill the rows they cover. One walk per column instead of one per pixel
makes a 512 × 256 panorama cheap enough to render thousands a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from simulation.appearance import Appearance
from simulation.noise import hash01
from simulation.shading import (
    day_of,
    shade_car,
    shade_leaves,
    shade_surface,
    site_of,
    sky_colour,
    sunlight,
)
from simulation.world import CAR_UNIT_M, CROWN_UNIT_M, World

REACH_M = 260.0
SKY, SOLID, CROWN, CAR = 0, 1, 2, 3  # what a pixel's ray meets first


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where a camera stands (projected metres), its height, and the grid azimuth of its image centre."""

    easting: float
    northing: float
    height_m: float
    azimuth_deg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A piece of an equirectangular image: `span_deg` of azimuth wide, rows from top to bottom elevation."""

    width_px: int
    height_px: int
    span_deg: float = 360.0
    top_deg: float = 90.0
    bottom_deg: float = -90.0


class Eye(NamedTuple):
    """The camera in raster units: fractional column and row, height above ground in metres."""

    column: float
    row: float
    height_m: float


def render(world: World, pose: Pose, look: Appearance, band: Band, *, seed: int) -> NDArray[np.float32]:
    """(height_px, width_px, 3) float32 radiance, 0..255; the centre column looks at pose.azimuth_deg."""
    column, row = world.cell_of(pose.easting, pose.northing)
    rise = (band.top_deg - band.bottom_deg) / band.height_px
    elevations = np.radians(band.top_deg - (np.arange(band.height_px) + 0.5) * rise)
    step = band.span_deg / band.width_px
    azimuths = np.radians(pose.azimuth_deg - band.span_deg / 2 + (np.arange(band.width_px) + 0.5) * step)
    out = np.empty((band.height_px, band.width_px, 3), np.float32)
    eye = Eye(column=column, row=row, height_m=pose.height_m)
    _render_columns(out, azimuths, elevations, eye, site_of(world), day_of(look, seed))
    return out


@njit(cache=True, parallel=True, fastmath=True)
def _render_columns(out, azimuths, elevations, eye, site, day):  # type: ignore[no-untyped-def]
    rows_n = elevations.size
    for col in prange(azimuths.size):
        kind = np.zeros(rows_n, np.int8)
        far = np.zeros(rows_n, np.float32)
        horizon = _walk(kind, far, azimuths[col], elevations, eye, site, day)
        colour, sky = np.zeros(3), np.zeros(3)
        for row in range(rows_n):
            sky_colour(sky, azimuths[col], elevations[row], kind[row] == SKY, day)
            if kind[row] != SKY:
                _shade(
                    out[row, col],
                    colour,
                    sky,
                    kind[row],
                    far[row],
                    azimuths[col],
                    elevations[row],
                    eye,
                    site,
                    day,
                )
            elif (
                elevations[row] < 0 and row < horizon
            ):  # the edge of the world: land that lost itself in haze
                for k in range(3):
                    out[row, col, k] = 0.6 * day.palette[0, k] + 0.4 * sky[k]
            else:
                for k in range(3):
                    out[row, col, k] = sky[k]


@njit(cache=True, fastmath=True)
def _walk(kind, far, azimuth, elevations, eye, site, day):  # type: ignore[no-untyped-def]
    """First hit of every row of one column; returns the lowest row that no solid reached."""
    h, w = site.terrain.shape
    at_r, at_c = min(max(int(eye.row), 0), h - 1), min(max(int(eye.column), 0), w - 1)
    eye_z = site.terrain[at_r, at_c] + eye.height_m
    dx, dy = np.sin(azimuth), -np.cos(azimuth)
    lowest, d = elevations.size, 0.7  # rows from `lowest` down are resolved
    while lowest > 0 and d < REACH_M:
        c, r = int(eye.column + dx * d / site.gsd_m), int(eye.row + dy * d / site.gsd_m)
        if c < 0 or r < 0 or c >= w or r >= h:
            break
        ground, height, is_car = site.terrain[r, c], site.solid[r, c], False
        place = site.car[r, c]
        if place > 0 and d > 2.6 and hash01(place, day.car_seed, 11) < day.car_share:
            height, is_car = site.car_top[r, c] * CAR_UNIT_M, True
        if d < 1.2:
            height = 0.0
        tilt = np.arctan2(ground + height - eye_z, d)
        while lowest > 0 and elevations[lowest - 1] <= tilt:
            lowest -= 1
            if kind[lowest] == SKY:
                kind[lowest] = CAR if is_car else SOLID
                far[lowest] = d
        if site.crown_top[r, c] > 0 and d > 1.2:
            _meet_crown(kind, far, d, r, c, lowest, eye_z, elevations, site, day)
        d += max(site.gsd_m * 0.8, d * 0.011)
    return lowest


@njit(cache=True, fastmath=True)
def _meet_crown(kind, far, d, r, c, lowest, eye_z, elevations, site, day):  # type: ignore[no-untyped-def]
    """Leaves take the open rows between crown base and crown top, with gaps."""
    ground, rise = site.terrain[r, c], elevations[0] - elevations[1]
    under = np.arctan2(ground + site.crown_base[r, c] * CROWN_UNIT_M - eye_z, d)
    over = np.arctan2(ground + site.crown_top[r, c] * CROWN_UNIT_M - eye_z, d)
    first = max(int((elevations[0] - over) / rise + 0.5), 0)
    last = min(int((elevations[0] - under) / rise + 0.5), lowest)
    evergreen = hash01(site.tree[r, c], 3, 9) * 4.0 >= 3.0
    cover = 0.55 * (0.95 if evergreen else day.leaf_cover)
    for row in range(first, last):
        if kind[row] == SKY:
            level = int((eye_z + d * np.tan(elevations[row])) / 0.35)
            if hash01(c // 2, r // 2, level) < cover:
                kind[row], far[row] = CROWN, d


@njit(cache=True, fastmath=True)
def _shade(pixel, colour, sky, kind, d, azimuth, elevation, eye, site, day):  # type: ignore[no-untyped-def]
    """Colour of one hit: surface, light, haze."""
    h, w = site.terrain.shape
    at_r, at_c = min(max(int(eye.row), 0), h - 1), min(max(int(eye.column), 0), w - 1)
    dx, dy = np.sin(azimuth), -np.cos(azimuth)
    z = site.terrain[at_r, at_c] + eye.height_m + d * np.tan(elevation)
    x, y = eye.column + dx * d / site.gsd_m, eye.row + dy * d / site.gsd_m
    if kind == SOLID:
        back = _step_back(x, y, z, dx, dy, site)
        x, y = x - dx * back / site.gsd_m, y - dy * back / site.gsd_m
    c, r = min(max(int(x), 0), w - 1), min(max(int(y), 0), h - 1)
    light = 1.0
    if day.sunshine > 0.3 and d < 70.0:
        light = sunlight(x - dx * 0.4 / site.gsd_m, y - dy * 0.4 / site.gsd_m, z + 0.25, site, day)
    facing = day.sun[2] / max(day.sun[2], 0.3)
    if kind == CROWN:
        shade_leaves(colour, r, c, z, site, day)
    elif kind == CAR:
        shade_car(colour, r, c, z, site, day)
    else:
        facing = shade_surface(colour, sky, r, c, x, y, z, d, dx, dy, light, site, day)
    clear = np.exp(-d / day.visibility_m)
    for k in range(3):
        bright = 0.50 + 0.05 * k * day.sunshine + 0.30 * (1 - day.sunshine)
        bright += day.sunshine * 0.55 * light * min(facing, 1.0)
        pixel[k] = colour[k] * bright * clear + sky[k] * 0.92 * (1 - clear)


@njit(cache=True, fastmath=True)
def _step_back(x, y, z, dx, dy, site):  # type: ignore[no-untyped-def]
    """Metres from a sample inside a wall back to its face, so that walls come out straight."""
    h, w = site.terrain.shape
    back = 0.0
    for _ in range(5):
        c, r = int(x - dx * (back + 0.12) / site.gsd_m), int(y - dy * (back + 0.12) / site.gsd_m)
        if c < 0 or r < 0 or c >= w or r >= h or site.terrain[r, c] + site.solid[r, c] < z:
            break
        back += 0.12
    return back
