"""Encoders: street canvases and aerial patches in, unit vectors out. What ingest and serving use of
this room."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clnet_model.calibration import Calibration
from clnet_model.checkpoint import SHIPPED, load_checkpoint
from clnet_model.errors import BadConfig
from clnet_model.model import CLNet
from clnet_model.precision import mixed
from clnet_model.preprocess import CanvasSpec, Pixels

Vectors = NDArray[np.float32]


class Encoder(Protocol):
    """Embeds each view on its own; vectors of both views compare by their inner product."""

    @property
    def digest(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def canvas(self) -> CanvasSpec: ...
    @property
    def patch_px(self) -> int: ...
    @property
    def side_m(self) -> float: ...
    @property
    def zoom(self) -> int: ...
    @property
    def calibration(self) -> Calibration: ...
    @property
    def turns(self) -> int:
        """A canvas turned by 1 / turns of the circle has its vector rolled by D / turns places; 1: not so."""
        ...

    def embed_ground(self, canvases: Pixels) -> Vectors:
        """Canvases (N, H, W, 4) uint8 -> (N, D) float32, L2-normalised."""
        ...

    def embed_aerial(self, patches: Pixels) -> Vectors:
        """North-up patches (N, S, S, 3) uint8 -> (N, D) float32, L2-normalised."""
        ...


class TorchEncoder:
    """A CLNet on one torch device; splits large inputs so that memory stays bounded.

    Computes in bfloat16 where the chip does so natively (`precision`, as in TrainConfig): vectors of the same
    image by two precisions differ by 0.002, a hundredth of the distance between neighbouring patches.
    """

    def __init__(
        self,
        model: CLNet,
        *,
        digest: str,
        calibration: Calibration | None = None,
        batch_size: int = 64,
        device: str = "cpu",
        precision: str = "auto",
    ) -> None:
        self.model = model.to(device).eval()
        self.digest = digest
        self.calibration = calibration or Calibration()
        self.batch_size = batch_size
        self.device = device
        self.precision = precision

    @property
    def dim(self) -> int:
        return self.model.config.dim

    @property
    def canvas(self) -> CanvasSpec:
        return self.model.config.canvas

    @property
    def patch_px(self) -> int:
        return self.model.config.patch_px

    @property
    def side_m(self) -> float:
        return self.model.config.side_m

    @property
    def zoom(self) -> int:
        return self.model.config.zoom

    @property
    def turns(self) -> int:
        return self.model.config.turns

    def embed_ground(self, canvases: Pixels) -> Vectors:
        spec = self.canvas
        _check(canvases, (spec.height_px, spec.width_px, 4), "canvases")
        return self._embed(canvases, self.model.embed_ground)

    def embed_aerial(self, patches: Pixels) -> Vectors:
        _check(patches, (self.patch_px, self.patch_px, 3), "patches")
        return self._embed(patches, self.model.embed_aerial)

    def _embed(self, images: Pixels, embed: _Embed) -> Vectors:
        found = np.empty((len(images), self.dim), np.float32)
        with torch.inference_mode(), mixed(self.precision, torch.device(self.device)):
            for start in range(0, len(images), self.batch_size):
                block = np.ascontiguousarray(images[start : start + self.batch_size].transpose(0, 3, 1, 2))
                vectors = embed(torch.from_numpy(block).to(self.device))
                found[start : start + len(block)] = vectors.float().cpu().numpy()
        return found


class _Embed(Protocol):
    def __call__(self, images: torch.Tensor, /) -> torch.Tensor: ...


def load_encoder(
    path: Path | None = None, *, batch_size: int = 64, device: str | None = None
) -> TorchEncoder:
    """The encoder of a checkpoint folder; None takes the one shipped with this package.

    Raises:
        clnet_model.errors.BadCheckpoint: missing or broken.
    """
    checkpoint = load_checkpoint(path or SHIPPED)
    return TorchEncoder(
        checkpoint.model,
        digest=checkpoint.digest,
        calibration=checkpoint.calibration,
        batch_size=batch_size,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )


def _check(images: Pixels, shape: tuple[int, int, int], what: str) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        raise BadConfig(f"{what} are {images.dtype} {images.shape}: this network takes uint8 (N, {shape})")
