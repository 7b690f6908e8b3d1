"""`clnet serve`: the localization service on this machine or in a Ray cluster."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import (
    DEFAULT_STORE,
    CheckpointOption,
    JobsOption,
    Settings,
    StoreOption,
    open_store_from_options,
)

if TYPE_CHECKING:
    from types import FrameType

    from serving.app import Service
    from serving.auth import ApiKey
    from serving.job_replica import OpenOperations


def serve(
    store: StoreOption = DEFAULT_STORE,
    port: Annotated[int, typer.Option(help="gRPC port; 0 takes any free one.", min=0, max=65535)] = 50051,
    checkpoint: CheckpointOption = None,
    public: Annotated[bool, typer.Option("--public", help="Answer callers on other machines too.")] = False,
    encoders: Annotated[int, typer.Option(help="Encoder replicas.", min=1)] = 1,
    ingresses: Annotated[int, typer.Option(help="Ingress replicas.", min=1)] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs for each encoder replica.", min=0.0)] = 0.0,
    timeout_s: Annotated[float, typer.Option(help="Longest time for one request, seconds.", min=0.1)] = 30.0,
    max_encoders: Annotated[
        int | None, typer.Option(help="Grow to this many encoders under load.", min=1, show_default=False)
    ] = None,
    max_ingresses: Annotated[
        int | None, typer.Option(help="Grow to this many ingresses under load.", min=1, show_default=False)
    ] = None,
    max_waiting: Annotated[
        int, typer.Option(help="Images in work at once for each ingress; more are refused.", min=1)
    ] = 64,
    drain_s: Annotated[
        float, typer.Option(help="Longest wait for requests in progress when stopping.", min=0.0)
    ] = 30.0,
    haproxy: Annotated[
        bool, typer.Option("--haproxy", help="HAProxy in front: for production, on Linux.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Port of the Prometheus metrics.", min=1, max=65535, show_default=False),
    ] = None,
    audit_log: Annotated[
        Path | None, typer.Option(help="Append a line of JSON for every call.", show_default=False)
    ] = None,
    shadow_share: Annotated[
        float,
        typer.Option(help="Share of inexact searches to repeat exactly, for the metrics.", min=0.0, max=1.0),
    ] = 0.01,
    trace_file: Annotated[
        Path | None, typer.Option(help="Append trace spans as lines of JSON.", show_default=False)
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            help="Take ingests and fleets over gRPC; they may read this folder.", show_default=False
        ),
    ] = None,
    jobs: JobsOption = None,
) -> None:
    """Serve localization over gRPC until Ctrl-C or SIGTERM."""
    from serving.app import running
    from serving.options import ServiceOptions
    from serving.tracing import TraceSettings

    settings = Settings()
    open_jobs = _job_opener(inputs, jobs or store.parent / "jobs", checkpoint)
    if open_jobs is not None:
        with open_store_from_options(store, create=True):  # the first region may come with a job
            pass
    options = ServiceOptions(
        store=store,
        store_url=settings.qdrant_url,
        store_api_key=settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None,
        store_shards=settings.qdrant_shards,
        store_replicas=settings.qdrant_replicas,
        checkpoint=checkpoint,
        port=port,
        public=public,
        ray_address=settings.ray_address,
        timeout_s=timeout_s,
        encoder_replicas=encoders,
        max_encoder_replicas=max_encoders,
        ingress_replicas=ingresses,
        max_ingress_replicas=max_ingresses,
        encoder_gpus=gpus,
        max_waiting=max_waiting,
        drain_s=drain_s,
        haproxy=haproxy,
        metrics_port=metrics_port,
        keys=api_keys(settings),
        audit_log=audit_log,
        shadow_share=shadow_share,
        open_operations=open_jobs,
        traces=TraceSettings(
            otlp_endpoint=settings.otlp_endpoint, file=trace_file.absolute() if trace_file else None
        ),
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # while starting: undo what was started
        signal.signal(number, _interrupt)  # SIGINT too: a shell's background job starts with it ignored
    if public and not options.keys:
        typer.echo("warning: all who reach this machine may locate; see CLNET_API_KEYS_FILE", err=True)
    typer.echo("starting the service …")
    with contextlib.ExitStack() as until_stopped, running(options) as service:
        stop = threading.Event()
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # Ray has put a handler of its own on SIGTERM meanwhile
            signal.signal(number, lambda *_: stop.set())
        announce(service)
        stop.wait()
        typer.echo("stopping …")
        # Ray prints a line for every call that ends with Serve's controller.
        until_stopped.enter_context(contextlib.redirect_stdout(io.StringIO()))
    typer.echo("stopped")


def api_keys(settings: Settings) -> tuple[ApiKey, ...]:
    """The API keys of the environment; none when none are set.

    Raises:
        BadKeys: they cannot be read.
        BadOption: they are set twice.
    """
    from cli.errors import BadOption
    from serving.auth import keys_in_file, keys_in_text

    if settings.api_keys_file is not None and settings.api_keys is not None:
        raise BadOption("CLNET_API_KEYS", "is set beside CLNET_API_KEYS_FILE; keep one of them")
    if settings.api_keys_file is not None:
        return keys_in_file(settings.api_keys_file)
    if settings.api_keys is not None:
        return keys_in_text(settings.api_keys.get_secret_value(), "CLNET_API_KEYS")
    return ()


def _job_opener(inputs: Path | None, jobs: Path, checkpoint: Path | None) -> OpenOperations | None:
    from cli.errors import BadOption

    if inputs is None:
        return None
    if not inputs.is_dir():
        raise BadOption("--inputs", f"{inputs} is no folder; make it, and put there what jobs may read")
    from cli.operations import open_operations

    return partial(
        open_operations,
        inputs=inputs.absolute(),
        jobs=jobs.absolute(),
        checkpoint=checkpoint.absolute() if checkpoint else None,
    )


def announce(service: Service) -> None:
    """Say where the service answers, from what, and how to try it."""
    typer.echo(f"ready on {service.target}, model {service.model_digest}")
    for region in service.regions:
        typer.echo(f"  region {region.name}: {region.patches:,} patches, generation {region.generation}")
        if region.model_digest != service.model_digest:
            typer.echo(
                f"  warning: {region.name} was embedded by model {region.model_digest}; "
                "its queries are refused until it is ingested again",
                err=True,
            )
    if not service.regions:
        typer.echo("  no regions yet: stop and `clnet ingest REGION PATH...`, or start with --inputs")
    typer.echo(f"try: clnet locate PHOTO.jpg --server {service.target}")
    typer.echo(f"     grpcurl -plaintext {service.target} list")
    typer.echo("stop with Ctrl-C")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
