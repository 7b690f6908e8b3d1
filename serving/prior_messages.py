"""Translates position priors between the wire and our values; what is missing or too much is refused here.

What cannot mean a place is refused by the values themselves; the error's field is then the path of the part
that is at fault, such as `all_of.priors[1].corridor.half_width_m`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
import shapely
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.latlng_pb2 import LatLng
from shapely.geometry import LineString, MultiPolygon
from shapely.geometry import Polygon as Area
from shapely.geometry.base import BaseGeometry

from serving.errors import InvalidRequest
from serving.pb import geometry_pb2, prior_pb2
from spatial_index.errors import BadPrior
from spatial_index.geojson import from_bbox
from spatial_index.outlines import MAX_VERTICES, check_coordinates
from spatial_index.priors import (
    MAX_LEAVES,
    AllOf,
    AnyOf,
    CirclePrior,
    CorridorPrior,
    PolygonPrior,
    Prior,
    PriorMode,
    RegionPrior,
    TimePrior,
)
from tiling.grid import LngLat

MODES = {PriorMode.HARD: prior_pb2.PRIOR_MODE_HARD, PriorMode.SOFT: prior_pb2.PRIOR_MODE_SOFT}


def prior_from(message: prior_pb2.PositionPrior, path: str = "position_prior") -> Prior:
    """The prior that a message describes; `path` is where it stands in the request.

    Raises:
        InvalidRequest: a field is missing or outside its limit.
        spatial_index.errors.BadPrior: it cannot mean a place; its field is relative to `path`.
    """
    match kind := message.WhichOneof("area"):
        case "all_of" | "any_of":
            return _composite_from(message, kind, path)
        case "regions" | "time_range":
            return _filter_from(message, kind, path)
        case None:
            raise InvalidRequest(f"{path}.area", "is unset", "give a circle or another area, or no prior")
        case _:
            return _area_prior_from(message, kind, _mode_from(message.mode, path), path)


def message_of(prior: Prior) -> prior_pb2.PositionPrior:  # noqa: PLR0911  one return for each kind of prior
    """The message that describes a prior; `prior_from` undoes it."""
    match prior:
        case CirclePrior():
            circle = prior_pb2.CirclePrior(
                centre=lat_lng(prior.centre),
                radius_m=prior.radius_m,
                confidence_level=prior.confidence_level,
            )
            return prior_pb2.PositionPrior(circle=circle, mode=MODES[prior.mode])
        case PolygonPrior():
            polygon = prior_pb2.PolygonPrior(polygons=polygons_of(prior.polygon))
            return prior_pb2.PositionPrior(polygon=polygon, mode=MODES[prior.mode])
        case CorridorPrior():
            corridor = prior_pb2.CorridorPrior(
                positions=_positions_of(prior.line), half_width_m=prior.half_width_m
            )
            return prior_pb2.PositionPrior(corridor=corridor, mode=MODES[prior.mode])
        case RegionPrior():
            return prior_pb2.PositionPrior(regions=prior_pb2.RegionPrior(names=prior.names))
        case TimePrior():
            time_range = prior_pb2.TimeRange(start_time=timestamp(prior.start), end_time=timestamp(prior.end))
            return prior_pb2.PositionPrior(time_range=time_range)
        case AllOf():
            return prior_pb2.PositionPrior(all_of=_composite_of(prior))
        case AnyOf():
            return prior_pb2.PositionPrior(any_of=_composite_of(prior))
        case _:
            raise TypeError(f"unknown kind of prior: {type(prior).__name__}")


def polygons_of(area: BaseGeometry) -> list[geometry_pb2.Polygon]:
    """The polygons of an area as messages."""
    return [
        geometry_pb2.Polygon(
            rings=[
                geometry_pb2.LinearRing(positions=_positions_of(ring))
                for ring in (part.exterior, *part.interiors)
            ]
        )
        for part in getattr(area, "geoms", [area])
        if isinstance(part, Area)
    ]


def lat_lng(position: LngLat) -> LatLng:
    """A position as a message."""
    return LatLng(latitude=position.lat, longitude=position.lng)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A moment as a message; unset when unknown."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _mode_from(mode: prior_pb2.PriorMode.ValueType, path: str) -> PriorMode:
    match mode:
        case prior_pb2.PRIOR_MODE_UNSPECIFIED | prior_pb2.PRIOR_MODE_HARD:
            return PriorMode.HARD
        case prior_pb2.PRIOR_MODE_SOFT:
            return PriorMode.SOFT
        case _:
            raise InvalidRequest(f"{path}.mode", f"is {mode}", "give PRIOR_MODE_HARD or PRIOR_MODE_SOFT")


def _composite_from(message: prior_pb2.PositionPrior, kind: str, path: str) -> AllOf | AnyOf:
    if message.mode != prior_pb2.PRIOR_MODE_UNSPECIFIED:
        raise InvalidRequest(f"{path}.mode", f"is set beside {kind}", "give each part its own mode")
    parts = (message.all_of if kind == "all_of" else message.any_of).priors
    if len(parts) > MAX_LEAVES:
        raise BadPrior(f"{kind}.priors", len(parts), f"at most {MAX_LEAVES}", "join areas into one polygon")
    priors = []
    for index, part in enumerate(parts):
        with _inside(f"{kind}.priors[{index}]"):
            priors.append(prior_from(part, f"{path}.{kind}.priors[{index}]"))
    return AllOf(priors=tuple(priors)) if kind == "all_of" else AnyOf(priors=tuple(priors))


def _filter_from(message: prior_pb2.PositionPrior, kind: str, path: str) -> RegionPrior | TimePrior:
    if _mode_from(message.mode, path) is PriorMode.SOFT:
        raise InvalidRequest(f"{path}.mode", f"is SOFT beside {kind}", "leave it unset: they exclude")
    if kind == "regions":
        return RegionPrior(names=tuple(message.regions.names))
    sides = {
        name: _moment_from(getattr(message.time_range, name), f"{path}.time_range.{name}")
        for name in ("start_time", "end_time")
        if message.time_range.HasField(name)
    }
    return TimePrior(start=sides.get("start_time"), end=sides.get("end_time"))


def _area_prior_from(
    message: prior_pb2.PositionPrior, kind: str, mode: PriorMode, path: str
) -> CirclePrior | PolygonPrior | CorridorPrior:
    match kind:
        case "circle":
            return _circle_from(message.circle, mode, f"{path}.circle")
        case "polygon":
            return _polygon_from(message.polygon, mode, f"{path}.polygon")
        case "bounding_box":
            return _bounding_box_from(message.bounding_box, mode, f"{path}.bounding_box")
        case "corridor":
            return _corridor_from(message.corridor, mode, f"{path}.corridor")
        case _:
            raise ValueError(f"the contract knows more areas than this module: {kind}")


def _circle_from(circle: prior_pb2.CirclePrior, mode: PriorMode, path: str) -> CirclePrior:
    for field in ("centre", "radius_m"):
        if not circle.HasField(field):
            raise InvalidRequest(f"{path}.{field}", "is unset", "give the centre and the radius")
    return CirclePrior(
        centre=LngLat(lng=circle.centre.longitude, lat=circle.centre.latitude),
        radius_m=circle.radius_m,
        mode=mode,
        **({"confidence_level": circle.confidence_level} if circle.HasField("confidence_level") else {}),
    )


def _polygon_from(prior: prior_pb2.PolygonPrior, mode: PriorMode, path: str) -> PolygonPrior:
    vertices = sum(len(ring.positions) for polygon in prior.polygons for ring in polygon.rings)
    if vertices > MAX_VERTICES:
        raise InvalidRequest(path, f"has {vertices} vertices", f"give at most {MAX_VERTICES}")
    areas = [_area_from(polygon, path) for polygon in prior.polygons]
    if not areas:
        raise InvalidRequest(f"{path}.polygons", "is empty", "give at least one polygon")
    return PolygonPrior(polygon=areas[0] if len(areas) == 1 else MultiPolygon(areas), mode=mode)


def _area_from(polygon: geometry_pb2.Polygon, path: str) -> Area:
    rings = [_pairs(ring.positions) for ring in polygon.rings]
    if not rings or any(len(set(ring)) < 3 for ring in rings):
        raise InvalidRequest(
            f"{path}.polygons.rings", "is not an area", "give rings of at least three positions"
        )
    # GEOS cannot close a ring of NaN, and says so in its own words.
    check_coordinates("polygon.vertices", np.array([pair for ring in rings for pair in ring]))
    return Area(rings[0], rings[1:])


def _bounding_box_from(bounds: geometry_pb2.BoundingBox, mode: PriorMode, path: str) -> PolygonPrior:
    for field in ("south_west", "north_east"):
        if not bounds.HasField(field):
            raise InvalidRequest(f"{path}.{field}", "is unset", "give both corners")
    low, high = bounds.south_west, bounds.north_east
    return from_bbox(low.longitude, low.latitude, high.longitude, high.latitude, mode=mode)


def _corridor_from(corridor: prior_pb2.CorridorPrior, mode: PriorMode, path: str) -> CorridorPrior:
    count = len(corridor.positions)
    if not 2 <= count <= MAX_VERTICES:
        raise InvalidRequest(f"{path}.positions", f"has {count} positions", f"give 2 to {MAX_VERTICES}")
    if not corridor.HasField("half_width_m"):
        raise InvalidRequest(f"{path}.half_width_m", "is unset", "give half of the corridor's width")
    line = LineString(_pairs(corridor.positions))
    return CorridorPrior(line=line, half_width_m=corridor.half_width_m, mode=mode)


def _moment_from(stamp: Timestamp, path: str) -> datetime:
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as exc:
        remedy = "give a time of the years 1 to 9999"
        raise InvalidRequest(path, f"is no time ({stamp.seconds} s)", remedy) from exc


def _composite_of(prior: AllOf | AnyOf) -> prior_pb2.CompositePrior:
    return prior_pb2.CompositePrior(priors=[message_of(part) for part in prior.priors])


def _pairs(positions: Sequence[LatLng]) -> list[tuple[float, float]]:
    return [(at.longitude, at.latitude) for at in positions]


def _positions_of(line: BaseGeometry) -> list[LatLng]:
    return [LatLng(latitude=lat, longitude=lng) for lng, lat in shapely.get_coordinates(line).tolist()]


@contextmanager
def _inside(path: str) -> Iterator[None]:
    """Bad values in here stand under `path`."""
    try:
        yield
    except BadPrior as exc:
        raise BadPrior(f"{path}.{exc.field}", exc.value, exc.limit, exc.remedy) from exc
