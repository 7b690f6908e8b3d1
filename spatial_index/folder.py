"""The files of an embedded store: its lock, its generations' meta files, its live pointers.

    <store>/store.json                                   marks the folder as a store
    <store>/lock                                         flock held by the owner process, its pid inside
    <store>/regions/<region>/live.json                   names the live generation, null before the first one;
                                                         replaced by atomic rename
    <store>/regions/<region>/<generation>/meta.json      written last: without it there is no generation
    <store>/regions/<region>/<generation>/seal.json      checksums of the shard, once promoted
    <store>/regions/<region>/<generation>/shard/         the engine's files

Every file is replaced whole (write, fsync, rename, fsync of the folder), so a killed process or a power cut
leaves the old or the new state. Knows nothing of the engine.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from spatial_index.errors import DamagedStore, StoreInUse, StoreMissing, StoreUnavailable
from spatial_index.files import disk_error, read_json, sync_folder, write_json
from spatial_index.meta import GenerationMeta
from spatial_index.records import NAME_RULE

STORE_FORMAT = 1
_TRASH = ".trash-"  # outside the naming rule, so never a region or generation


class StoreFolder:
    """An embedded store's folder, locked for this process until `release`."""

    def __init__(self, root: Path, *, create: bool) -> None:
        self.root = root.expanduser().absolute()
        self._check_marker(create=create)
        self._lock_fd = self._lock()
        try:
            self._empty_trash()
        except OSError as exc:
            self.release()
            raise disk_error(str(self.root), exc) from exc

    def release(self) -> None:
        """Let another process have the folder. Calling it twice is harmless."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def regions(self) -> list[str]:
        """Names of all regions that have a folder."""
        return _names(self.root / "regions")

    def generations(self, region: str) -> list[str]:
        """Names of all generations of a region that were created completely."""
        found = _names(self.root / "regions" / region)
        return [name for name in found if self._meta_file(region, name).exists()]

    def shard(self, region: str, generation: str) -> Path:
        """Where the engine keeps a generation."""
        return self._generation(region, generation) / "shard"

    def seal_file(self, region: str, generation: str) -> Path:
        """Where the checksums of a promoted generation are kept."""
        return self._generation(region, generation) / "seal.json"

    def clear(self, region: str, generation: str) -> None:
        """Make place for a new generation: remove what a killed creation left, make the shard's folder."""
        self.remove(region, generation)
        self.shard(region, generation).mkdir(parents=True)
        if not self._live_file(region).exists():
            write_json(self._live_file(region), {"generation": None})

    def read_meta(self, region: str, generation: str) -> GenerationMeta | None:
        """The generation's meta; None if there is no such generation.

        Raises:
            DamagedStore: the file cannot be read, or speaks of another generation.
        """
        path = self._meta_file(region, generation)
        if not path.exists():
            return None
        try:
            meta = GenerationMeta.from_json(read_json(path))
        except (ValueError, OSError) as exc:
            raise DamagedStore(str(path), str(exc)) from exc
        if (meta.spec.region, meta.spec.generation) != (region, generation):
            raise DamagedStore(str(path), f"it describes {meta.spec.region}/{meta.spec.generation}")
        return meta

    def write_meta(self, meta: GenerationMeta) -> None:
        """Replace the generation's meta."""
        write_json(self._meta_file(meta.spec.region, meta.spec.generation), meta.to_json())

    def live(self, region: str) -> str | None:
        """The live generation of a region, or None.

        Raises:
            DamagedStore: the pointer cannot be read, or is gone while a generation was promoted.
        """
        path = self._live_file(region)
        if not path.exists():
            self._check_never_promoted(region)
            return None
        try:
            name = read_json(path)["generation"]
        except (ValueError, KeyError, OSError) as exc:
            raise DamagedStore(str(path), f"unreadable live pointer ({exc})") from exc
        if name is None:
            return None
        if not isinstance(name, str) or not NAME_RULE.fullmatch(name):
            raise DamagedStore(str(path), f"it names {name!r}, which is no generation")
        return name

    def live_meta(self, region: str) -> GenerationMeta | None:
        """The meta of the live generation, or None.

        Raises:
            DamagedStore: the pointer or what it names cannot be read.
        """
        name = self.live(region)
        if name is None:
            return None
        meta = self.read_meta(region, name)
        if meta is None or meta.release is None:
            reason = f"it names generation {name!r}, which is missing or unfinished"
            raise DamagedStore(str(self._live_file(region)), reason)
        return meta

    def point(self, region: str, generation: str) -> None:
        """Make `generation` the live one. This one rename is the promotion."""
        write_json(self._live_file(region), {"generation": generation})

    def remove(self, region: str, generation: str) -> None:
        """Delete a generation's files: first out of sight by one rename, then for good."""
        self._discard(self._generation(region, generation))

    def remove_region(self, region: str) -> None:
        """Delete a region's files: first out of sight by one rename, then for good."""
        self._discard(self.root / "regions" / region)

    def _generation(self, region: str, generation: str) -> Path:
        return self.root / "regions" / region / generation

    def _meta_file(self, region: str, generation: str) -> Path:
        return self._generation(region, generation) / "meta.json"

    def _live_file(self, region: str) -> Path:
        return self.root / "regions" / region / "live.json"

    def _check_never_promoted(self, region: str) -> None:
        for name in self.generations(region):
            meta = self.read_meta(region, name)
            if meta and meta.release:
                reason = f"it is missing, though generation {name!r} was promoted"
                raise DamagedStore(str(self._live_file(region)), reason)

    def _check_marker(self, *, create: bool) -> None:
        marker = self.root / "store.json"
        if marker.exists():
            self._check_format(marker)
            if not (self.root / "regions").is_dir():
                raise DamagedStore(str(self.root / "regions"), "the folder is missing")
            return
        if self.root.exists() and not self.root.is_dir():
            raise StoreMissing(str(self.root), "it is a file")
        if self.root.is_dir() and not all(_left_by_a_start(path) for path in self.root.iterdir()):
            raise StoreMissing(str(self.root), "the folder holds other files and no store.json")
        if not create:
            raise StoreMissing(
                str(self.root), "the folder is empty" if self.root.is_dir() else "no such folder"
            )
        try:
            (self.root / "regions").mkdir(parents=True, exist_ok=True)
            write_json(marker, {"format": STORE_FORMAT})
        except PermissionError as exc:
            raise StoreUnavailable(str(self.root), str(exc), "choose a folder that you may write to") from exc
        except OSError as exc:
            raise disk_error(str(self.root), exc) from exc

    def _check_format(self, marker: Path) -> None:
        try:
            found = read_json(marker).get("format")
        except (ValueError, OSError) as exc:
            raise DamagedStore(str(marker), str(exc)) from exc
        if found != STORE_FORMAT:
            raise DamagedStore(str(marker), f"format {found!r}, this version reads {STORE_FORMAT}")

    def _lock(self) -> int:
        try:
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise StoreUnavailable(
                str(self.root), str(exc), "make the folder writable for this user"
            ) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise StoreInUse(str(self.root), int(owner) if owner.isdigit() else None) from None
        with suppress(OSError):  # the lock holds without the owner's number, which a full disk may refuse
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd

    def _discard(self, path: Path) -> None:
        if not path.exists():
            return
        trash = self.root / f"{_TRASH}{uuid.uuid4().hex}"
        path.rename(trash)
        sync_folder(path.parent)
        shutil.rmtree(trash)

    def _empty_trash(self) -> None:
        for leftover in self.root.glob(f"{_TRASH}*"):
            shutil.rmtree(leftover)


def _left_by_a_start(path: Path) -> bool:
    """Whether a first start that was killed, or had a full disk, leaves such a thing."""
    if path.name == "regions":
        return path.is_dir() and not any(path.iterdir())
    return path.name in {"lock", ".store.json.new"}


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and NAME_RULE.fullmatch(path.name))
