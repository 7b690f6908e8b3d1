"""The localization of one image, start to end, as a pure function of an encoder and an index.

The service runs the same steps with its encoder and its index behind deployment handles: see
`serving.localizer`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from clnet_model.calibration import Calibration, ViewCalibration
from clnet_model.lens import Lens
from clnet_model.preprocess import (
    Camera,
    CanvasSpec,
    LensCamera,
    Panorama,
    Perspective,
    Pixels,
    decode_image,
    needed_width_px,
    roll_canvas,
    to_canvas,
)
from clnet_model.turning import turned
from serving.errors import InvalidRequest
from serving.fuse import Floats, Fusion, Hypothesis, RankedPatch, Status, fuse, gather
from spatial_index.priors import Prior, PriorMode, hard_part
from spatial_index.records import RegionInfo
from spatial_index.store import SearchRequest, SearchResult

if TYPE_CHECKING:
    from clnet_model.encoder import Encoder

# Patches retrieved per heading, and over all headings. The posterior is normalised over them; the patch that
# ranks 64th is some ten temperatures below the first: what is left out weighs nothing. With many headings the
# right one needs room for the peak and its eight neighbours only.
SEARCH_DEPTH = 64
SEARCH_DEPTH_MANY = 24
SEARCH_BUDGET = 512
MAX_HYPOTHESES = 50
MAX_PATCHES = 200

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadingPrior:
    """The centre column of the image looks at `heading_deg` ± `accuracy_deg` (half-width of a sure interval).

    Raises:
        InvalidRequest: not finite, or the accuracy outside 0 to 180 degrees.
    """

    heading_deg: float
    accuracy_deg: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.heading_deg):
            raise InvalidRequest(
                "heading_prior.heading_deg",
                f"is {self.heading_deg}",
                "give degrees clockwise from true north",
            )
        if not 0.0 <= self.accuracy_deg <= 180.0:
            raise InvalidRequest(
                "heading_prior.accuracy_deg",
                f"is {self.accuracy_deg}",
                "give 0 to 180 degrees to either side",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """Everything known about an image besides its pixels.

    Raises:
        InvalidRequest: a limit out of range.
    """

    hfov_deg: float | None = None
    """Horizontal field of view of a perspective photo; None for a panorama, and with a lens."""
    lens: Lens | None = None
    """Intrinsics of the camera, where they are known."""
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    """With a lens; a perspective photo is level."""
    heading: HeadingPrior | None = None
    """None: unknown, all headings are tried."""
    prior: Prior | None = None
    regions: tuple[str, ...] = ()
    """Empty: all live regions."""
    max_hypotheses: int = 5
    max_patches: int = 10

    def __post_init__(self) -> None:
        _check_limit("max_hypotheses", self.max_hypotheses, 1, MAX_HYPOTHESES)
        _check_limit("max_candidate_patches", self.max_patches, 0, MAX_PATCHES)

    @property
    def seen_deg(self) -> float:
        """Degrees of azimuth that the image shows."""
        return self.lens.hfov_deg if self.lens is not None else self.hfov_deg or 360.0


class Index(Protocol):
    """The part of a store that answers queries."""

    def search(self, request: SearchRequest) -> SearchResult: ...

    def regions(self) -> list[RegionInfo]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Ranked positions, and how they came about."""

    status: Status
    hypotheses: tuple[Hypothesis, ...]
    patches: tuple[RankedPatch, ...]
    prior_conflict: bool
    model_digest: str
    generations: tuple[tuple[str, str], ...]
    """(region, generation) of the patches retrieved."""
    plan: str
    plan_reason: str
    searched_patches: int
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Views:
    """One image as seen at each of the R headings tried."""

    canvases: Pixels
    """(R / turns, H, W, 4): at the first of the headings; the others are turns of their vectors."""
    headings_deg: Floats
    """(R,) heading of the image's centre column."""
    turns: int = 1


class Stopwatch:
    """Wall time by stage."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """End the stage that began with the previous lap."""
        now = time.perf_counter()
        self._laps[stage] = (now - self._last) * 1e3
        self._last = now

    def timings_ms(self) -> dict[str, float]:
        """Milliseconds by stage, and in all."""
        return {**self._laps, "total": (time.perf_counter() - self._started) * 1e3}


def locate(image: Pixels, query: Query, *, encoder: Encoder, index: Index) -> Answer:
    """Where an image (h, w, 3) was taken.

    Raises:
        clnet_model.errors.ModelError: the image or camera cannot be used.
        spatial_index.errors.SpatialIndexError: the index cannot answer.
    """
    watch = Stopwatch()
    step_deg = encoder.calibration.heading_step_deg
    views = look_around(image, query, spec=encoder.canvas, step_deg=step_deg, turns=encoder.turns)
    watch.lap("canvas")
    vectors = turned(encoder.embed_ground(views.canvases), views.turns)  # (R, D)
    watch.lap("encode")
    results = [index.search(request) for request in searches(vectors, query, model_digest=encoder.digest)]
    watch.lap("search")
    answer = conclude(
        results, views.headings_deg, query, calibration=encoder.calibration, model_digest=encoder.digest
    )
    watch.lap("fuse")
    return replace(answer, timings_ms=watch.timings_ms())


def decoded(data: bytes, query: Query, *, spec: CanvasSpec) -> Pixels:
    """An image's pixels, as many as its canvas needs.

    Raises:
        clnet_model.errors.ModelError: the image or camera cannot be used.
    """
    return decode_image(data, at_least_px=needed_width_px(_camera(query, 0.0), spec))


def look_around(image: Pixels, query: Query, *, spec: CanvasSpec, step_deg: float, turns: int = 1) -> Views:
    """The image's canvas at every heading worth trying; around the full circle the encoder's `turns` leave
    few of them to embed."""
    turns = turns if covers_circle(query.heading, step_deg) else 1
    headings_deg = headings_to_try(query.heading, step_deg, turns)
    first_deg = float(headings_deg[0])
    canvas = to_canvas(image, _camera(query, first_deg), spec)  # (H, W, 4)
    own = headings_deg[: len(headings_deg) // turns]
    rolled = [roll_canvas(canvas, float(heading) - first_deg) for heading in own]
    return Views(canvases=np.stack(rolled), headings_deg=headings_deg, turns=turns)


def covers_circle(heading: HeadingPrior | None, step_deg: float) -> bool:
    """True when the prior leaves no gap of a step's width."""
    return heading is None or heading.accuracy_deg > 180.0 - step_deg / 2


def headings_to_try(heading: HeadingPrior | None, step_deg: float, turns: int = 1) -> Floats:
    """Evenly spaced headings, at most `step_deg` apart, that cover the prior or the full circle; (R,). Around
    the circle R is a multiple of `turns`."""
    if heading is None or covers_circle(heading, step_deg):
        start_deg = heading.heading_deg if heading else 0.0
        count = turns * int(np.ceil(360.0 / (turns * step_deg)))
        return np.asarray(start_deg + np.arange(count) * (360.0 / count), dtype=np.float64)
    if heading.accuracy_deg <= step_deg / 2:
        return np.array([heading.heading_deg])
    intervals = int(np.ceil(2.0 * heading.accuracy_deg / step_deg))
    offsets_deg = np.linspace(-heading.accuracy_deg, heading.accuracy_deg, intervals + 1)
    return np.asarray(heading.heading_deg + offsets_deg, dtype=np.float64)


def searches(vectors: Vectors, query: Query, *, model_digest: str) -> tuple[SearchRequest, ...]:
    """The search inside the prior; beside a SOFT one another, inside what is HARD of it, to overrule it."""
    inside = SearchRequest(
        vectors=vectors,
        limit=max(search_depth(len(vectors)), query.max_patches),
        prior=query.prior,
        regions=query.regions,
        model_digest=model_digest,
    )
    if query.prior is None or query.prior.mode is PriorMode.HARD:
        return (inside,)
    return inside, replace(inside, prior=hard_part(query.prior))


def search_depth(headings: int) -> int:
    """Patches to retrieve per heading."""
    return max(SEARCH_DEPTH_MANY, min(SEARCH_DEPTH, SEARCH_BUDGET // headings))


def conclude(
    results: Sequence[SearchResult],
    headings_deg: Floats,
    query: Query,
    *,
    calibration: Calibration,
    model_digest: str,
) -> Answer:
    """The answer that the search results support; the first result is the one inside the prior."""
    inside = results[0]
    evidence = gather([result.hits for result in results] if inside.candidates else [], headings_deg)
    fusion = fuse(
        evidence,
        prior=query.prior,
        calibration=calibration_for(query, calibration),
        max_hypotheses=query.max_hypotheses,
        heading_accuracy_deg=query.heading.accuracy_deg if query.heading else 180.0,
    )
    return Answer(
        status=fusion.status,
        hypotheses=fusion.hypotheses,
        patches=fusion.patches[: query.max_patches],
        prior_conflict=fusion.prior_conflict,
        model_digest=model_digest,
        generations=_generations(fusion),
        plan=inside.plan,
        plan_reason=inside.plan_reason,
        searched_patches=inside.candidates,
    )


def calibration_for(query: Query, calibration: Calibration) -> ViewCalibration:
    """What similarities mean for such a query."""
    heading_known = not covers_circle(query.heading, calibration.heading_step_deg)
    return calibration.at(query.seen_deg, heading_known=heading_known)


def _camera(query: Query, heading_deg: float) -> Camera:
    if query.lens is not None:
        return LensCamera(
            heading_deg=heading_deg, lens=query.lens, pitch_deg=query.pitch_deg, roll_deg=query.roll_deg
        )
    if query.hfov_deg is None:
        return Panorama(heading_deg=heading_deg)
    return Perspective(heading_deg=heading_deg, hfov_deg=query.hfov_deg, pitch_deg=query.pitch_deg)


def _generations(fusion: Fusion) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({(patch.hit.region, patch.hit.generation) for patch in fusion.patches}))


def _check_limit(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidRequest(name, f"is {value}", f"give {low} to {high}")
