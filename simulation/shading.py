"""Colours of what a street ray meets: walls with windows, roofs, ground, leaves, cars, sky; and the sun on
them.

Compiled helpers of both cameras; each writes an RGB in 0..255 into the array that it is given.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from simulation.appearance import Appearance, sun_vector
from simulation.noise import hash01
from simulation.world import CAR_UNIT_M, CROWN_UNIT_M, World

WATER, POOL, ROOF = 8, 17, 14  # simulation.features.Material, as plain numbers for compiled code


class Site(NamedTuple):
    """The rasters of a World and the rows of its building table, in the form that compiled code takes."""

    gsd_m: float
    terrain: NDArray[Any]
    solid: NDArray[Any]
    crown_base: NDArray[Any]
    crown_top: NDArray[Any]
    tree: NDArray[Any]
    car: NDArray[Any]
    car_top: NDArray[Any]
    material: NDArray[Any]
    building: NDArray[Any]
    albedo: NDArray[Any]
    has_albedo: bool
    angle: NDArray[Any]
    storey: NDArray[Any]
    bay: NDArray[Any]
    eave: NDArray[Any]
    roof_rgb: NDArray[Any]
    facade_rgb: NDArray[Any]
    look: NDArray[Any]


class Day(NamedTuple):
    """An Appearance in the form that compiled code takes; `shot` seeds what differs between two exposures."""

    palette: NDArray[Any]
    leaves: NDArray[Any]
    leaf_cover: float
    facade_tint: NDArray[Any]
    roof_tint: NDArray[Any]
    sky: NDArray[Any]
    sun: NDArray[Any]
    sunshine: float
    visibility_m: float
    car_seed: int
    car_share: float
    texture: float
    shot: int


def site_of(world: World) -> Site:
    """The world as compiled code takes it."""
    table = world.buildings
    return Site(
        gsd_m=world.gsd_m,
        terrain=world.terrain_m,
        solid=world.solid_m,
        crown_base=world.crown_base,
        crown_top=world.crown_top,
        tree=world.tree,
        car=world.car,
        car_top=world.car_top,
        material=world.material,
        building=world.building,
        albedo=world.albedo if world.albedo is not None else np.zeros((1, 1, 3), np.uint8),
        has_albedo=world.albedo is not None,
        angle=table.angle_rad,
        storey=table.storey_m,
        bay=table.bay_m,
        eave=table.eave_m,
        roof_rgb=table.roof_rgb,
        facade_rgb=table.facade_rgb,
        look=table.look,
    )


def day_of(look: Appearance, seed: int) -> Day:
    """The day as compiled code takes it."""
    return Day(
        palette=look.palette,
        leaves=look.leaves,
        leaf_cover=look.leaf_cover,
        facade_tint=look.facade_tint,
        roof_tint=look.roof_tint,
        sky=look.sky,
        sun=np.array(sun_vector(look)),
        sunshine=look.sunshine,
        visibility_m=look.visibility_m,
        car_seed=look.car_seed & 0xFFFF,
        car_share=look.car_share,
        texture=look.texture,
        shot=seed & 0xFFFF,
    )


@njit(cache=True, fastmath=True)
def sunlight(x, y, z, site, day):  # type: ignore[no-untyped-def]
    """1 in the sun, 0.25 behind leaves, 0 behind solids: a short walk towards the sun."""
    flat = np.hypot(day.sun[0], day.sun[1])
    dx, dy, climb = day.sun[0] / flat, day.sun[1] / flat, day.sun[2] / flat
    walked, light = 0.8, 1.0
    while walked < 45.0:
        c, r = int(x + dx * walked / site.gsd_m), int(y + dy * walked / site.gsd_m)
        if r < 0 or c < 0 or r >= site.terrain.shape[0] or c >= site.terrain.shape[1]:
            break
        line = z + climb * walked
        if site.terrain[r, c] + site.solid[r, c] > line:
            return 0.0
        if site.terrain[r, c] + site.crown_top[r, c] * CROWN_UNIT_M > line:
            light = 0.25
        walked += 0.9 + walked * 0.12
    return light


@njit(cache=True, fastmath=True)
def sky_colour(sky, azimuth, elevation, with_clouds, day):  # type: ignore[no-untyped-def]
    """Pale at the horizon, deeper above; clouds only where the sky itself is seen."""
    cloud = _cloud(azimuth, elevation, day.shot, day.sunshine) if with_clouds else 0.0
    up = max(elevation, 0.0)
    lift = 0.75 + 0.25 * (0.62 + 0.38 * min(up * 1.4, 1.0))
    for k in range(3):
        deep = day.sky[k] * (1.0 - day.sunshine * 0.42 * (1 - k * 0.42) * min(up * 1.6, 1.0))
        sky[k] = (deep * (1.0 - cloud) + (238.0 - 40.0 * (1.0 - day.sunshine)) * cloud) * lift


@njit(cache=True, fastmath=True)
def _cloud(azimuth, elevation, view, sunshine):  # type: ignore[no-untyped-def]
    """Cover 0..0.85 of a cloud layer above the camera: value noise on a plane at unit height."""
    if elevation < 0.02:
        return 0.0
    away = 1.0 / (np.tan(elevation) + 0.08)
    total = 0.0
    for octave in range(2):
        scale = 1.1 * 2.2**octave
        x, y = np.sin(azimuth) * away * scale, np.cos(azimuth) * away * scale
        cx, cy = int(np.floor(x)), int(np.floor(y))
        tx, ty = x - cx, y - cy
        tx, ty = tx * tx * (3 - 2 * tx), ty * ty * (3 - 2 * ty)
        low = hash01(cx, cy, view + octave) * (1 - tx) + hash01(cx + 1, cy, view + octave) * tx
        high = hash01(cx, cy + 1, view + octave) * (1 - tx) + hash01(cx + 1, cy + 1, view + octave) * tx
        total += (low * (1 - ty) + high * ty) * 0.55**octave
    cover = total / 1.55 - 0.52 + 0.3 * (1.0 - sunshine)
    return min(max(cover * 3.0, 0.0), 0.85)


@njit(cache=True, fastmath=True)
def shade_leaves(colour, r, c, z, site, day):  # type: ignore[no-untyped-def]
    """Clumps of leaves, darker low in the crown."""
    t = site.tree[r, c]
    species = int(hash01(t, 3, 9) * 4.0)
    tone = 0.55 + 0.7 * hash01(c // 2, int(z * 4), r // 2) * (0.6 + 0.4 * hash01(t, 4, 1))
    tone *= 0.7 + 0.3 * min(max((z - site.terrain[r, c]) / 6.0, 0.0), 1.0)
    for k in range(3):
        colour[k] = day.leaves[species, k] * tone


@njit(cache=True, fastmath=True)
def car_paint(colour, place, car_seed, level):  # type: ignore[no-untyped-def]
    """White, grey or black for most cars, red or violet for some."""
    tint = hash01(place, car_seed, 13)
    colour[0] = level * (1.35 if 0.1 < tint < 0.2 else 1.0)
    colour[1] = level * (0.7 if tint < 0.2 else 1.0)
    colour[2] = level * (1.35 if tint < 0.1 else 0.7 if tint < 0.2 else 1.0)


@njit(cache=True, fastmath=True)
def shade_car(colour, r, c, z, site, day):  # type: ignore[no-untyped-def]
    """Paint, glass above the belt line, tyres below."""
    place, up = site.car[r, c], z - site.terrain[r, c]
    paint = hash01(place, day.car_seed, 12)
    if up < 0.3 or (up > 0.85 and site.car_top[r, c] * CAR_UNIT_M > 1.3):
        level = 28.0 if up < 0.3 else 46.0
        colour[0], colour[1], colour[2] = level, level, level
    else:
        car_paint(colour, place, day.car_seed, 225.0 if paint > 0.62 else 120.0 if paint > 0.4 else 40.0)


@njit(cache=True, fastmath=True)
def shade_surface(colour, sky, r, c, x, y, z, d, dx, dy, light, site, day):  # type: ignore[no-untyped-def]
    """Wall, roof or ground at a cell; returns how squarely it faces the sun (0..1)."""
    b, m, tall = site.building[r, c], site.material[r, c], site.solid[r, c]
    up = z - site.terrain[r, c]
    if tall > 0.5 and up < tall - 0.25 - d * 0.012:
        if b > 0:
            return _shade_wall(colour, r, c, up, b, dx, dy, light, site, day)
        trunk = site.crown_top[r, c] > 0
        for k in range(3):
            base = 86.0 - 12.0 * k if trunk else day.palette[m, k]
            colour[k] = base * (0.75 + 0.4 * hash01(r, c, int(z * 6)))
        return 0.6
    grain = 1.0 + day.texture * (hash01(r, c, 1) - 0.5) * (1.8 if d < 25 else 0.8)
    for k in range(3):
        if site.has_albedo:
            colour[k] = site.albedo[r, c, k] * grain
        elif m == ROOF and b > 0:
            colour[k] = site.roof_rgb[b, k] * day.roof_tint[k] * (0.8 + 0.4 * hash01(b, 7, 7))
        else:
            colour[k] = day.palette[m, k] * grain
    if m in (WATER, POOL):
        glint = 0.5 + 0.2 * np.sin(x * 0.7 + y * 0.31)
        for k in range(3):
            colour[k] = colour[k] * (1 - glint) + sky[k] * glint * 0.8
    return day.sun[2] / max(day.sun[2], 0.3)


@njit(cache=True, fastmath=True)
def _shade_wall(colour, r, c, up, b, dx, dy, light, site, day):  # type: ignore[no-untyped-def]
    """A façade: which of the house's two directions it runs in follows from where the house goes on."""
    h, w = site.solid.shape
    cs, sn = np.cos(site.angle[b]), np.sin(site.angle[b])
    reach = 1.2 / site.gsd_m
    ahead = site.solid[min(max(int(r - sn * reach), 0), h - 1), min(max(int(c + cs * reach), 0), w - 1)]
    behind = site.solid[min(max(int(r + sn * reach), 0), h - 1), min(max(int(c - cs * reach), 0), w - 1)]
    left = site.solid[min(max(int(r - cs * reach), 0), h - 1), min(max(int(c - sn * reach), 0), w - 1)]
    right = site.solid[min(max(int(r + cs * reach), 0), h - 1), min(max(int(c + sn * reach), 0), w - 1)]
    east, north = (c + 0.5) * site.gsd_m, -(r + 0.5) * site.gsd_m
    is_end = abs(ahead - behind) > abs(left - right)
    along = -east * sn + north * cs if is_end else east * cs + north * sn
    nx, ny = (cs, -sn) if is_end else (-sn, -cs)
    if nx * dx + ny * dy > 0:
        nx, ny = -nx, -ny
    look = site.look[b]
    for k in range(3):
        tone = 0.85 + 0.3 * hash01(look, 9, k if k == 0 else 1)
        colour[k] = site.facade_rgb[b, k] * day.facade_tint[k] * tone
    _facade(colour, along, up, b, site.storey[b], site.bay[b], site.eave[b], look, light, day.shot)
    return max(nx * day.sun[0] + ny * day.sun[1], 0.0) * 1.1


@njit(cache=True, fastmath=True)
def _facade(colour, u, z, b, storey, bay, eave, look, lit, view):  # type: ignore[no-untyped-def]
    """Windows, doors, shop fronts, plinth and cornice of a wall at `u` metres along and `z` metres up."""
    floor, column = int(np.floor(z / storey)), int(np.floor(u / bay))
    fz, fu = z / storey - floor, u / bay - column
    half_w = 0.2 + 0.16 * hash01(look, 1, 1)
    low, high = 0.28 + 0.1 * hash01(look, 2, 1), 0.72 + 0.16 * hash01(look, 3, 1)
    stripe = hash01(look, 4, 1)
    window = abs(fu - 0.5) < half_w and low < fz < high
    if stripe > 0.85:  # ribbon windows
        window = low < fz < high
    if floor == 0 and hash01(look, 5, 1) < 0.28:  # shop front
        window = 0.14 < fz < 0.8 and abs(fu - 0.5) < 0.44
    door = floor == 0 and hash01(look, column, 2) < 0.16
    if door and abs(fu - 0.5) < 0.16 and fz < 0.72:
        shade = 0.3 + 0.5 * hash01(look, column, 3)
        colour[0], colour[1], colour[2] = 150 * shade, 110 * shade, 90 * shade
    elif window and z < eave - 0.3 and hash01(look, column * 31 + floor, 4) < 0.93:
        glass = 0.35 + 0.75 * hash01(column, floor, look + view) * (0.5 + 0.5 * lit)
        colour[0], colour[1], colour[2] = 82 * glass, 96 * glass, 112 * glass
        if abs(abs(fu - 0.5) - half_w) < 0.03 or abs(fz - low) < 0.03:
            colour[0], colour[1], colour[2] = 205.0, 203.0, 198.0
    else:
        dim = 1.0 - 0.06 * hash01(int(u * 2.3), int(z * 2.3), b) - (0.12 if z < 0.7 else 0.0)
        if stripe < 0.25 and (fz > 0.93 or fz < 0.05):
            dim *= 0.8
        if z > eave - 0.35:
            dim *= 0.72
        for k in range(3):
            colour[k] *= dim
