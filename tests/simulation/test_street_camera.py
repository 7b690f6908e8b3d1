"""The street camera sees things where they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from simulation.appearance import Appearance
from simulation.street import Band, Pose, render
from simulation.world import World

WIDTH, HEIGHT = 360, 180


def look_from_the_middle(world: World, look: Appearance, *, azimuth_deg: float = 0.0) -> NDArray[np.float32]:
    pose = Pose(easting=world.west + 100, northing=world.north - 100, height_m=2.0, azimuth_deg=azimuth_deg)
    return render(world, pose, look, Band(width_px=WIDTH, height_px=HEIGHT), seed=1)


def redness(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W) how much redder than green a pixel is: the blocks are red, the grass and the sky are not."""
    return np.asarray(image[..., 0] - 1.8 * image[..., 1])


@pytest.mark.parametrize(
    ("east_m", "north_m", "azimuth_deg"),
    [(0, 30, 0), (30, 0, 90), (0, -30, 180), (-30, 0, 270), (20, 20, 45)],
)
def test_a_block_appears_at_its_azimuth(
    flat_world: World,
    overcast: Appearance,
    put_block: Callable[..., None],
    east_m: float,
    north_m: float,
    azimuth_deg: float,
) -> None:
    put_block(flat_world, east_m=east_m, north_m=north_m)
    image = look_from_the_middle(flat_world, overcast)
    columns = np.flatnonzero((redness(image) > 10).any(axis=0))
    seen_deg = (columns + 0.5) * 360 / WIDTH - 180  # the centre column looks north
    offset_deg = (seen_deg - azimuth_deg + 180) % 360 - 180
    assert abs(offset_deg.mean()) < 1.5


def test_turning_the_camera_rolls_the_image(
    flat_world: World, overcast: Appearance, put_block: Callable[..., None]
) -> None:
    put_block(flat_world, east_m=25, north_m=10)
    north = redness(look_from_the_middle(flat_world, overcast))
    turned = redness(look_from_the_middle(flat_world, overcast, azimuth_deg=40.0))
    assert np.abs(np.roll(north, -40, axis=1) - turned).mean() < 1.0


def test_the_top_of_a_block_is_at_its_elevation(
    flat_world: World, overcast: Appearance, put_block: Callable[..., None]
) -> None:
    put_block(flat_world, east_m=0, north_m=30, height_m=10.0)  # front face at 27 m
    image = look_from_the_middle(flat_world, overcast)
    rows = np.flatnonzero((redness(image) > 10)[:, WIDTH // 2])
    top_deg = 90 - rows.min()
    assert top_deg == pytest.approx(np.degrees(np.arctan2(10.0 - 2.0, 27.0)), abs=2.5)


def test_a_near_block_hides_a_far_one(
    flat_world: World, overcast: Appearance, put_block: Callable[..., None]
) -> None:
    put_block(flat_world, east_m=0, north_m=20, height_m=12.0)
    alone = look_from_the_middle(flat_world, overcast)
    put_block(flat_world, east_m=0, north_m=60, height_m=12.0)
    both = look_from_the_middle(flat_world, overcast)
    assert np.array_equal(alone, both)


def test_crowns_leave_the_trunk_room_free(flat_world: World, overcast: Appearance) -> None:
    ahead = np.s_[130:140, 195:205]  # 30-35 m north of the camera
    flat_world.crown_base[ahead], flat_world.crown_top[ahead] = 4 * 5, 8 * 5  # 4 m to 8 m
    flat_world.tree[ahead] = 7
    bare = flat_world.crown_top.copy()
    with_tree = look_from_the_middle(flat_world, overcast)
    flat_world.crown_top[:] = 0
    without = look_from_the_middle(flat_world, overcast)
    changed = np.flatnonzero(
        np.abs(with_tree - without).sum(axis=2)[:, WIDTH // 2 - 4 : WIDTH // 2 + 4].any(axis=1)
    )
    lowest_deg = 90 - changed.max()
    assert bare.max() == 40
    assert lowest_deg >= np.degrees(np.arctan2(4.0 - 2.0, 36.0)) - 1.5


def test_the_same_seed_gives_the_same_pixels(flat_world: World, overcast: Appearance) -> None:
    assert np.array_equal(
        look_from_the_middle(flat_world, overcast), look_from_the_middle(flat_world, overcast)
    )


def test_a_camera_outside_the_world_sees_land_and_sky(flat_world: World, overcast: Appearance) -> None:
    pose = Pose(easting=flat_world.west - 500, northing=flat_world.north + 500, height_m=2.0, azimuth_deg=0.0)
    image = render(flat_world, pose, overcast, Band(width_px=36, height_px=18), seed=1)
    assert np.isfinite(image).all()
