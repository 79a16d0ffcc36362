"""A verification run as it lies on disk: its scores, and the cache that they are of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.run_directory import read_run
from faceguide.core.errors import EvaluationError
from faceguide.core.files import read_json
from faceguide.evaluate.verification import RECORD, load_scores
from faceguide.train.run.training_data import cache_hash


@dataclass(frozen=True)
class ScoredRun:
    """N scored pairs of a run of `evaluate verification`.

    Attributes:
        directory: of the run.
        about: its run.json.
        record: its verification.json.
        probe, reference: (N,) rows of the cache.
        same: (N,) pairs of one identity.
        score: (N,) float64.
        people: (N, 2) identities, numbered from 0 without gaps.
    """

    directory: Path
    about: dict[str, Any]
    record: dict[str, Any]
    probe: NDArray[np.int64]
    reference: NDArray[np.int64]
    same: NDArray[np.bool_]
    score: NDArray[np.float64]
    people: NDArray[np.int64]

    @classmethod
    def of(cls, directory: Path) -> ScoredRun:
        """What the run left.

        Raises:
            EvaluationError: when it is no finished run of `evaluate verification`.
            CacheError: when one of its files was changed.
        """
        table = load_scores(directory)
        return cls(
            directory,
            read_run(directory),
            read_json(directory / RECORD),
            table["probe"],
            table["reference"],
            table["same"],
            table["score"].astype(np.float64),
            table["people"],
        )

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows in use, each once."""
        return np.unique([self.probe, self.reference])

    def cache(self) -> FaceCache:
        """The cache that was scored.

        Raises:
            EvaluationError: when it is another one by now.
            CacheError: when it cannot be opened.
        """
        cache = FaceCache.open(self.about["cache"])
        if cache_hash(cache) != self.about["cache_manifest"]:
            raise EvaluationError(
                f"{cache.directory}: changed since {self.directory} scored it; rerun "
                "`evaluate verification`"
            )
        return cache
