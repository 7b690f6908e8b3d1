"""Latency, throughput and memory of the service, beside the same core without it.

    python benchmarks/serve.py --out benchmarks/results/serve.json
    python benchmarks/serve.py --minutes 10        memory over ten minutes too, behind HAProxy

Closed loop: so many clients ask one after the other. Open loop: requests come by chance at 70 % of the
throughput that 32 clients reached. The encoder is the shipped one, or a stub that costs nothing, so that what
the service adds stands alone. Beside: a plain grpc.aio server around the same core in one process,
which is not the clients', and the bare encoder in a loop.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import shapely
from PIL import Image
from reporting import write_results

from clnet_model.checkpoint import SHIPPED
from clnet_model.encoder import load_encoder
from serving.app import (
    deploy,
    free_port,
    start_ray,
    wait_until_serving,
)
from serving.deployments import build_application, open_index_of
from serving.edge import query_from, request_from, response_from
from serving.locate import HeadingPrior, Query, decoded, locate
from serving.options import ServiceOptions
from serving.pb.localization_service_pb2_grpc import (
    LocalizationServiceServicer,
    LocalizationServiceStub,
    add_LocalizationServiceServicer_to_server,
)
from spatial_index.records import GenerationSpec, PatchRecord
from spatial_index.store import open_store
from tiling.grid import GridSpec, patches_over

CLIENTS = (1, 8, 32, 128)
OPEN_SHARE = 0.7
NORTH = Query(heading=HeadingPrior(heading_deg=0.0))
AREA = shapely.box(7.98, 46.31, 8.0, 46.32)


class StubEncoder:
    """Gives every image the same vector at once."""

    def __init__(self) -> None:
        real = load_encoder(None)
        self.digest, self.canvas, self.calibration, self.turns = (
            real.digest, real.canvas, real.calibration, real.turns,
        )  # fmt: skip
        self._vector = np.zeros((1, real.dim), np.float32)
        self._vector[0, 0] = 1.0

    def embed_ground(self, canvases: np.ndarray) -> np.ndarray:
        """(N, H, W, 4) -> (N, D)"""
        return np.repeat(self._vector, len(canvases), axis=0)


def street_image() -> bytes:
    """A panorama as the simulator writes them: 512 x 256, JPEG."""
    blocks = np.random.default_rng(3).integers(0, 255, (16, 32, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(np.kron(blocks, np.ones((16, 16, 1), np.uint8))).save(data, "JPEG", quality=88)
    return data.getvalue()


def build_store(folder: Path) -> int:
    """A region of random vectors; how many patches it has."""
    encoder = load_encoder(None)
    patches = list(patches_over(AREA, GridSpec(zoom=21)))
    vectors = np.random.default_rng(0).normal(size=(len(patches), encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    spec = GenerationSpec(
        region="r", generation="g", model_digest=encoder.digest, dim=encoder.dim, zoom=21, side_m=70.0
    )
    records = [
        PatchRecord(
            location=patch.centre, quadkey=patch.quadkey, region="r", generation="g", side_m=70.0,
            captured_at=None, source="random", valid_fraction=1.0, vector=vector,
        )
        for patch, vector in zip(patches, vectors, strict=True)
    ]  # fmt: skip
    with open_store(directory=folder, create=True) as store:
        store.create_generation(spec)
        for start in range(0, len(records), 1000):
            store.write("r", "g", records[start : start + 1000])
        store.promote("r", "g", coverage=AREA)
    return len(records)


def closed_loop(target: str, clients: int, seconds: float) -> dict[str, float]:
    """Latencies and throughput of clients that ask without a pause."""
    request, stop_s = request_from(street_image(), NORTH), time.monotonic() + seconds
    taken_s: list[float] = []
    errors: list[grpc.StatusCode] = []

    def ask() -> None:
        with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = LocalizationServiceStub(channel)
            while time.monotonic() < stop_s:
                began_s = time.perf_counter()
                try:
                    stub.Localize(request, timeout=60.0)
                    taken_s.append(time.perf_counter() - began_s)
                except grpc.RpcError as error:
                    errors.append(error.code())
                    time.sleep(0.1)

    began_s = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return summary(taken_s, len(errors), time.monotonic() - began_s)


def open_loop(target: str, per_s: float, seconds: float) -> dict[str, float]:
    """Latencies from the moment at which each request was due."""
    dice = np.random.default_rng(0)
    request, taken_s, errors = request_from(street_image(), NORTH), [], []
    with grpc.insecure_channel(target) as channel, ThreadPoolExecutor(64) as pool:
        stub = LocalizationServiceStub(channel)

        def ask(due_s: float) -> None:
            try:
                stub.Localize(request, timeout=60.0)
                taken_s.append(time.perf_counter() - due_s)
            except grpc.RpcError as error:
                errors.append(error.code())

        began_s = due_s = time.perf_counter()
        while due_s < began_s + seconds:
            due_s += float(dice.exponential(1.0 / per_s))
            time.sleep(max(0.0, due_s - time.perf_counter()))
            pool.submit(ask, due_s)
    return summary(taken_s, len(errors), time.perf_counter() - began_s)


def summary(taken_s: Sequence[float], errors: int, seconds: float) -> dict[str, float]:
    """Milliseconds at three quantiles, answers a second, share of errors."""
    p50, p95, p99 = np.quantile(taken_s, (0.5, 0.95, 0.99)) * 1e3 if taken_s else (np.nan,) * 3
    return {
        "answers": len(taken_s),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "p99_ms": round(float(p99), 2),
        "answers_per_s": round(len(taken_s) / seconds, 2),
        "error_share": round(errors / max(1, errors + len(taken_s)), 4),
    }


def rows_of(target: str, facts: dict[str, object], seconds: float, memory: Callable[[], float]) -> list[dict]:
    """Closed loops, then the open one."""
    closed_loop(target, 2, 2.0)  # warm-up
    rows = []
    for clients in CLIENTS:
        found = closed_loop(target, clients, seconds)
        rows.append({**facts, "loop": "closed", "clients": clients, **found, "rss_mb": memory()})
    most = next(row["answers_per_s"] for row in rows if row["clients"] == 32)
    found = open_loop(target, max(0.5, OPEN_SHARE * most), 2 * seconds)
    return [*rows, {**facts, "loop": "open at 70 %", "clients": None, **found, "rss_mb": memory()}]


def ray_memory_mb() -> float:
    """Resident memory of this program's Serve replicas and proxies."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            title = (path / "cmdline").read_bytes()
            if title.startswith((b"ray::ServeReplica", b"ray::ProxyActor")) and is_ours(path):
                total += int((path / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        except (OSError, IndexError):
            continue
    return round(total / 2**20, 1)


def is_ours(process: Path) -> bool:
    """Started by the raylet that this program started."""
    raylet = Path("/proc") / parent_of(process)
    return parent_of(raylet) == str(os.getpid())


def parent_of(process: Path) -> str:
    """Its parent's number (proc(5), field 4 of stat, the second one after the name)."""
    return (process / "stat").read_text().rpartition(")")[2].split()[1]


def measure_service(mode: str, encoder: str, store: Path, seconds: float, minutes: float) -> list[dict]:
    """All rows of one proxy and encoder; runs in a process of its own."""
    import ray

    from serving.deployments import load_encoder_of

    options = ServiceOptions(store=store, haproxy=mode == "haproxy", max_waiting=256)
    start_ray(options)
    port = free_port()
    load = partial(load_encoder_of, None) if encoder == "real" else StubEncoder
    deploy(build_application(options, load=load, open_index=partial(open_index_of, options)), options, port)
    target = f"127.0.0.1:{port}"
    wait_until_serving(target, 120.0)
    facts: dict[str, object] = {"server": mode, "encoder": encoder}
    try:
        rows = rows_of(target, facts, seconds, ray_memory_mb)
        if minutes and facts == {"server": "haproxy", "encoder": "real"}:
            before_mb = ray_memory_mb()
            found = closed_loop(target, 8, 60.0 * minutes)
            rows.append({**facts, "loop": f"{minutes:g} min", "clients": 8, **found,
                         "rss_before_mb": before_mb, "rss_mb": ray_memory_mb()})  # fmt: skip
        return rows
    finally:
        ray.shutdown()


class PlainServicer(LocalizationServiceServicer):
    """The same core in one process, without deployments, batches or manners."""

    def __init__(self, encoder: Any, index: object) -> None:
        self._encoder, self._index = encoder, index

    async def Localize(self, request, context):  # type: ignore[no-untyped-def, override]
        """LocalizationService.Localize"""
        return await asyncio.to_thread(self._answer, request)

    def _answer(self, request):  # type: ignore[no-untyped-def]
        query = query_from(request)
        image = decoded(request.image.data, query, spec=self._encoder.canvas)
        return response_from(locate(image, query, encoder=self._encoder, index=self._index))


async def serve_plain(encoder: str, store: Path, port: int) -> None:
    """Until this process is ended."""
    core = load_encoder(None) if encoder == "real" else StubEncoder()
    with open_store(directory=store) as index:
        server = grpc.aio.server()
        add_LocalizationServiceServicer_to_server(PlainServicer(core, index), server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()


def memory_mb(pid: int | str) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGESIZE") / 2**20, 1)


def measure_plain(encoder: str, store: Path, seconds: float) -> list[dict]:
    """All rows of the plain server, which has a process of its own, as the service's parts have."""
    port = free_port()
    part = ["--part", f"plain/{encoder}", "--store", str(store), "--port", str(port)]
    process = subprocess.Popen([sys.executable, __file__, *part])
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(60)
        about = {"server": "grpc.aio", "encoder": encoder}
        return rows_of(f"127.0.0.1:{port}", about, seconds, partial(memory_mb, process.pid))
    finally:
        process.terminate()
        process.wait(30)


def measure_bare(seconds: float) -> list[dict]:
    """The encoder in a loop, by batch."""
    encoder, rows = load_encoder(None), []
    spec = encoder.canvas
    for batch in (1, 48):
        canvases = np.zeros((batch, spec.height_px, spec.width_px, 4), np.uint8)
        encoder.embed_ground(canvases)
        taken_s, began_s = [], time.perf_counter()
        while time.perf_counter() - began_s < seconds:
            before_s = time.perf_counter()
            encoder.embed_ground(canvases)
            taken_s.append(time.perf_counter() - before_s)
        found = summary(taken_s, 0, time.perf_counter() - began_s)
        found["answers_per_s"] = round(found["answers_per_s"] * batch, 2)
        rows.append({"server": "bare encoder", "encoder": "real", "loop": f"batch {batch}", "clients": None,
                     **found, "rss_mb": memory_mb("self")})  # fmt: skip
    return rows


def part(args: argparse.Namespace) -> list[dict]:
    """One part, in this process."""
    server, _, encoder = args.part.partition("/")
    match server:
        case "proxy" | "haproxy":
            return measure_service(server, encoder, args.store, args.seconds, args.minutes)
        case "grpc.aio":
            return measure_plain(encoder, args.store, args.seconds)
        case "plain":
            asyncio.run(serve_plain(encoder, args.store, args.port))
            return []
        case "bare":
            return measure_bare(args.seconds)
        case _:
            raise SystemExit(f"unknown part {args.part!r}")


PARTS = (
    "bare/real",
    "grpc.aio/real",
    "grpc.aio/stub",
    "haproxy/real",
    "haproxy/stub",
    "proxy/real",
    "proxy/stub",
)


def main() -> None:
    """Measure every part in a fresh process, and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serve.json"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each closed loop")
    parser.add_argument("--minutes", type=float, default=0.0, help="of the memory run; 0: none")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        args.out.write_text(json.dumps(part(args)))
        return
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        patches = build_store(Path(folder) / "store")
        for name in PARTS:
            found = Path(folder) / "rows.json"
            options = {"--part": name, "--store": Path(folder) / "store", "--out": found,
                       "--seconds": args.seconds, "--minutes": args.minutes}  # fmt: skip
            command = [sys.executable, __file__, *(str(each) for pair in options.items() for each in pair)]
            subprocess.run(command, check=True)
            measured = json.loads(found.read_text())
            print(name, *measured, sep="\n  ", flush=True)
            rows += measured
            load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
            write_results(args.out, rows, load=load, model=SHIPPED.name, patches=patches)


if __name__ == "__main__":
    main()
