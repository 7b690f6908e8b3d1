"""`clnet regions`: what a store or a running service can search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import BadOption
from cli.generations import days, generation_json, show_generations
from cli.options import DEFAULT_STORE, Settings, StoreOption, open_store_from_options

if TYPE_CHECKING:
    from pathlib import Path

    from serving.pb.region_service_pb2 import Region
    from spatial_index.records import GenerationInfo


def regions(
    name: Annotated[
        str | None, typer.Argument(help="List the generations of this region.", show_default=False)
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    server: Annotated[
        str | None, typer.Option(help="Ask this running service, host:port, instead.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List the regions that are indexed, or the generations of one."""
    if name is not None:
        _generations(name, store, server, as_json=as_json)
        return
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
    from serving.region_messages import region_message

    if server is not None:
        key = Settings().api_key
        with Client(server, api_key=key.get_secret_value() if key else None) as client:
            return client.regions()
    with open_store_from_options(store) as index:
        return [region_message(region) for region in index.regions()]


def list_generations(store: Path, region: str) -> list[GenerationInfo]:
    """All generations of a region, by name.

    Raises:
        UnknownRegion: it has none.
    """
    with open_store_from_options(store) as index:
        found = index.generations(region)
        if not found:
            index.region(region)
    return found


def show(found: list[Region]) -> None:
    """A table of regions."""
    from cli.tables import print_table

    if not found:
        typer.echo("no regions yet; `clnet ingest REGION PATH...` makes one")
        return
    header = ("region", "patches", "km²", "grid", "generation", "made", "imagery", "model")
    print_table(header, [_row(region) for region in found], whole=header[:-1])


def _row(region: Region) -> tuple[str, ...]:
    return (
        region.name,
        f"{region.patch_count:,}",
        f"{_area_km2(region):.2f}",
        f"z{region.zoom} {region.side_m:g} m",
        region.generation,
        f"{region.create_time.ToDatetime():%Y-%m-%d}",
        _imagery(region),
        region.model_digest,
    )


def _generations(region: str, store: Path, server: str | None, *, as_json: bool) -> None:
    if server is not None:
        raise BadOption("--server", "a service tells its live regions alone; leave out the region's name")
    found = list_generations(store, region)
    if as_json:
        for info in found:
            typer.echo(generation_json(info))
    else:
        show_generations(found)


def _area_km2(region: Region) -> float:
    from shapely.geometry import MultiPolygon, Polygon

    from tiling.coverage import area_km2

    shapes = [
        [[(at.longitude, at.latitude) for at in ring.positions] for ring in polygon.rings]
        for polygon in region.coverage
    ]
    return area_km2(MultiPolygon([Polygon(rings[0], rings[1:]) for rings in shapes]))


def _imagery(region: Region) -> str:
    if not region.HasField("imagery_start_time"):
        return days(None, None)
    return days(region.imagery_start_time.ToDatetime(), region.imagery_end_time.ToDatetime())
