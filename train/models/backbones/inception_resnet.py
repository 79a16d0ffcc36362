"""Inception-ResNet-v1 as FaceNet uses it, key-compatible with facenet-pytorch's weights.

Source: Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", 2017; Schroff et al., "FaceNet", 2015. 160×160 RGB, (x − 127.5) / 128, 512 numbers.
"mixed" names a block that changes the resolution; there is no attention in this network.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from faceguide.train.models.backbones.backbone import (
    FaceBackbone,
    LinearTail,
    batch_norm_affine,
)
from faceguide.train.models.input_spec import InputSpec

FACENET_INPUT = InputSpec(160, "RGB", (0.5, 0.5, 0.5), (128 / 255, 128 / 255, 128 / 255))
# Keys of the classifier that published files carry and an embedding network does not have.
CLASSIFIER = ("logits.weight", "logits.bias")
# Convolutions without padding: the 3×3 cells are centred on pixels 37, 69 and 101 of 160. Of parts
# that begin at the edge, those of this share of the side come nearest.
_EXTENT = 0.8

Value = TypeVar("Value")
Size = int | tuple[int, int]


class BasicConv2d(nn.Module):
    """Convolution without bias, BatchNorm (ε 0.001), ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Size, stride: int = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001, momentum=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class _Residual(nn.Module):
    """Branches side by side, a 1×1 convolution with bias, scaled and added to the input."""

    def __init__(
        self, branches: Sequence[nn.Module], joined: int, channels: int, scale: float, relu: bool
    ) -> None:
        super().__init__()
        self.scale, self.relu, self.count = scale, relu, len(branches)
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)
        self.conv2d = nn.Conv2d(joined, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.get_submodule(f"branch{number}")(x) for number in range(self.count)]
        y: Tensor = x + self.scale * self.conv2d(torch.cat(parts, 1))
        return torch.relu(y) if self.relu else y


def _block35(scale: float) -> _Residual:
    branches = (
        BasicConv2d(256, 32, 1),
        nn.Sequential(BasicConv2d(256, 32, 1), BasicConv2d(32, 32, 3, padding=1)),
        nn.Sequential(
            BasicConv2d(256, 32, 1),
            BasicConv2d(32, 32, 3, padding=1),
            BasicConv2d(32, 32, 3, padding=1),
        ),
    )
    return _Residual(branches, 96, 256, scale, True)


def _block17(scale: float) -> _Residual:
    long = nn.Sequential(
        BasicConv2d(896, 128, 1),
        BasicConv2d(128, 128, (1, 7), padding=(0, 3)),
        BasicConv2d(128, 128, (7, 1), padding=(3, 0)),
    )
    return _Residual((BasicConv2d(896, 128, 1), long), 256, 896, scale, True)


def _block8(scale: float = 1.0, relu: bool = True) -> _Residual:
    long = nn.Sequential(
        BasicConv2d(1792, 192, 1),
        BasicConv2d(192, 192, (1, 3), padding=(0, 1)),
        BasicConv2d(192, 192, (3, 1), padding=(1, 0)),
    )
    return _Residual((BasicConv2d(1792, 192, 1), long), 384, 1792, scale, relu)


class _Reduction(nn.Module):
    """Branches of stride 2 and a max pooling, side by side."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.count = len(branches) + 1
        for number, branch in enumerate((*branches, nn.MaxPool2d(3, stride=2))):
            self.add_module(f"branch{number}", branch)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.get_submodule(f"branch{number}")(x) for number in range(self.count)]
        return torch.cat(parts, 1)


def _mixed_6a() -> _Reduction:
    deep = nn.Sequential(
        BasicConv2d(256, 192, 1),
        BasicConv2d(192, 192, 3, padding=1),
        BasicConv2d(192, 256, 3, stride=2),
    )
    return _Reduction((BasicConv2d(256, 384, 3, stride=2), deep))


def _mixed_7a() -> _Reduction:
    first = nn.Sequential(BasicConv2d(896, 256, 1), BasicConv2d(256, 384, 3, stride=2))
    second = nn.Sequential(BasicConv2d(896, 256, 1), BasicConv2d(256, 256, 3, stride=2))
    third = nn.Sequential(
        BasicConv2d(896, 256, 1),
        BasicConv2d(256, 256, 3, padding=1),
        BasicConv2d(256, 256, 3, stride=2),
    )
    return _Reduction((first, second, third))


class InceptionResnetV1(FaceBackbone):
    """FaceNet's network up to its embedding.

    The last map has 3×3 cells of which each has seen most of the face. Its mean goes through one
    linear layer, so that the embedding is a sum over them.

    Args:
        embedding_size: numbers in the embedding.
    """

    input_spec = FACENET_INPUT
    map_side = 3
    # The last blocks have 3×3 cells only.
    cam_layers = ("repeat_1", "repeat_2")

    def __init__(self, embedding_size: int = 512) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.map_channels = {17: 256, 8: 896, 3: 1792}
        self.conv2d_1a = BasicConv2d(3, 32, 3, stride=2)
        self.conv2d_2a = BasicConv2d(32, 32, 3)
        self.conv2d_2b = BasicConv2d(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = BasicConv2d(64, 80, 1)
        self.conv2d_4a = BasicConv2d(80, 192, 3)
        self.conv2d_4b = BasicConv2d(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35(0.17) for _ in range(5)))
        self.mixed_6a = _mixed_6a()
        self.repeat_2 = nn.Sequential(*(_block17(0.10) for _ in range(10)))
        self.mixed_7a = _mixed_7a()
        self.repeat_3 = nn.Sequential(*(_block8(0.20) for _ in range(5)))
        self.block8 = _block8(relu=False)
        self.avgpool_1a = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.6)
        self.last_linear = nn.Linear(1792, embedding_size, bias=False)
        self.last_bn = nn.BatchNorm1d(embedding_size, eps=0.001, momentum=0.1)

    def run(
        self, images: Tensor, sides: Collection[int] = (), **beside: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The raw embedding (N, E), and all maps."""
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(images)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        maps = {17: self.repeat_1(x)}
        maps[8] = self.repeat_2(self.mixed_6a(maps[17]))
        maps[3] = self.block8(self.repeat_3(self.mixed_7a(maps[8])))
        raw: Tensor = self.last_bn(
            self.last_linear(self.dropout(self.avgpool_1a(maps[3])).flatten(1))
        )
        return raw, maps

    def feature_map(self, images: Tensor, map_size: int | None = None, **beside: Tensor) -> Tensor:
        """The map of this side; the whole network runs."""
        side = self._check(images, map_size, beside)
        return self.run(images)[1][side]

    def linear_tail(self) -> LinearTail:
        """Mean, linear layer and BatchNorm as one map per cell."""
        scale, shift = batch_norm_affine(self.last_bn)
        weight = (scale[:, None] * self.last_linear.weight).T / self.map_side**2  # (C, E)
        return LinearTail(weight.expand(self.map_side**2, -1, -1), shift, _EXTENT)

    def adapt_state(self, state: dict[str, Value]) -> dict[str, Value]:
        """A published state dict without its classifier."""
        return {key: value for key, value in state.items() if key not in CLASSIFIER}
