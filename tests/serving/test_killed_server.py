"""The Qdrant server behind the service is killed under load: typed errors, no wrong answer, recovery."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest

from serving.app import Service, running
from serving.options import ServiceOptions
from tests.serving.load import Load, check, wait_for_recovery
from tests.spatial_index.qdrant_server import QdrantServer, qdrant_binary, qdrant_servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    if qdrant_binary() is None:
        pytest.skip("no Qdrant server: set CLNET_TEST_QDRANT to one")
    with qdrant_servers() as make:
        server = make()
        server.start()
        yield server


@pytest.fixture
def service(ray_session, small_world, server, tmp_path) -> Iterator[Service]:
    small_world.build(tmp_path, ("g1",), url=server.url)
    options = ServiceOptions(store=tmp_path, store_url=server.url, checkpoint=small_world.checkpoint, port=0)
    with running(options) as service:
        yield service


def test_the_service_outlives_its_qdrant_server(service, server, small_world):
    with Load(service.target, small_world.image) as load:
        time.sleep(2.0)
        before = len(load.answers)
        server.kill()
        time.sleep(3.0)
        server.start()
        recovery_s = wait_for_recovery(service, small_world.image)
    check(load, small_world.camera)
    assert before > 0
    assert {error.code() for error in load.errors} <= {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    print(f"{len(load.answers)} answers, {len(load.errors)} errors, {recovery_s:.1f} s to recover")
