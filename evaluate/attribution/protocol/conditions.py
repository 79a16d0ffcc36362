"""Strata: figures by pose, light, occlusion and kind of pair.

The bins are fixed here, before any result. A cell with fewer than 20 pairs has no figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.evaluate.attribution.why.covariates import Covariates
from faceguide.evaluate.metrics.strata import LEAST, OCCLUSIONS, POSES, occlusion_bins, wilson

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
    covariates: Covariates,
    probe: NDArray[np.int64],
    reference: NDArray[np.int64],
) -> dict[str, NDArray[np.int64]]:
    """Stratum → (N,) place in `BINS` of each pair; −1 where the cache does not know.

    Pose and light are the probe's.
    """
    known = covariates.tested
    angles, apart = (15.0, 30.0, 45.0), (10.0, 20.0, 30.0)
    return {
        "label": known["label"].astype(np.int64),
        "yaw": _cut(known["probe_yaw"], angles),
        "pitch": _cut(known["probe_pitch"], angles),
        "yaw difference": _cut(known["yaw_difference"], apart),
        "light": _cut(known["probe_light"], (80.0, 120.0, 160.0)),
        "light difference": _cut(known["light_difference"], (20.0, 40.0, 60.0)),
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
