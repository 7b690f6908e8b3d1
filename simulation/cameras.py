"""Camera cars: where images are taken, what the sensor does to them, and what GPS and compass claim."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFilter

from simulation.appearance import Appearance
from simulation.city import City
from simulation.errors import BadSimulation
from simulation.street import Band, Pose, render
from simulation.world import World

EDGE_M = 45.0  # cameras keep clear of the edge of the world, where a patch would be half empty
PANORAMA_PX = (512, 256)
PHOTO_PX = (320, 240)


class Kind(StrEnum):
    """What a street image is: a full equirectangular panorama or a pinhole photo."""

    PANORAMA = "panorama"
    PHOTO = "photo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One exposure to be made: pose, horizontal field of view (360 for panoramas), downward pitch."""

    kind: Kind
    pose: Pose
    hfov_deg: float
    pitch_deg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """What the vehicle believes: projected position, standard deviation per axis, grid azimuth."""

    easting: float
    northing: float
    sigma_m: float
    azimuth_deg: float


def plan_shots(
    city: City, *, panoramas: int, photos: int, hfov_deg: float, rng: np.random.Generator
) -> list[Shot]:
    """Places along the streets, spread by length, on lanes and sidewalks, never inside a solid.

    Raises:
        BadSimulation: the city has too little free street for a camera.
    """
    streets = [s for s in city.plan.streets if s.line.length > 8]
    lengths = np.array([s.line.length for s in streets])
    shots: list[Shot] = []
    attempts = 0
    while len(shots) < panoramas + photos:
        attempts += 1
        if attempts > 60 * (panoramas + photos) + 2000:
            raise BadSimulation(
                f"only {len(shots)} of {panoramas + photos} cameras fit on the streets; "
                "make the city larger or ask for fewer images"
            )
        street = streets[int(rng.choice(len(streets), p=lengths / lengths.sum()))]
        at = float(rng.uniform(2, street.line.length - 2))
        a, b = street.line.interpolate(at), street.line.interpolate(at + 0.5)
        along = float(np.degrees(np.arctan2(b.x - a.x, b.y - a.y)))
        side = float(rng.uniform(-1, 1)) * (street.width_m / 2 + 1.0)
        x = a.x + side * np.cos(np.radians(along))
        y = a.y - side * np.sin(np.radians(along))
        kind = Kind.PANORAMA if len(shots) < panoramas else Kind.PHOTO
        turn = (
            rng.choice([0.0, 180.0]) + rng.normal(0, 8) if kind is Kind.PANORAMA else rng.uniform(-180, 180)
        )
        pose = Pose(
            easting=city.world.west + x,
            northing=city.world.north - city.plan.size_m + y,
            height_m=float(rng.uniform(2.0, 2.8) if kind is Kind.PANORAMA else rng.uniform(1.5, 2.4)),
            azimuth_deg=(along + float(turn)) % 360.0,
        )
        if stands_free(city.world, pose):
            pitch = 0.0 if kind is Kind.PANORAMA else float(rng.normal(0, 1.5))
            shots.append(
                Shot(
                    kind=kind,
                    pose=pose,
                    hfov_deg=360.0 if kind is Kind.PANORAMA else hfov_deg,
                    pitch_deg=pitch,
                )
            )
    return shots


def stands_free(world: World, pose: Pose) -> bool:
    column, row = (int(v) for v in world.cell_of(pose.easting, pose.northing))
    rows, columns = world.shape
    margin, clear = int(EDGE_M / world.gsd_m), int(0.9 / world.gsd_m)
    if not (margin <= column < columns - margin and margin <= row < rows - margin):
        return False
    around = np.s_[row - clear : row + clear + 1, column - clear : column + clear + 1]
    return bool(
        world.solid_m[around].max() < 0.3
        and (world.crown_base[around].max() == 0 or world.crown_base[around].max() > 13)
    )


def measure(shot: Shot, *, gps_sigma_m: float, heading_error_deg: float, rng: np.random.Generator) -> Fix:
    """GPS with Gaussian error per axis; a photo's compass is off by up to heading_error_deg."""
    turn = (
        rng.uniform(-heading_error_deg, heading_error_deg) if shot.kind is Kind.PHOTO else rng.normal(0, 1.0)
    )
    return Fix(
        easting=shot.pose.easting + float(rng.normal(0, gps_sigma_m)),
        northing=shot.pose.northing + float(rng.normal(0, gps_sigma_m)),
        sigma_m=gps_sigma_m,
        azimuth_deg=(shot.pose.azimuth_deg + float(turn)) % 360.0,
    )


def expose(world: World, shot: Shot, look: Appearance, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The image as the sensor gives it: (256, 512, 3) for panoramas, (240, 320, 3) for photos."""
    seed = int(rng.integers(1 << 16))
    if shot.kind is Kind.PANORAMA:
        raw = render(
            world, shot.pose, look, Band(width_px=PANORAMA_PX[0], height_px=PANORAMA_PX[1]), seed=seed
        )
        _mount(raw, rng)
    else:
        raw = _pinhole(world, shot, look, seed)
    return _develop(raw, rng)


def _mount(raw: NDArray[np.float32], rng: np.random.Generator) -> None:
    """The car roof below a panorama camera."""
    start = int(raw.shape[0] * rng.uniform(0.80, 0.9))
    raw[start:] = rng.uniform(30, 170) * np.linspace(0.7, 1.0, raw.shape[0] - start)[:, None, None]


def _pinhole(world: World, shot: Shot, look: Appearance, seed: int) -> NDArray[np.float32]:
    """A perspective photo, resampled from an equirectangular strip rendered finer than the photo."""
    width, height = PHOTO_PX
    focal = width / 2 / np.tan(np.radians(shot.hfov_deg) / 2)
    u, v = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    pitch = np.radians(shot.pitch_deg)
    forward = focal * np.cos(pitch) - v * np.sin(pitch)
    down = focal * np.sin(pitch) + v * np.cos(pitch)
    azimuth = np.degrees(np.arctan2(u, forward))
    elevation = -np.degrees(np.arctan2(down, np.hypot(u, forward)))
    top, bottom = float(elevation.max()) + 0.5, float(elevation.min()) - 0.5
    span = 2 * float(np.abs(azimuth).max()) + 1.0
    band = Band(
        width_px=int(span / 0.25),
        height_px=int((top - bottom) / 0.25),
        span_deg=span,
        top_deg=top,
        bottom_deg=bottom,
    )
    strip = render(world, shot.pose, look, band, seed=seed)
    columns = (azimuth + span / 2) / span * band.width_px - 0.5
    rows = (top - elevation) / (top - bottom) * band.height_px - 0.5
    return _bilinear(strip, rows, columns)


def _bilinear(
    image: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float32]:
    r = np.clip(rows.astype(int), 0, image.shape[0] - 2)
    c = np.clip(columns.astype(int), 0, image.shape[1] - 2)
    tr, tc = (rows - r)[..., None], (columns - c)[..., None]
    upper = image[r, c] * (1 - tc) + image[r, c + 1] * tc
    lower = image[r + 1, c] * (1 - tc) + image[r + 1, c + 1] * tc
    return np.asarray(upper * (1 - tr) + lower * tr, np.float32)


def _develop(raw: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure, white balance, contrast, blur, noise."""
    gain = np.exp(rng.normal(0, 0.18)) * np.exp(rng.normal(0, 0.06, 3))
    image = np.clip(raw * gain.astype(np.float32) / np.float32(255.0), 0, 1) ** np.float32(
        np.exp(rng.normal(0, 0.15))
    )
    image += rng.standard_normal(image.shape[:2], np.float32)[..., None] * np.float32(
        rng.uniform(0.004, 0.03)
    )
    developed = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))
    blur = float(rng.uniform(0, 0.9))
    return np.asarray(developed.filter(ImageFilter.GaussianBlur(blur)) if blur > 0.3 else developed)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpsTag:
    """What goes into EXIF: measured longitude, latitude, true azimuth of the image centre, and the time."""

    lng: float
    lat: float
    heading_deg: float
    captured_at: datetime


def jpeg_with_gps(image: NDArray[np.uint8], tag: GpsTag) -> bytes:
    """JPEG bytes with EXIF GPS position and GPSImgDirection against true north (EXIF 2.32, section 4.6.6)."""
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = tag.captured_at.strftime("%Y:%m:%d %H:%M:%S")
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef] = "N" if tag.lat >= 0 else "S"
    gps[ExifTags.GPS.GPSLatitude] = _dms(abs(tag.lat))
    gps[ExifTags.GPS.GPSLongitudeRef] = "E" if tag.lng >= 0 else "W"
    gps[ExifTags.GPS.GPSLongitude] = _dms(abs(tag.lng))
    gps[ExifTags.GPS.GPSImgDirectionRef] = "T"
    gps[ExifTags.GPS.GPSImgDirection] = Fraction(round(tag.heading_deg * 100), 100)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=88, exif=exif)
    return buffer.getvalue()


def _dms(degrees: float) -> tuple[Fraction, Fraction, Fraction]:
    whole, minutes = int(degrees), int(degrees % 1 * 60)
    seconds = (degrees - whole - minutes / 60) * 3600
    return Fraction(whole), Fraction(minutes), Fraction(round(seconds * 10000), 10000)


def drive_time(index: int, rng: np.random.Generator) -> datetime:
    """When an image was taken: daytime, one after the other, in 2025."""
    start = datetime(2025, 5, 12, 8, 0, tzinfo=UTC)
    return start + timedelta(seconds=40 * index + float(rng.uniform(0, 20)))
