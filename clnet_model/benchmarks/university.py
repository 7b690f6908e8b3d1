"""University-1652: buildings of 72 universities from drones (54 views each) and from satellites.

Zheng, Wei and Yang, "University-1652: A Multi-view Multi-source Benchmark for Drone-based Geo-localization",
ACM Multimedia 2020.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clnet_model.benchmarks.base import QueryKind, Split, absent, choose
from clnet_model.errors import BadPairs

UNIVERSITY1652_TREE = """\
ROOT (University-1652 or University-Release)
├── train
│   ├── drone/0839/image-01.jpeg …
│   └── satellite/0839/0839.jpg …
└── test
    ├── query_drone/0001/image-01.jpeg …, gallery_satellite/0001/0001.jpg …
    └── query_satellite/0001/0001.jpg …, gallery_drone/0001/image-01.jpeg …"""

TASKS = ("drone->satellite", "satellite->drone")
SUFFIXES = (".jpg", ".jpeg", ".png")


def university1652(root: Path, task: str = "drone->satellite", part: str = "test") -> Split:
    """`task` drone->satellite or satellite->drone; `part` train or test.

    Images of the same building are right: one for a drone query, 54 for a satellite query. The test galleries
    hold the 701 buildings that are asked for and 250 others (951 satellite, 51,355 drone images; README of
    layumi/University1652-Baseline). Drone images look obliquely from all sides: no heading.

    Raises:
        BadPairs: a folder is missing or empty, or a building that is asked for is not in the gallery.
    """
    queries, gallery = _folders(root, choose("task", task, TASKS), choose("part", part, ("train", "test")))
    asked, offered = _buildings(queries), _buildings(gallery)
    unknown = sorted(asked.keys() - offered.keys())
    if unknown:
        raise BadPairs(
            f"{queries / unknown[0]} has no counterpart in {gallery} ({len(unknown)} buildings have none); "
            f"unpack the archive completely. Expected is\n{UNIVERSITY1652_TREE}"
        )
    rows = _rows(offered)
    return Split(
        name=f"University-1652 {task} {part}",
        queries=tuple(path for images in asked.values() for path in images),
        gallery=tuple(path for images in offered.values() for path in images),
        positives=tuple(rows[building] for building, images in asked.items() for _ in images),
        query_kind=QueryKind.AERIAL,
        centre_heading_deg=None,
    )


def _folders(root: Path, task: str, part: str) -> tuple[Path, Path]:
    asked, offered = task.split("->")
    if part == "train":
        return root / "train" / asked, root / "train" / offered
    return root / "test" / f"query_{asked}", root / "test" / f"gallery_{offered}"


def _buildings(folder: Path) -> dict[str, list[Path]]:
    """Images by building, both sorted."""
    if not folder.is_dir():
        raise absent(folder, UNIVERSITY1652_TREE)
    found = {entry.name: _images(entry) for entry in _visible(folder) if entry.is_dir()}
    if not found:
        raise BadPairs(f"{folder} holds no folder per building; expected is\n{UNIVERSITY1652_TREE}")
    return found


def _visible(folder: Path) -> list[Path]:
    """Sorted, without what file managers leave behind."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _images(building: Path) -> list[Path]:
    images = [path for path in _visible(building) if path.suffix.lower() in SUFFIXES]
    if not images:
        raise BadPairs(
            f"{building} holds no image ({', '.join(SUFFIXES)}); unpack the archive completely. "
            f"Expected is\n{UNIVERSITY1652_TREE}"
        )
    return images


def _rows(buildings: dict[str, list[Path]]) -> dict[str, NDArray[np.intp]]:
    ends = np.cumsum([len(images) for images in buildings.values()], dtype=np.intp)
    runs = zip(buildings.items(), ends, strict=True)
    return {building: np.arange(end - len(images), end, dtype=np.intp) for (building, images), end in runs}
