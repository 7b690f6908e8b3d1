"""The four public cross-view benchmarks and own pairs, as splits of paths with what counts as right."""

from clnet_model.benchmarks.base import QueryKind, Split
from clnet_model.benchmarks.catalogue import open_benchmark

__all__ = ["QueryKind", "Split", "open_benchmark"]
