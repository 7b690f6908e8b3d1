"""What must hold before a generation goes live."""

from __future__ import annotations

import numpy as np

from spatial_index.records import GenerationSpec
from spatial_index.store import Store
from workers.errors import IngestFailed, NothingToIngest
from workers.tally import Tally

CANARY_HITS = 4
CANARY_TIE = 1e-5  # float32 scores of equal vectors differ by less
CANARY_QUORUM = 0.5  # twins (lakes, meadows) may hide some canaries, never most of them


def check_counts(store: Store, spec: GenerationSpec, tally: Tally) -> None:
    """Gate: planned = indexed + skipped, and the store holds what was indexed.

    Raises:
        IngestFailed: a number does not add up.
        NothingToIngest: all patches were skipped.
    """
    if tally.accounted != tally.planned:
        reason = f"{tally.planned} patches were planned, {tally.accounted} accounted for"
        raise IngestFailed(spec.region, spec.generation, reason)
    if not tally.indexed:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in tally.skipped.items())
        raise NothingToIngest(f"all {tally.planned} patches were skipped ({reasons}); check the imagery")
    stored = store.count(spec.region, spec.generation)
    if stored != tally.indexed:
        reason = f"{tally.indexed} patches were written, the store holds {stored}"
        raise IngestFailed(spec.region, spec.generation, reason)


def check_canaries(store: Store, spec: GenerationSpec, tally: Tally) -> None:
    """Gate: stored patches are their own nearest neighbours, as far as exact twins allow.

    A wrong distance, mixed-up ids or a model that maps everything to one point all end here.

    Raises:
        IngestFailed: fewer than half of the canaries came back.
    """
    vectors = np.stack([canary.vector for canary in tally.canaries])  # (C, D)
    found = store.probe(spec.region, spec.generation, vectors, CANARY_HITS)
    own = sum(
        any(hit.quadkey == canary.quadkey and hit.score > hits[0].score - CANARY_TIE for hit in hits)
        for canary, hits in zip(tally.canaries, found, strict=True)
    )
    if own < CANARY_QUORUM * len(tally.canaries):
        reason = f"only {own} of {len(tally.canaries)} sampled patches are found by their own vector"
        raise IngestFailed(spec.region, spec.generation, f"{reason}, needs half; check the model")
