"""From which score on two faces count as one identity: a number, or what a run found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faceguide.core.commands.run_directory import read_run
from faceguide.core.errors import EvaluationError
from faceguide.core.files import read_json
from faceguide.evaluate.verification import RECORD
from faceguide.train.models.loading.network import Network


@dataclass(frozen=True)
class Threshold:
    """A decision's threshold.

    Attributes:
        value: one identity from this score on.
        origin: where it comes from, in words.
    """

    value: float
    origin: str


def read_threshold(text: str, network: Network, matcher: str) -> Threshold:
    """A number, or the threshold of the equal error rate of a run of `evaluate verification`.

    Raises:
        EvaluationError: when it is neither, or the run is of other weights or another matcher.
    """
    try:
        value = float(text)
    except ValueError:
        return _of_run(Path(text), network, matcher)
    if not np.isfinite(value):
        raise EvaluationError(f"--threshold {text}: expected a finite number")
    return Threshold(value, "as given")


def _of_run(run: Path, network: Network, matcher: str) -> Threshold:
    if not run.is_dir():
        raise EvaluationError(
            f"--threshold {run}: expected a number, or a run of `evaluate verification`"
        )
    about = read_run(run)
    if about.get("command") != "verification":
        raise EvaluationError(
            f"{run}: expected a run of `evaluate verification`, found {about.get('command')!r}"
        )
    told = about["settings"]
    for what, fits in (
        ("other weights", about["weights_sha256"] == network.sha256),
        (f"matcher {told['matcher']}", told["matcher"] == matcher),
        ("scores without mirror images (--no-flip)", told["flip"]),
    ):
        if not fits:
            raise EvaluationError(
                f"{run}: its threshold is of {what}; run `evaluate verification` as this pair is "
                "scored, or give a number"
            )
    record = read_json(run / RECORD)
    (value,) = (one["threshold"] for one in record["thresholds"] if one["at"] == "equal error rate")
    return Threshold(value, f"equal error rate of {record['pairs']:,} pairs in {run}")
