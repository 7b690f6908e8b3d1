"""CVACT as published: the two archives, the 5 m rule, its gaps, and positions within a radius."""

from __future__ import annotations

import importlib.util
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from clnet_model.benchmarks.cvact import ActData, cvact, cvact_split, read_act_data
from clnet_model.benchmarks.near import rows_within
from clnet_model.errors import BadPairs

ACT = ActData(
    pano_ids=("aa", "bb", "cc", "dd", "ee"),
    utm_m=np.array([[693_000.0, 6_090_000.0], [693_003, 6_090_004], [693_003, 6_090_009.1], [0, 0], [9, 9]]),
    rows={"train": np.array([3, 4]), "val": np.array([1]), "test": np.array([0, 1, 2])},
)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def act_images(folder: Path, ids: tuple[str, ...]) -> None:
    touch(*(folder / "streetview" / f"{i}_grdView.jpg" for i in ids))
    touch(*(folder / "satview_polish" / f"{i}_satView_polish.jpg" for i in ids))


@pytest.fixture
def cvact_root(tmp_path: Path) -> Path:
    act_images(tmp_path / "ANU_data_small", ("bb", "dd", "ee"))
    act_images(tmp_path / "ANU_data_test", ("aa", "bb", "cc"))
    return tmp_path


def test_cvact_val_and_train_are_pairs_of_the_small_archive(cvact_root: Path) -> None:
    val, train = cvact_split(cvact_root, "val", ACT), cvact_split(cvact_root, "train", ACT)
    assert val.queries == (cvact_root / "ANU_data_small/streetview/bb_grdView.jpg",)
    assert [path.name for path in train.gallery] == ["dd_satView_polish.jpg", "ee_satView_polish.jpg"]
    assert [rows.tolist() for rows in train.positives] == [[0], [1]]
    assert val.centre_heading_deg == 0.0


def test_cvact_test_takes_every_image_within_5_m(cvact_root: Path) -> None:
    split = cvact_split(cvact_root, "test", ACT)
    assert split.queries[0].parent == cvact_root / "ANU_data_test/streetview"
    # aa to bb is exactly 5 m, bb to cc 5.1 m
    assert [rows.tolist() for rows in split.positives] == [[0, 1], [0, 1], [2]]


def test_cvact_test_pairs_takes_the_own_image_only(cvact_root: Path) -> None:
    split = cvact_split(cvact_root, "test-pairs", ACT)
    assert split.name == "CVACT test-pairs"
    assert [rows.tolist() for rows in split.positives] == [[0], [1], [2]]


def test_cvact_half_unpacked_is_refused(cvact_root: Path) -> None:
    (cvact_root / "ANU_data_test/satview_polish/bb_satView_polish.jpg").unlink()
    with pytest.raises(BadPairs, match=r"bb_satView_polish.jpg is listed but missing \(1 of 3 pairs"):
        cvact_split(cvact_root, "test", ACT)


def test_cvact_leaves_out_the_odd_pair_that_the_release_lacks(tmp_path: Path) -> None:
    ids = tuple(f"{i:04}" for i in range(1000))
    rows = np.arange(1000)
    data = ActData(pano_ids=ids, utm_m=np.zeros((1000, 2)), rows={"train": rows, "val": rows, "test": rows})
    act_images(tmp_path / "ANU_data_small", ids[:5] + ids[6:])
    split = cvact_split(tmp_path, "train", data)
    assert split.name == "CVACT train (1 pairs without images left out)"
    assert len(split.queries) == len(split.gallery) == 999
    assert split.gallery[5].name.startswith("0006")
    assert split.positives[5].tolist() == [5]


def test_cvact_names_the_missing_folder_and_data(cvact_root: Path) -> None:
    with pytest.raises(BadPairs, match=r"ACT_data.mat is missing; expected is\nROOT"):
        cvact(cvact_root)
    (cvact_root / "ANU_data_small").rename(cvact_root / "small")
    with pytest.raises(BadPairs, match="ANU_data_small/streetview is missing"):
        cvact_split(cvact_root, "val", ACT)


def test_act_data_that_points_outside_is_refused() -> None:
    with pytest.raises(BadPairs, match="train points outside its 1 ids"):
        ActData(pano_ids=("aa",), utm_m=np.zeros((1, 2)), rows={"train": np.array([1])})


@pytest.mark.skipif(importlib.util.find_spec("scipy") is not None, reason="SciPy is installed")
def test_without_scipy_the_message_says_what_to_install(tmp_path: Path) -> None:
    touch(tmp_path / "ACT_data.mat")
    with pytest.raises(BadPairs, match="pip install scipy"):
        cvact(tmp_path)


def test_act_data_is_read_from_matlab(cvact_root: Path) -> None:
    io = pytest.importorskip("scipy.io", reason="SciPy reads .mat files; it is not a dependency")
    groups = {
        group: {field: ACT.rows[part][:, None] + 1}
        for part, group, field in (
            ("train", "trainSet", "trainInd"),
            ("val", "valSet", "valInd"),
            ("test", "valSetAll", "valInd"),
        )
    }
    io.savemat(cvact_root / "ACT_data.mat", {"panoIds": list(ACT.pano_ids), "utm": ACT.utm_m, **groups})
    data = read_act_data(cvact_root / "ACT_data.mat")
    assert data.pano_ids == ACT.pano_ids
    assert np.array_equal(data.utm_m, ACT.utm_m)
    assert all(np.array_equal(data.rows[part], rows) for part, rows in ACT.rows.items())
    assert len(cvact(cvact_root, "test").queries) == 3
    (cvact_root / "ACT_data.mat").write_bytes(b"no matlab file" * 20)
    with pytest.raises(BadPairs, match="cannot be read"):
        cvact(cvact_root)


def test_rows_within_equals_all_distances() -> None:
    xy = np.random.default_rng(1).uniform(0, 60, (300, 2))
    distance = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))
    found = rows_within(xy, radius_m=5.0, block=64)
    assert all(
        np.array_equal(rows, np.flatnonzero(d <= 5.0)) for rows, d in zip(found, distance, strict=True)
    )


def test_rows_within_of_cvact_size_stays_small() -> None:
    xy = np.random.default_rng(2).uniform(0, 20_000, (92_802, 2))
    tracemalloc.start()
    found = rows_within(xy, radius_m=5.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == len(xy)
    assert peak < 100e6  # the distances alone would be 69 GB
