"""Checksums of a promoted generation's files, taken at promotion and compared before they are used again.

A promoted generation is frozen, so its files must stay what they were. The engine itself (qdrant-edge 0.9)
loads most damaged files without a word: overwritten vectors gave scores of 1e38, others made it panic. So it
never sees a file whose content has changed.

It writes small files anew as it loads them, with the same content, each in a folder beside from which it is
then renamed; killed in between, it leaves that folder behind. What lies in there was never part of anything.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from pathlib import Path, PurePath

from spatial_index.errors import DamagedStore
from spatial_index.files import read_json, write_json

FORMAT = 1
LEFTOVER = ".atomicwrite"  # and six letters: the engine's unfinished files
_BLOCK = 1 << 16
_ZEROS = bytes(_BLOCK)


def write_seal(path: Path, folder: Path, engine: str) -> None:
    """Note in `path` what all files below `folder` hold, and the engine that wrote them."""
    write_json(path, {"format": FORMAT, "engine": engine, "files": _checksums(folder)})


def check_seal(path: Path, folder: Path, engine: str) -> bool:
    """Whether the files below `folder` are proven to be what was sealed.

    False where there is nothing to compare with: no seal yet, or one of another engine, which may have left
    files that this one rewrites as it loads them.

    Raises:
        DamagedStore: a file is gone, new, or holds something else; names the first.
    """
    if not path.exists():
        return False
    try:
        seal = read_json(path)
        if (seal["format"], seal["engine"]) != (FORMAT, engine):
            return False
        sealed = {name: crc for name, crc in seal["files"].items() if not _is_leftover(PurePath(name))}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as exc:
        raise DamagedStore(str(path), f"unreadable checksums ({exc})") from exc
    found = _checksums(folder)
    for name in sorted(sealed.keys() | found.keys()):
        if name not in found:
            raise DamagedStore(str(folder / name), "the file is missing")
        if sealed.get(name) != found[name]:
            raise DamagedStore(str(folder / name), "its content is not what was promoted")
    return True


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed engine left unfinished, as far as the disk lets us."""
    for path in list(folder.rglob(f"{LEFTOVER}*")):
        shutil.rmtree(path, ignore_errors=True)


def _is_leftover(name: PurePath) -> bool:
    return any(part.startswith(LEFTOVER) for part in name.parts)


def _checksums(folder: Path) -> dict[str, int]:
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {name.as_posix(): _checksum(path) for name, path in files.items() if not _is_leftover(name)}


def _checksum(path: Path) -> int:
    """CRC-32 of a file's size and of its blocks that are not all zero; holes in sparse files cost nothing."""
    with path.open("rb") as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        crc, offset = size & 0xFFFFFFFF, 0
        while (offset := _next_data(fd, offset, size)) < size:
            start = offset - offset % _BLOCK
            block = os.pread(fd, _BLOCK, start)
            if not block:  # it was cut just now
                break
            if block != _ZEROS[: len(block)]:
                crc = zlib.crc32(block, zlib.crc32(start.to_bytes(8, "little"), crc))
            offset = start + len(block)
    return crc


def _next_data(fd: int, offset: int, size: int) -> int:
    """Where the next byte that is not in a hole lies, at `offset` or after it; `size` if there is none."""
    if offset >= size or not hasattr(os, "SEEK_DATA"):
        return offset
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as exc:
        return size if exc.errno == errno.ENXIO else offset  # others: a file system that knows no holes
