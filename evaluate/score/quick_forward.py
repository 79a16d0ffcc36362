"""The forward passes of a network as one frozen graph, for the many faces of an evaluation.

A graph is traced once, and normalisation is folded into the convolutions before it. In float32,
networks with depthwise convolutions run in oneDNN's own layout, all others with channels last. The
numbers differ from those of the network itself by rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.loading.network import Network

_BATCH_CPU, _BATCH_GPU = 16, 128  # larger batches leave a core's cache


def batch_size_of(network: Network) -> int:
    """Crops of one forward pass where nobody says how many."""
    return _BATCH_CPU if network.device.type == "cpu" else _BATCH_GPU


def workers_of(network: Network) -> int:
    """Threads that each run a forward pass of their own on one core.

    That is faster than one pass on all cores, and its numbers do not depend on how many there
    are. A network that is not ours may not be safe to call so.
    """
    return torch.get_num_threads() if _is_ours(network) else 1


def quickened(network: Network) -> Network:
    """The network with its passes as a graph, where it is one of ours on a processor."""
    # Which tokens are left out differs from face to face: that is no one graph.
    if not _is_ours(network) or network.hidden == "drop":
        return network
    assert isinstance(network.backbone, FaceBackbone)
    # Operations in oneDNN's own layout keep their precision, whatever autocast says.
    blocked = network.precision == "float32" and any(
        isinstance(module, nn.Conv2d) and module.groups > 1 for module in network.backbone.modules()
    )
    return replace(network, backbone=_Graph(network.backbone, network.map_side, blocked))


def _is_ours(network: Network) -> bool:
    ours = isinstance(network.backbone, FaceBackbone) and not network.is_foreign
    return ours and network.device.type == "cpu"


class _Run(nn.Module):
    """`FaceBackbone.run` with plain tensors in and out, as a tracer needs it."""

    def __init__(self, backbone: FaceBackbone, sides: Collection[int]) -> None:
        super().__init__()
        self.backbone, self.sides = backbone, sides

    def forward(self, pixels: Tensor, *keypoints: Tensor) -> tuple[Tensor, ...]:
        named = {"keypoints": keypoints[0]} if keypoints else {}
        raw, maps = self.backbone.run(pixels, self.sides, **named)
        return (raw, *(maps[side] for side in self.sides))


class _Graph(FaceBackbone):
    """A backbone whose passes run as one graph, which gives at most one map.

    Args:
        backbone: whose passes; it is laid out anew.
        map_side: of the map.
        blocked: in oneDNN's own layout, else with channels last.
    """

    def __init__(self, backbone: FaceBackbone, map_side: int, blocked: bool) -> None:
        super().__init__()
        self.input_spec, self.embedding_size = backbone.input_spec, backbone.embedding_size
        self.needs_keypoints, self.map_side = backbone.needs_keypoints, map_side
        self.map_channels = {
            side: channels for side, channels in backbone.map_channels.items() if side == map_side
        }
        self.backbone = backbone
        self.layout = torch.contiguous_format if blocked else torch.channels_last
        backbone.to(memory_format=self.layout)  # type: ignore[call-overload]
        side = backbone.input_spec.size
        given = [torch.zeros(2, 3, side, side).contiguous(memory_format=self.layout)]
        if self.needs_keypoints:
            given.append(torch.zeros(2, 5, 2))
        whole = _Run(backbone, tuple(self.map_channels)).eval()
        optimise = torch.jit.optimize_for_inference if blocked else torch.jit.freeze
        with warnings.catch_warnings(), torch.no_grad():
            # The tracer is to be replaced by one that needs a C++ compiler on the user's machine.
            warnings.simplefilter("ignore")
            self.graph = optimise(torch.jit.trace(whole, tuple(given), check_trace=False))

    def run(
        self, images: Tensor, sides: Collection[int] = (), **beside: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """See `FaceBackbone.run`."""
        raw, *maps = self.graph(images.contiguous(memory_format=self.layout), *beside.values())
        return raw, dict(zip(self.map_channels, maps, strict=True))

    def feature_map(self, images: Tensor, map_size: int | None = None, **beside: Tensor) -> Tensor:
        """See `FaceBackbone.feature_map`."""
        return self.forward_all(images, map_size, **beside).feature_map
