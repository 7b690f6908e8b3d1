"""A full disk is a typed error: what was acknowledged stays, the live generation answers, work goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spatial_index.errors import StoreFull
from spatial_index.files import check_room
from spatial_index.store import SearchRequest, open_store

# In a process of its own: without the check for room, the kernel ends whoever writes to a full memory map.
WRITER = """
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
import numpy as np
from shapely.geometry import box
from store_worker import open_place, record_of, spec_of, vectors_of

from spatial_index.errors import StoreFull
from spatial_index.shard import EMPTY_BYTES
from spatial_index.store import SearchRequest

disk = Path(sys.argv[1])
vectors = vectors_of("g1")
coverage = box(7, 46, 9, 47)


def batch(generation, first):
    numbers = range(first, first + 500)
    return [record_of(generation, number, vectors[number % len(vectors)]) for number in numbers]


def answers(store):
    query = SearchRequest(vectors=vectors[:1], limit=1000, model_digest="m1")
    assert {hit.generation for hit in store.search(query).hits[0]} == {"g1"}
    assert store.search(query).candidates == 500


def refused(call):
    try:
        call()
    except StoreFull as error:
        assert "free some space and go on" in str(error), error
        return True
    return False


def fill(store, generation):
    written = 0
    while not refused(lambda: store.write("brig", generation, batch(generation, written))):
        written += 500
    return written


store = open_place(str(disk / "store"))
store.create_generation(spec_of("g1"))
store.write("brig", "g1", batch("g1", 0))
store.promote("brig", "g1", coverage=coverage)
store.create_generation(spec_of("g2"))

ballast = disk / "ballast"
ballast.write_bytes(bytes(shutil.disk_usage(disk).free - EMPTY_BYTES - 8_000_000))
written = fill(store, "g2")
print("written", written)
assert store.count("brig", "g2") == written
answers(store)

rest = os.open(ballast, os.O_WRONLY | os.O_APPEND)  # somebody else takes the rest
try:
    while os.write(rest, bytes(4096)):
        pass
except OSError as error:
    print(error)
os.close(rest)
assert refused(lambda: store.promote("brig", "g2", coverage=coverage))
assert refused(lambda: store.create_generation(spec_of("g3")))
assert refused(lambda: store.write("brig", "g2", batch("g2", written)))
answers(store)
assert store.region("brig").generation == "g1"

store.close()
store = open_place(str(disk / "store"))
assert refused(lambda: answers(store))  # to start, the engine writes two small files
assert refused(lambda: store.count("brig", "g2"))

ballast.unlink()
answers(store)
assert store.count("brig", "g2") == written
store.write("brig", "g2", batch("g2", written))
store.promote("brig", "g2", coverage=coverage)
assert store.region("brig").patches == written + 500
print("went on")
"""


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], Path]]:
    """Makes file systems in memory; on them even holes that are read through a memory map take room."""
    disks: list[Path] = []

    def make(size_mb: int) -> Path:
        disk = Path(tempfile.mkdtemp(prefix="clnet-disk-"))
        disks.append(disk)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "tmpfs", str(disk)]
        try:
            mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("no mount command here")
        if mounted.returncode:
            pytest.skip(f"mounting a small disk is not permitted: {mounted.stderr.strip()}")
        return disk

    yield make
    for disk in disks:
        if disk.is_mount():
            subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


def test_a_full_disk_refuses_writes_and_keeps_everything_else(small_disk):
    disk = small_disk(192)  # a shard takes 46 MB of it
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(disk), str(Path(__file__).parent)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr[-2000:])
    assert "No space left on device" in done.stdout
    assert "went on" in done.stdout


@pytest.mark.slow
def test_a_server_with_a_full_disk_says_so_and_goes_on_when_there_is_room(
    small_disk, make_qdrant, make_spec, make_records, fill, grid, unit_vectors
):
    disk = small_disk(400)
    server = make_qdrant(disk=disk)
    server.start()
    try:
        with open_store(directory=disk, url=server.url) as store:
            fill(store, make_spec(), grid(100), unit_vectors(100))
            spec = make_spec(generation="g2")
            records = make_records(spec, grid(200), unit_vectors(200))
            store.create_generation(spec)
            (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 40_000_000))

            with pytest.raises(StoreFull, match=r"No space left on device.*free some space"):
                store.write("brig", "g2", records)
            query = SearchRequest(vectors=unit_vectors(1), limit=5, model_digest="m1")
            assert store.search(query).candidates == 100

            (disk / "ballast").unlink()
            store.write("brig", "g2", records)
            assert store.count("brig", "g2") == 200
    finally:
        server.stop()


def test_room_is_compared_with_what_is_needed(tmp_path):
    check_room(tmp_path, 1)
    with pytest.raises(StoreFull, match=r"needs?.* 1,000,000,000 MB; free some space"):
        check_room(tmp_path, 10**15)
