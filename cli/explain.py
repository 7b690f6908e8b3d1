"""`clnet explain`: what in a street image speaks for an aerial patch, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import CheckpointOption

if TYPE_CHECKING:
    from clnet_model.preprocess import Pixels


def explain(
    street: Annotated[Path, typer.Argument(help="JPEG, PNG or WebP.", show_default=False)],
    aerial: Annotated[
        Path, typer.Argument(help="North-up square of the model's side (70 m).", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Picture to write.")] = Path("explain.png"),
    heading: Annotated[
        float, typer.Option(metavar="DEG", help="Where the image's centre looks, from true north.")
    ] = 0.0,
    hfov: Annotated[
        float | None,
        typer.Option(metavar="DEG", help="Field of view of an ordinary photo.", show_default=False),
    ] = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Draw which places of a patch each direction of a street image attends to, and what speaks for it."""
    from cli.explain_figure import draw
    from cli.locate import read_image
    from cli.locate_camera import field_of_view
    from clnet_model.encoder import load_encoder
    from clnet_model.explain import explain as explain_pair
    from clnet_model.preprocess import Panorama, Perspective, decode_image, to_canvas

    encoder = load_encoder(checkpoint)
    data = read_image(street)
    seen_deg = field_of_view(data, hfov)
    camera = (
        Panorama(heading_deg=heading)
        if seen_deg is None
        else Perspective(heading_deg=heading, hfov_deg=seen_deg)
    )
    canvas = to_canvas(decode_image(data), camera, encoder.canvas)
    patch = _square(read_image(aerial), encoder.patch_px)
    found = explain_pair(encoder, canvas, patch)
    draw(canvas, patch, found).save(out)
    typer.echo(f"{out}: similarity {found.score:.3f}")


def _square(data: bytes, side_px: int) -> Pixels:
    """The aerial image as the network takes it.

    Raises:
        clnet_model.errors.BadImage: unreadable, or not a square.
    """
    from clnet_model.benchmark_vectors import to_patch
    from clnet_model.errors import BadImage
    from clnet_model.preprocess import decode_image

    image = decode_image(data)
    height_px, width_px = image.shape[:2]
    if height_px != width_px:
        raise BadImage(f"the aerial image has {width_px} x {height_px} px; cut a square out of it, north up")
    return to_patch(image, side_px)
