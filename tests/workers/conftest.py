"""A small orthophoto, and an encoder and a store that follow the protocols without a network or an engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from ray import cloudpickle

from clnet_model.calibration import Calibration
from clnet_model.preprocess import CanvasSpec
from tiling.ortho import Ortho, open_ortho

Vectors = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
WriteSheet = Callable[..., Path]

SIZE_PX = 640  # of the synthetic sheet
GSD_M = 0.5


class ThumbnailEncoder:
    """An `Encoder` whose vector is the patch's own 4×4 thumbnail."""

    digest = "thumbnail00000001"
    dim = 48
    canvas = CanvasSpec()
    patch_px = 32
    side_m = 70.0
    zoom = 20
    turns = 1
    calibration = Calibration()

    def embed_ground(self, canvases: Pixels) -> Vectors:
        return self.embed_aerial(canvases[:, :32, :32, :3])

    def embed_aerial(self, patches: Pixels) -> Vectors:
        cells = patches.reshape(len(patches), 4, 8, 4, 8, 3).mean(axis=(2, 4), dtype=np.float64)
        flat = cells.reshape(len(patches), -1) - 128.0
        return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), np.float32)


class CollapsedEncoder(ThumbnailEncoder):
    """Maps every patch to the same vector."""

    digest = "collapsed00000001"

    def embed_aerial(self, patches: Pixels) -> Vectors:
        vectors = np.zeros((len(patches), self.dim), np.float32)
        vectors[:, 0] = 1.0
        return vectors


@pytest.fixture(scope="session", autouse=True)
def _fakes_travel_to_workers() -> Iterator[None]:
    """Ray workers cannot import this file by name, so its classes travel with their code."""
    module = sys.modules[ThumbnailEncoder.__module__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def load_thumbnail() -> Callable[[Path | None], ThumbnailEncoder]:
    """A loader as `ingest` takes it."""
    return lambda _: ThumbnailEncoder()


@pytest.fixture
def load_collapsed() -> Callable[[Path | None], ThumbnailEncoder]:
    """A loader of a broken model."""
    return lambda _: CollapsedEncoder()


@pytest.fixture
def write_sheet(tmp_path: Path) -> WriteSheet:
    """write_sheet(name=, seed=, column=, empty_share=) -> path of a textured sheet, 320 m a side."""

    def write(name: str = "sheet.tif", *, seed: int = 0, column: int = 0, empty_share: float = 0.0) -> Path:
        path = tmp_path / name
        rng = np.random.default_rng(seed)
        coarse = rng.integers(1, 256, (3, SIZE_PX // 16, SIZE_PX // 16), np.uint8)
        pixels = coarse.repeat(16, axis=1).repeat(16, axis=2)
        noise = rng.integers(-1, 1, pixels.shape)  # so that no block of the file compresses to nothing
        pixels = np.clip(pixels.astype(int) + noise, 1, 255).astype(np.uint8)
        pixels[:, :, : round(SIZE_PX * empty_share)] = 0
        transform = Affine(GSD_M, 0, 2_642_000 + column * SIZE_PX * GSD_M, 0, -GSD_M, 1_130_000)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=SIZE_PX,
            height=SIZE_PX,
            count=3,
            dtype="uint8",
            crs="EPSG:2056",
            transform=transform,
            nodata=0,
            tiled=True,
            blockxsize=128,
            blockysize=128,
            compress="deflate",
        ) as dataset:
            dataset.write(pixels)
        return path

    return write


@pytest.fixture
def damage() -> Callable[[Path], None]:
    """damage(path): overwrite a stretch in the middle of a file, so that it opens but does not decode."""

    def spoil(path: Path) -> None:
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + len(data) // 8] = bytes(len(data) // 8)
        path.write_bytes(data)

    return spoil


@pytest.fixture
def ortho(write_sheet: WriteSheet) -> Ortho:
    """One sheet, a quarter of it nodata."""
    return open_ortho([write_sheet(empty_share=0.25)])
