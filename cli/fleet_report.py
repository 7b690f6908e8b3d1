"""The report of a fleet: one self-contained HTML page with a map of tracks before and after.

The backdrop is the region's own imagery when its sheets are given, else it is plain; nothing on the page
points outside it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import mercantile
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mercantile import LngLat
from PIL import Image

from cli.demo_report import city_map, patch_view, to_jpeg
from cli.fleet_summary import LOCALIZED, FleetSummary
from cli.report import (
    MAP_WIDTH,
    CityMap,
    PatchView,
    data_uri,
    map_height,
    metres,
    percent,
    scale_bar,
    status_words,
    to_map,
)
from tiling.grid import GridSpec
from tiling.ortho import Ortho, open_ortho
from workers.fetch import fetch

MOST_ON_MAP = 4_000
CASES = 6
STREET_PX = 640
MARGIN_M = 60.0
PLAIN = (64, 74, 70)
COLUMNS = [
    "image_id", "image", "sequence", "given_latitude", "given_longitude", "given_accuracy_m", "status",
    "latitude", "longitude", "r68_m", "r95_m", "probability", "prior_conflict", "moved_m",
    "smoothed_latitude", "smoothed_longitude",
]  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """One image on the map, in drawing units."""

    x: float
    y: float
    r95: float
    status: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetCase:
    """An image to look at."""

    row: Row
    street_jpeg: bytes | None
    patch: PatchView | None


def write_report(path: Path, results: Path, summary: FleetSummary, imagery: Sequence[str]) -> None:
    """Write the page.

    Raises:
        TilingError: the imagery cannot be read.
    """
    rows = rows_shown(results)
    ortho = open_ortho(list(imagery)) if imagery else None
    backdrop = plain_map(rows) if ortho is None else city_map(ortho)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cli", "templates"),
        autoescape=jinja2.select_autoescape(("html", "j2")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "metres": metres,
        "percent": percent,
        "data_uri": data_uri,
        "status": status_words,
    }
    page = environment.get_template("fleet_report.html.j2").render(
        summary=summary,
        results=results.name,
        shown=len(rows),
        imagery=ortho is not None,
        city_map=backdrop,
        map_width=MAP_WIDTH,
        map_height=map_height(backdrop),
        scale_bar=scale_bar(backdrop),
        before=lines(rows, "given_", backdrop),
        after=lines(rows, "smoothed_", backdrop),
        spots=list(spots(rows, backdrop)),
        cases=cases(rows, ortho),
    )
    path.write_text(page, encoding="utf-8")


def rows_shown(results: Path) -> list[Row]:
    """The results' rows, or evenly spread ones where they are too many for a page."""
    with pq.ParquetFile(results) as file:
        step = max(1, -(-file.metadata.num_rows // MOST_ON_MAP))
        rows: list[Row] = []
        first = 0
        for batch in file.iter_batches(columns=COLUMNS):
            chosen = np.arange(-first % step, batch.num_rows, step)
            rows += pa.Table.from_batches([batch]).take(chosen).to_pylist()
            first += batch.num_rows
    return rows


def plain_map(rows: Sequence[Row]) -> CityMap:
    """A backdrop without imagery, around all positions."""
    places = [place for row in rows for place in (at(row, ""), at(row, "given_")) if place]
    xy = np.array([mercantile.xy(*place) for place in places] or [(0.0, 0.0)])
    west, south = xy.min(axis=0) - MARGIN_M
    east, north = xy.max(axis=0) + MARGIN_M
    half_m = max(east - west, north - south) / 2
    x, y = (west + east) / 2, (south + north) / 2
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), PLAIN).save(sink, "JPEG")
    return CityMap(jpeg=sink.getvalue(), bounds_mercator=(x - half_m, y - half_m, x + half_m, y + half_m))


def at(row: Row, prefix: str) -> LngLat | None:
    """A position of a row, if it has it."""
    lng, lat = row[f"{prefix}longitude"], row[f"{prefix}latitude"]
    if lng is None or lat is None or not (abs(lng) <= 180.0 and abs(lat) < 85.0):
        return None
    return LngLat(lng=lng, lat=lat)


def lines(rows: Sequence[Row], prefix: str, backdrop: CityMap) -> list[str]:
    """SVG paths of the sequences; rows come by sequence and time."""
    paths = []
    for sequence, members in groupby(rows, key=lambda row: row["sequence"]):
        places = [place for row in members if (place := at(row, prefix))]
        if sequence is not None and len(places) > 1:
            points = [to_map(place, backdrop) for place in places]
            paths.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points))
    return paths


def spots(rows: Sequence[Row], backdrop: CityMap) -> Iterator[Spot]:
    """The computed positions with their r95."""
    west, south, east, north = backdrop.bounds_mercator
    middle = mercantile.lnglat((west + east) / 2, (south + north) / 2)
    units_per_m = MAP_WIDTH / (east - west) / np.cos(np.radians(middle.lat))
    for row in rows:
        place = at(row, "")
        if place is None:
            continue
        x, y = to_map(place, backdrop)
        yield Spot(
            x=x,
            y=y,
            r95=row["r95_m"] * units_per_m,
            status=row["status"],
            label=f"{row['image_id']}: {status_words(row['status'])}, r68 {metres(row['r68_m'])}, "
            f"moved {metres(row['moved_m']) if row['moved_m'] is not None else '–'}",
        )


def cases(rows: Sequence[Row], ortho: Ortho | None) -> list[FleetCase]:
    """Images that are called LOCALIZED and lie farthest from where they were said to be, by its accuracy."""
    moved = [row for row in rows if row["status"] == LOCALIZED and row["moved_m"] is not None]
    moved.sort(key=lambda row: -row["moved_m"] / (row["given_accuracy_m"] or 50.0))
    return [
        FleetCase(row=row, street_jpeg=thumbnail(row["image"]), patch=found_patch(row, ortho))
        for row in moved[:CASES]
    ]


def found_patch(row: Row, ortho: Ortho | None) -> PatchView | None:
    """What lies where the image was placed."""
    place = at(row, "")
    return patch_view(place, ortho, GridSpec()) if ortho is not None and place is not None else None


def thumbnail(image: str) -> bytes | None:
    """A street image, small; None when it is not there any more."""
    data = fetch(image)
    if isinstance(data, str):
        return None
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (STREET_PX, STREET_PX))
        small = picture.convert("RGB")
        small.thumbnail((STREET_PX, STREET_PX))
        return to_jpeg(np.asarray(small), quality=80)
