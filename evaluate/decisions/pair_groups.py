"""Which group a pair belongs to: by a meta column of the cache, by pose, or by occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import EvaluationError
from faceguide.evaluate.metrics.strata import OCCLUSIONS, POSES, occlusion_bins, pose_bins

BETWEEN, UNKNOWN = -1, -2
_MOST = 50  # groups; more are names of something else
_BINS = {"pose": (pose_bins, POSES), "occlusion": (occlusion_bins, OCCLUSIONS)}


@dataclass(frozen=True)
class PairGroups:
    """The groups of N pairs.

    Attributes:
        names: of the G groups.
        code: (N,) place in `names`; BETWEEN for faces of two groups, UNKNOWN where a face has none.
    """

    names: tuple[str, ...]
    code: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        cache: FaceCache,
        by: str,
        probe: NDArray[np.int64],
        reference: NDArray[np.int64],
    ) -> PairGroups:
        """Groups by a meta column, or else by `pose` or `occlusion`.

        A pair is of a group of the column when both faces are. Pose and occlusion are those of the
        face that is turned or occluded more.

        Args:
            probe, reference: (N,) rows.

        Raises:
            EvaluationError: for an unknown column, or one with less than two or too many values.
        """
        rows, place = np.unique([probe, reference], return_inverse=True)
        first, second = place.reshape(2, -1)
        if by in cache.meta:
            texts = np.array(cache.texts(f"meta/{by}", rows.tolist()))
            values, of_row = np.unique(texts, return_inverse=True)
            if not 2 <= len(values) <= _MOST:
                raise EvaluationError(
                    f"{cache.directory}: meta column {by!r} has {len(values)} values among these "
                    f"pairs; groups are 2 to {_MOST}"
                )
            one, other = of_row[first], of_row[second]
            code = np.where(one == other, one, BETWEEN)
            code[(texts[first] == "") | (texts[second] == "")] = UNKNOWN
            return cls(tuple(values.tolist()), code.astype(np.int64))
        if by not in _BINS:
            raise EvaluationError(
                f"{cache.directory}: no meta column {by!r} to group by; there are "
                f"{', '.join((*cache.meta, *_BINS))}"
            )
        bins, names = _BINS[by]
        of_face = bins(cache, rows)
        one, other = of_face[first], of_face[second]
        code = np.where((one < 0) | (other < 0), UNKNOWN, np.maximum(one, other))
        return cls(names, code.astype(np.int64))
