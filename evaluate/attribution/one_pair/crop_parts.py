"""Which landmark regions of a crop carry a map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Parts = Mapping[str, NDArray[np.floating]]

# Eyes, nose and mouth as `prep guidance` draws them; the rest of the face above and below the
# middle of the eyes; and what is no face.
NAMES = ("eyes", "nose", "mouth", "forehead", "cheeks, chin", "outside")


def parts_of(regions: NDArray[np.floating], face: NDArray[np.floating]) -> Parts:
    """Name → (S, S) share of each pixel that lies in this part; they add up to 1.

    Args:
        regions: (3, S, S) 0 to 1, eyes, nose, mouth.
        face: (S, S) 0 to 1, everything within the outline of the face.
    """
    # Where two contours overlap, each has its share.
    own = regions / np.maximum(regions.sum(0), 1.0)
    rest = np.clip(face - own.sum(0), 0.0, 1.0)
    outside = np.clip(1.0 - own.sum(0) - rest, 0.0, 1.0)
    rows = np.arange(len(face))
    weight = own[0].sum(1)
    middle = (rows * weight).sum() / weight.sum() if weight.any() else len(face) / 2
    above = (rows < middle)[:, None]
    return dict(zip(NAMES, (*own, rest * above, rest * ~above, outside), strict=True))


def regions_of(parts: Parts) -> NDArray[np.floating]:
    """(3, S, S) eyes, nose and mouth."""
    return np.stack([parts[name] for name in NAMES[:3]])


def shares(values: NDArray[np.floating], parts: Parts) -> dict[str, float]:
    """Part → its signed sum as a share of all magnitudes; all 0 for a map of zeros.

    The shares add up to the balance of the map, 1 where everything supports the match, −1 where
    everything opposes it.

    Args:
        values: (S, S) map.
    """
    total = float(np.abs(values).sum(dtype=np.float64))
    return {
        name: float((values * part).sum(dtype=np.float64)) / total if total else 0.0
        for name, part in parts.items()
    }
