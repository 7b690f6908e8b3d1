"""A fleet re-localized in bulk: what it gains over GPS, whether its radii hold, and what it costs.

    python benchmarks/fleet.py --out benchmarks/results/fleet.json

Vehicles drive through a city that no model has seen; half of them send panoramas, half 90° photos, a frame
a second. Their GPS is noisy, drifts, jumps and fails. The table of all frames goes through
`clnet relocalize`: once undisturbed, once killed half-way and started again. City, images and store are
simulated and deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from drives import (
    COMPASS_SIGMA_DEG,
    PHOTO_HFOV_DEG,
    WHEELS_SIGMA,
    Step,
    build_store,
    course_deg_of,
    drive,
    pose_of,
)
from numpy.typing import NDArray
from PIL import Image
from reporting import write_results

from cli.fleet_localizer import query_of, seen_of
from clnet_model.encoder import load_encoder
from clnet_model.turning import turned
from serving.locate import look_around, searches
from simulation.appearance import Difficulty, draw_appearance
from simulation.cameras import Kind, Shot, expose
from simulation.city import City, build_city
from simulation.styles import HELD_OUT_STYLES, style_named
from spatial_index.bulk import open_bulk_search
from spatial_index.geodesy import distances_m
from spatial_index.store import open_store
from tiling.grid import LngLat
from workers.chunks import Chunks
from workers.manifest import Manifest, read_manifest

Floats = NDArray[np.float64]
START = datetime(2026, 5, 1, 12, tzinfo=UTC)
METRES_PER_DEG = 111_200.0
HEADING_ACCURACY_DEG = 15.0
SEARCHES_COMPARED = 200
IMAGES_BARE = 512
BARE_ROUNDS = 5  # the fastest counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Gps:
    """A receiver's errors over a drive; rows are seconds."""

    offset_m: Floats
    """(F, 2) east, north."""
    accuracy_m: Floats
    """(F,) 95 % radius that it claims; NaN in an outage."""


def gps_of(frames: int, rng: np.random.Generator) -> Gps:
    """White noise of 5 m, drift of 10 m over half a minute, stretches between high houses with 40 to 75 m
    that the receiver knows of, jumps of 60 to 150 m that it does not know of, and outages."""
    fade = np.exp(-1.0 / 30.0)
    drift = np.zeros((frames, 2))
    for frame in range(1, frames):
        drift[frame] = fade * drift[frame - 1] + np.sqrt(1 - fade**2) * rng.normal(0, 10.0, 2)
    offset_m = drift + rng.normal(0, 5.0, (frames, 2))
    accuracy_m = np.full(frames, 30.0)
    for start in rng.integers(0, frames, max(1, frames // 60)):
        stretch = slice(start, start + int(rng.integers(8, 20)))
        sigma_m = rng.uniform(40.0, 75.0)
        offset_m[stretch] += rng.normal(0, sigma_m, 2)
        accuracy_m[stretch] = 2.45 * sigma_m
    jumps = rng.random(frames) < 0.02
    bearing, far_m = rng.uniform(0, 2 * np.pi, frames), rng.uniform(60.0, 150.0, frames)
    offset_m[jumps] += (far_m[:, None] * np.column_stack([np.sin(bearing), np.cos(bearing)]))[jumps]
    for start in rng.integers(0, frames, max(1, frames // 100)):
        accuracy_m[start : start + int(rng.integers(5, 15))] = np.nan
    return Gps(offset_m=offset_m, accuracy_m=accuracy_m)


def rows_of(
    city: City, vehicle: int, steps: Sequence[Step], images: Path, seed: int
) -> Iterator[dict[str, Any]]:
    """Photograph a drive; the manifest's columns and the truth."""
    rng = np.random.default_rng([seed, 7, vehicle])
    look = draw_appearance(style_named(city.style).season, Difficulty.HARD, rng, from_above=False)
    gps = gps_of(len(steps), rng)
    is_photo = vehicle % 2 == 1
    hfov_deg = PHOTO_HFOV_DEG if is_photo else None
    for number, (before, step) in enumerate(zip([steps[0], *steps[:-1]], steps, strict=True)):
        shot = Shot(
            kind=Kind.PHOTO if is_photo else Kind.PANORAMA,
            pose=pose_of(step),
            hfov_deg=hfov_deg or 360.0,
            pitch_deg=0.0,
        )
        name = f"{vehicle:03d}-{number:04d}.jpg"
        Image.fromarray(expose(city.world, shot, look, rng)).save(images / name, quality=90)
        turn_deg = city.world.convergence_deg(step.easting, step.northing)
        (lng,), (lat,) = city.world.to_lnglat(np.array([step.easting]), np.array([step.northing]))
        east_m, north_m = gps.offset_m[number]
        outage = bool(np.isnan(gps.accuracy_m[number]))
        given = {
            "latitude": None if outage else float(lat + north_m / METRES_PER_DEG),
            "longitude": None if outage else float(lng + east_m / METRES_PER_DEG / np.cos(np.radians(lat))),
            "accuracy_m": None if outage else float(gps.accuracy_m[number]),
        }
        yield {
            "image_id": name,
            "image": str(images / name),
            **given,
            "captured_at": START + timedelta(seconds=number),
            "sequence": f"{'photo' if is_photo else 'panorama'}-{vehicle:03d}",
            "heading_deg": float(step.azimuth_deg + turn_deg + rng.uniform(-15.0, 15.0)) % 360.0,
            "heading_accuracy_deg": HEADING_ACCURACY_DEG,
            "hfov_deg": hfov_deg,
            "pitch_deg": 0.0,
            "distance_m": max(0.0, step.distance_m * (1.0 + float(rng.normal(0, WHEELS_SIGMA)))),
            "course_deg": course_deg_of(before, step) + turn_deg + float(rng.normal(0, COMPASS_SIGMA_DEG)),
            "true_latitude": float(lat),
            "true_longitude": float(lng),
        }


def build_fleet(folder: Path, *, seed: int, size_m: float, vehicles: int, frames: int) -> pa.Table:
    """City, store and images in a folder; the manifest with the truth beside it."""
    city = build_city(seed, HELD_OUT_STYLES[0], size_m)
    build_store(city, folder)
    (folder / "images").mkdir()
    rng = np.random.default_rng([seed, 6])
    rows = [
        row
        for vehicle in range(vehicles)
        for row in rows_of(city, vehicle, drive(city, frames, rng), folder / "images", seed)
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.drop_columns(["true_latitude", "true_longitude"]), folder / "fleet.parquet")
    return table


def errors_m(table: pa.Table, truth: pa.Table, prefix: str) -> Floats:
    """Distances from the truth; infinite where there is no position. Rows of both have the same order."""
    found = []
    for row, true in zip(table.to_pylist(), truth.to_pylist(), strict=True):
        lng, lat = row[f"{prefix}longitude"], row[f"{prefix}latitude"]
        at = LngLat(lng=true["true_longitude"], lat=true["true_latitude"])
        found.append(np.inf if lng is None else float(distances_m(at, lng, lat)[0]))
    return np.array(found)


def quality_row(kind: str, results: pa.Table, truth: pa.Table) -> dict[str, Any]:
    """One kind of image: errors of GPS, of each image by itself and of the tracks, where there are any."""
    order = pc.index_in(results.column("image_id"), truth.column("image_id"))
    truth = truth.take(order)
    chosen = pc.starts_with(results.column("sequence"), kind)
    results, truth = results.filter(chosen), truth.filter(chosen)
    row: dict[str, Any] = {"measured": "positions", "kind": kind, "images": results.num_rows}
    errors = {
        name: errors_m(results, truth, prefix)
        for name, prefix in (("gps", "given_"), ("raw", ""), ("smoothed", "smoothed_"))
    }
    for name, metres in errors.items():
        there = np.isfinite(metres)
        row |= {
            f"{name}_there": _rounded(there.mean()),
            f"{name}_median_m": _rounded(np.quantile(metres[there], 0.5)),
            f"{name}_p95_m": _rounded(np.quantile(metres[there], 0.95)),
            f"{name}_within_25m": _rounded((metres <= 25.0).mean()),
        }
    for name in ("raw", "smoothed"):
        prefix = "" if name == "raw" else "smoothed_"
        claimed = np.array(results.column(f"{prefix}status").to_pylist()) == "LOCALIZED"
        there = np.isfinite(errors[name])
        for radius in ("r68", "r95"):
            radii = results.column(f"{prefix}{radius}_m").to_numpy(zero_copy_only=False)
            row[f"{name}_inside_{radius}"] = _rounded((errors[name] <= radii)[there].mean())
        row[f"{name}_localized"] = _rounded(claimed.mean())
        row[f"{name}_localized_right"] = (
            _rounded((errors[name][claimed] <= 25.0).mean()) if claimed.any() else None
        )
    return row


def run_command(
    folder: Path, out: str, *options: str, wait: bool = True
) -> tuple[subprocess.Popen[str], Path]:
    """`clnet relocalize` as an operator runs it."""
    command = [
        "clnet", "relocalize", str(folder / "fleet.parquet"), "--out", str(folder / out),
        "--store", str(folder / "store"), *options,
    ]  # fmt: skip
    binary = Path(sys.executable).with_name("clnet")
    process = subprocess.Popen([str(binary), *command[1:]], stdout=subprocess.PIPE, text=True)
    if wait:
        output, _ = process.communicate()
        (folder / f"{out}.log").write_text(output)
        if process.returncode:
            raise RuntimeError(f"{shlex.join(command)} failed")
    return process, folder / f"{out}.log"


def done_event(log: Path) -> dict[str, Any]:
    """The last event of a run."""
    event: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return event


def steady_per_s(log: Path, stage: str) -> float:
    """Images a second once the workers run: from the first that are done to the last."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    done = [each for each in events if each.get("stage") == stage and each["done"]]
    seconds = [datetime.fromisoformat(each["at"]).timestamp() for each in done]
    return float((done[-1]["done"] - done[0]["done"]) / (seconds[-1] - seconds[0]))


def killed_row(folder: Path, undisturbed: pa.Table) -> dict[str, Any]:
    """Kill the driver when half of the chunks are there; start again; compare every row."""
    chunks = -(-undisturbed.num_rows // 64)
    process, _ = run_command(folder, "killed.parquet", "--jobs", str(folder / "killed-jobs"), wait=False)
    while len(list((folder / "killed-jobs").glob("*/chunks/*.parquet"))) < chunks // 2:
        time.sleep(0.2)
        if process.poll() is not None:
            raise RuntimeError("the run ended before it was killed")
    process.kill()
    process.wait()
    _, log = run_command(folder, "killed.parquet", "--jobs", str(folder / "killed-jobs"))
    again = pq.read_table(folder / "killed.parquet")
    return {
        "measured": "killed half-way and started again",
        "images": undisturbed.num_rows,
        "embedded_again": done_event(log)["embedded"],
        "same_rows": again.equals(undisturbed),
    }


def bare_row(manifest: Manifest, embed_s: float, steady: float) -> dict[str, Any]:
    """The embedding stage, with and without the start of its workers, against the bare encoder on as many
    cores."""
    encoder = load_encoder(None)
    rows = manifest.table.to_pylist()[:: max(1, manifest.table.num_rows // IMAGES_BARE)]
    canvases = []
    for row in rows:
        with Image.open(row["image"]) as image:
            pixels = np.asarray(image.convert("RGB"))
        views = look_around(
            pixels, query_of(row), spec=encoder.canvas, step_deg=encoder.calibration.heading_step_deg,
            turns=encoder.turns,
        )  # fmt: skip
        canvases.append(views.canvases)
    stack = np.concatenate(canvases)
    encoder.embed_ground(stack[:64])
    taken_s = []
    for _ in range(BARE_ROUNDS):
        started_s = time.perf_counter()
        for first in range(0, len(stack), 64):
            encoder.embed_ground(stack[first : first + 64])
        taken_s.append(time.perf_counter() - started_s)
    bare_per_s = len(rows) / min(taken_s)
    images_per_s = manifest.table.num_rows / embed_s
    return {
        "measured": "embedding",
        "images_per_s": _rounded(images_per_s),
        "steady_images_per_s": _rounded(steady),
        "bare_encoder_images_per_s": _rounded(bare_per_s),
        "share_of_bare": _rounded(images_per_s / bare_per_s),
        "steady_share_of_bare": _rounded(steady / bare_per_s),
    }


def search_row(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Search in bulk against one by one, on the vectors that the job kept."""
    encoder = load_encoder(None)
    [kept] = (folder / "jobs").glob("relocalize-*/chunks")
    chunks = Chunks(kept, manifest.table)
    groups = []
    for number in range(min(len(chunks), -(-SEARCHES_COMPARED // 64))):
        for row, seen in zip(chunks.rows_of(number), seen_of(chunks.get(number), encoder.dim), strict=True):
            vectors = turned(seen.vectors, seen.turns)
            groups.append(searches(vectors, query_of(row), model_digest=encoder.digest))
    with open_store(directory=folder / "store") as store:
        bulk = open_bulk_search(store)
        bulk.search(groups)  # the patches found are made once
        started_s = time.perf_counter()
        bulk.search(groups)
        bulk_ms = (time.perf_counter() - started_s) * 1e3 / len(groups)
        store.warm_up()  # as the service does
        started_s = time.perf_counter()
        for group in groups:
            for request in group:
                store.search(request)
        single_ms = (time.perf_counter() - started_s) * 1e3 / len(groups)
    return {
        "measured": "search",
        "images": len(groups),
        "bulk_ms": _rounded(bulk_ms),
        "one_by_one_ms": _rounded(single_ms),
        "share_of_one_by_one": _rounded(bulk_ms / single_ms),
    }


def memory_rows(folder: Path, images: int) -> Iterator[dict[str, Any]]:
    """The most that any process took so far, for growing samples; embedded before, but for the first."""
    for count in (images // 8, images // 2):
        run_command(folder, "sample.parquet", "--sample", str(count), "--jobs", str(folder / "sample-jobs"))
        yield {"measured": "memory", "images": count, "rss_mb": _peak_mb()}


def _peak_mb() -> float:
    """The most that any process below this one took that has ended so far."""
    return _rounded(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


def _rounded(value: float) -> float:
    return round(float(value), 3)


def measure(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows."""
    truth = build_fleet(
        folder, seed=args.seed, size_m=args.size_m, vehicles=args.vehicles, frames=args.frames
    )
    rows = list(memory_rows(folder, truth.num_rows))
    _, log = run_command(folder, "results.parquet")
    done = done_event(log)
    rows.append({"measured": "memory", "images": truth.num_rows, "rss_mb": _peak_mb()})
    results = pq.read_table(folder / "results.parquet")
    manifest = read_manifest(folder / "fleet.parquet")
    whole_s = done["embed_s"] + done["locate_s"]
    return [
        quality_row("panorama", results, truth),
        quality_row("photo", results, truth),
        bare_row(manifest, done["embed_s"], steady_per_s(log, "embed")),
        {
            "measured": "whole job",
            "images": truth.num_rows,
            "images_per_s": _rounded(truth.num_rows / whole_s),
            "locate_ms": _rounded(1e3 * done["locate_s"] / truth.num_rows),
            "steady_locate_ms": _rounded(1e3 / steady_per_s(log, "locate")),
        },
        search_row(folder, manifest),
        *rows,
        killed_row(folder, results),
    ]


def main() -> None:
    """Drive, re-localize, and write what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fleet.json"))
    parser.add_argument("--seed", type=int, default=7301)
    parser.add_argument("--size-m", type=float, default=1000.0)
    parser.add_argument("--vehicles", type=int, default=20)
    parser.add_argument("--frames", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args)
    write_results(args.out, rows, model_digest=load_encoder(None).digest)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
