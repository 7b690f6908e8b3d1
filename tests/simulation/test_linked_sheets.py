"""The folder of links to an orthophoto that lies elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulation.errors import BadSurface
from simulation.rasters import link_sheets


def sheet(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(str(path))
    return path


def test_two_sheets_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [sheet(tmp_path / folder / "1.tif") for folder in ("a", "b")]
    with pytest.raises(BadSurface, match=r"a/1\.tif and .*b/1\.tif have one name"):
        link_sheets(tmp_path / "ortho", files)
    assert not (tmp_path / "ortho").exists()


def test_links_of_an_earlier_run_are_replaced(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        link_sheets(tmp_path / "ortho", [sheet(tmp_path / folder / "1.tif")] * 2)
    assert (tmp_path / "ortho" / "1.tif").read_text() == str(tmp_path / "b" / "1.tif")
