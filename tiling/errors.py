"""Errors of the tiling room.

TilingError
├── BadGrid              zoom, side or block size outside what the grid supports
├── BadArea              the area to cover is not a polygon in WGS84
├── NoSheets             nothing readable at the given paths
└── SheetError           one file; carries `path`, which may be a URL
    ├── MissingCrs       pixels without a place on Earth
    ├── UnreadableSheet  not a raster, truncated, corrupt, zero area
    └── NotAnOrthophoto  readable, but not imagery that patches can be cut from
"""

from __future__ import annotations


class TilingError(Exception):
    """Base class of everything that `tiling` raises on purpose."""


class BadGrid(TilingError):
    """The grid settings are outside the supported range."""


class BadArea(TilingError):
    """The area is not a polygon within WGS84 bounds."""


class NoSheets(TilingError):
    """There is no usable sheet at the given paths."""


class SheetError(TilingError):
    """One sheet cannot be used; the message names the file, the problem and the remedy."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(path, problem, remedy)
        self.path = path
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[SheetError], tuple[str, str, str]]:
        """Survive the way back from a worker, whatever Ray Data appends to `args` there."""
        return type(self), (self.path, self.problem, self.remedy)

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"


class MissingCrs(SheetError):
    """The sheet does not say where on Earth it lies."""


class UnreadableSheet(SheetError):
    """The sheet cannot be opened or decoded."""


class NotAnOrthophoto(SheetError):
    """The sheet opens, but is not imagery of a usable kind and scale."""
