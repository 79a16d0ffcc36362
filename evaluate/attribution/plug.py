"""From a backbone's name and weights to what is explained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from faceguide.cache.files import file_sha256
from faceguide.evaluate.attribution.target import PairScore
from faceguide.evaluate.network import Network, load_network
from faceguide.evaluate.scores import make_matcher
from faceguide.train.models import create
from faceguide.train.models.checkpoint import load_weights
from faceguide.train.models.errors import CheckpointError
from faceguide.train.models.own import inner

# Networks without 7×7 and 14×14 maps, which are explained like any other.
_WITHOUT_MAPS = ("inception_resnet_v1", "vit_tiny")


def load_explained(
    backbone: str | None, weights: Path, device: torch.device | str = "cpu"
) -> Network:
    """A network with weights: one of ours, a training run, or the user's own.

    Args:
        backbone: a name, None for a training run, or `module:function`, see
            `train.models.own`.
        weights: the file, or the run's directory.
        device: where it will work.

    Raises:
        ModelError: when a user's network lacks what is needed.
        CheckpointError: when the weights do not fill the network.
    """
    if backbone is not None and backbone in _WITHOUT_MAPS:
        module: nn.Module = create(backbone)
        report = load_weights(module, weights)
        if report.missing or report.dropped:
            raise CheckpointError(
                f"{weights} does not hold a whole {type(module).__name__}: {report.summary()}"
            )
        network = Network(
            backbone, module, file_sha256(weights), notes=[report.summary()], source=weights
        )
        network.backbone.eval().requires_grad_(False).to(device)
        return network
    return load_network(backbone, weights, device)


def pair_score(network: Network, matcher: str) -> PairScore:
    """The score of a network and a matcher's name; its weights are laid out channels last."""
    # Convolutions on CPU and on tensor cores are faster so; the values differ by rounding.
    network.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if matcher == "cosine":
        # A user's network itself: methods know its layers by the names that it gave them.
        return PairScore(inner(network.backbone))
    return PairScore(
        network.backbone, make_matcher(matcher, network), network.map_side, network.occlusion_head
    ).eval()
