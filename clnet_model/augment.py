"""Batch assembly and augmentation: geometry exactly and jointly on both views, appearance on each view alone.

Joint: quarter turns, mirror images. Ground alone: heading jitter, limited field of view. Appearance:
colour mixing,
contrast, noise, blur, erasing, drawn per image, because season, light and camera of the two views never
agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clnet_model.collective import ALONE, World
from clnet_model.data import GeoPairs
from clnet_model.preprocess import CanvasSpec, Pixels
from clnet_model.sampling import BatchRows

NOISE_NUMBERS = 1 << 22
NOISE_IMAGES = 8  # get noise of their own, the next ones the same again


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Strengths; `AugmentConfig.off()` leaves images as they are."""

    turns: bool = True
    mirror: bool = True
    shift_patches: bool = True
    max_offset_m: float = (
        3.5  # camera from patch centre, per axis: half the stride at zoom 22 on the 45th parallel
    )
    heading_sigma_deg: float = 3.0
    limited_fov_share: float = 0.6
    photo_like_share: float = 0.75
    colour_mix: float = 0.15
    swap_share: float = 0.03
    grey_share: float = 0.08
    contrast: float = 0.25
    noise_max: float = 10.0
    blur_share: float = 0.15
    erase_share: float = 0.2

    def scaled(self, strength: float) -> AugmentConfig:
        """The same geometry with appearance and masks weakened to a share (0 to 1) of their strength."""
        names = ("limited_fov_share", "colour_mix", "swap_share", "grey_share", "contrast", "noise_max")
        weaker = {name: strength * getattr(self, name) for name in (*names, "blur_share", "erase_share")}
        return replace(self, **weaker)

    @staticmethod
    def off() -> AugmentConfig:
        return AugmentConfig(
            turns=False, mirror=False, shift_patches=False, heading_sigma_deg=0, limited_fov_share=0,
            colour_mix=0,
            swap_share=0, grey_share=0, contrast=0, noise_max=0, blur_share=0, erase_share=0,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Images in 0..255 as the network takes them, and the distance of every camera from every patch
    centre. Of the images a process holds its own rows, of the distances all."""

    canvases: Tensor  # (own Q, 4, H, W) float32
    patches: Tensor  # (own P, 3, S, S) float32
    distance_m: Tensor  # (Q, P) float32
    true_patch: Tensor  # (Q,) int64


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldTurn:
    """A symmetry of the square: mirror east-west first, then turn counter-clockwise by quarter circles."""

    quarters: int = 0
    mirror: bool = False

    def canvas(self, canvas: Pixels, jitter_px: int = 0) -> Pixels:
        """Apply to a canvas (H, W, 4): what stood at azimuth a now stands at (-)a - 90° * quarters."""
        turned = canvas[:, ::-1] if self.mirror else canvas
        return np.roll(turned, jitter_px - self.quarters * (canvas.shape[1] // 4), axis=1)

    def patch(self, patch: Pixels) -> Pixels:
        """Apply to a north-up patch (S, S, 3)."""
        turned = patch[:, ::-1] if self.mirror else patch
        return np.rot90(turned, self.quarters)


def noise_field(seed: int, device: torch.device, *, canvas: CanvasSpec, patch_px: int) -> Tensor:
    """What all images of a run take their noise from: to draw it anew for each batch took 40 of 118 ms.

    Where images are too large for the usual field, it is larger by what they need.
    """
    needed = NOISE_IMAGES * 3 * max(canvas.height_px * canvas.width_px, patch_px**2)
    numbers = NOISE_NUMBERS if needed < NOISE_NUMBERS else NOISE_NUMBERS + needed
    return torch.randn(numbers, generator=torch.Generator().manual_seed(seed)).to(device)


class Augmenter:
    """Assembles batches of a GeoPairs with random but joint geometry and independent appearance.

    Every process draws all random numbers of the whole batch and touches its own rows' pixels, so that images
    do not depend on the number of processes.
    """

    def __init__(
        self,
        config: AugmentConfig,
        canvas: CanvasSpec,
        *,
        seed: int,
        world: World = ALONE,
        noise: Tensor | None = None,
    ) -> None:
        self.config, self.spec, self.world = config, canvas, world
        self.rng = np.random.default_rng(seed)
        self.torch_rng = torch.Generator().manual_seed(seed)
        self.seed, self.noise = seed, noise

    def __call__(self, city: GeoPairs, rows: BatchRows) -> Batch:
        turn = WorldTurn(
            quarters=int(self.rng.integers(4)) if self.config.turns else 0,
            mirror=bool(self.config.mirror and self.rng.random() < 0.5),
        )
        if self.noise is None:
            device, patch_px = self.world.device, city.patch_px
            self.noise = noise_field(self.seed, device, canvas=self.spec, patch_px=patch_px)
        canvases = self._canvases(city, rows.street, turn)
        patches, shift_m = self._patches(city, rows, turn)
        centres = city.patch_xy_m[rows.patches] + shift_m
        offset = city.street_xy_m[rows.street][:, None] - centres[None]
        distance = torch.from_numpy(np.hypot(offset[..., 0], offset[..., 1]).astype(np.float32))
        distance = distance.to(self.world.device)
        return Batch(
            canvases=self._limit_view(self._appearance(canvases, len(rows.street)), len(rows.street)),
            patches=self._appearance(patches, len(rows.patches)),
            distance_m=distance,
            true_patch=distance.argmin(dim=1),
        )

    def _canvases(self, city: GeoPairs, street: NDArray[np.intp], turn: WorldTurn) -> Tensor:
        jitter_deg = self.rng.normal(0.0, self.config.heading_sigma_deg, len(street))
        jitter_px = np.rint(jitter_deg / 360.0 * self.spec.width_px).astype(int)
        own = self.world.own(len(street))
        turned = [
            turn.canvas(city.canvases[row], px) for row, px in zip(street[own], jitter_px[own], strict=True)
        ]
        return self._planes(turned)

    def _patches(
        self, city: GeoPairs, rows: BatchRows, turn: WorldTurn
    ) -> tuple[Tensor, NDArray[np.float64]]:
        """Own crops moved inside the margin, and how far (P, 2) all centres moved east and north."""
        size, margin = city.patch_px, city.margin_px
        right, down = (
            self._shifts(city, rows) if self.config.shift_patches else np.zeros((2, len(rows.patches)), int)
        )
        own = self.world.own(len(rows.patches))
        crops = [
            turn.patch(city.patches[row, margin + dy : margin + dy + size, margin + dx : margin + dx + size])
            for row, dx, dy in zip(rows.patches[own], right[own], down[own], strict=True)
        ]
        return self._planes(crops), np.stack([right, -down], axis=1) * city.gsd_m

    def _shifts(self, city: GeoPairs, rows: BatchRows) -> NDArray[np.intp]:
        """Pixels right and down (2, P): a camera's own patch moves to where a grid of the finest zoom could
        have
        it, the others anywhere within the margin."""
        reach = city.margin_px
        shift = self.rng.integers(-reach, reach + 1, (2, len(rows.patches)))
        away = city.street_xy_m[rows.street][:, None] - city.patch_xy_m[rows.patches][None]  # (Q, P, 2)
        own = np.hypot(away[..., 0], away[..., 1]).argmin(axis=1)
        wanted = self.rng.uniform(-self.config.max_offset_m, self.config.max_offset_m, (len(own), 2))
        move = (away[np.arange(len(own)), own] - wanted) / city.gsd_m  # (Q, 2) east, north
        shift[:, own] = np.rint(move * [1, -1]).T
        return np.clip(shift, -reach, reach)

    def _appearance(self, images: Tensor, count: int) -> Tensor:
        """Colours, contrast, noise, blur and erasing of own images (B, 3 or 4, H, W) among `count`; a fourth
        channel stays as it is."""
        rgb, rest = images[:, :3], images[:, 3:]
        rgb = self._colours(rgb, count)
        rgb = self._blur(self._with_noise(rgb, count), count)
        rgb = self._erase(rgb, count).clamp_(0, 255)
        return torch.cat([rgb, rest], dim=1) if rest.shape[1] else rgb

    def _colours(self, rgb: Tensor, count: int) -> Tensor:
        """A random 3 × 3 colour matrix near identity (or grey, or channels swapped), gain, and a
        contrast curve."""
        c = self.config
        eye = torch.eye(3, device=self.world.device)
        matrix = eye + c.colour_mix * self._normal(count, 3, 3)
        swapped = eye[self._uniform(count, 3).argsort(dim=1)]
        matrix = torch.where(self._chance(c.swap_share, count, 1, 1), swapped @ matrix, matrix)
        grey = eye.new_tensor([0.3, 0.59, 0.11]).expand(3, 3)
        matrix = torch.where(self._chance(c.grey_share, count, 1, 1), grey, matrix)
        mixed = torch.bmm(matrix, rgb.flatten(2)).view_as(rgb).clamp_(0, 255)
        bend = c.contrast * self._normal(count, 1, 1, 1).clamp(-2, 2) / 255.0
        return mixed + bend * mixed * (255.0 - mixed)

    def _with_noise(self, rgb: Tensor, count: int) -> Tensor:
        """Noise of random strength; every eighth image gets the same field."""
        if self.config.noise_max <= 0 or self.noise is None:
            return rgb
        size = NOISE_IMAGES * rgb[0].numel()
        start = int(torch.randint(max(1, len(self.noise) - size), (), generator=self.torch_rng))
        noise = self.noise[start : start + size].view(NOISE_IMAGES, *rgb.shape[1:])
        noise = noise.roll(-(self.world.own(count).start % NOISE_IMAGES), dims=0)
        strength = self.config.noise_max * self._uniform(count, 1, 1, 1).square()
        for first in range(0, len(rgb), NOISE_IMAGES):
            part = rgb[first : first + NOISE_IMAGES]
            part.addcmul_(noise[: len(part)], strength[first : first + NOISE_IMAGES])
        return rgb

    def _blur(self, rgb: Tensor, count: int) -> Tensor:
        chosen = torch.nonzero(self._drawn(count) < self.config.blur_share).flatten()
        if len(chosen):
            chosen = chosen.to(rgb.device)
            rgb[chosen] = functional.avg_pool2d(rgb[chosen], 3, stride=1, padding=1, count_include_pad=False)
        return rgb

    def _erase(self, rgb: Tensor, count: int) -> Tensor:
        """A random rectangle in some images becomes one random colour: a lorry, a parked van, a crane."""
        _, _, height, width = rgb.shape
        chosen = torch.nonzero(self._drawn(count) < self.config.erase_share).flatten()
        shape, colour = self._drawn(count, 4), 255 * self._uniform(count, 3, 1, 1)
        for row in chosen.tolist():
            high, broad, down, right = shape[row].tolist()
            tall, wide = int(height * (0.1 + 0.4 * high)), int(width * (0.05 + 0.25 * broad))
            top, left = int(down * (height - tall)), int(right * (width - wide))
            rgb[row, :, top : top + tall, left : left + wide] = colour[row]
        return rgb

    def _limit_view(self, canvases: Tensor, count: int) -> Tensor:
        """Mask part of some canvases: a sector, or what a pinhole photo of 4:3 or so would have seen."""
        limited = self._chance(self.config.limited_fov_share, count, 1, 1)
        seen = self._photo_masks(count) | ~limited  # (B, H, W)
        return canvases * seen[:, None]

    def _photo_masks(self, count: int) -> Tensor:
        """Random fields of view (B, H, W): 70 to 360 degrees wide, or 60 to 110 wide and a photo's
        aspect high."""
        spec = self.spec
        columns, rows = (torch.arange(n, device=self.world.device) for n in (spec.width_px, spec.height_px))
        azimuth = (columns + 0.5) * 360 / spec.width_px - 180
        elevation = spec.elevation_max_deg - (rows + 0.5) * (spec.elevation_span_deg / spec.height_px)
        towards = self._uniform(count, 1) * 360
        turn = torch.remainder(azimuth[None] - towards + 180, 360) - 180  # (B, W)
        photo = self._chance(self.config.photo_like_share, count, 1)
        hfov = torch.where(photo, 60 + 50 * self._uniform(count, 1), 70 + 290 * self._uniform(count, 1))
        within = (turn.abs() <= hfov / 2)[:, None]  # (B, 1, W)
        aspect = 0.55 + 0.5 * self._uniform(count, 1)
        half_height = torch.tan(torch.deg2rad(hfov.clamp(max=150) / 2)) * aspect  # at depth 1
        rise = torch.tan(torch.deg2rad(elevation))[None, :, None]  # (1, H, 1)
        depth = torch.cos(torch.deg2rad(turn.clamp(-89, 89)))[:, None]  # (B, 1, W)
        pitch = torch.tan(torch.deg2rad(4 * self._normal(count, 1)))[..., None]
        framed = (rise - pitch * depth).abs() <= (half_height[..., None] * depth)
        return within & (framed | ~photo[..., None])

    def _drawn(self, count: int, *shape: int) -> Tensor:
        """Own rows of random numbers (count, *shape) in main memory: what decides does not wait for a GPU."""
        return torch.rand((count, *shape), generator=self.torch_rng)[self.world.own(count)]

    def _uniform(self, count: int, *shape: int) -> Tensor:
        """Own rows of random numbers (count, *shape)."""
        return self._drawn(count, *shape).to(self.world.device)

    def _normal(self, count: int, *shape: int) -> Tensor:
        return self._own(torch.randn((count, *shape), generator=self.torch_rng))

    def _chance(self, share: float, count: int, *shape: int) -> Tensor:
        return self._uniform(count, *shape) < share

    def _own(self, drawn: Tensor) -> Tensor:
        return drawn[self.world.own(len(drawn))].to(self.world.device)

    def _planes(self, images: Sequence[Pixels]) -> Tensor:
        """B images (H, W, C) uint8 to (B, C, H, W) float32."""
        planes = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
        return torch.from_numpy(planes).to(self.world.device).float()
