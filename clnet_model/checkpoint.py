"""Checkpoint folders: weights.safetensors, config.json (network, calibration), provenance.json (how it
came about).

The digest names what vectors mean: sha256 over the weights file and the network's settings. Calibration and
provenance are outside it, because neither changes a vector.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from clnet_model.calibration import Calibration, ViewCalibration
from clnet_model.errors import BadCheckpoint, ModelError
from clnet_model.model import BackboneConfig, CLNet, CLNetConfig
from clnet_model.preprocess import CanvasSpec

FORMAT = 3
SHIPPED = Path(__file__).parent / "checkpoints" / "clnet-photo-s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A loaded checkpoint: the network in evaluation mode and what is known about it."""

    model: CLNet
    calibration: Calibration
    digest: str
    provenance: Mapping[str, Any]


def save_checkpoint(
    folder: Path, model: CLNet, *, calibration: Calibration | None = None, provenance: Mapping[str, Any]
) -> str:
    """Write the folder and return the digest.

    Learned weights are stored as float16 (half the size, same ranking), running statistics as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    learned = {name for name, _ in model.named_parameters()}
    weights = {
        name: (value.detach().half() if name in learned else value.detach()).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "weights.safetensors")
    _write_config(folder, model.config, calibration or Calibration())
    _write_json(folder / "provenance.json", provenance)
    return digest_of(folder)


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Replace the calibration of a checkpoint; its digest stays."""
    checkpoint = load_checkpoint(folder)
    _write_config(folder, checkpoint.model.config, calibration)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint folder. The digest is of the very bytes that were loaded.

    Raises:
        BadCheckpoint: a file is missing or damaged, or the format or the weights do not fit the
        configuration.
    """
    about = _read_json(folder / "config.json")
    if about.get("format") != FORMAT:
        raise BadCheckpoint(
            f"{folder} has format {about.get('format')}, this version reads {FORMAT}; train it anew"
        )
    try:
        model = CLNet(model_config_from(about["model"]))
        calibration = _calibration_from(about["calibration"])
        data = (folder / "weights.safetensors").read_bytes()
        model.load_state_dict(load(data))  # copies into float32 parameters
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, ModelError) as error:
        summary = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadCheckpoint(
            f"{folder} cannot be loaded: {summary}; restore the folder or train again"
        ) from error
    if not all(torch.isfinite(value).all() for value in model.parameters()):
        raise BadCheckpoint(f"{folder} holds weights that are not finite; restore the folder or train again")
    return Checkpoint(
        model=model.eval(),
        calibration=calibration,
        digest=_digest(data, about),
        provenance=_read_json(folder / "provenance.json"),
    )


def digest_of(folder: Path) -> str:
    """First 16 hex digits of the sha256 over the weights file and the network's settings."""
    about = _read_json(folder / "config.json")
    try:
        data = (folder / "weights.safetensors").read_bytes()
    except OSError as error:
        raise BadCheckpoint(
            f"{folder} holds no weights.safetensors; give the folder of a checkpoint"
        ) from error
    return _digest(data, about)


def model_config_from(values: Mapping[str, Any]) -> CLNetConfig:
    """Rebuild the network's settings from JSON; unknown fields raise TypeError."""
    fields = dict(values)
    backbone: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in fields.pop("backbone").items()
    }
    canvas = CanvasSpec(**fields.pop("canvas"))
    return CLNetConfig(backbone=BackboneConfig(**backbone), canvas=canvas, **fields)


def software_versions() -> dict[str, str]:
    """Versions that a run's numbers depend on."""
    packages = ("torch", "transformers", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def git_commit() -> str | None:
    """Commit of the source tree, or None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _digest(weights: bytes, about: Mapping[str, Any]) -> str:
    sha = hashlib.sha256(weights)
    sha.update(json.dumps(about.get("model"), sort_keys=True).encode())
    return sha.hexdigest()[:16]


def _calibration_from(values: Mapping[str, Any]) -> Calibration:
    fields = dict(values)
    views = tuple(ViewCalibration(**view) for view in fields.pop("views"))
    return Calibration(views=views, **fields)


def _write_config(folder: Path, config: CLNetConfig, calibration: Calibration) -> None:
    _write_json(
        folder / "config.json",
        {"format": FORMAT, "model": asdict(config), "calibration": asdict(calibration)},
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise BadCheckpoint(
            f"{path.parent} holds no {path.name}; give a checkpoint's folder or make one with `clnet train`"
        ) from error
    except ValueError as error:
        raise BadCheckpoint(f"{path} is not JSON ({error}); restore the folder or train again") from error
    if not isinstance(found, dict):
        raise BadCheckpoint(f"{path} is not a JSON object; restore the folder or train again")
    return found
