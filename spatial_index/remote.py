"""A connection to a Qdrant server: timeouts, retries, and every failure as one of our errors.

Every call made through here is idempotent, so each may be repeated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar
from urllib.parse import parse_qs, urlsplit

import grpc
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from spatial_index.errors import StoreFull, StoreUnavailable

MIN_VERSION = (1, 16)  # collection metadata and strict mode as used here; ACORN for the graph plans
P = ParamSpec("P")
T = TypeVar("T")

_RETRY_GRPC = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}
_RETRY_HTTP = {408, 429, 502, 503, 504}
_DISK_FULL = "No space left on device"  # in the message of an internal error
_DENIED_GRPC = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """How the server store talks to its server; the defaults suit one node nearby."""

    timeout_s: int = 30
    """Per call; the longest one is an acknowledged write while the server is busy."""
    attempts: int = 4
    backoff_s: float = 0.2
    """First pause before a retry; doubles each time, with jitter."""
    batch_bytes: int = 4_000_000
    """Per write call; proxies and the server's own limits start at 5 MB."""
    settle_s: float = 3 * 3600.0
    """Longest wait for a generation to be optimised before it is promoted; a graph of a million points takes
    minutes on a large server, half an hour on two cores."""
    refresh_s: float = 5.0
    """How long a search may rely on the list of live regions before asking again."""
    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None


class NotFound(Exception):
    """The server knows no such collection; never leaves this package."""


class Remote:
    """A Qdrant server that answered and is new enough.

    `url` is the REST address; gRPC is expected at the next port, as in 6333 and 6334. `?grpc_port=N` names
    another one, `?grpc_port=0` keeps everything on REST.

    Raises:
        StoreUnavailable: it does not answer, refuses the key, or is too old.
    """

    def __init__(self, url: str, api_key: str | None, settings: ServerSettings) -> None:
        self.settings = settings
        self.place, grpc_port = _addresses(url)
        try:
            self.client = QdrantClient(
                url=self.place,
                grpc_port=grpc_port,
                prefer_grpc=grpc_port != 0,
                api_key=api_key,
                timeout=settings.timeout_s,
                check_compatibility=False,  # it only warns; _check_version refuses
            )
        except ValueError as exc:
            raise StoreUnavailable(url, str(exc), "give an address such as http://localhost:6333") from exc
        try:
            self._check_version()
        except StoreUnavailable:
            self.client.close()
            raise

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the client, with retries.

        Raises:
            NotFound: the collection does not exist.
            StoreFull: the server has no room on its disk.
            StoreUnavailable: the server did not do it.
        """
        for attempt in range(1, self.settings.attempts + 1):
            try:
                return function(*args, **kwargs)
            except (ApiException, grpc.RpcError, ResourceExhaustedResponse) as exc:
                if not _worth_retrying(exc) or attempt == self.settings.attempts:
                    raise self._translated(exc) from exc
            time.sleep(self.settings.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("at least one attempt is made")

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _check_version(self) -> None:
        found = self.call(self.client.info).version
        numbers = tuple(int(part) for part in found.split("-")[0].split(".")[:2])
        if numbers < MIN_VERSION:
            wanted = ".".join(map(str, MIN_VERSION))
            raise StoreUnavailable(
                self.place, f"it runs Qdrant {found}, needs {wanted}", "upgrade the server"
            )

    def _translated(self, exc: Exception) -> Exception:
        code = _code(exc)
        if code in (404, grpc.StatusCode.NOT_FOUND):
            return NotFound(str(exc))
        if code in (401, 403) or code in _DENIED_GRPC:
            return StoreUnavailable(self.place, "it refused the key", "check CLNET_QDRANT_API_KEY")
        if _DISK_FULL in (reason := _reason(exc)):
            return StoreFull(self.place, reason)
        remedy = (
            "check that the server runs and that its REST and gRPC ports are reachable (CLNET_QDRANT_URL)"
        )
        return StoreUnavailable(self.place, reason, remedy)


def _addresses(url: str) -> tuple[str, int]:
    """The REST address and the gRPC port of a store URL."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        port = parts.port or 6333
        grpc_port = int(parse_qs(parts.query).get("grpc_port", [str(port + 1)])[0])
    except ValueError as exc:
        raise StoreUnavailable(url, str(exc), "give an address such as http://localhost:6333") from exc
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}", grpc_port


def _code(exc: Exception) -> Any:
    if isinstance(exc, UnexpectedResponse):
        return exc.status_code
    return exc.code() if isinstance(exc, grpc.Call) else None


def _worth_retrying(exc: Exception) -> bool:
    code = _code(exc)
    if code is None:  # the connection itself failed, or the server asked to slow down
        return True
    return code in _RETRY_GRPC or code in _RETRY_HTTP


def _reason(exc: Exception) -> str:
    if isinstance(exc, grpc.Call):
        return f"{exc.code().name}: {exc.details()}"
    return " ".join(str(exc).split()) or type(exc).__name__
