"""A fleet's job: every row comes out, once, the same whatever was killed before."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spatial_index.errors import UnknownRegion
from workers.chunks import CHUNK_ROWS, Chunks
from workers.cluster import ray_cluster
from workers.errors import JobCancelled
from workers.fetch import fetch
from workers.fleet_actor import embed_fleet_here
from workers.fleet_pipeline import answer_fleet_on_ray, embed_fleet_on_ray
from workers.fleet_results import SCHEMA
from workers.jobs import Jobs, JobState
from workers.manifest import read_manifest
from workers.relocalize import FleetProgress, relocalize

WORKER = Path(__file__).with_name("fleet_worker.py")
IMAGES = 5 * CHUNK_ROWS - 7
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def fakes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fleet_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three vehicles and some lone images; one file is missing, one row is wrong."""
    folder = tmp_path_factory.mktemp("fleet")
    rows = []
    for number in range(IMAGES):
        (folder / f"{number}.jpg").write_bytes(f"image {number}".encode())
        car = None if number % 10 == 0 else f"car-{number % 3}"
        rows.append(
            {
                "image": f"{number}.jpg", "sequence": car, "captured_at": NOON + timedelta(seconds=number),
                "latitude": 46.0, "longitude": 500.0 if number == 4 else 8.0,
            }
        )  # fmt: skip
    (folder / "7.jpg").unlink()
    pq.write_table(pa.Table.from_pylist(rows), folder / "fleet.parquet")
    return folder / "fleet.parquet"


class CountedEmbedding:
    """Embeds here, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(
        self, chunks: Chunks, make: Callable[..., Any], numbers: Sequence[int]
    ) -> Generator[tuple[int, pa.Table]]:
        self.numbers += numbers
        return embed_fleet_here(chunks, make, numbers)


@pytest.fixture
def embed() -> CountedEmbedding:
    return CountedEmbedding()


@pytest.fixture
def run(manifest: Path, tmp_path: Path, fakes: ModuleType, embed: CountedEmbedding) -> Callable[..., Any]:
    """Runs the job; results go to `out.parquet`."""
    return partial(
        relocalize,
        read_manifest(manifest),
        tmp_path / "out.parquet",
        localizer=fakes.EchoLocalizer(),
        jobs=Jobs(tmp_path / "jobs"),
        embed=embed,
    )


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory, fakes: ModuleType) -> pa.Table:
    """The results of a run that nobody touched."""
    folder = tmp_path_factory.mktemp("undisturbed")
    out = folder / "out.parquet"
    relocalize(
        read_manifest(manifest),
        out,
        localizer=fakes.EchoLocalizer(),
        jobs=Jobs(folder / "jobs"),
        embed=embed_fleet_here,
    )
    return pq.read_table(out)


def test_every_row_comes_out_with_a_status(run: Callable[..., Any], undisturbed: pa.Table) -> None:
    report = run()
    assert report.images == report.embedded == IMAGES == undisturbed.num_rows
    assert report.counts == {"LOCALIZED": IMAGES - 2, "UNREADABLE_IMAGE": 1, "INVALID_ROW": 1}
    rows = {row["image_id"]: row for row in undisturbed.to_pylist()}
    assert "longitude is 500" in rows["4.jpg"]["reason"]
    assert rows["4.jpg"]["given_longitude"] == 500.0
    assert "No such file" in rows["7.jpg"]["reason"]
    assert rows["7.jpg"]["latitude"] is None
    assert rows["8.jpg"]["smoothed_longitude"] is not None
    assert rows["10.jpg"]["smoothed_longitude"] is None  # of no sequence


def test_results_are_geoparquet(undisturbed: pa.Table) -> None:
    assert undisturbed.schema.names == SCHEMA.names
    geo = json.loads(undisturbed.schema.metadata[b"geo"])
    assert geo["columns"][geo["primary_column"]]["encoding"] == "WKB"


def test_tracks_go_on_from_chunk_to_chunk(undisturbed: pa.Table) -> None:
    """The fake track adds up what it saw, so it may not begin anew where a chunk does."""
    rows = [row for row in undisturbed.to_pylist() if row["sequence"] == "car-1"]
    assert len(rows) > CHUNK_ROWS
    total = 0.0
    for row in rows:
        total = (total + (row["longitude"] or 0.5)) % 180
        assert row["smoothed_longitude"] == pytest.approx(total)


def test_doing_it_again_embeds_nothing_and_gives_the_same(
    run: Callable[..., Any], embed: CountedEmbedding, undisturbed: pa.Table, tmp_path: Path
) -> None:
    run()
    assert len(embed.numbers) == 5
    assert run().embedded == 1  # the one that is not there is looked for again
    assert len(embed.numbers) == 6
    assert pq.read_table(tmp_path / "out.parquet").equals(undisturbed)
    assert run(resume=False).embedded == IMAGES


def test_a_damaged_chunk_is_embedded_again(
    run: Callable[..., Any], embed: CountedEmbedding, undisturbed: pa.Table, tmp_path: Path
) -> None:
    run()
    [chunk] = (tmp_path / "jobs").glob("*/chunks/0000002.parquet")
    chunk.write_bytes(chunk.read_bytes()[:200])
    assert run().embedded == CHUNK_ROWS
    assert embed.numbers[5:] == [2]
    assert pq.read_table(tmp_path / "out.parquet").equals(undisturbed)


def test_a_chunk_of_an_earlier_version_is_embedded_again(
    run: Callable[..., Any], undisturbed: pa.Table, tmp_path: Path
) -> None:
    run()
    [chunk] = (tmp_path / "jobs").glob("*/chunks/0000000.parquet")
    pq.write_table(pq.read_table(chunk, columns=["fault", "value"]), chunk)
    assert run().embedded == CHUNK_ROWS + 1
    assert pq.read_table(tmp_path / "out.parquet").equals(undisturbed)


@pytest.mark.parametrize("chunks_before", [0, 2, 4])
def test_killed_and_started_again_it_gives_the_same_rows(
    manifest: Path, undisturbed: pa.Table, tmp_path: Path, chunks_before: int
) -> None:
    command = [sys.executable, WORKER, manifest, tmp_path / "out.parquet", tmp_path / "jobs"]
    process = subprocess.Popen([*map(str, command), "0.3"])
    try:
        deadline_s = time.monotonic() + 60
        while len(list((tmp_path / "jobs").glob("*/chunks/*.parquet"))) < chunks_before:
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "out.parquet").exists()
    subprocess.run([*map(str, command), "0"], check=True, timeout=60)
    assert pq.read_table(tmp_path / "out.parquet").equals(undisturbed)


def test_cancelled_it_stops_and_keeps_what_it_has(
    run: Callable[..., Any], embed: CountedEmbedding, tmp_path: Path
) -> None:
    jobs = Jobs(tmp_path / "jobs")

    def cancel(seen: FleetProgress) -> None:
        if seen.done:
            jobs.cancel(seen.job_id)

    with pytest.raises(JobCancelled):
        run(progress=cancel)
    [record] = jobs.list()
    assert record.state is JobState.CANCELLED
    assert not (tmp_path / "out.parquet").exists()
    assert run().embedded == IMAGES - CHUNK_ROWS


@pytest.fixture
def drive(tmp_path: Path, fakes: ModuleType) -> Callable[[], tuple[int, list[dict[str, Any]]]]:
    """Runs a small job; images embedded, and the rows."""

    def run() -> tuple[int, list[dict[str, Any]]]:
        report = relocalize(
            read_manifest(tmp_path / "drive.csv"), tmp_path / "out.parquet", localizer=fakes.EchoLocalizer(),
            jobs=Jobs(tmp_path / "jobs"), embed=embed_fleet_here,
        )  # fmt: skip
        return report.embedded, pq.read_table(tmp_path / "out.parquet").to_pylist()

    return run


def test_what_could_not_be_read_is_tried_again_and_what_was_replaced(
    drive: Callable[[], tuple[int, list[dict[str, Any]]]], tmp_path: Path
) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    with socketserver.TCPServer(("127.0.0.1", 0), Flaky) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/d"
        (tmp_path / "drive.csv").write_text(f"image\na\nb\nc\n{url}\n{url} e\n")
        embedded, rows = drive()
        assert embedded == 5
        assert [row["status"] for row in rows].count("UNREADABLE_IMAGE") == 2
        (tmp_path / "b").write_text("another b")
        again, later = drive()
        server.shutdown()
    assert again == 3
    before = {row["image_id"]: row["longitude"] for row in rows}
    after = {row["image_id"]: row["longitude"] for row in later}
    assert {name for name in after if after[name] != before[name]} == {"b", url}
    assert after[url] is not None


class Flaky(http.server.BaseHTTPRequestHandler):
    """Speaks no HTTP at first."""

    asked = 0

    def do_GET(self) -> None:
        Flaky.asked += 1
        if Flaky.asked == 1:
            self.wfile.write(b"nonsense\r\n")
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"d")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def ray() -> Generator[None]:
    with ray_cluster():
        yield


@pytest.mark.usefixtures("ray")
def test_on_ray_it_gives_the_same(
    run: Callable[..., Any], fakes: ModuleType, undisturbed: pa.Table, tmp_path: Path
) -> None:
    seen: list[FleetProgress] = []
    run(
        localizer=fakes.EchoLocalizer(portable_bytes=1),
        embed=embed_fleet_on_ray,
        answer=answer_fleet_on_ray,
        progress=seen.append,
    )
    assert pq.read_table(tmp_path / "out.parquet").equals(undisturbed)
    for stage in ("embed", "locate"):
        assert [each.done for each in seen if each.stage == stage][-1] == IMAGES


class Signed:
    """Answers as another localizer does, and leaves the number of the process that did."""

    portable_bytes = 1

    def __init__(self, localizer: Any, folder: Path) -> None:
        self._localizer, self._folder = localizer, folder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_localizer"], name)

    def answers(self, rows: Sequence[Any], seen: pa.Table) -> list[dict[str, Any]]:
        (self._folder / str(os.getpid())).touch()
        found: list[dict[str, Any]] = self._localizer.answers(rows, seen)
        return found


@pytest.mark.usefixtures("ray")
def test_a_worker_that_is_killed_while_it_answers_changes_nothing(
    run: Callable[..., Any], fakes: ModuleType, undisturbed: pa.Table, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    killed: list[int] = []

    def kill_one(seen: FleetProgress) -> None:
        if seen.stage == "locate" and not killed:
            killed.append(int(next(pids.iterdir()).name))
            os.kill(killed[0], signal.SIGKILL)

    run(localizer=Signed(fakes.EchoLocalizer(), pids), answer=answer_fleet_on_ray, progress=kill_one)
    assert killed
    assert killed != [os.getpid()]
    assert pq.read_table(tmp_path / "out.parquet").equals(undisturbed)


class Refusing(Signed):
    def answers(self, rows: Sequence[Any], seen: pa.Table) -> list[dict[str, Any]]:
        raise UnknownRegion("atlantis", [])


@pytest.mark.usefixtures("ray")
def test_what_the_index_refuses_arrives_as_itself(
    run: Callable[..., Any], fakes: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(UnknownRegion):
        run(localizer=Refusing(fakes.EchoLocalizer(), tmp_path), answer=answer_fleet_on_ray)
    assert not (tmp_path / "out.parquet").exists()


def test_what_cannot_be_fetched_says_why(tmp_path: Path) -> None:
    assert "No such file" in str(fetch(str(tmp_path / "none.jpg")))
    assert "no way to read" in str(fetch("gopher://there/a.jpg"))
    for url in ("http://127.0.0.1:9/a.jpg", "http://host/my photo.jpg", "http://host:port/a.jpg"):
        assert isinstance(fetch(url), str)
    (tmp_path / "large.jpg").write_bytes(b"x" * (20 * 1024**2 + 1))
    assert "larger than" in str(fetch(str(tmp_path / "large.jpg")))
