"""Turns a street image and its camera into a canvas: the one preprocessing of training, ingest and serving.

A canvas is a (H, W, 4) uint8 array: RGB and a mask (255 where the camera saw something) over azimuth ×
elevation.
Column x covers azimuth -180 + (x + 0.5) * 360 / W, so the centre column is true north once the heading
is right;
row 0 is the highest elevation. Knows nothing of networks, files or services.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from clnet_model.errors import BadCamera, BadImage, BadLens
from clnet_model.lens import Lens, Reals

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PITCH_DEG = 60.0
UPRIGHT: dict[object, Image.Transpose] = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Image pixels for each canvas pixel that decoding leaves to resampling. (Pillow, Image.thumbnail: with a
# `reducing_gap` of 3.0 or more the result is very close to fair resampling in most cases.)
OVERSAMPLED = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CanvasSpec:
    """Size and elevation range of a canvas; the azimuth range is always the full circle."""

    height_px: int = 64
    width_px: int = 256
    elevation_min_deg: float = -45.0
    elevation_max_deg: float = 45.0

    @property
    def elevation_span_deg(self) -> float:
        return self.elevation_max_deg - self.elevation_min_deg


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLimits:
    """What a street image may be; checked before a pixel is decoded."""

    max_bytes: int = 20_000_000
    max_side_px: int = 16_384
    max_pixels: int = 64_000_000
    min_side_px: int = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Panorama:
    """Equirectangular image of the full circle whose centre column looks at `heading_deg` (true north,
    clockwise)."""

    heading_deg: float

    def __post_init__(self) -> None:
        _check_finite("heading_deg", self.heading_deg)


@dataclass(frozen=True, kw_only=True, slots=True)
class Perspective:
    """Pinhole image; `pitch_deg` is positive when the camera looks up."""

    heading_deg: float
    hfov_deg: float
    pitch_deg: float = 0.0

    def __post_init__(self) -> None:
        _check_finite("heading_deg", self.heading_deg)
        if not 5.0 <= self.hfov_deg <= 170.0:
            raise BadCamera(
                f"hfov_deg is {self.hfov_deg}: a perspective image has 5 to 170 degrees; "
                "send wider images with the intrinsics of their lens, or as a panorama"
            )
        if not -MAX_PITCH_DEG <= self.pitch_deg <= MAX_PITCH_DEG:
            raise BadCamera(f"pitch_deg is {self.pitch_deg}: at most 60 degrees up or down can be used")


@dataclass(frozen=True, kw_only=True, slots=True)
class LensCamera:
    """Image of a calibrated camera whose optical axis looks at `heading_deg`.

    `pitch_deg` is positive when it looks up, `roll_deg` when its right side is lowered.
    """

    heading_deg: float
    lens: Lens
    pitch_deg: float = 0.0
    roll_deg: float = 0.0

    def __post_init__(self) -> None:
        _check_finite("heading_deg", self.heading_deg)
        for name, most in (("pitch_deg", MAX_PITCH_DEG), ("roll_deg", 180.0)):
            value = getattr(self, name)
            if not -most <= value <= most:
                raise BadLens(name, f"is {value}", f"give -{most:g} to {most:g} degrees")


Camera = Panorama | Perspective | LensCamera


def needed_width_px(camera: Camera, spec: CanvasSpec) -> int:
    """An image as wide as this shows all that the canvas can; wider ones may be decoded smaller."""
    match camera:
        case Panorama():
            across = 2.0 * math.pi
        case Perspective():
            across = 2.0 * math.tan(math.radians(camera.hfov_deg) / 2.0)
        case LensCamera():
            across = camera.lens.width_px / camera.lens.fx_px
    return math.ceil(OVERSAMPLED * across * spec.width_px / (2.0 * math.pi))


def decode_image(data: bytes, *, at_least_px: int | None = None, limits: ImageLimits | None = None) -> Pixels:
    """Decode JPEG, PNG or WebP to RGB, upright by its EXIF orientation.

    Args:
        at_least_px: a wider JPEG may be decoded at a half, a quarter or an eighth of its size, which takes a
        fraction of the time, but no narrower than this; None decodes it whole.

    Raises:
        BadImage: too many bytes or pixels (decided from the header), another format, or damaged data.
    """
    limits = limits or ImageLimits()
    if len(data) > limits.max_bytes:
        raise BadImage(
            f"image has {len(data):,} bytes, the limit is {limits.max_bytes:,}; send it smaller or compressed"
        )
    try:
        file = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(*file.size, limits)
        pixels = _to_rgb(_loaded(file, at_least_px or max(file.size)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"image is too large to decode: {error}; shrink it before sending") from error
    except (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, struct.error) as error:
        raise BadImage(
            f"{len(data):,} bytes are not a readable image; send an undamaged {', '.join(FORMATS)}"
        ) from error
    return pixels


def to_canvas(image: Pixels, camera: Camera, spec: CanvasSpec) -> Pixels:
    """Resample an image (h, w, 3) onto the canvas (H, W, 4), area-averaging where it shrinks.

    Raises:
        BadImage: the array is not (h, w, 3) uint8.
        BadCamera: a perspective image sees nothing of the canvas.
        BadLens: the intrinsics are for an image of another shape, or see nothing of the canvas.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise BadImage(f"image is {image.dtype} {image.shape}: expected uint8 (height, width, 3)")
    match camera:
        case Panorama():
            return roll_canvas(_panorama_band(image, spec), camera.heading_deg)
        case Perspective():
            return _project(image, camera, spec)
        case LensCamera():
            return _project_lens(image, camera, spec)
        case _:
            raise BadCamera(f"unknown camera {camera!r}: use Panorama, Perspective or LensCamera")


def roll_canvas(canvas: Pixels, offset_deg: float) -> Pixels:
    """The canvas as if the camera heading had been `offset_deg` larger: a cyclic shift, sub-pixel allowed."""
    shift_px = offset_deg / 360.0 * canvas.shape[1]
    whole, part = math.floor(shift_px), shift_px - math.floor(shift_px)
    rolled: Pixels = np.roll(canvas, whole, axis=1)
    if part < 1e-3:
        return rolled
    following = np.roll(canvas, whole + 1, axis=1)
    weight = round(part * 256)
    mixed = (rolled.astype(np.uint16) * (256 - weight) + following.astype(np.uint16) * weight + 128) >> 8
    return _mask_cleanly(mixed.astype(np.uint8))


def _check_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise BadCamera(f"{name} is {value}: give degrees clockwise from true north")


def _check_size(width_px: int, height_px: int, limits: ImageLimits) -> None:
    if max(width_px, height_px) > limits.max_side_px or width_px * height_px > limits.max_pixels:
        raise BadImage(
            f"image is {width_px} x {height_px} px, the limit is {limits.max_side_px} px per side and "
            f"{limits.max_pixels:,} px in all; shrink it before sending"
        )
    if min(width_px, height_px) < limits.min_side_px:
        raise BadImage(
            f"image is {width_px} x {height_px} px, at least {limits.min_side_px} px per side are needed"
        )


def _loaded(image: Image.Image, at_least_px: int) -> Image.Image:
    """The image, upright, a JPEG at a fraction of its size, which no other format offers."""
    orientation: object = image.getexif().get(ExifTags.Base.Orientation)
    whole = image.size
    factor = (image.height if orientation in range(5, 9) else image.width) // at_least_px
    if factor > 1:
        image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
    image.load()
    loaded: Image.Image = image
    if image.size != whole:
        scale = round(whole[0] / image.width)  # sizes were rounded up; the image ends within its last pixels
        loaded = image.crop((0, 0, round(whole[0] / scale), round(whole[1] / scale)))
    turn = UPRIGHT.get(orientation)
    return loaded if turn is None else loaded.transpose(turn)


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):  # 16-bit grey: convert("RGB") would clip it to white
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _panorama_band(image: Pixels, spec: CanvasSpec) -> Pixels:
    """The canvas's elevation band, its centre column still the image's centre column."""
    height_px, width_px = image.shape[:2]
    px_per_deg = width_px / 360.0  # square pixels: a full 360 x 180 image has w = 2 h
    horizon_row = height_px / 2.0
    top = horizon_row - spec.elevation_max_deg * px_per_deg
    bottom = horizon_row - spec.elevation_min_deg * px_per_deg
    above, below = max(0, math.ceil(-top)), max(0, math.ceil(bottom - height_px))
    source = Image.fromarray(
        np.pad(image, ((above, below), (0, 0), (0, 0)), mode="edge") if above + below else image
    )
    box = (0.0, top + above, float(width_px), bottom + above)
    size = (spec.width_px, spec.height_px)
    rgb = np.asarray(source.resize(size, Image.Resampling.BILINEAR, box=box))  # antialiased when shrinking
    elevation_px = top + (np.arange(spec.height_px) + 0.5) * (bottom - top) / spec.height_px
    observed = (elevation_px >= 0) & (elevation_px <= height_px)
    mask = np.broadcast_to(np.where(observed, 255, 0).astype(np.uint8)[:, None], size[::-1])
    return _mask_cleanly(np.dstack([rgb, mask]))


def _project(image: Pixels, camera: Perspective, spec: CanvasSpec) -> Pixels:
    """Inverse mapping: every canvas pixel looks up the pinhole image, shrunk first to the canvas's
    resolution."""
    shrunk = _shrink_to(image, image.shape[1] / 2.0 / math.tan(math.radians(camera.hfov_deg) / 2.0), spec)
    height_px, width_px = shrunk.shape[:2]
    focal_px = width_px / 2.0 / math.tan(math.radians(camera.hfov_deg) / 2.0)
    right, up, forward = _rays(camera, spec)  # each (H, W)
    ahead = forward > 1e-3
    depth = np.where(ahead, forward, 1.0)
    u = width_px / 2.0 + focal_px * right / depth
    v = height_px / 2.0 - focal_px * up / depth
    seen = ahead & (u >= 0) & (u <= width_px) & (v >= 0) & (v <= height_px)
    if not seen.any():
        raise BadCamera(f"pitch_deg is {camera.pitch_deg:g}: {'; '.join(_nothing_seen(spec))}")
    return _sampled(shrunk, u - 0.5, v - 0.5, seen)


def _project_lens(image: Pixels, camera: LensCamera, spec: CanvasSpec) -> Pixels:
    """As `_project`, through a lens: distortion needs no inverse, because it goes from rays to pixels."""
    lens = camera.lens
    _check_shape(lens, image)
    shrunk = _shrink_to(image, lens.fx_px * image.shape[1] / lens.width_px, spec)
    right, up, forward = (np.asarray(axis, np.float64) for axis in _rays(camera, spec))  # each (H, W)
    u, v, seen = lens.pixels(*_rolled(right, -up, camera.roll_deg), forward)
    if not seen.any():
        problem, remedy = _nothing_seen(spec)
        raise BadLens("pitch_deg", f"is {camera.pitch_deg:g}: {problem}", remedy)
    across, down = shrunk.shape[1] / lens.width_px, shrunk.shape[0] / lens.height_px
    return _sampled(shrunk, u * across - 0.5, v * down - 0.5, seen)


def _nothing_seen(spec: CanvasSpec) -> tuple[str, str]:
    """What is wrong with an image that looks past the canvas, and the remedy."""
    between = f"between {spec.elevation_min_deg:g} and {spec.elevation_max_deg:g} degrees of elevation"
    return f"the image shows nothing {between}", "send an image that shows the horizon"


def _check_shape(lens: Lens, image: Pixels) -> None:
    """A resized image keeps its shape, to a pixel."""
    height_px, width_px = image.shape[:2]
    tall_px = width_px / lens.width_px * lens.height_px
    wide_px = height_px / lens.height_px * lens.width_px
    if abs(tall_px - height_px) > 1.0 and abs(wide_px - width_px) > 1.0:
        raise BadLens(
            "width_px",
            f"and height_px are {lens.width_px} x {lens.height_px}, the image is {width_px} x {height_px} px",
            "give the intrinsics of the upright image that is sent; cropping and turning change them",
        )


def _rolled(right: Reals, down: Reals, roll_deg: float) -> tuple[Reals, Reals]:
    """Ray components along the axes of a camera that is turned clockwise around its own axis."""
    cos, sin = math.cos(math.radians(roll_deg)), math.sin(math.radians(roll_deg))
    return right * cos + down * sin, down * cos - right * sin


def _rays(camera: Perspective | LensCamera, spec: CanvasSpec) -> tuple[NDArray[np.float32], ...]:
    """Viewing directions of the canvas pixels in the camera's frame: right, up, forward."""
    azimuth = (np.arange(spec.width_px) + 0.5) * 2.0 * np.pi / spec.width_px - np.pi
    elevation = np.radians(
        spec.elevation_max_deg - (np.arange(spec.height_px) + 0.5) * spec.elevation_span_deg / spec.height_px
    )[:, None]
    turn = azimuth - np.radians(camera.heading_deg)
    pitch = np.radians(camera.pitch_deg)
    right = np.sin(turn) * np.cos(elevation)
    level = np.cos(turn) * np.cos(elevation)
    up = np.sin(elevation) * np.cos(pitch) - level * np.sin(pitch)
    forward = level * np.cos(pitch) + np.sin(elevation) * np.sin(pitch)
    return right.astype(np.float32), up.astype(np.float32), forward.astype(np.float32)


def _shrink_to(image: Pixels, focal_px: float, spec: CanvasSpec) -> Pixels:
    height_px, width_px = image.shape[:2]
    factor = (
        focal_px * math.pi / 180.0 / (spec.width_px / 360.0)
    )  # image pixels per canvas pixel at the centre
    if factor <= 1.0:
        return image
    size = (max(2, round(width_px / factor)), max(2, round(height_px / factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _sampled(
    image: Pixels, x: NDArray[np.floating], y: NDArray[np.floating], seen: NDArray[np.bool_]
) -> Pixels:
    """The canvas (H, W, 4) whose pixels that are `seen` look up the image at `x`, `y`; each (H, W)."""
    canvas = np.zeros((*seen.shape, 4), np.uint8)
    canvas[seen, :3] = _bilinear(image, x[seen], y[seen])
    canvas[seen, 3] = 255
    return canvas


def _bilinear(image: Pixels, x: NDArray[np.floating], y: NDArray[np.floating]) -> Pixels:
    """Sample at N pixel-centre coordinates, clamped to the border; (N, 3)."""
    height_px, width_px = image.shape[:2]
    x = np.clip(x, 0, width_px - 1)
    y = np.clip(y, 0, height_px - 1)
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    right, below = np.minimum(left + 1, width_px - 1), np.minimum(top + 1, height_px - 1)
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    upper = image[top, left] * (1 - fx) + image[top, right] * fx
    lower = image[below, left] * (1 - fx) + image[below, right] * fx
    blended: Pixels = np.rint(upper * (1 - fy) + lower * fy).astype(np.uint8)
    return blended


def _mask_cleanly(canvas: Pixels) -> Pixels:
    """Make the mask strictly 0 or 255, and colours 0 where nothing was seen; in place."""
    seen = canvas[..., 3] >= 128
    canvas *= seen[..., None]
    canvas[..., 3] = np.where(seen, 255, 0)
    return canvas
