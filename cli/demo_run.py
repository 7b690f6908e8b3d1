"""The demo's main path: simulate, ingest, serve, locate, report, and leave nothing running."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import grpc
from mercantile import LngLat
from rich.console import Console

from cli.demo_queries import GPS_SIGMA_M, PHOTO_HFOV_DEG, SETTINGS, StreetImage, locate_all
from cli.demo_report import Run, result_table, write_results
from cli.demo_steps import Steps
from cli.metrics import summarise
from cli.report import SettingResult
from serving.app import start_service
from serving.options import ServiceOptions
from simulation.dataset import Dataset, read_manifest, simulate_city
from simulation.styles import HELD_OUT_STYLES
from spatial_index.records import RegionInfo
from spatial_index.store import open_store
from tiling.grid import GridSpec
from tiling.ortho import Ortho, open_ortho
from workers.cluster import ray_cluster
from workers.ingest import ingest
from workers.jobs import Jobs

REGION = "demo-city"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """What to build and where to leave the results."""

    out: Path
    seed: int
    size_m: float
    queries: int
    checkpoint: Path | None
    keep: bool

    @property
    def style(self) -> str:
        """A style that no training city has."""
        return HELD_OUT_STYLES[0]


def run(plan: DemoPlan, *, console: Console) -> None:
    """The whole road; whatever happens, everything that was started is stopped.

    Raises:
        cli.errors.DemoFailed: the service refused a call.
    """
    with Steps(console) as steps, workspace(plan) as work:
        city = simulate(plan, work / "city", steps)
        ortho = open_ortho([city.ortho_dir])
        images = street_images(city)
        with local_ray(steps):
            region = build_region(ortho, plan, work / "store", steps)
            settings = locate(images, region, plan, work / "store", steps)
        finished = Run(
            seed=plan.seed,
            style=plan.style,
            command=f"clnet demo --seed {plan.seed} --size-m {plan.size_m:g} --queries {plan.queries}",
            city_km2=city.area_km2,
            crs=city.crs,
            region=region,
            images=images,
            settings=settings,
        )
        write_results(finished, ortho, plan.out, steps)
    console.print(result_table(settings))
    console.print(f"{plan.out / 'report.html'}\n{plan.out / 'results.json'}", highlight=False)


@contextmanager
def workspace(plan: DemoPlan) -> Iterator[Path]:
    """A fresh folder for the city and the store, removed at the end unless the plan keeps it."""
    plan.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=plan.out))
    try:
        yield work
    finally:
        if not plan.keep:
            shutil.rmtree(work, ignore_errors=True)


def simulate(plan: DemoPlan, out: Path, steps: Steps) -> Dataset:
    """An orthophoto and street images of a city in a style that was never trained on."""
    with steps.step(f"simulate a city ({plan.style}, seed {plan.seed})") as step:
        return simulate_city(
            out,
            seed=plan.seed,
            style=plan.style,
            size_m=plan.size_m,
            panoramas=plan.queries,
            photos=plan.queries // 2,
            gps_sigma_m=GPS_SIGMA_M,
            photo_hfov_deg=PHOTO_HFOV_DEG,
            progress=lambda name, share: step.update(share, name),
        )


def street_images(city: Dataset) -> tuple[StreetImage, ...]:
    """The city's street images with their truth."""
    images = []
    for row in read_manifest(city.manifest_path).itertuples(index=False):
        image = StreetImage(
            image_id=row.image_id,
            path=city.root / row.path,
            kind=cast(Literal["panorama", "photo"], row.kind),
            position=LngLat(lng=row.geometry.x, lat=row.geometry.y),
            heading_deg=float(row.heading_deg),
            hfov_deg=float(row.hfov_deg),
            heading_measured_deg=float(row.heading_measured_deg),
            gps=LngLat(lng=row.gps_lng, lat=row.gps_lat),
        )
        images.append(image)
    return tuple(images)


def build_region(ortho: Ortho, plan: DemoPlan, store_dir: Path, steps: Steps) -> RegionInfo:
    """Cut, embed and store every patch; the region is live afterwards."""
    with steps.step("ingest the orthophoto") as step:
        store = open_store(directory=store_dir, create=True)
        try:
            ingest(
                REGION,
                ortho,
                store=store,
                jobs=Jobs(store_dir.parent / "jobs"),
                checkpoint=plan.checkpoint,
                progress=lambda seen: step.update(seen.share, f"{seen.indexed} patches"),
            )
            return store.region(REGION)
        finally:
            store.close()


def locate(
    images: tuple[StreetImage, ...], region: RegionInfo, plan: DemoPlan, store_dir: Path, steps: Steps
) -> tuple[SettingResult, ...]:
    """Ask the running service for every image in every setting."""
    grid = GridSpec(zoom=region.zoom, side_m=region.side_m)
    results = []
    options = ServiceOptions(store=store_dir, checkpoint=plan.checkpoint, port=0)
    with service(options, steps) as channel:
        for setting in SETTINGS:
            asked = [image for image in images if image.kind == setting.kind]
            with steps.step(f"locate {len(asked)} images: {setting.title.lower()}") as step:
                outcomes = locate_all(asked, setting, channel=channel, grid=grid, tick=step.tick(len(asked)))
            results.append(
                SettingResult(
                    key=setting.key,
                    title=setting.title,
                    explanation=setting.explanation,
                    outcomes=outcomes,
                    summary=summarise(outcomes),
                )
            )
    return tuple(results)


@contextmanager
def service(options: ServiceOptions, steps: Steps) -> Iterator[grpc.Channel]:
    """A channel to a service on a free port of this machine; it ends with the Ray that it runs in."""
    with steps.step("start the service"):
        started = start_service(options)
    with grpc.insecure_channel(started.target) as channel:
        yield channel


@contextmanager
def local_ray(steps: Steps) -> Iterator[None]:
    """One Ray for ingest and service (a second start costs 8 s); whatever runs in it ends with it."""
    with ExitStack() as stack:
        with steps.step("start Ray"):
            stack.enter_context(ray_cluster())
        try:
            yield
        finally:
            with steps.step("stop everything"):
                stack.close()
