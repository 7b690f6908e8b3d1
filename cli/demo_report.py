"""What the demo leaves behind: results.json and report.html, from the outcomes and the city's imagery."""

from __future__ import annotations

import io
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mercantile
import numpy as np
import numpy.typing as npt
from mercantile import LngLat
from PIL import Image
from rich import box
from rich.table import Table

from cli.demo_queries import GPS_SIGMA_M, StreetImage
from cli.demo_steps import Steps
from cli.metrics import Outcome
from cli.report import (
    Case,
    CityMap,
    PatchView,
    Report,
    SettingResult,
    metres,
    pick_cases,
    render,
    results_json,
)
from spatial_index.records import RegionInfo
from tiling.grid import GridSpec, patch_at
from tiling.ortho import Ortho, read_window

MAP_PX = 1600
PATCH_PX = 280
VERSIONS_SHOWN = ("clnet-geoloc", "torch", "ray", "qdrant-edge-py", "rasterio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished demo."""

    seed: int
    style: str
    command: str
    city_km2: float
    crs: str
    region: RegionInfo
    images: tuple[StreetImage, ...]
    settings: tuple[SettingResult, ...]


def write_results(run: Run, ortho: Ortho, out: Path, steps: Steps) -> None:
    """Write the report, then results.json with the wall time of everything before it."""
    with steps.step("write the report"):
        page = render(build_report(run, ortho, wall_s=steps.wall_s))
        (out / "report.html").write_text(page, encoding="utf-8")
        figures = results_json(
            run.settings,
            patches=run.region.patches,
            city_km2=run.city_km2,
            wall_s=steps.wall_s,
            seed=run.seed,
            style=run.style,
            model_digest=run.region.model_digest,
            steps_s={name: round(took_s, 2) for name, took_s in steps.durations_s.items()},
            command=run.command,
        )
        (out / "results.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def build_report(run: Run, ortho: Ortho, *, wall_s: float) -> Report:
    """Everything the page shows."""
    panoramas = [image for image in run.images if image.kind == "panorama"]
    best, worst = cases(run, ortho)
    return Report(
        title="Where was this photo taken?",
        lead=f"{len(panoramas)} panoramas and {len(run.images) - len(panoramas)} photos of a city that the "
        "model has never seen, located by comparing them with the city's orthophoto. The city is simulated, "
        "in a style that no training city has.",
        settings=run.settings,
        gps_errors_m=tuple(image.gps_error_m for image in panoramas),
        city_map=city_map(ortho),
        best=best,
        worst=worst,
        facts=(
            ("City", f"simulated, style {run.style}, seed {run.seed}"),
            ("Area", f"{run.city_km2:.2f} km², {len(ortho.sheets)} sheets, {run.crs}"),
            ("Patches", f"{run.region.patches:,} of {run.region.side_m:g} m, zoom {run.region.zoom}"),
            ("GPS noise", f"{GPS_SIGMA_M:.0f} m standard deviation per axis"),
            ("Wall time", f"{wall_s:.0f} s on {platform.machine()}, Python {platform.python_version()}"),
        ),
        provenance=(
            ("Model", run.region.model_digest),
            ("Versions", ", ".join(f"{name} {version(name)}" for name in VERSIONS_SHOWN)),
            ("Command", run.command),
        ),
    )


def cases(run: Run, ortho: Ortho) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Best and worst of the panoramas without a prior and of the photos."""
    images = {image.image_id: image for image in run.images}
    grid = GridSpec(zoom=run.region.zoom, side_m=run.region.side_m)
    best: list[Case] = []
    worst: list[Case] = []
    for setting, best_count, worst_count in _shown(run.settings):
        nearest, farthest = pick_cases(setting.outcomes, best=best_count, worst=worst_count)
        best += [_case(o, images[o.image_id], setting, ortho, grid) for o in nearest]
        worst += [_case(o, images[o.image_id], setting, ortho, grid) for o in farthest]
    return tuple(best), tuple(worst)


def _shown(settings: tuple[SettingResult, ...]) -> list[tuple[SettingResult, int, int]]:
    """Which settings the galleries show, and how many of each: best, worst."""
    counts = {"no_prior": (2, 4), "photo_90deg": (2, 2)}
    return [(setting, *counts[setting.key]) for setting in settings if setting.key in counts]


def _case(outcome: Outcome, image: StreetImage, setting: SettingResult, ortho: Ortho, grid: GridSpec) -> Case:
    found = outcome.found_position
    return Case(
        setting=setting.title.lower(),
        outcome=outcome,
        street_jpeg=image.path.read_bytes(),
        heading_deg=image.heading_deg,
        hfov_deg=image.hfov_deg,
        true_patch=patch_view(outcome.true_position, ortho, grid),
        found_patch=patch_view(found, ortho, grid) if found else None,
    )


def patch_view(position: LngLat, ortho: Ortho, grid: GridSpec) -> PatchView:
    """The patch whose tile holds the position, and where in it the position lies."""
    west, south, east, north = bounds = patch_at(position, grid).mercator_bounds
    pixels, _ = read_window(ortho, bounds, PATCH_PX)
    x, y = mercantile.xy(*position)
    return PatchView(
        jpeg=to_jpeg(pixels, quality=82),
        x_share=(x - west) / (east - west),
        y_share=(north - y) / (north - south),
    )


def city_map(ortho: Ortho) -> CityMap:
    """The whole orthophoto, `MAP_PX` on its longer side."""
    west_deg, south_deg, east_deg, north_deg = ortho.footprint.bounds
    west, south = mercantile.xy(west_deg, south_deg)
    east, north = mercantile.xy(east_deg, north_deg)
    half_m = max(east - west, north - south) / 2
    x, y = (west + east) / 2, (south + north) / 2
    bounds = (x - half_m, y - half_m, x + half_m, y + half_m)
    pixels, _ = read_window(ortho, bounds, MAP_PX)
    return CityMap(jpeg=to_jpeg(pixels, quality=74), bounds_mercator=bounds)


def to_jpeg(pixels: npt.NDArray[np.uint8], *, quality: int) -> bytes:
    """RGB pixels as JPEG bytes."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=quality, optimize=True)
    return sink.getvalue()


def result_table(settings: tuple[SettingResult, ...]) -> Table:
    """The figures for the terminal, within 80 columns."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        caption="recall in %; 25 m: placed within; p50, p95: latency in ms",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for name in ("n", "R@1", "R@5", "R@10", "25 m", "median", "p50", "p95"):
        table.add_column(name, justify="right", no_wrap=True)
    for setting in settings:
        s = setting.summary
        found = (s.recall_at_1, s.recall_at_5, s.recall_at_10, s.recall_25m)
        table.add_row(
            setting.title,
            str(s.queries),
            *(f"{share * 100:.1f}" for share in found),
            metres(s.median_error_m),
            *(f"{value:.0f}" for value in (s.latency_p50_ms, s.latency_p95_ms)),
        )
    return table
