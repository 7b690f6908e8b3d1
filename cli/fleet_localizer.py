"""How the rows of a fleet's manifest become queries, and answers rows: the service's own steps, in bulk.

Wires `workers.relocalize`, which knows jobs and files, to `serving.bulk` and `serving.track`, which know how
an image is localized.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from clnet_model.errors import ModelError
from serving.bulk import Seen, locate_seen, look, see
from serving.locate import Answer, HeadingPrior, Query, Views
from serving.track import NOTHING_SEEN, Odometry, Track
from serving.track_messages import sighting_of
from spatial_index.bulk import BulkSearch, StoreSearch
from spatial_index.geodesy import distances_m
from spatial_index.priors import CirclePrior, PriorMode
from tiling.grid import LngLat
from workers.errors import ModelChanged
from workers.manifest import DEFAULT_ACCURACY_M, DEFAULT_HEADING_ACCURACY_DEG, within_limits
from workers.relocalize import Embedder, Row

if TYPE_CHECKING:
    from clnet_model.calibration import Calibration
    from clnet_model.encoder import Encoder

HYPOTHESES = 10  # what a track learns of an image; those behind them hold next to no probability
MIN_STEP_S = 1e-3  # between frames of a track; two with the same time are taken one after the other
SEEN = pa.schema(
    [
        pa.field("fault", pa.string()),
        pa.field("vectors", pa.list_(pa.float32())),
        pa.field("headings_deg", pa.list_(pa.float64())),
        pa.field("turns", pa.int32()),
    ]
)
_SIGHTING = "_sighting"  # goes from an answer to its track; no column of the result


class FleetLocalizer:
    """A `workers.relocalize.Localizer` on a checkpoint and what is live in a store."""

    def __init__(
        self, encoder: Encoder, search: BulkSearch | StoreSearch, *, checkpoint: Path | None = None
    ) -> None:
        self._calibration: Calibration = encoder.calibration
        self._dim = encoder.dim
        self._digest = encoder.digest
        self._search = search
        self.make_embedder: Callable[[int | None], Embedder] = partial(
            open_embedder, checkpoint, encoder.digest
        )

    @property
    def portable_bytes(self) -> int | None:
        """That of what is searched."""
        return self._search.portable_bytes

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the kept vectors depend on."""
        return {"model_digest": self._digest, "heading_step_deg": self._calibration.heading_step_deg}

    def answers(self, rows: Sequence[Row], seen: pa.Table) -> list[dict[str, Any]]:
        """The result's columns for images that were embedded."""
        queries = [query_of(row) for row in rows]
        found = locate_seen(
            seen_of(seen, self._dim),
            queries,
            search=self._search.search,
            calibration=self._calibration,
            model_digest=self._digest,
        )
        return [
            {**columns_of(answer, row), _SIGHTING: sighting_of(answer, query, self._calibration)}
            for answer, row, query in zip(found, rows, queries, strict=True)
        ]

    def follower(self, sequence: str) -> FleetFollower:
        """The same sequence is followed by the same dice."""
        return FleetFollower(seed=zlib.crc32(sequence.encode()))


class FleetFollower:
    """A `workers.relocalize.Follower`."""

    def __init__(self, *, seed: int) -> None:
        self._track = Track(seed=seed)
        self._last_s = -np.inf
        self._last_row: tuple[str, datetime] | None = None
        self._every_leg_is_known = True

    def advance(self, row: Row, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """The smoothed columns; none while the track is lost, and for rows that cannot be used.

        These move the track all the same. A row without a time may lie anywhere in the sequence, and so may
        what was driven up to it: no odometry is used then.
        """
        taken: datetime | None = row["captured_at"]
        if taken is None:
            self._every_leg_is_known = False
            return {}
        if self._last_row == (row["image_id"], taken):
            return {}  # the same row again
        self._last_row = row["image_id"], taken
        self._last_s = max(taken.timestamp(), self._last_s + MIN_STEP_S)
        odometry = odometry_of(row) if self._every_leg_is_known else None
        point = self._track.advance(self._last_s, answer.get(_SIGHTING, NOTHING_SEEN), odometry)
        if point is None or _SIGHTING not in answer:
            return {}
        return {
            "smoothed_status": point.status.name,
            "smoothed_latitude": point.position.lat,
            "smoothed_longitude": point.position.lng,
            "smoothed_r68_m": point.r68_m,
            "smoothed_r95_m": point.r95_m,
        }


class FleetEmbedder:
    """A `workers.relocalize.Embedder`; `model_digest` is that of the job, whose vectors it makes."""

    def __init__(self, encoder: Encoder, model_digest: str) -> None:
        self._encoder = encoder
        self._model_digest = model_digest

    def look(self, row: Row, image: bytes | str) -> Views | str:
        """See `Embedder.look`."""
        if isinstance(image, str):
            return image
        try:
            return look(image, query_of(row), self._encoder)
        except ModelError as error:
            return str(error)

    def embed(self, looks: Sequence[Views | str]) -> pa.Table:
        """See `Embedder.embed`.

        Raises:
            ModelChanged: the checkpoint has been replaced since the job was planned.
        """
        if self._encoder.digest != self._model_digest:  # not while it opens: Ray would lose the error
            raise ModelChanged(self._model_digest, self._encoder.digest)
        seen = iter(see([view for view in looks if isinstance(view, Views)], self._encoder))
        rows = [{"fault": view} if isinstance(view, str) else kept(next(seen)) for view in looks]
        return pa.Table.from_pylist(rows, schema=SEEN)


def open_embedder(checkpoint: Path | None, model_digest: str, threads: int | None) -> FleetEmbedder:
    """An embedder inside a worker."""
    import torch

    from clnet_model.encoder import load_encoder

    if threads:
        torch.set_num_threads(threads)
    return FleetEmbedder(load_encoder(checkpoint), model_digest)


def query_of(row: Row) -> Query:
    """What is asked about a row's image. Its GPS is a SOFT prior: what the image shows may overrule it."""
    return Query(
        hfov_deg=row["hfov_deg"],
        pitch_deg=row["pitch_deg"] or 0.0,
        heading=heading_of(row),
        prior=prior_of(row),
        max_hypotheses=HYPOTHESES,
    )


def heading_of(row: Row) -> HeadingPrior | None:
    """The heading that is known beforehand."""
    if row["heading_deg"] is None:
        return None
    accuracy_deg = row["heading_accuracy_deg"]
    return HeadingPrior(
        heading_deg=row["heading_deg"],
        accuracy_deg=DEFAULT_HEADING_ACCURACY_DEG if accuracy_deg is None else accuracy_deg,
    )


def prior_of(row: Row) -> CirclePrior | None:
    """Where the image was taken, as GPS has it."""
    if row["latitude"] is None:
        return None
    return CirclePrior(
        centre=LngLat(lng=row["longitude"], lat=row["latitude"]),
        radius_m=row["accuracy_m"] or DEFAULT_ACCURACY_M,
        mode=PriorMode.SOFT,
    )


def odometry_of(row: Row) -> Odometry | None:
    """How the vehicle moved since the row before; None: unknown."""
    distance_m = within_limits(row, "distance_m")
    if distance_m is None:
        return None
    return Odometry(distance_m=distance_m, course_deg=within_limits(row, "course_deg"))


def kept(seen: Seen) -> dict[str, Any]:
    """What is kept of an embedded image."""
    return {
        "fault": None,
        "vectors": seen.vectors.ravel(),
        "headings_deg": seen.headings_deg,
        "turns": seen.turns,
    }


def seen_of(table: pa.Table, dim: int) -> list[Seen]:
    """The images that were kept."""
    return [
        Seen(
            vectors=np.asarray(row["vectors"], np.float32).reshape(-1, dim),
            headings_deg=np.asarray(row["headings_deg"], np.float64),
            turns=row["turns"],
        )
        for row in table.to_pylist()
    ]


def columns_of(answer: Answer, row: Row) -> dict[str, Any]:
    """An answer as the result's columns."""
    common = {"status": answer.status.name, "model_digest": answer.model_digest}
    if not answer.hypotheses:
        return common
    best = answer.hypotheses[0]
    hit = best.patches[0].hit
    return common | {
        "latitude": best.position.lat,
        "longitude": best.position.lng,
        "r68_m": best.r68_m,
        "r95_m": best.r95_m,
        "probability": best.probability,
        "heading_deg": best.heading_deg,
        "heading_r68_deg": best.heading_r68_deg,
        "prior_conflict": answer.prior_conflict,
        "moved_m": moved_m(row, best.position),
        "region": hit.region,
        "generation": hit.generation,
        "patches": [patch.hit.quadkey for patch in best.patches],
    }


def moved_m(row: Row, position: LngLat) -> float | None:
    """How far the computed position is from the given one."""
    if row["latitude"] is None:
        return None
    return float(distances_m(position, row["longitude"], row["latitude"])[0])
