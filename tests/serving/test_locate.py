"""The localization core, start to end, with a fake encoder and a fake index."""

from __future__ import annotations

import numpy as np
import pytest

from serving.errors import InvalidRequest
from serving.fuse import Status
from serving.locate import HeadingPrior, Query, headings_to_try, locate, look_around
from spatial_index.errors import UnknownRegion
from spatial_index.geodesy import distances_m
from spatial_index.geojson import from_bbox
from spatial_index.priors import AllOf, CirclePrior, PriorMode
from tiling.grid import LngLat

OCEAN = LngLat(lng=-30.0, lat=40.0)


def error_m(answer, truth):
    position = answer.hypotheses[0].position
    return float(distances_m(truth, position.lng, position.lat)[0])


def test_locates_with_a_known_heading(panorama, encoder, index, camera):
    query = Query(heading=HeadingPrior(heading_deg=90.0))
    answer = locate(panorama, query, encoder=encoder, index=index)
    assert answer.status is Status.LOCALIZED
    assert error_m(answer, camera) < 5.0
    assert len(index.searched[0].vectors) == 1


def test_finds_the_heading_when_it_is_unknown(panorama, encoder, index, camera):
    answer = locate(panorama, Query(), encoder=encoder, index=index)
    assert error_m(answer, camera) < 5.0
    assert answer.hypotheses[0].heading_deg == pytest.approx(90.0, abs=8.0)
    assert len(index.searched[0].vectors) == 24


def test_a_heading_prior_narrows_what_is_tried(panorama, encoder, index):
    query = Query(heading=HeadingPrior(heading_deg=100.0, accuracy_deg=20.0))
    answer = locate(panorama, query, encoder=encoder, index=index)
    assert len(index.searched[0].vectors) == 4
    assert answer.hypotheses[0].heading_deg == pytest.approx(90.0, abs=8.0)


def test_a_photo_sees_the_landmark_too(encoder, index, camera):
    photo = np.zeros((48, 64, 3), np.uint8)
    photo[:, 31:33] = 255
    query = Query(hfov_deg=90.0, heading=HeadingPrior(heading_deg=90.0))
    assert error_m(locate(photo, query, encoder=encoder, index=index), camera) < 5.0


def test_a_hard_prior_elsewhere_excludes_the_truth(panorama, encoder, index, camera):
    elsewhere = CirclePrior(centre=LngLat(7.982, 46.3175), radius_m=100.0)
    answer = locate(panorama, Query(prior=elsewhere), encoder=encoder, index=index)
    assert error_m(answer, camera) > 200.0
    assert not answer.prior_conflict
    assert len(index.searched) == 1


def test_a_wrong_soft_prior_is_overruled(panorama, encoder, make_index, camera):
    elsewhere = CirclePrior(centre=LngLat(7.982, 46.3175), radius_m=50.0, mode=PriorMode.SOFT)
    index = make_index(similarity=1.0)
    answer = locate(panorama, Query(prior=elsewhere), encoder=encoder, index=index)
    assert error_m(answer, camera) < 5.0
    assert answer.prior_conflict
    assert [request.prior for request in index.searched] == [elsewhere, None]


def test_the_search_that_may_overrule_a_soft_prior_keeps_to_the_hard_part(
    panorama, encoder, make_index, camera
):
    elsewhere = CirclePrior(centre=LngLat(7.982, 46.3175), radius_m=50.0, mode=PriorMode.SOFT)
    west = from_bbox(7.98, 46.31, 7.984, 46.32)  # the camera is east of it
    index = make_index(similarity=1.0)
    answer = locate(panorama, Query(prior=AllOf(priors=(elsewhere, west))), encoder=encoder, index=index)
    assert [request.prior for request in index.searched][1] == AllOf(priors=(west,))
    assert all(patch.hit.location.lng <= 7.984 for patch in answer.patches)
    assert error_m(answer, camera) > 50.0


@pytest.mark.parametrize("mode", PriorMode)
def test_a_prior_in_the_ocean_is_out_of_coverage(panorama, encoder, index, mode):
    prior = CirclePrior(centre=OCEAN, radius_m=500.0, mode=mode)
    answer = locate(panorama, Query(prior=prior), encoder=encoder, index=index)
    assert answer.status is Status.OUT_OF_COVERAGE
    assert answer.hypotheses == ()
    assert answer.patches == ()


def test_a_place_that_is_not_indexed_is_no_confident_match(panorama, encoder, make_index):
    answer = locate(panorama, Query(), encoder=encoder, index=make_index(similarity=0.2))
    assert answer.status is Status.NO_CONFIDENT_MATCH


def test_the_answer_says_how_it_came_about(panorama, encoder, index):
    answer = locate(panorama, Query(max_patches=3), encoder=encoder, index=index)
    assert answer.model_digest == encoder.digest
    assert answer.generations == (("brig", "g1"),)
    assert answer.plan == "exact"
    assert answer.searched_patches == len(index.patches)
    assert len(answer.patches) == 3
    assert set(answer.timings_ms) == {"canvas", "encode", "search", "fuse", "total"}


def test_the_true_patch_ranks_first(panorama, encoder, index, camera):
    answer = locate(panorama, Query(), encoder=encoder, index=index)
    nearest = min(index.patches, key=lambda patch: distances_m(camera, patch.centre.lng, patch.centre.lat)[0])
    assert answer.patches[0].hit.quadkey == nearest.quadkey


def test_an_unknown_region_is_named(panorama, encoder, index):
    with pytest.raises(UnknownRegion, match="atlantis"):
        locate(panorama, Query(regions=("atlantis",)), encoder=encoder, index=index)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        (HeadingPrior(heading_deg=10.0), [10.0]),
        (HeadingPrior(heading_deg=10.0, accuracy_deg=7.5), [10.0]),
        (HeadingPrior(heading_deg=10.0, accuracy_deg=15.0), [-5.0, 10.0, 25.0]),
        (HeadingPrior(heading_deg=10.0, accuracy_deg=180.0), [10.0 + 15.0 * step for step in range(24)]),
        (None, [15.0 * step for step in range(24)]),
    ],
)
def test_headings_cover_the_prior_in_even_steps(heading, expected):
    assert headings_to_try(heading, 15.0).tolist() == pytest.approx(expected)


def test_an_encoder_whose_vectors_turn_embeds_few_canvases(panorama, encoder):
    plain = look_around(panorama, Query(), spec=encoder.canvas, step_deg=15.0)
    few = look_around(panorama, Query(), spec=encoder.canvas, step_deg=15.0, turns=16)
    assert len(plain.canvases) == len(plain.headings_deg) == 24
    assert len(few.canvases) == 2
    assert few.headings_deg.tolist() == pytest.approx([11.25 * step for step in range(32)])
    known = Query(heading=HeadingPrior(heading_deg=3.0, accuracy_deg=20.0))
    assert look_around(panorama, known, spec=encoder.canvas, step_deg=15.0, turns=16).turns == 1


@pytest.mark.parametrize("accuracy_deg", [-1.0, 181.0, float("nan")])
def test_an_impossible_heading_accuracy_is_refused(accuracy_deg):
    with pytest.raises(InvalidRequest, match="accuracy_deg"):
        HeadingPrior(heading_deg=0.0, accuracy_deg=accuracy_deg)


@pytest.mark.parametrize("limits", [{"max_hypotheses": 0}, {"max_hypotheses": 51}, {"max_patches": -1}])
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(InvalidRequest):
        Query(**limits)
