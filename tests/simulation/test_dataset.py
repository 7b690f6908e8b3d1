"""What `simulate_city` writes is what an operator would have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import ExifTags, Image
from pyproj import Geod

from simulation.dataset import Dataset, read_manifest, simulate_city, simulate_from_ortho
from simulation.errors import BadSimulation, BadSurface

GEOD = Geod(ellps="WGS84")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("city")
    return simulate_city(
        out, seed=3, style="grid-mixed", size_m=300.0, panoramas=60, photos=8, sheet_m=160.0, gps_sigma_m=20.0
    )


def test_the_sheets_tile_the_city_in_a_projected_crs(dataset: Dataset) -> None:
    sheets = sorted(dataset.ortho_dir.glob("*.tif"))
    assert len(sheets) == 4
    area_m2 = 0.0
    for path in sheets:
        with rasterio.open(path) as sheet:
            assert sheet.crs.is_projected
            assert sheet.count == 3
            area_m2 += (sheet.bounds.right - sheet.bounds.left) * (sheet.bounds.top - sheet.bounds.bottom)
    assert area_m2 == pytest.approx(300.0**2, rel=0.01)


def test_the_surface_model_lies_on_the_sheets(dataset: Dataset) -> None:
    with (
        rasterio.open(dataset.root / "dsm.tif") as dsm,
        rasterio.open(dataset.ortho_dir / "sheet_00_00.tif") as sheet,
    ):
        assert dsm.crs == sheet.crs
        assert (dsm.bounds.left, dsm.bounds.top) == pytest.approx((sheet.bounds.left, sheet.bounds.top))
        heights = dsm.read(1)
    assert heights.max() - heights.min() > 3.0


def test_the_manifest_names_every_image(dataset: Dataset) -> None:
    frame = read_manifest(dataset.root)
    assert len(frame) == dataset.images == 68
    assert frame.crs.to_epsg() == 4326
    for row in frame.itertuples():
        with Image.open(dataset.root / row.path) as image:
            assert image.size == ((512, 256) if row.kind == "panorama" else (320, 240))


def test_gps_errors_have_the_spread_they_claim(dataset: Dataset) -> None:
    frame = read_manifest(dataset.root)
    _, _, away_m = GEOD.inv(frame.geometry.x, frame.geometry.y, frame.gps_lng, frame.gps_lat)
    per_axis_m = np.sqrt(np.mean(np.square(away_m)) / 2)
    assert per_axis_m == pytest.approx(20.0, rel=0.3)


def test_a_photos_compass_stays_within_its_error(dataset: Dataset) -> None:
    frame = read_manifest(dataset.root)
    off = (frame.heading_measured_deg - frame.heading_deg + 180) % 360 - 180
    assert off[frame.kind == "photo"].abs().max() <= 15.0


def test_exif_holds_what_the_vehicle_believed(dataset: Dataset) -> None:
    row = read_manifest(dataset.root).iloc[0]
    with Image.open(dataset.root / row.path) as image:
        gps = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    degrees, minutes, seconds = (float(v) for v in gps[ExifTags.GPS.GPSLatitude])
    assert degrees + minutes / 60 + seconds / 3600 == pytest.approx(row.gps_lat, abs=1e-6)
    assert float(gps[ExifTags.GPS.GPSImgDirection]) == pytest.approx(row.heading_measured_deg, abs=0.01)


def test_cameras_never_stand_on_patch_centres(dataset: Dataset) -> None:
    frame = read_manifest(dataset.root)
    tile_m = 40_075_016.7 / 2**20
    mercator = frame.to_crs(3857).geometry
    offset_m = np.hypot(mercator.x % tile_m - tile_m / 2, mercator.y % tile_m - tile_m / 2)
    assert offset_m.median() > 5.0


def test_a_real_orthophoto_becomes_street_images(dataset: Dataset, tmp_path: Path) -> None:
    real = simulate_from_ortho(
        tmp_path, ortho=[dataset.ortho_dir], dsm=dataset.root / "dsm.tif", seed=1, panoramas=3, photos=1
    )
    assert real.images == 4
    assert set(read_manifest(tmp_path)["style"]) == {"real"}
    assert len(list(real.ortho_dir.glob("*.tif"))) == len(list(dataset.ortho_dir.glob("*.tif")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"panoramas": 0}, "at least one image"),
        ({"panoramas": -1}, "at least one image"),
        ({"gps_sigma_m": -1.0}, "gps_sigma_m"),
        ({"difficulty": "brutal"}, "easy, normal, hard"),
        ({"photo_hfov_deg": 190.0}, "photo_hfov_deg"),
        ({"sheet_m": 1.0}, "sheet_m"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    request = {"seed": 1, "style": "grid-brick", "size_m": 300.0, "panoramas": 4} | change
    with pytest.raises(BadSimulation, match=words):
        simulate_city(tmp_path / "out", **request)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_folder_without_sheets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSurface, match="no GeoTIFF"):
        simulate_from_ortho(tmp_path / "out", ortho=[tmp_path], dsm=None, seed=1, panoramas=1)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSimulation, match="clnet simulate"):
        read_manifest(tmp_path)


def test_sheets_that_lie_in_the_dataset_folder_survive(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "ortho"
    folder.mkdir()
    for sheet in dataset.ortho_dir.glob("*.tif"):
        (folder / sheet.name).write_bytes(sheet.read_bytes())
    simulate_from_ortho(tmp_path, ortho=[folder], dsm=None, seed=1, panoramas=1)
    assert all(not sheet.is_symlink() and sheet.stat().st_size for sheet in folder.glob("*.tif"))
