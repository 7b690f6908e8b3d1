"""`clnet train`: how it reads --workers, and how it shows a run that goes on elsewhere."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.main import build_app
from cli.model_progress import followed_log
from cli.train import network_of, scale_of
from clnet_model.checkpoint import SHIPPED, load_checkpoint
from clnet_model.errors import BadConfig, BadPairs
from clnet_model.run_files import LOG_FILE
from clnet_model.train_step import Tick

TICK = Tick(step=7, share=0.5, spent_s=3.0, queries=84, loss=2.0, batch_recall_at_1=0.25, learning_rate=1e-3)


def test_a_run_that_goes_on_has_the_network_of_its_checkpoint() -> None:
    photo = SHIPPED.parent / "clnet-photo-s"
    found = network_of("", None, photo, patch_px=None, canvas_px=None)
    assert found == load_checkpoint(photo).model.config
    assert found.backbone.model_type == "lite0"
    assert network_of("", None, None, patch_px=None, canvas_px=None).backbone.model_type == "residual"
    named = network_of("", "efficientnet-lite0", None, patch_px=None, canvas_px=None)
    assert named.backbone == found.backbone


def test_one_number_of_workers_is_fixed() -> None:
    scale = scale_of("4", 2, gpus=True)
    assert scale is not None
    assert (scale.workers, scale.cores_per_worker, scale.gpus) == (4, 2, True)


def test_two_numbers_shrink_and_grow() -> None:
    scale = scale_of("2-8", None, gpus=False)
    assert scale is not None
    assert (scale.workers, scale.cores_per_worker) == ((2, 8), 1)


def test_without_workers_this_process_trains() -> None:
    assert scale_of(None, None, gpus=False) is None


@pytest.mark.parametrize("workers", ["many", "", "1-2-3", "0", "4-2", "-3"])
def test_other_numbers_of_workers_are_refused(workers: str) -> None:
    with pytest.raises(BadConfig, match="workers"):
        scale_of(workers, None, gpus=False)


def test_gpus_alone_ask_for_workers() -> None:
    with pytest.raises(BadConfig, match="--workers"):
        scale_of(None, None, gpus=True)


def test_the_last_step_of_a_run_elsewhere_is_shown(tmp_path: Path) -> None:
    lines = [asdict(TICK) | {"step": 6}, asdict(TICK), {"step": 7, "validation": {"recall_at_1": 0.5}}]
    (tmp_path / LOG_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 8, "sh')
    shown: list[Tick] = []
    with followed_log(tmp_path, shown.append):
        deadline = time.monotonic() + 20
        while not shown and time.monotonic() < deadline:
            time.sleep(0.05)
    assert shown[0] == TICK


def test_a_run_that_has_not_begun_shows_nothing(tmp_path: Path) -> None:
    shown: list[Tick] = []
    with followed_log(tmp_path, shown.append):
        time.sleep(1.2)
    assert shown == []


def test_a_benchmark_trains_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), ["street_image,lat,lon,heading_deg,aerial_image"]
    for number in range(40):
        for side, shape in (("street", (32, 64, 3)), ("aerial", (64, 64, 3))):
            Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(tmp_path / f"{side}{number}.png")
        rows.append(f"street{number}.png,59.9,{10.7 + number / 1000},0,aerial{number}.png")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    out = tmp_path / "run"
    asked = ["train", "--benchmark", "manifest", "--root", str(tmp_path / "manifest.csv"), "--out", str(out)]
    sizes = ["--epochs", "0.2", "--batch", "8", "--patch-px", "64", "--canvas-px", "32x128"]
    done = CliRunner().invoke(build_app(), [*asked, *sizes])
    assert done.exit_code == 0, done.output
    checkpoint = load_checkpoint(out)
    assert checkpoint.model.config.canvas.width_px == 128
    assert checkpoint.provenance["data"][0]["images"] == 40
    assert checkpoint.provenance["validation"]["queries"] == 2
    assert not checkpoint.calibration.fitted
    (tmp_path / "manifest.csv").write_text("\n".join(rows[:-1]))
    with pytest.raises(BadPairs, match="fresh --out"):
        CliRunner().invoke(build_app(), [*asked, *sizes], catch_exceptions=False)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([], "either folders"),
        (["--benchmark", "cvusa"], "without --root"),
        (["--benchmark", "cvusa", "--root", "x", "--val", "y"], "held out"),
        (["city", "--canvas-px", "64"], "height and width"),
    ],
)
def test_options_that_do_not_fit_are_refused(asked: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=told):
        CliRunner().invoke(build_app(), ["train", *asked, "--out", str(tmp_path)], catch_exceptions=False)
