"""The TLS edge of infra/nginx.conf, run by a real nginx in front of a gRPC server."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.longrunning import operations_pb2
from google.longrunning.operations_pb2_grpc import OperationsServicer, add_OperationsServicer_to_server

from serving.calling import Retries
from serving.client import Client
from serving.errors import CallFailed
from serving.job_client import JobClient
from serving.locate import Query
from serving.pb import image_pb2, localization_service_pb2, region_service_pb2
from serving.pb.localization_service_pb2_grpc import (
    LocalizationServiceServicer,
    add_LocalizationServiceServicer_to_server,
)
from serving.pb.region_service_pb2_grpc import RegionServiceServicer, add_RegionServiceServicer_to_server

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx; `apt-get install nginx-light`")
CONF = Path(__file__).parents[2] / "infra" / "nginx.conf"
ONCE = Retries(attempts=1)


class Upstream(LocalizationServiceServicer, RegionServiceServicer):
    """Tells what arrives; stands in for the service, whose own manners are tested elsewhere."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}

    def Localize(self, request, context):
        self.metadata = dict(context.invocation_metadata())
        return localization_service_pb2.LocalizeResponse(
            plan="echo", searched_patches=len(request.image.data)
        )

    def LocalizeStream(self, request_iterator, context):
        for request in request_iterator:
            yield localization_service_pb2.LocalizeStreamResponse(capture_time=request.capture_time)

    def ListRegions(self, request, context):
        context.set_trailing_metadata([("grpc-status-details-bin", b"\x08\x10")])
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Operations(OperationsServicer):
    """Long jobs behind nginx: every name is one that is done."""

    def GetOperation(self, request, context):
        return operations_pb2.Operation(name=request.name, done=True)


@dataclass(frozen=True)
class Edge:
    """nginx with our configuration, and what stands behind it."""

    target: str
    certificate: Path
    upstream: Upstream
    server: grpc.Server
    log: Path


def conf_for(folder: Path, *, listen: int, upstream: int) -> str:
    """Our configuration with the marked lines changed, as its operator changes them."""
    text = CONF.read_text()
    for old, new in (
        ("server 127.0.0.1:50051;", f"server 127.0.0.1:{upstream};"),
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{listen} ssl http2;"),
        ("/etc/clnet/", f"{folder}/"),
        ("/run/clnet-nginx.pid", f"{folder}/nginx.pid"),
        ("/dev/stdout", f"{folder}/access.log"),
        ("/tmp/clnet-nginx-body", f"{folder}/body"),
        ("error_log stderr", f"error_log {folder}/error.log"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def edge(tmp_path_factory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost",
         "-keyout", folder / "tls.key", "-out", folder / "tls.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    upstream, listen = Upstream(), free_port()
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 64 * 2**20)])
    add_LocalizationServiceServicer_to_server(upstream, server)
    add_RegionServiceServicer_to_server(upstream, server)
    add_OperationsServicer_to_server(Operations(), server)
    (folder / "nginx.conf").write_text(
        conf_for(folder, listen=listen, upstream=server.add_insecure_port("127.0.0.1:0"))
    )
    server.start()
    nginx = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf", "-g", "daemon off;"])
    try:
        wait_for(listen)
        yield Edge(f"localhost:{listen}", folder / "tls.crt", upstream, server, folder / "access.log")
    finally:
        nginx.terminate()
        nginx.wait(10)
        server.stop(0)


def wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nginx did not start")


@pytest.fixture
def client(edge):
    with Client(edge.target, tls=edge.certificate, api_key="k", retries=ONCE) as client:
        yield client


def test_the_configuration_is_one_that_nginx_takes(edge):
    done = subprocess.run(
        [NGINX, "-t", "-p", edge.log.parent, "-c", edge.log.parent / "nginx.conf"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "test is successful" in done.stderr
    assert "[warn]" not in done.stderr


def test_calls_arrive_with_their_key_and_their_address(edge, client):
    assert client.localize(b"x" * 1000, Query()).plan == "echo"
    assert edge.upstream.metadata["authorization"] == "Bearer k"
    assert edge.upstream.metadata["x-forwarded-for"] == "127.0.0.1"


def test_a_client_cannot_forge_its_address(edge):
    credentials = grpc.ssl_channel_credentials(edge.certificate.read_bytes())
    with grpc.secure_channel(edge.target, credentials) as channel:
        call = channel.unary_unary("/clnet.geoloc.v1.LocalizationService/Localize")
        call(b"", metadata=(("x-forwarded-for", "8.8.8.8"), ("application", "other")))
    assert edge.upstream.metadata["x-forwarded-for"] == "127.0.0.1"
    assert "application" not in edge.upstream.metadata


def test_large_images_pass_and_too_large_ones_do_not(client):
    assert client.localize(bytes(20_000_000), Query()).searched_patches == 20_000_000
    with pytest.raises(CallFailed, match="RESOURCE_EXHAUSTED"):
        client.localize(bytes(26 * 2**20), Query())


def test_sequences_pass_in_both_directions(client):
    frames = [localization_service_pb2.LocalizeStreamRequest() for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.capture_time.seconds = number + 1
    assert [answer.capture_time.seconds for answer in client.follow(frames)] == [1, 2, 3]


def test_a_long_drive_may_be_larger_than_a_request(client):
    image = image_pb2.StreetImage(data=bytes(1_000_000))
    frame = localization_service_pb2.LocalizeStreamRequest(
        frame=localization_service_pb2.LocalizeRequest(image=image)
    )
    assert len(list(client.follow(frame for _ in range(30)))) == 30


def test_long_jobs_pass(edge):
    with JobClient(edge.target, tls=edge.certificate, api_key="k", retries=ONCE) as jobs:
        assert jobs.operation("operations/one").done


def test_errors_keep_their_code_and_details(edge):
    credentials = grpc.ssl_channel_credentials(edge.certificate.read_bytes())
    with grpc.secure_channel(edge.target, credentials) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(
            "/clnet.geoloc.v1.RegionService/ListRegions",
            request_serializer=region_service_pb2.ListRegionsRequest.SerializeToString,
        )(region_service_pb2.ListRegionsRequest())
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert dict(caught.value.trailing_metadata())["grpc-status-details-bin"] == b"\x08\x10"


def test_without_tls_there_is_no_answer(edge):
    with Client(edge.target, retries=ONCE) as client, pytest.raises(CallFailed, match="UNAVAILABLE"):
        client.localize(b"x", Query(), timeout_s=5.0)


def test_an_unknown_certificate_is_not_trusted(edge):
    with (
        Client(edge.target, tls=True, retries=ONCE) as client,
        pytest.raises(CallFailed, match="UNAVAILABLE"),
    ):
        client.localize(b"x", Query(), timeout_s=5.0)


@pytest.mark.parametrize(
    "method", ["/ray.serve.RayServeAPIService/ListApplications", "/clnet.geoloc.v2.Other/Call", "/"]
)
def test_nothing_else_is_let_through(edge, method):
    credentials = grpc.ssl_channel_credentials(edge.certificate.read_bytes())
    with grpc.secure_channel(edge.target, credentials) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_log_tells_outcomes_alone(edge, client):
    client.localize(b"secret-image", Query())
    time.sleep(0.2)
    line = edge.log.read_text().splitlines()[-1]
    assert re.fullmatch(
        r"\S+ 127\.0\.0\.1 /clnet\.geoloc\.v1\.LocalizationService/Localize 200 \S+ [\d.]+", line
    )


def test_a_service_that_is_down_is_unavailable(edge, client):
    """The last test: it stops what stands behind nginx."""
    edge.server.stop(0).wait()
    with pytest.raises(CallFailed, match="UNAVAILABLE: the service is not available"):
        client.localize(b"x", Query(), timeout_s=10.0)
