"""A benchmark's training split as GeoPairs on disk, so that it trains like a city.

Images are read, shrunk to the network's size and written one block at a time; a run maps the arrays into
memory. Where a benchmark gives no positions its pairs are laid out a kilometre apart: then every other patch
is a negative, and hard ones come from similarity mining alone. Where it does, patches near a query share its
target (VIGOR's semi-positives do not count as wrong, in proportion to how near they are).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from clnet_model.benchmark_vectors import (
    PHOTO_HFOV_DEG,
    Progress,
    aerial_reader,
    read_blocks,
    street_reader,
)
from clnet_model.benchmarks.base import QueryKind, Split
from clnet_model.data import mark_complete
from clnet_model.errors import BadPairs
from clnet_model.model import CLNetConfig
from clnet_model.preprocess import Pixels

APART_M = 1000.0
ZONE_APART_M = 1e7  # UTM zones side by side, wider than any is


def hold_out(split: Split, *, every: int = 20) -> tuple[Split, Split]:
    """Two splits of one: the rest to train on, and every so many-th query with its own aerial images to
    choose the checkpoint by. No aerial image that is right for a held-out query is left to train on.

    Raises:
        BadPairs: too few queries to hold any out, or nothing is left.
    """
    rows = np.arange(len(split.queries))
    kept = rows % every == every - 1
    held = np.unique(np.concatenate([split.positives[row] for row in rows[kept]] or [np.zeros(0, np.intp)]))
    touched = np.array([bool(np.isin(positive, held).any()) for positive in split.positives])
    if not kept.any() or touched.all():
        raise BadPairs(f"{split.name}: {len(rows)} queries are too few to hold out one in {every}; add pairs")
    others = np.setdiff1d(np.arange(len(split.gallery)), held)
    return _part(split, rows[~touched], others, "train"), _part(split, rows[kept], held, "held out")


def save_pairs(
    split: Split,
    config: CLNetConfig,
    folder: Path,
    *,
    hfov_deg: float = PHOTO_HFOV_DEG,
    progress: Progress | None = None,
) -> Path:
    """Write the split as the network takes it; the folder is complete when `pairs.json` is there, and is then
    taken as it is.

    Raises:
        BadPairs: images that cannot be read, queries that were not taken from the street, or a folder that
            holds other pairs.
        BadCamera: no camera has this field of view.
    """
    if split.query_kind is QueryKind.AERIAL:
        raise BadPairs(f"{split.name}: CLNet trains on street images; its queries were taken from above")
    seen_deg = 360.0 if split.query_kind is QueryKind.PANORAMA else hfov_deg
    made_of = _made_of(split, config, seen_deg)
    if (folder / "pairs.json").exists():
        _check_made_of(folder, made_of)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    streets = street_reader(split, config.canvas, hfov_deg)
    patches = aerial_reader(split.gallery, config.patch_px)
    _write(
        folder / "canvases.npy", len(split.queries), read_blocks(split.queries, streets, "street", progress)
    )
    _write(
        folder / "patches.npy", len(split.gallery), read_blocks(split.gallery, patches, "aerial", progress)
    )
    street_xy_m, patch_xy_m = positions_m(split)
    np.save(folder / "street_xy_m.npy", street_xy_m)
    np.save(folder / "patch_xy_m.npy", patch_xy_m)
    np.save(folder / "hfov_deg.npy", np.full(len(split.queries), seen_deg, np.float32))
    gsd_m = config.side_m / config.patch_px
    mark_complete(folder, city=split.name, margin_px=0, gsd_m=gsd_m, made_of=made_of)
    return folder


def _made_of(split: Split, config: CLNetConfig, seen_deg: float) -> str:
    """A digest of all that decides what the pairs are; of images it knows the paths alone."""
    placed = (split.query_lnglat, split.gallery_lnglat, split.query_heading_deg)
    parts = [
        *(split.name, split.query_kind.value, split.centre_heading_deg, seen_deg),
        *(asdict(config.canvas), config.patch_px, config.side_m),
        *([str(path.absolute()) for path in paths] for paths in (split.queries, split.gallery)),
        [rows.tolist() for rows in split.positives],
        *(None if values is None else values.tolist() for values in placed),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _check_made_of(folder: Path, made_of: str) -> None:
    about = folder / "pairs.json"
    try:
        found = json.loads(about.read_text()).get("made_of")
    except (OSError, ValueError) as error:
        raise BadPairs(f"{about} cannot be read ({error}); delete {folder}") from error
    if found != made_of:
        raise BadPairs(
            f"{folder} was made from other data or with other options than are asked for now; "
            "choose a fresh --out, or delete that folder"
        )


def positions_m(split: Split) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where queries (Q, 2) and gallery images (P, 2) are, metres east and north; see the module."""
    if split.query_lnglat is not None and split.gallery_lnglat is not None:
        return _utm(split.query_lnglat), _utm(split.gallery_lnglat)
    place = _places(split)
    gallery = np.stack([APART_M * place, np.zeros(len(place))], axis=1)
    return gallery[[positive[0] for positive in split.positives]], gallery


def _places(split: Split) -> NDArray[np.intp]:
    """The number (P,) of each gallery image's place: images that are right for one query are of one place,
    also by way of others (union-find)."""
    leader = list(range(len(split.gallery)))

    def place(row: int) -> int:
        while leader[row] != row:
            leader[row] = row = leader[leader[row]]
        return row

    for positive in split.positives:
        places = [place(int(row)) for row in positive]
        for each in places:
            leader[each] = min(places)
    return np.array([place(row) for row in range(len(leader))], np.intp)


def _utm(lnglat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every position in its own UTM zone; zones lie side by side."""
    zone = np.clip(((lnglat[:, 0] + 180) // 6 + 1).astype(int), 1, 60)
    found = np.empty_like(lnglat)
    for each in np.unique(zone):
        rows = zone == each
        to_zone = Transformer.from_crs("EPSG:4326", f"EPSG:{32600 + each}", always_xy=True)
        east, north = to_zone.transform(lnglat[rows, 0], lnglat[rows, 1])
        found[rows] = np.stack([east + each * ZONE_APART_M, north], axis=1)
    return found


def _write(path: Path, count: int, blocks: Iterator[Pixels]) -> None:
    """The blocks as one array on disk, never whole in memory."""
    done, held = 0, None
    for block in blocks:
        if held is None:
            shape = (count, *block.shape[1:])
            held = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        held[done : done + len(block)] = block
        done += len(block)
    if held is not None:
        held.flush()


def _part(split: Split, queries: NDArray[np.intp], gallery: NDArray[np.intp], what: str) -> Split:
    """The split of these queries and these gallery images alone."""
    new_row = np.full(len(split.gallery), -1, np.intp)
    new_row[gallery] = np.arange(len(gallery))

    def renumbered(rows: tuple[NDArray[np.intp], ...]) -> tuple[NDArray[np.intp], ...]:
        found = (new_row[rows[query]] for query in queries)
        return tuple(each[each >= 0] for each in found)

    def rows_of(values: NDArray[np.float64] | None, rows: NDArray[np.intp]) -> NDArray[np.float64] | None:
        return None if values is None else values[rows]

    return replace(
        split,
        name=f"{split.name} ({what})",
        queries=tuple(split.queries[row] for row in queries),
        gallery=tuple(split.gallery[row] for row in gallery),
        positives=renumbered(split.positives),
        semi_positives=None if split.semi_positives is None else renumbered(split.semi_positives),
        query_lnglat=rows_of(split.query_lnglat, queries),
        gallery_lnglat=rows_of(split.gallery_lnglat, gallery),
        query_heading_deg=rows_of(split.query_heading_deg, queries),
    )
