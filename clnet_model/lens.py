"""Where a calibrated camera images a ray, and up to which angle from its axis that is known.

Distortion is what OpenCV means by it: `BrownConrady` as in `cv::projectPoints` with five coefficients
(Brown 1966), `KannalaBrandt` as in `cv::fisheye::projectPoints` (Kannala and Brandt 2006). Both are
polynomials that were fitted to the image and fold back somewhere beyond its rim, where two rays get the same
pixel. From there on nothing counts as seen.

Axes are the camera's: right, down, forward. Pixels count from the left and upper edge of the image, so that
the centre of the first one is at 0.5. Knows nothing of headings, canvases or files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from clnet_model.errors import BadLens

Reals = NDArray[np.float64]

SIDES_PX = (16, 100_000)
MIN_HFOV_DEG = 5.0
MAX_ANGLES_DEG = (3.0, 110.0)
MAX_SQUEEZE = 4.0  # between the focal lengths; anamorphic lenses have 2
MIN_SHARE = 0.5  # of the image's width that a distortion must hold for; a wrong one seldom holds for a third
SAMPLES = 8192  # of the angle from the axis: 0.01 to 0.02 degrees apart


@dataclass(frozen=True, kw_only=True, slots=True)
class BrownConrady:
    """Radial k, tangential p, of the image plane at distance 1; all 0 is a pinhole."""

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0

    NAME: ClassVar[str] = "brown_conrady"
    END_DEG: ClassVar[float] = 89.9
    MAX_HFOV_DEG: ClassVar[float] = 170.0
    WIDER: ClassVar[str] = "describe wider lenses by kannala_brandt"

    def bent(self, right: Reals, down: Reals, forward: Reals) -> tuple[Reals, Reals]:
        """Where rays cross the image plane at distance 1, distortion included."""
        x, y = right / forward, down / forward
        square = x * x + y * y
        radial = 1.0 + square * (self.k1 + square * (self.k2 + square * self.k3))
        return (
            x * radial + 2.0 * self.p1 * x * y + self.p2 * (square + 2.0 * x * x),
            y * radial + 2.0 * self.p2 * x * y + self.p1 * (square + 2.0 * y * y),
        )

    def stretch(self, angle_rad: Reals) -> Reals:
        """A lower bound of the eigenvalues of the distortion's Jacobian, which is symmetric. Where it is
        positive for all smaller angles too, no two rays share a point, because the disc is convex (Gale and
        Nikaido 1965)."""
        radius = np.tan(angle_rad)
        square = radius * radius
        along = 1.0 + square * (3.0 * self.k1 + square * (5.0 * self.k2 + square * 7.0 * self.k3))
        across = 1.0 + square * (self.k1 + square * (self.k2 + square * self.k3))
        bound: Reals = np.minimum(along, across) - 6.0 * math.hypot(self.p1, self.p2) * radius
        return bound


@dataclass(frozen=True, kw_only=True, slots=True)
class KannalaBrandt:
    """Distance from the centre as a polynomial of the angle from the axis; all 0 is equidistant."""

    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0

    NAME: ClassVar[str] = "kannala_brandt"
    END_DEG: ClassVar[float] = 179.9
    MAX_HFOV_DEG: ClassVar[float] = 220.0
    WIDER: ClassVar[str] = "say by max_angle_deg where the lens's image circle ends"

    def bent(self, right: Reals, down: Reals, forward: Reals) -> tuple[Reals, Reals]:
        """Where rays are imaged by a lens of focal length 1."""
        off_axis = np.hypot(right, down)
        angle = np.arctan2(off_axis, forward)
        square = angle * angle
        polynomial = self.k1 + square * (self.k2 + square * (self.k3 + square * self.k4))
        scale = angle * (1.0 + square * polynomial) / np.maximum(off_axis, 1e-12)
        return right * scale, down * scale

    def stretch(self, angle_rad: Reals) -> Reals:
        """The slope of the polynomial: rays share points from where it is negative."""
        square = angle_rad * angle_rad
        slope: Reals = 1.0 + square * (
            3.0 * self.k1 + square * (5.0 * self.k2 + square * (7.0 * self.k3 + square * 9.0 * self.k4))
        )
        return slope


Distortion = BrownConrady | KannalaBrandt


@dataclass(frozen=True, kw_only=True, slots=True)
class Lens:
    """Intrinsics of a camera, for images of a stated size.

    Raises:
        BadLens: a value that no camera has; names the field.
    """

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    distortion: Distortion = field(default_factory=BrownConrady)
    max_angle_deg: float | None = None
    """Rays farther from the axis are not imaged, as outside the image circle of a fisheye; None: all are."""

    def __post_init__(self) -> None:
        for check in (_check_numbers, _check_centre, _check_reach, _check_hfov):
            check(self)

    @property
    def fold_rad(self) -> float:
        """Angle from the axis at which the distortion folds back, or its model ends."""
        angles = np.linspace(0.0, math.radians(self.distortion.END_DEG), SAMPLES)
        with np.errstate(all="ignore"):
            folded = ~(self.distortion.stretch(angles) > 0.0)  # not a number is no stretch either
        first = int(folded.argmax()) if folded.any() else SAMPLES
        return float(angles[max(0, first - 1)])

    @property
    def reach_rad(self) -> float:
        """Angle from the axis up to which rays are imaged."""
        given = math.inf if self.max_angle_deg is None else math.radians(self.max_angle_deg)
        return min(self.fold_rad, given)

    @property
    def hfov_deg(self) -> float:
        """Horizontal field of view through the principal point, inside of image and reach."""
        angles = np.linspace(0.0, self.reach_rad, SAMPLES)
        sides = []
        for sign, room_px in ((-1.0, self.cx_px), (1.0, self.width_px - self.cx_px)):
            away_px = self._away_px(angles, sign)
            sides.append(float(np.interp(room_px, away_px, angles)))  # the last one where there is room left
        return math.degrees(sum(sides))

    def pixels(self, right: Reals, down: Reals, forward: Reals) -> tuple[Reals, Reals, NDArray[np.bool_]]:
        """Where rays fall in the image, px from its left and upper edge, and whether they are imaged."""
        angle = np.arctan2(np.hypot(right, down), forward)
        held = angle <= self.reach_rad
        # What is not imaged is looked up on the axis instead, so that nothing overflows.
        with np.errstate(all="ignore"):
            x, y = self.distortion.bent(
                np.where(held, right, 0.0), np.where(held, down, 0.0), np.where(held, forward, 1.0)
            )
            u, v = self.cx_px + self.fx_px * x, self.cy_px + self.fy_px * y
        seen = held & (u >= 0.0) & (u <= self.width_px) & (v >= 0.0) & (v <= self.height_px)
        return np.where(seen, u, self.cx_px), np.where(seen, v, self.cy_px), seen

    def _away_px(self, angles: Reals, sign: float) -> Reals:
        """How far from the principal point level rays fall to one side; grows with the angle."""
        with np.errstate(all="ignore"):
            x, _ = self.distortion.bent(sign * np.sin(angles), np.zeros_like(angles), np.cos(angles))
            return sign * self.fx_px * x


def _check_numbers(lens: Lens) -> None:
    for name in ("width_px", "height_px"):
        value, (least, most) = getattr(lens, name), SIDES_PX
        if not least <= value <= most:
            raise BadLens(
                name, f"is {value}", f"give the image size that the values are for, {least} to {most}"
            )
    for name, value in _numbers(lens):
        if not math.isfinite(value):
            raise BadLens(name, f"is {value}", "give a number")
    for name in ("fx_px", "fy_px"):
        if getattr(lens, name) <= 0.0:
            raise BadLens(name, f"is {getattr(lens, name)}", "give a focal length in pixels, greater than 0")
    if not 1.0 / MAX_SQUEEZE <= lens.fy_px / lens.fx_px <= MAX_SQUEEZE:
        raise BadLens(
            "fy_px",
            f"is {lens.fy_px:g} beside an fx_px of {lens.fx_px:g}",
            "give both focal lengths in pixels; they are nearly the same for nearly every camera",
        )


def _numbers(lens: Lens) -> Iterator[tuple[str, float]]:
    for name in ("fx_px", "fy_px", "cx_px", "cy_px"):
        yield name, getattr(lens, name)
    for each in fields(lens.distortion):
        yield f"{lens.distortion.NAME}.{each.name}", getattr(lens.distortion, each.name)
    if lens.max_angle_deg is not None:
        yield "max_angle_deg", lens.max_angle_deg


def _check_centre(lens: Lens) -> None:
    for name, size_px in (("cx_px", lens.width_px), ("cy_px", lens.height_px)):
        value = getattr(lens, name)
        if not 0.0 < value < size_px:
            raise BadLens(
                name,
                f"is {value:g}, outside of an image of {lens.width_px} x {lens.height_px} px",
                "give the principal point in pixels of the stated image size",
            )


def _check_reach(lens: Lens) -> None:
    """A distortion must hold for most of the image, or it is another lens's."""
    least, most = MAX_ANGLES_DEG
    if lens.max_angle_deg is not None and not least <= lens.max_angle_deg <= most:
        raise BadLens("max_angle_deg", f"is {lens.max_angle_deg:g}", f"give {least:g} to {most:g} degrees")
    fold_rad = lens.fold_rad
    if fold_rad > math.radians(lens.distortion.END_DEG - 0.1):
        return
    room_px = min(lens.cx_px, lens.width_px - lens.cx_px)
    held_px = max(float(lens._away_px(np.array([fold_rad]), sign)[0]) for sign in (-1.0, 1.0))
    if not held_px >= MIN_SHARE * room_px:
        raise BadLens(
            lens.distortion.NAME,
            f"folds the image back {math.degrees(fold_rad):.1f} degrees from the axis, inside of it",
            "check their order, and that they belong to this model, focal length and image size",
        )


def _check_hfov(lens: Lens) -> None:
    hfov_deg, most = lens.hfov_deg, lens.distortion.MAX_HFOV_DEG
    if not hfov_deg >= MIN_HFOV_DEG:
        raise BadLens(
            "fx_px",
            f"is {lens.fx_px:g}, a horizontal field of view of {hfov_deg:.3g} degrees",
            f"give a camera that sees {MIN_HFOV_DEG:g} degrees or more",
        )
    if hfov_deg > most:
        raise BadLens(
            "fx_px",
            f"is {lens.fx_px:g}, a horizontal field of view of {hfov_deg:.1f} degrees",
            f"at most {most:g} can be used; {lens.distortion.WIDER}",
        )
