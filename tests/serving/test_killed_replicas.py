"""Parts of the real service are killed under load: no wrong answers, typed errors, recovery."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.app import APPLICATION, Service, running
from serving.calling import Retries
from serving.client import Client
from serving.options import ServiceOptions
from tests.serving.load import NORTH, Load, check, wait_for_recovery

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def service(ray_session, small_world, tmp_path_factory) -> Iterator[Service]:
    store = tmp_path_factory.mktemp("killed") / "store"
    small_world.build(store, ("g1",))
    options = ServiceOptions(
        store=store, checkpoint=small_world.checkpoint, port=0, encoder_replicas=2, ingress_replicas=2
    )
    with running(options) as service:
        yield service


def pids_of(deployment: str) -> list[int]:
    """Processes of a deployment's replicas, by the title that Ray gives them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:
            continue
        if title.startswith(f"ray::ServeReplica:{APPLICATION}:{deployment}".encode()):
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("deployment", ["Encoder", "Ingress", "Index"])
def test_a_killed_replica_is_replaced(service, small_world, deployment):
    before = pids_of(deployment)
    assert before
    with Load(service.target, small_world.image) as load:
        time.sleep(2.0)
        os.kill(before[0], signal.SIGKILL)
        time.sleep(2.0)
        recovery_s = wait_for_recovery(service, small_world.image)
    check(load, small_world.camera)
    deadline_s = time.monotonic() + 60.0
    while len(pids_of(deployment)) < len(before) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert len(pids_of(deployment)) == len(before)
    assert before[0] not in pids_of(deployment)
    print(
        f"{deployment}: {len(load.answers)} answers, {len(load.errors)} errors, {recovery_s:.1f} s to recover"
    )


@pytest.mark.parametrize("deployment", ["Encoder", "Ingress"])
def test_a_client_that_tries_again_does_not_notice(service, small_world, deployment):
    """One of two replicas is killed: every call succeeds in the end."""
    failures: list[Exception] = []
    stop = threading.Event()

    def ask():
        with Client(service.target, retries=Retries(attempts=10)) as client:
            while not stop.is_set():
                try:
                    client.localize(small_world.image, NORTH, timeout_s=60.0)
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    os.kill(pids_of(deployment)[0], signal.SIGKILL)
    time.sleep(6.0)
    stop.set()
    for thread in threads:
        thread.join(70)
    assert not failures
