"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.options import checkpoint_folder
from clnet_model.checkpoint import SHIPPED, load_checkpoint


def test_shipped_checkpoints_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {folder.name for folder in SHIPPED.parent.iterdir() if (folder / "config.json").is_file()}
    assert names == {"clnet-sim-s", "clnet-photo-s"}
    for name in names:
        assert checkpoint_folder(name) == SHIPPED.parent / name
        assert load_checkpoint(checkpoint_folder(name)).calibration.fitted


def test_a_folder_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clnet-sim-s").mkdir()
    assert checkpoint_folder("clnet-sim-s") == Path("clnet-sim-s")
    assert checkpoint_folder("runs/clnet-photo-s") == Path("runs/clnet-photo-s")
    assert checkpoint_folder("unknown") == Path("unknown")
    assert checkpoint_folder("..") == Path("..")
