"""What pixels a network was trained on, and the one function that makes them.

The cache and every stream hold uint8 RGB; each backbone states its own side, colour order and
scale here, so that training and evaluation cannot disagree about them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.core.errors import ModelError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputSpec:
    """The input of a network: (x / 255 − mean) / std, channels in the order of `colour`.

    Attributes:
        size: side of the square image in pixels that the published weights were trained with.
        colour: "RGB" or "BGR", the order of the channels that the network sees.
        mean: per channel, in the order of `colour`, as a share of full scale (0 to 1).
        std: per channel, in the order of `colour`, as a share of full scale (above 0).
    """

    size: int
    colour: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.colour not in ("RGB", "BGR"):
            raise ModelError(f"colour order must be RGB or BGR, found {self.colour!r}")
        if self.size < 1:
            raise ModelError(f"image side must be at least 1 pixel, found {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ModelError(
                "mean and std must be three numbers each, std above 0, "
                f"found mean {self.mean} and std {self.std}"
            )

    def in_colour(self, colour: str) -> InputSpec:
        """The same input with the channels in this order, "RGB" or "BGR"."""
        if colour == self.colour:
            return self
        return replace(self, colour=colour, mean=self.mean[::-1], std=self.std[::-1])

    def prepare(self, images: torch.Tensor | NDArray[np.uint8]) -> torch.Tensor:
        """uint8 pixels of the cache → the network's input, on the device where they lie.

        Args:
            images: (N, H, W, 3) uint8, RGB.

        Returns:
            (N, 3, H, W) float32 in the channel order and scale of this statement, channels last in
            memory.

        Raises:
            ModelError: when `images` is not (N, H, W, 3) uint8.
        """
        pixels = torch.as_tensor(images)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ModelError(
                "images must be (N, H, W, 3) uint8 RGB, "
                f"found {tuple(pixels.shape)} {str(pixels.dtype).removeprefix('torch.')}"
            )
        if self.colour == "BGR":
            pixels = pixels.flip(-1)
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self.mean, device=pixels.device).reshape(shape) * 255.0
        std = torch.tensor(self.std, device=pixels.device).reshape(shape) * 255.0
        # A view of the same bytes: (N, 3, H, W) with the channels last in memory, which
        # convolutions prefer.
        return pixels.permute(0, 3, 1, 2).to(torch.float32).sub_(mean).div_(std)


ADAFACE_INPUT = InputSpec(size=112, colour="BGR", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
ARCFACE_INPUT = ADAFACE_INPUT.in_colour("RGB")
MOBILEFACENET_INPUT = InputSpec(size=112, colour="RGB", mean=IMAGENET_MEAN, std=IMAGENET_STD)
CAL_INPUT = InputSpec(size=448, colour="RGB", mean=IMAGENET_MEAN, std=IMAGENET_STD)
