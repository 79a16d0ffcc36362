"""MobileFaceNet with a 128-number embedding, key-compatible with the public MS1M weights.

Source: Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on
Mobile Devices", 2018. About one million parameters: it trains on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.train.models.backbones.backbone import FaceBackbone, LinearTail, batch_norm_affine
from faceguide.train.models.input_spec import MOBILEFACENET_INPUT

# (expansion, channels, repeats, stride of the first block)
STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
# The block that halves 14×14 to 7×7; the 14×14 map is the output of the one before it.
LAST_STAGE = 12


def _conv_bn_relu6(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
        ),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class _SeparableConv(nn.Module):
    """Depthwise 3×3 and pointwise 1×1, each with BatchNorm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.depthwise(x)))
        return torch.relu(self.bn2(self.pointwise(x)))


class _InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, linear 1×1; added to the input where the shapes agree."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        expansion: int,
        residual: bool,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = residual
        self.conv = nn.Sequential(
            _conv_bn_relu6(inputs, hidden, 1, 1),
            _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden, dilation=dilation),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class _GlobalDepthwise(nn.Module):
    """One 7×7 weight map per channel, then BatchNorm: (N, C, 7, 7) → (N, C, 1, 1)."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, side, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.depthwise(x))
        return y


class MobileFaceNetTrunk(nn.Module):
    """MobileFaceNet up to its 512-channel map; any image side that is a multiple of 16.

    Args:
        stride: 16 as published (112 → 7). 8 keeps the last stage at full resolution (112 → 14);
            the depthwise convolutions after it then have dilation 2, so that the trained
            features stay what they were: every second cell equals the cell of the 7×7 map.
    """

    channels = 512

    def __init__(self, stride: int = 16) -> None:
        super().__init__()
        self.conv1 = _conv_bn_relu6(3, 64, 3, 2)
        self.dw_conv = _SeparableConv(64)
        blocks: list[nn.Module] = []
        inputs = 64
        for expansion, outputs, repeats, first_stride in STAGES:
            for repeat in range(repeats):
                step = first_stride if repeat == 0 else 1
                dilation = 1
                # Decided by the published stride: a block that halved the map and now keeps it
                # was trained without the addition.
                residual = step == 1 and inputs == outputs
                if stride == 8 and len(blocks) >= LAST_STAGE:
                    step, dilation = 1, 1 if len(blocks) == LAST_STAGE else 2
                blocks.append(
                    _InvertedResidual(inputs, outputs, step, expansion, residual, dilation)
                )
                inputs = outputs
        self.features = nn.Sequential(*blocks)
        self.conv2 = _conv_bn_relu6(128, 512, 1, 1)

    def to_middle(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, 128, H/8, W/8)."""
        x = self.dw_conv(self.conv1(images))
        middle: Tensor = self.features[:LAST_STAGE](x)
        return middle

    def from_middle(self, middle: Tensor) -> Tensor:
        """(N, 128, H/8, W/8) → (N, 512, …), halved unless the stride is 8."""
        last: Tensor = self.conv2(self.features[LAST_STAGE:](middle))
        return last

    def forward(self, images: Tensor) -> Tensor:
        return self.from_middle(self.to_middle(images))


class MobileFaceNet(FaceBackbone):
    """MobileFaceNet; maps 7×7×512 and 14×14×128.

    Args:
        embedding_size: numbers in the embedding; 128 in the public weights.
    """

    input_spec = MOBILEFACENET_INPUT
    map_channels = {7: 512, 14: 128}  # noqa: RUF012 (a constant of the class)
    cam_layers = ("features.4", f"features.{LAST_STAGE - 1}", "conv2")

    def __init__(self, embedding_size: int = 128) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        trunk = MobileFaceNetTrunk()
        # The trunk's parts under its own names: the keys of the public weights have no prefix.
        self.conv1 = trunk.conv1
        self.dw_conv = trunk.dw_conv
        self.features = trunk.features
        self.conv2 = trunk.conv2
        self.gdconv = _GlobalDepthwise(512, 7)
        self.conv3 = nn.Conv2d(512, embedding_size, 1)
        self.bn = nn.BatchNorm1d(embedding_size)

    def to_map14(self, images: Tensor) -> Tensor:
        x: Tensor = self.dw_conv(self.conv1(images))
        for block in self.features[:LAST_STAGE].children():
            x = block(x)
        return x

    def map14_to_map7(self, map14: Tensor) -> Tensor:
        x = map14
        for block in self.features[LAST_STAGE:].children():
            x = block(x)
        map7: Tensor = self.conv2(x)
        return map7

    def map7_to_embedding(self, map7: Tensor) -> Tensor:
        raw: Tensor = self.bn(self.conv3(self.gdconv(map7)).flatten(1))
        return raw

    def linear_tail(self) -> LinearTail:
        """Global depthwise, BatchNorm, 1×1 convolution, BatchNorm as one map per cell."""
        cells = self.gdconv.depthwise.weight[:, 0].flatten(1)  # (C, S)
        inner_scale, inner_shift = batch_norm_affine(self.gdconv.bn)
        outer_scale, outer_shift = batch_norm_affine(self.bn)
        matrix = self.conv3.weight[:, :, 0, 0]  # (E, C)
        # weight[s, c, e] = outer_e · matrix_ec · inner_c · cells_cs
        weight = torch.einsum("e,ec,c,cs->sce", outer_scale, matrix, inner_scale, cells)
        conv_bias = self.conv3.bias if self.conv3.bias is not None else 0.0
        bias = outer_scale * (matrix @ inner_shift + conv_bias) + outer_shift
        return LinearTail(weight, bias)
