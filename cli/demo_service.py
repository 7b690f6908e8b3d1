"""The demo's own service: `clnet serve` on a free port, in a process group of its own, certain to end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.demo_steps import Steps
from cli.errors import DemoFailed

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 45.0
SETTINGS_PREFIX = "CLNET_"


@contextmanager
def running_service(
    store: Path, checkpoint: Path | None, *, log: Path, steps: Steps
) -> Iterator[grpc.Channel]:
    """A channel to a service that answers; the service is stopped on leaving, whatever happened.

    Raises:
        DemoFailed: the service did not come up.
    """
    port = free_port()
    with steps.step(f"start the service on 127.0.0.1:{port}"), log.open("wb") as sink:
        process = _spawn(store, checkpoint, port, sink.fileno())
    try:
        with steps.step("wait until it answers"), grpc.insecure_channel(f"127.0.0.1:{port}") as probe:
            wait_until_serving(probe, process, log=log)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        with steps.step("stop the service"):
            stop(process)


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _spawn(store: Path, checkpoint: Path | None, port: int, sink: int) -> subprocess.Popen[bytes]:
    """Start `clnet serve` without the user's settings: the demo never touches another store or cluster."""
    command = [sys.executable, "-m", "cli", "serve", "--store", str(store), "--port", str(port)]
    if checkpoint is not None:
        command += ["--checkpoint", str(checkpoint)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS_PREFIX)}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment, start_new_session=True
    )


def wait_until_serving(channel: grpc.Channel, process: subprocess.Popen[bytes], *, log: Path) -> None:
    """Ask the standard health service until it says SERVING.

    Raises:
        DemoFailed: the process ended or the time is up; the message quotes the last line of its log.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise DemoFailed(
                f"the service ended with status {process.returncode}: {last_line(log)} (see {log})"
            )
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
        except grpc.RpcError:
            time.sleep(0.3)
            continue
        if reply.status == health_pb2.HealthCheckResponse.SERVING:
            return
        time.sleep(0.3)
    raise DemoFailed(
        f"the service did not answer within {START_TIMEOUT_S:.0f} s: {last_line(log)} (see {log})"
    )


def last_line(log: Path) -> str:
    """The last line that is not empty, or a word that says there is none."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote nothing"


def stop(process: subprocess.Popen[bytes], *, patience_s: float = STOP_TIMEOUT_S) -> None:
    """Ask the service to end; after `patience_s` end every process of its group."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
