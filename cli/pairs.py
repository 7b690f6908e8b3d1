"""Turns a folder written by `clnet simulate` into GeoPairs: the glue between manifest, tiling and the
model room."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clnet_model.data import GeoPairs, load_pairs
from clnet_model.errors import BadPairs
from clnet_model.model import CLNetConfig
from clnet_model.preprocess import (
    Camera,
    CanvasSpec,
    Panorama,
    Perspective,
    Pixels,
    decode_image,
    needed_width_px,
    to_canvas,
)
from tiling.grid import GridSpec, plan_blocks
from tiling.ortho import PatchImage, cut, open_ortho

if TYPE_CHECKING:
    import geopandas
    from shapely.geometry.base import BaseGeometry

Progress = Callable[[str, float], None]
GLUE_VERSION = 1  # part of the cache key: raise it when canvases or patches come out differently


def open_pairs(data: Path, model: CLNetConfig, *, progress: Progress) -> GeoPairs:
    """The city in `data` with its whole gallery; as `saved_pairs`."""
    return load_pairs(saved_pairs(data, model, progress=progress))


def saved_pairs(
    data: Path, model: CLNetConfig, *, margin_px: int = 0, near_m: float | None = None, progress: Progress
) -> Path:
    """Folder of the city in `data` as the network takes it, built once and cached under DATA/.cache.

    `near_m` keeps the patches within that distance of a street image; None takes the whole orthophoto.

    Raises:
        BadPairs: no manifest, or nothing usable in it.
        tiling.errors.TilingError: the orthophoto cannot be read.
    """
    manifest = data / "manifest.parquet"
    if not manifest.exists():
        raise BadPairs(f"{data} holds no manifest.parquet; give folders written by `clnet simulate`")
    cache = data / ".cache" / f"pairs-{_cache_key(manifest, model, margin_px, near_m)}"
    if not (cache / "pairs.json").exists():
        build_pairs(data, model, margin_px=margin_px, near_m=near_m, progress=progress).save(cache)
    return cache


def build_pairs(
    data: Path, model: CLNetConfig, *, margin_px: int, near_m: float | None, progress: Progress
) -> GeoPairs:
    """Read street images and cut patches; positions in the manifest's UTM zone."""
    import geopandas

    frame = geopandas.read_parquet(data / "manifest.parquet")
    projected = frame.to_crs(frame.estimate_utm_crs())
    canvases = _canvases(data, frame, model.canvas, progress)
    patches = _patches(data, projected, model, margin_px, near_m, progress)
    centres = geopandas.GeoSeries.from_xy(
        [image.patch.centre.lng for image in patches],
        [image.patch.centre.lat for image in patches],
        crs="EPSG:4326",
    ).to_crs(projected.crs)
    return GeoPairs(
        city=data.name,
        canvases=canvases,
        street_xy_m=_xy(projected.geometry),
        hfov_deg=frame["hfov_deg"].to_numpy(np.float32),
        patches=np.stack([image.pixels for image in patches]),
        patch_xy_m=_xy(centres),
        margin_px=margin_px,
        gsd_m=model.side_m / model.patch_px,
    )


def _canvases(data: Path, frame: geopandas.GeoDataFrame, spec: CanvasSpec, progress: Progress) -> Pixels:
    def read(row: Any) -> Pixels:
        camera = _camera(row)
        image = decode_image((data / row.path).read_bytes(), at_least_px=needed_width_px(camera, spec))
        return to_canvas(image, camera, spec)

    found = np.empty((len(frame), spec.height_px, spec.width_px, 4), np.uint8)
    with ThreadPoolExecutor(2) as pool:
        for number, canvas in enumerate(pool.map(read, frame.itertuples())):
            found[number] = canvas
            if number % 32 == 0:
                progress(f"{data.name}: street images", number / len(frame))
    return found


def _camera(row: Any) -> Camera:
    match row.kind:
        case "panorama":
            return Panorama(heading_deg=float(row.heading_deg))
        case "photo":
            return Perspective(heading_deg=float(row.heading_deg), hfov_deg=float(row.hfov_deg))
        case _:
            raise BadPairs(f"{row.image_id} is of kind {row.kind!r}: a manifest holds panorama and photo")


def _patches(
    data: Path,
    projected: geopandas.GeoDataFrame,
    model: CLNetConfig,
    margin_px: int,
    near_m: float | None,
    progress: Progress,
) -> Sequence[PatchImage]:
    size_px = model.patch_px + 2 * margin_px
    grid = GridSpec(zoom=model.zoom, side_m=model.side_m * size_px / model.patch_px)
    ortho = open_ortho([data / "ortho"])
    blocks = list(plan_blocks(_area(ortho.footprint, projected, near_m), grid))
    found: list[PatchImage] = []
    for number, block in enumerate(blocks):
        progress(f"{data.name}: patches", number / len(blocks))
        found.extend(image for image in cut(ortho, block, size_px=size_px) if image.valid_fraction >= 0.5)
    if not found:
        raise BadPairs(f"{data}: the orthophoto covers no street image; check that both are of one place")
    return found


def _area(footprint: BaseGeometry, projected: geopandas.GeoDataFrame, near_m: float | None) -> BaseGeometry:
    if near_m is None:
        return footprint
    near = projected.geometry.buffer(near_m, quad_segs=4).to_crs("EPSG:4326").union_all()
    covered: BaseGeometry = footprint.intersection(near)
    return covered


def _xy(points: Any) -> NDArray[np.float64]:
    return np.stack([points.x.to_numpy(), points.y.to_numpy()], axis=1)


def _cache_key(manifest: Path, model: CLNetConfig, margin_px: int, near_m: float | None) -> str:
    about = manifest.stat()
    parts: list[object] = [GLUE_VERSION, about.st_size, about.st_mtime_ns, margin_px, near_m]
    parts += [str(model.canvas), model.patch_px, model.side_m, model.zoom]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
