"""Translates cameras between the wire and our values; `clnet_model.lens` knows what intrinsics may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TypeVar

from google.protobuf.message import Message

from clnet_model.lens import BrownConrady, Distortion, KannalaBrandt, Lens
from serving.errors import InvalidRequest
from serving.locate import Query
from serving.pb import image_pb2

REQUIRED = ("width_px", "height_px", "fx_px", "fy_px", "cx_px", "cy_px")

Model = TypeVar("Model", BrownConrady, KannalaBrandt)
DistortionMessage = image_pb2.BrownConradyDistortion | image_pb2.KannalaBrandtDistortion


@dataclass(frozen=True, kw_only=True, slots=True)
class Optics:
    """What a message says about the camera, as `Query` has it."""

    hfov_deg: float | None = None
    lens: Lens | None = None
    pitch_deg: float = 0.0
    roll_deg: float = 0.0


def optics_from(image: image_pb2.StreetImage) -> Optics:
    """The camera of an image.

    Raises:
        InvalidRequest: a field is missing or no number.
        clnet_model.errors.BadLens: intrinsics that no camera has.
    """
    if not image.data:
        raise InvalidRequest("image.data", "is empty", "send a JPEG, PNG or WebP file")
    match image.WhichOneof("camera"):
        case "panorama":
            return Optics()
        case "perspective":
            return _perspective_from(image.perspective)
        case "lens":
            camera = image.lens
            return Optics(lens=_lens_from(camera), pitch_deg=camera.pitch_deg, roll_deg=camera.roll_deg)
        case _:
            raise InvalidRequest(
                "image.camera", "is unset", "say whether it is a panorama, a perspective photo or a lens's"
            )


def image_message(data: bytes, query: Query) -> image_pb2.StreetImage:
    """An encoded image with the camera of its query."""
    if query.lens is not None:
        return image_pb2.StreetImage(data=data, lens=_lens_message(query.lens, query))
    if query.hfov_deg is None:
        return image_pb2.StreetImage(data=data, panorama=image_pb2.PanoramaCamera())
    camera = image_pb2.PerspectiveCamera(hfov_deg=query.hfov_deg, pitch_deg=query.pitch_deg)
    return image_pb2.StreetImage(data=data, perspective=camera)


def _perspective_from(camera: image_pb2.PerspectiveCamera) -> Optics:
    if not camera.HasField("hfov_deg"):
        raise InvalidRequest(
            "image.perspective.hfov_deg", "is unset", "give the horizontal field of view in degrees"
        )
    for name in ("hfov_deg", "pitch_deg"):
        if not math.isfinite(getattr(camera, name)):
            raise InvalidRequest(f"image.perspective.{name}", f"is {getattr(camera, name)}", "give degrees")
    return Optics(hfov_deg=camera.hfov_deg, pitch_deg=camera.pitch_deg)


def _lens_from(camera: image_pb2.LensCamera) -> Lens:
    _check_given(camera)
    return Lens(
        width_px=camera.width_px,
        height_px=camera.height_px,
        fx_px=camera.fx_px,
        fy_px=camera.fy_px,
        cx_px=camera.cx_px,
        cy_px=camera.cy_px,
        distortion=_distortion_from(camera),
        max_angle_deg=camera.max_angle_deg if camera.HasField("max_angle_deg") else None,
    )


def _check_given(camera: Message) -> None:
    for name in REQUIRED:
        if not camera.HasField(name):
            raise InvalidRequest(
                f"image.lens.{name}", "is unset", "give pixels; without a calibration send image.perspective"
            )


def _distortion_from(camera: image_pb2.LensCamera) -> Distortion:
    match camera.WhichOneof("distortion"):
        case "kannala_brandt":
            return _coefficients(KannalaBrandt, camera.kannala_brandt)
        case "brown_conrady":
            return _coefficients(BrownConrady, camera.brown_conrady)
        case _:
            return BrownConrady()


def _coefficients(kind: type[Model], message: DistortionMessage) -> Model:
    return kind(**{each.name: getattr(message, each.name) for each in fields(kind)})


def _lens_message(lens: Lens, query: Query) -> image_pb2.LensCamera:
    model = lens.distortion
    kind = {
        BrownConrady.NAME: image_pb2.BrownConradyDistortion,
        KannalaBrandt.NAME: image_pb2.KannalaBrandtDistortion,
    }[model.NAME]
    coefficients = {each.name: getattr(model, each.name) for each in fields(model)}
    camera = image_pb2.LensCamera(
        **{name: getattr(lens, name) for name in REQUIRED},
        max_angle_deg=lens.max_angle_deg,
        pitch_deg=query.pitch_deg,
        roll_deg=query.roll_deg,
    )
    getattr(camera, model.NAME).CopyFrom(kind(**coefficients))
    return camera
