"""Own pairs from CSV and Parquet: what is read, and which row and column a refusal names."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clnet_model.benchmarks import QueryKind
from clnet_model.benchmarks.manifest import manifest
from clnet_model.errors import BadPairs

Rows = list[dict[str, object]]
PAIRS: Rows = [
    {
        "street_image": "street/a.jpg",
        "lat": 59.91,
        "lon": 10.75,
        "heading_deg": 0.0,
        "aerial_image": "air/1.png",
    },
    {
        "street_image": "street/b.jpg",
        "lat": 59.92,
        "lon": 10.76,
        "heading_deg": 90.0,
        "aerial_image": "air/2.png",
    },
    {
        "street_image": "street/a.jpg",
        "lat": 59.91,
        "lon": 10.75,
        "heading_deg": 0.0,
        "aerial_image": "air/2.png",
    },
]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def city(tmp_path: Path) -> Path:
    touch(*(tmp_path / name for name in ("street/a.jpg", "street/b.jpg", "air/1.png", "air/2.png")))
    return tmp_path


@pytest.mark.parametrize(("save", "name"), [(write_csv, "pairs.csv"), (write_parquet, "pairs.parquet")])
def test_manifest_as_csv_and_parquet(city: Path, save: Callable[[Path, Rows], Path], name: str) -> None:
    split = manifest(save(city / name, PAIRS))
    assert split.queries == (city / "street/a.jpg", city / "street/b.jpg")
    assert split.gallery == (city / "air/1.png", city / "air/2.png")
    assert [rows.tolist() for rows in split.positives] == [[0, 1], [1]]
    assert split.query_lnglat is not None
    assert split.query_lnglat.tolist() == [[10.75, 59.91], [10.76, 59.92]]
    assert split.centre_heading_deg is None
    assert split.query_heading_deg is not None
    assert split.query_heading_deg.tolist() == [0.0, 90.0]


def test_manifest_headings_are_optional_and_may_be_common(city: Path) -> None:
    north = manifest(write_csv(city / "pairs.csv", [row | {"heading_deg": 15} for row in PAIRS]))
    assert (north.centre_heading_deg, north.query_heading_deg) == (15.0, None)
    plain: Rows = [{key: value for key, value in row.items() if key != "heading_deg"} for row in PAIRS]
    for unknown in (
        manifest(write_csv(city / "pairs.csv", plain)),
        manifest(write_parquet(city / "pairs.parquet", [row | {"heading_deg": None} for row in PAIRS])),
    ):
        assert (unknown.centre_heading_deg, unknown.query_heading_deg) == (None, None)


def test_manifest_kind_is_an_option(city: Path) -> None:
    path = write_csv(city / "pairs.csv", PAIRS)
    assert manifest(path).query_kind is QueryKind.PANORAMA
    assert manifest(path, query_kind="perspective").query_kind is QueryKind.PERSPECTIVE


@pytest.mark.parametrize(
    ("row", "change", "complaint"),
    [
        (1, {"lat": 95}, "row 2, column lat: '95' is no number of degrees between -90 and 90"),
        (1, {"lon": "east"}, "row 2, column lon: 'east' is no number"),
        (0, {"lat": ""}, "row 1, column lat: '' is no number"),
        (1, {"heading_deg": "NaN?"}, r"row 2, column heading_deg: 'NaN\?'"),
        (1, {"heading_deg": ""}, "row 2, column heading_deg: empty, while other rows have one"),
        (0, {"street_image": " "}, "row 1, column street_image: ' ' is no path"),
        (1, {"aerial_image": ""}, "row 2, column aerial_image: '' is no path"),
        (2, {"lat": 60.0}, "row 3, column lat: 60.0, but 59.91 in row 1"),
        (2, {"heading_deg": 5}, "row 3, column heading_deg: 5.0, but 0.0 in row 1"),
        (1, {"aerial_image": "air/3.png"}, r"air/3.png is listed but missing \(1 of 5"),
        (1, {"aerial_image": "space/3.png"}, "space is missing"),
    ],
)
def test_broken_manifest_names_row_and_column(
    city: Path, row: int, change: dict[str, object], complaint: str
) -> None:
    rows = [dict(values) for values in PAIRS]
    rows[row] |= change
    with pytest.raises(BadPairs, match=complaint):
        manifest(write_csv(city / "pairs.csv", rows))


def test_manifest_with_orthophotos_is_sent_elsewhere(city: Path) -> None:
    rows: Rows = [{"street_image": "street/a.jpg", "lat": 59.9, "lon": 10.7, "ortho": "ortho.tif"}]
    with pytest.raises(
        BadPairs, match=r"column aerial_image is missing \(it has street_image.*clnet simulate"
    ):
        manifest(write_csv(city / "pairs.csv", rows))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("pairs.csv", "", "column street_image is missing"),
        ("pairs.csv", "street_image,lat,lon,aerial_image\n", "has no rows"),
        ("pairs.csv", "street_image,lat,lon,aerial_image\na.jpg,1\n", "row 1, column aerial_image: None"),
        (
            "pairs.csv",
            "street_image,lat,lon,aerial_image\na.jpg,1,2,b.png,c\n",
            "row 1: more fields than columns",
        ),
        ("pairs.parquet", "no table", "cannot be read as a table"),
        ("pairs.json", "{}", r"neither .csv nor .parquet"),
    ],
)
def test_unreadable_manifest_is_refused(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadPairs, match=complaint):
        manifest(tmp_path / name)


def test_manifest_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPairs, match="is no file; give the manifest itself"):
        manifest(tmp_path)
