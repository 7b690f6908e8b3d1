"""The real service with API keys, one for each file of this folder, and what it writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.app import Service, running
from serving.auth import ApiKey, Scope, digest_of
from serving.calling import Retries
from serving.client import Client
from serving.edge import request_from
from serving.locate import HeadingPrior, Query
from serving.options import ServiceOptions
from serving.pb import region_service_pb2
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub
from serving.pb.region_service_pb2_grpc import RegionServiceStub
from serving.tracing import TraceSettings

NORTH = Query(heading=HeadingPrior(heading_deg=0.0))
ONCE = Retries(attempts=1)


@dataclass(frozen=True)
class Caller:
    """Whoever holds one of the keys."""

    name: str
    channel: grpc.Channel

    @property
    def key(self) -> str:
        return f"key-of-the-{self.name}"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)

    def localize(self, image: bytes, *also: tuple[str, str], **fields: Any):
        """Localize with north known; `also` is more metadata, `fields` are the request's."""
        request = request_from(image, NORTH)
        for name, value in fields.items():
            setattr(request, name, value)
        return LocalizationServiceStub(self.channel).Localize(request, metadata=(*self.metadata, *also))

    def change(self, method: str, **fields: Any):
        """A method of the region service."""
        request = getattr(region_service_pb2, f"{method}Request")(**fields)
        return getattr(RegionServiceStub(self.channel), method)(request, metadata=self.metadata)

    def listed(self, **fields: Any):
        """One page of generations."""
        request = region_service_pb2.ListGenerationsRequest(**fields)
        return RegionServiceStub(self.channel).ListGenerations(request, metadata=self.metadata)


@dataclass(frozen=True)
class Watched:
    """A running service and what it writes."""

    service: Service
    channel: grpc.Channel
    audit_log: Path
    trace_file: Path

    @property
    def target(self) -> str:
        return self.service.target

    def caller(self, name: str) -> Caller:
        return Caller(name, self.channel)

    def calls(self) -> list[dict]:
        return [json.loads(line) for line in self.audit_log.read_text().splitlines()]

    def spans(self) -> list[dict]:
        return [json.loads(line) for line in self.trace_file.read_text().splitlines()]


def api_key(name: str, *scopes: Scope, requests_per_minute: float | None = None) -> ApiKey:
    return ApiKey(
        name=name,
        sha256=digest_of(f"key-of-the-{name}"),
        scopes=frozenset(scopes),
        requests_per_minute=requests_per_minute,
    )


@pytest.fixture(scope="module")
def watched(ray_session, small_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("manners")
    small_world.build(folder / "store", ("g1", "g2"), unfinished=("g3",))
    options = ServiceOptions(
        store=folder / "store",
        checkpoint=small_world.checkpoint,
        port=0,
        keys=(
            api_key("reader", Scope.LOCATE),
            api_key("admin", Scope.LOCATE, Scope.ADMIN),
            api_key("slow", Scope.LOCATE, requests_per_minute=10.0),
            api_key("builder", Scope.INGEST),
        ),
        audit_log=folder / "audit.jsonl",
        traces=TraceSettings(file=folder / "spans.jsonl"),
    )
    with running(options) as service, grpc.insecure_channel(service.target) as channel:
        yield Watched(service, channel, folder / "audit.jsonl", folder / "spans.jsonl")


@pytest.fixture(scope="module")
def channel(watched):
    return watched.channel


@pytest.fixture(scope="module")
def caller(watched):
    """By name: who calls."""
    return watched.caller


@pytest.fixture(scope="module")
def client(watched):
    """By name of the key, None for none: our own client, which tries once."""
    opened = []

    def client_of(name: str | None) -> Client:
        key = None if name is None else watched.caller(name).key
        opened.append(Client(watched.target, api_key=key, retries=ONCE))
        return opened[-1]

    yield client_of
    for client in opened:
        client.close()
