"""Scores of pairs whose first face is covered, by every matcher that a network has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from faceguide.cache.pairs.pair_rows import PairRows
from faceguide.cache.reader import FaceCache
from faceguide.core.errors import EvaluationError
from faceguide.evaluate.calibrate.calibration_file import Calibration
from faceguide.evaluate.occluded.laid_covers import LaidCovers, covered_share
from faceguide.evaluate.score.embed import beside_of, describe_crops
from faceguide.evaluate.score.face_reader import (
    HeldFaces,
    cached_visibility,
    groups_for,
    score_pairs,
    visible_mean_map,
)
from faceguide.evaluate.score.matcher_options import VISIBLE
from faceguide.evaluate.score.quick_forward import quickened
from faceguide.evaluate.score.scores import Faces, Matcher, calibrated, make_matcher
from faceguide.train.distil.alterations import Alterations
from faceguide.train.models.loading.network import Network

_BLOCK = 256  # faces that are covered and described at once
_GRID = 7  # cells on a side of an exact mask where the cache has none


@dataclass(frozen=True)
class Level:
    """The N pairs at one strength.

    Attributes:
        covered: (N,) share of the first face's oval that is covered.
        scores: matcher → (N,).
    """

    strength: float
    covered: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]


def covered_scores(
    cache: FaceCache,
    network: Network,
    pairs: PairRows,
    covers: LaidCovers,
    strengths: tuple[float, ...],
    source: str,
    calibration: Calibration | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Iterator[Level]:
    """Scores without covers, then at each strength.

    Args:
        source: of the visibility: "head", or "cache": exact, with the cache's masks.
        calibration: adds its matcher with calibrated scores.
        progress: called with the number of faces done.
    """
    network.check_size(cache.require("image").shape[0], str(cache.directory))
    rows = np.unique([pairs.probe, pairs.reference])
    probes, of_pair = np.unique(pairs.probe, return_inverse=True)
    reference = np.searchsorted(rows, pairs.reference)
    matchers = _matchers(network)
    if calibration is not None:
        name = calibration.matcher
        matchers[f"{name}, calibrated"] = calibrated(name, network, calibration.rule)
    needs = frozenset[str]().union(*(matcher.needs for matcher in matchers.values()))
    quick, groups = quickened(network), groups_for(needs, True, source)
    columns = sorted({"image", *network.columns})
    masked = "visibility" in cache.columns
    altered = Alterations(cache, probes, (), covers.seed)

    def described(of: NDArray[np.int64], strength: float) -> tuple[Faces, NDArray[np.float64]]:
        parts, shares = [], []
        for start in range(0, len(of), _BLOCK):
            some = of[start : start + _BLOCK]
            batch = cache.read(some, columns)
            images, grid = batch["image"], _GRID
            seen = torch.ones(len(some), _GRID, _GRID)
            if masked:
                seen = torch.from_numpy(cached_visibility(cache, some))
                grid = seen.shape[-1]
            if strength:
                points = altered.points(np.arange(start, start + len(some))) * images.shape[1]
                laid = [
                    covers.over(image, place, int(row), strength)
                    for image, place, row in zip(images, points, some, strict=True)
                ]
                images = np.stack([image for image, _ in laid])
                left = torch.from_numpy(np.stack([left for _, left in laid]))
                seen = seen * nn.functional.adaptive_avg_pool2d(left, grid)
                shares += [
                    covered_share(left, place)
                    for (_, left), place in zip(laid, points, strict=True)
                ]
            names = [f"row {row}" for row in some]
            found = describe_crops(quick, list(images), groups, names, beside_of(network, batch))
            held = {name: torch.from_numpy(values) for name, values in found.items()}
            if source == "head" and "visibility" in held:
                seen = held["visibility"].float()
            parts.append(Faces(held.get("embedding"), held.get("feature_map"), seen))
            progress(len(some))
        return _joined(parts), np.array(shares or np.zeros(len(of)))

    clean, _ = described(rows, 0.0)
    held = HeldFaces(clean)
    if VISIBLE in matchers:
        mean = visible_mean_map(held, np.arange(len(rows)))
        matchers[VISIBLE] = make_matcher(VISIBLE, network, mean)
    places = np.searchsorted(rows, pairs.probe)
    yield Level(0.0, np.zeros(len(pairs)), _scores(held, matchers, places, reference))
    for strength in strengths:
        faces, shares = described(probes, strength)
        both = HeldFaces(_joined([clean, faces]))
        scores = _scores(both, matchers, len(rows) + of_pair, reference)
        yield Level(strength, shares[of_pair], scores)


def _matchers(network: Network) -> dict[str, Matcher]:
    """All that need no fit: cosine; visible-embedding where it works; QAConv if it was trained."""
    found = {"cosine": make_matcher("cosine", network)}
    if network.has_maps:
        names = [VISIBLE, *(("qaconv", "qaconv+occlusion") if network.matcher else ())]
        for name in names:
            try:
                found[name] = make_matcher(name, network)
            except EvaluationError:  # its map is not the last one
                continue
    return found


def _scores(
    reader: HeldFaces,
    matchers: dict[str, Matcher],
    probe: NDArray[np.int64],
    reference: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    return {
        name: score_pairs(reader, matcher, probe, reference).astype(np.float64)
        for name, matcher in matchers.items()
    }


def _joined(parts: list[Faces]) -> Faces:
    def joined(name: str) -> torch.Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    return Faces(joined("embedding"), joined("feature_map"), joined("visibility"))
