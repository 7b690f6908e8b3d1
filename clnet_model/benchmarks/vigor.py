"""VIGOR: 105,214 panoramas anywhere inside 90,618 aerial images that cover four US cities without gaps.

Zhu, Yang and Chen, "VIGOR: Cross-View Image Geo-localization beyond One-to-one Retrieval", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clnet_model.benchmarks.base import QueryKind, Split, absent, check_images, choose, read_lines
from clnet_model.errors import BadPairs

VIGOR_TREE = """\
ROOT
├── splits (or splits_new, splits__corrected)
│   └── Chicago, NewYork, SanFrancisco, Seattle
│       ├── satellite_list.txt
│       ├── same_area_balanced_train.txt, same_area_balanced_test.txt (or …__corrected.txt)
│       └── pano_label_balanced.txt (or …__corrected.txt)
├── Chicago (and the other cities)
│   ├── panorama/PANO_ID,LATITUDE,LONGITUDE,.jpg …
│   └── satellite/satellite_LATITUDE_LONGITUDE.png …
└── or, instead of the city folders: ground/CITY/… and satellite/CITY/…"""

CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")
# splits first: published retrieval numbers use it; the other two mend pixel offsets, which are not read here.
LABEL_FOLDERS = ("splits", "splits_new", "splits__corrected")
NAME_FIELDS = (1, 4, 7, 10)  # the positive, three semi-positives; each followed by its two pixel offsets
FIELDS = 13


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _City:
    panoramas: list[Path]
    satellites: list[Path]
    labels: NDArray[np.intp]  # (panoramas, 4) rows of satellites


def vigor(root: Path, part: str = "test", area: str = "same") -> Split:
    """`part` train or test; `area` same (all four cities in both) or cross (train New York and Seattle, test
    Chicago and San Francisco).

    The gallery is every aerial image of the cities in question, also those that cover no query (the release's
    dataloader.py). Three semi-positives per query: a recall counts them as wrong, the hit rate overlooks them
    (train_SAFA.py, validate_top). Positions come from the file names (data/DATASET.md). The centre column
    looks north: the panoramas are north-aligned (github.com/Jeff-Zilence/VIGOR issue 4), and SliceMatch
    (utils/VIGOR_dataset.py) measures orientation from north to the centre line with the images as they are.

    Raises:
        BadPairs: a list or an image is missing, a line is broken, or a name gives no position.
    """
    choose("part", part, ("train", "test"))
    choose("area", area, ("same", "cross"))
    labels = _labels_folder(root)
    stem = f"same_area_balanced_{part}" if area == "same" else "pano_label_balanced"
    cities = [_city(root, city, labels / city, stem) for city in _cities(part, area)]
    panoramas = tuple(path for city in cities for path in city.panoramas)
    satellites = tuple(path for city in cities for path in city.satellites)
    rows = _joined_labels(cities)
    check_images([*panoramas, *satellites], tree=VIGOR_TREE)
    return Split(
        name=f"VIGOR {area}-area {part}",
        queries=panoramas,
        gallery=satellites,
        positives=tuple(rows[:, :1]),
        semi_positives=tuple(rows[:, 1:]),
        query_kind=QueryKind.PANORAMA,
        centre_heading_deg=0.0,
        query_lnglat=_lnglat(panoramas, _panorama_position),
        gallery_lnglat=_lnglat(satellites, _satellite_position),
    )


def _cities(part: str, area: str) -> tuple[str, ...]:
    match area, part:
        case "same", _:
            return CITIES
        case "cross", "train":
            return ("NewYork", "Seattle")
        case "cross", "test":
            return ("Chicago", "SanFrancisco")
        case _:
            raise BadPairs(f"VIGOR has no {area}-area {part}")


def _labels_folder(root: Path) -> Path:
    for name in LABEL_FOLDERS:
        if (root / name).is_dir():
            return root / name
    raise absent(root / LABEL_FOLDERS[0], VIGOR_TREE)


def _city(root: Path, city: str, lists: Path, stem: str) -> _City:
    names = [name for _, name in read_lines(lists / "satellite_list.txt", tree=VIGOR_TREE)]
    row_of = {name: row for row, name in enumerate(names)}
    corrected = lists / f"{stem}__corrected.txt"
    listing = corrected if corrected.is_file() else lists / f"{stem}.txt"
    lines = read_lines(listing, tree=VIGOR_TREE)
    labelled = [_label(listing, number, line, row_of) for number, line in lines]
    ground = _first_folder(root / city / "panorama", root / "ground" / city, root / "panorama" / city)
    aerial = _first_folder(root / city / "satellite", root / "satellite" / city)
    return _City(
        panoramas=[ground / panorama for panorama, _ in labelled],
        satellites=[aerial / name for name in names],
        labels=np.array([rows for _, rows in labelled], np.intp),
    )


def _first_folder(*folders: Path) -> Path:
    """As released, else as rearranged."""
    for folder in folders:
        if folder.is_dir():
            return folder
    raise absent(folders[0], VIGOR_TREE)


def _label(listing: Path, number: int, line: str, row_of: dict[str, int]) -> tuple[str, list[int]]:
    fields = line.split()
    if len(fields) < FIELDS:
        raise BadPairs(
            f"{listing}, line {number} has {len(fields)} fields, expected {FIELDS}: a panorama, "
            "then four times an aerial image and its two pixel offsets; unpack the list again"
        )
    names = [fields[place] for place in NAME_FIELDS]
    unknown = [name for name in names if name not in row_of]
    if unknown:
        raise BadPairs(
            f"{listing}, line {number} names {unknown[0]}, which is not in satellite_list.txt beside it; "
            "take both from the same download"
        )
    return fields[0], [row_of[name] for name in names]


def _joined_labels(cities: Sequence[_City]) -> NDArray[np.intp]:
    """Labels of all cities (Q, 4) as rows of the joined gallery."""
    starts = np.cumsum([0, *(len(city.satellites) for city in cities)])
    return np.concatenate([city.labels + start for city, start in zip(cities, starts, strict=False)])


def _lnglat(paths: Sequence[Path], position: Callable[[Path], tuple[float, float]]) -> NDArray[np.float64]:
    found = np.empty((len(paths), 2))
    for row, path in enumerate(paths):
        try:
            found[row] = position(path)
        except ValueError as error:
            raise BadPairs(
                f"{path}: the name gives no position; keep the names of the release\n{VIGOR_TREE}"
            ) from error
    return found


def _panorama_position(path: Path) -> tuple[float, float]:
    _, lat, lng, _ = path.name.rsplit(",", 3)
    return float(lng), float(lat)


def _satellite_position(path: Path) -> tuple[float, float]:
    _, lat, lng = path.stem.rsplit("_", 2)
    return float(lng), float(lat)
