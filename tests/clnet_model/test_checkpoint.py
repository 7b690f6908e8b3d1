"""Checkpoint folders, the encoder over them, and the digest."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clnet_model.calibration import Calibration
from clnet_model.checkpoint import digest_of, load_checkpoint, save_calibration
from clnet_model.encoder import TorchEncoder, load_encoder
from clnet_model.errors import BadCheckpoint, BadConfig

RNG = np.random.default_rng(0)
CANVASES = RNG.integers(0, 256, (7, 32, 128, 4), dtype=np.uint8)
PATCHES = RNG.integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)


def test_loaded_encoder_gives_unit_float32_vectors(tiny_checkpoint: Path) -> None:
    encoder = load_encoder(tiny_checkpoint)
    for vectors in (encoder.embed_ground(CANVASES), encoder.embed_aerial(PATCHES)):
        assert vectors.shape == (7, encoder.dim)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_batch_size_does_not_change_vectors(tiny_checkpoint: Path) -> None:
    model = load_checkpoint(tiny_checkpoint).model
    one, many = (TorchEncoder(model, digest="x", batch_size=n) for n in (1, 7))
    np.testing.assert_allclose(one.embed_aerial(PATCHES), many.embed_aerial(PATCHES), atol=1e-5)
    assert np.array_equal(many.embed_aerial(PATCHES), many.embed_aerial(PATCHES))


def test_empty_input_gives_empty_output(tiny_checkpoint: Path) -> None:
    encoder = load_encoder(tiny_checkpoint)
    assert encoder.embed_aerial(PATCHES[:0]).shape == (0, encoder.dim)


def test_wrong_image_size_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(BadConfig, match=r"takes uint8 \(N, \(64, 64, 3\)\)"):
        load_encoder(tiny_checkpoint).embed_aerial(PATCHES[:, :32])


def test_calibration_changes_no_digest_and_weights_do(tiny_checkpoint: Path) -> None:
    before = digest_of(tiny_checkpoint)
    save_calibration(tiny_checkpoint, replace(Calibration(), heading_step_deg=10.0, fitted=True))
    checkpoint = load_checkpoint(tiny_checkpoint)
    assert checkpoint.digest == before
    assert checkpoint.calibration.heading_step_deg == 10.0
    weights = tiny_checkpoint / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert digest_of(tiny_checkpoint) != before


def test_the_digest_is_of_the_bytes_that_were_loaded(tiny_checkpoint: Path) -> None:
    """Weights are read once, as from a pipe: a folder that is replaced meanwhile gives no mixture."""
    expected, weights = digest_of(tiny_checkpoint), tiny_checkpoint / "weights.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    os.mkfifo(weights)
    threading.Thread(target=weights.write_bytes, args=(data,), daemon=True).start()
    assert load_checkpoint(tiny_checkpoint).digest == expected


def test_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="clnet train"):
        load_encoder(tmp_path / "nothing")


def test_damaged_weights_are_refused(tiny_checkpoint: Path) -> None:
    weights = tiny_checkpoint / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(BadCheckpoint, match="cannot be loaded"):
        load_checkpoint(tiny_checkpoint)


def test_weights_of_another_network_are_refused(tiny_checkpoint: Path) -> None:
    config = tiny_checkpoint / "config.json"
    about = json.loads(config.read_text())
    about["model"]["token_dim"] = 24
    config.write_text(json.dumps(about))
    with pytest.raises(BadCheckpoint, match="cannot be loaded"):
        load_checkpoint(tiny_checkpoint)


def test_other_format_is_refused(tiny_checkpoint: Path) -> None:
    config = tiny_checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"format": 99}))
    with pytest.raises(BadCheckpoint, match="format 99"):
        load_checkpoint(tiny_checkpoint)


def test_half_precision_on_disk_keeps_vectors(tiny_checkpoint: Path) -> None:
    model = load_checkpoint(tiny_checkpoint).model
    assert all(p.dtype == torch.float32 for p in model.parameters())
