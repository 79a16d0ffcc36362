"""Evaluation of CAL with 1, 2 or 8 forwards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from faceguide.train.data import augment
from faceguide.train.models.attention_crop import attention_crop
from faceguide.train.models.cal_network import WSDANCAL, CalOutput

# (theta, padding) of the crops, next to the whole image.
CROPS = {1: (), 2: ((0.1, 0.05),), 8: ((0.3, 0.1), (0.2, 0.1), (0.1, 0.05))}

Classify = Callable[[Tensor], CalOutput]


@torch.no_grad()
def predict(model: Classify, pixels: Tensor, forwards: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Means over views of the same images.

    1: the image. 2: the image and its attention crop (theta 0.1, padding 0.05). 8: the image, the
    crops of theta 0.3, 0.2 and 0.1, and all of that for the mirror image, each with its own
    attention; the protocol of the published code.

    Args:
        pixels: (N, 3, H, W) as its `input_spec` prepares them.
        forwards: 1, 2 or 8.

    Returns:
        logits (N, classes), effect (N, classes), features (N, M·C) of length 1.
    """
    outputs = []
    for view in (pixels, pixels.flip(3)) if forwards == 8 else (pixels,):
        whole = model(view)
        outputs.append(whole)
        for theta, padding in CROPS[forwards]:
            outputs.append(model(attention_crop(view, whole.attention, theta, padding)))

    def mean(tensors: list[Tensor]) -> Tensor:
        return torch.stack([tensor.float() for tensor in tensors]).mean(0)

    return (
        mean([output.logits for output in outputs]),
        mean([output.effect for output in outputs]),
        nn.functional.normalize(mean([output.features for output in outputs]), dim=1),
    )


def describe(model: WSDANCAL, images: Tensor, crop: int, forwards: int) -> Tensor:
    """(N, S, S, 3) uint8 → (N, M·C) features of the middle `crop` pixels, of length 1."""
    size = images.shape[1]
    geometry = augment.centre_geometry(len(images), size, min(crop, size), images.device)
    pixels = model.input_spec.prepare(augment.warp_images(images, geometry))
    return predict(model, pixels, forwards)[2]
