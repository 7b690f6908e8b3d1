"""The open shards of an embedded store: loaded on first use, checked before that, closed when they fail."""

from __future__ import annotations

from importlib.metadata import version

from spatial_index.errors import DamagedStore, SpatialIndexError
from spatial_index.files import check_room
from spatial_index.folder import StoreFolder
from spatial_index.meta import GenerationMeta
from spatial_index.records import GenerationSpec
from spatial_index.seal import check_seal, write_seal
from spatial_index.shard import EMPTY_BYTES, Shard, flush_bytes


class Shards:
    """Shards by (region, generation). Not safe for several threads at once."""

    def __init__(self, folder: StoreFolder) -> None:
        self._folder = folder
        self._open: dict[tuple[str, str], Shard] = {}
        self._engine = f"qdrant-edge-py {version('qdrant-edge-py')}"

    def create(self, spec: GenerationSpec) -> None:
        """Make an empty shard, in the place of whatever a killed creation left there.

        Raises:
            StoreFull: no room for it.
        """
        check_room(self._folder.root, EMPTY_BYTES)
        self._folder.clear(spec.region, spec.generation)
        path = self._folder.shard(spec.region, spec.generation)
        self._open[spec.region, spec.generation] = Shard.create(path, spec.dim)

    def get(self, meta: GenerationMeta) -> Shard:
        """The generation's shard; a promoted one is compared with its checksums and its count first.

        Raises:
            DamagedStore: it is not what was promoted, or the engine cannot load it.
        """
        key = (meta.spec.region, meta.spec.generation)
        if key in self._open and self._open[key].failed:
            self.close(*key)  # what it acknowledged is in its log, and is replayed
        if key not in self._open:
            self._open[key] = self._load(meta)
        return self._open[key]

    def settle(self, meta: GenerationMeta) -> Shard:
        """The shard with its files in their final state and sealed.

        It is loaded anew for that: the engine tidies its files once as it loads them.

        Raises:
            StoreFull: no room for it.
        """
        region, generation = meta.spec.region, meta.spec.generation
        shard = self.get(meta)
        check_room(self._folder.root, EMPTY_BYTES + flush_bytes(shard.size()))
        shard.flush()
        self.close(region, generation)
        path = self._folder.shard(region, generation)
        shard = self._open[region, generation] = Shard.load(path)
        shard.flush()
        write_seal(self._folder.seal_file(region, generation), path, self._engine)
        return shard

    def close(self, region: str | None = None, generation: str | None = None) -> None:
        """Close the shards of a generation, of a region, or all; one that fails keeps no other open.

        Raises:
            StoreFull, DamagedStore: of the first that failed.
        """
        failures: list[SpatialIndexError] = []
        for key in list(self._open):
            if region in (None, key[0]) and generation in (None, key[1]):
                try:
                    self._open.pop(key).close()
                except SpatialIndexError as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    def _load(self, meta: GenerationMeta) -> Shard:
        region, generation = meta.spec.region, meta.spec.generation
        path, seal = self._folder.shard(region, generation), self._folder.seal_file(region, generation)
        if meta.release:
            sealed = check_seal(seal, path, self._engine)
        else:
            sealed = True  # checksums come with the promotion
            check_room(self._folder.root, EMPTY_BYTES)  # the log is replayed into memory maps
        shard = Shard.load(path)
        if meta.release and (found := shard.size()) != meta.release.patches:
            shard.close()
            raise DamagedStore(str(path), f"{found} patches, {meta.release.patches} were promoted")
        if not sealed:
            shard.flush()
            write_seal(seal, path, self._engine)
        return shard
