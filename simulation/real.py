"""A world from a real orthophoto and a surface model: training pairs where nobody drove a camera car."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.features import rasterize, shapes
from rasterio.merge import merge
from rasterio.transform import from_origin
from rasterio.warp import reproject
from shapely.geometry import shape

from simulation.cameras import EDGE_M, Kind, Shot, stands_free
from simulation.errors import BadSurface
from simulation.features import Material
from simulation.lots import oriented
from simulation.street import Pose
from simulation.world import CROWN_UNIT_M, BuildingTable, World

MAX_CELLS = 120_000_000  # about 3 GB of rasters
WORLD_GSD_M = 0.4
_FACADES = np.array(
    [(214, 204, 184), (190, 170, 150), (168, 166, 160), (206, 196, 170), (150, 120, 100)], np.uint8
)


def world_from_ortho(ortho: Sequence[Path], dsm: Path | None) -> tuple[World, NDArray[np.bool_]]:
    """The world of all sheets together, and which cells the imagery covers.

    Raises:
        BadSurface: no sheets, no or geographic CRS, too large an area, or a surface model that does not
        overlap.
    """
    files = sheet_files(ortho)
    albedo, valid, crs, west, north = _mosaic(files)
    rows, columns = valid.shape
    surface = (
        np.zeros((rows, columns), np.float32)
        if dsm is None
        else _surface(dsm, crs, west, north, (rows, columns))
    )
    terrain, above = _split(surface)
    green = _greenness(albedo)
    crowns = (above > 2.5) & green
    solid = np.where(crowns | (above < 0.6), 0, above).astype(np.float32)
    building, table = _houses(solid, west, north)
    crown_top = np.where(crowns, np.clip(above / CROWN_UNIT_M, 1, 255), 0).astype(np.uint8)
    return World(
        crs=crs,
        west=west,
        north=north,
        gsd_m=WORLD_GSD_M,
        terrain_m=terrain,
        solid_m=solid,
        crown_base=np.where(crowns, np.clip(above * 0.3 / CROWN_UNIT_M, 1, 255), 0).astype(np.uint8),
        crown_top=crown_top,
        tree=np.where(crowns, _patch_ids(rows, columns), 0).astype(np.uint16),
        car=np.zeros((rows, columns), np.uint16),
        car_top=np.zeros((rows, columns), np.uint8),
        material=np.where(building > 0, int(Material.ROOF), int(Material.WALL)).astype(np.uint8),
        building=building,
        buildings=table,
        albedo=albedo,
    ), valid


def sheet_files(ortho: Sequence[Path]) -> list[Path]:
    """The GeoTIFF files among and inside the paths.

    Raises:
        BadSurface: there is none.
    """
    files = [f for p in ortho for f in (sorted(p.glob("*.tif*")) if p.is_dir() else [p])]
    if not files:
        named = ", ".join(map(str, ortho)) or "nothing"
        raise BadSurface(f"no GeoTIFF under {named}; name files or a folder of them")
    return files


def cameras_over(
    world: World,
    valid: NDArray[np.bool_],
    *,
    panoramas: int,
    photos: int,
    hfov_deg: float,
    rng: np.random.Generator,
) -> list[Shot]:
    """Cameras on open, paved-looking ground of a real world: grey, low and inside the imagery.

    Raises:
        BadSurface: there is no such ground.
    """
    assert world.albedo is not None
    colour = world.albedo.astype(np.int16)
    paved = valid & (world.solid_m < 0.3) & (world.crown_top == 0)
    paved &= (
        (colour.max(axis=2) - colour.min(axis=2) < 28)
        & (colour.mean(axis=2) > 60)
        & (colour.mean(axis=2) < 190)
    )
    cells = np.flatnonzero(paved)
    shots: list[Shot] = []
    for cell in (
        rng.choice(cells, size=min(cells.size, 40 * (panoramas + photos)), replace=False)
        if cells.size
        else ()
    ):
        row, column = divmod(int(cell), world.shape[1])
        kind = Kind.PANORAMA if len(shots) < panoramas else Kind.PHOTO
        pose = Pose(
            easting=world.west + (column + float(rng.random())) * world.gsd_m,
            northing=world.north - (row + float(rng.random())) * world.gsd_m,
            height_m=float(rng.uniform(1.8, 2.6)),
            azimuth_deg=float(rng.uniform(0, 360)),
        )
        if stands_free(world, pose) and _covered(valid, row, column, int(EDGE_M / world.gsd_m)):
            shots.append(
                Shot(
                    kind=kind, pose=pose, hfov_deg=360.0 if kind is Kind.PANORAMA else hfov_deg, pitch_deg=0.0
                )
            )
        if len(shots) == panoramas + photos:
            return shots
    raise BadSurface(
        f"only {len(shots)} of {panoramas + photos} cameras found open ground; ask for fewer images"
    )


def _covered(valid: NDArray[np.bool_], row: int, column: int, reach: int) -> bool:
    corners = valid[row - reach : row + reach + 1 : reach, column - reach : column + reach + 1 : reach]
    return bool(corners.all())


def _mosaic(files: list[Path]) -> tuple[NDArray[np.uint8], NDArray[np.bool_], CRS, float, float]:
    try:
        sheets = [rasterio.open(f) for f in files]
    except rasterio.errors.RasterioIOError as exc:
        raise BadSurface(f"cannot read the orthophoto: {exc}; replace or leave out the file") from exc
    try:
        crs = sheets[0].crs
        if crs is None or not crs.is_projected or any(s.crs != crs for s in sheets):
            raise BadSurface(
                f"{files[0]} is in {crs or 'no CRS'}; warp all sheets to one projected CRS with gdalwarp"
            )
        west, south = min(s.bounds.left for s in sheets), min(s.bounds.bottom for s in sheets)
        east, north = max(s.bounds.right for s in sheets), max(s.bounds.top for s in sheets)
        cells = (east - west) * (north - south) / WORLD_GSD_M**2
        if cells > MAX_CELLS:
            raise BadSurface(
                f"sheets span {cells:.3g} cells of {WORLD_GSD_M} m, limit {MAX_CELLS:.3g}; name fewer"
            )
        pixels, _ = merge(
            sheets, res=WORLD_GSD_M, indexes=[1, 2, 3], resampling=Resampling.average, masked=True
        )
    finally:
        for sheet in sheets:
            sheet.close()
    valid = np.asarray(~np.ma.getmaskarray(pixels).any(axis=0), np.bool_)
    return (
        np.ascontiguousarray(np.moveaxis(pixels.filled(0), 0, 2)),
        valid,
        CRS.from_user_input(crs.to_wkt()),
        west,
        north,
    )


def _surface(path: Path, crs: CRS, west: float, north: float, size: tuple[int, int]) -> NDArray[np.float32]:
    out = np.full(size, np.nan, np.float32)
    try:
        with rasterio.open(path) as dsm:
            if dsm.crs is None:
                raise BadSurface(f"{path} has no CRS; assign it with gdal_edit.py -a_srs EPSG:… {path}")
            reproject(
                rasterio.band(dsm, 1),
                out,
                dst_transform=from_origin(west, north, WORLD_GSD_M, WORLD_GSD_M),
                dst_crs=crs.to_wkt(),
                dst_nodata=np.nan,
                resampling=Resampling.bilinear,
            )
    except rasterio.errors.RasterioIOError as exc:
        raise BadSurface(f"cannot read the surface model: {exc}") from exc
    if np.isnan(out).mean() > 0.5:
        raise BadSurface(
            f"{path} covers less than half of the orthophoto; use a surface model of the same area"
        )
    return np.nan_to_num(out, nan=float(np.nanmin(out)))


def _split(surface: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(terrain, height above it): terrain is the lowest surface within some 24 m, smoothed."""
    k = round(24.0 / WORLD_GSD_M)
    rows, columns = surface.shape
    padded = np.pad(surface, ((0, -rows % k), (0, -columns % k)), mode="edge")
    low = padded.reshape(padded.shape[0] // k, k, padded.shape[1] // k, k).min(axis=(1, 3))
    grown = np.pad(low, 1, mode="edge")
    low = np.min(
        [grown[i : i + low.shape[0], j : j + low.shape[1]] for i in range(3) for j in range(3)], axis=0
    )
    terrain = np.minimum(np.kron(low, np.ones((k, k), np.float32))[:rows, :columns], surface)
    return terrain.astype(np.float32), (surface - terrain).astype(np.float32)


def _greenness(albedo: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Excess green index (Woebbecke et al., 1995) above a fixed threshold."""
    c = albedo.astype(np.int16)
    return (2 * c[..., 1] - c[..., 0] - c[..., 2]) > 12


def _patch_ids(rows: int, columns: int) -> NDArray[np.int64]:
    r, c = np.indices((rows, columns), sparse=True)
    return (r // 12 * 251 + c // 12 * 17) % 65534 + 1


def _houses(solid: NDArray[np.float32], west: float, north: float) -> tuple[NDArray[np.int32], BuildingTable]:
    grid = from_origin(west, north, WORLD_GSD_M, WORLD_GSD_M)
    tall = (solid > 2.2).astype(np.uint8)
    outlines = [shape(g) for g, v in shapes(tall, mask=tall > 0, transform=grid) if v]
    outlines = [o for o in outlines if o.area > 12]
    building = np.zeros(solid.shape, np.int32)
    if outlines:
        rasterize([(o, i + 1) for i, o in enumerate(outlines)], out=building, transform=grid)
    n = len(outlines) + 1
    rng = np.random.default_rng(n)
    angles = np.array([0.0, *(oriented(o)[2] for o in outlines)], np.float32)
    peak = np.zeros(n, np.float32)
    np.maximum.at(peak, building.ravel(), solid.ravel())
    return building, BuildingTable(
        angle_rad=angles,
        storey_m=np.full(n, 3.0, np.float32),
        bay_m=rng.uniform(2.0, 4.0, n).astype(np.float32),
        eave_m=peak,
        roof_rgb=np.full((n, 3), 120, np.uint8),
        facade_rgb=_FACADES[rng.integers(len(_FACADES), size=n)],
        look=rng.integers(1 << 20, size=n).astype(np.int32),
    )
