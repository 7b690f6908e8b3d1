"""A vehicle drives on where its images cannot be read: no metre of its odometry may get lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.fleet_localizer import _SIGHTING, NOTHING_SEEN, FleetFollower
from serving.fuse import Status
from serving.track import Sighting
from spatial_index.geodesy import distances_m
from tiling.grid import LngLat

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
START = LngLat(lng=8.0, lat=46.0)
STEP_M = 20.0
NORTH_DEG_PER_M = 1 / 111_150


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "image_id": f"{number}.jpg", "captured_at": NOON + timedelta(seconds=number), "fault": None,
        "distance_m": STEP_M, "course_deg": 0.0,
    } | changes  # fmt: skip


def seen(number: int) -> dict[str, Any]:
    place = LngLat(lng=START.lng, lat=START.lat + number * STEP_M * NORTH_DEG_PER_M)
    return {_SIGHTING: Sighting(status=Status.LOCALIZED, positions=[place], probabilities=[1.0], sigma_m=2.0)}


def driven_m(smoothed: Mapping[str, Any]) -> float:
    """From the start to the smoothed position."""
    return float(distances_m(START, smoothed["smoothed_longitude"], smoothed["smoothed_latitude"])[0])


def drive(*unusable: dict[str, Any]) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
    """Ten frames that are recognised, then others, then one that sees nothing: answers to the latter."""
    follower = FleetFollower(seed=1)
    for number in range(10):
        follower.advance(row(number), seen(number))
    between = [follower.advance(each, {}) for each in unusable]
    return between, follower.advance(row(20), {_SIGHTING: NOTHING_SEEN})


@pytest.mark.parametrize("fault", [None, "latitude is 400"])
def test_rows_without_an_answer_move_the_track(fault: str | None) -> None:
    between, last = drive(*(row(number, fault=fault) for number in range(10, 20)))
    assert between == [{}] * 10
    assert driven_m(last) == pytest.approx(20 * STEP_M, abs=10.0)


def test_a_row_that_is_there_twice_counts_once() -> None:
    _, last = drive(
        *(row(number, fault=fault) for number in range(10, 20) for fault in (None, "there twice"))
    )
    assert driven_m(last) == pytest.approx(20 * STEP_M, abs=10.0)


@pytest.mark.parametrize("distance_m", [-5.0, 1e9])
def test_a_distance_that_cannot_be_true_is_not_used(distance_m: float) -> None:
    _, last = drive(row(10, distance_m=distance_m, fault="distance_m cannot be true"))
    assert driven_m(last) < 1000.0


def test_where_a_row_has_no_time_no_odometry_is_used() -> None:
    follower = FleetFollower(seed=1)
    assert follower.advance(row(5, captured_at=None, fault="captured_at is empty"), {}) == {}
    for number in range(10):
        follower.advance(row(number), seen(number))
    for number in range(10, 15):
        last = follower.advance(row(number, distance_m=500.0), {_SIGHTING: NOTHING_SEEN})
    assert driven_m(last) < 1000.0
