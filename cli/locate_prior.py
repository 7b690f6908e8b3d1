"""The position prior that the options of `clnet locate` describe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spatial_index.priors import Prior
    from tiling.grid import LngLat


RADIUS_M = 300.0
HALF_WIDTH_M = 25.0  # a road with its pavements, and the error of a track


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorOptions:
    """What is known about the place; what is left at None is not. Several hold together."""

    near: str | None = None
    """LAT,LNG"""
    radius_m: float = RADIUS_M
    use_exif_gps: bool = False
    bbox: str | None = None
    """WEST,SOUTH,EAST,NORTH"""
    polygon: Path | None = None
    corridor: Path | None = None
    half_width_m: float = HALF_WIDTH_M
    soft: bool = False
    captured_from: datetime | None = None
    captured_before: datetime | None = None


def position_prior(data: bytes, options: PriorOptions) -> Prior | None:
    """The prior that the options describe, for the image in `data`; None if they describe none.

    Raises:
        serving.errors.InvalidRequest: not a position, a box or a readable file, or no EXIF position.
        spatial_index.errors.BadPrior: not a place on Earth.
    """
    from spatial_index.priors import AllOf

    priors = tuple(_priors(data, options))
    if len(priors) > 1:
        return AllOf(priors=priors)
    return priors[0] if priors else None


def parse_position(text: str) -> LngLat:
    """`LAT,LNG` in WGS84 degrees.

    Raises:
        serving.errors.InvalidRequest: it is not that.
    """
    from tiling.grid import LngLat

    lat, lng = _numbers("--near", text, 2, "give LAT,LNG in degrees, such as 46.31,7.98")
    return LngLat(lng=lng, lat=lat)


def _priors(data: bytes, options: PriorOptions) -> Iterator[Prior]:
    from spatial_index.geojson import corridor_from_geojson, from_bbox, from_geojson
    from spatial_index.priors import CirclePrior, PriorMode, TimePrior

    mode = PriorMode.SOFT if options.soft else PriorMode.HARD
    if options.near is not None:
        yield CirclePrior(centre=parse_position(options.near), radius_m=options.radius_m, mode=mode)
    if options.use_exif_gps:
        yield CirclePrior(centre=_exif_position(data), radius_m=options.radius_m, mode=PriorMode.SOFT)
    if options.bbox is not None:
        remedy = "give WEST,SOUTH,EAST,NORTH in degrees, such as 7.9,46.3,8.0,46.4"
        yield from_bbox(*_numbers("--bbox", options.bbox, 4, remedy), mode=mode)
    if options.polygon is not None:
        yield from_geojson(_text("--polygon", options.polygon), mode=mode)
    if options.corridor is not None:
        line = _text("--corridor", options.corridor)
        yield corridor_from_geojson(line, half_width_m=options.half_width_m, mode=mode)
    if options.captured_from is not None or options.captured_before is not None:
        yield TimePrior(start=options.captured_from, end=options.captured_before)


def _numbers(option: str, text: str, count: int, remedy: str) -> list[float]:
    from serving.errors import InvalidRequest

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidRequest(option, f"is {text!r}", remedy) from error
    if len(numbers) != count:
        raise InvalidRequest(option, f"is {text!r}", remedy)
    return numbers


def _text(option: str, path: Path) -> str:
    from serving.errors import InvalidRequest

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InvalidRequest(
            option, f"cannot be read from {path} ({error})", "name a GeoJSON file"
        ) from error


def _exif_position(data: bytes) -> LngLat:
    from serving.errors import InvalidRequest
    from serving.exif import gps_of

    position = gps_of(data)
    if position is None:
        raise InvalidRequest(
            "--use-exif-gps", "was given but the image has no EXIF position", "use --near LAT,LNG"
        )
    return position
