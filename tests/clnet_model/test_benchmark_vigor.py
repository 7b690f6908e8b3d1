"""VIGOR as released, with corrected labels and as rearranged; what a broken tree is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clnet_model.benchmarks.vigor import vigor
from clnet_model.errors import BadPairs

CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def vigor_names(city: str) -> tuple[list[str], list[str]]:
    """Four panoramas and six aerial images, with positions that no other city has."""
    lat = 40 + CITIES.index(city)
    panoramas = [f"pa,no-{i},{lat}.0000{i},-87.50000{i},.jpg" for i in range(4)]
    satellites = [f"satellite_{lat}.000{i}_-87.500{i}.png" for i in range(6)]
    return panoramas, satellites


def build_vigor(root: Path, *, labels: str, suffix: str, panorama: str, satellite: str) -> Path:
    """Panorama i lies in aerial image i; images i+1, i+2 and i+3 (modulo 6) are its semi-positives."""
    for city in CITIES:
        panoramas, satellites = vigor_names(city)
        touch(*(root / panorama.format(city=city) / name for name in panoramas))
        touch(*(root / satellite.format(city=city) / name for name in satellites))
        lines = [
            " ".join([name, *(f"{satellites[(i + k) % 6]} {10.0 * k} -5.0" for k in range(4))])
            for i, name in enumerate(panoramas)
        ]
        folder = root / labels / city
        write(folder / "satellite_list.txt", *satellites)
        write(folder / f"same_area_balanced_train{suffix}.txt", *lines[:3])
        write(folder / f"same_area_balanced_test{suffix}.txt", *lines[3:])
        write(folder / f"pano_label_balanced{suffix}.txt", *lines)
    return root


LAYOUTS = {
    "released": {
        "labels": "splits",
        "suffix": "",
        "panorama": "{city}/panorama",
        "satellite": "{city}/satellite",
    },
    "corrected": {
        "labels": "splits__corrected",
        "suffix": "__corrected",
        "panorama": "{city}/panorama",
        "satellite": "{city}/satellite",
    },
    "rearranged": {
        "labels": "splits",
        "suffix": "",
        "panorama": "ground/{city}",
        "satellite": "satellite/{city}",
    },
}


@pytest.fixture
def vigor_root(tmp_path: Path) -> Path:
    return build_vigor(tmp_path, **LAYOUTS["released"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vigor_same_area_test_in_every_layout(layout: str, tmp_path: Path) -> None:
    root = build_vigor(tmp_path, **LAYOUTS[layout])
    split = vigor(root, "test", "same")
    assert split.name == "VIGOR same-area test"
    assert (len(split.queries), len(split.gallery)) == (4, 24)  # every aerial image of the four cities
    assert (
        split.queries[1]
        == root / LAYOUTS[layout]["panorama"].format(city="NewYork") / vigor_names("NewYork")[0][3]
    )
    assert [rows.tolist() for rows in split.positives] == [[3], [9], [15], [21]]
    assert split.semi_positives is not None
    assert split.semi_positives[1].tolist() == [10, 11, 6]
    assert split.centre_heading_deg == 0.0


@pytest.mark.parametrize(
    ("part", "area", "cities", "queries"),
    [
        ("train", "same", CITIES, 12),
        ("train", "cross", ("NewYork", "Seattle"), 8),
        ("test", "cross", ("Chicago", "SanFrancisco"), 8),
    ],
)
def test_vigor_areas(vigor_root: Path, part: str, area: str, cities: tuple[str, ...], queries: int) -> None:
    split = vigor(vigor_root, part, area)
    assert len(split.queries) == queries
    assert {path.parent.parent.name for path in split.gallery} == set(cities)
    for query, rows in zip(split.queries, split.positives, strict=True):
        panoramas, satellites = vigor_names(query.parent.parent.name)
        assert split.gallery[rows[0]].name == satellites[panoramas.index(query.name)]


def test_vigor_positions_are_read_from_the_names(vigor_root: Path) -> None:
    split = vigor(vigor_root, "test", "cross")
    assert split.query_lnglat is not None
    assert split.gallery_lnglat is not None
    assert split.query_lnglat[1].tolist() == [-87.500001, 40.00001]
    assert split.gallery_lnglat[7].tolist() == [-87.5001, 42.0001]


def test_vigor_prefers_the_labels_of_the_release(vigor_root: Path) -> None:
    write(vigor_root / "splits__corrected/Chicago/satellite_list.txt", "satellite_1_1.png")
    assert len(vigor(vigor_root).gallery) == 24


def damage_vigor_line(root: Path) -> None:
    path = root / "splits/Chicago/same_area_balanced_test.txt"
    path.write_text(path.read_text().rsplit(" ", 2)[0])


def damage_vigor_name(root: Path) -> None:
    path = root / "splits/Seattle/same_area_balanced_test.txt"
    path.write_text(path.read_text().replace("satellite_43.0003", "satellite_9.9"))


def damage_vigor_position(root: Path) -> None:
    _, satellites = vigor_names("Chicago")
    listing = root / "splits/Chicago/satellite_list.txt"
    write(listing, *satellites, "overview.png")
    touch(root / "Chicago/satellite/overview.png")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda root: (root / "splits").rename(root / "labels"), r"/splits is missing; expected is\nROOT"),
        (
            lambda root: (root / "splits/NewYork/satellite_list.txt").unlink(),
            "NewYork/satellite_list.txt is missing",
        ),
        (
            lambda root: (root / "splits/Seattle/same_area_balanced_test.txt").unlink(),
            "Seattle/same_area_balanced_test.txt is missing",
        ),
        (lambda root: (root / "Chicago/panorama").rename(root / "panos"), "Chicago/panorama is missing"),
        (lambda root: (root / "Chicago/satellite").rename(root / "sats"), "Chicago/satellite is missing"),
        (
            lambda root: (root / "Seattle/satellite" / vigor_names("Seattle")[1][2]).unlink(),
            r"satellite_43.0002_-87.5002.png is listed but missing \(1 of 28",
        ),
        (damage_vigor_line, r"same_area_balanced_test.txt, line 1 has 11 fields, expected 13"),
        (damage_vigor_name, r"line 1 names satellite_9.9_-87.5003.png, which is not in satellite_list.txt"),
        (damage_vigor_position, r"overview.png: the name gives no position"),
    ],
)
def test_broken_vigor_is_told_what_is_wrong(
    vigor_root: Path, damage: Callable[[Path], object], complaint: str
) -> None:
    damage(vigor_root)
    with pytest.raises(BadPairs, match=complaint):
        vigor(vigor_root)
