"""Drawn covers for training: a medical mask, a veil with a slit, a rectangle, a niqab.

They are placed by the landmarks of the aligned face and come with the visibility that they leave,
exactly: the share of each cell that was not painted over. Random numbers are keyed by (seed,
epoch, row). A drawn cover is not a real one; docs/occlusion.md says what a head trained on
drawings can and cannot do.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.core.errors import TrainError
from faceguide.core.faces.face_oval import filled
from faceguide.train.data.keyed_random import keyed_uniform
from faceguide.train.data.niqab import niqab_on

PURPOSE_OCCLUDER = 31
_DRAWS = 20

# MediaPipe's outline of the face below the cheekbones, from the left of the image to the right.
_JAW = (
    *(227, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152),
    *(377, 400, 378, 379, 365, 397, 288, 361, 323, 447),
)
# The bridge of the nose, from between the eyes down to the middle of its back.
_BRIDGE = (168, 6, 197, 195)
_EYES = (468, 473)  # at the left and the right of the image


class Occluders(NamedTuple):
    """Kinds of covers, drawn with equal chance, and the share of the images that get one."""

    kinds: tuple[str, ...]
    share: float = 0.5


def draw(
    settings: Occluders,
    images: Tensor,
    landmarks: Tensor,
    visibility: Tensor,
    *,
    seed: int,
    epoch: int,
    rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """Cover some of the images; all tensors are on the CPU.

    Args:
        images: (N, S, S, 3) uint8 RGB, aligned.
        landmarks: (N, 478, 2 or 3), pixels / S; a face without finite landmarks stays as it is.
        visibility: (N, g, g) what can be seen before; S must be a multiple of g.
        rows: (N,) int64 rows of the cache.

    Returns:
        New images and the visibility that is left, float32. In a cell that was covered in part
        already, the two covers are taken as independent; everywhere else it is exact.

    Raises:
        TrainError: when the image's side is not a multiple of the grid's.
    """
    size, grid = images.shape[1], visibility.shape[-1]
    if size % grid:
        raise TrainError(
            f"occluders need crops whose side is a multiple of the visibility's grid, found "
            f"{size} pixels and {grid} cells"
        )
    draws = keyed_uniform((seed, epoch, PURPOSE_OCCLUDER), rows, _DRAWS).numpy()
    pixels = images.numpy().copy()
    points = landmarks[..., :2].float().numpy() * size
    cover = np.zeros((len(pixels), size, size), np.float32)
    for place in range(len(pixels)):
        # Number 0 decides whether, number 1 which; the others belong to the kind and to its cloth.
        if draws[place, 0] >= settings.share or not np.isfinite(points[place]).all():
            continue
        kind = settings.kinds[int(draws[place, 1] * len(settings.kinds))]
        if kind == "niqab":
            its = int(rows[place]), int(draws[place, 2] * 2**24)
            texture, cover[place] = niqab_on(points[place], size, its)
        else:
            cover[place] = paint(kind, points[place], size, draws[place, 2:])
            texture = cloth(size, draws[place, 10:], int(rows[place]))
        alpha = cover[place][..., None]
        mixed = pixels[place] * (1.0 - alpha) + texture * alpha
        pixels[place] = np.rint(mixed).astype(np.uint8)
    left = 1.0 - nn.functional.avg_pool2d(torch.from_numpy(cover)[:, None], size // grid)[:, 0]
    return torch.from_numpy(pixels), visibility.float() * left


def paint(
    kind: str, points: NDArray[np.floating], size: int, draws: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Painted share of each pixel.

    Args:
        kind: a name in `training_settings.SHAPES`.
        points: (478, 2) landmarks in pixels.
        draws: (8,) or more numbers in [0, 1).

    Returns:
        (size, size) 0 to 1.
    """
    points = np.asarray(points, np.float64)
    left, right = points[_EYES[0]], points[_EYES[1]]
    across = right - left
    down = np.array([-across[1], across[0]])  # as long as the distance of the eyes
    middle = (left + right) / 2
    if kind == "medical":
        return filled(_medical(points, down, draws), size)
    if kind == "band":
        return _band(middle, across, down, size, draws)
    width, height = (0.25 + 0.4 * draws[:2]) * size
    angle = np.deg2rad(30.0 * (draws[2] - 0.5))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2)
    return filled(corners @ turn + draws[3:5] * size, size)


def _medical(
    points: NDArray[np.floating], down: NDArray[np.float64], draws: NDArray[np.floating]
) -> NDArray[np.float64]:
    """From ear to ear along the jaw, a little outside the face, up to the bridge of the nose."""
    jaw = points[list(_JAW)]
    jaw = jaw + (0.02 + 0.12 * draws[0]) * (jaw - jaw.mean(0))
    at = 0.8 + 2.2 * draws[1]  # how far down the bridge the upper edge crosses it
    first = min(int(at), len(_BRIDGE) - 2)
    ridge = points[list(_BRIDGE)]
    top = ridge[first] + (at - first) * (ridge[first + 1] - ridge[first])
    # Over the cheeks the edge sags between nose and ear.
    sag = (0.05 + 0.25 * draws[2]) * down
    right, left = (jaw[-1] + top) / 2 + sag, (jaw[0] + top) / 2 + sag
    return np.vstack([jaw, right, top, left])


def _band(
    middle: NDArray[np.float64],
    across: NDArray[np.float64],
    down: NDArray[np.float64],
    size: int,
    draws: NDArray[np.floating],
) -> NDArray[np.float32]:
    """Everything of the head but a slit at the eyes; at times the hair above stays free."""
    above, below = 0.25 + 0.35 * draws[0], 0.2 + 0.35 * draws[1]
    reach = 0.85 + 0.5 * draws[2]
    bow = 0.15 * (draws[3] - 0.3)
    outline = [
        (-reach, 0.0), (-0.6, -above), (0.0, -above - bow), (0.6, -above),
        (reach, 0.0), (0.6, below), (0.0, below + bow), (-0.6, below),
    ]  # fmt: skip
    slit = np.array([middle + x * across + y * down for x, y in outline])
    cover = 1.0 - filled(slit, size)
    if draws[4] < 0.25:  # a face veil without a head scarf
        far = 6.0
        edge = [(-far, -above), (far, -above), (far, far), (-far, far)]
        cover *= filled(np.array([middle + x * across + y * down for x, y in edge]), size)
    return cover


def cloth(size: int, draws: NDArray[np.floating], row: int) -> NDArray[np.float32]:
    """(size, size, 3) RGB 0 to 255: a colour, shaded across, with folds and weave.

    Args:
        draws: (8,) or more numbers in [0, 1).
        row: what the folds depend on besides.
    """
    # Black, white and blue are what faces are covered with most.
    common = ((20, 20, 24), (230, 232, 236), (120, 170, 210), (40, 44, 70))
    choice = int(draws[0] * 2 * len(common))
    colour = np.array(common[choice] if choice < len(common) else draws[1:4] * 255.0)
    rng = np.random.default_rng([row, int(draws[4] * 2**24)])
    folds = cv2.resize(
        rng.normal(0.0, 1.0, (4, 8)).astype(np.float32), (size, size),
        interpolation=cv2.INTER_CUBIC,
    )  # fmt: skip
    weave = rng.normal(0.0, 1.0, (size, size)).astype(np.float32)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    shade = 1.0 + 0.5 * (draws[5] - 0.5) * x + 0.5 * (draws[6] - 0.5) * y + 0.12 * folds
    woven = colour * shade[..., None] + (1.0 + 7.0 * draws[7]) * weave[..., None]
    return np.clip(woven, 0.0, 255.0).astype(np.float32)
