"""Small files replaced whole, and room on the disk.

A file is written beside its place, brought to the disk and renamed, so a killed process, a power cut or a
full disk leaves the old content or the new one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spatial_index.errors import SpatialIndexError, StoreFull, StoreUnavailable


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: it holds something else.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a file; it is on the disk when this returns."""
    draft = path.with_name(f".{path.name}.new")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse what the disk may have no room for.

    The engine writes through memory maps of sparse files: on a full disk the kernel ends the process
    (SIGBUS), with no error to catch. So room is looked for first.

    Raises:
        StoreFull: fewer than `needed_bytes` are free.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        reason = f"{free_bytes / 1e6:,.0f} MB are free, this step may need {needed_bytes / 1e6:,.0f} MB"
        raise StoreFull(str(folder), reason)


def disk_error(place: str, error: OSError) -> SpatialIndexError:
    """What the system says about a file, as one of ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(place, str(error))
    return StoreUnavailable(place, str(error), "check the disk and the folder's permissions")
