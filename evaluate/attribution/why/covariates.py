"""What a pair is like: pose, light, occlusion and quality of both faces, their differences, score.

All of it is in the cache or in the run already. What the cache does not know is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import ORIGIN_CODE
from faceguide.core.faces import LUMA
from faceguide.evaluate.attribution.chimera.chimera_list import Chimeras

FACE = ("yaw", "pitch", "light", "occlusion", "quality")
_DIFFER = ("yaw", "pitch", "light")  # whose difference between two faces is a column, too
_READ = 256  # images that are read together


@dataclass(frozen=True)
class Covariates:
    """What is known of N pairs or chimeras.

    Attributes:
        columns: name → (N,), as pairs.csv has them: yaw and pitch in degrees with their sign
            (formats.md), light the mean brightness of the crop (Rec. 601, 0–255), occlusion the
            occluded share of the crop, quality the cache's; differences without a sign.
        tested: name → (N,), what outcomes are compared with: |yaw| and |pitch|; of a chimera the
            means over both identities.
        kind: (N,) genuine 1, impostor 0; None where all are of one kind.
    """

    columns: dict[str, NDArray[np.float64]]
    tested: dict[str, NDArray[np.float64]]
    kind: NDArray[np.int64] | None

    def first(self, count: int) -> Covariates:
        """Of so many pairs or chimeras."""
        columns, tested = (
            {name: values[:count] for name, values in some.items()}
            for some in (self.columns, self.tested)
        )
        return Covariates(columns, tested, None if self.kind is None else self.kind[:count])


def face_facts(cache: FaceCache, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Name of `FACE` → (N,) what the cache knows of these rows; NaN where it does not."""
    unique, back = np.unique(rows, return_inverse=True)
    unknown = np.full(len(unique), np.nan)
    optional = [name for name in ("quality", "visibility", "known") if name in cache.columns]
    found = cache.read(unique, ["pose", "origin", *optional])
    # The template's pose is nobody's.
    looked = (found["origin"] != ORIGIN_CODE["template"])[:, None]
    pose = np.where(looked, found["pose"], np.nan)
    light = [
        cache.read(unique[start : start + _READ], ["image"])["image"].mean((1, 2)) @ np.array(LUMA)
        for start in range(0, len(unique), _READ)
    ]
    hidden = unknown
    if "visibility" in optional:
        hidden = 1.0 - found["visibility"].astype(np.float64).mean((1, 2))
        hidden = np.where(found["known"], hidden, np.nan)
    facts = {
        "yaw": pose[:, 0],
        "pitch": pose[:, 1],
        "light": np.concatenate([*light, np.empty(0)]),
        "occlusion": hidden,
        "quality": found.get("quality", unknown),
    }
    return {name: values.astype(np.float64)[back] for name, values in facts.items()}


def _between(
    first: dict[str, NDArray[np.float64]], second: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    return {f"{name}_difference": np.abs(first[name] - second[name]) for name in _DIFFER}


def _sides(
    probe: dict[str, NDArray[np.float64]], reference: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """What is tested of either side; a turned head matters, not to which side it is turned."""
    return {
        f"{side}_{name}": np.abs(facts[name]) if name in ("yaw", "pitch") else facts[name]
        for name in FACE
        for side, facts in (("probe", probe), ("reference", reference))
    }


def pair_covariates(
    cache: FaceCache,
    probe: NDArray[np.int64],
    reference: NDArray[np.int64],
    same: NDArray[np.bool_],
    score: NDArray[np.floating],
) -> Covariates:
    """Of the pairs of `matched`; the label (genuine 1) is tested like the others."""
    facts = [face_facts(cache, rows) for rows in (probe, reference)]
    differences = _between(*facts)
    columns = {
        f"{side}_{name}": values
        for side, found in zip(("probe", "reference"), facts, strict=True)
        for name, values in found.items()
    }
    label = same.astype(np.float64)
    scores = {"score": score.astype(np.float64)}
    tested = {"label": label, **scores, **differences, **_sides(*facts)}
    return Covariates({**columns, **differences}, tested, same.astype(np.int64))


def chimera_covariates(
    cache: FaceCache, chimeras: Chimeras, scores: NDArray[np.float64]
) -> Covariates:
    """Of chimeras, which have four faces: bearer and donor in the picture, and their references.

    Args:
        scores: (N, 6), see `exchange.SCORES`. The mean of the composed face's two is tested.
    """
    rows = {
        "probe": chimeras.bearer,
        "reference": chimeras.bearer_reference,
        "donor": chimeras.donor,
        "donor_reference": chimeras.donor_reference,
    }
    facts = {side: face_facts(cache, some) for side, some in rows.items()}
    columns = {
        f"{side}_{name}": values for side, found in facts.items() for name, values in found.items()
    }
    differences = {
        name: (values + other) / 2
        for (name, values), other in zip(
            _between(facts["probe"], facts["reference"]).items(),
            _between(facts["donor"], facts["donor_reference"]).values(),
            strict=True,
        )
    }
    inside = {
        f"composed_{name}": values
        for name, values in _between(facts["probe"], facts["donor"]).items()
    }
    bearer = _sides(facts["probe"], facts["reference"])
    donor = _sides(facts["donor"], facts["donor_reference"])
    tested = {
        "score": scores[:, :2].mean(1),
        **differences,
        **inside,
        **{name: (values + donor[name]) / 2 for name, values in bearer.items()},
    }
    return Covariates({**columns, **differences, **inside}, tested, None)
