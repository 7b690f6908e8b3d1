"""Writes a simulated city to disk in the form that an operator's data has.

<out>/ortho/sheet_<column>_<row>.tif   cloud-optimised GeoTIFF, RGB, projected CRS <out>/dsm.tif
surface height in metres <out>/street/<image_id>.jpg            panoramas (equirectangular) and photos, EXIF
GPS as the vehicle believed it <out>/manifest.parquet                 GeoParquet, see simulation.manifest.Row
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulation.aerial import orthophoto
from simulation.appearance import Difficulty, draw_appearance, draw_season
from simulation.cameras import GpsTag, Shot, drive_time, expose, jpeg_with_gps, measure, plan_shots
from simulation.city import build_city
from simulation.errors import BadSimulation
from simulation.manifest import Row, read_manifest, write_manifest
from simulation.rasters import link_sheets, write_dsm, write_sheets
from simulation.real import cameras_over, sheet_files, world_from_ortho
from simulation.styles import Season, style_named
from simulation.world import World

__all__ = ["Dataset", "read_manifest", "simulate_city", "simulate_from_ortho"]

Progress = Callable[[str, float], None]
COMPASS_ERROR_DEG = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Where a simulated city lies and what it holds."""

    root: Path
    crs: str
    area_km2: float
    images: int

    @property
    def ortho_dir(self) -> Path:
        """Folder of the orthophoto sheets (of a seeded city)."""
        return self.root / "ortho"

    @property
    def manifest_path(self) -> Path:
        """The manifest of the street images."""
        return self.root / "manifest.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What is photographed in the streets, and how well the vehicle knows where it is."""

    panoramas: int
    photos: int
    difficulty: str
    gps_sigma_m: float
    photo_hfov_deg: float

    def __post_init__(self) -> None:
        """Refuse counts and levels outside their limits.

        Raises:
            BadSimulation: names the field, the value and the limit.
        """
        if self.panoramas < 0 or self.photos < 0 or self.panoramas + self.photos == 0:
            raise BadSimulation(
                f"panoramas={self.panoramas}, photos={self.photos}; ask for at least one image"
            )
        if not 0 <= self.gps_sigma_m <= 5000:
            raise BadSimulation(f"gps_sigma_m is {self.gps_sigma_m:g}; give 0 to 5000 metres")
        if not 20 <= self.photo_hfov_deg <= 150:
            raise BadSimulation(f"photo_hfov_deg is {self.photo_hfov_deg:g}; give 20 to 150 degrees")
        if self.difficulty not in set(Difficulty):
            raise BadSimulation(f"difficulty {self.difficulty!r} is unknown; use {', '.join(Difficulty)}")

    @property
    def level(self) -> Difficulty:
        """The difficulty as its enumeration member."""
        return Difficulty(self.difficulty)


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
    survey = Survey(
        panoramas=panoramas,
        photos=photos,
        difficulty=difficulty,
        gps_sigma_m=gps_sigma_m,
        photo_hfov_deg=photo_hfov_deg,
    )
    if not 50 <= sheet_m <= 5000:
        raise BadSimulation(f"sheet_m is {sheet_m:g}; give a sheet side of 50 to 5000 metres")
    report = progress or _silent
    report("building the city", 0.0)
    city = build_city(seed, style, size_m)
    season, rng = style_named(style).season, np.random.default_rng([seed, 2])
    report("flying the orthophoto", 0.0)
    pixels = orthophoto(city.world, draw_appearance(season, survey.level, rng, from_above=True), rng)
    write_sheets(out / "ortho", city.world, pixels, sheet_m)
    write_dsm(out / "dsm.tif", city.world)
    shots = plan_shots(city, panoramas=panoramas, photos=photos, hfov_deg=photo_hfov_deg, rng=rng)
    drive = Drive(world=city.world, survey=survey, season=season, seed=seed, style=style)
    drive.photograph(out, shots, report)
    return Dataset(root=out, crs=city.world.crs.to_string(), area_km2=(size_m / 1000) ** 2, images=len(shots))


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

    The orthophoto stays where it is: `ortho/` holds links to its sheets, as training expects them there.

    Raises:
        SimulationError: unreadable, unprojected or mismatched rasters, or a count or level outside its
        limits.
    """
    survey = Survey(
        panoramas=panoramas,
        photos=photos,
        difficulty=difficulty,
        gps_sigma_m=gps_sigma_m,
        photo_hfov_deg=photo_hfov_deg,
    )
    report = progress or _silent
    report("reading the orthophoto", 0.0)
    world, valid = world_from_ortho(ortho, dsm)
    rng = np.random.default_rng([seed, 3])
    link_sheets(out / "ortho", sheet_files(ortho))
    shots = cameras_over(world, valid, panoramas=panoramas, photos=photos, hfov_deg=photo_hfov_deg, rng=rng)
    drive = Drive(world=world, survey=survey, season=Season.SUMMER, seed=seed, style="real")
    drive.photograph(out, shots, report)
    area_km2 = float(valid.sum()) * world.gsd_m**2 / 1e6
    return Dataset(root=out, crs=world.crs.to_string(), area_km2=area_km2, images=len(shots))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A camera car in one world; every image has its own day, seeded by its number alone."""

    world: World
    survey: Survey
    season: Season
    seed: int
    style: str

    def photograph(self, out: Path, shots: Sequence[Shot], report: Progress) -> None:
        """Write every image and the manifest."""
        (out / "street").mkdir(parents=True, exist_ok=True)
        rows = []
        for index, shot in enumerate(shots):
            rows.append(self._take(out, index, shot))
            if index % 16 == 0:
                report("photographing the streets", index / len(shots))
        write_manifest(out / "manifest.parquet", rows)
        report("photographing the streets", 1.0)

    def _take(self, out: Path, index: int, shot: Shot) -> Row:
        rng = np.random.default_rng([self.seed, 4, index])
        season = draw_season(self.season, self.survey.level, rng)
        look = draw_appearance(season, self.survey.level, rng, from_above=False)
        fix = measure(shot, gps_sigma_m=self.survey.gps_sigma_m, heading_error_deg=COMPASS_ERROR_DEG, rng=rng)
        turn = self.world.convergence_deg(shot.pose.easting, shot.pose.northing)
        (true_lng, gps_lng), (true_lat, gps_lat) = self.world.to_lnglat(
            np.array([shot.pose.easting, fix.easting]), np.array([shot.pose.northing, fix.northing])
        )
        row = Row(
            image_id=f"{shot.kind}_{index:05d}",
            path=f"street/{shot.kind}_{index:05d}.jpg",
            kind=str(shot.kind),
            heading_deg=(shot.pose.azimuth_deg + turn) % 360.0,
            hfov_deg=shot.hfov_deg,
            gps_lng=float(gps_lng),
            gps_lat=float(gps_lat),
            gps_sigma_m=fix.sigma_m,
            heading_measured_deg=(fix.azimuth_deg + turn) % 360.0,
            captured_at=drive_time(index, rng),
            seed=self.seed,
            style=self.style,
            lng=float(true_lng),
            lat=float(true_lat),
        )
        tag = GpsTag(
            lng=row.gps_lng,
            lat=row.gps_lat,
            heading_deg=row.heading_measured_deg,
            captured_at=row.captured_at,
        )
        (out / row.path).write_bytes(jpeg_with_gps(expose(self.world, shot, look, rng), tag))
        return row


def _silent(_step: str, _share: float) -> None:
    pass
