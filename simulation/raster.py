"""Burns a plan into rasters: surfaces, roofs, crowns, cars, hedges, poles and the terrain below them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.features import rasterize
from rasterio.transform import from_origin
from shapely.geometry.base import BaseGeometry

from simulation.features import Material, Plan
from simulation.lots import oriented
from simulation.noise import hash01, smooth_noise
from simulation.styles import CityStyle
from simulation.world import CAR_UNIT_M, CROWN_UNIT_M, BuildingTable, World


def burn(
    plan: Plan,
    style: CityStyle,
    *,
    crs: CRS,
    west: float,
    north: float,
    gsd_m: float,
    rng: np.random.Generator,
) -> World:
    """The world of a plan whose north-west corner lies at (west, north) of a projected CRS."""
    n = round(plan.size_m / gsd_m)
    canvas = _Canvas(plan.size_m, n, gsd_m)
    layers = canvas.paint([(g, int(m)) for g, m in plan.surfaces])
    layers = canvas.paint([(g, int(m)) for g, m in plan.marks], onto=layers, all_touched=True)
    material = layers.astype(np.uint8)
    building = canvas.paint([(b.footprint, i + 1) for i, b in enumerate(plan.buildings)])
    shapes, table = _building_rows(plan, style)
    solid = np.zeros((n, n), np.float32)
    _raise_roofs(building, shapes, material, solid, gsd_m, plan.size_m)
    _plant_hedges(canvas, plan, material, solid)
    crown_base, crown_top, tree = _grow_trees(plan, n, gsd_m, solid)
    car = canvas.paint([(c, i % 65535 + 1) for i, c in enumerate(plan.cars)]).astype(np.uint16)
    car[solid > 0] = 0
    relief = style.relief_m * 0.5 * smooth_noise((n, n), 420.0 / gsd_m, rng, octaves=2)
    return World(
        crs=crs,
        west=west,
        north=north,
        gsd_m=gsd_m,
        terrain_m=relief - relief.min() + np.float32(rng.uniform(5, 400)),
        solid_m=solid,
        crown_base=crown_base,
        crown_top=crown_top,
        tree=tree,
        car=car,
        car_top=_car_tops(car),
        material=material,
        building=building,
        buildings=table,
    )


class _Canvas:
    """Rasterises local metres (y north) onto an n × n grid (row 0 north)."""

    def __init__(self, size_m: float, n: int, gsd_m: float) -> None:
        self.n = n
        self.transform = from_origin(0.0, size_m, gsd_m, gsd_m)

    def paint(
        self,
        shapes: Sequence[tuple[BaseGeometry, int]],
        *,
        onto: NDArray[np.int32] | None = None,
        all_touched: bool = False,
    ) -> NDArray[np.int32]:
        """(n, n) values of the shapes, later over earlier, 0 or `onto` elsewhere."""
        out = np.zeros((self.n, self.n), np.int32) if onto is None else onto
        filled = [(g, v) for g, v in shapes if not g.is_empty]
        if filled:
            rasterize(filled, out=out, transform=self.transform, all_touched=all_touched)
        return out


def _building_rows(plan: Plan, style: CityStyle) -> tuple[NDArray[np.float32], BuildingTable]:
    """(centre x, y, angle, half length, half width, eave, ridge) per building, and the cameras' table."""
    rows = np.zeros((len(plan.buildings) + 1, 7), np.float32)
    for i, b in enumerate(plan.buildings, start=1):
        cx, cy, angle, length, width = oriented(b.footprint)
        rows[i] = cx, cy, angle, length / 2, width / 2, b.eave_m, b.ridge_m

    every = [plan.buildings[0], *plan.buildings] if plan.buildings else []  # row 0 is never looked at
    roofs, facades = np.array(style.roofs, np.uint8), np.array(style.facades, np.uint8)
    table = BuildingTable(
        angle_rad=rows[: len(every), 2].copy(),
        storey_m=np.array([b.storey_m for b in every], np.float32),
        bay_m=np.array([b.bay_m for b in every], np.float32),
        eave_m=rows[: len(every), 5].copy(),
        roof_rgb=roofs[np.array([b.roof for b in every], np.int32)],
        facade_rgb=facades[np.array([b.facade for b in every], np.int32)],
        look=np.array([b.look for b in every], np.int32),
    )
    return rows, table


@njit(cache=True, parallel=True)
def _raise_roofs(building, rows, material, solid, gsd, size) -> None:  # type: ignore[no-untyped-def]
    """Height of every roof cell: flat with parapet and plant, or gabled along the long side, some hipped."""
    n = building.shape[0]
    for r in prange(n):
        for c in range(n):
            b = building[r, c]
            if b == 0:
                continue
            dx, dy = (c + 0.5) * gsd - rows[b, 0], size - (r + 0.5) * gsd - rows[b, 1]
            cs, sn = np.cos(rows[b, 2]), np.sin(rows[b, 2])
            p, q = dx * cs + dy * sn, -dx * sn + dy * cs
            eave, ridge = rows[b, 5], rows[b, 6]
            material[r, c] = 14
            if ridge > 0:
                rise = 1.0 - abs(q) / rows[b, 4]
                if b % 3 == 0:
                    rise = min(rise, (rows[b, 3] - abs(p)) / rows[b, 4])
                h = eave + ridge * max(rise, 0.0)
                chimney = hash01(int(np.floor(p / 0.9)), int(np.floor(q / 0.9)), b) < 0.008
                h += 1.1 if chimney else 0.0
                if (
                    hash01(b, 5, 1) < 0.13
                    and q > 0.8
                    and rise * rows[b, 4] > 0.8
                    and abs(p) < rows[b, 3] * 0.6
                ):
                    material[r, c] = 19
            else:
                h = eave
                cell = hash01(int(np.floor(p / 2.6)), int(np.floor(q / 2.6)), b + 77)
                if cell < 0.06 and rows[b, 4] > 4.0:
                    h += 0.8 + 1.8 * hash01(b, int(np.floor(p / 2.6)), 3)
            solid[r, c] = h


def _plant_hedges(
    canvas: _Canvas, plan: Plan, material: NDArray[np.uint8], solid: NDArray[np.float32]
) -> None:
    roads = np.isin(
        material,
        [int(Material.ASPHALT), int(Material.ASPHALT_OLD), int(Material.MARKING), int(Material.SIDEWALK)],
    )
    shapes = [(g.buffer(0.35), round(h * 100)) for g, h in plan.hedges]
    heights = canvas.paint(shapes).astype(np.float32) / 100
    grows = (heights > 0) & (solid == 0) & ~roads
    solid[grows] = heights[grows]
    leafy = grows & ((heights * 100).astype(np.int32) % 3 > 0)
    material[leafy] = int(Material.HEDGE)
    material[grows & ~leafy] = int(Material.WALL)
    for x, y in plan.poles:
        c, r = int(x / plan.size_m * canvas.n), int((plan.size_m - y) / plan.size_m * canvas.n)
        if 0 <= r < canvas.n and 0 <= c < canvas.n and solid[r, c] == 0:
            solid[r, c] = 6.5
            material[r, c] = int(Material.WALL)


def _grow_trees(
    plan: Plan, n: int, gsd_m: float, solid: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint16]]:
    base, top = np.zeros((n, n), np.uint8), np.zeros((n, n), np.uint8)
    tree = np.zeros((n, n), np.uint16)
    if plan.trees:
        _stamp_crowns(
            np.array(plan.trees, np.float32), base, top, tree, solid, gsd_m, plan.size_m, CROWN_UNIT_M
        )
    return base, top, tree


@njit(cache=True)
def _stamp_crowns(trees, base, top, tree, solid, gsd, size, unit) -> None:  # type: ignore[no-untyped-def]
    """Ellipsoid crowns with ragged edges on a trunk; the taller crown wins where two overlap."""
    n = base.shape[0]
    for i in range(trees.shape[0]):
        x, y, radius, height, low = trees[i]
        cc, cr = x / gsd, (size - y) / gsd
        reach = int(radius * 1.15 / gsd) + 1
        mid, half = (height + low) / 2, (height - low) / 2
        for r in range(max(0, int(cr) - reach), min(n, int(cr) + reach + 1)):
            for c in range(max(0, int(cc) - reach), min(n, int(cc) + reach + 1)):
                away = np.hypot(c + 0.5 - cc, r + 0.5 - cr) * gsd / radius
                away *= 0.88 + 0.3 * hash01(r // 3, c // 3, i)
                if away >= 1.0 or solid[r, c] > low:
                    continue
                arch = half * np.sqrt(1.0 - away * away)
                crown = int((mid + arch) / unit)
                if crown > top[r, c]:
                    top[r, c], base[r, c] = min(crown, 255), max(1, int((mid - arch) / unit))
                    tree[r, c] = i % 65535 + 1
        r, c = int(cr), int(cc)
        if 0 <= r < n and 0 <= c < n and solid[r, c] == 0:
            solid[r, c] = low + 0.4


def _car_tops(car: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Body height at the ends of a car, cabin height well inside its outline."""
    inside = car > 0
    deep = inside.copy()
    for _ in range(3):
        deep[1:-1, 1:-1] &= deep[:-2, 1:-1] & deep[2:, 1:-1] & deep[1:-1, :-2] & deep[1:-1, 2:]
    return np.where(
        deep, np.uint8(1.5 / CAR_UNIT_M), np.where(inside, np.uint8(1.15 / CAR_UNIT_M), np.uint8(0))
    ).astype(np.uint8)
