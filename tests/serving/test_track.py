"""The track of a moving camera, on drives whose frames are made up."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import InvalidRequest
from serving.fuse import Status
from serving.locate import Query, locate
from serving.pb import localization_service_pb2, track_pb2
from serving.track import FORGET_S, NEAR_M, Odometry, Sighting, Track
from serving.track_messages import odometry_from, raw_response, sighting_of, time_s_of, track_message
from spatial_index.geodesy import distances_m
from tiling.grid import LngLat

START = LngLat(lng=7.98, lat=46.31)
SIGMA_M = 4.0
SPEED_M_PER_S = 10.0
BLIND = Sighting(status=Status.NO_CONFIDENT_MATCH, positions=(), probabilities=(), sigma_m=SIGMA_M)


def moved(place: LngLat, east_m: float, north_m: float) -> LngLat:
    lat = place.lat + north_m / 111_140.0
    return LngLat(lng=place.lng + east_m / (111_320.0 * math.cos(math.radians(lat))), lat=lat)


def seen(place: LngLat, dice: np.random.Generator, *, status: Status = Status.LOCALIZED) -> Sighting:
    """A frame that knows its place as well as it says."""
    found = moved(place, *dice.normal(0.0, SIGMA_M, 2))
    return Sighting(status=status, positions=(found,), probabilities=(1.0,), sigma_m=SIGMA_M)


def way(second: float) -> LngLat:
    """Two minutes east, then north."""
    return moved(START, SPEED_M_PER_S * min(second, 60.0), SPEED_M_PER_S * max(second - 60.0, 0.0))


def error_m(place: LngLat, truth: LngLat) -> float:
    return float(distances_m(truth, place.lng, place.lat)[0])


WHEELS = Odometry(distance_m=SPEED_M_PER_S)


def east(second: float) -> Odometry:
    return Odometry(distance_m=SPEED_M_PER_S, course_deg=90.0 if second <= 60.0 else 0.0)


@pytest.mark.parametrize("odometry", [lambda _: None, lambda _: WHEELS, east], ids=["none", "wheels", "all"])
def test_a_track_is_no_worse_than_its_frames(odometry):
    dice = np.random.default_rng(1)
    track, raw, smoothed = Track(), [], []
    for second in range(120):
        sighting = seen(way(second), dice)
        point = track.advance(float(second), sighting, odometry(second) if second else None)
        raw.append(error_m(sighting.positions[0], way(second)))
        smoothed.append(error_m(point.position, way(second)))
    assert np.median(smoothed) <= np.median(raw) * 1.2
    assert np.quantile(smoothed, 0.95) <= np.quantile(raw, 0.95) * 1.4
    if odometry is east:
        assert np.median(smoothed) < 0.7 * np.median(raw)


def test_a_wrong_frame_does_not_pull_the_track_away():
    dice, track = np.random.default_rng(2), Track()
    for second in range(30):
        place = moved(way(second), 900.0, 0.0) if second % 7 == 6 else way(second)
        point = track.advance(float(second), seen(place, dice), WHEELS if second else None)
        if second > 5:
            assert error_m(point.position, way(second)) < NEAR_M


def test_a_track_that_began_wrong_is_put_right():
    dice, track = np.random.default_rng(2), Track()
    track.advance(0.0, seen(moved(START, 900.0, 0.0), dice))
    for second in range(1, 8):
        point = track.advance(float(second), seen(way(second), dice), WHEELS)
        assert point.status is not Status.LOCALIZED or error_m(point.position, way(second)) < NEAR_M
    assert point.status is Status.LOCALIZED


@pytest.mark.parametrize(
    ("share", "status"), [(0.4, Status.AMBIGUOUS), (0.8, Status.LOCALIZED)], ids=["doubted", "believed"]
)
def test_the_twin_that_does_not_move_as_the_camera_does_drops_out(share, status):
    """The track finds the truth; LOCALIZED it says only when the frames by themselves believe in it too."""
    dice, track = np.random.default_rng(3), Track()
    for second in range(25):
        twin = moved(START, *dice.uniform(-600.0, 600.0, 2))
        sighting = Sighting(
            status=Status.AMBIGUOUS,
            positions=(twin, seen(way(second), dice).positions[0]),
            probabilities=(1.0 - share, share),
            sigma_m=SIGMA_M,
        )
        point = track.advance(float(second), sighting, WHEELS if second else None)
    assert error_m(point.position, way(24)) < NEAR_M
    assert point.status is status


def test_a_camera_that_jumps_is_found_again():
    dice, track = np.random.default_rng(4), Track()
    there = moved(START, 3000.0, 2000.0)
    for second in range(20):
        track.advance(float(second), seen(way(second), dice), WHEELS if second else None)
    found = []
    for second in range(20, 35):
        place = moved(there, SPEED_M_PER_S * (second - 20), 0.0)
        point = track.advance(float(second), seen(place, dice), WHEELS)
        found.append(point.status is Status.LOCALIZED and error_m(point.position, place) < NEAR_M)
    assert all(found[-5:])


def test_radii_hold_what_they_say():
    """On many drives, r68 and r95 hold at least 68 and 95 % of the positions: they lean to the safe side."""
    inside_68, inside_95 = [], []
    for seed in range(12):
        dice, track = np.random.default_rng(seed), Track(seed=seed)
        shared_m = dice.normal(0.0, 0.6 * SIGMA_M, 2)  # neighbouring frames err together
        for second in range(20):
            own_m = dice.normal(0.0, 0.8 * SIGMA_M, 2)
            found = moved(way(second), *(shared_m + own_m))
            sighting = Sighting(
                status=Status.LOCALIZED, positions=(found,), probabilities=(1.0,), sigma_m=SIGMA_M
            )
            point = track.advance(float(second), sighting, east(second) if second else None)
            off_m = error_m(point.position, way(second))
            inside_68.append(off_m <= point.r68_m)
            inside_95.append(off_m <= point.r95_m)
            assert point.r68_m < point.r95_m
    assert np.mean(inside_68) >= 0.64
    assert np.mean(inside_95) >= 0.93


def test_a_blind_drive_grows_its_radii_and_loses_its_claim():
    dice, track = np.random.default_rng(5), Track()
    for second in range(20):
        point = track.advance(float(second), seen(way(second), dice), WHEELS if second else None)
    assert point.status is Status.LOCALIZED
    radii, statuses = [], []
    for second in range(20, 50):
        point = track.advance(float(second), BLIND, WHEELS)
        radii.append(point.r95_m)
        statuses.append(point.status)
    assert radii[-1] > 3.0 * radii[0]
    assert Status.LOCALIZED not in statuses[11:]


def test_a_track_without_frames_is_forgotten():
    dice, track = np.random.default_rng(6), Track()
    track.advance(0.0, seen(START, dice))
    assert track.advance(FORGET_S + 1.0, BLIND) is None
    again = track.advance(FORGET_S + 2.0, seen(moved(START, 9000.0, 0.0), dice))
    assert again.used_frames == 1
    assert error_m(again.position, moved(START, 9000.0, 0.0)) < NEAR_M


@pytest.mark.parametrize("pause_s", [20.0, 50.0, 120.0, 3600.0])
def test_after_a_pause_the_first_frame_is_believed(pause_s):
    """Without odometry the particles have driven anywhere meanwhile."""
    dice, track = np.random.default_rng(7), Track()
    for second in range(8):
        track.advance(float(second), seen(way(second), dice))
    for second in range(4):
        point = track.advance(7.0 + pause_s + second, seen(way(7), dice))
        assert error_m(point.position, way(7)) < NEAR_M


@pytest.mark.parametrize("status", [Status.NO_CONFIDENT_MATCH, Status.OUT_OF_COVERAGE])
def test_what_was_not_recognised_starts_no_track(status):
    sighting = Sighting(status=status, positions=(START,), probabilities=(1.0,), sigma_m=SIGMA_M)
    assert Track().advance(0.0, sighting) is None


def test_leaving_the_coverage_is_told():
    dice, track = np.random.default_rng(7), Track()
    for second in range(5):
        track.advance(float(second), seen(way(second), dice), WHEELS if second else None)
    gone = Sighting(status=Status.OUT_OF_COVERAGE, positions=(), probabilities=(), sigma_m=SIGMA_M)
    for second in range(5, 20):
        point = track.advance(float(second), gone, WHEELS)
    assert point.status is Status.OUT_OF_COVERAGE


def test_memory_does_not_grow():
    dice, track, sizes = np.random.default_rng(8), Track(), []
    for second in range(300):
        track.advance(float(second), seen(way(second), dice), WHEELS if second else None)
        sizes.append(len(pickle.dumps(track)))
    assert max(sizes[200:]) <= max(sizes[:100]) * 1.01


def test_a_track_crosses_the_antimeridian_and_goes_far():
    dice, track = np.random.default_rng(9), Track()
    for second in range(200):
        place = LngLat(lng=(179.95 + second * 0.001 + 180.0) % 360.0 - 180.0, lat=60.0)  # 56 m a second
        odometry = Odometry(distance_m=55.66, course_deg=90.0) if second else None
        point = track.advance(float(second), seen(place, dice), odometry)
        assert error_m(point.position, place) < NEAR_M
        assert -180.0 <= point.position.lng <= 180.0


def test_the_course_is_told_once_it_is_known():
    dice, track = np.random.default_rng(10), Track()
    first = track.advance(0.0, seen(START, dice))
    for second in range(1, 30):
        point = track.advance(float(second), seen(way(second), dice), WHEELS)
    assert first.course_deg is None
    assert point.course_deg == pytest.approx(90.0, abs=15.0)


def test_time_must_go_on():
    track = Track()
    track.advance(1.0, BLIND)
    with pytest.raises(InvalidRequest, match="capture_time"):
        track.advance(1.0, BLIND)


@settings(max_examples=60, deadline=None)
@given(
    gap_s=st.floats(1e-6, 1e7),
    distance_m=st.floats(0.0, 100_000.0),
    lat=st.floats(-90.0, 90.0),
    lng=st.floats(-180.0, 180.0),
    shares=st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=5),
)
def test_estimates_are_positions_on_earth_whatever_comes(gap_s, distance_m, lat, lng, shares):
    places = [LngLat(lng=lng, lat=lat)] * len(shares)
    probabilities = [share / max(1.0, sum(shares)) for share in shares]  # of one posterior
    sighting = Sighting(
        status=Status.AMBIGUOUS, positions=places, probabilities=probabilities, sigma_m=SIGMA_M
    )
    track = Track(particles=200)
    track.advance(0.0, sighting)
    point = track.advance(gap_s, sighting, Odometry(distance_m=distance_m))
    if point is not None:
        assert -180.0 <= point.position.lng <= 180.0
        assert -90.0 <= point.position.lat <= 90.0
        assert 0.0 <= point.probability <= 1.0 + 1e-9
        assert 0.0 <= point.r68_m <= point.r95_m < math.inf


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"distance_m": -1.0}, "distance_m"),
        ({"distance_m": math.nan}, "distance_m"),
        ({"distance_m": 1.0, "distance_sigma_m": 0.0}, "distance_sigma_m"),
        ({"distance_m": 1.0, "course_deg": math.inf}, "course_deg"),
        ({"distance_m": 1.0, "course_sigma_deg": 0.0}, "course_sigma_deg"),
    ],
)
def test_odometry_that_cannot_be_is_refused(fields, field):
    request = localization_service_pb2.LocalizeStreamRequest(odometry=track_pb2.Odometry(**fields))
    with pytest.raises(InvalidRequest) as caught:
        odometry_from(request)
    assert caught.value.field == f"odometry.{field}"


def test_odometry_needs_a_distance_and_a_frame_a_time():
    empty = localization_service_pb2.LocalizeStreamRequest(odometry=track_pb2.Odometry())
    for read, field in ((odometry_from, "odometry.distance_m"), (time_s_of, "capture_time")):
        with pytest.raises(InvalidRequest) as caught:
            read(empty)
        assert caught.value.field == field


def test_a_frame_of_the_service_feeds_a_track(panorama, encoder, index, camera):
    query = Query(max_hypotheses=50)
    answer = locate(panorama, query, encoder=encoder, index=index)
    sighting = sighting_of(answer, query, encoder.calibration)
    point = Track().advance(0.0, sighting)
    message = track_message(point)
    assert sighting.sigma_m == pytest.approx(5.0, rel=0.01)
    assert error_m(point.position, camera) < 20.0
    assert message.position.latitude == point.position.lat
    assert not message.HasField("course_deg")
    assert len(raw_response(answer, 1).hypotheses) == 1
