"""Split: what a benchmark asks, what it searches in and what counts as right.

Knows paths and folder listings; does not open an image and does not know networks or metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clnet_model.errors import BadPairs


class QueryKind(Enum):
    """What a query image shows."""

    PANORAMA = "panorama"  # the full circle
    PERSPECTIVE = "perspective"
    AERIAL = "aerial"  # from a drone or a satellite


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """Q queries to be found among P gallery images.

    `centre_heading_deg` is the heading (clockwise from true north) of the column in the middle of every
    query, None where it is unknown or differs; each loader's docstring says why it holds.
    `query_heading_deg` is set instead where every query has its own. Semi-positives cover the query's place
    without being its pair: they are neither right nor counted as wrong by a hit rate.

    Raises:
        BadPairs: lengths that do not fit, gallery rows out of range, a query without a right answer.
    """

    name: str
    queries: tuple[Path, ...]
    gallery: tuple[Path, ...]  # no path twice
    positives: tuple[NDArray[np.intp], ...]  # per query the gallery rows that are right
    query_kind: QueryKind
    centre_heading_deg: float | None
    semi_positives: tuple[NDArray[np.intp], ...] | None = None
    query_lnglat: NDArray[np.float64] | None = None  # (Q, 2)
    gallery_lnglat: NDArray[np.float64] | None = None  # (P, 2)
    query_heading_deg: NDArray[np.float64] | None = None  # (Q,)

    def __post_init__(self) -> None:
        _check_paths(self)
        _check_rows(self, "positives", self.positives, at_least=1)
        if self.semi_positives is not None:
            _check_rows(self, "semi_positives", self.semi_positives, at_least=0)
        _check_lnglat(self.name, "query_lnglat", self.query_lnglat, len(self.queries))
        _check_lnglat(self.name, "gallery_lnglat", self.gallery_lnglat, len(self.gallery))
        _check_headings(self)


def own_pairs(count: int) -> tuple[NDArray[np.intp], ...]:
    """Query i is right at gallery row i and nowhere else."""
    return tuple(np.arange(count, dtype=np.intp)[:, None])


def choose(field: str, value: str, allowed: Sequence[str]) -> str:
    """The value itself.

    Raises:
        BadPairs: it is not among the allowed ones.
    """
    if value not in allowed:
        raise BadPairs(f"{field} is {value!r}; choose one of {', '.join(allowed)}")
    return value


def absent(path: Path, tree: str) -> BadPairs:
    """The error for a file or folder that a benchmark's layout needs."""
    return BadPairs(f"{path} is missing; expected is\n{tree}")


def read_lines(path: Path, *, tree: str) -> list[tuple[int, str]]:
    """The lines of a list that are not blank, with their numbers from 1.

    Raises:
        BadPairs: no such file, nothing in it, or no text.
    """
    if not path.is_file():
        raise absent(path, tree)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadPairs(f"{path} cannot be read ({error}); unpack it again") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise BadPairs(f"{path} is empty; unpack it again")
    return lines


def missing_images(paths: Sequence[Path], *, tree: str) -> list[Path]:
    """Those of the paths that are not on disk; every folder is listed once, no file is opened.

    Raises:
        BadPairs: a whole folder is missing.
    """
    listed: dict[Path, set[str]] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        if not folder.is_dir():
            raise absent(folder, tree)
        listed[folder] = {entry.name for entry in folder.iterdir()}
    return [path for path in paths if path.name not in listed[path.parent]]


def check_images(paths: Sequence[Path], *, tree: str) -> None:
    """Refuse a benchmark whose lists name images that are not there.

    Raises:
        BadPairs: names the first missing image, how many are missing and the expected tree.
    """
    missing = missing_images(paths, tree=tree)
    if missing:
        raise BadPairs(
            f"{missing[0]} is listed but missing ({len(missing):,} of {len(paths):,} listed images are); "
            f"unpack the archives completely. Expected is\n{tree}"
        )


def _check_paths(split: Split) -> None:
    for field, paths in (("queries", split.queries), ("gallery", split.gallery)):
        if not paths:
            raise BadPairs(f"{split.name}: {field} is empty; a split needs at least one image there")
    if len(set(split.gallery)) < len(split.gallery):
        twice = next(path for path, count in Counter(split.gallery).items() if count > 1)
        raise BadPairs(f"{split.name}: gallery holds {twice} twice; list every image once")


def _check_rows(split: Split, field: str, rows: tuple[NDArray[np.intp], ...], *, at_least: int) -> None:
    if len(rows) != len(split.queries):
        raise BadPairs(
            f"{split.name}: {field} has {len(rows)} entries for {len(split.queries)} queries; "
            "give one array of gallery rows per query"
        )
    counts = np.fromiter((len(entry) for entry in rows), np.intp, len(rows))
    short = np.flatnonzero(counts < at_least)
    if len(short):
        raise BadPairs(
            f"{split.name}: {field} of {split.queries[short[0]]} is empty ({len(short)} such queries); "
            "leave out queries that have no right gallery image"
        )
    flat = np.concatenate(rows)
    outside = np.flatnonzero((flat < 0) | (flat >= len(split.gallery)))
    if len(outside):
        query = int(np.searchsorted(counts.cumsum(), outside[0], side="right"))
        raise BadPairs(
            f"{split.name}: {field} of {split.queries[query]} names gallery row {flat[outside[0]]}; "
            f"rows run from 0 to {len(split.gallery) - 1}"
        )


def _check_lnglat(name: str, field: str, lnglat: NDArray[np.float64] | None, count: int) -> None:
    if lnglat is None:
        return
    if lnglat.shape != (count, 2):
        raise BadPairs(f"{name}: {field} is {lnglat.shape}, expected ({count}, 2): longitude, latitude")
    wrong = np.flatnonzero(~(np.abs(lnglat) <= (180.0, 90.0)).all(axis=1))  # catches NaN too
    if len(wrong):
        raise BadPairs(
            f"{name}: {field}[{wrong[0]}] is {tuple(lnglat[wrong[0]].tolist())}; "
            "give longitude -180..180, then latitude -90..90"
        )


def _check_headings(split: Split) -> None:
    if split.centre_heading_deg is not None and not np.isfinite(split.centre_heading_deg):
        raise BadPairs(
            f"{split.name}: centre_heading_deg is {split.centre_heading_deg}; "
            "give finite degrees, or None where it is unknown"
        )
    own = split.query_heading_deg
    if own is not None and (own.shape != (len(split.queries),) or not np.isfinite(own).all()):
        raise BadPairs(
            f"{split.name}: query_heading_deg is {own.shape}; "
            f"give {len(split.queries)} finite degrees, or None where they are unknown"
        )
