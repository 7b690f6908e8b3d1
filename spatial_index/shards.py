"""The open shards of an embedded store: loaded on first use, checked before that, closed when they fail."""

from __future__ import annotations

from importlib.metadata import version

from spatial_index.errors import DamagedStore, SpatialIndexError
from spatial_index.files import check_room
from spatial_index.folder import StoreFolder
from spatial_index.meta import GenerationMeta
from spatial_index.planner import Profile
from spatial_index.profile import Planning, profile_of
from spatial_index.records import GenerationSpec
from spatial_index.seal import check_seal, clear_leftovers, write_seal
from spatial_index.shard import EMPTY_BYTES, Shard, flush_bytes, optimize_bytes


class Shards:
    """Shards by (region, generation). Not safe for several threads at once."""

    def __init__(self, folder: StoreFolder, planning: Planning) -> None:
        self._folder = folder
        self._planning = planning
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
        self._open[spec.region, spec.generation] = Shard.create(path, spec.dim, spec.storage)

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

    def settle(self, meta: GenerationMeta) -> tuple[Shard, Profile | None]:
        """The shard with its files in their final state and sealed, and what its planner will go by.

        It is loaded anew for that: the engine tidies its files once as it loads them.

        Raises:
            StoreFull: no room for it.
        """
        spec, shard = meta.spec, self.get(meta)
        check_room(self._folder.root, EMPTY_BYTES + flush_bytes(shard.size()))
        shard.flush()
        shard = self._reload(spec)
        if spec.storage == "int8":
            shard = self._optimized(shard, spec)
        profile = profile_of(
            shard, spec.storage, self._planning, with_graph=lambda: self._optimized(self._graphed(spec), spec)
        )
        shard = self._open[spec.region, spec.generation]
        shard.flush()
        path = self._folder.shard(spec.region, spec.generation)
        write_seal(self._folder.seal_file(spec.region, spec.generation), path, self._engine)
        return shard, profile

    def _optimized(self, shard: Shard, spec: GenerationSpec) -> Shard:
        """The shard with its int8 vectors and its graph up to date."""
        check_room(self._folder.root, EMPTY_BYTES + optimize_bytes(shard.size(), spec.dim))
        shard.optimize()
        shard.flush()
        return self._reload(spec)

    def _graphed(self, spec: GenerationSpec) -> Shard:
        """The shard, set to have a graph."""
        return self._reload(spec, graph=True)

    def _reload(self, spec: GenerationSpec, *, graph: bool = False) -> Shard:
        self.close(spec.region, spec.generation)
        path = self._folder.shard(spec.region, spec.generation)
        shard = Shard.load_with_graph(path, spec.dim, spec.storage) if graph else Shard.load(path)
        self._open[spec.region, spec.generation] = shard
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
        clear_leftovers(path)
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
