"""The camera that the options of `clnet locate` describe, and the calibration files that they may name.

Files are JSON in one of two layouts. What OpenCV and ROS write, principal points counted from the centre of
the first pixel:

    {"image_width": 1920, "image_height": 1080, "distortion_model": "plumb_bob",
     "camera_matrix": [[1130, 0, 955], [0, 1130, 541], [0, 0, 1]],
     "distortion_coefficients": [-0.31, 0.12, 0.0002, -0.0004, -0.02]}

What COLMAP calls a camera, principal points counted from the edge of the image:

    {"model": "OPENCV_FISHEYE", "width": 1280, "height": 960,
     "params": [350, 350, 641.5, 478.2, -0.01, 0.002, -0.001, 0.0001]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import BadOption

if TYPE_CHECKING:
    from clnet_model.lens import Distortion, Lens
    from serving.camera_messages import Optics

PANORAMA_ASPECT = 1.9  # a full panorama is 2:1, its horizontal band is wider still
OPTION = "--intrinsics"
FISHEYES = ("equidistant", "fisheye")
ORDINARY = ("plumb_bob", "rational_polynomial", "")

# https://colmap.github.io/cameras.html; f stands for both focal lengths.
COLMAP_PARAMS: Mapping[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "SIMPLE_RADIAL_FISHEYE": ("f", "cx", "cy", "k1"),
    "RADIAL_FISHEYE": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraOptions:
    """What is known about the camera."""

    hfov_deg: float | None = None
    panorama: bool = False
    intrinsics: Path | None = None
    pitch_deg: float = 0.0
    roll_deg: float = 0.0


def optics_of(data: bytes, options: CameraOptions) -> Optics:
    """The camera of the image in `data`.

    Raises:
        BadOption: options that contradict each other.
        serving.errors.InvalidRequest: the camera is unknown, or its file cannot be read.
        clnet_model.errors.BadLens: intrinsics that no camera has.
    """
    from serving.camera_messages import Optics

    if options.intrinsics is None:
        if options.roll_deg:
            raise BadOption("--roll", f"goes with {OPTION} only")
        if options.panorama and options.hfov_deg is not None:
            raise BadOption("--hfov", "does not go with --panorama, which sees the whole circle")
        seen_deg = None if options.panorama else field_of_view(data, options.hfov_deg)
        if seen_deg is None and options.pitch_deg:
            raise BadOption("--pitch", "goes with photos only; send a panorama whose horizon is level")
        return Optics(hfov_deg=seen_deg, pitch_deg=options.pitch_deg)
    if options.panorama or options.hfov_deg is not None:
        raise BadOption(OPTION, "goes with neither --hfov nor --panorama; it says all that they say")
    return Optics(lens=read_lens(options.intrinsics), pitch_deg=options.pitch_deg, roll_deg=options.roll_deg)


def field_of_view(data: bytes, hfov_deg: float | None) -> float | None:
    """The field of view given, or None for an image that has the shape of a panorama.

    Raises:
        serving.errors.InvalidRequest: neither.
    """
    from serving.errors import InvalidRequest
    from serving.exif import size_of

    if hfov_deg is not None:
        return hfov_deg
    width_px, height_px = size_of(data)
    if width_px / height_px < PANORAMA_ASPECT:
        raise InvalidRequest(
            "--hfov",
            f"is unset and {width_px} x {height_px} px is not the shape of a panorama",
            "give the photo's horizontal field of view (phones have about 65), or say --panorama",
        )
    return None


def read_lens(path: Path) -> Lens:
    """The intrinsics in a calibration file.

    Raises:
        serving.errors.InvalidRequest: it cannot be read, or is in another layout.
        clnet_model.errors.BadLens: intrinsics that no camera has.
    """
    from serving.errors import InvalidRequest

    try:
        return lens_from(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidRequest(
            OPTION, f"cannot be read from {path} ({error.strerror})", "name a file"
        ) from error
    except KeyError as error:
        raise InvalidRequest(OPTION, f"names {path}, which lacks {error}", "see docs/serving.md") from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidRequest(
            OPTION, f"names {path}, which is no calibration ({error})", "see docs/serving.md"
        ) from error


def lens_from(document: Mapping[str, Any]) -> Lens:
    """The intrinsics in a parsed calibration file.

    Raises:
        KeyError, TypeError, ValueError: it is in another layout.
        clnet_model.errors.BadLens: intrinsics that no camera has.
    """
    return _from_colmap(document) if "params" in document else _from_opencv(document)


def _from_opencv(document: Mapping[str, Any]) -> Lens:
    from clnet_model.lens import BrownConrady, KannalaBrandt, Lens

    matrix = _flat(document["camera_matrix"])
    coefficients = _flat(document.get("distortion_coefficients", document.get("dist_coeffs", ())))
    model = str(document.get("distortion_model", "fisheye" if document.get("fisheye_model") else ""))
    if len(matrix) != 9 or matrix[1]:
        raise ValueError("camera_matrix must have 3 x 3 numbers and no skew")
    if model not in FISHEYES + ORDINARY:
        raise ValueError(f"distortion_model is {model!r}, not one of {', '.join(FISHEYES + ORDINARY[:-1])}")
    names = ("k1", "k2", "k3", "k4") if model in FISHEYES else ("k1", "k2", "p1", "p2", "k3")
    if any(coefficients[len(names) :]):
        raise ValueError(f"of distortion_coefficients only the first {len(names)} may differ from 0")
    kind: type[Distortion] = KannalaBrandt if model in FISHEYES else BrownConrady
    return Lens(
        width_px=int(document["image_width"]),
        height_px=int(document["image_height"]),
        fx_px=matrix[0],
        fy_px=matrix[4],
        cx_px=matrix[2] + 0.5,
        cy_px=matrix[5] + 0.5,
        distortion=kind(**dict(zip(names, coefficients, strict=False))),
        max_angle_deg=_max_angle_deg(document),
    )


def _from_colmap(document: Mapping[str, Any]) -> Lens:
    from clnet_model.lens import BrownConrady, KannalaBrandt, Lens

    model, params = str(document["model"]), _flat(document["params"])
    if model not in COLMAP_PARAMS:
        raise ValueError(f"model is {model!r}, not one of {', '.join(COLMAP_PARAMS)}")
    names = COLMAP_PARAMS[model]
    if len(params) != len(names):
        raise ValueError(f"params must be {', '.join(names)}")
    values = dict(zip(names, params, strict=True))
    kind: type[Distortion] = KannalaBrandt if model.endswith("FISHEYE") else BrownConrady
    return Lens(
        width_px=int(document["width"]),
        height_px=int(document["height"]),
        fx_px=values["fx"] if "fx" in values else values["f"],
        fy_px=values["fy"] if "fy" in values else values["f"],
        cx_px=values["cx"],
        cy_px=values["cy"],
        distortion=kind(**{name: value for name, value in values.items() if name[0] in "kp"}),
        max_angle_deg=_max_angle_deg(document),
    )


def _max_angle_deg(document: Mapping[str, Any]) -> float | None:
    value = document.get("max_angle_deg")
    return None if value is None else float(value)


def _flat(value: Any) -> list[float]:
    """Numbers of a list, a list of rows, or a matrix as OpenCV and ROS write it (`{"data": […]}`)."""
    match value:
        case {"data": inner}:
            return _flat(inner)
        case list() | tuple():
            return [number for each in value for number in _flat(each)]
        case _:
            return [float(value)]
