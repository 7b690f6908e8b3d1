"""`clnet evaluate --calibration`: the whole road on unseen cities, its words against its deeds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from shapely.geometry import Polygon

from cli.calibration_plot import reliability_svg
from cli.calibration_table import (
    HEADER,
    OUTSIDE_HEADER,
    RADII_HEADER,
    Judged,
    Reliability,
    bin_rows,
    outside_rows,
    reliability,
    rows,
)
from cli.demo_queries import HEADING_ACCURACY_DEG, StreetImage, distance_m
from cli.tables import print_table
from clnet_model.encoder import load_encoder
from clnet_model.turning import heading_difference_deg
from serving.coverage import WGS84
from serving.fuse import Status
from serving.locate import Answer, HeadingPrior, Index, Query, decoded, locate
from spatial_index.priors import PolygonPrior
from spatial_index.store import open_store
from tiling.grid import LngLat
from tiling.ortho import open_ortho
from workers.cluster import ray_cluster
from workers.ingest import ingest
from workers.jobs import Jobs

if TYPE_CHECKING:
    from clnet_model.encoder import Encoder
    from clnet_model.evaluate import Progress

AWAY_M = 150.0
REGION = "city"
KINDS = (
    "panorama, north known",
    "panorama, heading unknown",
    "panorama, north assumed",
    "photo, heading ±15°",
)
"""North assumed: what searching the heading is worth; the image's centre column is taken for north."""


@dataclass(frozen=True, kw_only=True, slots=True)
class City:
    """A city's images, and the store that its orthophoto was ingested into."""

    name: str
    images: tuple[StreetImage, ...]
    index: Index
    outline: Any
    """shapely area that is indexed."""


def measure(data: list[Path], checkpoint: Path | None, *, progress: Progress) -> dict[str, Reliability]:
    """Figures over all cities, by the kind of query; kinds without an image are left out."""
    encoder = load_encoder(checkpoint)
    judged: dict[str, list[Judged]] = {kind: [] for kind in KINDS}
    for path in data:
        with tempfile.TemporaryDirectory() as folder:
            for kind, each in judge_city(path, Path(folder), checkpoint, encoder, progress=progress):
                judged[kind].append(each)
    return {kind: reliability(each) for kind, each in judged.items() if each}


def judge_city(
    path: Path, folder: Path, checkpoint: Path | None, encoder: Encoder, *, progress: Progress
) -> Iterator[tuple[str, Judged]]:
    """Every image of a city, in every way that it can be asked."""
    from cli.demo_run import street_images
    from simulation.dataset import Dataset

    images = street_images(Dataset(root=path, crs="", area_km2=0.0, images=0))
    with ray_cluster(), open_store(directory=folder / "store", create=True) as store:
        ingest(
            REGION,
            open_ortho([path / "ortho"]),
            store=store,
            jobs=Jobs(folder / "jobs"),
            checkpoint=checkpoint,
            progress=lambda seen: progress(f"{path.name}: patches", seen.share),
        )
    with open_store(directory=folder / "store") as index:
        city = City(name=path.name, images=images, index=index, outline=index.region(REGION).coverage)
        for number, image in enumerate(images, start=1):
            for kind, query in queries_of(image):
                yield kind, judge(image, query, city, encoder)
            progress(f"{path.name}: images", number / len(images))


def queries_of(image: StreetImage) -> Iterator[tuple[str, Query]]:
    """The ways to ask about an image."""
    if image.kind == "panorama":
        yield KINDS[0], Query(heading=HeadingPrior(heading_deg=image.heading_deg))
        yield KINDS[1], Query()
        yield KINDS[2], Query(heading=HeadingPrior(heading_deg=0.0))
    else:
        compass = HeadingPrior(heading_deg=image.heading_measured_deg, accuracy_deg=HEADING_ACCURACY_DEG)
        yield KINDS[3], Query(hfov_deg=image.hfov_deg, heading=compass)


def judge(image: StreetImage, query: Query, city: City, encoder: Encoder) -> Judged:
    """One query, asked inside and outside."""
    pixels = decoded(image.path.read_bytes(), query, spec=encoder.canvas)
    here = locate(pixels, query, encoder=encoder, index=city.index)
    elsewhere = Query(
        hfov_deg=query.hfov_deg, heading=query.heading, prior=all_but(image.position, city.outline)
    )
    there = locate(pixels, elsewhere, encoder=encoder, index=city.index)
    best = here.hypotheses[0] if here.hypotheses else None
    return Judged(
        error_m=distance_m(image.position, best.position) if best else np.inf,
        probability=best.probability if best else 0.0,
        r68_m=best.r68_m if best else 0.0,
        r95_m=best.r95_m if best else 0.0,
        heading_error_deg=float(heading_difference_deg(best.heading_deg, image.heading_deg))
        if best
        else 180.0,
        heading_r68_deg=best.heading_r68_deg if best else 0.0,
        localized=here.status is Status.LOCALIZED,
        similarity=_similarity(here),
        outside_localized=there.status is Status.LOCALIZED,
        outside_similarity=_similarity(there),
    )


def all_but(place: LngLat, outline: Any) -> PolygonPrior:
    """The area without what is near a place."""
    azimuths, ones = np.arange(48) * 7.5, np.ones(48)
    lngs, lats, _ = WGS84.fwd(place.lng * ones, place.lat * ones, azimuths, AWAY_M * ones)
    return PolygonPrior(polygon=outline.convex_hull.difference(Polygon(np.column_stack([lngs, lats]))))


def show(results: dict[str, Reliability]) -> None:
    """Print all tables."""
    print_table(RADII_HEADER, rows(results))
    print_table(OUTSIDE_HEADER, outside_rows(results))
    for kind, result in results.items():
        print(kind)
        print_table(HEADER, bin_rows(result))


def write_json(results: dict[str, Reliability], digest: str, path: Path) -> None:
    """Write the figures; shares are 0 to 1."""
    numbers = {kind: result.to_json() for kind, result in results.items()}
    path.write_text(json.dumps({"model_digest": digest, "calibration": numbers}, indent=2) + "\n")


def write_plot(results: dict[str, Reliability], path: Path) -> None:
    """Write the reliability diagram."""
    path.write_text(reliability_svg(results), encoding="utf-8")


def _similarity(answer: Answer) -> float:
    return max((patch.similarity for patch in answer.patches), default=-1.0)
