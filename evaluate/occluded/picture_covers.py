"""Pictures of occluders with anchor points, from a folder in the layout of OCFR-2022.

The folder has `occlusions.csv` without a header: file, type, width, height, then left eye, right
eye, nose, left and right corner of the mouth, each "x,y" in pixels of the picture or empty or
"0,0"; the file lies in the folder of its type and has an alpha channel. (Neto et al., "OCFR 2022:
Competition on Occluded Face Recognition From Synthetically Generated Structure-Aware Occlusions",
2022.)
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import EvaluationError
from faceguide.core.faces.align import FIVE_POINTS

LIST = "occlusions.csv"
_MOST = 4096  # pixels on a side


@dataclass(frozen=True)
class PictureCover:
    """One occluder.

    Attributes:
        name: TYPE/FILE.
        layers: (h, w, 4) RGBA float32, colour times alpha 0 to 255 and alpha 0 to 1.
        landmarks: (A,) of the anchors it has, 2 to 5.
        anchors: (A, 2) x and y in the picture.
    """

    name: str
    layers: NDArray[np.float32]
    landmarks: tuple[int, ...]
    anchors: NDArray[np.float64]

    def on(
        self, points: NDArray[np.float32], size: int, strength: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Colour (size, size, 3) and cover (size, size) on a face.

        Two anchors set shift, turn and scale; more an affine map, of least squares.

        Args:
            points: (478, 2) landmarks in pixels.
            strength: area, as a share of that by the anchors.
        """
        there = points[list(self.landmarks)].astype(np.float64)
        there = there.mean(0) + np.sqrt(strength) * (there - there.mean(0))
        x, y = self.anchors.T
        if len(there) == 2:
            # x' = a x - b y + c and y' = b x + a y + d
            ones, zeros = np.ones(2), np.zeros(2)
            across, down = np.stack([x, -y, ones, zeros]), np.stack([y, x, zeros, ones])
            a, b, c, d = np.linalg.solve(np.hstack([across, down]).T, there.T.ravel())
            matrix = np.array([[a, -b, c], [b, a, d]])
        else:
            matrix = np.linalg.lstsq(np.stack([x, y, np.ones(len(x))], 1), there, rcond=None)[0].T
        shrinks = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        # Premultiplied, or the colour of what is clear would bleed into the edge.
        layers = cv2.GaussianBlur(self.layers, (0, 0), max(0.4 / max(shrinks, 0.02), 0.1))
        warped = np.asarray(cv2.warpAffine(layers, matrix, (size, size)), np.float32)
        cover = warped[..., 3].clip(0.0, 1.0)
        return warped[..., :3] / np.maximum(cover, 1e-3)[..., None], cover


def read_pictures(folder: Path) -> tuple[PictureCover, ...]:
    """The occluders of a folder, in the order of their list.

    Raises:
        EvaluationError: naming the file and line of what is wrong.
    """
    path = folder / LIST
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(
            f"{path}: cannot read: {error}; expected FOLDER/{LIST} and FOLDER/TYPE/FILE.png as "
            "OCFR-2022 has them"
        ) from None
    found = {}
    for number, fields in enumerate(lines, 1):
        if not any(fields):
            continue
        try:
            name = f"{fields[1]}/{fields[0]}"
            places = [_point(field) for field in fields[4:9]]
        except (IndexError, ValueError):
            raise EvaluationError(
                f"{path}: line {number}: expected file, type, width, height and five points, each "
                '"x,y" or empty'
            ) from None
        chosen = [index for index, place in enumerate(places) if place is not None]
        anchors = np.array([places[index] for index in chosen], np.float64)
        if len(chosen) < 2 or np.linalg.matrix_rank(anchors - anchors.mean(0)) < min(
            len(chosen) - 1, 2
        ):
            raise EvaluationError(
                f"{path}: line {number}: expected two anchor points or more that lie apart, three "
                "not on a line"
            )
        landmarks = tuple(FIVE_POINTS[index] for index in chosen)
        found[name] = PictureCover(name, _layers(folder, name), landmarks, anchors)
    if not found:
        raise EvaluationError(f"{path}: no occluder")
    return tuple(found.values())


def _point(text: str) -> tuple[float, float] | None:
    if not text.strip():
        return None
    x, y = (float(part) for part in text.split(","))
    if not np.isfinite([x, y]).all():
        raise ValueError
    return None if x == y == 0 else (x, y)


def _layers(folder: Path, name: str) -> NDArray[np.float32]:
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise EvaluationError(f"{folder / LIST}: {name} is outside the folder")
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        bgra = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except (OSError, cv2.error):
        bgra = None
    if bgra is None or bgra.ndim != 3 or bgra.shape[2] != 4 or bgra.dtype != np.uint8:
        raise EvaluationError(f"{path}: expected a PNG with an alpha channel")
    if max(bgra.shape) > _MOST:
        raise EvaluationError(f"{path}: at most {_MOST} pixels on a side")
    alpha = bgra[..., 3:].astype(np.float32) / 255.0
    colour = cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGB).astype(np.float32) * alpha
    return np.concatenate([colour, alpha], axis=2)
