"""Augmentation of `train oaml`: AdaFace's, with the visibility of every cell taken along.

Source: Kim et al., "AdaFace", CVPR 2022, and its published recipe: a part of the image on black,
an image of fewer pixels, other light, each for one image in five, then a mirror image for every
second. The part stays at its place and what was cut off counts as occluded. Random numbers
are keyed by (seed, epoch, row).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.core.faces import LUMA
from faceguide.train.data.keyed_random import keyed_uniform
from faceguide.train.data.occluders import Occluders, draw
from faceguide.train.models.backbones.backbone import keypoints_of, mirrored_points

PURPOSE_FACES = 32
_DRAWS = 20
_AREA, _ASPECT = (0.2, 1.0), (3.0 / 4.0, 4.0 / 3.0)
_LEAST_SIDE = 0.2  # of an image of fewer pixels
_LIGHT = 0.5  # brightness, contrast and saturation change by up to this share
_FILTERS = (
    *(cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4),
)


@dataclass(frozen=True)
class FaceAugmentation:
    """Probabilities that only a part is left, on black; of fewer pixels; of other brightness,
    contrast and saturation; of a mirror image; and drawn covers, if any.
    """

    cut: float = 0.2
    coarse: float = 0.2
    light: float = 0.2
    flip: float = 0.5
    occluders: Occluders | None = None


def augmenting(
    settings: FaceAugmentation, seed: int, grid: int, keypoints: bool = False
) -> Callable[[dict[str, Tensor], int], dict[str, Tensor]]:
    """`augment_faces` as the transform of a stream.

    A batch has `image`, `row`, and where the cache has them `visibility` and `known`, and
    `landmarks`, which are left out afterwards. Without visibility all counts as visible but for
    what was occluded here, on `grid` cells a side, and nothing as known. With `keypoints`, five of
    the landmarks stay as such: mirrored with the image, at their places where it was cut.
    """

    def transform(batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        count, landmarks = len(batch["row"]), batch.pop("landmarks", None)
        images, seen = augment_faces(
            settings,
            batch["image"],
            batch.get("visibility", torch.ones(count, grid, grid)),
            batch["row"],
            seed=seed,
            epoch=epoch,
            landmarks=landmarks,
        )
        known = batch.get("known", torch.zeros(count, dtype=torch.bool))
        made = {**batch, "image": images, "visibility": seen, "known": known}
        if keypoints and landmarks is not None:
            points = keypoints_of(landmarks)
            mirrored = _draws(seed, epoch, batch["row"])[:, 3] < settings.flip
            made["keypoints"] = torch.where(
                mirrored[:, None, None], mirrored_points(points), points
            )
        return made

    return transform


def augment_faces(
    settings: FaceAugmentation,
    images: Tensor,
    visibility: Tensor,
    rows: Tensor,
    *,
    seed: int,
    epoch: int,
    landmarks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Images and visibility under random numbers of each row; all tensors are on the CPU.

    Args:
        images: (N, S, S, 3) uint8 RGB.
        visibility: (N, g, g), 1 = visible.
        rows: (N,) int64 rows of the cache.
        landmarks: (N, 478, 2 or 3), pixels / S; needed for drawn covers.

    Returns:
        (N, S, S, 3) uint8 and (N, g, g) float32, new tensors.
    """
    seen = visibility.float()
    if settings.occluders is not None and landmarks is not None:
        images, seen = draw(
            settings.occluders, images, landmarks, seen, seed=seed, epoch=epoch, rows=rows
        )
    draws = _draws(seed, epoch, rows).numpy()
    pixels, cells = images.numpy().copy(), seen.numpy().copy()
    for place, numbers in enumerate(draws):
        if numbers[0] < settings.cut:
            pixels[place], kept = _cut(pixels[place], numbers[4:8], cells.shape[-1])
            cells[place] *= kept
        if numbers[1] < settings.coarse:
            pixels[place] = _coarse(pixels[place], numbers[8:11])
        if numbers[2] < settings.light:
            pixels[place] = _light(pixels[place], numbers[11:15])
        if numbers[3] < settings.flip:
            pixels[place] = pixels[place][:, ::-1]
            cells[place] = cells[place][:, ::-1]
    return torch.from_numpy(pixels), torch.from_numpy(cells)


def _draws(seed: int, epoch: int, rows: Tensor) -> Tensor:
    """(N, 20) random numbers of the rows; the fourth decides whether one is mirrored."""
    return keyed_uniform((seed, epoch, PURPOSE_FACES), rows, _DRAWS)


def _cut(
    image: NDArray[np.uint8], draws: NDArray[np.float32], grid: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The image with black around a part of it, and the share of each cell that is left."""
    size = len(image)
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[0]) * size**2
    low, high = np.log(_ASPECT)
    aspect = np.exp(low + (high - low) * draws[1])
    width = min(max(round(float(np.sqrt(area * aspect))), 1), size)
    height = min(max(round(float(np.sqrt(area / aspect))), 1), size)
    left = min(int(draws[2] * (size - width + 1)), size - width)
    top = min(int(draws[3] * (size - height + 1)), size - height)
    part = np.zeros_like(image)
    part[top : top + height, left : left + width] = image[top : top + height, left : left + width]
    return part, np.outer(
        _covered(top, top + height, size, grid), _covered(left, left + width, size, grid)
    )


def _covered(first: int, end: int, size: int, grid: int) -> NDArray[np.float32]:
    """Share of each of `grid` equal parts of `size` pixels that lies in first … end."""
    edges = np.arange(grid + 1) * size / grid
    shared = np.minimum(edges[1:], end) - np.maximum(edges[:-1], first)
    return (shared.clip(0.0) * grid / size).astype(np.float32)


def _coarse(image: NDArray[np.uint8], draws: NDArray[np.float32]) -> NDArray[np.uint8]:
    size = len(image)
    side = max(int((_LEAST_SIDE + (1.0 - _LEAST_SIDE) * draws[0]) * size), 1)
    down, up = (_FILTERS[int(draw * len(_FILTERS))] for draw in draws[1:3])
    small = cv2.resize(image, (side, side), interpolation=down)
    return cv2.resize(small, (size, size), interpolation=up).astype(np.uint8)


def _light(image: NDArray[np.uint8], draws: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Brightness, contrast and saturation, in one of their six orders."""
    factors = 1.0 + _LIGHT * (2.0 * draws[:3] - 1.0)
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    pixels = image.astype(np.float32)
    for which in orders[int(draws[3] * 6)]:
        if which == 0:
            base: NDArray[np.float32] | float = 0.0
        else:
            grey = pixels @ np.array(LUMA, np.float32)
            base = float(grey.mean()) if which == 1 else grey[..., None]
        pixels = np.clip(base + factors[which] * (pixels - base), 0.0, 255.0)
    return np.rint(pixels).astype(np.uint8)
