"""Chooses what meets in a batch: compact neighbourhoods of one city, whose patches are each other's
hard negatives.

GPS neighbours come first; after a mining pass, patches that look alike join them (Sample4Geo, arXiv
2303.11851).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clnet_model.data import GeoPairs, nearest_rows

Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """`patches_per_query` counts the true patch; more of them are more negatives at a cost per step."""

    queries: int = 48
    neighbourhoods: int = 8
    patches_per_query: float = 1.35
    neighbour_patches: int = 24
    reach_m: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRows:
    """One batch: a city and the rows of its street images and patches (no patch twice)."""

    city: int
    street: Rows
    patches: Rows


class NeighbourhoodSampler:
    """Endless batches over several cities; no street image is drawn again before every city has too few
    undrawn ones left for a batch."""

    def __init__(self, cities: Sequence[GeoPairs], config: SamplerConfig, *, seed: int) -> None:
        self.config = config
        self.rng = np.random.default_rng(seed)
        self.sizes = np.array([len(city) for city in cities])
        self._street_near: list[NDArray[np.int32]] = []
        self._patch_near: list[NDArray[np.int32]] = []
        for city in cities:
            street, _ = nearest_rows(city.street_xy_m, city.street_xy_m, count=4 * config.queries)
            patch, metres = nearest_rows(city.street_xy_m, city.patch_xy_m, count=config.neighbour_patches)
            self._street_near.append(street)
            self._patch_near.append(np.where(metres <= config.reach_m, patch, patch[:, :1]))
        self._hard: list[NDArray[np.int32] | None] = [None] * len(cities)
        self._unseen = [np.ones(n, bool) for n in self.sizes]

    def set_hard_patches(self, city: int, hard: NDArray[np.int32]) -> None:
        """Patches (N, M) that look like each street image's place but are elsewhere."""
        self._hard[city] = hard

    def state(self) -> dict[str, Any]:
        """What `restore` needs to draw the same batches from here on."""
        return {
            "rng": json.dumps(self.rng.bit_generator.state),
            "unseen": [torch.from_numpy(mask) for mask in self._unseen],
            "hard": [None if hard is None else torch.from_numpy(hard) for hard in self._hard],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state()` was taken."""
        self.rng.bit_generator.state = json.loads(state["rng"])
        self._unseen = [mask.numpy().copy() for mask in state["unseen"]]
        self._hard = [None if hard is None else hard.numpy().copy() for hard in state["hard"]]

    def __iter__(self) -> Iterator[BatchRows]:
        while True:
            yield self.draw(1.0)

    def draw(self, hardness: float = 1.0) -> BatchRows:
        """The next batch, from a city drawn in proportion to its unseen street images; all batches of a city
        are of one size.

        `hardness` 0 scatters the queries over the city, 1 packs them into the configured neighbourhoods: from
        scratch, overlapping neighbours alone teach nothing for hundreds of steps.
        """
        left = np.array([mask.sum() for mask in self._unseen])
        left[left < np.minimum(self.config.queries, self.sizes)] = 0
        if not left.any():
            self._unseen = [np.ones(n, bool) for n in self.sizes]
            left = self.sizes
        city = int(self.rng.choice(len(left), p=left / left.sum()))
        street = self._neighbourhoods(city, hardness)
        return BatchRows(city=city, street=street, patches=self._patches(city, street))

    def scattered(self, seed: int) -> BatchRows:
        """A batch from all over one city, outside the order of `draw`."""
        dice = np.random.default_rng(seed)
        city = int(dice.choice(len(self.sizes), p=self.sizes / self.sizes.sum()))
        count = min(self.config.queries, int(self.sizes[city]))
        street = dice.choice(self.sizes[city], count, replace=False)
        return BatchRows(city=city, street=street, patches=np.unique(self._patch_near[city][street, 0]))

    def _neighbourhoods(self, city: int, hardness: float) -> Rows:
        """Some seeds among the unseen, each with its nearest unseen neighbours."""
        unseen = self._unseen[city]
        packed = self.config.queries // self.config.neighbourhoods
        size = max(1, round(packed**hardness) if hardness > 0 else 1)
        chosen: list[int] = []
        while len(chosen) < self.config.queries and unseen.any():
            seed = int(self.rng.choice(np.flatnonzero(unseen)))
            near = self._street_near[city][seed]
            group = near[unseen[near]][: min(size, self.config.queries - len(chosen))]
            group = group if len(group) else np.array([seed])
            unseen[group] = False
            chosen.extend(int(row) for row in group)
        return np.array(chosen, np.intp)

    def _patches(self, city: int, street: Rows) -> Rows:
        """The nearest patch of every street image, then neighbours and look-alikes up to the batch's
        share."""
        near = self._patch_near[city][street]
        kept = dict.fromkeys(int(row) for row in near[:, 0])
        wanted = round(len(street) * self.config.patches_per_query)
        others = near[:, 1:].ravel()
        hard = self._hard[city]
        if hard is not None:
            alike = hard[street].ravel()
            half = self.rng.permutation(others)[: len(alike)]
            others = np.concatenate([alike, half])
        for row in self.rng.permutation(others):
            if len(kept) >= wanted:
                break
            kept.setdefault(int(row))
        return np.fromiter(kept, np.intp, len(kept))
