"""Benchmark images on their way to vectors: which branch, which heading, what happens to damaged files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clnet_model.benchmark_vectors import BLOCK, camera_of, embed_gallery, embed_queries, to_patch
from clnet_model.benchmarks.base import QueryKind, Split, own_pairs
from clnet_model.calibration import Calibration
from clnet_model.encoder import Vectors
from clnet_model.errors import BadCamera, BadPairs
from clnet_model.preprocess import CanvasSpec, Panorama, Perspective, Pixels


@dataclass
class ColourEncoder:
    """Embeds the colour of the middle, and which branch it was."""

    digest: str = "colour"
    dim: int = 4
    canvas: CanvasSpec = field(default_factory=lambda: CanvasSpec(height_px=8, width_px=32))
    patch_px: int = 8
    side_m: float = 70.0
    zoom: int = 20
    calibration: Calibration = field(default_factory=Calibration)
    turns: int = 1

    def embed_ground(self, canvases: Pixels) -> Vectors:
        return self._middle(canvases[:, 4, 16, :3], branch=0.0)

    def embed_aerial(self, patches: Pixels) -> Vectors:
        return self._middle(patches[:, 4, 4], branch=1.0)

    def _middle(self, colours: Pixels, branch: float) -> Vectors:
        return np.column_stack([colours / 255.0, np.full(len(colours), branch)]).astype(np.float32)


def split_of(
    folder: Path, colours: Sequence[int], kind: QueryKind = QueryKind.PANORAMA, **known: object
) -> Split:
    """One query and one aerial image per grey value."""
    paths: dict[str, list[Path]] = {"street": [], "aerial": []}
    for number, grey in enumerate(colours):
        for side, size in (("street", (64, 32)), ("aerial", (20, 20))):
            paths[side].append(folder / f"{side}{number}.png")
            Image.new("RGB", size, (grey, grey, grey)).save(paths[side][-1])
    return Split(
        name="greys",
        queries=tuple(paths["street"]),
        gallery=tuple(paths["aerial"]),
        positives=own_pairs(len(colours)),
        query_kind=kind,
        centre_heading_deg=known.pop("centre_heading_deg", None),  # type: ignore[arg-type]
        **known,  # type: ignore[arg-type]
    )


def test_rows_keep_their_order_across_blocks(tmp_path: Path) -> None:
    colours = [number % 256 for number in range(BLOCK + 3)]
    shares: list[float] = []
    split = split_of(tmp_path, colours)
    found = embed_gallery(ColourEncoder(), split, progress=lambda _, share: shares.append(share))
    np.testing.assert_allclose(found[:, 0], np.array(colours, np.float32) / 255)
    assert shares[-1] == 1
    assert len(shares) == 2


@pytest.mark.parametrize(
    ("kind", "branch"), [(QueryKind.PANORAMA, 0), (QueryKind.PERSPECTIVE, 0), (QueryKind.AERIAL, 1)]
)
def test_queries_go_through_the_branch_of_their_kind(tmp_path: Path, kind: QueryKind, branch: int) -> None:
    found = embed_queries(ColourEncoder(), split_of(tmp_path, [10, 200], kind))
    assert found[:, 3].tolist() == [branch, branch]


def test_headings_come_from_the_split(tmp_path: Path) -> None:
    common = split_of(tmp_path, [1, 2], centre_heading_deg=30.0)
    own = split_of(tmp_path, [1, 2], query_heading_deg=np.array([40.0, 50.0]))
    unknown = split_of(tmp_path, [1, 2], QueryKind.PERSPECTIVE)
    assert camera_of(common, 1) == Panorama(heading_deg=30.0)
    assert camera_of(own, 1) == Panorama(heading_deg=50.0)
    assert camera_of(unknown, 1, hfov_deg=60.0) == Perspective(heading_deg=0.0, hfov_deg=60.0)


def test_all_unreadable_images_are_named_at_once(tmp_path: Path) -> None:
    split = split_of(tmp_path, [5] * 4)
    split.gallery[1].write_bytes(b"not an image")
    split.gallery[3].unlink()
    with pytest.raises(BadPairs, match=r"2 of 4 images cannot be read.*aerial1\.png.*aerial3\.png"):
        embed_gallery(ColourEncoder(), split)


def test_many_unreadable_images_are_counted(tmp_path: Path) -> None:
    split = split_of(tmp_path, [5] * 8)
    for path in split.queries:
        path.write_bytes(b"")
    with pytest.raises(BadPairs, match=r"8 of 8 images .*street4\.png.*and 3 more") as found:
        embed_queries(ColourEncoder(), split)
    assert "street5.png" not in str(found.value)


def test_impossible_field_of_view_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(BadCamera, match="hfov_deg is 400"):
        embed_queries(ColourEncoder(), split_of(tmp_path, [5], QueryKind.PERSPECTIVE), hfov_deg=400.0)


def test_patches_average_areas() -> None:
    stripes = np.zeros((40, 80, 3), np.uint8)
    stripes[:, ::2] = 200
    assert set(to_patch(stripes, 8).ravel().tolist()) == {100}
    assert to_patch(stripes, 64).shape == (64, 64, 3)
