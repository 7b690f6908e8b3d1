"""Plans a city: streets, what each block becomes, and what stands along the streets.

Knows nothing of pixels: `simulation.raster` burns a plan into the rasters that the cameras see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from shapely import get_parts, unary_union
from shapely.geometry import LineString, Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import polygonize
from shapely.strtree import STRtree

from simulation import lots
from simulation.features import Material, Plan
from simulation.streets import Rng, Street, lay_out
from simulation.styles import CityStyle, LandUse


def plan_city(style: CityStyle, size_m: float, rng: Rng) -> Plan:
    """Streets first, then what the blocks between them become, then what stands along the streets."""
    streets = lay_out(style, size_m, rng)
    plan = Plan(size_m=size_m, streets=streets)
    river = _river(style, size_m, rng)
    blocks = _blocks(plan, river)
    plan.surfaces.append((box(-50, -50, size_m + 50, size_m + 50), Material.GRASS))
    for block in blocks:
        _develop(plan, block, style, rng)
    _pave(plan, river, rng)
    _furnish(plan, rng)
    _keep_streets_clear(plan)
    return plan


def _river(style: CityStyle, size_m: float, rng: Rng) -> BaseGeometry:
    if style.river_width_m == 0:
        return Polygon()
    t = np.linspace(-0.1, 1.1, 60)
    sway = sum(rng.normal(0, 0.06) * np.sin(2 * np.pi * k * t + rng.uniform(0, 6.3)) for k in (1, 2, 3))
    across = (rng.uniform(0.25, 0.75) + sway) * size_m
    points = np.stack([t * size_m, across], axis=1)
    if rng.random() < 0.5:
        points = points[:, ::-1]
    return LineString(points).buffer(style.river_width_m / 2)


def _blocks(plan: Plan, river: BaseGeometry) -> list[Polygon]:
    """The land between the streets, less sidewalks and river banks."""
    city = box(0, 0, plan.size_m, plan.size_m)
    faces = list(polygonize(unary_union([s.line for s in plan.streets] + [city.exterior])))
    corridors = [s.line.buffer(s.width_m / 2 + s.sidewalk_m) for s in plan.streets]
    tree = STRtree(corridors)
    banks = river.buffer(7.0) if not river.is_empty else river
    blocks = []
    for face in faces:
        near = [corridors[i] for i in tree.query(face)]
        land = face.difference(unary_union(near)).difference(banks)
        blocks += [
            p for p in get_parts(land.buffer(-0.5).buffer(0.5)) if isinstance(p, Polygon) and p.area > 150
        ]
    return blocks


def _develop(plan: Plan, block: Polygon, style: CityStyle, rng: Rng) -> None:
    uses = list(style.mix)
    weights = np.array([style.mix[u] for u in uses], dtype=float)
    use = uses[int(rng.choice(len(uses), p=weights / weights.sum()))]
    if block.area < 900 and use not in (LandUse.ROW, LandUse.COURT, LandUse.PARKING):
        use = LandUse.PARK if rng.random() < 0.5 else LandUse.ROW
    _DEVELOPERS[use](plan, block, style, rng)


_DEVELOPERS: Mapping[LandUse, Callable[[Plan, Polygon, CityStyle, Rng], None]] = MappingProxyType(
    {
        LandUse.DETACHED: lots.detached,
        LandUse.ROW: lots.rows,
        LandUse.PERIMETER: lots.perimeter,
        LandUse.COURT: lots.courts,
        LandUse.SLAB: lots.slabs,
        LandUse.INDUSTRY: lots.industry,
        LandUse.CIVIC: lots.civic,
        LandUse.PARK: lots.park,
        LandUse.SPORT: lots.sport,
        LandUse.PARKING: lots.parking,
        LandUse.FIELD: lots.fields,
    }
)


def _pave(plan: Plan, river: BaseGeometry, rng: Rng) -> None:
    """River, then sidewalks, then carriageways with their markings: streets bridge the water."""
    if not river.is_empty:
        plan.surfaces.append((river.buffer(5.0), Material.GRASS if rng.random() < 0.5 else Material.GRAVEL))
        plan.surfaces.append((river, Material.WATER))
        for at in np.arange(5.0, river.exterior.length if isinstance(river, Polygon) else 0.0, 9.0):
            if rng.random() < 0.5:
                p = river.buffer(3.5).exterior.interpolate(float(at))
                lots.add_tree(plan, p.x, p.y, rng)
    walk = Material.SIDEWALK if rng.random() < 0.7 else Material.PAVING
    for s in plan.streets:
        plan.surfaces.append((s.line.buffer(s.width_m / 2 + s.sidewalk_m), walk))
    for s in sorted(plan.streets, key=lambda s: s.is_main):
        old = not s.is_main and rng.random() < 0.4
        plan.surfaces.append(
            (s.line.buffer(s.width_m / 2), Material.ASPHALT_OLD if old else Material.ASPHALT)
        )
    for s in plan.streets:
        _mark(plan, s, rng)


def _mark(plan: Plan, street: Street, rng: Rng) -> None:
    """Centre dashes, edge lines, zebra crossings before junctions, repair patches."""
    length = street.line.length
    if street.width_m > 6.4 and length > 25:
        lanes = [0.0] if street.width_m < 12 else [0.0, -street.width_m / 4, street.width_m / 4]
        dash, gap = (3.0, 4.0) if rng.random() < 0.6 else (6.0, 3.0)
        for offset in lanes:
            for at in np.arange(9.0, length - 9.0, dash + gap):
                plan.marks.append((_run(street.line, at, at + dash, offset), Material.MARKING))
    for end in (7.0, length - 7.0):
        if length > 30 and street.width_m > 5.8 and rng.random() < 0.45:
            for across in np.arange(-street.width_m / 2 + 0.6, street.width_m / 2 - 0.5, 1.1):
                plan.marks.append(
                    (_run(street.line, end - 1.6, end + 1.6, across).buffer(0.27), Material.MARKING)
                )
    for _ in range(int(rng.poisson(length / 55.0))):
        at, w = rng.uniform(4, max(length - 4, 5)), rng.uniform(0.8, 3.0)
        patch = _run(
            street.line, at, at + rng.uniform(2, 12), rng.uniform(-0.3, 0.3) * street.width_m
        ).buffer(w / 2)
        plan.marks.insert(0, (patch, Material.ASPHALT if rng.random() < 0.5 else Material.ASPHALT_OLD))


def _run(line: LineString, start: float, stop: float, offset: float) -> LineString:
    """The straight piece of a line between two distances, moved sideways (left is positive)."""
    a, b = line.interpolate(float(start)), line.interpolate(float(stop))
    dx, dy = b.x - a.x, b.y - a.y
    norm = max(float(np.hypot(dx, dy)), 1e-6)
    ox, oy = -dy / norm * offset, dx / norm * offset
    return LineString([(a.x + ox, a.y + oy), (b.x + ox, b.y + oy)])


def _furnish(plan: Plan, rng: Rng) -> None:
    """Trees, lamps, parked cars at the kerb and cars on the lanes."""
    for street in plan.streets:
        length, half = street.line.length, street.width_m / 2
        if street.has_trees and length > 25:
            spacing, both = rng.uniform(7, 14), rng.random() < 0.6
            for at in np.arange(6.0, length - 6.0, spacing):
                for side in (-1, 1) if both else (1,):
                    if rng.random() < 0.88:
                        p = _run(street.line, at, at + 0.5, side * (half + 0.9)).coords[0]
                        lots.add_tree(plan, p[0], p[1], rng, small=True)
        for at in np.arange(rng.uniform(4, 12), length, rng.uniform(24, 36)):
            p = _run(street.line, at, at + 0.5, half + 0.5).coords[0]
            plan.poles.append((p[0], p[1]))
        parks = rng.random() < 0.7
        for at in np.arange(10.0, length - 10.0, 6.2) if parks else ():
            for side in (-1, 1):
                if rng.random() < 0.5:
                    plan.cars.append(lots.car(_run(street.line, at, at + 1.0, side * (half - 1.05)), rng))
        for at in np.arange(6.0, length - 6.0, 14.0):
            if rng.random() < 0.35:
                plan.cars.append(
                    lots.car(_run(street.line, at, at + 1.0, half * 0.5 * rng.choice([-1, 1])), rng)
                )


def _keep_streets_clear(plan: Plan) -> None:
    """Drop lot trees and hedges that would stand on a carriageway or inside a house."""
    roads: BaseGeometry = unary_union([s.line.buffer(s.width_m / 2 + 0.3) for s in plan.streets])
    houses = STRtree([b.footprint for b in plan.buildings])
    points = [Point(t[0], t[1]) for t in plan.trees]
    blocked = {int(i) for i in houses.query(points, predicate="within")[0]} if plan.buildings else set()
    blocked |= {int(i) for i in STRtree(points).query(roads, predicate="contains")} if points else set()
    plan.trees = [t for i, t in enumerate(plan.trees) if i not in blocked]
