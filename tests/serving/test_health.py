"""How the service says how it is, behind parts that fail on demand."""

from __future__ import annotations

import asyncio

import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from serving import health
from serving.admission import Admission
from serving.errors import ModelReplaced, Overloaded, UnknownService
from serving.health import HealthCheck


class FakePart:
    """A deployment handle whose calls answer, or do not."""

    def __init__(self) -> None:
        self.is_up = True
        self.digest = "m"
        self.facts = self.regions = self

    async def remote(self) -> FakePart:
        if not self.is_up:
            raise ConnectionError
        return self


def check_of(*parts) -> HealthCheck:
    return HealthCheck(*parts, model_digest="m")


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(health, "LOOK_EVERY_S", 0.01)
    return FakePart(), FakePart(), Admission(4)


def test_a_watcher_hears_of_every_change_and_of_the_end(parts):
    encoder, index, images = parts

    async def watch() -> list[int]:
        seen = []
        async for reply in check_of(encoder, index, images).watch(""):
            seen.append(reply.status)
            if len(seen) == 1:
                index.is_up = False
            if len(seen) == 2:
                index.is_up = True
            if len(seen) == 3:
                await images.close(0.0)
        return seen

    serving, down = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
    assert asyncio.run(asyncio.wait_for(watch(), 10.0)) == [serving, down, serving, down]


def test_a_stopping_service_does_not_serve(parts):
    _, _, images = parts
    asyncio.run(images.close(0.0))
    assert asyncio.run(check_of(*parts).check("")).status == HealthCheckResponse.NOT_SERVING


def test_an_encoder_of_another_model_is_told(parts):
    parts[0].digest = "another"
    with pytest.raises(ModelReplaced, match="restart the service"):
        asyncio.run(check_of(*parts).check(""))


def test_unknown_names(parts):
    with pytest.raises(UnknownService):
        asyncio.run(check_of(*parts).check("other"))

    async def first() -> int:
        async for reply in check_of(*parts).watch("other"):
            return reply.status
        return -1

    assert asyncio.run(first()) == HealthCheckResponse.SERVICE_UNKNOWN


def test_watchers_are_bounded(parts, monkeypatch):
    monkeypatch.setattr(health, "MAX_WATCHERS", 1)
    check = check_of(*parts)

    async def watch_twice() -> None:
        first = check.watch("")
        await anext(first)
        await anext(check.watch(""))

    with pytest.raises(Overloaded):
        asyncio.run(watch_twice())
