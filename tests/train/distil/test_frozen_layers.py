"""A network cut at a layer answers as the whole one does, whatever network and layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.train.distil.scenario import settled

from faceguide.core.errors import ModelError
from faceguide.train.distil.frozen_layers import before, cut, default_layer
from faceguide.train.models.backbones.backbone import FaceBackbone

NETWORKS: list[tuple[str, dict[str, Any], str]] = [
    ("mobilefacenet", {}, "features.6"),
    ("mbf", {}, "layers.5"),
    ("ir_18", {}, "body.5"),
    ("edgeface_xxs", {}, "stages.2"),
    ("vit", {"width": 32, "depth": 3, "heads": 2}, "blocks.2"),
    ("vit", {"width": 32, "depth": 3, "heads": 2, "keypoints": True}, "blocks.2"),
    ("inception_resnet_v1", {}, "repeat_2"),
]


@pytest.mark.parametrize(("name", "arguments", "layer"), NETWORKS)
def test_last_layers_give_the_embedding(name: str, arguments: dict[str, Any], layer: str) -> None:
    network = settled(name, **arguments)
    assert default_layer(network) == layer
    same(network, layer)


@pytest.mark.parametrize("layer", ["conv1", "dw_conv.pointwise", "features.12.conv.0.0", "gdconv"])
def test_other_layers_of_mobilefacenet(layer: str) -> None:
    same(settled("mobilefacenet"), layer)


def same(network: FaceBackbone, layer: str) -> None:
    rest = cut(network, layer)
    side = network.input_spec.size
    pixels = torch.randn(3, 3, side, side)
    beside = {"keypoints": torch.rand(3, 5, 2)} if network.needs_keypoints else {}
    with torch.no_grad():
        expected = network.raw_embedding(pixels, **beside)
        maps = before(network, layer, pixels, **beside)
        found, last = rest(maps, **beside)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert torch.allclose(last, network.feature_map(pixels, **beside), rtol=1e-4, atol=1e-5)
    every = dict(network.named_parameters())
    assert rest.trained <= every.keys()
    raw, _ = rest(maps, **beside)
    raw.square().sum().backward()
    reached = {key for key, value in every.items() if value.grad is not None}
    assert rest.trained <= reached
    # What else a gradient reaches is used by later layers, but belongs to none of them.
    assert all(key.startswith(("keypoint_linear", "pos_embed")) for key in reached - rest.trained)


def test_a_layer_inside_a_block_is_refused() -> None:
    """The block adds its input to its output: what the layer is given does not tell it."""
    with pytest.raises(ModelError, match=r"by another way too; choose .* such as features\.6"):
        cut(settled("mobilefacenet"), "features.6.conv.1")


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="not a layer that runs; choose one of conv1, "):
        cut(settled("mobilefacenet"), "features.99")
