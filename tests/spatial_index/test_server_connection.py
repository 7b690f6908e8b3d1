"""A server that is away, odd or strict gives one clear error."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from spatial_index.errors import StoreUnavailable
from spatial_index.remote import Remote, ServerSettings
from spatial_index.server import ServerStore

IMPATIENT = ServerSettings(timeout_s=2, attempts=2, backoff_s=0.01)


class FakeQdrant(BaseHTTPRequestHandler):
    """Answers the version question: fails as often as told, then tells its version."""

    version = "1.16.3"
    failures = 0
    status = 503

    def do_GET(self) -> None:
        cls = type(self)
        if cls.failures:
            cls.failures -= 1
            self.send_response(cls.status)
            self.end_headers()
            return
        body = json.dumps({"title": "qdrant", "version": cls.version}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def serve() -> Iterator[object]:
    servers: list[HTTPServer] = []

    def start(**changes: object) -> str:
        handler = type("Handler", (FakeQdrant,), changes)
        server = HTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}?grpc_port=0"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_server_that_is_away_is_named_with_the_remedy():
    with pytest.raises(StoreUnavailable, match=r"127.0.0.1:9 is unavailable.*CLNET_QDRANT_URL"):
        ServerStore(url="http://127.0.0.1:9", settings=IMPATIENT)


@pytest.mark.parametrize(
    "url", ["http://localhost:port", "ftp://localhost", "http://localhost:6333?grpc_port=x"]
)
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(StoreUnavailable, match="http://localhost:6333"):
        ServerStore(url=url, settings=IMPATIENT)


def test_an_old_server_is_refused(serve):
    with pytest.raises(StoreUnavailable, match=r"runs Qdrant 1.9.2, needs 1.16; upgrade"):
        Remote(serve(version="1.9.2"), None, IMPATIENT)


def test_a_busy_server_is_asked_again(serve):
    Remote(serve(failures=1), None, IMPATIENT).close()
    with pytest.raises(StoreUnavailable):
        Remote(serve(failures=2), None, IMPATIENT)


def test_a_refused_key_is_named_and_not_asked_again(serve):
    with pytest.raises(StoreUnavailable, match="CLNET_QDRANT_API_KEY"):
        Remote(serve(failures=1, status=401), None, IMPATIENT)
