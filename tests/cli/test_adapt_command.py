"""`clnet adapt`: unlabelled images in, a checkpoint with statistics of theirs out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from cli.errors import BadOption
from cli.main import build_app
from clnet_model.checkpoint import load_checkpoint
from clnet_model.errors import BadPairs
from workers.errors import BadManifest


@pytest.fixture(scope="module")
def folder(town: Path) -> Path:
    """The town with forty panoramas, of which one is damaged."""
    dice = np.random.default_rng(0)
    (town / "streets").mkdir()
    for number in range(40):
        small = dice.integers(0, 256, (8, 16, 3), np.uint8)
        Image.fromarray(small).resize((128, 64)).save(town / "streets" / f"{number}.jpg")
    (town / "streets" / "7.jpg").write_bytes(b"no image")
    return town


def run(folder: Path, images: str, out: str, *options: str) -> Result:
    given = [folder / images, folder / "large.tif", "--checkpoint", folder / "tiny", "--out", folder / out]
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
