"""Real sheets (swisstopo SWISSIMAGE, EPSG:2056, 0.2 m): patches show the ground they claim to show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiling.contact_sheet import choose, raw_square, write_contact_sheet
from tiling.coverage import area_km2
from tiling.grid import GridSpec, patches_over
from tiling.ortho import Ortho, open_ortho

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def brig(data_folder: Path) -> Ortho:
    folder = data_folder / "brig_ortho"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return open_ortho([folder])


def test_the_twelve_sheets_make_one_area(brig: Ortho) -> None:
    assert len(brig.sheets) == 12
    assert brig.footprint.geom_type == "Polygon"
    assert area_km2(brig.footprint) == pytest.approx(12.0, rel=0.002)
    assert sum(1 for _ in patches_over(brig.footprint, GridSpec())) == pytest.approx(12e6 / 26.4**2, rel=0.01)


def test_patches_match_an_unwarped_reading_of_the_sheet(brig: Ortho) -> None:
    size_px = 128
    matched = 0
    for image in choose(brig, brig.footprint, GridSpec(), count=12, size_px=size_px):
        assert image.sheet is not None
        raw = raw_square(image.sheet, image.patch)
        if (raw.max(axis=2) == 0).mean() > 0.01:
            continue  # reaches over the border of that sheet
        small = Image.fromarray(raw).resize((size_px, size_px), Image.Resampling.BOX)
        assert shift_between(image.pixels, np.asarray(small)) <= 1.0
        matched += 1
    assert matched >= 6


def shift_between(one: np.ndarray, other: np.ndarray) -> float:
    """Displacement in pixels between two pictures (phase correlation of the grey values)."""
    grey = [picture.astype(float).mean(axis=2) for picture in (one, other)]
    window = np.outer(*[np.hanning(side) for side in grey[0].shape])
    first, second = (np.fft.fft2((picture - picture.mean()) * window) for picture in grey)
    cross = first * second.conj()
    peak = np.fft.ifft2(cross / np.maximum(np.abs(cross), 1e-9)).real
    row, column = np.unravel_index(peak.argmax(), peak.shape)
    height, width = peak.shape
    row, column = (row + height // 2) % height - height // 2, (column + width // 2) % width - width // 2
    return float(np.hypot(row, column))


def test_contact_sheet_is_written(brig: Ortho, tmp_path: Path) -> None:
    out = tmp_path / "contact.png"
    write_contact_sheet(out, brig, brig.footprint, GridSpec(), patches=4)
    with Image.open(out) as picture:
        assert picture.width > 600
