"""CVUSA: 35,532 + 8,884 pairs of panoramas and Bing images across the USA.

Workman et al., ICCV 2015; the subset and split of Zhai et al., CVPR 2017, which all later work reports.
"""

from __future__ import annotations

from pathlib import Path

from clnet_model.benchmarks.base import QueryKind, Split, check_images, choose, own_pairs, read_lines
from clnet_model.errors import BadPairs

CVUSA_TREE = """\
ROOT (the release's folder CVPR_subset)
├── splits/train-19zl.csv, splits/val-19zl.csv
├── bingmap/19/0000001.jpg …
└── streetview/panos/0000001.jpg …"""


def cvusa(root: Path, part: str = "val") -> Split:
    """`part` train or val; val is what papers report, one right image per query.

    A line of the list is `aerial,street,annotation`, relative to ROOT (Sample4Geo, dataset/cvusa.py). The
    panoramas' centre column looks north: they are north-aligned (OriCNN's author, github.com/Liumouliu/OriCNN
    issue 1), and SAFA's polar transform, whose centre column is the aerial image's upward direction, matches
    them without a shift (cross_view_localization_DSM, data_preparation.py). They are cropped above and below
    (1232 x 224 px): the horizon is not known to be the middle row.

    Raises:
        BadPairs: a list or an image is missing, or a line is broken.
    """
    listing = root / "splits" / f"{choose('part', part, ('train', 'val'))}-19zl.csv"
    pairs = [_pair(root, listing, number, line) for number, line in read_lines(listing, tree=CVUSA_TREE)]
    aerials = tuple(aerial for aerial, _ in pairs)
    streets = tuple(street for _, street in pairs)
    check_images([*aerials, *streets], tree=CVUSA_TREE)
    return Split(
        name=f"CVUSA {part}",
        queries=streets,
        gallery=aerials,
        positives=own_pairs(len(pairs)),
        query_kind=QueryKind.PANORAMA,
        centre_heading_deg=0.0,
    )


def _pair(root: Path, listing: Path, number: int, line: str) -> tuple[Path, Path]:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) < 2 or not all(fields[:2]):
        raise BadPairs(
            f"{listing}, line {number}: {line!r} is no pair; a line is aerial,street,annotation "
            "(paths relative to ROOT)"
        )
    return root / fields[0], root / fields[1]
