"""`clnet rollback` and `clnet drop`, and the table of a region's generations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DEFAULT_STORE, StoreOption, open_store_from_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from spatial_index.records import GenerationInfo
    from spatial_index.store import Store

RegionArgument = Annotated[str, typer.Argument(help="Name of the region.", show_default=False)]


def rollback(region: RegionArgument, store: StoreOption = DEFAULT_STORE) -> None:
    """Make the generation that was live before the present one live again."""
    with open_store_from_options(store) as index:
        info = index.rollback(region)
    typer.echo(f"{region}: generation {info.generation} is live again, {info.patches:,} patches")


def drop(
    region: RegionArgument,
    generation: Annotated[
        str | None,
        typer.Argument(help="One that is not live; the whole region when left out.", show_default=False),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a region, or one of its generations that is not live."""
    with open_store_from_options(store) as index:
        what = describe(index, region, generation)
        if not yes:
            typer.confirm(f"delete {what}?", abort=True)
        if generation is None:
            index.drop_region(region)
        else:
            index.drop_generation(region, generation)
    typer.echo(f"deleted {what}")


def describe(index: Store, region: str, generation: str | None) -> str:
    """What would be deleted, in words; damage does not keep it from being deleted.

    Raises:
        UnknownRegion, UnknownGeneration: there is nothing of that name.
    """
    from spatial_index.errors import DamagedStore, UnknownGeneration

    try:
        found = index.generations(region)
    except DamagedStore as error:
        what = f"region {region} with all its generations"
        if generation is not None:
            what = f"generation {generation} of region {region}"
        return f"{what} (damaged at {error.path})"
    if not found:
        index.region(region)
    if generation is None:
        patches = sum(info.patches for info in found)
        return f"region {region} with all its generations ({len(found)}, {patches:,} patches)"
    for info in found:
        if info.spec.generation == generation:
            return f"generation {generation} of region {region} ({info.patches:,} patches, {state(info)})"
    raise UnknownGeneration(region, generation)


def state(info: GenerationInfo) -> str:
    """What a generation is to its region."""
    if info.live:
        return "live"
    if info.previous:
        return "previous"
    return "complete" if info.complete else "unfinished"


def show_generations(found: Sequence[GenerationInfo]) -> None:
    """A table of one region's generations."""
    from cli.tables import print_table

    header = ("generation", "state", "patches", "km²", "grid", "made", "imagery", "model")
    print_table(header, [_row(info) for info in found], whole=header[:-1])


def generation_json(info: GenerationInfo) -> str:
    """One generation as a line of JSON; what is not known is null."""
    import shapely

    return json.dumps(
        {
            "region": info.spec.region,
            "generation": info.spec.generation,
            "state": state(info),
            "patch_count": info.patches,
            "area_km2": _area_km2(info),
            "zoom": info.spec.zoom,
            "side_m": info.spec.side_m,
            "model_digest": info.spec.model_digest,
            "create_time": info.created_at.isoformat(),
            "imagery_start_time": info.imagery_from.isoformat() if info.imagery_from else None,
            "imagery_end_time": info.imagery_to.isoformat() if info.imagery_to else None,
            "coverage": json.loads(shapely.to_geojson(info.coverage)) if info.coverage else None,
        }
    )


def days(first: datetime | None, last: datetime | None) -> str:
    """From when to when imagery was taken."""
    known = [f"{day:%Y-%m-%d}" for day in (first, last) if day is not None]
    return " – ".join(dict.fromkeys(known)) or "unknown"


def _row(info: GenerationInfo) -> tuple[str, ...]:
    area_km2 = _area_km2(info)
    return (
        info.spec.generation,
        state(info),
        f"{info.patches:,}",
        "" if area_km2 is None else f"{area_km2:.2f}",
        f"z{info.spec.zoom} {info.spec.side_m:g} m",
        f"{info.created_at:%Y-%m-%d}",
        days(info.imagery_from, info.imagery_to) if info.complete else "",
        info.spec.model_digest,
    )


def _area_km2(info: GenerationInfo) -> float | None:
    from tiling.coverage import area_km2

    return None if info.coverage is None else area_km2(info.coverage)
