"""What an ingest builds, how the result is named, and by what a block's vectors are known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry.base import BaseGeometry

from spatial_index.records import GenerationSpec, Storage
from tiling.grid import Block, GridSpec, plan_blocks
from tiling.ortho import CUT_VERSION, Ortho
from tiling.sheets import Sheet
from workers.errors import NothingToIngest

if TYPE_CHECKING:  # torch takes seconds to import
    from clnet_model.encoder import Encoder

KIND = "ingest"
MIN_VALID_FRACTION = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyedBlock:
    """A block and the name of what comes out of it.

    Equal keys mean equal rows: same model, same patches, same files below them. An empty key means nothing.
    """

    block: Block
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestPlan:
    """What will be built. The generation is named after all that decides its content.

    `digests` are those of the sheets' files, in reading order.
    """

    spec: GenerationSpec
    area: BaseGeometry
    ortho: Ortho
    digests: tuple[str, ...]
    min_valid_fraction: float
    planned: int

    @property
    def job_id(self) -> str:
        """The same work has the same id, so that starting it again is going on with it, in whatever run."""
        return f"ingest-{self.spec.region}-{self.spec.generation.partition('-')[0]}"

    @property
    def grid(self) -> GridSpec:
        """Where patches lie."""
        return GridSpec(zoom=self.spec.zoom, side_m=self.spec.side_m)

    def called(self, generation: str) -> IngestPlan:
        """The same plan for a generation of another name."""
        return replace(self, spec=replace(self.spec, generation=generation))

    def blocks(self) -> Iterator[KeyedBlock]:
        """The blocks in quadkey order, made as they are asked for."""
        common = (
            self.spec.model_digest,
            self.spec.zoom,
            self.spec.side_m,
            self.min_valid_fraction,
            CUT_VERSION,
        )
        for block in plan_blocks(self.area, self.grid):
            below = [
                _identity(self.ortho.sheets[index], self.digests[index])
                for index in self.ortho.sheets_under(block)
            ]
            yield KeyedBlock(block=block, key=_hash((common, tuple(block.tile), block.members, below)))

    def to_json(self) -> dict[str, Any]:
        """What the job's record says about it; equal for equal work."""
        names = [sheet.name for sheet in self.ortho.sheets]
        return {
            "region": self.spec.region,
            "generation": self.spec.generation,
            "model_digest": self.spec.model_digest,
            "zoom": self.spec.zoom,
            "side_m": self.spec.side_m,
            "storage": self.spec.storage,
            "min_valid_fraction": self.min_valid_fraction,
            "planned": self.planned,
            "sheets": [
                {"name": name, "sha256": digest} for name, digest in zip(names, self.digests, strict=True)
            ],
        }


def plan_ingest(
    region: str,
    ortho: Ortho,
    encoder: Encoder,
    *,
    grid: GridSpec | None = None,
    area: BaseGeometry | None = None,
    min_valid_fraction: float = MIN_VALID_FRACTION,
    storage: Storage = "float32",
) -> IngestPlan:
    """Decide what to build. Reads every sheet's bytes once, for their checksums.

    Args:
        grid: where patches lie; None takes what the model was trained with.
        area: WGS84 (Multi)Polygon that patch centres lie in; None takes the sheets' footprint.
        storage: how vectors are kept; another one is another generation of the same vectors.

    Raises:
        NothingToIngest: no patch centre lies in the area.
        BadArea: it is not polygonal WGS84.
    """
    grid = grid or GridSpec(zoom=encoder.zoom, side_m=encoder.side_m)
    area = ortho.footprint if area is None else area
    planned = sum(map(len, plan_blocks(area, grid)))
    if not planned:
        where = (
            "on the orthophoto; give larger sheets" if area is ortho.footprint else "in the area; widen it"
        )
        raise NothingToIngest(f"no patch centre of zoom {grid.zoom} lies {where}")
    digests = ortho.digests()
    identity = (
        *map(_identity, ortho.sheets, digests),
        shapely.to_wkb(shapely.normalize(area)),
        (encoder.digest, grid.zoom, grid.side_m, min_valid_fraction, CUT_VERSION),
        storage,
    )
    spec = GenerationSpec(
        region=region,
        generation=_hash(identity)[:12],
        model_digest=encoder.digest,
        dim=encoder.dim,
        zoom=grid.zoom,
        side_m=grid.side_m,
        storage=storage,
    )
    return IngestPlan(
        spec=spec,
        area=area,
        ortho=ortho,
        digests=digests,
        min_valid_fraction=min_valid_fraction,
        planned=planned,
    )


def _identity(sheet: Sheet, digest: str) -> tuple[object, ...]:
    """All of a sheet that decides what its patches show and record."""
    return sheet.name, digest, sheet.bands.levels


def _hash(identity: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
