"""The manifest of a dataset: GeoParquet, one row per street image, geometry = true camera position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import geopandas
from shapely import points

from simulation.errors import BadSimulation


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One street image: what is true of it, and what the vehicle believed.

    path is relative to the dataset folder; headings are true azimuths of the image centre, clockwise from
    true north; hfov_deg is 360 for panoramas; gps_sigma_m is the standard deviation of the GPS error per
    axis; style is 'real' when rendered from an orthophoto.
    """

    image_id: str
    path: str
    kind: str
    heading_deg: float
    hfov_deg: float
    gps_lng: float
    gps_lat: float
    gps_sigma_m: float
    heading_measured_deg: float
    captured_at: datetime
    seed: int
    style: str
    lng: float
    lat: float


COLUMNS = tuple(name for name in Row.__slots__ if name not in ("lng", "lat"))


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as GeoParquet 1.1 with a bounding-box covering."""
    geometry = points([r.lng for r in rows], [r.lat for r in rows])
    frame = geopandas.GeoDataFrame([asdict(r) for r in rows], geometry=geometry, crs="EPSG:4326")
    frame.drop(columns=["lng", "lat"]).to_parquet(path, write_covering_bbox=True)


def read_manifest(path: Path) -> geopandas.GeoDataFrame:
    """The manifest of a dataset folder, or of the file itself.

    Raises:
        BadSimulation: missing file, or a file that is no manifest.
    """
    file = path / "manifest.parquet" if path.is_dir() else path
    if not file.is_file():
        raise BadSimulation(f"{file} does not exist; write a dataset with `clnet simulate --out {path}`")
    try:
        frame = geopandas.read_parquet(file)
    except (ValueError, OSError) as exc:
        raise BadSimulation(f"{file} is not GeoParquet ({exc}); write it with `clnet simulate`") from exc
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise BadSimulation(f"{file} lacks {', '.join(missing)}; it is no manifest of `clnet simulate`")
    return frame
