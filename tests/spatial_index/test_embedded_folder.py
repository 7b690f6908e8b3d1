"""The embedded store's folder: one owner, and nothing else opened as a store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spatial_index.errors import StoreInUse, StoreMissing, StoreUnavailable
from spatial_index.store import SearchRequest, open_store

OWNER = """
import sys
from collections.abc import Iterator
from pathlib import Path
from spatial_index.store import open_store

store = open_store(directory=Path(sys.argv[1]), create=True)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[int]:
    """Another process that has the store open; its id."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "store")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"open\n"
        yield process.pid
        process.stdin.close()


def test_a_store_in_use_names_its_owner(owner: int, tmp_path):
    with pytest.raises(StoreInUse, match=rf"in use by process {owner}; stop that process"):
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


def test_a_first_start_that_was_killed_is_done_again(tmp_path):
    for left in (["regions"], ["lock", "regions", ".store.json.new"]):
        root = tmp_path / "-".join(left)
        (root / "regions").mkdir(parents=True)
        for name in set(left) - {"regions"}:
            (root / name).touch()
        with pytest.raises(StoreMissing, match="ingest a region to create it"):
            open_store(directory=root)
        open_store(directory=root, create=True).close()
        open_store(directory=root).close()
    (tmp_path / "others" / "regions" / "brig").mkdir(parents=True)
    with pytest.raises(StoreMissing, match="other files"):
        open_store(directory=tmp_path / "others", create=True)


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


def test_an_abandoned_creation_is_replaced(tmp_path, make_spec):
    root = tmp_path / "store"
    with open_store(directory=root, create=True) as store:
        (root / "regions/brig/g1/shard/segments").mkdir(parents=True)
        assert store.generations("brig") == []
        store.create_generation(make_spec())
        assert store.count("brig", "g1") == 0
