"""Faults in what an evaluation is given: pair lists, protocols, run directories."""

from __future__ import annotations

from faceguide.cache.errors import FaceguideError, ListError

__all__ = ["EvaluationError", "ListError"]


class EvaluationError(FaceguideError):
    """An evaluation that cannot be done as asked."""
