"""`clnet adapt`: unlabelled images in, a checkpoint with statistics of theirs out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from typer.testing import CliRunner, Result

from cli.errors import BadOption
from cli.main import build_app
from clnet_model.checkpoint import load_checkpoint, save_checkpoint
from clnet_model.errors import BadPairs
from clnet_model.model import BackboneConfig, CLNet, CLNetConfig
from clnet_model.preprocess import CanvasSpec
from workers.errors import BadManifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random network, a textured sheet of 200 m and forty panoramas, of which one is damaged."""
    root, dice = tmp_path_factory.mktemp("town"), np.random.default_rng(0)
    config = CLNetConfig(
        backbone=BackboneConfig(hidden_sizes=(8, 16, 24), depths=(1, 1, 1)),
        canvas=CanvasSpec(height_px=32, width_px=128),
        patch_px=64,
        token_dim=16,
        latent_azimuths=16,
        latent_ranges=2,
        azimuth_channels=4,
    )
    save_checkpoint(root / "tiny", CLNet(config), provenance={"seed": 0})
    coarse = dice.integers(1, 256, (3, 50, 50), np.uint8)
    with rasterio.open(
        root / "sheet.tif", "w", driver="GTiff", width=400, height=400, count=3, dtype="uint8",
        crs="EPSG:2056", transform=from_origin(2_642_000, 1_130_000, 0.5, 0.5),
    ) as file:  # fmt: skip
        file.write(coarse.repeat(8, axis=1).repeat(8, axis=2))
    (root / "streets").mkdir()
    for number in range(40):
        small = dice.integers(0, 256, (8, 16, 3), np.uint8)
        Image.fromarray(small).resize((128, 64)).save(root / "streets" / f"{number}.jpg")
    (root / "streets" / "7.jpg").write_bytes(b"no image")
    return root


def run(folder: Path, images: str, out: str, *options: str) -> Result:
    given = [folder / images, folder / "sheet.tif", "--checkpoint", folder / "tiny", "--out", folder / out]
    return CliRunner().invoke(build_app(), ["adapt", *map(str, given), *options])


def test_a_checkpoint_is_made_of_images_without_labels(folder: Path) -> None:
    result = run(folder, "streets", "adapted", "--count", "36")
    assert result.exit_code == 0, result.output
    before, after = load_checkpoint(folder / "tiny"), load_checkpoint(folder / "adapted")
    assert before.digest != after.digest
    assert after.digest in result.output
    assert not after.calibration.fitted
    about = json.loads((folder / "adapted" / "provenance.json").read_text())
    assert about["adapted_from"] == before.digest
    assert (about["street_images"], about["patches"]) in {(35, 36), (36, 36)}


def test_another_checkpoint_is_not_written_over(folder: Path) -> None:
    before = load_checkpoint(folder / "tiny").digest
    assert isinstance(run(folder, "streets", "tiny").exception, BadOption)
    assert load_checkpoint(folder / "tiny").digest == before


@pytest.mark.parametrize(
    ("images", "error"), [("nothing.csv", BadManifest), ("sheet.tif", BadManifest), ("few", BadPairs)]
)
def test_images_that_cannot_do_are_refused(folder: Path, images: str, error: type[Exception]) -> None:
    (folder / "few").mkdir(exist_ok=True)
    Image.new("RGB", (128, 64)).save(folder / "few" / "0.jpg")
    assert isinstance(run(folder, images, "refused").exception, error)
    assert not (folder / "refused").exists()
