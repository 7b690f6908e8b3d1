"""grpc.health.v1.Health: SERVING when encoder and index answer; NOT_SERVING otherwise, and while stopping.

Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2
from ray.serve.handle import DeploymentHandle

from serving.admission import Admission
from serving.errors import ModelReplaced, UnknownService

SERVICES = (
    "clnet.geoloc.v1.LocalizationService",
    "clnet.geoloc.v1.RegionService",
    "clnet.geoloc.v1.IngestionService",
    "clnet.geoloc.v1.RelocalizationService",
    "google.longrunning.Operations",
)
HEALTH_SERVICES = ("", *SERVICES)
MAX_WATCHERS = 32  # each holds a place among the calls of a replica, and needs no key
LOOK_EVERY_S = 1.0
PATIENCE_S = 10.0

Health = health_pb2.HealthCheckResponse


class HealthCheck:
    """How the service is, asked once or watched."""

    def __init__(
        self,
        encoder: DeploymentHandle[Any],
        index: DeploymentHandle[Any],
        images: Admission,
        *,
        model_digest: str,
    ) -> None:
        """`images`: the room for images; closed when stopping. `model_digest`: what the service runs."""
        self._encoder = encoder
        self._index = index
        self._images = images
        self._model_digest = model_digest
        self._watchers = Admission(MAX_WATCHERS)

    async def check(self, service: str) -> health_pb2.HealthCheckResponse:
        """One service; the empty name is all of them.

        Raises:
            UnknownService: there is none of that name.
            Unready: a part does not answer.
            ModelReplaced: an encoder has loaded another model.
        """
        if service not in HEALTH_SERVICES:
            raise UnknownService(service[:128])
        if self._images.is_closed:
            return Health(status=Health.NOT_SERVING)
        facts, _ = await asyncio.gather(self._encoder.facts.remote(), self._index.regions.remote())
        if facts.digest != self._model_digest:
            raise ModelReplaced(self._model_digest, facts.digest)
        return Health(status=Health.SERVING)

    async def list(self) -> health_pb2.HealthListResponse:
        """All services."""
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(HEALTH_SERVICES, await self.check("")))

    async def watch(self, service: str) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state now and after every change; ends when the service stops.

        Raises:
            Overloaded: too many are watching.
        """
        last: int | None = None
        with self._watchers.enter():
            while True:
                is_stopping = self._images.is_closed
                state = await self._state(service)
                if state != last:
                    yield Health(status=state)
                    last = state
                if is_stopping:
                    return
                await asyncio.sleep(LOOK_EVERY_S)

    async def _state(self, service: str) -> int:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return int((await self.check(service)).status)
        except UnknownService:
            return int(Health.SERVICE_UNKNOWN)
        except Exception:  # whatever is wrong with a part
            return int(Health.NOT_SERVING)
