"""The error families that commands report as one line instead of a traceback."""

from __future__ import annotations


def expected_errors() -> tuple[type[Exception], ...]:
    """Base classes of every room's errors; anything else is a bug and keeps its traceback."""
    from clnet_model.errors import ModelError
    from serving.errors import ServingError
    from simulation.errors import SimulationError
    from spatial_index.errors import SpatialIndexError
    from tiling.errors import TilingError
    from workers.errors import WorkerError

    return (TilingError, ModelError, SimulationError, SpatialIndexError, WorkerError, ServingError)
