"""Errors of the simulator.

SimulationError
├── UnknownStyle      no city style of that name
├── BadSimulation     a size, count or level outside its limits
└── BadSurface        orthophoto or surface model that cannot carry street images
"""

from __future__ import annotations


class SimulationError(Exception):
    """Base class of everything the simulator raises."""


class UnknownStyle(SimulationError):
    """No city style of that name."""


class BadSimulation(SimulationError):
    """A size, count or level outside its limits."""


class BadSurface(SimulationError):
    """An orthophoto or surface model that cannot carry street images."""
