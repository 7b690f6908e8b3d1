"""Writes a simulated city to disk in the form an operator's data has: sheets, surface model, images, manifest.

    <out>/ortho/sheet_<column>_<row>.tif   cloud-optimised GeoTIFF, RGB, projected CRS
    <out>/dsm.tif                          surface height in metres
    <out>/street/<image_id>.jpg            panoramas (equirectangular) and photos, EXIF GPS as the vehicle believed it
    <out>/manifest.parquet                 GeoParquet, geometry = true camera position (see MANIFEST_COLUMNS)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from shapely import points

from simulation.aerial import orthophoto
from simulation.appearance import Difficulty, draw_appearance, draw_season
from simulation.cameras import GpsTag, Kind, Shot, drive_time, expose, jpeg_with_gps, measure, plan_shots
from simulation.city import City, build_city
from simulation.errors import BadSimulation
from simulation.real import cameras_over, world_from_ortho
from simulation.styles import Season, style_named
from simulation.world import World

Progress = Callable[[str, float], None]

MANIFEST_COLUMNS = {
    "image_id": "name of the image within the dataset",
    "path": "file, relative to the dataset folder",
    "kind": "panorama (equirectangular, 360 x 180 degrees) or photo (pinhole)",
    "heading_deg": "true azimuth of the image centre, clockwise from true north",
    "hfov_deg": "horizontal field of view; 360 for panoramas",
    "gps_lng": "longitude the vehicle believed",
    "gps_lat": "latitude the vehicle believed",
    "gps_sigma_m": "standard deviation of the GPS error per axis",
    "heading_measured_deg": "azimuth the vehicle believed",
    "captured_at": "time of exposure, UTC",
    "seed": "seed of the city",
    "style": "style of the city, or 'real' when rendered from an orthophoto",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Where a simulated city lies and what it holds."""

    root: Path
    crs: str
    area_km2: float
    images: int

    @property
    def ortho_dir(self) -> Path:
        """Folder of the orthophoto sheets."""
        return self.root / "ortho"

    @property
    def manifest_path(self) -> Path:
        """The manifest of the street images."""
        return self.root / "manifest.parquet"


def simulate_city(
    out: Path,
    *,
    seed: int,
    style: str,
    size_m: float,
    panoramas: int,
    photos: int = 0,
    difficulty: str = "hard",
    sheet_m: float = 512.0,
    gps_sigma_m: float = 15.0,
    photo_hfov_deg: float = 90.0,
    progress: Progress | None = None,
) -> Dataset:
    """Build a city and photograph it from above and from its streets.

    Raises:
        SimulationError: unknown style, or a size, count or level outside its limits.
    """
    level = _checked(difficulty, panoramas, photos, gps_sigma_m, photo_hfov_deg, sheet_m)
    report = progress or (lambda _step, _share: None)
    report("building the city", 0.0)
    city = build_city(seed, style, size_m)
    season = style_named(style).season
    rng = np.random.default_rng([seed, 2])
    report("flying the orthophoto", 0.0)
    pixels = orthophoto(city.world, draw_appearance(season, level, rng, from_above=True), rng)
    write_sheets(out / "ortho", city.world, pixels, sheet_m)
    write_dsm(out / "dsm.tif", city.world)
    shots = plan_shots(city, panoramas=panoramas, photos=photos, hfov_deg=photo_hfov_deg, rng=rng)
    _photograph(out, city.world, shots, season, level, gps_sigma_m, seed, style, report)
    return _dataset(out, city, len(shots))


def simulate_from_ortho(
    out: Path,
    *,
    ortho: Sequence[Path],
    dsm: Path | None,
    seed: int,
    panoramas: int,
    photos: int = 0,
    difficulty: str = "hard",
    gps_sigma_m: float = 15.0,
    photo_hfov_deg: float = 90.0,
    progress: Progress | None = None,
) -> Dataset:
    """Street images rendered from a real orthophoto and surface model; without one the ground is flat.

    The orthophoto is used where it lies: only images and manifest are written.

    Raises:
        SimulationError: unreadable, unprojected or mismatched rasters, or a count or level outside its limits.
    """
    level = _checked(difficulty, panoramas, photos, gps_sigma_m, photo_hfov_deg, 512.0)
    report = progress or (lambda _step, _share: None)
    report("reading the orthophoto", 0.0)
    world, valid = world_from_ortho(ortho, dsm)
    rng = np.random.default_rng([seed, 3])
    shots = cameras_over(world, valid, panoramas=panoramas, photos=photos, hfov_deg=photo_hfov_deg, rng=rng)
    _photograph(out, world, shots, Season.SUMMER, level, gps_sigma_m, seed, "real", report)
    rows, columns = world.shape
    return Dataset(root=out, crs=world.crs.to_string(), area_km2=rows * columns * world.gsd_m**2 / 1e6, images=len(shots))


def read_manifest(path: Path) -> geopandas.GeoDataFrame:
    """The manifest of a dataset folder, or of the file itself.

    Raises:
        BadSimulation: missing file or columns.
    """
    file = path / "manifest.parquet" if path.is_dir() else path
    if not file.is_file():
        raise BadSimulation(f"{file} does not exist; write a dataset with `clnet simulate --out {path}`")
    frame = geopandas.read_parquet(file)
    missing = [name for name in MANIFEST_COLUMNS if name not in frame.columns]
    if missing:
        raise BadSimulation(f"{file} lacks the columns {', '.join(missing)}; it is not a manifest written by `clnet simulate`")
    return frame


def write_sheets(folder: Path, world: World, pixels: NDArray[np.uint8], sheet_m: float) -> None:
    """The orthophoto as georeferenced sheets of sheet_m metres (the last row and column may be smaller)."""
    folder.mkdir(parents=True, exist_ok=True)
    side = round(sheet_m / world.gsd_m)
    rows, columns = world.shape
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            tile = pixels[top : top + side, left : left + side]
            west, north = world.west + left * world.gsd_m, world.north - top * world.gsd_m
            with rasterio.open(
                folder / f"sheet_{left // side:02d}_{top // side:02d}.tif", "w", driver="COG", count=3, dtype="uint8",
                height=tile.shape[0], width=tile.shape[1], crs=world.crs, compress="JPEG", quality=90, blocksize=256,
                transform=from_origin(west, north, world.gsd_m, world.gsd_m),
            ) as sheet:  # fmt: skip
                sheet.update_tags(TIFFTAG_DATETIME="2024:06:18 10:30:00")
                sheet.write(np.moveaxis(tile, 2, 0))


def write_dsm(path: Path, world: World) -> None:
    """Height of the top surface (ground, roofs, crowns), float32 metres, rounded to 5 cm."""
    surface = world.terrain_m + np.maximum(world.solid_m, world.crown_top * np.float32(0.2))
    coarse = np.round(surface[::2, ::2] * 20) / 20
    with rasterio.open(
        path, "w", driver="GTiff", count=1, dtype="float32", height=coarse.shape[0], width=coarse.shape[1], crs=world.crs,
        transform=from_origin(world.west, world.north, world.gsd_m * 2, world.gsd_m * 2), compress="DEFLATE", predictor=3, zlevel=1, tiled=True,
    ) as dsm:  # fmt: skip
        dsm.write(coarse.astype(np.float32), 1)


def _photograph(out: Path, world: World, shots: Sequence[Shot], season: Season, level: Difficulty, gps_sigma_m: float, seed: int, style: str, report: Progress) -> None:
    (out / "street").mkdir(parents=True, exist_ok=True)
    rows = []
    for index, shot in enumerate(shots):
        rng = np.random.default_rng([seed, 4, index])
        look = draw_appearance(draw_season(season, level, rng), level, rng, from_above=False)
        fix = measure(shot, gps_sigma_m=gps_sigma_m, heading_error_deg=15.0, rng=rng)
        turn = world.convergence_deg(shot.pose.easting, shot.pose.northing)
        lng, lat = world.to_lnglat(np.array([shot.pose.easting, fix.easting]), np.array([shot.pose.northing, fix.northing]))
        image_id = f"{shot.kind}_{index:05d}"
        row = {
            "image_id": image_id,
            "path": f"street/{image_id}.jpg",
            "kind": str(shot.kind),
            "heading_deg": (shot.pose.azimuth_deg + turn) % 360.0,
            "hfov_deg": shot.hfov_deg,
            "gps_lng": float(lng[1]),
            "gps_lat": float(lat[1]),
            "gps_sigma_m": fix.sigma_m,
            "heading_measured_deg": (fix.azimuth_deg + turn) % 360.0,
            "captured_at": drive_time(index, rng),
            "seed": seed,
            "style": style,
            "lng": float(lng[0]),
            "lat": float(lat[0]),
        }
        tag = GpsTag(lng=row["gps_lng"], lat=row["gps_lat"], heading_deg=row["heading_measured_deg"], captured_at=row["captured_at"])
        (out / row["path"]).write_bytes(jpeg_with_gps(expose(world, shot, look, rng), tag))
        rows.append(row)
        if index % 16 == 0:
            report("photographing the streets", index / len(shots))
    report("photographing the streets", 1.0)
    frame = geopandas.GeoDataFrame(rows, geometry=points([r["lng"] for r in rows], [r["lat"] for r in rows]), crs="EPSG:4326")
    frame.drop(columns=["lng", "lat"]).to_parquet(out / "manifest.parquet", write_covering_bbox=True)


def _checked(difficulty: str, panoramas: int, photos: int, gps_sigma_m: float, hfov_deg: float, sheet_m: float) -> Difficulty:
    if panoramas < 0 or photos < 0 or panoramas + photos == 0:
        raise BadSimulation(f"{panoramas} panoramas and {photos} photos asked for; ask for at least one image")
    if not 0 <= gps_sigma_m <= 5000:
        raise BadSimulation(f"gps_sigma_m is {gps_sigma_m:g}; give a value between 0 and 5000 metres")
    if not 20 <= hfov_deg <= 150:
        raise BadSimulation(f"photo_hfov_deg is {hfov_deg:g}; give a value between 20 and 150 degrees")
    if not 50 <= sheet_m <= 5000:
        raise BadSimulation(f"sheet_m is {sheet_m:g}; give a sheet side between 50 and 5000 metres")
    try:
        return Difficulty(difficulty)
    except ValueError:
        raise BadSimulation(f"difficulty {difficulty!r} is unknown; choose one of: {', '.join(Difficulty)}") from None


def _dataset(out: Path, city: City, images: int) -> Dataset:
    side_km = city.plan.size_m / 1000
    return Dataset(root=out, crs=city.world.crs.to_string(), area_km2=side_km * side_km, images=images)


__all__ = ["MANIFEST_COLUMNS", "Dataset", "Kind", "read_manifest", "simulate_city", "simulate_from_ortho"]
