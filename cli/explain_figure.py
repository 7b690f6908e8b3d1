"""The picture of `clnet explain`: the street image, the evidence by direction, and where each looks."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from clnet_model.explain import Explanation
    from clnet_model.preprocess import Pixels

WIDTH_PX = 1024
PLAN_PX = 448
BARS_PX = 96
GAP_PX = 12
DIRECTIONS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
PAPER, INK, FOR, AGAINST = (255, 255, 255), (40, 40, 40), (46, 125, 50), (198, 40, 40)
Floats = NDArray[np.float32]


def draw(canvas: Pixels, patch: Pixels, found: Explanation) -> Image.Image:
    """One sheet: canvas (H, W, 4), patch (S, S, 3) and what the network makes of the pair."""
    street = _street(canvas, found)
    bars = _bars(found)
    plan = _plan(patch, found)
    sectors = _sectors(patch, found)
    rows = [
        ("Street image, north in the middle; a colour for each direction", street),
        (f"Evidence by direction; together the similarity, {found.score:.3f}", bars),
        ("Patch, north up: in the colour of the direction that attends there; by direction", plan),
    ]
    height = sum(image.height + 2 * GAP_PX + 16 for _, image in rows) + GAP_PX
    sheet = Image.new("RGB", (WIDTH_PX + 2 * GAP_PX, height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    top = GAP_PX
    for title, image in rows:
        pen.text((GAP_PX, top), title, fill=INK, font=font)
        top += 16 + GAP_PX
        sheet.paste(image, (GAP_PX, top))
        if image is plan:
            sheet.paste(sectors, (2 * GAP_PX + PLAN_PX, top))
        top += image.height + GAP_PX
    return sheet


def _street(canvas: Pixels, found: Explanation) -> Image.Image:
    """The canvas under a band of its columns' colours."""
    seen = canvas[..., 3:] / 255.0
    rgb = (canvas[..., :3] * seen + 225 * (1 - seen)).astype(np.uint8)
    scale = WIDTH_PX / canvas.shape[1]
    image = Image.fromarray(rgb).resize((WIDTH_PX, round(canvas.shape[0] * scale)), Image.Resampling.LANCZOS)
    band = np.repeat(_hues(len(found.attention))[None], 12, axis=0)
    ribbon = Image.fromarray(band).resize((WIDTH_PX, 12), Image.Resampling.NEAREST)
    both = Image.new("RGB", (WIDTH_PX, image.height + 12), PAPER)
    both.paste(ribbon, (0, 0))
    both.paste(image, (0, 12))
    return both


def _bars(found: Explanation) -> Image.Image:
    """One bar a direction, upward for the pair and downward against it."""
    image = Image.new("RGB", (WIDTH_PX, BARS_PX), PAPER)
    pen = ImageDraw.Draw(image)
    greatest = max(float(np.abs(found.evidence).max()), 1e-6)
    lowest = min(0.0, float(found.evidence.min()))
    base = BARS_PX - 2 + (lowest / (greatest - lowest)) * (BARS_PX - 4)
    unit = (BARS_PX - 4) / (greatest - lowest)
    step = WIDTH_PX / len(found.evidence)
    for number, value in enumerate(found.evidence.tolist()):
        ends = sorted((base, base - value * unit))
        box = (number * step + 2, ends[0], (number + 1) * step - 2, ends[1])
        pen.rectangle(box, fill=FOR if value >= 0 else AGAINST)
    pen.line((0, base, WIDTH_PX, base), fill=INK)
    return image


def _plan(patch: Pixels, found: Explanation) -> Image.Image:
    """The patch in grey; each place in the colour of the direction that attends to it most."""
    strongest = found.attention.argmax(axis=0)
    colours = _hues(len(found.attention))[strongest]
    return _marked(_overlaid(patch, colours, found.attention.max(axis=0)), PLAN_PX)


def _sectors(patch: Pixels, found: Explanation) -> Image.Image:
    """Eight small plans, one for each eighth of the circle."""
    columns = len(found.attention)
    side = (WIDTH_PX - PLAN_PX - GAP_PX - 3 * GAP_PX) // 4
    sheet = Image.new("RGB", (WIDTH_PX - PLAN_PX - GAP_PX, PLAN_PX), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    hues = _hues(columns)
    for number, name in enumerate(DIRECTIONS):
        middle = columns / 2 + number * columns / 8  # column of this azimuth; the middle one is north
        near = [int(middle + step) % columns for step in range(-columns // 16, columns // 16)]
        heat = found.attention[near].mean(axis=0)
        colour = hues[int(middle) % columns]
        tinted = _overlaid(patch, np.broadcast_to(colour, patch.shape), heat / max(float(heat.max()), 1e-6))
        left, top = (number % 4) * (side + GAP_PX), (number // 4) * (side + 2 * GAP_PX + 18)
        pen.text((left, top), name, fill=tuple(int(v) for v in colour), font=font)
        sheet.paste(_marked(tinted, side), (left, top + 18))
    return sheet


def _overlaid(patch: Pixels, colours: NDArray[np.uint8], strength: Floats) -> Pixels:
    """Colours (S, S, 3) over the patch in grey, as strong as `strength` (S, S) in 0..1."""
    grey = patch.mean(axis=2, keepdims=True) * 0.75 + 40
    share = (0.65 * np.clip(strength, 0, 1))[..., None]
    mixed: Pixels = (grey * (1 - share) + colours * share).clip(0, 255).astype(np.uint8)
    return mixed


def _marked(plan: Pixels, side_px: int) -> Image.Image:
    """Enlarged, with a cross where the camera would stand."""
    image = Image.fromarray(plan).resize((side_px, side_px), Image.Resampling.BICUBIC)
    pen, middle, arm = ImageDraw.Draw(image), side_px / 2, max(4, side_px // 40)
    for ends in ((-arm, 0, arm, 0), (0, -arm, 0, arm)):
        pen.line(
            [middle + ends[0], middle + ends[1], middle + ends[2], middle + ends[3]], fill=PAPER, width=2
        )
    return image


def _hues(count: int) -> NDArray[np.uint8]:
    """A colour (count, 3) for each column, once around the circle."""
    rgb = [colorsys.hsv_to_rgb((number + 0.5) / count, 0.85, 0.95) for number in range(count)]
    return (255 * np.array(rgb)).astype(np.uint8)
