"""The demo's city cannot be located by colour: a matcher of colour histograms stays near chance.

It is a strong one: joint RGB and chroma histograms, raw and with each view's mean removed (which undoes a
common change of season, light or exposure), the best of all taken. What beats it has seen structure, not
palette.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from mercantile import LngLat
from PIL import Image

from cli.demo import DEFAULT_SEED
from simulation.dataset import Dataset, read_manifest, simulate_city
from simulation.styles import HELD_OUT_STYLES
from tiling.grid import GridSpec, patch_at, plan_blocks
from tiling.ortho import cut, open_ortho

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Histogram = Callable[[Pixels], Floats]

PANORAMAS = 120
LIMIT_RECALL_AT_1 = 0.05


def rgb_histogram(pixels: Pixels) -> Floats:
    """Joint histogram of 8 levels per channel, as square roots (so that a dot product is Bhattacharyya's)."""
    counts, _ = np.histogramdd(pixels.reshape(-1, 3), bins=(8, 8, 8), range=[(0, 256)] * 3)
    return np.asarray(np.sqrt(counts.ravel() / counts.sum()))


def chroma_histogram(pixels: Pixels) -> Floats:
    """Joint histogram of red and green shares, blind to brightness."""
    colour = pixels.reshape(-1, 3).astype(np.float64) + 1.0
    shares = colour[:, :2] / colour.sum(axis=1, keepdims=True)
    counts, _ = np.histogramdd(shares, bins=(24, 24), range=[(0.15, 0.55)] * 2)
    return np.asarray(np.sqrt(counts.ravel() / max(counts.sum(), 1.0)))


def recall_at_1(queries: Floats, gallery: Floats, truth: npt.NDArray[np.int64], *, centred: bool) -> float:
    if centred:
        queries, gallery = queries - queries.mean(axis=0), gallery - gallery.mean(axis=0)
    scores = _unit(queries) @ _unit(gallery).T  # (queries, patches)
    own = scores[np.arange(len(truth)), truth]
    return float(np.mean((scores >= own[:, None]).sum(axis=1) == 1))


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("city")
    return simulate_city(
        out, seed=DEFAULT_SEED, style=HELD_OUT_STYLES[0], size_m=512.0, panoramas=PANORAMAS, photos=0
    )


@pytest.fixture(scope="module")
def patches(city: Dataset) -> dict[str, Pixels]:
    ortho = open_ortho([city.ortho_dir])
    blocks = plan_blocks(ortho.footprint, GridSpec())
    return {image.patch.quadkey: image.pixels for block in blocks for image in cut(ortho, block, size_px=64)}


@pytest.fixture(scope="module")
def views(city: Dataset, patches: dict[str, Pixels]) -> list[tuple[str, Pixels]]:
    """The true patch of every panorama whose patch was cut, and the ground half of the panorama."""
    found = []
    for row in read_manifest(city.manifest_path).itertuples(index=False):
        quadkey = patch_at(LngLat(lng=row.geometry.x, lat=row.geometry.y), GridSpec()).quadkey
        if quadkey in patches:
            pixels = np.asarray(Image.open(Path(city.root) / row.path).convert("RGB"))
            found.append((quadkey, pixels[pixels.shape[0] // 2 :]))
    return found


@pytest.mark.parametrize("histogram", [rgb_histogram, chroma_histogram])
@pytest.mark.parametrize("centred", [False, True])
def test_colour_histograms_stay_near_chance(
    histogram: Histogram, centred: bool, patches: dict[str, Pixels], views: list[tuple[str, Pixels]]
) -> None:
    keys = list(patches)
    gallery = np.stack([histogram(pixels) for pixels in patches.values()])
    queries = np.stack([histogram(pixels) for _, pixels in views])
    truth = np.array([keys.index(quadkey) for quadkey, _ in views])
    assert len(views) > PANORAMAS * 0.9
    recall = recall_at_1(queries, gallery, truth, centred=centred)
    assert recall < LIMIT_RECALL_AT_1


@pytest.mark.parametrize("histogram", [rgb_histogram, chroma_histogram])
def test_the_matcher_itself_works(histogram: Histogram, patches: dict[str, Pixels]) -> None:
    """Control: with the colours intact it finds a quarter of a patch's pixels among all patches."""
    gallery = np.stack([histogram(pixels) for pixels in patches.values()])
    queries = np.stack([histogram(pixels[::2, ::2]) for pixels in patches.values()])
    assert recall_at_1(queries, gallery, np.arange(len(patches)), centred=False) > 0.9
