"""Metrics that cannot be fooled, and the calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from clnet_model.calibration import Calibration, fit_temperature, fit_threshold
from clnet_model.data import GeoPairs, nearest_rows
from clnet_model.encoder import Encoder, Vectors
from clnet_model.evaluate import (
    NORTH_KNOWN,
    PHOTO_90,
    UNKNOWN_HEADING,
    QuerySet,
    calibrate,
    evaluate,
    heading_errors,
    interpolated_position,
    neighbour_reach_m,
    rank_of_true,
)
from clnet_model.preprocess import CanvasSpec, Pixels


@dataclass
class MapEncoder:
    """Reads a place's number from its pixels: 'perfect' knows all places, 'collapsed' none."""

    city: GeoPairs
    collapsed: bool = False
    digest: str = "map"
    dim: int = 64
    canvas: CanvasSpec = field(default_factory=lambda: CanvasSpec(height_px=32, width_px=128))
    patch_px: int = 64
    side_m: float = 70.0
    zoom: int = 20
    calibration: Calibration = field(default_factory=Calibration)
    turns: int = 1

    def embed_ground(self, canvases: Pixels) -> Vectors:
        return self._at(self.city.street_xy_m, canvases.reshape(len(canvases), -1), self.city.canvases)

    def embed_aerial(self, patches: Pixels) -> Vectors:
        return self._at(self.city.patch_xy_m, patches.reshape(len(patches), -1), self.city.centre_patches())

    def _at(self, xy: NDArray[np.float64], images: NDArray[np.uint8], known: Pixels) -> Vectors:
        names = {image.tobytes(): place for image, place in zip(known, xy, strict=True)}
        places = [names.get(image.tobytes(), np.array([-500.0, -500.0])) for image in images]
        if self.collapsed:
            return np.full((len(images), self.dim), self.dim**-0.5, np.float32)
        waves = np.random.default_rng(0).normal(0, 1 / 25, (self.dim // 2, 2))
        phase = np.stack(places) @ waves.T
        return (np.concatenate([np.cos(phase), np.sin(phase)], axis=1) / (self.dim / 2) ** 0.5).astype(
            np.float32
        )


@pytest.fixture(scope="module")
def city(toy_city: Callable[..., GeoPairs]) -> GeoPairs:
    spec = CanvasSpec(height_px=32, width_px=128)
    return toy_city(seed=2, size_m=400, streets=50, patch_px=64, canvas=spec)


def test_ties_count_against_the_model() -> None:
    similarity = np.array([[1.0, 1.0, 0.5], [0.2, 0.9, 0.1]], np.float32)
    assert rank_of_true(similarity, np.array([0, 1])).tolist() == [2, 1]


def test_collapsed_model_scores_nothing(city: GeoPairs) -> None:
    metrics = evaluate(MapEncoder(city, collapsed=True), city)
    assert metrics.recall_at_10 == 0


def test_perfect_model_scores_all(city: GeoPairs) -> None:
    metrics = evaluate(MapEncoder(city), city)
    assert metrics.recall_at_1 > 0.8
    assert metrics.recall_at_5 == metrics.recall_25m == 1
    assert metrics.median_error_m < 8
    assert (metrics.queries, metrics.patches) == (50, len(city.patches))


def test_encoder_protocol_is_met(city: GeoPairs) -> None:
    encoder: Encoder = MapEncoder(city)
    assert encoder.dim == 64


@pytest.mark.parametrize("queries", [UNKNOWN_HEADING, PHOTO_90], ids=lambda q: q.name)
def test_harder_questions_are_asked_with_other_pixels(city: GeoPairs, queries: QuerySet) -> None:
    """An encoder that knows only north-aligned full views by heart finds nothing."""
    assert evaluate(MapEncoder(city), city, queries).recall_25m < 0.2


def test_position_between_two_equal_patches_is_their_middle() -> None:
    xy = np.array([[0.0, 0.0], [20.0, 0.0], [200.0, 0.0]])
    found = interpolated_position(
        np.array([[0.8, 0.8, 0.1]], np.float32), xy, temperature=0.05, radius_m=40.0
    )
    np.testing.assert_allclose(found, [[10.0, 0.0]])


def test_patches_that_do_not_overlap_speak_of_no_common_place(city: GeoPairs) -> None:
    """Pairs without positions are laid out a kilometre apart: the best patch alone says where."""
    scattered = replace(city, patch_xy_m=np.arange(len(city.patches))[:, None] * [1000.0, 0.0])
    assert neighbour_reach_m(city) == pytest.approx(1.6 * 24)
    assert neighbour_reach_m(scattered) == 20


def test_temperature_is_recovered() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.uniform(-1, 1, (3000, 50)).astype(np.float32)
    gumbel = rng.gumbel(size=similarity.shape)
    drawn = (similarity / 0.1 + gumbel).argmax(axis=1)
    assert fit_temperature(similarity, drawn) == pytest.approx(0.1, rel=0.08)


def test_threshold_separates() -> None:
    inside = np.array([0.7, 0.8, 0.9, 0.85], np.float32)
    outside = np.array([0.2, 0.3, 0.4, 0.1], np.float32)
    assert 0.4 < fit_threshold(inside, outside) <= 0.7


def test_a_stranger_let_in_weighs_more_than_a_place_not_recognised() -> None:
    inside = np.linspace(0.4, 1.0, 601).astype(np.float32)
    outside = np.linspace(0.0, 0.6, 601).astype(np.float32)
    assert fit_threshold(inside, outside) == pytest.approx(0.6, abs=0.01)
    rare = np.linspace(0.9, 1.0, 2).astype(np.float32)  # two in five hundred are as sure as any
    assert fit_threshold(inside, np.concatenate([outside, rare])) < 0.61


def test_calibration_has_all_searches_and_picks_the_nearest(city: GeoPairs) -> None:
    fitted = calibrate(MapEncoder(city), city)
    assert fitted.fitted
    known = [(view.hfov_deg, view.heading_known) for view in fitted.views]
    assert known == [(90.0, False), (360.0, False), (90.0, True), (360.0, True)]
    assert fitted.at(70, heading_known=False) == fitted.views[0]
    assert fitted.at(70).hfov_deg == 90
    assert fitted.temperature == fitted.at(360).temperature
    assert fitted.min_similarity <= fitted.views[-1].inside_similarity_p50


class ColumnEncoder(MapEncoder):
    """Sees the brightness of each column of a canvas."""

    def embed_ground(self, canvases: Pixels) -> Vectors:
        columns = canvases[..., :3].astype(np.float32).mean(axis=(1, 3))  # (B, W)
        columns -= columns.mean(axis=1, keepdims=True)
        return columns / np.linalg.norm(columns, axis=1, keepdims=True)


def test_headings_that_a_search_finds_are_measured(city: GeoPairs) -> None:
    """With headings 360/128 degrees apart and columns as wide, the parabola is within a fraction of one."""
    encoder = ColumnEncoder(city, turns=8, calibration=Calibration(heading_step_deg=360 / 128))
    own = nearest_rows(city.street_xy_m, city.patch_xy_m, count=1)[0][:, 0]
    gallery = np.zeros((len(city.patches), 128), np.float32)
    gallery[own] = encoder.embed_ground(city.canvases)
    errors_deg = heading_errors(encoder, city, UNKNOWN_HEADING, gallery=gallery)
    assert len(errors_deg) > 40
    assert np.quantile(errors_deg, 0.95) < 1.5


def test_true_patch_is_the_nearest_centre(city: GeoPairs) -> None:
    rows, metres = nearest_rows(city.street_xy_m, city.patch_xy_m, count=1)
    assert metres.max() <= 24 / 2 * 2**0.5 + 1e-6
    assert evaluate(MapEncoder(city), city, NORTH_KNOWN).queries == len(rows)
