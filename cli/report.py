"""The demo's report: one self-contained HTML page from plain values.

Pure: takes outcomes and JPEG bytes, returns text. Geometry of the drawings is computed here and drawn by
`templates/report.html.j2`; nothing on the page points outside it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jinja2
import mercantile
from mercantile import LngLat

from cli.error_plot import Curve, ErrorPlot, error_plot
from cli.metrics import Outcome, Summary

NEAR_M = 25.0
"""The distance that counts as found, on the map and in the table."""
NO_BREAK = "\N{NO-BREAK SPACE}"
MAP_WIDTH = 1000.0
"""Width of the map's own drawing units; the page scales them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingResult:
    """One way of asking, with everything it answered."""

    key: str
    title: str
    explanation: str
    outcomes: tuple[Outcome, ...]
    summary: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class CityMap:
    """The city's own imagery, north up."""

    jpeg: bytes
    bounds_mercator: tuple[float, float, float, float]
    """West, south, east, north in EPSG:3857 metres."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchView:
    """One aerial patch with the position it stands for, as shares of its side from the top left corner."""

    jpeg: bytes
    x_share: float
    y_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One image shown in full: what the camera saw, where it was, where it was placed."""

    setting: str
    outcome: Outcome
    street_jpeg: bytes
    heading_deg: float
    hfov_deg: float
    true_patch: PatchView
    found_patch: PatchView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the page shows."""

    title: str
    lead: str
    settings: tuple[SettingResult, ...]
    gps_errors_m: tuple[float, ...]
    """Errors of the raw GPS fixes, the line to beat."""
    city_map: CityMap
    best: tuple[Case, ...]
    worst: tuple[Case, ...]
    facts: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One image on the map, in drawing units."""

    true_x: float
    true_y: float
    found_x: float | None
    found_y: float | None
    near: bool
    label: str


def render(report: Report) -> str:
    """The whole page as HTML text; images are inlined as data URIs."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cli", "templates"),
        autoescape=jinja2.select_autoescape(("html", "j2")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "metres": metres,
        "data_uri": data_uri,
        "compass": compass,
        "status": status_words,
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        map_width=MAP_WIDTH,
        map_height=map_height(report.city_map),
        scale_bar=scale_bar(report.city_map),
        marks={setting.key: marks(setting.outcomes, report.city_map) for setting in report.settings},
        plot=plot(report),
        ticks=compass_ticks,
        cone=view_cone,
        near_m=NEAR_M,
    )


def marks(outcomes: Sequence[Outcome], city_map: CityMap) -> list[Mark]:
    """Map marks of one setting, misses last so that they are drawn on top."""
    drawn = [_mark(outcome, city_map) for outcome in outcomes]
    return sorted(drawn, key=lambda mark: not mark.near)


def _mark(outcome: Outcome, city_map: CityMap) -> Mark:
    true_x, true_y = to_map(outcome.true_position, city_map)
    found = outcome.found_position
    found_x, found_y = to_map(found, city_map) if found else (None, None)
    distance = f"{metres(outcome.error_m)} off" if found else "no position"
    return Mark(
        true_x=true_x,
        true_y=true_y,
        found_x=found_x,
        found_y=found_y,
        near=outcome.error_m <= NEAR_M,
        label=f"{outcome.image_id}: {distance}, {status_words(outcome.status)}",
    )


def to_map(position: LngLat, city_map: CityMap) -> tuple[float, float]:
    """Drawing units of a WGS84 position, from the map's top left corner."""
    west, south, east, north = city_map.bounds_mercator
    x, y = mercantile.xy(position.lng, position.lat)
    return (x - west) / (east - west) * MAP_WIDTH, (north - y) / (north - south) * map_height(city_map)


def map_height(city_map: CityMap) -> float:
    """Height in drawing units that keeps the imagery square."""
    west, south, east, north = city_map.bounds_mercator
    return MAP_WIDTH * (north - south) / (east - west)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleBar:
    """A round ground distance and its length in drawing units."""

    length: float
    label: str


def scale_bar(city_map: CityMap) -> ScaleBar:
    """The longest of 1, 2, 5 × 10^n metres that takes at most a quarter of the map's width."""
    west, south, east, north = city_map.bounds_mercator
    latitude_deg = mercantile.lnglat((west + east) / 2, (south + north) / 2).lat
    ground_m = (east - west) * math.cos(math.radians(latitude_deg))
    decade = 10.0 ** math.floor(math.log10(ground_m / 4))
    round_m = max(step * decade for step in (1, 2, 5) if step * decade <= ground_m / 4)
    return ScaleBar(length=round_m / ground_m * MAP_WIDTH, label=f"{round_m:,.0f} m")


def plot(report: Report) -> ErrorPlot:
    """Error curves of every setting, with the raw GPS fixes as the line to beat."""
    curves = [
        Curve(
            key=setting.key,
            title=setting.title,
            errors_m=tuple(outcome.error_m for outcome in setting.outcomes),
        )
        for setting in report.settings
    ]
    if report.gps_errors_m:
        curves.append(Curve(key="gps", title="GPS fix alone", errors_m=report.gps_errors_m))
    return error_plot(curves)


def compass_ticks(heading_deg: float, hfov_deg: float) -> list[tuple[str, float]]:
    """Compass points under a street image: letter and share of the width from the left.

    A full panorama is linear in azimuth; a perspective photo is linear in the tangent.
    """
    ticks = []
    for letter, azimuth_deg in zip(
        ("N", "NE", "E", "SE", "S", "SW", "W", "NW"), range(0, 360, 45), strict=True
    ):
        offset_deg = (azimuth_deg - heading_deg + 180.0) % 360.0 - 180.0
        if hfov_deg >= 360.0:
            ticks.append((letter, 0.5 + offset_deg / 360.0))
        elif abs(offset_deg) < hfov_deg / 2:
            half_width = math.tan(math.radians(hfov_deg / 2))
            ticks.append((letter, 0.5 + math.tan(math.radians(offset_deg)) / half_width / 2))
    return ticks


def view_cone(case: Case) -> str | None:
    """SVG path of a photo's field of view on its true patch (100 units a side); None for a panorama."""
    if case.hfov_deg >= 360.0:
        return None
    x, y, reach = case.true_patch.x_share * 100, case.true_patch.y_share * 100, 34.0
    edges = [math.radians(case.heading_deg + side * case.hfov_deg / 2) for side in (-1, 1)]
    (left_x, left_y), (right_x, right_y) = [(x + reach * math.sin(a), y - reach * math.cos(a)) for a in edges]
    return f"M{x:.1f} {y:.1f}L{left_x:.1f} {left_y:.1f}A{reach} {reach} 0 0 1 {right_x:.1f} {right_y:.1f}Z"


def compass(heading_deg: float) -> str:
    """Nearest of the eight compass points."""
    names = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
    return names[round(heading_deg / 45.0) % 8]


def percent(share: float) -> str:
    """A share as per cent with one decimal."""
    return f"{share * 100:.1f}{NO_BREAK}%"


def metres(distance_m: float) -> str:
    """A distance for reading: one decimal below 10 m, kilometres from 1 km, a dash when there is none."""
    if not math.isfinite(distance_m):
        return "–"
    if distance_m >= 1000:
        return f"{distance_m / 1000:.2f}{NO_BREAK}km"
    return f"{distance_m:.1f}{NO_BREAK}m" if distance_m < 10 else f"{distance_m:.0f}{NO_BREAK}m"


def status_words(status: str) -> str:
    """`NO_CONFIDENT_MATCH` as words."""
    return status.replace("_", " ").lower()


def data_uri(jpeg: bytes) -> str:
    """JPEG bytes as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def pick_cases(outcomes: Sequence[Outcome], *, best: int, worst: int) -> tuple[list[Outcome], list[Outcome]]:
    """The smallest errors, best first, and the largest, worst first, without overlap."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.error_m)
    return ordered[:best], ordered[best:][-worst:][::-1]


def results_json(settings: Sequence[SettingResult], **extras: Any) -> dict[str, Any]:
    """The machine-readable figures: one object per setting, then what they were measured on."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 4) if math.isfinite(value) else None
        return value

    figures = {
        setting.key: {key: plain(value) for key, value in asdict(setting.summary).items()}
        for setting in settings
    }
    return figures | {key: plain(value) for key, value in extras.items()}
