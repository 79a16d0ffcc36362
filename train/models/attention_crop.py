"""Attention crop and attention drop: look closer at what attends, or take it away.

Source: Hu et al., "See Better Before Looking Closer" (WS-DAN), 2019, sections 3.3 and 3.4, as CAL
uses them. Every step stays on the device; nothing waits for a number of a single image. Images
whose map is zero, or flat enough that everything would be dropped, come back whole.

All resizing is bilinear with aligned corners, as published. `attention` is (N, 1, h, w) and
non-negative; `theta` is a share of its maximum, 0 to 1, one for all or (N,); `height` and `width`
are the image's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def attended(attention: Tensor, theta: float | Tensor, height: int, width: int) -> Tensor:
    """(N, 1, height, width) bool: where the map reaches a share of its maximum."""
    attention = attention.detach().float()
    share = torch.as_tensor(theta, dtype=torch.float32, device=attention.device)
    threshold = attention.amax((1, 2, 3), keepdim=True) * share.reshape(-1, 1, 1, 1)
    large = nn.functional.interpolate(
        attention, (height, width), mode="bilinear", align_corners=True
    )
    return large >= threshold


def _interval(line: Tensor, padding: float) -> tuple[Tensor, Tensor]:
    """First and last true place of (N, L) bool, widened by `padding` · L: start, end (exclusive).

    Without any true place, the whole line.
    """
    length = line.shape[1]
    margin = padding * length
    marks = line.to(torch.uint8)
    first = marks.argmax(1)
    last = length - 1 - marks.flip(1).argmax(1)
    # Truncation of first − margin and last + margin, in whole numbers.
    start = (first - math.ceil(margin)).clamp_min(0)
    end = (last + math.floor(margin)).clamp_max(length)
    # A single attended line without padding would give an empty crop: keep at least one.
    end = torch.maximum(end, start + 1)
    found = line.any(1)
    return torch.where(found, start, 0), torch.where(found, end, length)


def crop_boxes(
    attention: Tensor, theta: float | Tensor, padding: float, height: int, width: int
) -> Tensor:
    """The padded rectangle around what attends.

    Args:
        attention, theta, height, width: see above.
        padding: what is added on each side, as a share of the image's side.

    Returns:
        (N, 4) int64 y0, y1, x0, x1 in image pixels; y1 and x1 are exclusive.
    """
    mask = attended(attention, theta, height, width)[:, 0]
    # A map of zeros reaches its maximum everywhere and says nothing: the whole image.
    mask = mask & (attention.detach().amax((1, 2, 3)) > 0)[:, None, None]
    y0, y1 = _interval(mask.any(2), padding)
    x0, x1 = _interval(mask.any(1), padding)
    return torch.stack([y0, y1, x0, x1], dim=1)


def _sample_positions(start: Tensor, end: Tensor, image_side: int, side: int) -> Tensor:
    """Where `side` cells of a crop look, normalised as grid_sample with aligned corners asks.

    A target of another resolution than the image lies on it by area: cell j covers the image
    pixels around (j + ½) · image_side / side − ½.
    """
    scale = image_side / side
    cell = torch.arange(side, device=start.device, dtype=torch.float32)
    out_pixel = (cell + 0.5) * scale - 0.5
    step = (end - 1 - start).float() / max(image_side - 1, 1)
    in_pixel = start.float()[:, None] + out_pixel * step[:, None]
    in_cell = (in_pixel + 0.5) / scale - 0.5
    return 2.0 * in_cell / max(side - 1, 1) - 1.0


def crop(tensor: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Cut each image to its box and stretch it back to its own size.

    Images and the targets that belong to them (heatmaps, region masks, at any resolution) go
    through the same boxes.

    Args:
        tensor: (N, C, H, W) images, or targets of another resolution.
        boxes: from `crop_boxes`, in pixels of the image of height × width.

    Returns:
        (N, C, H, W), the shape and dtype of `tensor`.
    """
    y0, y1, x0, x1 = boxes.unbind(1)
    rows = _sample_positions(y0, y1, height, tensor.shape[2])
    columns = _sample_positions(x0, x1, width, tensor.shape[3])
    across, down = torch.broadcast_tensors(columns[:, None, :], rows[:, :, None])
    grid = torch.stack([across, down], dim=3)
    sampled = nn.functional.grid_sample(
        tensor.float(), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return sampled.to(tensor.dtype)


def attention_crop(
    images: Tensor, attention: Tensor, theta: float | Tensor, padding: float
) -> Tensor:
    """`images` (N, C, H, W) cut to what `attention` (N, 1, h, w) attends, at their own size."""
    height, width = images.shape[2], images.shape[3]
    with torch.no_grad():
        boxes = crop_boxes(attention, theta, padding, height, width)
        return crop(images, boxes, height, width)


def kept_after_drop(attention: Tensor, theta: float | Tensor, height: int, width: int) -> Tensor:
    """What an attention drop leaves of each image: (N, 1, height, width) bool.

    Everything stays where the map is zero, or where nothing at all would stay.
    """
    kept = ~attended(attention, theta, height, width)
    return kept | ~kept.any(3, keepdim=True).any(2, keepdim=True)
