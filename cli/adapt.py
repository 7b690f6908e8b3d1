"""`clnet adapt`: a checkpoint for imagery that looks unlike its training's, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import BadOption
from cli.options import CheckpointOption

if TYPE_CHECKING:
    from clnet_model.encoder import TorchEncoder
    from clnet_model.preprocess import Pixels

MOST = 2_000


def adapt(
    images: Annotated[
        Path, typer.Argument(help="Street images: a folder, or a table as of `clnet relocalize`.")
    ],
    sheets: Annotated[list[Path], typer.Argument(help="Orthophoto sheets: files or folders.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new checkpoint.", show_default=False)],
    count: Annotated[
        int, typer.Option(min=32, max=MOST, help="Images and patches to look at, at most.")
    ] = 256,
    checkpoint: CheckpointOption = None,
) -> None:
    """Fit a checkpoint's statistics to images of your own; which of them belong together need not be known.

    Regions have to be ingested with the new checkpoint, and statuses and radii have to be calibrated anew.
    """
    from dataclasses import replace

    from clnet_model.adapt import adapted
    from clnet_model.checkpoint import save_checkpoint
    from clnet_model.encoder import load_encoder

    if (out / "config.json").exists():
        raise BadOption("--out", f"{out} holds a checkpoint already; name another folder")
    encoder = load_encoder(checkpoint, device="cpu")
    canvases = street_canvases(images, encoder, count)
    patches = aerial_patches(sheets, encoder, count)
    model = adapted(encoder.model, canvases, patches)
    digest = save_checkpoint(
        out,
        model,
        calibration=replace(encoder.calibration, fitted=False),
        provenance={
            "command": "clnet adapt",
            "adapted_from": encoder.digest,
            "street_images": len(canvases),
            "patches": len(patches),
        },
    )
    seen = f"{len(canvases)} street images and {len(patches)} patches"
    typer.echo(f"{out}: model {digest}, adapted from {encoder.digest} by {seen}")
    typer.echo(f"ingest regions with it (--checkpoint {out}); its statuses and radii are those of the former")
    typer.echo("imagery until you fit them to a city of yours (clnet evaluate DATA --calibrate)")


def street_canvases(images: Path, encoder: TorchEncoder, count: int) -> Pixels:
    """Canvases (N, H, W, 4) of up to `count` readable street images.

    Raises:
        workers.errors.BadManifest: there are none.
    """
    import numpy as np

    from cli.fleet_localizer import FleetEmbedder
    from workers.errors import BadManifest
    from workers.fetch import fetch_all
    from workers.manifest import read_manifest, sampled

    manifest = sampled(read_manifest(images), count)
    rows = [row for row in manifest.table.to_pylist() if not row["fault"]]
    embedder = FleetEmbedder(encoder, encoder.digest)
    looks = [
        embedder.look(row, data)
        for row, data in zip(rows, fetch_all([row["image"] for row in rows]), strict=True)
    ]
    canvases = [look.canvases[0] for look in looks if not isinstance(look, str)]
    if not canvases:
        raise BadManifest(str(images), "names no readable image", "give street images")
    return np.stack(canvases)


def aerial_patches(sheets: list[Path], encoder: TorchEncoder, count: int) -> Pixels:
    """Up to `count` patches (N, S, S, 3) full of imagery, from all over the sheets.

    Raises:
        tiling.errors.TilingError: the sheets cannot be read, or show nothing.
    """
    import numpy as np

    from tiling.contact_sheet import choose
    from tiling.errors import NoSheets
    from tiling.grid import GridSpec
    from tiling.ortho import open_ortho

    ortho, grid = open_ortho(sheets), GridSpec(zoom=encoder.zoom, side_m=encoder.side_m)
    chosen = choose(ortho, ortho.footprint, grid, count=count, size_px=encoder.patch_px)
    if not chosen:
        raise NoSheets("no patch of the sheets is full of imagery; give sheets that show more ground")
    return np.stack([image.pixels for image in chosen])
