"""Embeds the images of a benchmark split, block by block from their files; no more than a block is in memory.

Street images go through the same canvas as in serving, with the heading of their centre column; where it is
unknown the centre is taken to look north, and the figures are those of a model that was told so. Published
layouts say nothing about the field of view of their photos: `hfov_deg` is assumed for all of them.

Aerial images are shown whole as one patch, whatever ground they cover; the network was built for `side_m`
metres, north up. Drone images, as queries or in the gallery, go through the aerial branch as they are: it is
the branch for what is seen from above, but has no notion of their oblique view and unknown heading. Their
figures say how far a model trained without drones carries; a fair one has seen drone views in training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clnet_model.benchmarks.base import QueryKind, Split
from clnet_model.encoder import Encoder, Vectors
from clnet_model.errors import BadImage, BadPairs
from clnet_model.preprocess import Camera, CanvasSpec, Panorama, Perspective, Pixels, decode_image, to_canvas

BLOCK = 256
NAMED = 5  # unreadable files that a message names
PHOTO_HFOV_DEG = 90.0
READERS = min(8, os.cpu_count() or 1)

Progress = Callable[[str, float], None]
Read = Callable[[int], Pixels]  # the image of a row, as the encoder takes it
Embed = Callable[[Pixels], Vectors]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """A file that is no image, and why."""

    path: Path
    reason: str


def embed_gallery(encoder: Encoder, split: Split, *, progress: Progress | None = None) -> Vectors:
    """All gallery images, (P, D).

    Raises:
        BadPairs: names the images that cannot be read.
    """
    read = aerial_reader(split.gallery, encoder.patch_px)
    embedded = _embedded(split.gallery, read, encoder.embed_aerial, f"{split.name}: gallery", progress)
    return _filled(embedded, len(split.gallery), encoder.dim)


def embed_queries(
    encoder: Encoder, split: Split, *, hfov_deg: float = PHOTO_HFOV_DEG, progress: Progress | None = None
) -> Vectors:
    """All queries, (Q, D).

    Raises:
        BadPairs: names the images that cannot be read.
        BadCamera: no camera has this field of view.
    """
    aerial = split.query_kind is QueryKind.AERIAL
    read = (
        aerial_reader(split.queries, encoder.patch_px)
        if aerial
        else street_reader(split, encoder.canvas, hfov_deg)
    )
    embed: Embed = encoder.embed_aerial if aerial else encoder.embed_ground
    embedded = _embedded(split.queries, read, embed, f"{split.name}: queries", progress)
    return _filled(embedded, len(split.queries), encoder.dim)


def camera_of(split: Split, row: int, *, hfov_deg: float = PHOTO_HFOV_DEG) -> Camera:
    """How query `row` was taken, as far as the split says.

    Raises:
        BadCamera: no camera has this field of view.
        BadPairs: the queries were not taken from the street.
    """
    own = split.query_heading_deg
    heading_deg = float(own[row]) if own is not None else split.centre_heading_deg or 0.0
    match split.query_kind:
        case QueryKind.PANORAMA:
            return Panorama(heading_deg=heading_deg)
        case QueryKind.PERSPECTIVE:
            return Perspective(heading_deg=heading_deg, hfov_deg=hfov_deg)
        case _:
            raise BadPairs(f"{split.name}: {split.query_kind.value} queries have no street camera")


def to_patch(image: Pixels, side_px: int) -> Pixels:
    """The whole image (h, w, 3) as a square patch (S, S, 3), averaging areas where it shrinks."""
    shrinks = min(image.shape[:2]) >= side_px
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((side_px, side_px), method))


def aerial_reader(paths: Sequence[Path], patch_px: int) -> Read:
    """Reads image `row` of the paths as a patch."""

    def read(row: int) -> Pixels:
        return to_patch(decode_image(paths[row].read_bytes()), patch_px)

    return read


def street_reader(split: Split, spec: CanvasSpec, hfov_deg: float) -> Read:
    """Reads query `row` of the split as a canvas.

    Raises:
        BadCamera: no camera has this field of view.
        BadPairs: the queries were not taken from the street.
    """
    camera_of(split, 0, hfov_deg=hfov_deg)  # a wrong setting ends here, not at every image

    def read(row: int) -> Pixels:
        image = decode_image(split.queries[row].read_bytes())
        return to_canvas(image, camera_of(split, row, hfov_deg=hfov_deg), spec)

    return read


def _embedded(
    paths: Sequence[Path], read: Read, embed: Embed, label: str, progress: Progress | None
) -> Iterator[Vectors]:
    """Vectors of the files in blocks (b, D)."""
    for images in read_blocks(paths, read, label, progress):
        yield embed(images)


def read_blocks(paths: Sequence[Path], read: Read, label: str, progress: Progress | None) -> Iterator[Pixels]:
    """The images of the files in blocks (b, ...).

    After the first unreadable file the rest is only read, so that one message names them all.

    Raises:
        BadPairs: names the images that cannot be read.
    """
    bad: list[Unreadable] = []
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(paths), BLOCK):
            rows = range(start, min(start + BLOCK, len(paths)))
            attempts = list(pool.map(lambda row: _attempt(paths[row], read, row), rows))
            images = [each for each in attempts if not isinstance(each, Unreadable)]
            bad += [each for each in attempts if isinstance(each, Unreadable)]
            if not bad:
                yield np.stack(images)
            if progress is not None:
                progress(label, rows.stop / len(paths))
    if bad:
        raise BadPairs(_unreadable(bad, len(paths)))


def _filled(blocks: Iterator[Vectors], count: int, dim: int) -> Vectors:
    """The blocks as one array (count, dim), never held twice."""
    found = np.empty((count, dim), np.float32)
    done = 0
    for block in blocks:
        found[done : done + len(block)] = block
        done += len(block)
    return found


def _attempt(path: Path, read: Read, row: int) -> Pixels | Unreadable:
    try:
        return read(row)
    except (OSError, BadImage) as error:
        return Unreadable(path=path, reason=str(error))


def _unreadable(bad: Sequence[Unreadable], count: int) -> str:
    named = "; ".join(f"{each.path}: {each.reason}" for each in bad[:NAMED])
    more = f"; and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
    return f"{len(bad):,} of {count:,} images cannot be read, unpack them again: {named}{more}"
