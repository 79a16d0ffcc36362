"""Faults in what a training run is given or meets."""

from __future__ import annotations

from faceguide.cache.errors import FaceguideError


class TrainError(FaceguideError):
    """A training run that cannot start, cannot go on, or cannot be resumed as asked."""
