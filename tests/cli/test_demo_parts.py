"""The demo's parts that need neither city nor service."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.type import latlng_pb2
from mercantile import LngLat
from rich.console import Console

from cli.demo_queries import GPS_R95_M, SETTINGS, Setting, StreetImage, judge, request_for
from cli.demo_run import DemoPlan, workspace
from cli.demo_steps import Steps
from serving.pb import answer_pb2, localization_service_pb2, prior_pb2
from tiling.grid import GridSpec, patch_at

POSITION = LngLat(lng=7.99, lat=46.31)


@pytest.fixture
def image(tmp_path: Path) -> StreetImage:
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    return StreetImage(
        image_id="photo_00001",
        path=tmp_path / "a.jpg",
        kind="photo",
        position=POSITION,
        heading_deg=100.0,
        hfov_deg=90.0,
        heading_measured_deg=110.0,
        gps=LngLat(lng=7.991, lat=46.31),
    )


def setting(key: str) -> Setting:
    return next(setting for setting in SETTINGS if setting.key == key)


def test_settings_are_those_of_the_results() -> None:
    assert [setting.key for setting in SETTINGS] == [
        "with_prior",
        "no_prior",
        "unknown_heading",
        "photo_90deg",
    ]


def test_a_known_heading_is_sent_as_exact(image: StreetImage) -> None:
    heading = request_for(image, setting("no_prior")).heading_prior
    assert (heading.heading_deg, heading.HasField("accuracy_deg")) == (100.0, False)


def test_an_unknown_heading_is_left_unset(image: StreetImage) -> None:
    assert not request_for(image, setting("unknown_heading")).HasField("heading_prior")


def test_a_photo_sends_its_compass_not_the_truth(image: StreetImage) -> None:
    heading = request_for(image, setting("photo_90deg")).heading_prior
    assert (heading.heading_deg, heading.accuracy_deg) == (110.0, 15.0)


def test_the_gps_prior_is_soft_and_centred_on_the_fix(image: StreetImage) -> None:
    prior = request_for(image, setting("with_prior")).position_prior
    assert prior.mode == prior_pb2.PRIOR_MODE_SOFT
    assert prior.circle.centre.longitude == image.gps.lng
    assert prior.circle.radius_m == pytest.approx(244.8, abs=0.1)
    assert pytest.approx(GPS_R95_M) == prior.circle.radius_m


@pytest.mark.parametrize("key", ["no_prior", "unknown_heading"])
def test_no_prior_means_none_is_sent(image: StreetImage, key: str) -> None:
    assert not request_for(image, setting(key)).HasField("position_prior")


def answer(position: LngLat, *quadkeys: str) -> localization_service_pb2.LocalizeResponse:
    return localization_service_pb2.LocalizeResponse(
        status=answer_pb2.LOCALIZATION_STATUS_LOCALIZED,
        hypotheses=[
            answer_pb2.Hypothesis(
                position=latlng_pb2.LatLng(latitude=position.lat, longitude=position.lng), r68_m=5, r95_m=9
            )
        ],
        candidate_patches=[
            answer_pb2.CandidatePatch(quadkey=quadkey, probability=1 / (i + 2))
            for i, quadkey in enumerate(quadkeys)
        ],
    )


def test_an_answer_is_judged_by_position_and_by_patch(image: StreetImage) -> None:
    true_patch = patch_at(POSITION, GridSpec()).quadkey
    north = LngLat(lng=POSITION.lng, lat=POSITION.lat + 10 / 111_170)
    outcome = judge(image, answer(north, "0", true_patch), grid=GridSpec(), latency_ms=1.0)
    assert outcome.error_m == pytest.approx(10.0, abs=0.05)
    assert outcome.true_patch_rank == 2
    assert outcome.status == "LOCALIZED"


def test_an_empty_answer_is_infinitely_far_off(image: StreetImage) -> None:
    empty = localization_service_pb2.LocalizeResponse(status=answer_pb2.LOCALIZATION_STATUS_OUT_OF_COVERAGE)
    outcome = judge(image, empty, grid=GridSpec(), latency_ms=1.0)
    assert (outcome.found_position, outcome.error_m) == (None, float("inf"))


@pytest.mark.parametrize("keep", [True, False])
def test_the_workspace_goes_unless_it_is_kept(tmp_path: Path, keep: bool) -> None:
    plan = DemoPlan(out=tmp_path, seed=1, size_m=500.0, queries=2, checkpoint=None, keep=keep)
    (tmp_path / "store").mkdir()
    with workspace(plan) as work:
        (work / "city").mkdir()
    assert work.exists() is keep
    assert (tmp_path / "store").exists(), "a folder that the demo did not make stays"


def test_a_failed_step_still_removes_the_workspace(tmp_path: Path) -> None:
    plan = DemoPlan(out=tmp_path, seed=1, size_m=500.0, queries=2, checkpoint=None, keep=False)
    with pytest.raises(RuntimeError), workspace(plan):
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_steps_remember_their_durations() -> None:
    with Steps(Console(quiet=True)) as steps:
        with steps.step("one") as step:
            step.tick(1)()
        with pytest.raises(ValueError), steps.step("two"):
            raise ValueError
    assert list(steps.durations_s) == ["one"]
