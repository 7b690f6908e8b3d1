"""Posterior, places, radii and status from synthetic scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clnet_model.calibration import Calibration, error_quantiles
from clnet_model.turning import heading_difference_deg
from serving.fuse import (
    Place,
    Status,
    find_places,
    fuse,
    gather,
    heading_radius,
    heading_spread_deg,
    normalised,
    radii_around,
)
from spatial_index.geodesy import distances_m
from spatial_index.geojson import from_bbox
from spatial_index.priors import AllOf, AnyOf, CirclePrior, PriorMode
from tiling.grid import LngLat, stride_m

VIEW = Calibration().views[0]  # temperature 0.05, r68 18 m, no similarity threshold
NORTH = np.array([0.0])


def fused(hits, *, prior=None, view=VIEW, headings_deg=NORTH, max_hypotheses=5):
    evidence = gather([[hits]], headings_deg)
    return fuse(evidence, prior=prior, calibration=view, max_hypotheses=max_hypotheses)


def bump(make_hit, *, east=0.0, north=0.0, peak=0.9, reach=3, offset=(0, 0)):
    """Scores as training asks for: similarity / 0.05 falls like -d²/2σ² with σ = 10 m around the camera."""
    stride = stride_m(20, make_hit().location.lat)
    return [
        make_hit(
            offset[0] + i,
            offset[1] + j,
            score=peak - 0.05 * ((i - east) ** 2 + (j - north) ** 2) * stride**2 / 200.0,
        )
        for i in range(-reach, reach + 1)
        for j in range(-reach, reach + 1)
    ]


def metres(a: LngLat, b: LngLat) -> float:
    return float(distances_m(a, b.lng, b.lat)[0])


def between(make_hit, east, north) -> LngLat:
    here, there = make_hit().location, make_hit(1, 1).location
    return LngLat(here.lng + east * (there.lng - here.lng), here.lat + north * (there.lat - here.lat))


def test_one_place_lights_up_several_patches_and_stays_one_hypothesis(make_hit):
    fusion = fused(bump(make_hit))
    assert len(fusion.hypotheses) == 1
    assert fusion.hypotheses[0].probability == pytest.approx(1.0)
    assert fusion.status is Status.LOCALIZED


@given(east=st.floats(-0.5, 0.5), north=st.floats(-0.5, 0.5))
def test_position_lies_between_patch_centres(make_hit, east, north):
    found = fused(bump(make_hit, east=east, north=north)).hypotheses[0].position
    # The best patch's centre is off by up to 19 m; at a stride of 26 m the mean is drawn to it by up to 4 m.
    assert metres(found, between(make_hit, east, north)) < 4.5


def test_noise_moves_the_position_by_metres_not_by_strides(make_hit):
    rng = np.random.default_rng(1)
    errors_m = []
    for _ in range(100):
        east, north = rng.uniform(-0.5, 0.5, 2)
        clean = bump(make_hit, east=east, north=north)
        noisy = [hit._replace(score=hit.score + 0.035 * rng.normal()) for hit in clean]
        errors_m.append(metres(fused(noisy).hypotheses[0].position, between(make_hit, east, north)))
    assert np.median(errors_m) < 5.0


def test_two_equal_places_are_ambiguous_and_their_radii_say_so(make_hit):
    far = bump(make_hit, offset=(20, 0))
    fusion = fused(bump(make_hit) + far)
    apart_m = metres(fusion.hypotheses[0].position, fusion.hypotheses[1].position)
    assert fusion.status is Status.AMBIGUOUS
    assert [round(h.probability, 2) for h in fusion.hypotheses] == [0.5, 0.5]
    assert fusion.hypotheses[0].r95_m > 0.9 * apart_m


def test_unlikely_alternatives_leave_the_radius_small(make_hit):
    fusion = fused(bump(make_hit) + bump(make_hit, offset=(20, 0), peak=0.6))
    assert fusion.status is Status.LOCALIZED
    assert fusion.hypotheses[0].r68_m < fusion.hypotheses[0].r95_m < 40.0


def test_neighbouring_blocks_do_not_become_hypotheses_of_their_own(make_hit):
    broad = [make_hit(i, j, score=0.9 - 0.01 * np.hypot(i, j)) for i in range(-4, 5) for j in range(-4, 5)]
    assert len(fused(broad).hypotheses) == 1


def test_on_a_dense_grid_two_bumps_of_one_place_stay_one_hypothesis(make_hit):
    """At zoom 22 the next ring of patches is 13 m away: no farther than neighbours are at zoom 21."""
    place = [make_hit(i, zoom=22, score=score) for i, score in enumerate([0.70, 0.60, 0.69])]
    fusion = fused([*place, make_hit(12, zoom=22, score=0.65)])
    assert [len(hypothesis.patches) for hypothesis in fusion.hypotheses] == [3, 1]


def test_hypotheses_come_by_descending_probability_and_are_capped(make_hit):
    hits = [make_hit(10 * k, 0, score=0.5 + 0.02 * k) for k in range(8)]
    fusion = fused(hits, max_hypotheses=3)
    probabilities = [hypothesis.probability for hypothesis in fusion.hypotheses]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(probabilities) == 3
    assert [patch.hit for patch in fusion.patches] == hits[::-1]


def test_negligible_places_are_told_when_asked_for_and_change_no_radius(make_hit):
    """A hundred places far away that hold e^-18 of the camera's each."""
    best = make_hit(score=0.9)
    far = [make_hit(20 * (i + 1), 0, score=0.0) for i in range(100)]
    [alone] = fused([best]).hypotheses
    among = fused([best, *far], max_hypotheses=3).hypotheses
    assert [each.probability < 1e-7 for each in among] == [False, True, True]
    assert (among[0].r68_m, among[0].r95_m) == pytest.approx((alone.r68_m, alone.r95_m), rel=1e-6)
    assert (
        len(find_places(gather([[[best, *far]]], NORTH), np.array([1.0 - 1e-6, *[1e-8] * 100]), at_least=2))
        == 2
    )


def test_a_bad_best_similarity_is_no_confident_match(make_hit):
    fusion = fused(bump(make_hit, peak=0.3), view=replace(VIEW, min_similarity=0.4))
    assert fusion.status is Status.NO_CONFIDENT_MATCH
    assert fusion.hypotheses  # the best of a bad lot, for those who want to look


def test_no_hits_are_out_of_coverage():
    assert fused([]).status is Status.OUT_OF_COVERAGE


def test_a_soft_prior_decides_between_equal_places(make_hit):
    near = make_hit(20, 0).location
    prior = CirclePrior(centre=near, radius_m=100.0, mode=PriorMode.SOFT)
    fusion = fused(bump(make_hit) + bump(make_hit, offset=(20, 0)), prior=prior)
    assert metres(fusion.hypotheses[0].position, near) < 10.0
    assert not fusion.prior_conflict


def test_strong_evidence_overrules_a_soft_prior_and_says_so(make_hit):
    prior = CirclePrior(centre=make_hit(40, 0).location, radius_m=100.0, mode=PriorMode.SOFT)
    hits = bump(make_hit, peak=1.0) + bump(make_hit, offset=(40, 0), peak=0.2)
    fusion = fused(hits, prior=prior)
    assert metres(fusion.hypotheses[0].position, make_hit().location) < 10.0
    assert fusion.prior_conflict


def test_a_hard_part_excludes_however_strong_the_evidence(make_hit):
    near = make_hit(40, 0).location
    soft = CirclePrior(centre=near, radius_m=100.0, mode=PriorMode.SOFT)
    around = from_bbox(near.lng - 0.003, near.lat - 0.003, near.lng + 0.003, near.lat + 0.003)
    hits = bump(make_hit, peak=1.0) + bump(make_hit, offset=(40, 0), peak=0.2)
    fusion = fused(hits, prior=AllOf(priors=(soft, around)))
    assert metres(fusion.hypotheses[0].position, near) < 10.0
    assert len(fusion.patches) == len(hits) // 2
    assert not fusion.prior_conflict
    lifted = fused(
        hits, prior=AnyOf(priors=(soft, around))
    )  # in the box, or likely in the circle: or neither
    assert metres(lifted.hypotheses[0].position, make_hit().location) < 10.0
    assert lifted.prior_conflict


def test_no_evidence_inside_of_the_hard_part_is_out_of_coverage(make_hit):
    here = make_hit().location
    soft = CirclePrior(centre=here, radius_m=100.0, mode=PriorMode.SOFT)
    prior = AllOf(priors=(soft, from_bbox(here.lng + 1, here.lat, here.lng + 2, here.lat + 1)))
    assert fused(bump(make_hit), prior=prior).status is Status.OUT_OF_COVERAGE


def test_a_position_just_outside_of_a_hard_part_is_no_conflict(make_hit):
    """The mean of two patch centres lies between them, the boxes end at them."""
    hits = [make_hit(0, 0, score=0.9), make_hit(1, 0, score=0.89)]
    here, there = (hit.location for hit in hits)
    soft = CirclePrior(centre=here, radius_m=100.0, mode=PriorMode.SOFT)
    boxes = (
        from_bbox(here.lng - 1e-3, here.lat - 1e-3, here.lng + 1e-9, here.lat + 1e-3),
        from_bbox(there.lng - 1e-9, there.lat - 1e-3, there.lng + 1e-3, there.lat + 1e-3),
    )
    fusion = fused(hits, prior=AllOf(priors=(soft, AnyOf(priors=boxes))))
    assert here.lng + 1e-6 < fusion.hypotheses[0].position.lng < there.lng - 1e-6
    assert not fusion.prior_conflict


def test_a_place_across_the_antimeridian_is_one_place(make_hit):
    hits = [make_hit(i, j, base=(0, 371_100), score=0.9) for i in (-1, 0) for j in (0, 1)]
    fusion = fused(hits)
    assert len(fusion.hypotheses) == 1
    assert abs(abs(fusion.hypotheses[0].position.lng) - 180.0) < 1e-6


def test_radii_hold_what_they_promise():
    """Positions drawn from the posterior itself lie within r68 and r95 that often."""
    rng = np.random.default_rng(0)
    centre, view = LngLat(8.0, 46.0), replace(VIEW, position_r68_m=9.0, position_r95_m=24.0)
    metres_per_deg = np.array([111_319.5 * np.cos(np.radians(46.0)) * 1.0017, 111_150.0])
    places = [
        Place(position=LngLat(*(np.array(centre) + np.array(at) / metres_per_deg)), probability=share,
              members=np.array([0]), heading_deg=0.0)
        for at, share in (((0, 0), 0.8), ((40, 0), 0.15), ((300, 100), 0.05))
    ]  # fmt: skip
    r68_m, r95_m = radii_around(places[0], places, view)
    drawn = rng.choice(3, 20_000, p=[0.8, 0.15, 0.05])
    error_m, angle = error_quantiles(9.0, 24.0, rng.uniform(size=20_000)), rng.uniform(0, 2 * np.pi, 20_000)
    off_m = error_m[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    at = np.array([(0, 0), (40, 0), (300, 100)])[drawn] + off_m
    away_m = np.linalg.norm(at, axis=1)
    assert np.mean(away_m <= r68_m) == pytest.approx(0.68, abs=0.01)
    assert np.mean(away_m <= r95_m) == pytest.approx(0.95, abs=0.01)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=50))
def test_probabilities_sum_to_one_and_never_vanish(log_odds):
    probability = normalised(np.array(log_odds))
    assert probability.sum() == pytest.approx(1.0)
    assert (probability > 0).all()


def test_the_radius_of_a_heading_holds_what_it_promises():
    """Headings drawn from the posterior: mostly near the best one, sometimes the opposite way."""
    rng = np.random.default_rng(0)
    headings_deg = np.arange(24) * 15.0
    weights = np.zeros(24)
    weights[[1, 2, 13]] = 0.4, 0.25, 0.35  # 15°, its neighbour, 195°
    r68_deg = heading_radius(17.0, headings_deg, weights, (3.0, 8.0))
    peak = rng.random(20_000) < 0.65
    error_deg = error_quantiles(3.0, 8.0, rng.uniform(size=20_000)) * rng.choice([-1.0, 1.0], 20_000)
    drawn_deg = np.where(peak, 17.0, 195.0) + error_deg
    inside = heading_difference_deg(drawn_deg, 17.0) <= r68_deg
    assert np.mean(inside) == pytest.approx(0.68, abs=0.02)


def test_a_heading_that_was_given_is_as_good_as_it_was_given(make_hit):
    fusion = fuse(
        gather([[[make_hit()]]], NORTH),
        prior=None,
        calibration=VIEW,
        max_hypotheses=1,
        heading_accuracy_deg=5.0,
    )
    assert fusion.hypotheses[0].heading_r68_deg == pytest.approx(0.68 * 5.0, rel=0.02)


def test_a_heading_that_was_searched_is_no_worse_than_it_was_given(make_hit):
    headings_deg = np.array([-4.0, 0.0, 4.0])
    evidence = gather([[[make_hit(score=0.3)], [make_hit(score=0.9)], [make_hit(score=0.3)]]], headings_deg)
    found = fuse(evidence, prior=None, calibration=VIEW, max_hypotheses=1, heading_accuracy_deg=4.0)
    assert found.hypotheses[0].heading_r68_deg == pytest.approx(0.68 * 4.0, rel=0.02)


def test_a_heading_at_an_unlikely_place_is_any_that_was_possible():
    sure = heading_spread_deg(VIEW, 3, 15.0, 1.0)
    unsure = heading_spread_deg(VIEW, 3, 15.0, 0.1)
    assert sure == (VIEW.heading_r68_deg, 0.95 * 15.0)  # 10°, and 20° cut to what was possible
    assert sure[0] < unsure[0] < 0.68 * 15.0
    assert heading_spread_deg(VIEW, 32, 180.0, 0.1) == (VIEW.heading_r68_deg, VIEW.heading_r95_deg)


def test_hits_of_several_searches_are_joined_by_patch(make_hit):
    first, second = make_hit(score=0.4), make_hit(3, 0, score=0.3)
    evidence = gather([[[first], [second]], [[first], []]], np.array([0.0, 15.0]))
    assert evidence.hits == (first, second)
    assert evidence.similarities.tolist() == [[0.4, -np.inf], [-np.inf, 0.3]]
