"""What a camera wrote into an image's EXIF: where, when and which way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

GPS = ExifTags.IFD.GPSInfo
SECONDS = (3600.0, 60.0, 1.0)


def position_of(path: Path) -> dict[str, Any]:
    """The manifest's columns that EXIF can fill; empty for a file without it, or that is no image."""
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            gps, photo = exif.get_ifd(GPS), exif.get_ifd(ExifTags.IFD.Exif)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return {}
    found: dict[str, Any] = {
        "latitude": _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef) == "S"),
        "longitude": _degrees(
            gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef) == "W"
        ),
        "captured_at": _moment(gps, photo),
    }
    if gps.get(ExifTags.GPS.GPSImgDirectionRef, "T") == "T":  # true north; magnetic headings are no headings
        found["heading_deg"] = _number(gps.get(ExifTags.GPS.GPSImgDirection))
    error_m = _number(gps.get(ExifTags.GPS.GPSHPositioningError))
    found["accuracy_m"] = 2.0 * error_m if error_m else None  # it is one deviation or so
    return {name: value for name, value in found.items() if value is not None}


def _degrees(parts: Any, negative: bool) -> float | None:
    try:
        degrees = sum(float(part) * seconds for part, seconds in zip(parts, SECONDS, strict=True)) / 3600.0
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return -degrees if negative else degrees


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _moment(gps: Any, photo: Any) -> datetime | None:
    """The satellites' time; else the camera's clock with its offset from UTC, if it says it."""
    try:
        day = datetime.strptime(str(gps[ExifTags.GPS.GPSDateStamp]), "%Y:%m:%d").replace(tzinfo=UTC)
        hour, minute, second = (float(part) for part in gps[ExifTags.GPS.GPSTimeStamp])
        return day + timedelta(hours=hour, minutes=minute, seconds=second)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        pass
    try:
        taken = f"{photo[ExifTags.Base.DateTimeOriginal]}{photo[ExifTags.Base.OffsetTimeOriginal]}"
        return datetime.strptime(taken, "%Y:%m:%d %H:%M:%S%z").astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None
