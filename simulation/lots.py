"""What a block becomes: houses in gardens, rows, perimeter blocks, slabs, halls, parks, pitches, car parks,
fields.

Each function takes the plan and one block, and adds to the plan.
"""

from __future__ import annotations

import numpy as np
from shapely import get_parts
from shapely.affinity import rotate, translate
from shapely.geometry import LineString, Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import split

from simulation.features import Building, Material, Plan, polygons
from simulation.streets import Rng
from simulation.styles import CityStyle


def oriented(poly: BaseGeometry) -> tuple[float, float, float, float, float]:
    """(centre x, centre y, angle of the long side in radians, length, width) of the tightest rectangle."""
    ring = np.asarray(poly.minimum_rotated_rectangle.boundary.coords)
    a, b = ring[1] - ring[0], ring[2] - ring[1]
    la, lb = float(np.hypot(*a)), float(np.hypot(*b))
    cx, cy = ring[:4].mean(axis=0)
    long = a if la >= lb else b
    return float(cx), float(cy), float(np.arctan2(long[1], long[0])), max(la, lb), min(la, lb)


def rectangle(cx: float, cy: float, angle: float, length: float, width: float) -> Polygon:
    """A rectangle with its long side at `angle` (radians, from east, counter-clockwise)."""
    shape = box(-length / 2, -width / 2, length / 2, width / 2)
    return translate(rotate(shape, angle, origin=(0, 0), use_radians=True), cx, cy)


def subdivide(poly: Polygon, area_m2: float, rng: Rng) -> list[Polygon]:
    """Halve along the long side until the pieces have about the area wanted."""
    if poly.area < area_m2 * 1.6 or poly.area < 60:
        return [poly]
    cx, cy, angle, length, _ = oriented(poly)
    at = rng.uniform(-0.12, 0.12) * length
    px, py = cx + at * np.cos(angle), cy + at * np.sin(angle)
    dx, dy = -np.sin(angle) * 900, np.cos(angle) * 900
    pieces = split(poly, LineString([(px - dx, py - dy), (px + dx, py + dy)]))
    parts = [p for p in get_parts(pieces) if isinstance(p, Polygon) and p.area > 25]
    if len(parts) < 2:
        return [poly]
    return [lot for part in parts for lot in subdivide(part, area_m2, rng)]


def add_tree(plan: Plan, x: float, y: float, rng: Rng, *, small: bool = False) -> None:
    """A tree with a crown radius of 1.2-2.8 m (small) or up to 5 m, crown base at head height or above."""
    radius = float(rng.uniform(1.2, 2.8) if small else rng.uniform(1.4, 5.0))
    top = radius * float(rng.uniform(1.8, 2.8)) + 1.5
    base = float(rng.uniform(1.6, 2.8)) if radius > 1.6 else float(rng.uniform(0.4, 1.4))
    plan.trees.append((x, y, radius, top, min(base, top - 1.0)))


def scatter_trees(plan: Plan, area: Polygon, per_m2: float, rng: Rng) -> None:
    """Trees at random places inside an area."""
    x0, y0, x1, y1 = area.bounds
    for _ in range(int(rng.poisson(area.area * per_m2))):
        p = Point(rng.uniform(x0, x1), rng.uniform(y0, y1))
        if area.contains(p):
            add_tree(plan, p.x, p.y, rng)


def car(along: LineString, rng: Rng) -> Polygon:
    """A car, van or truck standing along a short line."""
    (ax, ay), (bx, by) = along.coords[0], along.coords[-1]
    kind = rng.random()
    length = rng.uniform(3.7, 4.8) if kind < 0.85 else rng.uniform(5.2, 8.5)
    width = 1.8 if kind < 0.85 else 2.2
    return rectangle((ax + bx) / 2, (ay + by) / 2, float(np.arctan2(by - ay, bx - ax)), float(length), width)


def _build(
    plan: Plan,
    shape: BaseGeometry,
    style: CityStyle,
    rng: Rng,
    *,
    storeys: int,
    flat: float | None = None,
    storey_m: float = 3.0,
) -> None:
    share = style.flat_roof_share if flat is None else flat
    for footprint in polygons(shape):
        if footprint.area < 14:
            continue
        _, _, _, _, width = oriented(footprint)
        pitched = rng.random() >= share and width < 22
        plan.buildings.append(
            Building(
                footprint=footprint,
                eave_m=storeys * storey_m + float(rng.uniform(0.3, 1.2)),
                ridge_m=float(width * rng.uniform(0.22, 0.5)) if pitched else 0.0,
                storey_m=storey_m,
                bay_m=float(rng.uniform(1.9, 4.2)),
                roof=int(rng.integers(len(style.roofs))),
                facade=int(rng.integers(len(style.facades))),
                look=int(rng.integers(1 << 20)),
            )
        )


def detached(plan: Plan, block: Polygon, style: CityStyle, rng: Rng) -> None:
    """Houses in gardens: hedges, drives, sheds, trees, now and then a pool."""
    plan.surfaces.append((block, Material.GRASS))
    for lot in subdivide(block, float(rng.uniform(380, 700)), rng):
        cx, cy, angle, length, width = oriented(lot)
        inner = lot.buffer(-2.5)
        if inner.is_empty or width < 9:
            continue
        w, h = min(length * 0.55, rng.uniform(9, 15)), min(width * 0.6, rng.uniform(7, 11))
        shift = rng.uniform(-0.18, 0.18) * length
        hx, hy = cx + shift * np.cos(angle), cy + shift * np.sin(angle)
        house: BaseGeometry = rectangle(hx, hy, angle + rng.choice([0, np.pi / 2]), w, h)
        if rng.random() < 0.35:
            house = house.union(rectangle(hx + w * 0.3, hy + h * 0.3, angle, w * 0.6, h * 0.6))
        _build(plan, house.intersection(inner), style, rng, storeys=int(rng.integers(1, 3)))
        _garden(plan, lot, house, (cx, cy, angle, length, width), rng)


def _garden(
    plan: Plan, lot: Polygon, house: BaseGeometry, frame: tuple[float, float, float, float, float], rng: Rng
) -> None:
    cx, cy, angle, length, _ = frame
    side = rng.choice([-1, 1])
    drive = rectangle(
        cx + side * 0.3 * length * np.cos(angle),
        cy + side * 0.3 * length * np.sin(angle),
        angle,
        length * 0.5,
        3.2,
    )
    if rng.random() < 0.7:
        plan.surfaces.append(
            (drive.intersection(lot), Material.PAVING if rng.random() < 0.6 else Material.GRAVEL)
        )
    if rng.random() < 0.7:
        height = float(rng.uniform(0.7, 1.8))
        inner = lot.buffer(-0.6)
        fence: BaseGeometry = inner.exterior if isinstance(inner, Polygon) else lot.exterior
        if rng.random() < 0.5:
            fence = fence.difference(drive.buffer(1.0))
        plan.hedges.append((fence, height))
    if rng.random() < 0.12:
        pool = rectangle(
            cx - side * 0.3 * length * np.cos(angle), cy - side * 0.3 * length * np.sin(angle), angle, 8, 4
        )
        plan.surfaces.append((pool.intersection(lot.buffer(-2)).difference(house), Material.POOL))
    scatter_trees(plan, lot, float(rng.uniform(0.001, 0.009)), rng)


def rows(plan: Plan, block: Polygon, style: CityStyle, rng: Rng) -> None:
    """Terraced houses along the block's edge, gardens behind."""
    plan.surfaces.append((block, Material.GRASS))
    front, depth = float(rng.uniform(0.0, 4.0)), float(rng.uniform(9, 12))
    outer: BaseGeometry = block.buffer(-front)
    ring = outer.difference(outer.buffer(-depth))
    for piece in polygons(ring):
        for house in subdivide(piece, depth * float(rng.uniform(6.5, 18)), rng):
            if rng.random() < 0.88:
                _build(
                    plan, house, style, rng, storeys=int(rng.integers(2, max(3, min(4, style.storeys[1]))))
                )
    back = outer.buffer(-depth)
    for yard in polygons(back):
        scatter_trees(plan, yard, 0.006, rng)
        for lot in subdivide(yard, 130.0, rng):
            if rng.random() < 0.5:
                plan.hedges.append((lot.exterior, float(rng.uniform(0.8, 1.7))))
            if rng.random() < 0.3:
                shed = lot.centroid
                _build(
                    plan,
                    rectangle(shed.x, shed.y, rng.uniform(0, 3), 4.5, 3.4),
                    style,
                    rng,
                    storeys=1,
                    storey_m=2.0,
                )


def perimeter(plan: Plan, block: Polygon, style: CityStyle, rng: Rng) -> None:
    """Tall houses on the street line around a courtyard."""
    plan.surfaces.append((block, Material.PAVING if rng.random() < 0.4 else Material.GRASS))
    depth = float(rng.uniform(11, 14))
    ring = block.difference(block.buffer(-depth))
    level = int(rng.integers(style.storeys[0] + 1, style.storeys[1] + 1))
    for piece in polygons(ring):
        for house in subdivide(piece, depth * float(rng.uniform(14, 30)), rng):
            if rng.random() < 0.93:
                _build(plan, house, style, rng, storeys=max(2, level + int(rng.integers(-1, 2))))
    for yard in polygons(block.buffer(-depth - 1)):
        scatter_trees(plan, yard, 0.005, rng)
        if yard.area > 500 and rng.random() < 0.5:
            cx, cy, angle, length, width = oriented(yard)
            _build(
                plan,
                rectangle(cx, cy, angle, length * 0.4, width * 0.35).intersection(yard),
                style,
                rng,
                storeys=2,
            )


def courts(plan: Plan, block: Polygon, style: CityStyle, rng: Rng) -> None:
    """Dense small houses with narrow yards: an old core."""
    plan.surfaces.append((block, Material.PAVING))
    for lot in subdivide(block, float(rng.uniform(150, 320)), rng):
        if rng.random() < 0.84:
            _build(plan, lot.buffer(-rng.uniform(0.0, 1.4)), style, rng, storeys=int(rng.integers(2, 5)))
        else:
            scatter_trees(plan, lot, 0.012, rng)


def slabs(plan: Plan, block: Polygon, style: CityStyle, rng: Rng) -> None:
    """Parallel apartment slabs or towers on lawns, with paths and parking."""
    plan.surfaces.append((block, Material.GRASS))
    cx, cy, angle, length, width = oriented(block)
    if rng.random() < 0.5:
        angle, length, width = angle + np.pi / 2, width, length
    pitch, storeys = float(rng.uniform(30, 44)), int(rng.integers(style.storeys[0], style.storeys[1] + 1))
    towers = rng.random() < 0.3
    for k in np.arange(-width / 2 + 12, width / 2 - 8, pitch):
        reach = length * rng.uniform(0.55, 0.85)
        x, y = cx - k * np.sin(angle), cy + k * np.cos(angle)
        pieces = [(0.0, reach)] if not towers else [(-length / 4, 20.0), (length / 4, 20.0)]
        for at, size in pieces:
            slab = rectangle(
                x + at * np.cos(angle), y + at * np.sin(angle), angle, size, 20.0 if towers else 12.0
            )
            _build(plan, slab.intersection(block.buffer(-3)), style, rng, storeys=storeys, flat=0.9)
        lane = rectangle(
            x - 14 * -np.sin(angle), y - 14 * np.cos(angle), angle, length * 0.95, 5.0
        ).intersection(block)
        plan.surfaces.append((lane, Material.ASPHALT_OLD if rng.random() < 0.5 else Material.PAVING))
        _bays(plan, lane, angle, rng)
    scatter_trees(plan, block, float(rng.uniform(0.002, 0.006)), rng)


def _bays(plan: Plan, lane: BaseGeometry, angle: float, rng: Rng) -> None:
    for poly in polygons(lane):
        cx, cy, _, length, _ = oriented(poly)
        for at in np.arange(-length / 2 + 3, length / 2 - 3, 2.7):
            if rng.random() < 0.4:
                x, y = cx + at * np.cos(angle), cy + at * np.sin(angle)
                plan.cars.append(rectangle(x, y, angle + np.pi / 2, 4.3, 1.8))


def industry(plan: Plan, block: Polygon, style: CityStyle, rng: Rng) -> None:
    """Halls and yards."""
    plan.surfaces.append((block, Material.ASPHALT_OLD if rng.random() < 0.6 else Material.GRAVEL))
    for lot in subdivide(block, float(rng.uniform(1800, 4200)), rng):
        cx, cy, angle, length, width = oriented(lot)
        if min(length, width) < 16:
            continue
        hall = rectangle(cx, cy, angle, length * rng.uniform(0.5, 0.8), width * rng.uniform(0.45, 0.75))
        _build(
            plan,
            hall.intersection(lot.buffer(-3)),
            style,
            rng,
            storeys=int(rng.integers(1, 3)),
            flat=0.8,
            storey_m=4.5,
        )
        for _ in range(int(rng.integers(0, 9))):
            at = lot.representative_point()
            spot = rectangle(at.x + rng.uniform(-30, 30), at.y + rng.uniform(-30, 30), angle, 6.5, 2.4)
            if lot.contains(spot) and not hall.intersects(spot):
                plan.cars.append(spot)


def civic(plan: Plan, block: Polygon, style: CityStyle, rng: Rng) -> None:
    """A church or a school with a square around it."""
    plan.surfaces.append((block, Material.PAVING if rng.random() < 0.6 else Material.GRAVEL))
    cx, cy, angle, length, width = oriented(block)
    nave_l, nave_w = min(length * 0.5, 44.0), min(width * 0.35, 17.0)
    room = block.buffer(-3)
    _build(plan, rectangle(cx, cy, angle, nave_l, nave_w).intersection(room), style, rng, storeys=4, flat=0.1)
    if rng.random() < 0.5:
        tx, ty = cx + nave_l * 0.5 * np.cos(angle), cy + nave_l * 0.5 * np.sin(angle)
        _build(
            plan,
            rectangle(tx, ty, angle, 8, 8).intersection(room),
            style,
            rng,
            storeys=int(rng.integers(7, 13)),
            flat=0.3,
        )
    else:
        wing = rectangle(
            cx + nave_l * 0.35 * np.cos(angle),
            cy + nave_l * 0.35 * np.sin(angle),
            angle + np.pi / 2,
            width * 0.6,
            12,
        )
        _build(plan, wing.intersection(room), style, rng, storeys=3)
    lawn = rectangle(
        cx - 0.3 * length * np.cos(angle),
        cy - 0.3 * length * np.sin(angle),
        angle,
        length * 0.25,
        width * 0.5,
    )
    plan.surfaces.append((lawn.intersection(block), Material.GRASS))
    scatter_trees(plan, block, 0.003, rng)


def park(plan: Plan, block: Polygon, _style: CityStyle, rng: Rng) -> None:
    """Lawn, winding paths, trees in groups, a pond or a playground."""
    plan.surfaces.append((block, Material.GRASS if rng.random() < 0.7 else Material.MEADOW))
    x0, y0, x1, y1 = block.bounds
    path = Material.GRAVEL if rng.random() < 0.6 else Material.PAVING
    for _ in range(int(rng.integers(1, 4))):
        ends = rng.uniform([x0, y0], [x1, y1], size=(3, 2))
        curve = (
            LineString(ends).buffer(8).buffer(-6.5) if rng.random() < 0.3 else LineString(ends).buffer(1.3)
        )
        plan.surfaces.append((curve.intersection(block), path))
    spot = block.representative_point()
    if block.area > 2500 and rng.random() < 0.55:
        pond = Point(spot.x, spot.y).buffer(rng.uniform(6, 15)).intersection(block.buffer(-4))
        plan.surfaces.append((pond, Material.WATER if rng.random() < 0.7 else Material.SAND))
    scatter_trees(plan, block, float(rng.uniform(0.002, 0.014)), rng)


def sport(plan: Plan, block: Polygon, _style: CityStyle, rng: Rng) -> None:
    """A pitch with lines, or tennis courts, sized to the block."""
    plan.surfaces.append((block, Material.GRASS))
    cx, cy, angle, length, width = (
        oriented(block.buffer(-6)) if not block.buffer(-6).is_empty else oriented(block)
    )
    field_l, field_w = min(length * 0.8, 100.0), min(width * 0.8, 64.0)
    tennis = field_l < 55 or rng.random() < 0.3
    ground = (
        rng.choice([Material.CLAY, Material.COURT_BLUE, Material.PITCH])
        if tennis
        else rng.choice([Material.PITCH, Material.PITCH, Material.CLAY])
    )
    if not tennis and rng.random() < 0.4 and field_w > 40:
        oval = rectangle(cx, cy, angle, field_l * 0.6, 2).buffer(field_w / 2)
        plan.surfaces.append((oval.intersection(block), Material.CLAY))
        field_l, field_w = field_l * 0.6, field_w * 0.65
    courts_n = max(1, int(field_l // 20)) if tennis else 1
    for k in range(courts_n):
        at = (k - (courts_n - 1) / 2) * field_l / courts_n
        x, y = cx + at * np.cos(angle), cy + at * np.sin(angle)
        span = field_l / courts_n - 3 if tennis else field_l
        court: BaseGeometry = rectangle(x, y, angle, span, field_w if not tennis else min(field_w, 34.0))
        if not block.contains(court):
            court = court.intersection(block)
        plan.surfaces.append((court, Material(int(ground))))
        plan.marks.append((court.buffer(-1.2).boundary, Material.MARKING))
        plan.marks.append((rectangle(x, y, angle, 0.3, field_w * 0.9).intersection(court), Material.MARKING))
        if not tennis:
            plan.marks.append((Point(x, y).buffer(min(9.1, field_w * 0.18)).boundary, Material.MARKING))
    scatter_trees(
        plan, block.difference(rectangle(cx, cy, angle, field_l + 4, field_w + 4)).buffer(0), 0.004, rng
    ) if block.area > 800 else None


def parking(plan: Plan, block: Polygon, _style: CityStyle, rng: Rng) -> None:
    """Rows of bays with lines, some of them taken."""
    plan.surfaces.append((block, Material.ASPHALT if rng.random() < 0.6 else Material.ASPHALT_OLD))
    cx, cy, angle, length, width = oriented(block)
    inner = block.buffer(-2.0)
    c, s = np.cos(angle), np.sin(angle)
    for row in np.arange(-width / 2 + 5, width / 2 - 4, 8.5):
        for at in np.arange(-length / 2 + 3, length / 2 - 3, 2.6):
            x, y = cx + at * c - row * s, cy + at * s + row * c
            bay = rectangle(x, y, angle + np.pi / 2, 4.8, 1.9)
            if not inner.contains(bay):
                continue
            edge = rectangle(x + 1.3 * c, y + 1.3 * s, angle + np.pi / 2, 4.8, 0.2)
            plan.marks.append((edge, Material.MARKING))
            if rng.random() < 0.55:
                plan.cars.append(bay)
    scatter_trees(plan, block, 0.0015, rng)


def fields(plan: Plan, block: Polygon, _style: CityStyle, rng: Rng) -> None:
    """Strips of crops, meadow and soil, or an orchard."""
    for strip in subdivide(block, float(rng.uniform(900, 3000)), rng):
        kind = rng.choice([Material.CROP, Material.MEADOW, Material.SOIL, Material.GRASS])
        plan.surfaces.append((strip, Material(int(kind))))
        if rng.random() < 0.25:
            _, _, angle, _, _ = oriented(strip)
            x0, y0, x1, y1 = strip.bounds
            for gx in np.arange(x0, x1, 7.0):
                for gy in np.arange(y0, y1, 7.0):
                    p = rotate(Point(gx, gy), angle, origin=strip.centroid, use_radians=True)
                    if strip.contains(p):
                        add_tree(plan, p.x, p.y, rng, small=True)
