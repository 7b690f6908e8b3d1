"""The error families that commands report as one line instead of a traceback."""

from __future__ import annotations


class CliError(Exception):
    """Base of the commands' own errors."""


class DemoFailed(CliError):
    """A step of the demo did not come to its end."""


def expected_errors() -> tuple[type[Exception], ...]:
    """Base classes of every room's errors; anything else is a bug and keeps its traceback."""
    from clnet_model.errors import ModelError
    from serving.errors import ServingError
    from simulation.errors import SimulationError
    from spatial_index.errors import SpatialIndexError
    from tiling.errors import TilingError
    from workers.errors import WorkerError

    return (CliError, TilingError, ModelError, SimulationError, SpatialIndexError, WorkerError, ServingError)
