"""The error families that commands report as one line instead of a traceback."""

from __future__ import annotations


class CliError(Exception):
    """Base of the commands' own errors."""


class DemoFailed(CliError):
    """A step of the demo did not come to its end."""


class BadOption(CliError):
    """An option that does not go with the others."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(option, problem)
        self.option = option
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.option}: {self.problem}"


def expected_errors() -> tuple[type[Exception], ...]:
    """Base classes of every room's errors; anything else is a bug and keeps its traceback."""
    from clnet_model.errors import ModelError
    from serving.errors import ServingError
    from simulation.errors import SimulationError
    from spatial_index.errors import SpatialIndexError
    from tiling.errors import TilingError
    from workers.errors import WorkerError

    return (CliError, TilingError, ModelError, SimulationError, SpatialIndexError, WorkerError, ServingError)
