"""`clnet regions`: what a store or a running service can search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DEFAULT_STORE, StoreOption, open_store_from_options

if TYPE_CHECKING:
    from pathlib import Path

    from serving.pb.region_service_pb2 import Region


def regions(
    store: StoreOption = DEFAULT_STORE,
    server: Annotated[
        str | None, typer.Option(help="Ask this running service, host:port, instead.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the regions as JSON lines.")] = False,
) -> None:
    """List the regions that are indexed."""
    found = list_regions(store, server)
    if as_json:
        from google.protobuf.json_format import MessageToJson

        for region in found:
            typer.echo(MessageToJson(region, preserving_proto_field_name=True, indent=None))
    else:
        show(found)


def list_regions(store: Path, server: str | None) -> list[Region]:
    """Regions by name."""
    from serving.client import Client
    from serving.edge import region_message

    if server is not None:
        with Client(server) as client:
            return client.regions()
    with open_store_from_options(store) as index:
        return [region_message(region) for region in index.regions()]


def show(found: list[Region]) -> None:
    """A table of regions."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("region", "patches", "side m", "zoom", "generation", "model", "made", "imagery"):
        table.add_column(name, justify="right" if name in {"patches", "side m", "zoom"} else "left")
    for region in found:
        table.add_row(
            region.name,
            f"{region.patch_count:,}",
            f"{region.side_m:g}",
            str(region.zoom),
            region.generation,
            region.model_digest,
            f"{region.create_time.ToDatetime():%Y-%m-%d %H:%M}",
            _imagery(region),
        )
    Console().print(table if found else "no regions yet; `clnet ingest REGION PATH...` makes one")


def _imagery(region: Region) -> str:
    if not region.HasField("imagery_start_time"):
        return "unknown"
    days = (region.imagery_start_time.ToDatetime(), region.imagery_end_time.ToDatetime())
    return " – ".join(dict.fromkeys(f"{day:%Y-%m-%d}" for day in days))
