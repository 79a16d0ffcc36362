"""Take landmarks out of a cache, in the text format that `prep landmarks` imports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.files import replacing

_BLOCK = 1024


def format_line(key: str, points: NDArray[np.floating]) -> str:
    """One line of the text format, without its newline.

    Four decimals: what is read back differs by less than 0.001 pixels.

    Args:
        key: the row key, without line breaks.
        points: (478, 2) in source pixels.
    """
    return key + " " + " ".join(f"{x:.4f},{y:.4f}" for x, y in points.tolist())


def export_landmarks(cache: FaceCache, out: Path) -> tuple[int, int]:
    """Write `key x1,y1 … x478,y478` in source pixels, one line per good row.

    Returns:
        Lines written, and good rows left out because their key holds a line break.
    """
    written = left_out = 0
    rows = cache.select()
    size = cache.recipe["size"]
    with (
        replacing(out) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            values = cache.read(block, ["landmarks", "transform"])
            square = np.zeros((len(block), 3, 3))
            square[:, :2] = values["transform"]
            square[:, 2, 2] = 1
            back = np.linalg.inv(square)
            points = np.ones((len(block), values["landmarks"].shape[1], 3))
            points[:, :, :2] = values["landmarks"][:, :, :2].astype(np.float64) * size
            source = np.einsum("nij,npj->npi", back[:, :2], points)
            for key, face in zip(cache.texts("key", block), source, strict=True):
                if "\n" in key or "\r" in key:
                    left_out += 1
                    continue
                file.write(format_line(key, face) + "\n")
                written += 1
    return written, left_out
