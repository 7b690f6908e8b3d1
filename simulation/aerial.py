"""The orthophoto: the world seen straight down, with roof shading, cast shadows, crowns and cars."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from simulation.appearance import Appearance, sun_vector
from simulation.noise import hash01, smooth_noise
from simulation.world import CAR_UNIT_M, CROWN_UNIT_M, World


def orthophoto(world: World, look: Appearance, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 true orthophoto of the whole world on its own grid."""
    h, w = world.shape
    broad = smooth_noise((h, w), 14.0 / world.gsd_m, rng, octaves=3)
    out = np.empty((h, w, 3), np.uint8)
    top = _top_surface(world.terrain_m, world.solid_m, world.crown_top, CROWN_UNIT_M)
    _shade(
        out, top, broad, world.solid_m, world.crown_top, world.tree, world.car, world.car_top, world.material,
        world.building, world.buildings.roof_rgb, look.palette, look.leaves, look.leaf_cover, look.roof_tint,
        np.array(sun_vector(look)), look.sunshine, look.car_seed, look.car_share, look.texture, world.gsd_m, CAR_UNIT_M,
    )  # fmt: skip
    return out


@njit(cache=True, parallel=True)
def _top_surface(terrain, solid, crown_top, unit):  # type: ignore[no-untyped-def]
    top = terrain + solid
    for r in prange(top.shape[0]):
        for c in range(top.shape[1]):
            top[r, c] = max(top[r, c], terrain[r, c] + crown_top[r, c] * unit)
    return top


@njit(cache=True)
def _in_shadow(top, r, c, sun, gsd):  # type: ignore[no-untyped-def]
    """Walk towards the sun for up to 60 m; cars and people cast none."""
    flat = np.hypot(sun[0], sun[1])
    dx, dy, climb = sun[0] / flat, sun[1] / flat, sun[2] / flat * gsd
    z, x, y = top[r, c] + 0.3, c + 0.5, r + 0.5
    step, walked = 1.5, 0.0
    while walked < 60.0 / gsd:
        walked += step
        cc, rr = int(x + dx * walked), int(y + dy * walked)
        if rr < 0 or cc < 0 or rr >= top.shape[0] or cc >= top.shape[1]:
            return False
        if top[rr, cc] > z + climb * walked:
            return True
        step = min(step * 1.12, 5.0)
    return False


@njit(cache=True, parallel=True)
def _shade(out, top, broad, solid, crown_top, tree, car, car_top, material, building, roof_rgb, palette, leaves,
           leaf_cover, roof_tint, sun, sunshine, car_seed, car_share, texture, gsd, car_unit) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
    h, w = top.shape
    for r in prange(h):
        colour = np.zeros(3)
        for c in range(w):
            m = material[r, c]
            grain = 1.0 + texture * (hash01(r, c, 1) - 0.5) * 1.6 + texture * broad[r, c] * 1.2
            for k in range(3):
                colour[k] = palette[m, k]
            b = building[r, c]
            if m == 14 and b > 0:
                shade = 0.8 + 0.4 * hash01(b, 7, 7)
                rib = 1.0 - 0.1 * hash01(b, (r + c) // 4, 2)
                for k in range(3):
                    colour[k] = roof_rgb[b, k] * roof_tint[k] * shade * rib
            elif m == 18:
                grain *= 1.0 - 0.22 * ((r + 2 * c) % 8 < 4)
            t = tree[r, c]
            leafy = False
            if t > 0:
                species = int(hash01(t, 3, 9) * 4.0)
                leafy = hash01(r // 2, c // 2, t) < (0.95 if species == 3 else leaf_cover)
                if leafy:
                    tone = 0.75 + 0.5 * hash01(t, 4, 1) - 0.25 * hash01(r // 2, c // 2, 5)
                    for k in range(3):
                        colour[k] = leaves[species, k] * tone
            s = car[r, c]
            if s > 0 and not leafy and hash01(s, car_seed & 0xFFFF, 11) < car_share:
                paint = hash01(s, car_seed & 0xFFFF, 12)
                tint = hash01(s, car_seed & 0xFFFF, 13)
                glass = 0.55 if car_top[r, c] * car_unit > 1.3 and hash01(s, 1, r % 5) < 0.4 else 1.0
                level = (232.0 if paint > 0.62 else 128.0 if paint > 0.4 else 36.0) * glass
                colour[0] = level * (1.35 if 0.1 < tint < 0.2 else 1.0)
                colour[1] = level * (0.75 if tint < 0.2 else 1.0)
                colour[2] = level * (1.35 if tint < 0.1 else 0.75 if tint < 0.2 else 1.0)
            r0, r1, c0, c1 = max(r - 1, 0), min(r + 1, h - 1), max(c - 1, 0), min(c + 1, w - 1)
            gx = (top[r, c1] - top[r, c0]) / (2 * gsd)
            gy = (top[r1, c] - top[r0, c]) / (2 * gsd)
            gx, gy = max(min(gx, 1.2), -1.2), max(min(gy, 1.2), -1.2)
            facing = max((sun[2] - gx * sun[0] - gy * sun[1]) / np.sqrt(1 + gx * gx + gy * gy), 0.0)
            dark = _in_shadow(top, r, c, sun, gsd)
            direct = 0.0 if dark else facing / max(sun[2], 0.3)
            for k in range(3):
                light = 0.48 + 0.06 * k * sunshine + (0.24 * (1 - sunshine)) + sunshine * 0.52 * direct
                out[r, c, k] = int(min(max(colour[k] * grain * light, 0.0), 255.0))
