"""A generation in the making: there is either all of it, checked and live, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spatial_index.records import GenerationSpec
from spatial_index.store import Store


def is_live(store: Store, spec: GenerationSpec) -> bool:
    """Whether this very generation answers queries already."""
    return any(info.live and info.spec == spec for info in store.generations(spec.region))


@contextmanager
def half_built(store: Store, spec: GenerationSpec) -> Iterator[None]:
    """A fresh generation that vanishes again unless all goes well."""
    store.drop_generation(spec.region, spec.generation)  # left by a job that was killed
    store.create_generation(spec)
    try:
        yield
    except BaseException:
        store.drop_generation(spec.region, spec.generation)
        raise
