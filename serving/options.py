"""Everything that defines a running service."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from serving.auth import ApiKey
from serving.job_replica import OpenOperations
from serving.tracing import TraceSettings

DEFAULT_PORT = 50051


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceOptions:
    """Everything that defines a running service."""

    store: Path
    """Folder of the embedded store; unused with `store_url`."""
    store_url: str | None = None
    store_api_key: str | None = None
    store_shards: int | None = None
    """Parts that a server spreads the generations of jobs over; None: its own choice."""
    store_replicas: int | None = None
    """Copies of each part."""
    checkpoint: Path | None = None
    """None: the shipped one."""
    port: int = DEFAULT_PORT
    """0: any free port."""
    public: bool = False
    """False: callers on this machine only."""
    ray_address: str | None = None
    """None: a Ray of our own on this machine, unless one is running in this process."""
    timeout_s: float = 30.0
    """Longest time spent on a request."""
    max_batch: int = 48
    """Most canvases embedded at once; a photo of unknown heading is 24."""
    max_waiting: int = 64
    """Images that one ingress replica works on at once; more are refused with RESOURCE_EXHAUSTED."""
    drain_s: float = 30.0
    """Longest time that stopping waits for requests in progress."""
    encoder_replicas: int = 1
    max_encoder_replicas: int | None = None
    """Grow up to this many under load; None: `encoder_replicas`, always."""
    ingress_replicas: int = 1
    max_ingress_replicas: int | None = None
    """Grow up to this many under load; None: `ingress_replicas`, always."""
    haproxy: bool = False
    """HAProxy in front instead of Serve's own proxy: several times the throughput, for production."""
    metrics_port: int | None = None
    """Prometheus metrics of this machine; None: any port, unless Ray is set up elsewhere."""
    keys: tuple[ApiKey, ...] = ()
    """Without any, anybody may locate and nobody may administer."""
    audit_log: Path | None = None
    traces: TraceSettings = field(default_factory=TraceSettings)
    shadow_share: float = 0.01
    """Share of the searches by a graph or int8 that are repeated exactly, for the metric of their recall."""
    encoder_threads: int | None = None
    """None: all cores."""
    encoder_gpus: float = 0.0
    open_operations: OpenOperations | None = None
    """Makes, inside its replica, who carries out long jobs; None: no jobs are taken."""
