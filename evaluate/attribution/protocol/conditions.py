"""Strata: figures by pose, light, occlusion and kind of pair, and whether uniform maps depend on
them.

The bins are fixed here, before any result. A cell with fewer than 20 pairs has no figure. Whether
the share of uniform maps differs between the bins is tested by exchanging outcomes between whole
identities, since an identity's pairs are alike; Benjamini and Hochberg's correction runs over the
whole table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.faces import LUMA
from faceguide.evaluate.metrics.strata import LEAST, OCCLUSIONS, POSES, occlusion_bins, wilson

PERMUTATIONS = 999
_DIFFERENCES = ("0–10°", "10–20°", "20–30°", "30°+")
_LIGHT = ("dark <80", "80–120", "120–160", "bright ≥160")
_LIGHT_DIFFERENCE = ("0–20", "20–40", "40–60", "60+")
BINS: dict[str, tuple[str, ...]] = {
    "label": ("two identities", "one identity"),
    "yaw": POSES,
    "pitch": POSES,
    "yaw difference": _DIFFERENCES,
    "light": _LIGHT,
    "light difference": _LIGHT_DIFFERENCE,
    "probe occlusion": OCCLUSIONS,
    "reference occlusion": OCCLUSIONS,
}


def pair_bins(
    cache: FaceCache,
    probe: NDArray[np.int64],
    reference: NDArray[np.int64],
    same: NDArray[np.bool_],
) -> dict[str, NDArray[np.int64]]:
    """Stratum → (N,) place in `BINS` of each pair; −1 where the cache does not know.

    Pose is the probe's, in degrees; light the mean brightness (Rec. 601, 0–255) of its crop.
    """
    rows, places = np.unique(np.stack([probe, reference]), return_inverse=True)
    places = places.reshape(2, -1)
    pose = cache.read(rows, ["pose"])["pose"].astype(np.float64)
    light = np.concatenate(
        [
            cache.read(rows[start : start + 256], ["image"])["image"].mean((1, 2)) @ np.array(LUMA)
            for start in range(0, len(rows), 256)
        ]
    )
    (yaw, pitch), other_yaw = pose[places[0], :2].T, pose[places[1], 0]
    bright = light[places]
    return {
        "label": same.astype(np.int64),
        "yaw": _cut(np.abs(yaw), (15.0, 30.0, 45.0)),
        "pitch": _cut(np.abs(pitch), (15.0, 30.0, 45.0)),
        "yaw difference": _cut(np.abs(yaw - other_yaw), (10.0, 20.0, 30.0)),
        "light": _cut(bright[0], (80.0, 120.0, 160.0)),
        "light difference": _cut(np.abs(bright[0] - bright[1]), (20.0, 40.0, 60.0)),
        "probe occlusion": occlusion_bins(cache, probe).astype(np.int64),
        "reference occlusion": occlusion_bins(cache, reference).astype(np.int64),
    }


def _cut(values: NDArray[np.float64], edges: tuple[float, ...]) -> NDArray[np.int64]:
    return np.where(np.isfinite(values), np.digitize(values, edges), -1).astype(np.int64)


def strata_table(
    bins: Mapping[str, NDArray[np.int64]],
    passed: Mapping[str, NDArray[np.bool_]],
    uniform: Mapping[str, NDArray[np.bool_]],
    rates: Mapping[str, NDArray[np.float64]],
) -> list[dict[str, Any]]:
    """One record per method, stratum and bin that holds a pair.

    Returns:
        `method`, `stratum`, `bin`, `n`, and `pass_rate`, `pass_rate_interval`, `uniform_share`,
        `mean_fr`; null where n < 20.
    """
    records = []
    for method in passed:
        for stratum, found in bins.items():
            for place, name in enumerate(BINS[stratum]):
                inside = found == place
                n = int(inside.sum())
                if not n:
                    continue
                record: dict[str, Any] = {"method": method, "stratum": stratum, "bin": name, "n": n}
                enough = n >= LEAST
                count = int(passed[method][inside].sum())
                values = rates[method][inside]
                values = values[np.isfinite(values)]
                record["pass_rate"] = count / n if enough else None
                record["pass_rate_interval"] = wilson(count, n) if enough else None
                record["uniform_share"] = float(uniform[method][inside].mean()) if enough else None
                record["mean_fr"] = float(values.mean()) if enough and len(values) else None
                records.append(record)
    return records


def _spread(hit: NDArray[np.float64], bins: NDArray[np.int64], count: int) -> float:
    """Pearson's χ² of hit by bin."""
    total = np.bincount(bins, minlength=count).astype(float)
    hits = np.bincount(bins, hit, minlength=count)
    share = hit.mean()
    if share in (0.0, 1.0):
        return 0.0
    used = total > 0
    expected = total[used] * share
    return float(((hits[used] - expected) ** 2 / (expected * (1 - share))).sum())


def uniform_tests(
    bins: Mapping[str, NDArray[np.int64]],
    uniform: Mapping[str, NDArray[np.bool_]],
    people: NDArray[np.int64],
    seed: int,
) -> list[dict[str, Any]]:
    """Does the share of uniform maps depend on the stratum?

    The statistic is χ²; its distribution comes from exchanging outcomes between identities: a
    probe's identity with all its pairs gets the outcomes of another identity, recycled where that
    one has fewer. Bins with fewer than 20 pairs are left out.

    Returns:
        Records with `method`, `stratum`, `n`, `p`, `p_bh` (Benjamini–Hochberg over the table);
        no record where all maps or none are uniform, or fewer than two bins are left.
    """
    from scipy.stats import false_discovery_control

    records: list[dict[str, Any]] = []
    for method, outcome in uniform.items():
        for stratum, found in bins.items():
            sizes = np.bincount(found[found >= 0], minlength=len(BINS[stratum]))
            kept = np.isin(found, np.flatnonzero(sizes >= LEAST)) & (found >= 0)
            hit = outcome[kept].astype(float)
            if len(np.unique(found[kept])) < 2 or not 0 < hit.mean() < 1:
                continue
            p = _cluster_p(hit, found[kept], people[kept, 0], seed)
            records.append({"method": method, "stratum": stratum, "n": int(kept.sum()), "p": p})
    if records:
        corrected = false_discovery_control([record["p"] for record in records])
        for record, p in zip(records, corrected, strict=True):
            record["p_bh"] = float(p)
    return records


def _cluster_p(
    hit: NDArray[np.float64], bins: NDArray[np.int64], person: NDArray[np.int64], seed: int
) -> float:
    rng = np.random.default_rng(seed)
    count = int(bins.max()) + 1
    order = np.argsort(person, kind="stable")
    hit, bins = hit[order], bins[order]
    _, start, size = np.unique(person[order], return_index=True, return_counts=True)
    groups = [hit[first : first + n] for first, n in zip(start, size, strict=True)]
    observed = _spread(hit, bins, count)
    larger = 0
    for _ in range(PERMUTATIONS):
        drawn = rng.permutation(len(groups))
        mixed = np.concatenate(
            [np.resize(rng.permutation(groups[g]), n) for g, n in zip(drawn, size, strict=True)]
        )
        larger += _spread(mixed, bins, count) >= observed - 1e-12
    return (larger + 1) / (PERMUTATIONS + 1)
