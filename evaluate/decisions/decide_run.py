"""What `evaluate decide` computes of two runs."""

from __future__ import annotations

from typing import Any

from faceguide.core.commands.console import say
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import EvaluationError, FaceguideError
from faceguide.evaluate.calibrate.calibration_fit import fit_curve, pair_weights
from faceguide.evaluate.decisions.scored_run import ScoredRun
from faceguide.evaluate.decisions.set_figures import set_figures
from faceguide.evaluate.decisions.transfer import RankedPairs, transfer
from faceguide.evaluate.metrics.roc import rank
from faceguide.evaluate.score.fusion_fit import persons_of

# What both runs must have alike, or a threshold of one says nothing of the other.
_OF_WEIGHTS = ("backbone", "weights_sha256", "colour", "precision")
_OF_MATCHER = ("matcher", "flip", "fuse", "calibration", "hidden")


def decide(dev: ScoredRun, test: ScoredRun, replicates: int, seed: int) -> dict[str, Any]:
    """Thresholds of DEV on TEST, and the figures of both.

    Runs without a calibration get log-likelihood ratios from a line (Platt) that is fitted on DEV.

    Returns:
        `thresholds` (see `transfer`), `sets`: `dev` and `test` (see `set_figures`), `llr`: where
        their ratios come from, and `doubts`.

    Raises:
        EvaluationError: when the runs are of different networks or matchers.
    """
    _require_alike(dev, test)
    known, tested = (RankedPairs(rank(run.score, run.same), run.people) for run in (dev, test))
    if dev.record["calibration"] is None:
        weights = pair_weights(dev.same, dev.people[:, 0])
        line = fit_curve(dev.score, dev.same, weights, "platt")
        # Beyond its knots too: a score may be of any range.
        start, slope = line.llr[0].item(), (line.llr.diff() / line.score.diff()).item()
        ratios = [start + slope * (run.score - line.score[0].item()) for run in (dev, test)]
        origin = "a line fitted on DEV"
    else:
        ratios, origin = [dev.score, test.score], dev.record["calibration"]["file"]
    sets = {
        name: {"run": str(run.directory.resolve())}
        | set_figures(pairs, llr, run.same, replicates, seed)
        for name, run, pairs, llr in zip(
            ("dev", "test"), (dev, test), (known, tested), ratios, strict=True
        )
    }
    return {
        "matcher": test.record["matcher"],
        "llr": origin,
        "thresholds": transfer(known, tested, replicates, seed),
        "sets": sets,
        "replicates": replicates,
        "seed": seed,
        "doubts": _shared(dev, test).counts(),
    }


def _require_alike(dev: ScoredRun, test: ScoredRun) -> None:
    settings = [run.about["settings"] for run in (dev, test)]
    for name, values in (
        *((name, [run.about.get(name) for run in (dev, test)]) for name in _OF_WEIGHTS),
        *((name, [found.get(name) for found in settings]) for name in _OF_MATCHER),
    ):
        if values[0] != values[1]:
            raise EvaluationError(
                f"{dev.directory}, {test.directory}: scored by different means ({name} "
                f"{values[0]}, and {values[1]}); a threshold of one says nothing of the other"
            )


def _shared(dev: ScoredRun, test: ScoredRun) -> Doubts:
    """Identities, by name, that are in both lists."""
    doubts = Doubts()
    try:
        known = [persons_of(run.cache(), run.rows) for run in (dev, test)]
    except FaceguideError as error:  # the scores are there all the same
        say(f"whether the lists share identities is not known: {error}")
        return doubts
    if both := sorted(known[0] & known[1]):
        doubts.add("decided_identities", both[0], len(both))
    return doubts
