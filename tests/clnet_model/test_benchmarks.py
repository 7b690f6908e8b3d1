"""Splits, CVUSA and University-1652 as published, benchmarks by name, and the documented trees."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from clnet_model.benchmarks import QueryKind, Split, open_benchmark
from clnet_model.benchmarks.cvact import CVACT_TREE
from clnet_model.benchmarks.cvusa import CVUSA_TREE, cvusa
from clnet_model.benchmarks.manifest import MANIFEST_TREE
from clnet_model.benchmarks.university import UNIVERSITY1652_TREE, university1652
from clnet_model.benchmarks.vigor import VIGOR_TREE
from clnet_model.errors import BadPairs


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# Split


def make_split(**changes: object) -> Split:
    fields: dict[str, object] = {
        "name": "tiny",
        "queries": (Path("a.jpg"), Path("b.jpg")),
        "gallery": (Path("x.png"), Path("y.png"), Path("z.png")),
        "positives": (np.array([0]), np.array([1, 2])),
        "query_kind": QueryKind.PANORAMA,
        "centre_heading_deg": 0.0,
    }
    return Split(**(fields | changes))  # type: ignore[arg-type]


def test_split_keeps_what_fits() -> None:
    split = make_split(query_lnglat=np.zeros((2, 2)), semi_positives=(np.array([1]), np.array([], np.intp)))
    assert len(split.queries) == 2
    assert split.query_heading_deg is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"queries": ()}, "queries is empty"),
        ({"gallery": (Path("x.png"), Path("y.png"), Path("x.png"))}, "gallery holds x.png twice"),
        ({"positives": (np.array([0]),)}, "positives has 1 entries for 2 queries"),
        ({"positives": (np.array([0]), np.array([], np.intp))}, "positives of b.jpg is empty"),
        ({"positives": (np.array([0]), np.array([1, 3]))}, "positives of b.jpg names gallery row 3"),
        ({"positives": (np.array([-1]), np.array([1]))}, "positives of a.jpg names gallery row -1"),
        ({"semi_positives": (np.array([9]), np.array([1]))}, "semi_positives of a.jpg names gallery row 9"),
        ({"query_lnglat": np.zeros((3, 2))}, r"query_lnglat is \(3, 2\), expected \(2, 2\)"),
        ({"gallery_lnglat": np.array([[47.0, -122.0]] * 3)}, r"gallery_lnglat\[0\] is \(47.0, -122.0\)"),
        ({"query_lnglat": np.full((2, 2), np.nan)}, r"query_lnglat\[0\]"),
        ({"centre_heading_deg": float("nan")}, "centre_heading_deg is nan"),
        ({"query_heading_deg": np.zeros(3)}, "query_heading_deg"),
    ],
)
def test_split_that_does_not_fit_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(BadPairs, match=complaint):
        make_split(**changes)


# CVUSA


@pytest.fixture
def cvusa_root(tmp_path: Path) -> Path:
    for part, ids in (("train", (1, 2, 3)), ("val", (7, 4))):
        names = [
            (f"bingmap/19/{i:07}.jpg", f"streetview/panos/{i:07}.jpg", f"streetview/annotations/{i:07}.png")
            for i in ids
        ]
        write(tmp_path / "splits" / f"{part}-19zl.csv", *(",".join(row) for row in names))
        touch(*(tmp_path / name for row in names for name in row[:2]))
    return tmp_path


def test_cvusa_pairs_in_the_order_of_the_list(cvusa_root: Path) -> None:
    split = cvusa(cvusa_root)
    assert split.name == "CVUSA val"
    assert split.queries == tuple(cvusa_root / f"streetview/panos/{i:07}.jpg" for i in (7, 4))
    assert split.gallery == tuple(cvusa_root / f"bingmap/19/{i:07}.jpg" for i in (7, 4))
    assert [rows.tolist() for rows in split.positives] == [[0], [1]]
    assert split.query_kind is QueryKind.PANORAMA
    assert split.centre_heading_deg == 0.0
    assert len(cvusa(cvusa_root, "train").queries) == 3


def test_cvusa_names_the_missing_list_and_prints_the_tree(cvusa_root: Path) -> None:
    (cvusa_root / "splits/val-19zl.csv").unlink()
    with pytest.raises(BadPairs, match=r"splits/val-19zl.csv is missing; expected is\nROOT"):
        cvusa(cvusa_root)


def test_cvusa_names_the_missing_folder(cvusa_root: Path) -> None:
    (cvusa_root / "bingmap").rename(cvusa_root / "bing")
    with pytest.raises(BadPairs, match="bingmap/19 is missing"):
        cvusa(cvusa_root)


def test_listed_images_that_are_missing_are_counted(cvusa_root: Path) -> None:
    for i in (2, 3):
        (cvusa_root / f"streetview/panos/{i:07}.jpg").unlink()
    with pytest.raises(
        BadPairs, match=r"0000002.jpg is listed but missing \(2 of 6 listed images are\)"
    ) as told:
        cvusa(cvusa_root, "train")
    assert "└── streetview/panos" in str(told.value)


def test_cvusa_names_the_broken_line(cvusa_root: Path) -> None:
    write(
        cvusa_root / "splits/val-19zl.csv", "bingmap/19/0000004.jpg,streetview/panos/0000004.jpg", "bingmap"
    )
    with pytest.raises(BadPairs, match=r"val-19zl.csv, line 2: 'bingmap' is no pair"):
        cvusa(cvusa_root)


def test_empty_list_is_refused(cvusa_root: Path) -> None:
    write(cvusa_root / "splits/val-19zl.csv", "", " ")
    with pytest.raises(BadPairs, match=r"val-19zl\.csv is empty"):
        cvusa(cvusa_root)


def test_part_that_does_not_exist_is_refused(cvusa_root: Path) -> None:
    with pytest.raises(BadPairs, match="part is 'test'; choose one of train, val"):
        cvusa(cvusa_root, "test")


# University-1652


@pytest.fixture
def university_root(tmp_path: Path) -> Path:
    def images(folder: str, building: str, *names: str) -> None:
        touch(*(tmp_path / folder / building / name for name in names))

    for building in ("0001", "0002", "0003"):  # 0003 is asked for by nobody
        images("test/gallery_satellite", building, f"{building}.jpg")
        images("test/gallery_drone", building, "image-01.jpeg", "image-02.jpeg")
    for building in ("0001", "0002"):
        images("test/query_satellite", building, f"{building}.jpg")
        images("test/query_drone", building, "image-01.jpeg", "image-02.jpeg")
    images("train/satellite", "0839", "0839.jpg")
    images("train/drone", "0839", "image-01.jpeg", "image-02.jpeg")
    touch(tmp_path / "test/gallery_drone/.DS_Store", tmp_path / "test/gallery_drone/0001/notes.txt")
    return tmp_path


def test_university_drone_to_satellite(university_root: Path) -> None:
    split = university1652(university_root)
    assert split.name == "University-1652 drone->satellite test"
    assert (len(split.queries), len(split.gallery)) == (4, 3)
    assert [rows.tolist() for rows in split.positives] == [[0], [0], [1], [1]]
    assert split.query_kind is QueryKind.AERIAL
    assert split.centre_heading_deg is None


def test_university_satellite_to_drone(university_root: Path) -> None:
    split = university1652(university_root, "satellite->drone")
    assert (len(split.queries), len(split.gallery)) == (2, 6)
    assert [rows.tolist() for rows in split.positives] == [[0, 1], [2, 3]]
    assert {split.gallery[row].parent.name for row in split.positives[1]} == {"0002"}


@pytest.mark.parametrize(("task", "shape"), [("drone->satellite", (2, 1)), ("satellite->drone", (1, 2))])
def test_university_train(university_root: Path, task: str, shape: tuple[int, int]) -> None:
    split = university1652(university_root, task, "train")
    assert (len(split.queries), len(split.gallery)) == shape


def test_university_names_what_is_missing(university_root: Path) -> None:
    (university_root / "test/gallery_satellite/0002/0002.jpg").unlink()
    with pytest.raises(BadPairs, match="gallery_satellite/0002 holds no image"):
        university1652(university_root)
    (university_root / "test/gallery_satellite/0002").rmdir()
    with pytest.raises(BadPairs, match=r"query_drone/0002 has no counterpart in .*gallery_satellite \(1 b"):
        university1652(university_root)
    (university_root / "test/gallery_satellite").rename(university_root / "test/satellite")
    with pytest.raises(BadPairs, match=r"test/gallery_satellite is missing; expected is\nROOT"):
        university1652(university_root)
    with pytest.raises(BadPairs, match="task is 'ground->satellite'"):
        university1652(university_root, "ground->satellite")


# By name


def test_benchmarks_open_by_name(cvusa_root: Path) -> None:
    assert open_benchmark("CVUSA", cvusa_root, part="train").name == "CVUSA train"


def test_university_has_two_spellings(university_root: Path) -> None:
    assert len(open_benchmark("University-1652", university_root, task="satellite->drone").queries) == 2


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        (
            "imagenet",
            {},
            "no benchmark is called 'imagenet'; choose one of cvusa, cvact, vigor, university1652",
        ),
        ("vigor", {"task": "x"}, "vigor has no option 'task'; it takes part, area"),
        ("vigor", {"area": "all"}, "area is 'all'; choose one of same, cross"),
        ("cvact", {"part": "all"}, "part is 'all'; choose one of train, val, test, test-pairs"),
    ],
)
def test_unknown_names_and_options_are_refused(
    tmp_path: Path, name: str, options: dict[str, str], complaint: str
) -> None:
    with pytest.raises(BadPairs, match=re.escape(complaint)):
        open_benchmark(name, tmp_path, **options)


@pytest.mark.parametrize("tree", [CVUSA_TREE, CVACT_TREE, VIGOR_TREE, UNIVERSITY1652_TREE, MANIFEST_TREE])
def test_the_documentation_shows_the_trees_that_messages_print(tree: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    assert tree in page.read_text(encoding="utf-8")
