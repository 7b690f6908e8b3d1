"""Retrieval metrics and calibration of an encoder on one city; exact, blockwise, ties counted against us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clnet_model.calibration import Calibration, ViewCalibration, fit_temperature, fit_threshold
from clnet_model.data import GeoPairs, nearest_rows
from clnet_model.encoder import Encoder, Vectors
from clnet_model.preprocess import Pixels, roll_canvas
from clnet_model.turning import heading_difference_deg, refined_heading, turned

BLOCK = 256
RIGHT_M = 25.0
OUTSIDE_M = 150.0  # a gallery without any patch this close does not hold the query's place
Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class QuerySet:
    """How the street images are asked: with what the searcher knows and what the camera saw."""

    name: str
    heading_known: bool = True
    hfov_deg: float = 360.0


NORTH_KNOWN = QuerySet(name="panorama")
UNKNOWN_HEADING = QuerySet(name="panorama, heading unknown", heading_known=False)
PHOTO_90 = QuerySet(name="90 degrees", hfov_deg=90.0)
PHOTO_UNKNOWN = QuerySet(name="90 degrees, heading unknown", heading_known=False, hfov_deg=90.0)
QUERY_SETS = (NORTH_KNOWN, UNKNOWN_HEADING, PHOTO_90)
CALIBRATED = (PHOTO_UNKNOWN, UNKNOWN_HEADING, PHOTO_90, NORTH_KNOWN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """`recall_at_k`: true patch (nearest centre) among the first k; `recall_25m`, errors: of the
    interpolated position."""

    queries: int
    patches: int
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    recall_25m: float
    median_error_m: float

    @property
    def standing(self) -> tuple[float, float]:
        """What a checkpoint is chosen by, greater is better. Not R@1: with patches 6 m apart it says little
        which of them is the nearest."""
        return self.recall_25m, self.recall_at_5


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Per query: rank of the true patch (1 = first, ties behind), found position error, similarities."""

    rank: NDArray[np.int64]
    error_m: NDArray[np.float64]
    best_similarity: NDArray[np.float32]
    true_similarity: NDArray[np.float32]
    outside_similarity: NDArray[np.float32]

    def metrics(self, patches: int) -> Metrics:
        def share(hits: NDArray[np.bool_]) -> float:
            return round(float(hits.mean()), 4)

        return Metrics(
            queries=len(self.rank),
            patches=patches,
            recall_at_1=share(self.rank <= 1),
            recall_at_5=share(self.rank <= 5),
            recall_at_10=share(self.rank <= 10),
            recall_25m=share(self.error_m <= 25.0),
            median_error_m=round(float(np.median(self.error_m)), 2),
        )


def rank_of_true(similarity: NDArray[np.float32], true_patch: NDArray[np.intp]) -> NDArray[np.int64]:
    """1-based rank of the true column of each row (Q, P): every other column that is as good or better
    stands before.

    A model that gives all patches the same vector scores nothing.
    """
    own = similarity[np.arange(len(similarity)), true_patch][:, None]
    ahead: NDArray[np.int64] = (similarity >= own).sum(axis=1).astype(np.int64)
    return ahead


def evaluate(
    encoder: Encoder,
    pairs: GeoPairs,
    queries: QuerySet = NORTH_KNOWN,
    *,
    gallery: Vectors | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Metrics of one city; `gallery` saves embedding the same patches again."""
    gallery = embed_gallery(encoder, pairs, progress=progress) if gallery is None else gallery
    return rank(encoder, pairs, queries, gallery=gallery, progress=progress).metrics(len(pairs.patches))


def rank(
    encoder: Encoder,
    pairs: GeoPairs,
    queries: QuerySet,
    *,
    gallery: Vectors,
    progress: Progress | None = None,
) -> Ranking:
    """Exact search of every street image among all patches, block by block."""
    temperature = encoder.calibration.at(queries.hfov_deg, heading_known=queries.heading_known).temperature
    parts = [
        _rank_block(similarity, pairs, rows, temperature)
        for rows, similarity in similarity_blocks(encoder, pairs, queries, gallery=gallery, progress=progress)
    ]
    columns = zip(*parts, strict=True)
    rank_, error, best, true, outside = (np.concatenate(column) for column in columns)
    return Ranking(
        rank=rank_, error_m=error, best_similarity=best, true_similarity=true, outside_similarity=outside
    )


def similarity_blocks(
    encoder: Encoder,
    pairs: GeoPairs,
    queries: QuerySet,
    *,
    gallery: Vectors,
    progress: Progress | None = None,
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Rows and their similarities (q, P) to the gallery; over all headings tried, the best."""
    for rows, vectors in query_blocks(encoder, pairs, queries, progress=progress):
        yield rows, best_similarity(vectors, gallery)


def best_similarity(vectors: Vectors, gallery: Vectors) -> NDArray[np.float32]:
    """(q, P) over the headings of vectors (R, q, D)."""
    similarity = np.full((vectors.shape[1], len(gallery)), -np.inf, np.float32)
    for at_heading in vectors:
        np.maximum(similarity, at_heading @ gallery.T, out=similarity)
    return similarity


def query_blocks(
    encoder: Encoder, pairs: GeoPairs, queries: QuerySet, *, progress: Progress | None = None
) -> Iterator[tuple[NDArray[np.intp], Vectors]]:
    """Rows and their vectors (R, q, D) at the R headings tried, evenly around the circle from 0."""
    usable = pairs.widest() if queries.hfov_deg >= 90 else np.arange(len(pairs))
    turns = 1 if queries.heading_known else encoder.turns
    rolls = (0.0,) if queries.heading_known else _headings(encoder.calibration.heading_step_deg, turns)
    for start in range(0, len(usable), BLOCK):
        rows = usable[start : start + BLOCK]
        canvases = np.stack([as_asked(pairs.canvases[row], queries, int(row)) for row in rows])
        rolled = [
            canvases if roll_deg == 0 else np.stack([roll_canvas(c, roll_deg) for c in canvases])
            for roll_deg in rolls
        ]
        vectors = turned(encoder.embed_ground(np.concatenate(rolled)), turns)
        if progress is not None:
            progress(f"{pairs.city}: {queries.name}", (start + len(rows)) / len(usable))
        yield rows, vectors.reshape(turns * len(rolls), len(rows), -1)


def embed_gallery(encoder: Encoder, pairs: GeoPairs, *, progress: Progress | None = None) -> Vectors:
    """All patches of the city (P, D)."""
    parts = []
    for start in range(0, len(pairs.patches), BLOCK):
        parts.append(encoder.embed_aerial(pairs.centre_patches(slice(start, start + BLOCK))))
        if progress is not None:
            progress(f"{pairs.city}: patches", min(1.0, (start + BLOCK) / len(pairs.patches)))
    return np.concatenate(parts)


def calibrate(encoder: Encoder, pairs: GeoPairs, *, progress: Progress | None = None) -> Calibration:
    """Fit what similarities mean on a validation city, for panoramas and for 90-degree views, with the
    heading known and unknown.

    Queries from outside the gallery are the same queries with every patch within 150 m of them taken away.
    """
    gallery = embed_gallery(encoder, pairs, progress=progress)
    errors_deg = {
        queries.hfov_deg: heading_errors(encoder, pairs, queries, gallery=gallery)
        for queries in CALIBRATED
        if not queries.heading_known
    }
    views = tuple(
        _calibrate_view(
            encoder, pairs, queries, errors_deg[queries.hfov_deg], gallery=gallery, progress=progress
        )
        for queries in CALIBRATED
    )
    return replace(encoder.calibration, views=views, fitted=True)


def heading_errors(
    encoder: Encoder, pairs: GeoPairs, queries: QuerySet, *, gallery: Vectors
) -> NDArray[np.float64]:
    """Errors of the headings found, degrees, where the best patch lies within 25 m of the camera."""
    found: list[float] = []
    for rows, vectors in query_blocks(encoder, pairs, queries):
        best = best_similarity(vectors, gallery).argmax(axis=1)
        along = np.einsum("rqd,qd->qr", vectors, gallery[best])  # (q, R)
        headings_deg = np.arange(len(vectors)) * 360.0 / len(vectors)
        offset_m = pairs.street_xy_m[rows] - pairs.patch_xy_m[best]
        for query in np.flatnonzero(np.hypot(*offset_m.T) <= RIGHT_M):
            heading_deg = refined_heading(along[query], headings_deg)
            found.append(float(heading_difference_deg(heading_deg, -turned_by_deg(int(rows[query])))))
    return np.array(found)


def interpolated_position(
    similarity: NDArray[np.float32],
    patch_xy_m: NDArray[np.float64],
    *,
    temperature: float,
    radius_m: float,
) -> NDArray[np.float64]:
    """Posterior mean position (Q, 2) over the patches within `radius_m` of the best one."""
    best = similarity.argmax(axis=1)
    found = np.empty((len(similarity), 2))
    for row, top in enumerate(best):
        near = np.flatnonzero(np.hypot(*(patch_xy_m - patch_xy_m[top]).T) <= radius_m)
        weight = np.exp((similarity[row, near] - similarity[row, top]) / temperature)
        found[row] = weight @ patch_xy_m[near] / weight.sum()
    return found


def neighbour_reach_m(pairs: GeoPairs) -> float:
    """How far patches speak of the same place, as the service has it: 20 m, or the eight neighbours where
    these overlap."""
    _, apart_m = nearest_rows(pairs.patch_xy_m[:64], pairs.patch_xy_m, count=2)
    stride_m, side_m = float(np.median(apart_m[:, -1])), pairs.patch_px * pairs.gsd_m
    return max(20.0, 1.6 * stride_m) if stride_m < side_m else 20.0


def _rank_block(
    similarity: NDArray[np.float32], pairs: GeoPairs, rows: NDArray[np.intp], temperature: float
) -> tuple[
    NDArray[np.int64], NDArray[np.float64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]
]:
    true_xy = pairs.street_xy_m[rows]
    true_patch = nearest_rows(true_xy, pairs.patch_xy_m, count=1)[0][:, 0].astype(np.intp)
    reach_m = neighbour_reach_m(pairs)
    found = interpolated_position(similarity, pairs.patch_xy_m, temperature=temperature, radius_m=reach_m)
    offset = true_xy[:, None] - pairs.patch_xy_m[None]
    far = np.hypot(offset[..., 0], offset[..., 1]) > OUTSIDE_M
    return (
        rank_of_true(similarity, true_patch),
        np.hypot(*(found - true_xy).T),
        similarity.max(axis=1),
        similarity[np.arange(len(rows)), true_patch],
        np.where(far, similarity, -1.0).max(axis=1),
    )


def _calibrate_view(
    encoder: Encoder,
    pairs: GeoPairs,
    queries: QuerySet,
    heading_errors_deg: NDArray[np.float64],
    *,
    gallery: Vectors,
    progress: Progress | None,
) -> ViewCalibration:
    rows, blocks = zip(
        *similarity_blocks(encoder, pairs, queries, gallery=gallery, progress=progress), strict=True
    )
    true_xy = pairs.street_xy_m[np.concatenate(rows)]
    true_patch = nearest_rows(true_xy, pairs.patch_xy_m, count=1)[0][:, 0].astype(np.intp)
    similarity = np.concatenate(blocks)
    temperature = fit_temperature(similarity, true_patch)
    parts = _rank_block(similarity, pairs, np.concatenate(rows), temperature)
    error_m, inside, outside = parts[1], parts[2], parts[4]
    position_r68_m, position_r95_m = _radii(error_m[error_m <= RIGHT_M], otherwise=RIGHT_M)
    heading_r68_deg, heading_r95_deg = _radii(heading_errors_deg, otherwise=180.0)
    return ViewCalibration(
        hfov_deg=queries.hfov_deg,
        heading_known=queries.heading_known,
        temperature=temperature,
        min_similarity=fit_threshold(inside, outside),
        position_r68_m=position_r68_m,
        position_r95_m=position_r95_m,
        heading_r68_deg=heading_r68_deg,
        heading_r95_deg=heading_r95_deg,
        inside_similarity_p05=float(np.quantile(inside, 0.05)),
        inside_similarity_p50=float(np.quantile(inside, 0.5)),
        outside_similarity_p50=float(np.quantile(outside, 0.5)),
        outside_similarity_p95=float(np.quantile(outside, 0.95)),
    )


def _radii(errors: NDArray[np.float64], *, otherwise: float) -> tuple[float, float]:
    """What 68 and 95 % of the errors do not exceed; without any, `otherwise`."""
    if not len(errors):
        return otherwise, otherwise
    r68, r95 = np.quantile(errors, (0.68, 0.95))
    return float(r68), float(r95)


def turned_by_deg(row: int) -> float:
    """The pseudo-random angle by which the canvas of a row is turned where its heading is unknown."""
    return float(np.random.default_rng(row).uniform(0, 360))


def _headings(step_deg: float, turns: int) -> tuple[float, ...]:
    """Offsets within one of `turns` parts of the circle, at most `step_deg` apart."""
    part_deg = 360.0 / turns
    count = int(np.ceil(part_deg / step_deg))
    return tuple(part_deg * number / count for number in range(count))


def as_asked(canvas: Pixels, queries: QuerySet, row: int) -> Pixels:
    """A canvas (H, W, 4) as these queries show it: turned by a pseudo-random angle of the row's own where the
    heading is unknown, and no more of it than a 4:3 photo of their field of view."""
    dice = np.random.default_rng(row)
    turned = canvas if queries.heading_known else roll_canvas(canvas, float(dice.uniform(0, 360)))
    if queries.hfov_deg >= 360.0:
        return turned
    height, width = canvas.shape[:2]
    azimuth = (np.arange(width) + 0.5) * 360 / width - 180
    turn = np.radians((azimuth - dice.uniform(0, 360) + 180) % 360 - 180)
    rise = np.tan(np.radians(45 - (np.arange(height) + 0.5) * 90 / height))[:, None]
    half = np.radians(queries.hfov_deg / 2)
    seen = (np.abs(turn) <= half) & (np.abs(rise) <= 0.75 * np.tan(half) * np.cos(turn))
    return np.where(seen[..., None], turned, 0).astype(np.uint8)
