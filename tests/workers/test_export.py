"""Out of a store and back: identical ids and vectors, in files that other tools read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from spatial_index.errors import UnknownGeneration, UnknownRegion
from spatial_index.records import GenerationSpec, PatchRecord, point_id
from spatial_index.store import Store, open_store
from tiling.grid import GridSpec, Patch, Tile, patches_over
from workers.errors import BadExchangeFile, NothingToExport
from workers.export import ExportReport, export_region, import_region

SPEC = GenerationSpec(region="town", generation="g1", model_digest="m1", dim=16, zoom=20, side_m=70.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A live region of some 800 patches, some of them without a date."""
    with open_store(directory=tmp_path / "store", create=True) as opened:
        build(opened, SPEC, list(patches_over(shapely.box(7.98, 46.31, 7.99, 46.317), GridSpec())))
        yield opened


def build(store: Store, spec: GenerationSpec, patches: list[Patch]) -> None:
    dice = np.random.default_rng(5)
    vectors = dice.normal(size=(len(patches), spec.dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    records = [
        PatchRecord(
            location=patch.centre,
            quadkey=patch.quadkey,
            region=spec.region,
            generation=spec.generation,
            side_m=patch.side_m,
            captured_at=datetime(2023, 5, 1 + number % 28, 10, 30, tzinfo=UTC) if number % 10 else None,
            source="sheet.tif",
            valid_fraction=float(dice.uniform(0.5, 1)),
            vector=vector,
        )
        for number, (patch, vector) in enumerate(zip(patches, vectors, strict=True))
    ]
    store.create_generation(spec)
    store.write(spec.region, spec.generation, records)
    coverage = shapely.union_all([patch.tile_footprint for patch in patches])
    store.promote(spec.region, spec.generation, coverage=coverage)


@pytest.fixture
def exported(store: Store, tmp_path: Path) -> ExportReport:
    return export_region(store, "town", tmp_path / "out")


def contents(store: Store) -> dict[Any, PatchRecord]:
    return {
        point_id("town", "g1", record.quadkey, record.side_m): record
        for page in store.read("town", "g1")
        for record in page
    }


def test_a_round_trip_gives_identical_ids_and_vectors(
    store: Store, exported: ExportReport, tmp_path: Path
) -> None:
    before = contents(store)
    assert exported.patches == len(before) > 500
    with open_store(directory=tmp_path / "other", create=True) as other:
        report = import_region(other, exported.data)
        assert (report.patches, report.already_live) == (len(before), False)
        after = contents(other)
        live, formerly = other.region("town"), store.region("town")
        assert live.coverage.equals_exact(formerly.coverage, 1e-9) or live.coverage.equals(formerly.coverage)
        assert (live.generation, live.model_digest, live.imagery_from, live.imagery_to) == (
            formerly.generation, formerly.model_digest, formerly.imagery_from, formerly.imagery_to
        )  # fmt: skip
        assert import_region(other, exported.data).already_live
        again = export_region(other, "town", tmp_path / "again")
    assert after.keys() == before.keys()
    for key, record in before.items():
        assert np.array_equal(after[key].vector, record.vector)
        assert after[key].location == pytest.approx(record.location, abs=1e-12)
        same = replace(after[key], vector=record.vector, location=record.location)
        assert [getattr(same, name) for name in record.__slots__] == [
            getattr(record, name) for name in record.__slots__
        ]
    names = ["id", "quadkey", "geometry", "side_m", "captured_at", "valid_fraction", "vector"]
    assert pq.read_table(again.data, columns=names).equals(pq.read_table(exported.data, columns=names))


def test_what_was_live_before_is_made_live_again_without_reading_the_rows(
    store: Store, exported: ExportReport
) -> None:
    build(
        store,
        replace(SPEC, generation="g2"),
        list(patches_over(shapely.box(7.98, 46.31, 7.99, 46.317), GridSpec())),
    )
    data = bytearray(exported.data.read_bytes())
    data[len(data) // 3] ^= 255
    exported.data.write_bytes(data)
    assert not import_region(store, exported.data).already_live
    assert store.region("town").generation == "g1"
    assert store.rollback("town").generation == "g2"


def test_plain_geopandas_reads_it_and_skips_by_box(exported: ExportReport) -> None:
    frame = geopandas.read_parquet(exported.data)
    assert frame.crs == "OGC:CRS84"
    assert len(frame) == exported.patches
    assert set(frame.model_digest) == {"m1"}
    assert frame.geometry.is_valid.all()
    areas_m2 = frame.to_crs("EPSG:2056").area
    assert areas_m2.between(70.0**2 * 0.995, 70.0**2 * 1.005).all()
    few = geopandas.read_parquet(exported.data, bbox=(7.984, 46.312, 7.985, 46.313))
    box = shapely.box(7.984, 46.312, 7.985, 46.313)
    assert set(few.quadkey) == set(frame[frame.intersects(box)].quadkey)
    assert 0 < len(few) < len(frame) / 4


def test_plain_duckdb_reads_it(exported: ExportReport) -> None:
    rows = duckdb.sql(
        f"select count(*), count(captured_at), min(bbox.xmin), max(len(vector)), min(vector[1]) "
        f"from '{exported.data}' where bbox.ymin < 46.313 and model_digest = 'm1'"
    )
    found = pq.read_table(exported.data).to_pylist()
    chosen = [row for row in found if row["bbox"]["ymin"] < 46.313]
    (row,) = rows.fetchall()
    assert row == (
        len(chosen),
        sum(row["captured_at"] is not None for row in chosen),
        min(row["bbox"]["xmin"] for row in chosen),
        SPEC.dim,
        min(row["vector"][0] for row in chosen),
    )


def test_plain_pyarrow_reads_vectors_places_and_order(store: Store, exported: ExportReport) -> None:
    with pq.ParquetFile(exported.data) as file:
        geo = json.loads(file.schema_arrow.metadata[b"geo"])
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
        rows = file.read().to_pylist()
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"]["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert [row["quadkey"] for row in rows] == sorted(row["quadkey"] for row in rows)
    stored = {str(key): record for key, record in contents(store).items()}
    assert stored.keys() == {row["id"] for row in rows}
    for row in rows:
        record = stored[row["id"]]
        assert np.array_equal(np.array(row["vector"], np.float32), record.vector)
        west, south, east, north = shapely.from_wkb(row["geometry"]).bounds
        assert (west, south, east, north) == tuple(
            row["bbox"][edge] for edge in ("xmin", "ymin", "xmax", "ymax")
        )
        assert west < row["longitude"] < east
        assert south < row["latitude"] < north


def test_float16_halves_the_vectors(store: Store, exported: ExportReport, tmp_path: Path) -> None:
    small = export_region(store, "town", tmp_path / "small", float16=True)
    assert pq.read_schema(small.data).field("vector").type.value_type == "halffloat"
    with open_store(directory=tmp_path / "other", create=True) as other:
        import_region(other, small.data)
        once = contents(other)
        second = export_region(other, "town", tmp_path / "second", float16=True)
    before = contents(store)
    for key, record in once.items():
        assert np.array_equal(record.vector, before[key].vector.astype(np.float16).astype(np.float32))
    assert pq.read_table(second.data, columns=["vector"]).equals(
        pq.read_table(small.data, columns=["vector"])
    )


def test_the_stac_item_describes_the_file(store: Store, exported: ExportReport) -> None:
    item = json.loads(exported.item.read_text())
    assert (item["type"], item["stac_version"], item["id"]) == ("Feature", "1.0.0", "town-g1")
    assert {"geometry", "bbox", "properties", "links", "assets"} <= item.keys()
    assert shapely.geometry.shape(item["geometry"]).equals(store.region("town").coverage)
    properties = item["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] < properties["end_datetime"]
    assert properties["clnet:model_digest"] == "m1"
    (asset,) = item["assets"].values()
    assert (exported.item.parent / asset["href"]).resolve() == exported.data.resolve()


def test_across_the_antimeridian(tmp_path: Path) -> None:
    spec = replace(SPEC, region="fiji")
    last = 2**20 - 1
    patches = [Patch(tile=Tile(column, 570_000, 20), side_m=70.0) for column in (0, 1, last - 1, last)]
    with open_store(directory=tmp_path / "store", create=True) as store:
        build(store, spec, patches)
        report = export_region(store, "fiji", tmp_path / "out")
    frame = geopandas.read_parquet(report.data)
    assert sorted(frame.geom_type.unique()) == ["MultiPolygon", "Polygon"]
    assert frame.total_bounds[0] == -180
    assert frame.total_bounds[2] == 180


def test_what_is_not_there_is_not_exported(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UnknownRegion):
        export_region(store, "nowhere", tmp_path / "out")
    with pytest.raises(UnknownGeneration):
        export_region(store, "town", tmp_path / "out", generation="g9")
    store.create_generation(replace(SPEC, generation="g2"))
    with pytest.raises(NothingToExport, match="never promoted"):
        export_region(store, "town", tmp_path / "out", generation="g2")


def test_a_damaged_file_makes_nothing_live(exported: ExportReport, tmp_path: Path) -> None:
    data = bytearray(exported.data.read_bytes())
    data[len(data) // 3] ^= 255
    exported.data.write_bytes(data)
    with open_store(directory=tmp_path / "other", create=True) as other:
        with pytest.raises(BadExchangeFile, match=r"town-g1\.parquet: cannot be imported"):
            import_region(other, exported.data)
        assert other.generations("town") == []


@pytest.mark.parametrize("kind", ["missing", "text", "parquet of others"])
def test_a_file_that_is_not_ours(kind: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    if kind == "text":
        path.write_text("hello")
    if kind == "parquet of others":
        geopandas.GeoDataFrame({"geometry": [shapely.Point(0, 0)]}, crs="EPSG:4326").to_parquet(path)
    with pytest.raises(BadExchangeFile, match=r"file\.parquet.*clnet export"):
        import_region(store, path)


def test_rows_of_another_region_are_refused(exported: ExportReport, tmp_path: Path) -> None:
    table = pq.read_table(exported.data)
    column = table.schema.get_field_index("quadkey")
    moved = table.set_column(column, "quadkey", table.column("quadkey").take(list(range(len(table)))[::-1]))
    pq.write_table(moved, exported.data)
    with open_store(directory=tmp_path / "other", create=True) as other:
        with pytest.raises(BadExchangeFile, match="is not patch"):
            import_region(other, exported.data)
        assert other.generations("town") == []
