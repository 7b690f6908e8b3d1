"""The embedded store's folder: one owner, no half states, damage is reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from shapely.geometry import box

from spatial_index.errors import DamagedStore, StoreInUse, StoreMissing, StoreUnavailable
from spatial_index.store import SearchRequest, open_store

COVERAGE = box(7, 46, 9, 47)
WRITER = """
    import sys
    from pathlib import Path
    import numpy as np
    from mercantile import LngLat
    from shapely.geometry import box
    from spatial_index.records import GenerationSpec, PatchRecord
    from spatial_index.store import open_store

    store = open_store(directory=Path(sys.argv[1]), create=True)

    def spec(generation):
        return GenerationSpec(
            region="brig", generation=generation, model_digest="m1", dim=8, zoom=10, side_m=70.0
        )

    def records(generation, first, count):
        for i in range(first, first + count):
            yield PatchRecord(
                location=LngLat(8 + i * 1e-5, 46.5), quadkey=np.base_repr(i, 4).zfill(10), region="brig",
                generation=generation, side_m=70.0, captured_at=None, source="s.tif", valid_fraction=1.0,
                vector=np.eye(8, dtype=np.float32)[i % 8],
            )
"""
FILL_FOREVER = """
    store.create_generation(spec("g1"))
    for batch in range(10_000):
        store.write("brig", "g1", list(records("g1", batch * 100, 100)))
        print((batch + 1) * 100, flush=True)
"""
PROMOTE_FOREVER = """
    for turn in range(10_000):
        name = f"g{turn}"
        store.create_generation(spec(name))
        store.write("brig", name, list(records(name, 0, 50 + turn)))
        store.promote("brig", name, coverage=box(7, 46, 9, 47))
        if turn > 1:
            store.drop_generation("brig", f"g{turn - 2}")
        print(turn, flush=True)
"""


@pytest.fixture
def writer(tmp_path: Path):
    """Starts a process that works on a store and reports each acknowledged step on its output."""
    started: list[subprocess.Popen[str]] = []

    def start(body: str) -> subprocess.Popen[str]:
        code = textwrap.dedent(WRITER) + textwrap.dedent(body)
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def last_ack_before_kill(process: subprocess.Popen[str], *, acks: int, delay_s: float) -> int:
    """Let the process acknowledge `acks` steps and run on for a moment; kill -9 it; return its last step."""
    for _ in range(acks):
        assert process.stdout.readline(), "the writer died by itself"
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    return int(rest[-1]) if rest else -1


def test_a_killed_writer_loses_no_acknowledged_patch_and_leaves_nothing_live(writer, tmp_path):
    acked = last_ack_before_kill(writer(FILL_FOREVER), acks=3, delay_s=0.2)
    with open_store(directory=tmp_path / "store") as store:
        assert store.regions() == []
        assert store.count("brig", "g1") >= max(acked, 300)
        assert [info.complete for info in store.generations("brig")] == [False]


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.13])
def test_a_killed_promotion_leaves_a_complete_generation_live(writer, tmp_path, unit_vectors, delay_s):
    acked = last_ack_before_kill(writer(PROMOTE_FOREVER), acks=3, delay_s=delay_s)
    with open_store(directory=tmp_path / "store") as store:
        info = store.region("brig")
        turn = int(info.generation[1:])
        result = store.search(SearchRequest(vectors=unit_vectors(1), limit=10_000, model_digest="m1"))
        assert turn >= max(acked, 2)
        assert info.patches == result.candidates == len(result.hits[0]) == 50 + turn


def test_a_store_in_use_names_its_owner(writer, tmp_path):
    process = writer(FILL_FOREVER)
    process.stdout.readline()
    with pytest.raises(StoreInUse, match=rf"in use by process {process.pid}; stop that process"):
        open_store(directory=tmp_path / "store")


def test_a_store_opens_once_per_process_and_again_after_closing(tmp_path):
    owner = open_store(directory=tmp_path / "store", create=True)
    with owner, pytest.raises(StoreInUse, match=str(os.getpid())):
        open_store(directory=tmp_path / "store")
    open_store(directory=tmp_path / "store").close()


def test_what_is_no_store_is_not_opened(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "file").touch()
    for name, create in [
        ("none", False),
        ("empty", False),
        ("photos", False),
        ("photos", True),
        ("file", True),
    ]:
        with pytest.raises(StoreMissing, match="ingest a region to create it"):
            open_store(directory=tmp_path / name, create=create)
    open_store(directory=tmp_path / "empty", create=True).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_unavailable(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreUnavailable, match="write"):
        open_store(directory=tmp_path / "store", create=True)


def test_a_store_keeps_its_regions_when_reopened(tmp_path, make_spec, fill, grid, unit_vectors):
    with open_store(directory=tmp_path / "store", create=True) as store:
        fill(store, make_spec(), grid(40), unit_vectors(40))
        request = SearchRequest(vectors=unit_vectors(2), limit=5, model_digest="m1")
        before = (store.regions(), store.search(request))
    with open_store(directory=tmp_path / "store") as store:
        assert (store.regions(), store.search(request)) == before


def test_damage_is_reported_with_its_place(tmp_path, make_spec, fill, grid, unit_vectors):
    root = tmp_path / "store"
    with open_store(directory=root, create=True) as store:
        fill(store, make_spec(), grid(10), unit_vectors(10))
    meta = root / "regions/brig/g1/meta.json"
    live = root / "regions/brig/live.json"
    good_meta, good_live = meta.read_text(), live.read_text()
    fewer = json.loads(good_meta)
    fewer["release"]["patches"] = 9

    for file, content in [
        (meta, "{"),
        (meta, json.dumps({"format": 99})),
        (meta, json.dumps({"format": 1, "spec": {}})),
        (live, "[]"),
        (live, json.dumps({"generation": "gone"})),
    ]:
        file.write_text(content)
        with pytest.raises(DamagedStore, match="regions/brig"):
            open_store(directory=root)
        meta.write_text(good_meta)
        live.write_text(good_live)

    meta.write_text(json.dumps(fewer))
    with (
        open_store(directory=root) as store,
        pytest.raises(DamagedStore, match="10 patches, 9 were promoted"),
    ):
        store.search(SearchRequest(vectors=unit_vectors(1), limit=5, model_digest="m1"))


def test_an_abandoned_creation_is_replaced(tmp_path, make_spec):
    root = tmp_path / "store"
    with open_store(directory=root, create=True) as store:
        (root / "regions/brig/g1/shard/segments").mkdir(parents=True)
        assert store.generations("brig") == []
        store.create_generation(make_spec())
        assert store.count("brig", "g1") == 0
