"""The steps of `serving.locate.locate` for many images at once: embedded together, searched together.

Pure but for the encoder and the index that it is given; knows nothing of manifests, files or Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clnet_model.calibration import Calibration
from clnet_model.turning import turned
from serving.fuse import Floats
from serving.locate import Answer, Query, Vectors, Views, conclude, decoded, look_around, searches
from spatial_index.store import SearchRequest, SearchResult

if TYPE_CHECKING:
    from clnet_model.encoder import Encoder

CANVASES = 64
"""Embedded at once; more gain nothing and take memory."""

Search = Callable[[Sequence[Sequence[SearchRequest]]], list[list[SearchResult]]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """An image, embedded."""

    vectors: Vectors
    """(R / turns, D): at the first of the R headings tried; the others are turns of them."""
    headings_deg: Floats
    """(R,)"""
    turns: int


def look(data: bytes, query: Query, encoder: Encoder) -> Views:
    """Decode an image and take its views.

    Raises:
        clnet_model.errors.ModelError: the image or camera cannot be used.
    """
    step_deg = encoder.calibration.heading_step_deg
    image = decoded(data, query, spec=encoder.canvas)
    return look_around(image, query, spec=encoder.canvas, step_deg=step_deg, turns=encoder.turns)


def see(views: Sequence[Views], encoder: Encoder) -> list[Seen]:
    """Embed the views of several images together."""
    canvases = [canvas for view in views for canvas in view.canvases]
    parts = [
        encoder.embed_ground(np.stack(canvases[first : first + CANVASES]))
        for first in range(0, len(canvases), CANVASES)
    ]
    vectors = np.concatenate(parts) if parts else np.empty((0, encoder.dim), np.float32)
    seen: list[Seen] = []
    for view in views:
        own, vectors = vectors[: len(view.canvases)], vectors[len(view.canvases) :]
        seen.append(Seen(vectors=own, headings_deg=view.headings_deg, turns=view.turns))
    return seen


def locate_seen(
    seen: Sequence[Seen],
    queries: Sequence[Query],
    *,
    search: Search,
    calibration: Calibration,
    model_digest: str,
) -> list[Answer]:
    """Where images were taken that were embedded before.

    Raises:
        spatial_index.errors.SpatialIndexError: the index cannot answer.
    """
    asked = [
        searches(turned(each.vectors, each.turns), query, model_digest=model_digest)
        for each, query in zip(seen, queries, strict=True)
    ]
    return [
        conclude(results, each.headings_deg, query, calibration=calibration, model_digest=model_digest)
        for results, each, query in zip(search(asked), seen, queries, strict=True)
    ]
