"""`clnet serve`: the localization service on this machine or in a Ray cluster."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DEFAULT_STORE, CheckpointOption, Settings, StoreOption

if TYPE_CHECKING:
    from types import FrameType

    from serving.app import Service


def serve(
    store: StoreOption = DEFAULT_STORE,
    port: Annotated[int, typer.Option(help="gRPC port; 0 takes any free one.", min=0, max=65535)] = 50051,
    checkpoint: CheckpointOption = None,
    public: Annotated[bool, typer.Option("--public", help="Answer callers on other machines too.")] = False,
    encoders: Annotated[int, typer.Option(help="Encoder replicas.", min=1)] = 1,
    ingresses: Annotated[int, typer.Option(help="Ingress replicas.", min=1)] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs for each encoder replica.", min=0.0)] = 0.0,
    timeout_s: Annotated[float, typer.Option(help="Longest time for one request, seconds.", min=0.1)] = 30.0,
) -> None:
    """Serve localization over gRPC until Ctrl-C or SIGTERM."""
    from serving.app import ServiceOptions, running

    settings = Settings()
    options = ServiceOptions(
        store=store,
        store_url=settings.qdrant_url,
        store_api_key=settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None,
        checkpoint=checkpoint,
        port=port,
        public=public,
        ray_address=settings.ray_address,
        timeout_s=timeout_s,
        encoder_replicas=encoders,
        ingress_replicas=ingresses,
        encoder_gpus=gpus,
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # while starting: undo what was started
        signal.signal(number, _interrupt)  # SIGINT too: a shell's background job starts with it ignored
    typer.echo("starting the service …")
    with running(options) as service:
        stop = threading.Event()
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # Ray has put a handler of its own on SIGTERM meanwhile
            signal.signal(number, lambda *_: stop.set())
        announce(service)
        stop.wait()
        typer.echo("stopping …")
    typer.echo("stopped")


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
        typer.echo("  no regions yet: stop, `clnet ingest REGION PATH...`, start again")
    typer.echo(f"try: clnet locate PHOTO.jpg --server {service.target}")
    typer.echo(f"     grpcurl -plaintext {service.target} list")
    typer.echo("stop with Ctrl-C")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
