"""The improved ResNets (IR) of AdaFace and CVLFace, and the iresnet of insightface's arcface_torch.

Source: Deng et al., "ArcFace", CVPR 2019 (the unit); Kim et al., "AdaFace", CVPR 2022. Keys are
AdaFace's; those of arcface_torch are renamed when its files are read.
"""

from __future__ import annotations

import re
from typing import TypeVar

import torch
from torch import Tensor, nn

from faceguide.train.models.backbones.backbone import FaceBackbone, LinearTail, batch_norm_affine
from faceguide.train.models.input_spec import ADAFACE_INPUT, ARCFACE_INPUT

Value = TypeVar("Value")

# Units per stage. Of one size, "101" is AdaFace's name and "100" that of arcface_torch.
UNITS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    101: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
CHANNELS = (64, 128, 256, 512)
# arcface_torch's names outside and inside its units.
_OUTSIDE = {
    **{"conv1": "input_layer.0", "bn1": "input_layer.1", "prelu": "input_layer.2"},
    **{"bn2": "output_layer.0", "fc": "output_layer.3", "features": "output_layer.4"},
}
_INSIDE = {
    **{"bn1": "res_layer.0", "conv1": "res_layer.1", "bn2": "res_layer.2"},
    **{"prelu": "res_layer.3", "conv2": "res_layer.4", "bn3": "res_layer.5"},
    "downsample": "shortcut_layer",
}
_UNIT = re.compile(r"layer([1-4])\.(\d+)\.(\w+)\.(.+)")


class _SqueezeExcite(nn.Module):
    """A gate per channel from the mean over the map (Hu et al., 2018), reduction 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.fc2(gate))


class _Unit(nn.Module):
    """BN, 3×3, BN, PReLU, 3×3 with the stride, BN; added to the shortcut without activation."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, squeeze_excite: bool, projects: bool
    ) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if not projects:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        if squeeze_excite:
            self.res_layer.add_module("se_block", _SqueezeExcite(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return y


class IR(FaceBackbone):
    """An IR network; maps 7×7×512 and 14×14×256.

    Args:
        depth: 18, 34, 50, 101, or 100 and 200 with `arcface`.
        squeeze_excite: a squeeze-and-excite gate at the end of each unit.
        embedding_size: numbers in the embedding; 512 in the released checkpoints.
        arcface: as arcface_torch builds it: the first shortcut is a convolution, the last
            BatchNorm has a bias, and pixels are RGB.
    """

    input_spec = ADAFACE_INPUT
    map_channels = {7: 512, 14: 256}  # noqa: RUF012 (a constant of the class)

    def __init__(
        self,
        depth: int,
        squeeze_excite: bool = False,
        embedding_size: int = 512,
        arcface: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.units, self.arcface = UNITS[depth], arcface
        if arcface:
            self.input_spec = ARCFACE_INPUT
        self.last_stage = sum(self.units[:3])
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, embedding_size),
            nn.BatchNorm1d(embedding_size, affine=arcface),
        )
        units: list[nn.Module] = []
        inputs = 64
        for outputs, repeats in zip(CHANNELS, UNITS[depth], strict=True):
            for repeat in range(repeats):
                projects = inputs != outputs or (arcface and not units)
                stride = 2 if repeat == 0 else 1
                units.append(_Unit(inputs, outputs, stride, squeeze_excite, projects))
                inputs = outputs
        self.body = nn.Sequential(*units)
        last = (sum(self.units[:2]), self.last_stage, len(units))  # of 28, 14 and 7 cells
        self.cam_layers = tuple(f"body.{place - 1}" for place in last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if arcface:  # as published: only the bias of the last layer is learnt
            self.get_parameter("output_layer.4.weight").requires_grad_(False)

    def adapt_state(self, state: dict[str, Value]) -> dict[str, Value]:
        """A state dict with arcface_torch's names, if there are any, under ours."""
        if not self.arcface:
            return state
        renamed = {}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            if (found := _UNIT.fullmatch(name)) and found[3] in _INSIDE:
                unit = sum(self.units[: int(found[1]) - 1]) + int(found[2])
                name = f"body.{unit}.{_INSIDE[found[3]]}.{found[4]}"
            elif part in _OUTSIDE and rest:
                name = f"{_OUTSIDE[part]}.{rest}"
            renamed[name] = value
        return renamed

    def to_map14(self, images: Tensor) -> Tensor:
        x: Tensor = self.input_layer(images)
        for unit in self.body[: self.last_stage].children():
            x = unit(x)
        return x

    def map14_to_map7(self, map14: Tensor) -> Tensor:
        x = map14
        for unit in self.body[self.last_stage :].children():
            x = unit(x)
        return x

    def map7_to_embedding(self, map7: Tensor) -> Tensor:
        raw: Tensor = self.output_layer(map7)
        return raw

    def linear_tail(self) -> LinearTail:
        """BatchNorm, flatten, linear, BatchNorm as one map per cell."""
        inner_scale, inner_shift = batch_norm_affine(self.output_layer[0])
        outer_scale, outer_shift = batch_norm_affine(self.output_layer[4])
        # Flatten runs channel first: the column of a weight is c · S + s.
        matrix = self.get_parameter("output_layer.3.weight").unflatten(1, (512, 49))  # (E, C, S)
        weight = torch.einsum("e,ecs,c->sce", outer_scale, matrix, inner_scale)
        shift = torch.einsum("ecs,c->e", matrix, inner_shift)
        shift = shift + self.get_parameter("output_layer.3.bias")
        return LinearTail(weight, outer_scale * shift + outer_shift)
