"""Errors of the model room.

ModelError
├── BadImage        a street image that cannot or must not be decoded
├── BadCamera       camera parameters outside what an image can have
│   └── BadLens     intrinsics that no camera has, or not the one that took the image
├── BadCheckpoint   a checkpoint folder that is missing, broken, or of another format
├── BadPairs        a training or evaluation data set that cannot be used
├── BadConfig       a network or training setting outside its range
└── TrainingFailed  workers of a distributed run that failed too often
"""

from __future__ import annotations


class ModelError(Exception):
    """Base of everything this package raises on purpose."""


class BadImage(ModelError):
    """The bytes are not an image that we read, or the image is outside the limits."""


class BadCamera(ModelError):
    """A field of view, heading or pitch that no camera has."""


class BadLens(BadCamera):
    """A value of a camera's intrinsics; carries its field, what is wrong with it, and the remedy."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(field, problem, remedy)
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field} {self.problem}; {self.remedy}"


class BadCheckpoint(ModelError):
    """The checkpoint is missing, incomplete, damaged, or written by another format version."""


class BadPairs(ModelError):
    """Street and aerial arrays that do not fit together, or a folder that holds none."""


class BadConfig(ModelError):
    """A setting outside its range; the message names the range."""


class TrainingFailed(ModelError):
    """A distributed run stopped; its last checkpoint is kept."""
