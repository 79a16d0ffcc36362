"""Errors that a user can act on: each says what was expected, what was found and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class FaceguideError(Exception):
    """A fault in the input or the environment, in one line that names the remedy."""


class ReasonedError(FaceguideError):
    """An error that is recorded for one item: `reason` is its kind, the text says the details."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both, so that the error survives pickling
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.message


class CacheError(FaceguideError):
    """A cache directory that cannot be read, written or trusted as it stands."""


class ListError(FaceguideError):
    """A list of pairs, probes or templates that is not in any known layout."""


class ModelError(FaceguideError):
    """A model that cannot be built or run as asked."""


class CheckpointError(FaceguideError):
    """A weights file that cannot be read, or that does not fit the model."""


class TrainError(FaceguideError):
    """A training run that cannot start, continue, or be resumed as asked."""


class EvaluationError(FaceguideError):
    """An evaluation that cannot be done as asked."""


class AttributionError(EvaluationError):
    """An attribution that cannot be done as asked."""


class ScoreError(AttributionError):
    """A score that cannot be explained by its probe."""


class Unfinished(EvaluationError):
    """A run lacks blocks that its parts should have made.

    Attributes:
        blocks: their numbers; block b is of part b mod N.
    """

    def __init__(self, run: Path, what: str, blocks: Sequence[int], total: int) -> None:
        super().__init__(
            f"{run}: {len(blocks)} of {total} blocks of {what} are missing; run the parts that "
            "make them (`evaluate merge --parts N` names those of N), then rerun the merge"
        )
        self.what = what
        self.blocks = tuple(blocks)
