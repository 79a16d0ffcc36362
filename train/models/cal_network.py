"""Counterfactual Attention Learning on a weakly supervised attention network (WSDAN-CAL).

M attention maps pool the features of the backbone; the classifier's answer to the learned maps
minus its answer to fake maps is the effect that attention has, and is trained as well. Source:
Rao et al., "Counterfactual Attention Learning for Fine-Grained Visual Categorization and
Re-Identification", ICCV 2021, on Hu et al., "See Better Before Looking Closer" (WS-DAN), 2019.
State dict keys are those of the published code.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError
from faceguide.train.models.backbones.mobilefacenet import MobileFaceNetTrunk
from faceguide.train.models.backbones.resnet import from_imagenet, resnet_features
from faceguide.train.models.input_spec import CAL_INPUT, InputSpec

Value = TypeVar("Value")

# Keeps the slope of the signed square root finite at 0.
EPSILON = 1e-6
# The pooled features have length 1; without this factor the logits could hardly differ.
FEATURE_SCALE = 100.0


class CalOutput(NamedTuple):
    """What a forward returns, in the published order.

    Attributes:
        logits: (N, classes).
        effect: (N, classes) logits minus the logits under fake attention.
        features: (N, M·C) of length 1, attention first: column m · C + c.
        attention: eval (N, 1, h, w), the mean over the M maps; train (N, 2, h, w), the maps drawn
            for the attention crop and the attention drop.
    """

    logits: Tensor
    effect: Tensor
    features: Tensor
    attention: Tensor


class CalParts(NamedTuple):
    """A forward with everything that guidance and pictures look at.

    Attributes:
        output: what `forward` returns.
        maps: (N, M, h, w) non-negative attention before any prior is blended in.
        feature_map: (N, C, h, w) of the backbone.
    """

    output: CalOutput
    maps: Tensor
    feature_map: Tensor


class _Attention(nn.Module):
    """1×1 convolution, BatchNorm, ReLU: (N, C, h, w) → (N, M, h, w)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, heads, 1, bias=False)
        self.bn = nn.BatchNorm2d(heads, eps=1e-3)

    def forward(self, feature_map: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(feature_map)))


def attention_pool(feature_map: Tensor, attention: Tensor) -> Tensor:
    """Bilinear attention pooling, signed square root, length 1.

    Args:
        feature_map: (N, C, h, w).
        attention: (N, M, h, w).

    Returns:
        (N, M·C), column m · C + c.
    """
    cells = feature_map.shape[2] * feature_map.shape[3]
    # Half precision has too few digits for the root of numbers around EPSILON.
    wide = torch.promote_types(feature_map.dtype, torch.float32)
    attention, feature_map = attention.to(wide), feature_map.to(wide)
    with torch.autocast(feature_map.device.type, enabled=False):
        # (N, M, S) · (N, S, C) -> (N, M, C) -> (N, M·C)
        pooled = attention.flatten(2) @ feature_map.flatten(2).transpose(1, 2) / cells
    pooled = pooled.flatten(1)
    rooted = pooled.sign() * (pooled.abs() + EPSILON).sqrt()
    return nn.functional.normalize(rooted, dim=1)


def draw_maps(attention: Tensor, draws: Tensor) -> Tensor:
    """Two of the M maps per image, drawn with replacement in proportion to √(sum of the map).

    Args:
        attention: (N, M, h, w), non-negative.
        draws: (N, 2) uniform in [0, 1), on the same device; only they decide.

    Returns:
        (N, 2, h, w): the map for the crop and the map for the drop, which may coincide.
    """
    weight = (attention.detach().float().sum((2, 3)) + EPSILON).sqrt()
    cumulative = weight.cumsum(1)
    # Inverse of the distribution function, on the device: no number travels to the CPU.
    chosen = torch.searchsorted(cumulative, draws.to(cumulative.dtype) * cumulative[:, -1:])
    chosen = chosen.clamp_max(attention.shape[1] - 1)
    index = chosen[:, :, None, None].expand(-1, -1, *attention.shape[2:])
    return attention.gather(1, index)


class WSDANCAL(nn.Module):
    """Features, M attention maps, bilinear attention pooling and a linear classifier.

    Args:
        backbone: `resnet18`, `resnet34`, `resnet50`, `resnet101`, `resnet152` or `mobilefacenet`.
        heads: attention maps M.
        stride: image pixels per cell, 16 or 32 for ResNets. MobileFaceNet divides by 8 at "16"
            (its last stage keeps its resolution, dilated) and by 16 at "32": on 112 pixels 14×14
            and 7×7, as a ResNet has on 224.
    """

    input_spec: InputSpec = CAL_INPUT

    def __init__(self, backbone: str, num_classes: int, heads: int = 32, stride: int = 16) -> None:
        super().__init__()
        if stride not in (16, 32):
            raise ModelError(f"stride must be 16 or 32, found {stride}")
        if num_classes < 1 or heads < 1:
            raise ModelError(
                f"num_classes and heads must be at least 1, found {num_classes} and {heads}"
            )
        self.backbone = backbone
        self.features: nn.Module
        if backbone == "mobilefacenet":
            self.features = MobileFaceNetTrunk(stride // 2)
            self.input_spec = InputSpec(112, CAL_INPUT.colour, CAL_INPUT.mean, CAL_INPUT.std)
            self.channels = MobileFaceNetTrunk.channels
        elif backbone.startswith("resnet") and backbone.removeprefix("resnet").isdigit():
            depth = int(backbone.removeprefix("resnet"))
            self.features = resnet_features(depth, stride)
            self.channels = 512 if depth < 50 else 2048
        else:
            raise ModelError(
                f"backbone must be mobilefacenet or resnet18, 34, 50, 101, 152, found {backbone!r}"
            )
        self.attentions = _Attention(self.channels, heads)
        self.fc = nn.Linear(heads * self.channels, num_classes, bias=False)

    def forward(
        self,
        images: Tensor,
        *,
        fake_attention: Tensor | None = None,
        draws: Tensor | None = None,
        prior: Tensor | None = None,
        prior_share: float | Tensor = 0.0,
        parts: bool = False,
    ) -> CalOutput | CalParts:
        """Classify images; in training also draw what the crop and the drop look at.

        Args:
            images: (N, 3, H, W) float32, RGB, ImageNet mean and std.
            fake_attention: (N, M, h, w) counterfactual maps. Default: in training fresh
                U(0, 2) per element, in eval ones, as published.
            draws: (N, 2) uniform in [0, 1), which maps training returns; default fresh.
            prior: (N, M, h, w) maps blended into the attention before pooling.
            prior_share: weight of the prior, 0 to 1, one number or (N, 1, 1, 1), each image's
                own; at the number 0 the prior is not read.
            parts: also return all M maps and the feature map (`CalParts`). They come out of
                `forward` because a DistributedDataParallel wrapper passes nothing else on.
        """
        feature_map = self.features(images)
        maps = self.attentions(feature_map)
        attention = maps
        if prior is not None and (isinstance(prior_share, Tensor) or prior_share > 0.0):
            attention = (1.0 - prior_share) * maps + prior_share * prior
        if fake_attention is None:
            fake_attention = torch.ones_like(attention)
            if self.training:
                fake_attention = fake_attention.uniform_(0.0, 2.0)
        features = attention_pool(feature_map, attention)
        fake_features = attention_pool(feature_map, fake_attention.to(feature_map.dtype))
        logits = self.fc(features * FEATURE_SCALE)
        effect = logits - self.fc(fake_features * FEATURE_SCALE)
        if self.training:
            if draws is None:
                draws = torch.rand(len(images), 2, device=images.device)
            shown = draw_maps(attention, draws)
        else:
            shown = attention.mean(1, keepdim=True)
        output = CalOutput(logits, effect, features, shown)
        return CalParts(output, maps, feature_map) if parts else output

    def needed_names(self) -> list[str]:
        """Names that weights to start from must have; ImageNet's have no biases in blocks."""
        return [
            name
            for name in self.state_dict()
            if name.startswith("features.") and not name.endswith(("conv1.bias", "conv2.bias"))
        ]

    def adapt_state(self, state: dict[str, Value]) -> dict[str, Value]:
        """Pretrained backbone weights under this model's keys; its own keys stay as they are.

        A torchvision ResNet file or MobileFaceNet's weights are taken; their last layers
        (classifier or embedding) have no place here and are left out.
        """
        if any(key.startswith("attentions.") for key in state):
            return state
        if self.backbone == "mobilefacenet":
            tail = ("gdconv.", "conv3.", "bn.")
            kept = {k: v for k, v in state.items() if not k.startswith(tail)}
        else:
            kept = from_imagenet({k: v for k, v in state.items() if not k.startswith("fc.")})
        return {f"features.{key}": value for key, value in kept.items()}
