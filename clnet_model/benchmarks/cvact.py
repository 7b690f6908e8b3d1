"""CVACT: panoramas and Google aerial images of Canberra; 35,532 + 8,884 pairs, and 92,802 to test on.

Liu and Li, "Lending Orientation to Neural Networks for Cross-view Geo-localization", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clnet_model.benchmarks.base import QueryKind, Split, absent, choose, missing_images, own_pairs
from clnet_model.benchmarks.near import rows_within
from clnet_model.errors import BadPairs

CVACT_TREE = """\
ROOT
├── ACT_data.mat (with the code of github.com/Liumouliu/OriCNN)
├── ANU_data_small (train, val)
│   ├── streetview/PANO_ID_grdView.jpg …
│   └── satview_polish/PANO_ID_satView_polish.jpg …
└── ANU_data_test (test), inside as ANU_data_small"""

PARTS = ("train", "val", "test", "test-pairs")
INDICES = {"train": ("trainSet", "trainInd"), "val": ("valSet", "valInd"), "test": ("valSetAll", "valInd")}
RADIUS_M = 5.0  # OriCNN, Matlab/RecallGeo.m: an answer is right at L2 distance <= 5 in utm
# 44,415 street images are reported for the 44,416 pairs of train and val
# (github.com/qianmingduowan/Sat2Density issue 7); published loaders leave such pairs out (Sample4Geo,
# dataset/cvact.py). A larger share of gaps means a half-unpacked archive.
TOLERATED_SHARE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ActData:
    """What ACT_data.mat holds: every panorama's id and position, and the rows of train, val and test."""

    pano_ids: tuple[str, ...]
    utm_m: NDArray[np.float64]  # (N, 2)
    rows: Mapping[str, NDArray[np.intp]]  # from 0

    def __post_init__(self) -> None:
        count = len(self.pano_ids)
        if self.utm_m.shape != (count, 2) or not np.isfinite(self.utm_m).all():
            raise BadPairs(
                f"ACT_data: utm is {self.utm_m.shape}, expected finite ({count}, 2); download it again"
            )
        for part, rows in self.rows.items():
            if not len(rows) or rows.min() < 0 or rows.max() >= count:
                raise BadPairs(f"ACT_data: {part} points outside its {count} ids; download it again")


def cvact(root: Path, part: str = "val") -> Split:
    """`part` train, val (one right image per query), test or test-pairs.

    test is the published protocol: any aerial image within 5 m of the query is right. test-pairs takes the
    query's own image only, as Sample4Geo and the work compared with it evaluate the same images
    (eval_cvact.py): the two recalls must not be mixed. The centre column looks north: the `_grdView` images
    are the aligned ones (OriCNN, input_data_ACT_test.py), and the polar transform that matches them has north
    in the middle (cross_view_localization_DSM, data_preparation.py).

    Raises:
        BadPairs: a file is missing or broken, or SciPy, which reads ACT_data.mat, is not installed.
    """
    choose("part", part, PARTS)
    return cvact_split(root, part, read_act_data(root / "ACT_data.mat"))


def cvact_split(root: Path, part: str, data: ActData) -> Split:
    """The split when ACT_data is already in memory."""
    test = choose("part", part, PARTS).startswith("test")
    rows = data.rows["test" if test else part]
    folder = root / ("ANU_data_test" if test else "ANU_data_small")
    streets = [folder / "streetview" / f"{data.pano_ids[row]}_grdView.jpg" for row in rows]
    aerials = [folder / "satview_polish" / f"{data.pano_ids[row]}_satView_polish.jpg" for row in rows]
    kept = _complete_pairs(streets, aerials)
    left_out = len(rows) - len(kept)
    return Split(
        name=f"CVACT {part}" + (f" ({left_out} pairs without images left out)" if left_out else ""),
        queries=tuple(streets[row] for row in kept),
        gallery=tuple(aerials[row] for row in kept),
        positives=rows_within(data.utm_m[rows[kept]], radius_m=RADIUS_M)
        if part == "test"
        else own_pairs(len(kept)),
        query_kind=QueryKind.PANORAMA,
        centre_heading_deg=0.0,
    )


def read_act_data(path: Path) -> ActData:
    """Read ACT_data.mat.

    Raises:
        BadPairs: the file is missing or broken, or SciPy is not installed.
    """
    if not path.is_file():
        raise absent(path, CVACT_TREE)
    try:
        from scipy.io import loadmat  # type: ignore[import-not-found, import-untyped, unused-ignore] # noqa: PLC0415
    except ImportError as error:
        raise BadPairs(f"{path} is a MATLAB file; to read it, install SciPy: pip install scipy") from error
    try:
        return _act_data(loadmat(path, simplify_cells=True))
    except BadPairs:
        raise
    except Exception as error:  # what loadmat raises on a damaged file has no common base
        raise BadPairs(f"{path} cannot be read ({error}); download it again") from error


def _act_data(mat: Mapping[str, Any]) -> ActData:
    return ActData(
        pano_ids=tuple(str(pano_id).strip() for pano_id in np.atleast_1d(mat["panoIds"])),
        utm_m=np.asarray(mat["utm"], np.float64).reshape(-1, 2),
        rows={
            part: np.atleast_1d(mat[group][field]).ravel().astype(np.intp) - 1  # MATLAB counts from 1
            for part, (group, field) in INDICES.items()
        },
    )


def _complete_pairs(streets: list[Path], aerials: list[Path]) -> NDArray[np.intp]:
    """Rows of the pairs whose two images are on disk."""
    missing = missing_images([*streets, *aerials], tree=CVACT_TREE)
    gone = set(missing)
    pairs = zip(streets, aerials, strict=True)
    whole = np.array([street not in gone and aerial not in gone for street, aerial in pairs])
    if (~whole).sum() > TOLERATED_SHARE * len(whole):
        raise BadPairs(
            f"{missing[0]} is listed but missing ({(~whole).sum():,} of {len(whole):,} pairs lack an image); "
            f"unpack the archives completely. Expected is\n{CVACT_TREE}"
        )
    return np.flatnonzero(whole)
