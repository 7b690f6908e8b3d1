"""What the whole suite shares: one Ray session, and the folder of reference data."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clnet_model.model import CLNetConfig


def pytest_configure(config: pytest.Config) -> None:
    """One thread a process, because tests start several; and silence about Ray's own deprecations."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    config.addinivalue_line(
        "filterwarnings", "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
    )


@pytest.fixture(scope="session")
def tiny() -> Callable[..., CLNetConfig]:
    """Settings of a network small enough to build and run in milliseconds, with these changes."""
    from clnet_model.model import BackboneConfig, CLNetConfig  # noqa: PLC0415  # torch, 2 s: only where needed
    from clnet_model.preprocess import CanvasSpec  # noqa: PLC0415

    base = CLNetConfig(
        backbone=BackboneConfig(hidden_sizes=(8, 16, 24), depths=(1, 1, 1)),
        canvas=CanvasSpec(height_px=32, width_px=128),
        patch_px=64,
        token_dim=16,
        latent_azimuths=16,
        latent_ranges=2,
        azimuth_channels=4,
    )
    return lambda **changes: replace(base, **changes)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for every test that needs it; starting it takes seconds."""
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The reference data, or a skip that says how to get it."""
    folder = Path(os.environ.get("CLNET_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no reference data in {folder}; set CLNET_DATA")
    return folder
