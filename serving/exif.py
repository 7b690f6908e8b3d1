"""What an image file says about itself in its header: size and EXIF position. Decodes no pixels."""

from __future__ import annotations

import io
import math

from PIL import ExifTags, Image

from clnet_model.errors import BadImage
from clnet_model.preprocess import FORMATS
from tiling.grid import LngLat


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height as stored, px.

    Raises:
        BadImage: not an image that we read.
    """
    with _opened(data) as image:
        return image.size


def gps_of(data: bytes) -> LngLat | None:
    """EXIF position (Exif 2.32, section 4.6.6), or None when there is none that makes sense.

    Raises:
        BadImage: not an image that we read.
    """
    with _opened(data) as image:
        tags = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    try:
        lat = _degrees(tags[ExifTags.GPS.GPSLatitude], negative=tags[ExifTags.GPS.GPSLatitudeRef] == "S")
        lng = _degrees(tags[ExifTags.GPS.GPSLongitude], negative=tags[ExifTags.GPS.GPSLongitudeRef] == "W")
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return LngLat(lng=lng, lat=lat) if math.isfinite(lng) and math.isfinite(lat) else None


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage(f"image is too large to decode: {error}; shrink it before sending") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise BadImage(f"{len(data):,} bytes are not a readable image; send {', '.join(FORMATS)}") from error


def _degrees(parts: tuple[float, float, float], *, negative: bool) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    size = degrees + minutes / 60 + seconds / 3600
    return -size if negative else size
