"""Reads image files from disks, web servers and object stores; several at a time, since each is a wait."""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

MOST_BYTES = 20 * 1024**2
TIMEOUT_S = 30.0
AT_ONCE = 8


def fetch_all(places: Sequence[str]) -> list[bytes | str]:
    """The files' bytes, or what went wrong with each."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(fetch, places))


def fetch(place: str) -> bytes | str:
    """A file's bytes, or what went wrong. `place`: a path, or a URL (http, https, s3, gs)."""
    try:
        data = _read(place)
    except (OSError, ValueError, HTTPException, pa.ArrowException) as exc:  # URLError is an OSError
        return " ".join(str(exc).split()) or type(exc).__name__
    return data if len(data) <= MOST_BYTES else f"larger than {MOST_BYTES:,} bytes"


def stamp_of(place: str) -> str | None:
    """Size and time of change (ns) of a file on a disk, which differ once it is replaced; None: not known."""
    if "://" in place:
        return None
    try:
        found = Path(place).stat()
    except (OSError, ValueError):
        return None
    return f"{found.st_size} {found.st_mtime_ns}"


def _read(place: str) -> bytes:
    scheme = place.partition("://")[0] if "://" in place else ""
    if not scheme:
        with Path(place).open("rb") as file:
            return file.read(MOST_BYTES + 1)
    if scheme in {"http", "https"}:
        with urllib.request.urlopen(place, timeout=TIMEOUT_S) as answer:
            return bytes(answer.read(MOST_BYTES + 1))
    if scheme not in {"s3", "gs", "file"}:
        raise ValueError(f"no way to read {scheme}://")
    files, path = pafs.FileSystem.from_uri(place)
    with files.open_input_stream(path) as stream:
        return bytes(stream.read(MOST_BYTES + 1))
