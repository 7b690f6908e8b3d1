"""The orthophoto: the world seen straight down, with roof shading, cast shadows, crowns and cars."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from simulation.appearance import Appearance
from simulation.noise import hash01, smooth_noise
from simulation.shading import ROOF, car_paint, day_of, site_of
from simulation.world import CAR_UNIT_M, CROWN_UNIT_M, World

CROP = 18  # simulation.features.Material.CROP, as a plain number for compiled code


def orthophoto(world: World, look: Appearance, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 true orthophoto of the whole world on its own grid."""
    broad = smooth_noise(world.shape, 14.0 / world.gsd_m, rng, octaves=3)
    out = np.empty((*world.shape, 3), np.uint8)
    site = site_of(world)
    _render_cells(out, _top_surface(site), broad, site, day_of(look, 0))
    return out


@njit(cache=True, parallel=True)
def _top_surface(site):  # type: ignore[no-untyped-def]
    """Height of ground, roofs and crowns (H, W)."""
    top = site.terrain + site.solid
    for r in prange(top.shape[0]):
        for c in range(top.shape[1]):
            top[r, c] = max(top[r, c], site.terrain[r, c] + site.crown_top[r, c] * CROWN_UNIT_M)
    return top


@njit(cache=True, parallel=True)
def _render_cells(out, top, broad, site, day):  # type: ignore[no-untyped-def]
    for r in prange(top.shape[0]):
        colour = np.zeros(3)
        for c in range(top.shape[1]):
            _paint(colour, r, c, site, day)
            grain = 1.0 + day.texture * ((hash01(r, c, 1) - 0.5) * 1.6 + broad[r, c] * 1.2)
            if site.material[r, c] == CROP:  # furrows
                grain *= 1.0 - 0.22 * ((r + 2 * c) % 8 < 4)
            direct = _direct_light(top, r, c, site.gsd_m, day.sun)
            for k in range(3):
                light = 0.48 + 0.06 * k * day.sunshine + 0.24 * (1 - day.sunshine)
                light += day.sunshine * 0.52 * direct
                out[r, c, k] = int(min(max(colour[k] * grain * light, 0.0), 255.0))


@njit(cache=True)
def _paint(colour, r, c, site, day):  # type: ignore[no-untyped-def]
    """Colour of the topmost thing at a cell: leaves over cars over roof or ground."""
    m, b = site.material[r, c], site.building[r, c]
    for k in range(3):
        colour[k] = day.palette[m, k]
    if m == ROOF and b > 0:
        tone = (0.8 + 0.4 * hash01(b, 7, 7)) * (1.0 - 0.1 * hash01(b, (r + c) // 4, 2))
        for k in range(3):
            colour[k] = site.roof_rgb[b, k] * day.roof_tint[k] * tone
    t = site.tree[r, c]
    if t > 0:
        species = int(hash01(t, 3, 9) * 4.0)
        if hash01(r // 2, c // 2, t) < (0.95 if species == 3 else day.leaf_cover):
            tone = 0.75 + 0.5 * hash01(t, 4, 1) - 0.25 * hash01(r // 2, c // 2, 5)
            for k in range(3):
                colour[k] = day.leaves[species, k] * tone
            return
    place = site.car[r, c]
    if place > 0 and hash01(place, day.car_seed, 11) < day.car_share:
        paint = hash01(place, day.car_seed, 12)
        level = 232.0 if paint > 0.62 else 128.0 if paint > 0.4 else 36.0
        glass = site.car_top[r, c] * CAR_UNIT_M > 1.3 and hash01(place, 1, r % 5) < 0.4
        car_paint(colour, place, day.car_seed, level * (0.55 if glass else 1.0))


@njit(cache=True)
def _direct_light(top, r, c, gsd, sun):  # type: ignore[no-untyped-def]
    """Share of the sun that reaches a cell: slope, and the shadow of whatever stands within 60 m."""
    h, w = top.shape
    flat = np.hypot(sun[0], sun[1])
    dx, dy, climb = sun[0] / flat, sun[1] / flat, sun[2] / flat * gsd
    walked, step = 0.0, 1.5
    while walked < 60.0 / gsd:
        walked += step
        cc, rr = int(c + 0.5 + dx * walked), int(r + 0.5 + dy * walked)
        if rr < 0 or cc < 0 or rr >= h or cc >= w:
            break
        if top[rr, cc] > top[r, c] + 0.3 + climb * walked:
            return 0.0
        step = min(step * 1.12, 5.0)
    gx = (top[r, min(c + 1, w - 1)] - top[r, max(c - 1, 0)]) / (2 * gsd)
    gy = (top[min(r + 1, h - 1), c] - top[max(r - 1, 0), c]) / (2 * gsd)
    gx, gy = max(min(gx, 1.2), -1.2), max(min(gy, 1.2), -1.2)
    facing = max((sun[2] - gx * sun[0] - gy * sun[1]) / np.sqrt(1 + gx * gx + gy * gy), 0.0)
    return facing / max(sun[2], 0.3)
