"""One geometric transform per image, for its pixels and for everything that lies on them.

A crop of the training side at a whole-pixel place, perhaps mirrored. The image is copied pixel by
pixel; heatmaps, masks and landmarks go through the same numbers. Random numbers are keyed by
(seed, epoch, row), so they do not depend on the batch, the process or the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from faceguide.core.errors import TrainError
from faceguide.core.faces import LUMA
from faceguide.train.data.keyed_random import keyed_uniform

PURPOSE_GEOMETRY, PURPOSE_COLOUR = 1, 2


class Geometry(NamedTuple):
    """Where each output pixel comes from.

    Attributes:
        left: (N,) int64, first column of the cut in cache pixels.
        top: (N,) int64, first row.
        mirrored: (N,) bool, output columns run from right to left.
        size: side of the cached image in pixels.
        crop: side of the output in pixels.
    """

    left: Tensor
    top: Tensor
    mirrored: Tensor
    size: int
    crop: int


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image; the defaults are CAL's.

    Attributes:
        crop: side of the output in pixels, at most the cached side.
        flip: probability of a mirror image.
        brightness: factor from 1 − this to 1 + this.
    """

    crop: int
    flip: float = 0.5
    brightness: float = 0.126
    saturation: float = 0.5


def check_crop(size: int, crop: int) -> None:
    """A crop of this side fits into the cached images, or a TrainError."""
    if not 1 <= crop <= size:
        raise TrainError(
            f"--crop must be from 1 to {size}, the side of the cached images, found {crop}; "
            "make a cache of larger crops with `prep landmarks --size … --margin …`"
        )


def draw_geometry(
    settings: Augmentation, size: int, seed: int, epoch: int, rows: Tensor
) -> Geometry:
    """A transform of each of the (N,) rows: uniform place, mirrored with probability `flip`."""
    check_crop(size, settings.crop)
    places = size - settings.crop + 1
    draws = keyed_uniform((seed, epoch, PURPOSE_GEOMETRY), rows, 3)  # (N, 3)
    # A number of 1 − 2⁻²⁴ times the number of places may round up to it.
    place = (draws[:, :2] * places).to(torch.int64).clamp_max(places - 1)
    return Geometry(place[:, 0], place[:, 1], draws[:, 2] < settings.flip, size, settings.crop)


def centre_geometry(count: int, size: int, crop: int, device: torch.device | str) -> Geometry:
    """The middle of the image, not mirrored: what evaluation looks at."""
    check_crop(size, crop)
    first = torch.full((count,), (size - crop) // 2, dtype=torch.int64, device=device)
    return Geometry(first, first, torch.zeros(count, dtype=torch.bool, device=device), size, crop)


def _source(geometry: Geometry, place: Tensor) -> tuple[Tensor, Tensor]:
    """Cache pixel of output places (L,), which need not be whole: columns (N, L), rows (N, L)."""
    last = geometry.crop - 1
    across = torch.where(geometry.mirrored[:, None], last - place, place)
    return geometry.left[:, None] + across, geometry.top[:, None] + place


def warp_images(images: Tensor, geometry: Geometry) -> Tensor:
    """(N, S, S, 3) uint8 → (N, crop, crop, 3), every pixel copied as it is."""
    place = torch.arange(geometry.crop, device=images.device)
    columns, rows = _source(geometry, place)
    image = torch.arange(len(images), device=images.device)
    return images[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def warp_targets(targets: Tensor, geometry: Geometry) -> Tensor:
    """Heatmaps or masks on what the output shows.

    Args:
        targets: (N, K, G, G), float or uint8; cell j of G lies around pixel
            (j + ½) · S / G − ½ of the cached image.

    Returns:
        (N, K, G, G) float32 over the output crop, bilinear; uint8 is read as 255 = 1.
    """
    values = targets.float() / 255.0 if targets.dtype == torch.uint8 else targets.float()
    cells = targets.shape[-1]
    cell = torch.arange(cells, device=targets.device, dtype=torch.float32)
    pixel = (cell + 0.5) * geometry.crop / cells - 0.5
    columns, rows = _source(geometry, pixel)

    def normalised(source: Tensor) -> Tensor:
        in_cells = (source + 0.5) * cells / geometry.size - 0.5
        return 2.0 * in_cells / max(cells - 1, 1) - 1.0

    across, down = normalised(columns)[:, None, :], normalised(rows)[:, :, None]
    grid = torch.stack(torch.broadcast_tensors(across, down), dim=3)
    return nn.functional.grid_sample(
        values, grid, mode="bilinear", padding_mode="border", align_corners=True
    )


def jitter(images: Tensor, settings: Augmentation, seed: int, epoch: int, rows: Tensor) -> Tensor:
    """Brightness, then saturation of (N, H, W, 3) uint8 RGB, each by a factor of the row's own.

    Rounded after each of the two, as image libraries do.
    """
    if settings.brightness == 0 and settings.saturation == 0:
        return images
    draws = 2.0 * keyed_uniform((seed, epoch, PURPOSE_COLOUR), rows, 2) - 1.0  # (N, 2)
    bright = (1.0 + settings.brightness * draws[:, 0])[:, None, None, None]
    vivid = (1.0 + settings.saturation * draws[:, 1])[:, None, None, None]
    pixels = (images.float() * bright).clamp_(0.0, 255.0).round_()
    grey = (pixels * torch.tensor(LUMA, device=images.device)).sum(3, keepdim=True).round_()
    return (grey + vivid * (pixels - grey)).clamp_(0.0, 255.0).round_().to(torch.uint8)
