"""What the service consists of on Ray Serve: the ingress, and behind it encoder, index and jobs."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import AutoscalingConfig

from serving.gate import GateSettings
from serving.ingress import Ingress
from serving.job_replica import JobReplica
from serving.options import ServiceOptions
from serving.regions import RegionStore
from serving.replicas import EncoderReplica, IndexReplica
from spatial_index.store import open_store

if TYPE_CHECKING:
    from clnet_model.encoder import Encoder

HEALTH_CHECK_S = 2.0  # how soon a replica that hangs is noticed; one whose process ends is noticed at once


def application(options: ServiceOptions) -> serve.Application:
    """The deployments, wired."""
    return build_application(
        options,
        load=partial(load_encoder_of, options.checkpoint),
        open_index=partial(open_index_of, options),
    )


def build_application(
    options: ServiceOptions, *, load: Callable[[], Encoder], open_index: Callable[[], RegionStore]
) -> serve.Application:
    """The deployments around any encoder and index; both functions run inside their replicas."""
    stopping: dict[str, Any] = {
        "graceful_shutdown_wait_loop_s": 0.2,
        "graceful_shutdown_timeout_s": options.drain_s,
    }
    threads = str(options.encoder_threads or os.cpu_count() or 1)
    # The ingress refuses with details what is too much for it; Serve's own limits stand behind that.
    room = 4 * options.max_waiting
    encoder = serve.deployment(
        name="Encoder",
        **replicas(options.encoder_replicas, options.max_encoder_replicas, busy=options.max_batch / 4),
        max_ongoing_requests=room,
        health_check_period_s=HEALTH_CHECK_S,
        **stopping,
        ray_actor_options={
            "num_cpus": 0.1,
            "num_gpus": options.encoder_gpus,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}},
        },
    )(EncoderReplica).bind(load, max_batch=options.max_batch, traces=options.traces)
    index = serve.deployment(
        name="Index",
        num_replicas=1,
        max_ongoing_requests=room,
        health_check_period_s=HEALTH_CHECK_S,
        **stopping,
        ray_actor_options={"num_cpus": 0.1},
    )(IndexReplica).bind(open_index, traces=options.traces, shadow_share=options.shadow_share)
    gate = GateSettings(
        public=options.public,
        keys=options.keys,
        audit_log=options.audit_log.absolute() if options.audit_log else None,
        traces=options.traces,
        replicas=options.max_ingress_replicas or options.ingress_replicas,
    )
    jobs = job_application(options, index) if options.open_operations else None
    ingress: serve.Application = serve.deployment(
        name="Ingress",
        **replicas(options.ingress_replicas, options.max_ingress_replicas, busy=options.max_waiting / 4),
        max_ongoing_requests=room,
        max_queued_requests=room,
        health_check_period_s=HEALTH_CHECK_S,
        **stopping,
        ray_actor_options={"num_cpus": 0.1},
    )(Ingress).bind(
        encoder, index, jobs, gate=gate, timeout_s=options.timeout_s, max_inside=options.max_waiting
    )
    return ingress


def job_application(options: ServiceOptions, index: serve.Application) -> serve.Application:
    """The deployment that carries out long jobs; what it embeds runs in actors of its own."""
    jobs: serve.Application = serve.deployment(
        name="Jobs",
        num_replicas=1,
        max_ongoing_requests=64,
        health_check_period_s=HEALTH_CHECK_S,
        graceful_shutdown_timeout_s=1.0,  # a job goes on when the service starts again
        ray_actor_options={"num_cpus": 0.1},
    )(JobReplica).bind(
        options.open_operations, index, partial(open_index_of, options) if options.store_url else None
    )
    return jobs


def replicas(least: int, most: int | None, *, busy: float) -> dict[str, Any]:
    """How many replicas a deployment has: a fixed number, or as many as keep each below `busy` requests at
    once.

    They grow within seconds and shrink after minutes: an encoder takes seconds to load, and idling costs
    little.
    """
    if most is None or most <= least:
        return {"num_replicas": least}
    config = AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=max(1.0, busy),
        upscale_delay_s=5.0,
        downscale_delay_s=300.0,
    )
    return {"autoscaling_config": config}


def load_encoder_of(checkpoint: Path | None) -> Encoder:
    """The encoder, loaded inside its replica."""
    from clnet_model.encoder import load_encoder  # noqa: PLC0415  # torch is for the encoder's replica alone

    return load_encoder(checkpoint)


def open_index_of(options: ServiceOptions) -> RegionStore:
    """The store, opened inside its replica."""
    return open_store(
        directory=options.store,
        url=options.store_url,
        api_key=options.store_api_key,
        shards=options.store_shards,
        replicas=options.store_replicas,
    )
