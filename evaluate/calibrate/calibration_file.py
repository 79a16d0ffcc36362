"""A calibration on disk: what it computes, what it was fitted for, and on whom."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import EvaluationError
from faceguide.core.formats.container import read_arrays, write_arrays
from faceguide.train.models.loading.network import Network
from faceguide.train.models.matchers.calibration import (
    FEATURES,
    ScoreCurve,
    VisibilityCalibration,
)

_REMEDY = "make it with `evaluate calibrate`"
_ABOUT = "calibration"


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration.

    Attributes:
        rule: from scores to log-likelihood ratios.
        about: JSON object: `method`, `matcher`, `fitted_for`, `persons` (who it was fitted on) and
            what else its command recorded.
    """

    rule: ScoreCurve | VisibilityCalibration
    about: dict[str, Any]

    @property
    def matcher(self) -> str:
        """Whose score it takes, by its command-line name."""
        return str(self.about["matcher"])

    def doubts(self, path: Path, network: Network, visibility: str | None, flip: bool) -> Doubts:
        """A doubt when it was fitted for something else than what it is used for.

        Args:
            path: its file, for the line.
        """
        used = fitted_for(self.matcher, network, visibility, flip)
        found = Doubts()
        if used != self.about["fitted_for"]:
            theirs = self.about["fitted_for"]
            keys = [key for key in sorted({*used, *theirs}) if used.get(key) != theirs.get(key)]
            told = "; ".join(f"{key} {theirs.get(key)!s:.12}, now {used.get(key)!s:.12}"
                             for key in keys)  # fmt: skip
            found.add("calibrated_otherwise", f"{path}: {told}")
        return found


def fitted_for(
    matcher: str, network: Network, visibility: str | None, flip: bool
) -> dict[str, Any]:
    """What the scores of a matcher depend on besides the faces."""
    own = {"flip": flip} if matcher == "cosine" else {"visibility": visibility}
    return {**network.key(), **own}


def write_calibration(path: Path, calibration: Calibration) -> None:
    rule = calibration.rule
    if isinstance(rule, ScoreCurve):
        arrays = {"score": rule.score.numpy(), "llr": rule.llr.numpy()}
    else:
        arrays = {"coefficients": rule.coefficients.numpy(), "mean_map": rule.mean_map.numpy()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, arrays, {_ABOUT: json.dumps(calibration.about, sort_keys=True)})


def read_calibration(path: Path, matcher: str | None = None) -> Calibration:
    """What `write_calibration` wrote.

    Args:
        matcher: that is to be calibrated; None = whichever it was fitted for.

    Raises:
        CacheError: when the file is no container or was changed.
        EvaluationError: when it holds no calibration, or that of another matcher.
    """
    try:
        found = read_arrays(path, _REMEDY)
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file; {_REMEDY}") from None
    try:
        about = json.loads(found.about[_ABOUT])
        # torch does not take what is mapped and cannot be written.
        arrays = {name: torch.from_numpy(np.array(part)) for name, part in found.arrays.items()}
        kind = VisibilityCalibration if about["method"] == "visibility" else ScoreCurve
        rule = kind(**arrays)
        held = Calibration(rule, about)
        fits = _is_whole(rule) and isinstance(about["fitted_for"], dict) and about["persons"]
        named = held.matcher
    except (KeyError, ValueError, TypeError):
        fits = False
    if not fits:
        raise EvaluationError(f"{path}: holds no calibration of this version; {_REMEDY}")
    if matcher not in (None, named):
        raise EvaluationError(f"{path}: calibrates {named}, not {matcher}; choose {named}")
    return held


def _is_whole(rule: ScoreCurve | VisibilityCalibration) -> bool:
    """Shapes, finite numbers, and a curve that never falls."""
    if isinstance(rule, VisibilityCalibration):
        parts = (rule.coefficients, rule.mean_map)
        fits = rule.coefficients.shape == (len(FEATURES),) and rule.mean_map.ndim == 3
    else:
        parts = (rule.score, rule.llr)
        fits = rule.score.ndim == 1 and len(rule.score) > 1 and rule.score.shape == rule.llr.shape
        fits = fits and bool((rule.score.diff() > 0).all() and (rule.llr.diff() >= 0).all())
    return bool(fits and all(part.isfinite().all() for part in parts))
