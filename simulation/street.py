"""The street camera: column-wise ray casting over the world's height fields.

For every column one ray walks away from the camera in growing steps; rows are resolved from the bottom up as ever higher
solids come by, and crowns fill the rows they cover. One walk per column instead of one per pixel makes a 512 × 256
panorama cheap enough to render thousands a minute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from simulation.appearance import Appearance, sun_vector
from simulation.noise import hash01
from simulation.world import CAR_UNIT_M, CROWN_UNIT_M, World

REACH_M = 260.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where a camera stands (projected metres), how high above ground, and the grid azimuth of its image centre."""

    easting: float
    northing: float
    height_m: float
    azimuth_deg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A piece of an equirectangular image: width over `span_deg` of azimuth, rows from top to bottom elevation."""

    width_px: int
    height_px: int
    span_deg: float = 360.0
    top_deg: float = 90.0
    bottom_deg: float = -90.0


def render(world: World, pose: Pose, look: Appearance, band: Band, *, seed: int) -> NDArray[np.float32]:
    """(height_px, width_px, 3) float32 radiance, 0..255 before exposure; the centre column looks at pose.azimuth_deg."""
    column, row = world.cell_of(pose.easting, pose.northing)
    rise = (band.top_deg - band.bottom_deg) / band.height_px
    elevations = np.radians(band.top_deg - (np.arange(band.height_px) + 0.5) * rise)
    step = band.span_deg / band.width_px
    azimuths = np.radians(pose.azimuth_deg - band.span_deg / 2 + (np.arange(band.width_px) + 0.5) * step)
    table = world.buildings
    albedo = world.albedo if world.albedo is not None else np.zeros((1, 1, 3), np.uint8)
    out = np.empty((band.height_px, band.width_px, 3), np.float32)
    _cast(
        out, azimuths, elevations, column, row, pose.height_m, world.gsd_m, world.terrain_m, world.solid_m,
        world.crown_base, world.crown_top, world.tree, world.car, world.car_top, world.material, world.building, albedo,
        world.albedo is not None, table.angle_rad, table.storey_m, table.bay_m, table.eave_m, table.roof_rgb,
        table.facade_rgb, table.look, look.palette, look.leaves, look.leaf_cover, look.facade_tint, look.roof_tint, look.sky,
        np.array(sun_vector(look)), look.sunshine, look.visibility_m, look.car_seed & 0xFFFF, look.car_share, look.texture,
        CROWN_UNIT_M, CAR_UNIT_M, seed & 0xFFFF, REACH_M,
    )  # fmt: skip
    return out


@njit(cache=True)
def _sunlit(x, y, z, sun, gsd, terrain, solid, crown_top, crown_unit):  # type: ignore[no-untyped-def]
    """1 in the sun, 0.25 behind leaves, 0 behind solids: a short walk towards the sun."""
    flat = np.hypot(sun[0], sun[1])
    dx, dy, climb = sun[0] / flat, sun[1] / flat, sun[2] / flat
    walked, light = 0.8, 1.0
    while walked < 45.0:
        c, r = int(x + dx * walked / gsd), int(y + dy * walked / gsd)
        if r < 0 or c < 0 or r >= terrain.shape[0] or c >= terrain.shape[1]:
            break
        line = z + climb * walked
        if terrain[r, c] + solid[r, c] > line:
            return 0.0
        if terrain[r, c] + crown_top[r, c] * crown_unit > line:
            light = 0.25
        walked += 0.7 + walked * 0.06
    return light


@njit(cache=True)
def _cloud(azimuth, elevation, view, sunshine):  # type: ignore[no-untyped-def]
    """Cover 0..0.85 of a cloud layer above the camera: value noise on a plane at unit height."""
    if elevation < 0.02:
        return 0.0
    away = 1.0 / (np.tan(elevation) + 0.08)
    total = 0.0
    for octave in range(3):
        scale = 1.1 * 2.2**octave
        x, y = np.sin(azimuth) * away * scale, np.cos(azimuth) * away * scale
        cx, cy = int(np.floor(x)), int(np.floor(y))
        tx, ty = x - cx, y - cy
        tx, ty = tx * tx * (3 - 2 * tx), ty * ty * (3 - 2 * ty)
        low = hash01(cx, cy, view + octave) * (1 - tx) + hash01(cx + 1, cy, view + octave) * tx
        high = hash01(cx, cy + 1, view + octave) * (1 - tx) + hash01(cx + 1, cy + 1, view + octave) * tx
        total += (low * (1 - ty) + high * ty) * 0.55**octave
    cover = total / 1.85 - 0.52 + 0.3 * (1.0 - sunshine)
    return min(max(cover * 3.0, 0.0), 0.85)


@njit(cache=True)
def _facade(colour, u, z, b, storey, bay, eave, look, lit, view):  # type: ignore[no-untyped-def]
    """Windows, doors, shop fronts, plinth and cornice of a wall at `u` metres along and `z` metres up."""
    floor, column = int(np.floor(z / storey)), int(np.floor(u / bay))
    fz, fu = z / storey - floor, u / bay - column
    half_w, low, high = 0.2 + 0.16 * hash01(look, 1, 1), 0.28 + 0.1 * hash01(look, 2, 1), 0.72 + 0.16 * hash01(look, 3, 1)
    stripe = hash01(look, 4, 1)
    dim = 1.0 - 0.06 * hash01(int(u * 2.3), int(z * 2.3), b) - (0.12 if z < 0.7 else 0.0)
    if stripe < 0.25 and (fz > 0.93 or fz < 0.05):
        dim *= 0.8
    if z > eave - 0.35:
        dim *= 0.72
    window = abs(fu - 0.5) < half_w and low < fz < high
    if stripe > 0.85:
        window = low < fz < high
    if floor == 0 and hash01(look, 5, 1) < 0.28:
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
        for k in range(3):
            colour[k] *= dim


@njit(cache=True, parallel=True)
def _cast(out, azimuths, elevations, cam_c, cam_r, cam_h, gsd, terrain, solid, crown_base, crown_top, tree, car, car_top,
          material, building, albedo, has_albedo, angle, storey, bay, eave, roof_rgb, facade_rgb, look, palette, leaves,
          leaf_cover, facade_tint, roof_tint, sky, sun, sunshine, visibility, car_seed, car_share, texture, crown_unit, car_unit,
          view, reach) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
    rows_n = elevations.size
    h, w = terrain.shape
    r0, c0 = min(max(int(cam_r), 0), h - 1), min(max(int(cam_c), 0), w - 1)
    cam_z = terrain[r0, c0] + cam_h
    top_angle, rise = elevations[0], elevations[0] - elevations[1]
    for col in prange(azimuths.size):
        kind = np.zeros(rows_n, np.int8)  # 0 sky, 1 solid, 2 crown, 3 car
        far = np.zeros(rows_n, np.float32)
        dx, dy = np.sin(azimuths[col]), -np.cos(azimuths[col])
        lowest, d = rows_n, 0.7  # rows [lowest, n) are resolved
        while lowest > 0 and d < reach:
            x, y = cam_c + dx * d / gsd, cam_r + dy * d / gsd
            c, r = int(x), int(y)
            if c < 0 or r < 0 or c >= w or r >= h:
                break
            ground = terrain[r, c]
            height = solid[r, c]
            is_car = False
            s = car[r, c]
            if s > 0 and d > 2.6 and hash01(s, car_seed, 11) < car_share:
                height, is_car = car_top[r, c] * car_unit, True
            if d < 1.2:
                height = 0.0
            tilt = np.arctan2(ground + height - cam_z, d)
            while lowest > 0 and elevations[lowest - 1] <= tilt:
                lowest -= 1
                if kind[lowest] == 0:
                    kind[lowest] = 3 if is_car else 1
                    far[lowest] = d
            if crown_top[r, c] > 0 and d > 1.2:
                under = np.arctan2(ground + crown_base[r, c] * crown_unit - cam_z, d)
                over = np.arctan2(ground + crown_top[r, c] * crown_unit - cam_z, d)
                first = max(int((top_angle - over) / rise + 0.5), 0)
                last = min(int((top_angle - under) / rise + 0.5), lowest)
                t = tree[r, c]
                cover = 0.95 if hash01(t, 3, 9) * 4.0 >= 3.0 else leaf_cover
                for row in range(first, last):
                    if kind[row] == 0:
                        leaf_z = int((cam_z + d * np.tan(elevations[row])) / 0.35)
                        if hash01(c // 2, r // 2, leaf_z) < cover * 0.55:
                            kind[row] = 2
                            far[row] = d
            d += max(gsd * 0.8, d * 0.011)
        colour = np.zeros(3)
        for row in range(rows_n):
            el = elevations[row]
            haze_r = 0.62 + 0.38 * min(max(el, 0.0) * 1.4, 1.0)
            cloud = _cloud(azimuths[col], el, view, sunshine) if kind[row] == 0 else 0.0
            skies = np.empty(3)
            for k in range(3):
                deep = sky[k] * (1.0 - sunshine * 0.42 * (1 - k * 0.42) * min(max(el, 0.0) * 1.6, 1.0))
                skies[k] = (deep * (1.0 - cloud) + (238.0 - 40.0 * (1.0 - sunshine)) * cloud) * (0.75 + 0.25 * haze_r)
            if kind[row] == 0:
                if el < 0 and lowest > row:
                    for k in range(3):
                        out[row, col, k] = 0.6 * palette[0, k] + 0.4 * skies[k]
                else:
                    for k in range(3):
                        out[row, col, k] = skies[k]
                continue
            d = far[row]
            x, y = cam_c + dx * d / gsd, cam_r + dy * d / gsd
            z = cam_z + d * np.tan(el)
            if kind[row] == 1:  # walls: step back to the face itself
                back = 0.0
                for _ in range(5):
                    nc, nr = int(x - dx * (back + 0.12) / gsd), int(y - dy * (back + 0.12) / gsd)
                    if nc < 0 or nr < 0 or nc >= w or nr >= h or terrain[nr, nc] + solid[nr, nc] < z:
                        break
                    back += 0.12
                x, y = x - dx * back / gsd, y - dy * back / gsd
            c, r = min(max(int(x), 0), w - 1), min(max(int(y), 0), h - 1)
            ground = terrain[r, c]
            b, m = building[r, c], material[r, c]
            light = 1.0
            if sunshine > 0.3 and d < 90.0:
                light = _sunlit(x - dx * 0.4 / gsd, y - dy * 0.4 / gsd, z + 0.25, sun, gsd, terrain, solid, crown_top, crown_unit)
            facing = sun[2] / max(sun[2], 0.3)
            if kind[row] == 2:
                t = tree[r, c]
                species = int(hash01(t, 3, 9) * 4.0)
                tone = 0.55 + 0.7 * hash01(c // 2, int(z * 4), r // 2) * (0.6 + 0.4 * hash01(t, 4, 1))
                tone *= 0.7 + 0.3 * min(max((z - ground) / 6.0, 0.0), 1.0)
                for k in range(3):
                    colour[k] = leaves[species, k] * tone
            elif kind[row] == 3:
                s = car[r, c]
                up = z - ground
                paint, tint = hash01(s, car_seed, 12), hash01(s, car_seed, 13)
                level = 225.0 if paint > 0.62 else 120.0 if paint > 0.4 else 40.0
                if up > 0.85 and car_top[r, c] * car_unit > 1.3:
                    level, tint = 46.0, 1.0
                elif up < 0.3:
                    level, tint = 28.0, 1.0
                colour[0] = level * (1.35 if 0.1 < tint < 0.2 else 1.0)
                colour[1] = level * (0.7 if tint < 0.2 else 1.0)
                colour[2] = level * (1.35 if tint < 0.1 else 0.7 if tint < 0.2 else 1.0)
            else:
                tall = solid[r, c]
                wall = tall > 0.5 and z < ground + tall - 0.25 - d * 0.012
                grain = 1.0 + texture * (hash01(r, c, 1) - 0.5) * (1.8 if d < 25 else 0.8)
                if wall and b > 0:
                    cs, sn = np.cos(angle[b]), np.sin(angle[b])
                    px, py = (c + 0.5) * gsd, -(r + 0.5) * gsd
                    reach_p = 1.2 / gsd
                    pa = solid[min(max(int(r - sn * reach_p), 0), h - 1), min(max(int(c + cs * reach_p), 0), w - 1)]
                    pb = solid[min(max(int(r + sn * reach_p), 0), h - 1), min(max(int(c - cs * reach_p), 0), w - 1)]
                    qa = solid[min(max(int(r - cs * reach_p), 0), h - 1), min(max(int(c - sn * reach_p), 0), w - 1)]
                    qb = solid[min(max(int(r + cs * reach_p), 0), h - 1), min(max(int(c + sn * reach_p), 0), w - 1)]
                    end_wall = abs(pa - pb) > abs(qa - qb)
                    along = -px * sn + py * cs if end_wall else px * cs + py * sn
                    nx, ny = (cs, -sn) if end_wall else (-sn, -cs)
                    if nx * dx + ny * dy > 0:
                        nx, ny = -nx, -ny
                    facing = max(nx * sun[0] + ny * sun[1], 0.0) * 1.1
                    for k in range(3):
                        colour[k] = facade_rgb[b, k] * facade_tint[k] * (0.85 + 0.3 * hash01(look[b], 9, k if k == 0 else 1))
                    _facade(colour, along, z - ground, b, storey[b], bay[b], eave[b], look[b], light, view)
                elif wall:
                    trunk = crown_top[r, c] > 0
                    for k in range(3):
                        colour[k] = (palette[m, k] if not trunk else 86.0 - 12.0 * k) * (0.75 + 0.4 * hash01(r, c, int(z * 6)))
                    facing = 0.6
                elif has_albedo:
                    for k in range(3):
                        colour[k] = albedo[r, c, k] * grain
                else:
                    for k in range(3):
                        colour[k] = palette[m, k] * grain
                    if m == 14 and b > 0:
                        for k in range(3):
                            colour[k] = roof_rgb[b, k] * roof_tint[k] * (0.8 + 0.4 * hash01(b, 7, 7))
                    if m == 8 or m == 17:
                        glint = 0.5 + 0.2 * np.sin(x * 0.7 + y * 0.31)
                        for k in range(3):
                            colour[k] = colour[k] * (1 - glint) + skies[k] * glint * 0.8
            fog = np.exp(-d / visibility)
            for k in range(3):
                bright = 0.50 + 0.05 * k * sunshine + 0.30 * (1 - sunshine) + sunshine * 0.55 * light * min(facing, 1.0)
                out[row, col, k] = colour[k] * bright * fog + skies[k] * 0.92 * (1 - fog)
