"""Sheets: the GeoTIFF files an orthophoto comes in, checked once on opening.

Knows files, their place on Earth and whether they are imagery at all; reading pixels is `tiling.mosaic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyproj
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioError
from rasterio.windows import Window
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from tiling.antimeridian import split_antimeridian
from tiling.bands import Bands, find_bands
from tiling.errors import MissingCrs, NoSheets, NotAnOrthophoto, UnreadableSheet
from tiling.grid import Bounds
from tiling.source import is_virtual, location_of, open_raster

SUFFIXES = (".tif", ".tiff")
GSD_LIMITS_M = (0.005, 5.0)  # below: a unit mix-up; above: a house is a pixel and patches show nothing
EARTH_RADIUS_LIMITS_M = (6.3e6, 6.4e6)
EDGE_POINTS = 21  # per side of a densified outline: keeps a curved 1 km edge within millimetres


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """One checked file.

    `path` is a path, or a location as `tiling.source` opens it. `transform` maps (column, row) to CRS units;
    `bounds` are west, south, east, north of the footprint in WGS84.
    """

    path: str
    crs: str
    transform: tuple[float, float, float, float, float, float]
    width: int
    height: int
    bands: Bands
    footprint: BaseGeometry
    bounds: Bounds
    gsd_m: float
    captured_at: datetime | None

    @property
    def name(self) -> str:
        """The file name: what patches cut from this sheet record as their source."""
        return PurePosixPath(self.path).name


def find_sheets(paths: Sequence[str | Path]) -> list[str]:
    """The files to open, in the order given; a folder stands for its GeoTIFFs by name, or else for its VRTs.

    Raises:
        NoSheets: a path does not exist or a folder holds no GeoTIFF.
    """
    found: dict[str, None] = {}
    for path in paths:
        location = location_of(path)
        here = (
            [location] if is_virtual(location) else [str(each.absolute()) for each in _sheets_at(Path(path))]
        )
        found.update(dict.fromkeys(here))  # absolute, because workers may start elsewhere
    if not found:
        raise NoSheets("no path given; name GeoTIFF files or a folder that holds some")
    return list(found)


def open_sheet(path: str) -> Sheet:
    """Check one file.

    Raises:
        MissingCrs, UnreadableSheet, NotAnOrthophoto: naming the file, the problem and the remedy.
    """
    try:
        with open_raster(path) as dataset:
            return _check(path, dataset)
    except RasterioError as exc:
        raise unreadable(path, exc) from exc


def unreadable(path: str, exc: Exception) -> UnreadableSheet:
    """The error for a file that GDAL cannot open or decode."""
    cause = exc.__cause__ or exc
    detail = " ".join(str(cause).replace(f"'{path}' ", "").replace(f"{path}: ", "").split())
    return UnreadableSheet(path, f"cannot be read ({detail})", "fetch the file again or leave it out")


def _sheets_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NoSheets(f"{path} does not exist; name GeoTIFF files or a folder that holds some")
    entries = sorted(path.iterdir())
    sheets = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    sheets = sheets or [entry for entry in entries if entry.suffix.lower() == ".vrt"]
    if not sheets:
        raise NoSheets(f"{path} holds no *.tif, *.tiff or *.vrt; name the folder of the orthophoto sheets")
    return sheets


def _check(path: str, dataset: Any) -> Sheet:
    _check_place(path, dataset)
    bands = find_bands(path, dataset)
    footprint = _footprint(path, dataset)
    gsd_m = _gsd_m(path, dataset)
    _check_corners(path, dataset)
    transform = dataset.transform
    return Sheet(
        path=path,
        crs=dataset.crs.to_wkt(),
        transform=(transform.a, transform.b, transform.c, transform.d, transform.e, transform.f),
        width=dataset.width,
        height=dataset.height,
        bands=bands,
        footprint=footprint,
        bounds=footprint.bounds,
        gsd_m=gsd_m,
        captured_at=_captured_at(dataset.tags().get("TIFFTAG_DATETIME")),
    )


def _check_place(path: str, dataset: Any) -> None:
    if dataset.crs is None:
        raise MissingCrs(
            path, "has no coordinate reference system", "set it: gdal_edit.py -a_srs EPSG:<code> FILE"
        )
    if dataset.transform.is_identity:
        raise MissingCrs(path, "has no geotransform", "add its world file or set -a_ullr with gdal_edit.py")
    if min(dataset.width, dataset.height) < 2 or abs(dataset.transform.determinant) == 0:
        size = f"{dataset.width} × {dataset.height} pixels"
        raise UnreadableSheet(path, f"covers no ground ({size})", "leave it out")


def _footprint(path: str, dataset: Any) -> BaseGeometry:
    """The outline in WGS84, with longitudes made continuous before splitting at the antimeridian."""
    columns, rows = outline(0, 0, dataset.width, dataset.height)
    lng, lat = _to_wgs84(path, dataset, columns, rows)
    polygon = Polygon(np.column_stack([np.unwrap(lng, period=360), lat]))
    return split_antimeridian(polygon)


def outline(left: float, top: float, right: float, bottom: float) -> tuple[Any, Any]:
    """Densified ring of a rectangle: x and y arrays, EDGE_POINTS per side."""
    along = np.linspace(0.0, 1.0, EDGE_POINTS)[:-1]
    flat = np.zeros_like(along)
    x = np.concatenate([along, flat + 1, 1 - along, flat])
    y = np.concatenate([flat, along, flat + 1, 1 - along])
    return left + x * (right - left), top + y * (bottom - top)


def _gsd_m(path: str, dataset: Any) -> float:
    """Ground sample distance at the centre: geometric mean of the two pixel sides, on the ellipsoid."""
    column, row = dataset.width / 2, dataset.height / 2
    lng, lat = _to_wgs84(path, dataset, np.array([column, column + 1, column]), np.array([row, row, row + 1]))
    geod = pyproj.Geod(ellps="WGS84")
    side_x, side_y = (float(geod.inv(lng[0], lat[0], lng[i], lat[i])[2]) for i in (1, 2))
    gsd_m = sqrt(side_x * side_y)
    low, high = GSD_LIMITS_M
    if not low <= gsd_m <= high:
        raise NotAnOrthophoto(
            path,
            f"has {gsd_m:.3g} m of ground per pixel, outside {low} to {high} m",
            "check its geotransform and CRS units, or find sharper imagery",
        )
    return gsd_m


def _to_wgs84(path: str, dataset: Any, columns: Any, rows: Any) -> tuple[Any, Any]:
    x, y = dataset.transform @ (columns, rows)
    try:
        crs = pyproj.CRS.from_wkt(dataset.crs.to_wkt())
        radius_m = crs.ellipsoid.semi_major_metre if crs.ellipsoid else EARTH_RADIUS_LIMITS_M[0]
        if not EARTH_RADIUS_LIMITS_M[0] <= radius_m <= EARTH_RADIUS_LIMITS_M[1]:
            raise NotAnOrthophoto(
                path, f"lies on another body (radius {radius_m:.0f} m)", "use imagery of the Earth"
            )
        lng, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    except ProjError as exc:
        raise MissingCrs(
            path, f"has a CRS without a place on Earth ({exc})", "set the right one: gdal_edit.py -a_srs"
        ) from exc
    if not (np.isfinite(lng).all() and np.isfinite(lat).all() and np.abs(lat).max() <= 90):
        raise NotAnOrthophoto(path, "lies outside the range of its CRS", "check its geotransform and CRS")
    return lng, lat


def _check_corners(path: str, dataset: Any) -> None:
    """Decode the first and the last pixel: a truncated file has lost its tail."""
    for column, row in ((0, 0), (dataset.width - 1, dataset.height - 1)):
        try:
            dataset.read(1, window=Window(column, row, 1, 1))
        except RasterioError as exc:
            raise unreadable(path, exc) from exc


def _captured_at(tag: str | None) -> datetime | None:
    """TIFF 6.0 date "YYYY:MM:DD HH:MM:SS", read as UTC; None when absent or malformed."""
    if not tag:
        return None
    try:
        return datetime.strptime(tag.strip(), "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
