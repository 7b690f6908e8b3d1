"""Reading and cutting patches by this project's blocks, and patch by patch in two other ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

CUT_PX = 128
BLOCKS = 12
RIVAL_STRIDE = 8  # rivals read every so-manieth patch: they are slower
Row = dict[str, Any]


def reading(sheets: Path, zoom: int, rounds: int) -> Iterator[Row]:
    """Patches a second of one core, by three ways of reading; they take turns."""
    from tiling.grid import GridSpec, plan_blocks
    from tiling.ortho import Ortho, open_ortho

    sheet = max(open_ortho([sheets]).sheets, key=lambda each: Path(each.path).stat().st_size)
    ortho = Ortho(sheets=(sheet,))
    inside = sheet.footprint.buffer(-0.0006)  # more than 35 m: no patch reaches over the edge
    blocks = sorted(plan_blocks(inside, GridSpec(zoom=zoom)), key=len, reverse=True)[:BLOCKS]
    blocks = [block for block in blocks if 2 * len(block) > len(blocks[0])]  # as in a region's middle
    patches = [patch for block in blocks for patch in block.patches]
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "blocks (ours)": (lambda: cut_blocks(ortho, blocks), len(patches)),
        "WarpedVRT window per patch": (lambda: cut_windows(sheet.path, patches[::RIVAL_STRIDE]),
                                       len(patches[::RIVAL_STRIDE])),
        "rio-tiler part() per patch": (lambda: cut_parts(sheet.path, patches[::RIVAL_STRIDE]),
                                       len(patches[::RIVAL_STRIDE])),
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in ways}
    decoded: dict[str, float] = {}
    per_read_byte = decoded_size(sheet.path) / Path(sheet.path).stat().st_size
    for _ in range(rounds):
        for name, (run, count) in ways.items():
            before, started_s = read_bytes(), time.perf_counter()
            run()
            rates[name].append(count / (time.perf_counter() - started_s))
            decoded[name] = (read_bytes() - before) * per_read_byte / (count * CUT_PX**2 * 3)
    slowest = rates["rio-tiler part() per patch"]
    for name, found in rates.items():
        yield {
            "stage": "read and cut, one core",
            "zoom": zoom,
            "reader": name,
            "patch_px": CUT_PX,
            "patches": ways[name][1],
            "patches_per_s": round(median(found), 1),
            "ratio_to_rio_tiler": round(median(a / b for a, b in zip(found, slowest, strict=True)), 2),
            "decoded_bytes_per_used_byte": round(decoded[name], 2),
        }


def decoded_size(path: str) -> int:
    """Bytes of a sheet's pixels and those of its overviews."""
    import rasterio

    with rasterio.open(path) as sheet:
        pixels = sheet.width * sheet.height
        return int(sheet.count * sum(pixels / factor**2 for factor in (1, *sheet.overviews(1))))


def cut_blocks(ortho: Any, blocks: Sequence[Any]) -> None:
    from tiling.ortho import cut

    for block in blocks:
        for image in cut(ortho, block, size_px=CUT_PX):
            assert image.pixels.shape == (CUT_PX, CUT_PX, 3)


def cut_windows(path: str, patches: Sequence[Any]) -> None:
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    with (
        rasterio.open(path) as sheet,
        WarpedVRT(sheet, crs="EPSG:3857", resampling=Resampling.bilinear) as warped,
    ):
        for patch in patches:
            window = warped.window(*patch.mercator_bounds)
            pixels = warped.read((1, 2, 3), window=window, out_shape=(3, CUT_PX, CUT_PX),
                                 resampling=Resampling.bilinear)  # fmt: skip
            assert pixels.any()


def cut_parts(path: str, patches: Sequence[Any]) -> None:
    from rio_tiler.io import Reader

    with Reader(path) as sheet:
        for patch in patches:
            image = sheet.part(
                patch.mercator_bounds, dst_crs="EPSG:3857", bounds_crs="EPSG:3857",
                width=CUT_PX, height=CUT_PX,
                resampling_method="bilinear", reproject_method="bilinear",
            )  # fmt: skip
            assert image.data.any()


def read_bytes() -> int:
    """Bytes that this process has asked the system for, from the disk or its cache."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])
