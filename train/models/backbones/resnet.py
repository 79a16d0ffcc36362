"""ResNet features as Counterfactual Attention Learning uses them: no pooling, no classifier.

Source: He et al., "Deep Residual Learning", CVPR 2016; the stride of a bottleneck sits on its
3×3 convolution. Two habits of the original CAL code are kept because its state_dict asks for
them: the modules are numbered 0 to 7, and the convolutions of a basic block have a bias.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError

Value = TypeVar("Value")

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# Where the parts of a torchvision ResNet file go; its `fc` has no place here.
IMAGENET_PREFIXES = {
    "conv1.": "0.",
    "bn1.": "1.",
    "layer1.": "4.",
    "layer2.": "5.",
    "layer3.": "6.",
    "layer4.": "7.",
}


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample
        # ImageNet files have no such biases: at zero they leave those weights what they were.
        for convolution in (self.conv1, self.conv2):
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def resnet_features(depth: int, stride: int = 16) -> nn.Sequential:
    """The convolutional part of a ResNet as a sequence of eight modules.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stride: image pixels per map cell: 16 as CAL published it (the last stage keeps its
            resolution, without dilation) or 32 as in ImageNet training.

    Returns:
        A module (N, 3, H, W) → (N, C, H/stride, W/stride), C = 512 for 18 and 34, else 2048.
    """
    if depth not in BLOCKS or stride not in (16, 32):
        raise ModelError(
            f"ResNet depth must be one of {sorted(BLOCKS)} and stride 16 or 32, "
            f"found depth {depth} and stride {stride}"
        )
    block: type[_BasicBlock] | type[_Bottleneck] = _BasicBlock if depth < 50 else _Bottleneck
    modules: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    stage_strides = (1, 2, 2, 1 if stride == 16 else 2)
    for width, repeats, first_stride in zip(
        (64, 128, 256, 512), BLOCKS[depth], stage_strides, strict=True
    ):
        stage: list[nn.Module] = []
        for repeat in range(repeats):
            step = first_stride if repeat == 0 else 1
            outputs = width * block.expansion
            # Every stage but the first of 18 and 34 changes its width: the keys are the same at
            # either stride.
            stage.append(block(inputs, width, step, _downsample(inputs, outputs, step)))
            inputs = outputs
        modules.append(nn.Sequential(*stage))
    features = nn.Sequential(*modules)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return features


def from_imagenet(state: dict[str, Value]) -> dict[str, Value]:
    """A torchvision ResNet state_dict under the keys of `resnet_features`; others as they are."""
    renamed = {}
    for key, value in state.items():
        for prefix, ours in IMAGENET_PREFIXES.items():
            if key.startswith(prefix):
                key = ours + key.removeprefix(prefix)
                break
        renamed[key] = value
    return renamed
