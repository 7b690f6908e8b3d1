"""Opening the files behind a sheet, on this machine or elsewhere, and telling whether they changed.

A location is a path or what GDAL calls one: /vsicurl/https://…, /vsis3/bucket/key, /vsizip/….
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

REMOTE_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # else every open lists the folder, or asks for side-cars
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "VSI_CACHE": "TRUE",
}
HEAD_TIMEOUT_S = 30
VERSION_HEADERS = ("ETag", "Last-Modified", "Content-Length")
GDAL_TRUE = ("YES", "TRUE", "ON", "1")
THUMBNAIL_PX = 256


def location_of(path: str | os.PathLike[str]) -> str:
    """A path as GDAL takes it; https:// and s3:// become its virtual file systems."""
    text = os.fspath(path)
    if text.startswith(("http://", "https://")):
        return f"/vsicurl/{text}"
    if text.startswith("s3://"):
        return f"/vsis3/{text.removeprefix('s3://')}"
    return text


def is_virtual(location: str) -> bool:
    """Whether GDAL alone can open it."""
    return location.startswith("/vsi")


@contextmanager
def open_raster(location: str) -> Iterator[Any]:
    """A dataset with a geotransform; one placed by ground control points is warped as it is read.

    Raises:
        RasterioError: GDAL cannot open it.
    """
    with _options(location), rasterio.open(location) as dataset:
        if not placed_by_points(dataset):
            yield dataset
            return
        points_crs = dataset.gcps[1]
        alpha = ColorInterp.alpha in dataset.colorinterp
        with WarpedVRT(
            dataset,
            src_crs=points_crs,
            crs=points_crs,
            add_alpha=not alpha,
            resampling=Resampling.bilinear,
        ) as warped:
            yield warped


def placed_by_points(dataset: Any) -> bool:
    """Whether ground control points, with a CRS, are all that says where a file lies."""
    points, crs = dataset.gcps
    return bool(points) and crs is not None and dataset.transform.is_identity


def digest_of(location: str) -> str:
    """SHA-256 over the full content of every file behind a sheet, with names.

    Reading all bytes costs little beside decoding and embedding them, and misses no edit as sampling would.
    Remote files are not fetched for it: their server's own word (ETag or modification time, and size) stands
    in, or where it says nothing, the sizes of all compressed blocks and a thumbnail.

    Raises:
        RasterioError: GDAL cannot open it.
    """
    total = hashlib.sha256()
    for name in _files_of(location):
        if is_virtual(name):
            total.update(f"{name}\0{_remote_version(name)}\0".encode())
        else:
            with Path(name).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
            total.update(Path(name).name.encode() + b"\0" + content)
    return total.hexdigest()


def _options(location: str) -> rasterio.Env:
    return rasterio.Env(**(REMOTE_OPTIONS if is_virtual(location) else {}))


def _files_of(location: str) -> list[str]:
    """The file itself and what it refers to: masks, world files, the sources of a VRT."""
    with _options(location), rasterio.open(location) as dataset:
        return sorted(name for name in dataset.files if is_virtual(name) or Path(name).is_file())


def _remote_version(name: str) -> str:
    said: list[str | None] = [None]
    if name.startswith(("/vsicurl/http://", "/vsicurl/https://")):
        said = _said_by_server(name)
    elif name.startswith("/vsis3/"):
        said = _said_by_bucket(name)
    return repr(said) if any(said[:2]) else _layout(name)


def _said_by_server(name: str) -> list[str | None]:
    try:
        request = urllib.request.Request(name.removeprefix("/vsicurl/"), method="HEAD")
        with urllib.request.urlopen(request, timeout=HEAD_TIMEOUT_S) as answer:
            return [answer.headers.get(key) for key in VERSION_HEADERS]
    except (urllib.error.URLError, TimeoutError) as exc:
        raise RasterioError(f"{name}: {exc}") from exc


def _said_by_bucket(name: str) -> list[str | None]:
    """What S3 says of an object, asked by Arrow: rasterio lacks GDAL's VSIGetFileMetadata.

    Nothing where Arrow cannot ask, as it does not know all ways that GDAL has to sign in.
    """
    from pyarrow import fs  # noqa: PLC0415 - a quarter of a second, for buckets alone

    said = os.environ.get
    try:
        bucket = fs.S3FileSystem(
            anonymous=said("AWS_NO_SIGN_REQUEST", "NO").upper() in GDAL_TRUE,
            region=said("AWS_REGION") or said("AWS_DEFAULT_REGION"),
            endpoint_override=said("AWS_S3_ENDPOINT"),
            scheme="https" if said("AWS_HTTPS", "YES").upper() in GDAL_TRUE else "http",
            force_virtual_addressing=said("AWS_VIRTUAL_HOSTING", "TRUE").upper() in GDAL_TRUE,
            connect_timeout=HEAD_TIMEOUT_S,
            request_timeout=HEAD_TIMEOUT_S,
        )
        with bucket.open_input_file(name.removeprefix("/vsis3/")) as file:
            headers = file.metadata()
    except (OSError, ValueError):
        return [None]
    return [headers.get(key) for key in VERSION_HEADERS]


def _layout(name: str) -> str:
    """What changes with the content of a GeoTIFF: the sizes of its blocks, and how it looks from afar."""
    with _options(name), rasterio.open(name) as dataset:
        height, width = dataset.block_shapes[0]
        sizes = [
            dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", 1)
            for row in range(-(-dataset.height // height))
            for column in range(-(-dataset.width // width))
        ]
        scale = max(1, max(dataset.shape) // THUMBNAIL_PX)
        shape = (dataset.count, *(max(1, side // scale) for side in dataset.shape))
        thumbnail = np.ascontiguousarray(dataset.read(out_shape=shape))
    return hashlib.sha256(repr((dataset.profile, sizes)).encode() + thumbnail.tobytes()).hexdigest()
