"""Before and after: altered faces beside the photographs, and how alike the networks find them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.train.cal.attention_pictures import write, write_grid

FACES = 8
_TILE, _STRIP = 112, 20  # pixels
_TITLES = {"clean": "photograph", "cover": "covered", "surround": "swapped"}
Images = NDArray[np.uint8]


def draw_pairs(
    path: Path, versions: Mapping[str, Images], agreement: Mapping[str, NDArray[np.floating]]
) -> None:
    """Write a PNG, one row per face under titles, the photograph and each altered version.

    Below a face stands how well the released network and the one that is trained agree with the
    released one's answer to the photograph (cosine; under covers, of the visible parts).

    Args:
        versions: "clean", "cover", "surround" → (N, S, S, 3) RGB.
        agreement: the same → (N, 2) cosines.
    """
    rows = []
    for face in range(len(next(iter(versions.values())))):
        tiles = []
        for kind, images in versions.items():
            image = cv2.resize(images[face], (_TILE, _TILE), interpolation=cv2.INTER_AREA)
            strip = np.zeros((_STRIP, _TILE, 3), np.uint8)
            before, after = agreement[kind][face].tolist()
            write(strip, f"{before:.2f} > {after:.2f}", (4, _STRIP - 6))
            tiles.append(np.concatenate([image.astype(np.uint8), strip]))
        rows.append(np.concatenate(tiles, axis=1))
    write_grid(path, [_TITLES[kind] for kind in versions], rows)
