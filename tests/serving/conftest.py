"""A fake world for the serving tests: a landmark in the east, an index that knows where the camera stands."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from PIL import Image

from clnet_model.calibration import Calibration
from clnet_model.checkpoint import save_checkpoint
from clnet_model.encoder import load_encoder
from clnet_model.model import CLNet, CLNetConfig
from clnet_model.preprocess import CanvasSpec, Panorama, decode_image, to_canvas
from spatial_index.errors import ModelMismatch, UnknownRegion
from spatial_index.geodesy import distances_m
from spatial_index.priors import Prior
from spatial_index.records import GenerationSpec, PatchHit, PatchRecord, RegionInfo, point_id
from spatial_index.store import SearchRequest, SearchResult, open_store
from spatial_index.weights import places_of, searched
from tiling.grid import GridSpec, LngLat, Patch, Tile, patches_over

CAMERA = LngLat(lng=7.9852, lat=46.3151)
LANDMARK_DEG = 90.0
DIGEST = "fake-model"


class FakeEncoder:
    """Embeds a canvas as the azimuth at which its brightest column stands."""

    digest = DIGEST
    dim = 2
    patch_px = 8
    side_m = 70.0
    zoom = 20
    turns = 1

    def __init__(self) -> None:
        self.canvas = CanvasSpec(height_px=16, width_px=360)
        view = replace(Calibration().views[0], min_similarity=0.5, position_r68_m=7.5, position_r95_m=12.2)
        self.calibration = Calibration(views=(view,))

    def embed_ground(self, canvases: np.ndarray) -> np.ndarray:
        brightness = canvases[..., :3].astype(float).sum(axis=(1, 3))  # (N, W)
        azimuth = np.radians(brightness.argmax(axis=1) + 0.5 - 180.0)
        return np.column_stack([np.cos(azimuth), np.sin(azimuth)]).astype(np.float32)

    def embed_aerial(self, patches: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@dataclass
class FakeIndex:
    """A region of patches; a patch is the more similar the nearer the camera is and the truer the heading."""

    camera: LngLat = CAMERA
    similarity: float = 0.9

    def __post_init__(self) -> None:
        area = shapely.box(7.981, 46.312, 7.989, 46.318)
        self.searched: list[SearchRequest] = []
        self.patches = list(patches_over(area, GridSpec()))
        centres = [patch.centre for patch in self.patches]
        self.hits = [hit_on(patch, region="brig", generation="g1") for patch in self.patches]
        self.away_m = distances_m(self.camera, [at.lng for at in centres], [at.lat for at in centres])
        self.region = RegionInfo(
            name="brig",
            generation="g1",
            model_digest=DIGEST,
            dim=2,
            zoom=20,
            side_m=70.0,
            patches=len(self.patches),
            coverage=area,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            imagery_from=None,
            imagery_to=None,
        )

    def regions(self) -> list[RegionInfo]:
        return [self.region]

    def search(self, request: SearchRequest) -> SearchResult:
        self.searched.append(request)
        for name in request.regions:
            if name != "brig":
                raise UnknownRegion(name, ["brig"])
        if request.model_digest != DIGEST:
            raise ModelMismatch("brig", DIGEST, request.model_digest)
        passing = np.flatnonzero(self._passing(request.prior))
        hits = [self._nearest(vector, passing, request.limit) for vector in request.vectors]
        return SearchResult(hits=hits, candidates=len(passing), plan="exact", plan_reason="fake")

    def _passing(self, prior: Prior | None) -> np.ndarray:
        return np.full(len(self.hits), True) if prior is None else searched(prior, places_of(self.hits))

    def _nearest(self, vector: np.ndarray, passing: np.ndarray, limit: int) -> list[PatchHit]:
        azimuth_deg = math.degrees(math.atan2(vector[1], vector[0]))
        off_deg = abs((azimuth_deg - LANDMARK_DEG + 180.0) % 360.0 - 180.0)
        # exp(-d²/2σ²) with σ = 10 m after a softmax of temperature 0.05, as training asks for
        scores = self.similarity - 0.05 * self.away_m**2 / (2 * 10.0**2) - 0.01 * off_deg
        best = passing[np.argsort(-scores[passing], kind="stable")[:limit]]
        return [self.hits[row]._replace(score=float(scores[row])) for row in best]


def hit_on(patch: Patch, *, region: str, generation: str, score: float = 0.0) -> PatchHit:
    """A hit on a patch."""
    return PatchHit(
        id=point_id(region, generation, patch.quadkey, patch.side_m),
        location=patch.centre,
        quadkey=patch.quadkey,
        region=region,
        generation=generation,
        side_m=patch.side_m,
        captured_at=None,
        source="fake",
        score=score,
    )


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def index() -> FakeIndex:
    return FakeIndex()


@pytest.fixture
def make_index() -> Callable[..., FakeIndex]:
    return FakeIndex


@pytest.fixture
def camera() -> LngLat:
    """Where the fake image was taken."""
    return CAMERA


@pytest.fixture
def panorama() -> np.ndarray:
    """Dark, with the landmark in its centre column: it looks at LANDMARK_DEG."""
    image = np.zeros((180, 360, 3), np.uint8)
    image[:, 180] = 255
    return image


@pytest.fixture
def jpeg() -> Callable[..., bytes]:
    """Encodes a grey image of some size."""

    def encode(width_px: int = 512, height_px: int = 256, **options: object) -> bytes:
        data = io.BytesIO()
        Image.new("RGB", (width_px, height_px), (90, 120, 80)).save(data, "JPEG", **options)
        return data.getvalue()

    return encode


@pytest.fixture(scope="session")
def make_hit() -> Callable[..., PatchHit]:
    """A hit on the patch of a tile, by its distance in strides from a base tile."""

    def make(
        east: int = 0,
        north: int = 0,
        *,
        score: float = 0.5,
        base: tuple[int, int] = (547_542, 371_100),
        zoom: int = 20,
    ) -> PatchHit:
        first_x, first_y = (number << (zoom - 20) for number in base)
        tile = Tile((first_x + east) % 2**zoom, first_y - north, zoom)
        return hit_on(Patch(tile=tile, side_m=70.0), region="r", generation="g", score=score)

    return make


@dataclass(frozen=True)
class SmallWorld:
    """A small random network, and stores in which one patch looks exactly like the street image."""

    checkpoint: Path
    image: bytes
    area: shapely.Polygon = field(default_factory=lambda: shapely.box(7.985, 46.313, 7.989, 46.316))

    @property
    def patches(self) -> list[Patch]:
        return list(patches_over(self.area, GridSpec()))

    @property
    def camera(self) -> LngLat:
        """Where the street image was taken."""
        return self.patches[len(self.patches) // 2].centre

    def build(
        self,
        folder: Path,
        generations: tuple[str, ...],
        *,
        unfinished: tuple[str, ...] = (),
        url: str | None = None,
    ) -> None:
        """A store with the region `brig`, in a folder or on a Qdrant server; the generations are promoted one
        after the other."""
        encoder = load_encoder(self.checkpoint, device="cpu")
        canvas = to_canvas(decode_image(self.image), Panorama(heading_deg=0.0), encoder.canvas)
        vectors = np.random.default_rng(0).normal(size=(len(self.patches), encoder.dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[len(self.patches) // 2] = encoder.embed_ground(canvas[None])[0]
        with open_store(directory=folder, url=url, create=True) as store:
            for name in (*generations, *unfinished):
                spec = GenerationSpec(
                    region="brig", generation=name, model_digest=encoder.digest, dim=encoder.dim, zoom=20,
                    side_m=70.0,
                )  # fmt: skip
                store.create_generation(spec)
                store.write("brig", name, self._records(name, vectors))
                if name in generations:
                    store.promote("brig", name, coverage=self.area)

    def _records(self, generation: str, vectors: np.ndarray) -> list[PatchRecord]:
        return [
            PatchRecord(
                location=patch.centre, quadkey=patch.quadkey, region="brig", generation=generation,
                side_m=70.0, captured_at=datetime(2024, 6, 1, tzinfo=UTC), source="test", valid_fraction=1.0,
                vector=vector,
            )
            for patch, vector in zip(self.patches, vectors, strict=True)
        ]  # fmt: skip


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., CLNetConfig]) -> SmallWorld:
    torch.manual_seed(0)
    network = CLNet(tiny())
    checkpoint = tmp_path_factory.mktemp("small") / "checkpoint"
    save_checkpoint(checkpoint, network, provenance={})
    blocks = np.random.default_rng(3).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(np.kron(blocks, np.ones((32, 32, 1), np.uint8))).save(data, "JPEG")
    return SmallWorld(checkpoint=checkpoint, image=data.getvalue())
