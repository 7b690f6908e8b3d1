"""Starts and stops the service on Ray Serve: one application, one gRPC port.

    with running(ServiceOptions(store=Path("store"))) as service:
        print(service.target)

Ray is started when it is not running, and then stopped again with the service.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import ray
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation, gRPCOptions
from ray.serve.schema import LoggingConfig

from serving.deployments import application
from serving.errors import AlreadyServing, NotReady, PortInUse
from serving.options import ServiceOptions
from serving.stopping import drain, end, quiet_driver
from spatial_index.records import RegionInfo
from spatial_index.store import open_store

APPLICATION = "clnet-geoloc"
MAX_MESSAGE_BYTES = 24 * 2**20  # the largest image, 20 MB, with room for the largest polygon
READY_TIMEOUT_S = 120.0

# Read by Ray's processes when they start. Without the last one, stopping takes 30 s.
HAPROXY_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}

SERVICERS = (
    "serving.pb.localization_service_pb2_grpc.add_LocalizationServiceServicer_to_server",
    "serving.pb.region_service_pb2_grpc.add_RegionServiceServicer_to_server",
    "serving.pb.ingestion_service_pb2_grpc.add_IngestionServiceServicer_to_server",
    "serving.pb.relocalization_service_pb2_grpc.add_RelocalizationServiceServicer_to_server",
    "google.longrunning.operations_pb2_grpc.add_OperationsServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A service that answers."""

    port: int
    model_digest: str
    regions: tuple[RegionInfo, ...]
    owns_ray: bool
    host: str = "127.0.0.1"
    drain_s: float = 30.0

    @property
    def target(self) -> str:
        """`host:port`, as gRPC channels take it."""
        return f"{self.host}:{self.port}"

    def stop(self) -> None:
        """Answer what is in work, refuse what is new, stop everything that was started for the service."""
        with quiet_driver():
            drain(APPLICATION, self.drain_s)
        end(self.owns_ray)


@contextlib.contextmanager
def running(options: ServiceOptions) -> Iterator[Service]:
    """A service for the time of a `with` block; see `start_service`."""
    service = start_service(options)
    try:
        yield service
    finally:
        service.stop()


def start_service(options: ServiceOptions) -> Service:
    """Start the service and wait until it answers.

    Raises:
        spatial_index.errors.SpatialIndexError: the store cannot be opened.
        clnet_model.errors.BadCheckpoint: the checkpoint cannot be read.
        PortInUse: another program has the port.
        AlreadyServing: this Ray cluster runs the service already.
        NotReady: a part of it did not come up.
    """
    port = options.port or free_port()
    check_port(port)
    digest, regions = check_parts(options)
    owns_ray = start_ray(options)
    service = Service(
        port=port, model_digest=digest, regions=regions, owns_ray=owns_ray, drain_s=options.drain_s
    )
    try:
        with quiet_driver():
            deploy(application(options), options, port)
        wait_until_serving(service.target, READY_TIMEOUT_S)
    except AlreadyServing:
        if owns_ray:
            ray.shutdown()
        raise
    except BaseException:
        end(owns_ray)
        raise
    return service


def check_parts(options: ServiceOptions) -> tuple[str, tuple[RegionInfo, ...]]:
    """Model digest and regions; read here first, because errors are clearer here than inside a replica."""
    from clnet_model.checkpoint import SHIPPED, digest_of  # noqa: PLC0415  # torch, 2 s: only when it is needed

    digest = digest_of(options.checkpoint or SHIPPED)
    with open_store(directory=options.store, url=options.store_url, api_key=options.store_api_key) as store:
        return digest, tuple(store.regions())


def start_ray(options: ServiceOptions) -> bool:
    """Connect to Ray, starting it on this machine if need be; True when it must be stopped afterwards.

    Raises:
        NotReady: Ray did not start (its own parts wait 15 to 30 s for each other, too short on a very busy
            machine) or the address does not answer.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ |= HAPROXY_ENVIRONMENT if options.haproxy else {}
    address = options.ray_address
    local: dict[str, Any] = {"include_dashboard": False, "_metrics_export_port": options.metrics_port}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else local),
        )
    except Exception as error:  # what Ray raises when its node does not come up is a bare Exception
        raise NotReady(
            f"Ray: {last_line(str(error))} Is the address right, or the machine too busy?"
        ) from error
    return True


def deploy(app: serve.Application, options: ServiceOptions, port: int) -> None:
    """Start Serve's proxy on the port and the application behind it.

    Raises:
        AlreadyServing: Serve runs already in this cluster.
        NotReady: a deployment failed.
    """
    if serving_already():
        raise AlreadyServing
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host=http_host(options), port=free_port()),
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=list(SERVICERS)),
        logging_config=quiet(),
        controller_options={"runtime_env": {"env_vars": serve_environment()}},
    )
    try:
        # Without a route the gRPC proxy does not know the application either; HTTP has a loopback port.
        serve.run(app, name=APPLICATION, route_prefix="/unused")
    except RuntimeError as error:
        raise NotReady(last_line(str(error))) from error


def http_host(options: ServiceOptions) -> str:
    """Where Serve's HTTP side listens; nobody uses it, but HAProxy binds gRPC to the same address."""
    return "0.0.0.0" if options.haproxy and options.public else "127.0.0.1"


def serve_environment() -> dict[str, str]:
    """Settings of Serve that exist as environment variables alone; the proxy reads them when it starts."""
    return {
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_MESSAGE_BYTES),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 s are too few on a busy machine
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def quiet() -> LoggingConfig:
    """Errors only, no line per request."""
    return LoggingConfig(log_level="ERROR", enable_access_log=False)


def serving_already() -> bool:
    """Whether Serve runs in this cluster."""
    with contextlib.suppress(ValueError):
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        return True
    return False


def wait_until_serving(target: str, timeout_s: float) -> None:
    """Return when the health service says SERVING.

    Raises:
        NotReady: it has not within the time.
    """
    deadline_s = time.monotonic() + timeout_s
    with grpc.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline_s:
            with contextlib.suppress(grpc.RpcError):
                reply = health.Check(health_pb2.HealthCheckRequest(), timeout=2.0, wait_for_ready=True)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            time.sleep(0.05)
    raise NotReady(f"no SERVING from {target} within {timeout_s:g} s")


def free_port() -> int:
    """A TCP port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    """Refuse a port that is taken on any interface of this machine: Serve's proxy listens on all of them.

    Raises:
        PortInUse: it is taken.
    """
    for family, host in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        with contextlib.suppress(PermissionError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise PortInUse(port) from error


def last_line(text: str) -> str:
    """The last line of a replica's report that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
