"""A generation in the making: there is either all of it, checked and live, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from spatial_index.errors import DamagedStore, GenerationLive
from spatial_index.records import GenerationInfo, GenerationSpec
from spatial_index.store import Store


def built(store: Store, spec: GenerationSpec) -> GenerationInfo | None:
    """This very generation, if it was promoted once: it is live, or was."""
    found = (info for info in store.generations(spec.region) if info.complete and info.spec == spec)
    return next(found, None)


def promoted_again(store: Store, info: GenerationInfo) -> bool:
    """Make live again what was live before; False: it was no longer what was promoted, and is dropped."""
    region, generation = info.spec.region, info.spec.generation
    try:
        whole = store.count(region, generation) == info.patches
    except DamagedStore:
        whole = False
    if not whole or info.coverage is None:
        store.drop_generation(region, generation)
        return False
    store.promote(region, generation, coverage=info.coverage)
    return True


@contextmanager
def half_built(store: Store, spec: GenerationSpec) -> Iterator[None]:
    """A fresh generation that vanishes again unless it goes live."""
    store.drop_generation(spec.region, spec.generation)  # left by a job that was killed
    store.create_generation(spec)
    try:
        yield
    finally:
        with suppress(GenerationLive):
            store.drop_generation(spec.region, spec.generation)
