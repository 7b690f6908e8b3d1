"""Tables of street images: what is refused, what is reported, what comes out."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import ExifTags, Image

from workers.errors import BadManifest
from workers.manifest import SCHEMA, Manifest, read_manifest, sampled

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def row(**changes: Any) -> dict[str, Any]:
    return {"image": "a.jpg", "latitude": 46.3, "longitude": 7.9} | changes


def parquet(folder: Path, *rows: dict[str, Any]) -> Path:
    names = {name for each in rows for name in each}
    table = pa.Table.from_pylist([dict.fromkeys(names) | each for each in rows])
    pq.write_table(table, folder / "fleet.parquet")
    return folder / "fleet.parquet"


def only(manifest: Manifest) -> dict[str, Any]:
    [found] = manifest.table.to_pylist()
    return found


def test_a_parquet_table_has_all_columns_afterwards(tmp_path: Path) -> None:
    manifest = read_manifest(parquet(tmp_path, row(captured_at=NOON, sequence="car-1", extra="kept out")))
    assert manifest.table.schema == SCHEMA
    found = only(manifest)
    assert found["image"] == str(tmp_path / "a.jpg")
    assert (found["image_id"], found["sequence"], found["captured_at"]) == ("a.jpg", "car-1", NOON)
    assert found["heading_deg"] is None
    assert manifest.faults == ()


def test_csv_gives_the_same_as_parquet(tmp_path: Path) -> None:
    with (tmp_path / "fleet.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "latitude", "longitude", "captured_at", "sequence", "heading_deg"])
        writer.writerow(["a.jpg", 46.3, 7.9, "2026-01-01T12:00:00Z", "car-1", 90])
    other = read_manifest(parquet(tmp_path, row(captured_at=NOON, sequence="car-1", heading_deg=90.0)))
    assert only(read_manifest(tmp_path / "fleet.csv")) == only(other)


def test_a_csv_keeps_texts_as_they_are_and_empty_cells_empty(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text(
        "image,image_id,captured_at,sequence\n"
        "a.jpg,0001,2026-01-01 12:00:00,\n"
        "b.jpg,0002,,\n"
        "c.jpg,,2026-01-01T13:00:00.123456789+01:00,7\n"
    )
    manifest = read_manifest(tmp_path / "fleet.csv")
    assert manifest.faults == ()
    rows = {row["image_id"]: row for row in manifest.table.to_pylist()}
    assert set(rows) == {"0001", "0002", "c.jpg"}
    assert [row["sequence"] for row in rows.values()] == [None, None, "7"]
    assert rows["0001"]["captured_at"] == NOON
    assert rows["c.jpg"]["captured_at"] == NOON.replace(microsecond=123456)


@pytest.mark.parametrize(
    "times",
    [
        pa.array(["2026-01-01T12:00:00", "2026-01-01 13:00:00+0100"]),
        pa.array(["2026-01-01 12:00", "2026-01-01T12:00:00Z"], pa.large_string()),
        pa.array([1_767_268_800_000_000_123] * 2, pa.timestamp("ns")),
        pa.array([1_767_268_800_000_000_123] * 2, pa.timestamp("ns", "Europe/Zurich")),
    ],
)
def test_times_without_a_zone_are_utc_in_whole_microseconds(tmp_path: Path, times: pa.Array) -> None:
    pq.write_table(pa.table({"image": ["a.jpg", "b.jpg"], "captured_at": times}), tmp_path / "fleet.parquet")
    found = read_manifest(tmp_path / "fleet.parquet").table.column("captured_at").to_pylist()
    assert found == [NOON, NOON]


def test_the_same_names_elsewhere_are_another_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for day in ("day1", "day2"):
        (tmp_path / day).mkdir()
        parquet(tmp_path / day, row())
        monkeypatch.chdir(tmp_path / day)
        digests.add(read_manifest(Path("fleet.parquet")).digest)
    assert len(digests) == 2


def test_an_image_too_large_to_open_has_no_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    Image.new("RGB", (16, 8)).save(tmp_path / "large.png")
    assert only(read_manifest(tmp_path))["latitude"] is None


def test_geoparquet_points_are_positions(tmp_path: Path) -> None:
    point = shapely.to_wkb(shapely.Point(7.9, 46.3))
    found = only(read_manifest(parquet(tmp_path, {"image": "a.jpg", "geometry": point})))
    assert (found["latitude"], found["longitude"]) == (46.3, 7.9)


def test_urls_stay_as_they_are(tmp_path: Path) -> None:
    found = only(read_manifest(parquet(tmp_path, row(image="https://example.org/a.jpg"))))
    assert found["image"] == "https://example.org/a.jpg"


def test_a_folder_tells_what_its_exif_says(tmp_path: Path) -> None:
    (tmp_path / "cam").mkdir()
    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = "S", (46, 30, 0)
    gps[ExifTags.GPS.GPSLongitudeRef], gps[ExifTags.GPS.GPSLongitude] = "E", (7, 15, Fraction(36, 10))
    gps[ExifTags.GPS.GPSImgDirectionRef], gps[ExifTags.GPS.GPSImgDirection] = "T", Fraction(181, 2)
    gps[ExifTags.GPS.GPSDateStamp], gps[ExifTags.GPS.GPSTimeStamp] = "2026:01:01", (12, 0, 0)
    image = Image.fromarray(np.zeros((8, 16, 3), np.uint8))
    image.save(tmp_path / "cam" / "one.jpg", exif=exif)
    image.save(tmp_path / "two.png")
    (tmp_path / "notes.txt").write_text("no image")
    rows = {each["image_id"]: each for each in read_manifest(tmp_path).table.to_pylist()}
    assert set(rows) == {"cam/one.jpg", "two.png"}
    one = rows["cam/one.jpg"]
    assert (one["latitude"], one["longitude"]) == (-46.5, pytest.approx(7.251))
    assert (one["heading_deg"], one["captured_at"]) == (90.5, NOON)
    assert rows["two.png"]["latitude"] is None


FAULTY = {
    "latitude is 400": row(latitude=400.0),
    "longitude is nan": row(longitude=float("nan")),
    "image is empty": row(image=None),
    "one of latitude and longitude": row(longitude=None),
    "hfov_deg is 3": row(hfov_deg=3.0),
    "accuracy_m is -5": row(accuracy_m=-5.0),
    "captured_at is empty": row(sequence="car-1"),
    "there twice": row(image="fine.jpg"),
}


@pytest.mark.parametrize("reason", FAULTY)
def test_a_wrong_row_is_reported_and_kept(tmp_path: Path, reason: str) -> None:
    manifest = read_manifest(parquet(tmp_path, row(image="fine.jpg"), FAULTY[reason]))
    [fault] = manifest.faults
    assert fault.row == 2
    assert reason in fault.reason
    assert sorted(each["fault"] is None for each in manifest.table.to_pylist()) == [False, True]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"picture": ["a.jpg"]}, "no column 'image'"),
        ({"image": ["a.jpg"], "latitude": [46.3]}, "one of latitude and longitude"),
        ({"image": ["a.jpg"], "captured_at": ["yesterday"]}, "captured_at"),
        ({"image": pa.array([], pa.string())}, "holds no images"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, table: dict[str, Any], reason: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "fleet.parquet")
    with pytest.raises(BadManifest, match=reason):
        read_manifest(tmp_path / "fleet.parquet")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fleet.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "fleet.xlsx").write_bytes(b"")
    for name, reason in (("fleet.parquet", "cannot be read"), ("fleet.xlsx", "ends in"), ("x", "not exist")):
        with pytest.raises(BadManifest, match=reason):
            read_manifest(tmp_path / name)


def test_rows_come_by_sequence_and_time_whatever_their_order(tmp_path: Path) -> None:
    rows = [
        row(image=f"{car}-{hour}.jpg", sequence=car, captured_at=NOON.replace(hour=hour))
        for car in ("b", "a") for hour in (3, 1, 2)
    ]  # fmt: skip
    manifest = read_manifest(parquet(tmp_path, *rows, row(image="lone.jpg", sequence=None, captured_at=None)))
    assert manifest.table.column("image_id").to_pylist() == [
        "lone.jpg", "a-1.jpg", "a-2.jpg", "a-3.jpg", "b-1.jpg", "b-2.jpg", "b-3.jpg"
    ]  # fmt: skip
    again = read_manifest(
        parquet(tmp_path, row(image="lone.jpg", sequence=None, captured_at=None), *rows[::-1])
    )
    assert again.digest == manifest.digest


def test_a_sample_is_spread_over_all(tmp_path: Path) -> None:
    rows = [row(image=f"{number:03d}.jpg") for number in range(100)]
    found = sampled(read_manifest(parquet(tmp_path, *rows)), 4).table.column("image_id").to_pylist()
    assert found == ["000.jpg", "025.jpg", "050.jpg", "075.jpg"]
