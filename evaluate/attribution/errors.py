"""Faults of an attribution run."""

from __future__ import annotations

from faceguide.evaluate.errors import EvaluationError


class AttributionError(EvaluationError):
    """An attribution that cannot be done as asked."""


class ScoreError(AttributionError):
    """A score that cannot be explained by its probe."""
