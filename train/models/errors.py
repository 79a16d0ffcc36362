"""Faults in what a model is given: arguments, image shapes, weights files."""

from __future__ import annotations

from faceguide.cache.errors import FaceguideError


class ModelError(FaceguideError):
    """A model that cannot be built or run as asked."""


class CheckpointError(FaceguideError):
    """A weights file that cannot be read, or that does not fit the model."""
