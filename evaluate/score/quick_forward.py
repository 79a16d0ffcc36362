"""The forward passes of a network as one optimised graph, for the many faces of an evaluation.

Each graph is traced once and frozen: normalisation is folded into the convolutions before it,
activations are fused. Networks of depthwise convolutions run in oneDNN's own layout, all others
with channels last. The numbers differ from those of the network itself by rounding (1e-6).
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from faceguide.evaluate.score.network import Network
from faceguide.train.models.backbones.backbone import BackboneOutput, FaceBackbone
from faceguide.train.models.own_networks import is_own

BATCH_CPU, BATCH_GPU = 16, 128  # larger batches leave a core's cache


def batch_size_of(network: Network) -> int:
    """Crops of one forward pass where nobody says how many."""
    return BATCH_CPU if network.device.type == "cpu" else BATCH_GPU


def workers_of(network: Network) -> int:
    """Threads that each run a forward pass of their own on one core.

    That is faster than one pass on all cores, and its numbers do not depend on how many there
    are. A network that is not ours may not be safe to call so.
    """
    alone = network.device.type != "cpu" or not isinstance(network.backbone, FaceBackbone)
    return 1 if alone or is_own(network.name) else torch.get_num_threads()


def quickened(network: Network) -> Network:
    """The network with its passes as a graph, where it is one of ours on a processor."""
    if network.device.type != "cpu" or is_own(network.name):
        return network
    if not isinstance(network.backbone, FaceBackbone):
        return network
    return replace(network, backbone=_Graph(network.backbone, network.map_side))


class _Whole(nn.Module):
    """`forward_all` with plain tensors in and out, as a tracer needs it."""

    def __init__(self, backbone: FaceBackbone, map_side: int) -> None:
        super().__init__()
        self.backbone, self.map_side = backbone, map_side

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        unit, norm, feature_map = self.backbone.forward_all(pixels, self.map_side)
        return unit, norm, feature_map


class _Graph(FaceBackbone):
    """A backbone whose passes run as one frozen graph."""

    def __init__(self, backbone: FaceBackbone, map_side: int) -> None:
        super().__init__()
        self.input_spec, self.map_channels = backbone.input_spec, backbone.map_channels
        self.embedding_size, self.backbone = backbone.embedding_size, backbone
        depthwise = any(
            isinstance(module, nn.Conv2d) and module.groups > 1 for module in backbone.modules()
        )
        self.layout = torch.contiguous_format if depthwise else torch.channels_last
        backbone.to(memory_format=self.layout)  # type: ignore[call-overload]
        side = backbone.input_spec.size
        pixels = torch.zeros(2, 3, side, side).contiguous(memory_format=self.layout)
        whole = _Whole(backbone, map_side).eval()
        optimise = torch.jit.optimize_for_inference if depthwise else torch.jit.freeze
        with warnings.catch_warnings(), torch.no_grad():
            # Shapes are checked in Python, and the tracer says that it keeps what it saw. What is
            # to take the tracer's place needs a C++ compiler on the user's machine.
            warnings.simplefilter("ignore")
            self.graph = optimise(torch.jit.trace(whole, pixels, check_trace=False))

    def forward_all(self, images: Tensor, map_size: int = 7) -> BackboneOutput:
        """See `FaceBackbone.forward_all`."""
        return BackboneOutput(*self.graph(images.contiguous(memory_format=self.layout)))

    def feature_map(self, images: Tensor, map_size: int = 7) -> Tensor:
        """See `FaceBackbone.feature_map`."""
        return self.forward_all(images).feature_map
