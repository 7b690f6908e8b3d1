"""Damage in an embedded store is reported with its place, never half-read, and stops its region alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from spatial_index.errors import DamagedStore
from spatial_index.store import SearchRequest, Store, open_store


def ask(*regions: str) -> SearchRequest:
    return SearchRequest(
        vectors=np.eye(8, dtype=np.float32)[:1], limit=50, model_digest="m1", regions=regions
    )


@pytest.fixture
def root(tmp_path, make_spec, fill, grid, unit_vectors) -> Path:
    """A store of two regions: brig, whose live generation is g2 after g1, and oslo."""
    with open_store(directory=tmp_path / "store", create=True) as store:
        fill(store, make_spec(generation="g1"), grid(10), unit_vectors(10))
        fill(store, make_spec(generation="g2"), grid(12), unit_vectors(12))
        fill(store, make_spec("oslo"), grid(5, lng=10.7, lat=59.9), unit_vectors(5))
    return tmp_path / "store"


@contextmanager
def flipped(file: Path) -> Iterator[None]:
    """One byte of the file is another one."""

    def flip() -> None:
        with file.open("r+b") as opened:
            opened.seek(file.stat().st_size // 2)
            byte = opened.read(1)
            opened.seek(-1, 1)
            opened.write(bytes([byte[0] ^ 0x55]))

    flip()
    yield
    flip()


@contextmanager
def shortened(file: Path) -> Iterator[None]:
    """The file lost its last byte, which often is a zero."""
    size, last = file.stat().st_size, file.read_bytes()[-1:]
    os.truncate(file, size - 1)
    yield
    with file.open("ab") as opened:
        opened.write(last)


@contextmanager
def missing(file: Path) -> Iterator[None]:
    """The file is gone."""
    content, mode = file.read_bytes(), file.stat().st_mode
    file.unlink()
    yield
    file.write_bytes(content)
    file.chmod(mode)


def assert_only_oslo_answers(store: Store, path: Path) -> None:
    for call in (lambda: store.search(ask("brig")), lambda: store.search(ask())):
        with pytest.raises(DamagedStore) as caught:
            call()
        assert caught.value.path == str(path)
    assert store.search(ask("oslo")).candidates == 5


def test_any_change_of_a_promoted_generations_files_is_found(root):
    shard = root / "regions/brig/g2/shard"
    files = sorted(path for path in shard.rglob("*") if path.is_file())
    assert len(files) > 30
    for number, file in enumerate(files):
        damage = [flipped, shortened, missing][number % 3]
        with damage(file), open_store(directory=root) as store:
            assert_only_oslo_answers(store, file)
    with open_store(directory=root) as store:
        assert store.search(ask()).candidates == 17


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("live.json", b""),
        ("live.json", b"\xff\xfe\x00"),
        ("live.json", b"[]"),
        ("live.json", b"{}"),
        ("live.json", b'{"generation": 5}'),
        ("live.json", b'{"generation": "../oslo"}'),
        ("live.json", b'{"generation": "gone"}'),
        ("live.json", None),
        ("g2/meta.json", b"{"),
        ("g2/meta.json", b"\xff\xfe\x00"),
        ("g2/meta.json", b'{"format": 99}'),
        ("g2/meta.json", b'{"format": 1, "spec": {}}'),
    ],
)
def test_a_region_whose_files_cannot_be_read_is_named_and_the_others_answer(root, name, content):
    file = root / "regions/brig" / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)

    with open_store(directory=root) as store:
        assert_only_oslo_answers(store, file)
        for call in (lambda: store.region("brig"), store.regions, lambda: store.rollback("brig")):
            with pytest.raises(DamagedStore, match=f"{file}.*drop the region and ingest it again"):
                call()
        store.drop_region("brig")
        assert store.search(ask()).candidates == 5
    with open_store(directory=root) as store:
        assert [info.name for info in store.regions()] == ["oslo"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spec.dim", 0),
        ("spec.dim", "eight"),
        ("spec.region", "oslo"),
        ("spec.region", "../x"),
        ("created_at", 7),
        ("release", None),
        ("release.coverage", {"type": "Polygon", "coordinates": [[1, 2]]}),
        ("release.coverage", {"type": "Point", "coordinates": [1, 2]}),
        ("release.coverage", None),
        ("release.patches", "many"),
        ("release.previous", 5),
    ],
)
def test_a_meta_file_with_a_bad_value_is_named(root, field, value):
    file = root / "regions/brig/g2/meta.json"
    values = json.loads(file.read_text())
    place, _, key = field.rpartition(".")
    (values[place] if place else values)[key] = value
    file.write_text(json.dumps(values))

    with open_store(directory=root) as store, pytest.raises(DamagedStore, match="regions/brig"):
        store.region("brig")


def test_another_number_of_patches_than_promoted_is_named(root):
    file = root / "regions/brig/g2/meta.json"
    values = json.loads(file.read_text())
    values["release"]["patches"] = 11
    file.write_text(json.dumps(values))
    with (
        open_store(directory=root) as store,
        pytest.raises(DamagedStore, match="12 patches, 11 were promoted"),
    ):
        store.search(ask())


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}'])
def test_a_store_whose_marker_cannot_be_read_is_not_opened(root, content):
    (root / "store.json").write_text(content)
    with pytest.raises(DamagedStore, match=r"store\.json"):
        open_store(directory=root)


def test_a_store_without_its_regions_is_not_opened_as_an_empty_one(root):
    (root / "regions").rename(root / "elsewhere")
    with pytest.raises(DamagedStore, match=r"regions: the folder is missing"):
        open_store(directory=root, create=True)


def test_what_a_killed_engine_left_unfinished_is_no_damage(root):
    """It writes files in a folder beside, and renames them."""
    segments = list((root / "regions/brig/g2/shard/segments").iterdir())
    left = [folder / ".atomicwriteAbC12z" for folder in (*segments, root / "regions/brig/g2/shard")]
    for folder in left:
        folder.mkdir()
        (folder / "tmpfile.tmp").write_bytes(b"half of")
    with open_store(directory=root) as store:
        assert store.search(ask("brig")).candidates == 12
    assert not any(folder.exists() for folder in left)


def test_leftovers_that_were_sealed_by_an_earlier_version_may_go(root):
    seal = root / "regions/brig/g2/seal.json"
    content = json.loads(seal.read_text())
    content["files"]["segments/one/.atomicwriteAbC12z/tmpfile.tmp"] = 1
    seal.write_text(json.dumps(content))
    with open_store(directory=root) as store:
        assert store.search(ask("brig")).candidates == 12


def test_unreadable_checksums_are_damage(root):
    file = root / "regions/brig/g2/seal.json"
    file.write_text("{")
    with open_store(directory=root) as store:
        assert_only_oslo_answers(store, file)


@pytest.mark.parametrize("engine", ["another engine", None])
def test_checksums_that_prove_nothing_are_made_anew(root, engine):
    file = root / "regions/brig/g2/seal.json"
    good = file.read_text()
    if engine is None:
        file.unlink()
    else:
        file.write_text(json.dumps(json.loads(good) | {"engine": engine, "files": {}}))
    with open_store(directory=root) as store:
        assert store.search(ask()).candidates == 17
    assert json.loads(file.read_text()) == json.loads(good)


def test_there_is_no_rollback_to_a_damaged_generation(root):
    [vectors] = (root / "regions/brig/g1/shard").rglob("chunk_0.mmap")
    with flipped(vectors), open_store(directory=root) as store:
        with pytest.raises(DamagedStore, match="g1"):
            store.rollback("brig")
        assert store.region("brig").generation == "g2"
        assert store.search(ask()).candidates == 17


def test_a_panic_of_the_engine_is_damage_too_and_the_store_goes_on(root, make_spec, make_records, grid):
    """A generation that is still written has no checksums: there the engine itself meets the damage."""
    spec = make_spec(generation="g3")
    records = make_records(spec, grid(8), np.eye(8, dtype=np.float32))
    with open_store(directory=root) as store:
        store.create_generation(spec)
        store.write("brig", "g3", records)
    [positions] = (root / "regions/brig/g3/shard").rglob("*location-map/page_0.dat")
    with positions.open("r+b") as file:
        file.write(b"\x55" * 65_536)

    with open_store(directory=root) as store:
        with pytest.raises(DamagedStore, match=r"g3.*the engine failed"):
            store.count("brig", "g3")
        assert store.search(ask()).candidates == 17
        store.drop_generation("brig", "g3")
        store.create_generation(spec)
        store.write("brig", "g3", records)
        assert store.count("brig", "g3") == 8


def test_a_shard_that_failed_is_loaded_again_once_its_file_is_restored(root, make_spec, make_records, grid):
    spec = make_spec(generation="g3")
    query = np.eye(8, dtype=np.float32)[:1]
    with open_store(directory=root) as store:
        store.create_generation(spec)
        store.write("brig", "g3", make_records(spec, grid(8), np.eye(8, dtype=np.float32)))
    with open_store(directory=root) as store:
        assert store.count("brig", "g3") == 8
        [payloads] = (root / "regions/brig/g3/shard").rglob("payload_storage/page_0.dat")
        backup = shutil.copy(payloads, root / "backup")
        with payloads.open("r+b") as file:
            file.write(b"\x55" * 65_536)
        with pytest.raises(DamagedStore, match="the engine failed"):
            store.probe("brig", "g3", query, 8)
        Path(backup).replace(payloads)
        assert len(store.probe("brig", "g3", query, 8)[0]) == 8
