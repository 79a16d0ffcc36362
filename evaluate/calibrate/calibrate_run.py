"""What `evaluate calibrate` does, start to finish."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.inspect.occlusion_measures import estimate_doubts
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.run_directory import versions as package_versions
from faceguide.evaluate.calibrate import calibration_fit
from faceguide.evaluate.calibrate.calibrate_settings import CalibrateOptions
from faceguide.evaluate.calibrate.calibration_file import (
    Calibration,
    fitted_for,
    write_calibration,
)
from faceguide.evaluate.calibrate.training_pairs import Pairs, pairs_of, rows_of, versions
from faceguide.evaluate.score.embed import beside_of, describe_crops
from faceguide.evaluate.score.face_reader import covers_source
from faceguide.evaluate.score.fusion_fit import persons_of
from faceguide.evaluate.score.matcher_options import VISIBLE
from faceguide.evaluate.score.quick_forward import quickened
from faceguide.evaluate.score.scores import visible_embedding
from faceguide.train.models.loading.network import Network
from faceguide.train.models.matchers.calibration import (
    FEATURES,
    ScoreCurve,
    VisibilityCalibration,
    seen_in_common,
)
from faceguide.train.models.matchers.correlation import cell_visibility
from faceguide.train.models.matchers.visible_embedding import mean_map, score_pair_terms

_CLEAR = 0.95  # a face counts as uncovered from this mean visibility on
_BLOCK = 1024  # pairs whose terms are held at once


@dataclass(frozen=True)
class _Scored:
    """N pairs with the score of the matcher, and what they show in common: (N, 6), or None."""

    pairs: Pairs
    score: NDArray[np.float32]
    common: NDArray[np.float32] | None
    mean: torch.Tensor | None = None

    def fit(self, chosen: NDArray[np.bool_], method: calibration_fit.Method) -> Any:
        """The calibration fitted on some of the pairs."""
        same = self.pairs.same[chosen]
        weights = calibration_fit.pair_weights(same, self.pairs.person[chosen, 0])
        if method == "visibility":
            assert self.common is not None
            assert self.mean is not None
            found = calibration_fit.fit_visibility(
                self.score[chosen], self.common[chosen], same, weights
            )
            return VisibilityCalibration(torch.from_numpy(found), self.mean)
        return calibration_fit.fit_curve(self.score[chosen], same, weights, method)

    def apply(
        self, rule: ScoreCurve | VisibilityCalibration, chosen: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """(n,) log-likelihood ratios of some of the pairs."""
        scores = torch.from_numpy(self.score[chosen])
        if isinstance(rule, ScoreCurve):
            return rule(scores).numpy()
        assert self.common is not None
        return rule(scores, torch.from_numpy(self.common[chosen])).numpy()


def calibrate(
    cache: FaceCache, network: Network, options: CalibrateOptions, out: Path
) -> dict[str, Any]:
    """Fit a calibration on the identities of a cache and write it.

    Returns:
        The record: method, counts, and AUC, TAR and Cllr `before` and `after`, on identities that
        a fit on the other half of them did not see.

    Raises:
        EvaluationError: with too few identities, or when the network lacks what is needed.
    """
    rows, person = rows_of(cache, dict(options.meta), options.seed)
    if options.method == "visibility":
        matcher, source = VISIBLE, covers_source(options.visibility, network, cache)
        scored = _visible_scores(cache, network, rows, person, source, options.seed)
    else:
        matcher, source = "cosine", None
        scored = _cosines(cache, network, rows, person, options.seed)
    method, pairs = options.method, scored.pairs
    rule = scored.fit(np.ones(len(pairs.same), bool), method)
    tested, llr = np.zeros(len(pairs.same), bool), np.zeros(len(pairs.same), np.float32)
    half = np.searchsorted(np.unique(person), pairs.person) % 2
    for learnt in (0, 1):
        judge = (half != learnt).all(1)
        llr[judge] = scored.apply(scored.fit((half == learnt).all(1), method), judge)
        tested |= judge
    record = {
        "method": method,
        "matcher": matcher,
        "identities": len(np.unique(person)),
        "faces": len(rows),
        "genuine": int(pairs.same.sum()),
        "impostor": int((~pairs.same).sum()),
        "before": calibration_fit.figures(
            scored.score[tested], pairs.same[tested], calibrated=False
        ),
        "after": calibration_fit.figures(llr[tested], pairs.same[tested], calibrated=True),
    }
    about = {
        **record,
        "fitted_for": fitted_for(matcher, network, source, flip=True),
        "features": list(FEATURES) if method == "visibility" else [],
        "network": network.record(),
        "cache": str(cache.directory.resolve()),
        "seed": options.seed,
        "versions": package_versions(),
        "persons": sorted(persons_of(cache, rows)),
    }
    write_calibration(out, Calibration(rule, about))
    doubts = Doubts.of(network.doubts.counts())
    if source == "cache":
        doubts.update(estimate_doubts(cache, rows))
    return {**record, "doubts": doubts.counts(), "file": str(out)}


@torch.inference_mode()
def _visible_scores(
    cache: FaceCache,
    network: Network,
    rows: NDArray[np.int64],
    person: NDArray[np.int64],
    source: str,
    seed: int,
) -> _Scored:
    """Scores of the visible embedding on faces with and without covers."""
    embedding = visible_embedding(network)  # refuses what has no maps before anything is computed
    terms, cells, mean = [], [], None
    for maps, seen in versions(cache, network, rows, source, seed):
        if mean is None:
            clear = seen.mean((1, 2)) >= _CLEAR
            chosen = maps[clear] if clear.any() else maps
            mean = mean_map(chosen.split(256))
            embedding = visible_embedding(network, mean)
        terms.append(torch.cat([embedding.cell_terms(part).half() for part in maps.split(256)]))
        cells.append(cell_visibility(seen, maps, embedding.extent))
    z, v = torch.stack(terms), torch.stack(cells)  # (V, M, S, E) and (V, M, S)
    pairs = pairs_of(person, seed, covers=True)
    score = np.empty(len(pairs.same), np.float32)
    common = np.empty((len(score), 6), np.float32)
    for start in range(0, len(score), _BLOCK):
        at = slice(start, start + _BLOCK)
        probe = pairs.probe_version[at], pairs.probe[at]
        reference = pairs.reference_version[at], pairs.reference[at]
        score[at] = score_pair_terms(
            z[probe].float(), z[reference].float(), v[probe] * v[reference]
        ).numpy()
        common[at] = seen_in_common(v[probe], v[reference]).numpy()
    return _Scored(pairs, score, common, mean)


def _cosines(
    cache: FaceCache,
    network: Network,
    rows: NDArray[np.int64],
    person: NDArray[np.int64],
    seed: int,
) -> _Scored:
    """Cosines of the faces as they are."""
    network.check_size(cache.require("image").shape[0], str(cache.directory))
    found = cache.read(rows, sorted({"image", *network.columns}))
    names = cache.texts("key", rows.tolist())
    embedding = describe_crops(
        quickened(network), list(found["image"]), frozenset({"embedding"}), names,
        beside_of(network, found),
    )["embedding"]  # fmt: skip
    pairs = pairs_of(person, seed, covers=False)
    score = np.einsum("ne,ne->n", embedding[pairs.probe], embedding[pairs.reference])
    return _Scored(pairs, score, None)
