"""A typed client of the service, for programs that live beside it; others need the .proto files alone.

    with Client("127.0.0.1:50051", api_key="clnet_…") as client:
        answer = client.localize(Path("street.jpg").read_bytes(), Query())

Calls that the service could not take are tried again, by its own hint when. What changes something carries a
request id, so that a second try is no second change as long as the replica that owns the store lives. A
rollback also names the build that it takes to be live: even after that replica has died, a second try is no
second rollback, but ends with ABORTED.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from functools import cached_property

from serving.calling import Caller
from serving.edge import request_from
from serving.locate import Query
from serving.pb import localization_service_pb2, region_service_pb2
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub
from serving.pb.region_service_pb2_grpc import RegionServiceStub


class Client(Caller):
    """Localizes images and manages regions."""

    @cached_property
    def _localization(self) -> LocalizationServiceStub:
        return LocalizationServiceStub(self._channel)

    @cached_property
    def _regions(self) -> RegionServiceStub:
        return RegionServiceStub(self._channel)

    def localize(
        self, data: bytes, query: Query, *, timeout_s: float = 60.0, request_id: str | None = None
    ) -> localization_service_pb2.LocalizeResponse:
        """Where an encoded image was taken.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        request = request_from(data, query)
        if request_id is not None:
            request.request_id = request_id

        def call(left_s: float) -> localization_service_pb2.LocalizeResponse:
            request.timeout_s = left_s  # the service cannot see the deadline of the call
            return self._localization.Localize(request, timeout=left_s, metadata=self._metadata())

        return self._tried(call, timeout_s)

    def follow(
        self, frames: Iterable[localization_service_pb2.LocalizeStreamRequest]
    ) -> Iterator[localization_service_pb2.LocalizeStreamResponse]:
        """The answers to a sequence as they come; never tried again, since frames cannot be sent twice.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        with self._calling():
            for answer in self._localization.LocalizeStream(iter(frames), metadata=self._metadata()):
                if answer.HasField("capture_time"):  # the last one before an error has none
                    yield answer

    def coverage(
        self,
        request: localization_service_pb2.GetCoverageRequest | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> localization_service_pb2.GetCoverageResponse:
        """What can be localized where.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        asked = request or localization_service_pb2.GetCoverageRequest()
        return self._tried(
            lambda left_s: self._localization.GetCoverage(asked, timeout=left_s, metadata=self._metadata()),
            timeout_s,
        )

    def regions(self, *, timeout_s: float = 30.0) -> list[region_service_pb2.Region]:
        """All regions, by name.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        found: list[region_service_pb2.Region] = []
        request = region_service_pb2.ListRegionsRequest()
        while True:
            page = self._tried(
                lambda left_s: self._regions.ListRegions(request, timeout=left_s, metadata=self._metadata()),
                timeout_s,
            )
            found.extend(page.regions)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def promote(
        self, region: str, generation: str, *, expected_live: str | None = None, timeout_s: float = 60.0
    ) -> region_service_pb2.Region:
        """Make a complete build live.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        request = region_service_pb2.PromoteGenerationRequest(
            region=region,
            generation=generation,
            expected_live_generation=expected_live,
            request_id=uuid.uuid4().hex,
        )
        return self._tried(
            lambda left_s: self._regions.PromoteGeneration(
                request, timeout=left_s, metadata=self._metadata()
            ),
            timeout_s,
        ).region

    def roll_back(
        self, region: str, *, expected_live: str | None = None, timeout_s: float = 60.0
    ) -> region_service_pb2.Region:
        """Make the build live that was live before.

        Args:
            expected_live: refuse where another build is live; None: the one that is live now, for which the
                key needs the scope `locate` too.

        Raises:
            CallFailed: the service refused or cannot be reached. ABORTED: another build is live than
                expected, perhaps because an earlier try was carried out and its answer lost; look first.
        """
        began_s = time.monotonic()
        if expected_live is None:
            expected_live = self._live_generation(region, timeout_s)
        timeout_s -= time.monotonic() - began_s
        request = region_service_pb2.RollBackRegionRequest(
            region=region, expected_live_generation=expected_live, request_id=uuid.uuid4().hex
        )
        return self._tried(
            lambda left_s: self._regions.RollBackRegion(request, timeout=left_s, metadata=self._metadata()),
            timeout_s,
        ).region

    def _live_generation(self, region: str, timeout_s: float) -> str | None:
        """The build that answers; None: none does."""
        request = region_service_pb2.ListGenerationsRequest(region=region, page_size=1000)
        while True:
            page = self._tried(
                lambda left_s: self._regions.ListGenerations(
                    request, timeout=left_s, metadata=self._metadata()
                ),
                timeout_s,
            )
            for found in page.generations:
                if found.state == region_service_pb2.GENERATION_STATE_LIVE:
                    return found.generation
            if not page.next_page_token:
                return None
            request.page_token = page.next_page_token

    def delete_region(
        self, region: str, *, expected_live: str | None = None, timeout_s: float = 60.0
    ) -> None:
        """Delete a region with all its builds.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        request = region_service_pb2.DeleteRegionRequest(
            region=region, expected_live_generation=expected_live, request_id=uuid.uuid4().hex
        )
        self._tried(
            lambda left_s: self._regions.DeleteRegion(request, timeout=left_s, metadata=self._metadata()),
            timeout_s,
        )
