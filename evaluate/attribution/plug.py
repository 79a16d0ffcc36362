"""From a backbone's name and weights to what is explained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from faceguide.cache.files import file_sha256
from faceguide.evaluate.attribution.errors import AttributionError
from faceguide.evaluate.attribution.methods import load_object
from faceguide.evaluate.attribution.target import PairScore
from faceguide.evaluate.network import Network, load_network
from faceguide.evaluate.scores import make_matcher
from faceguide.train.models import create
from faceguide.train.models.checkpoint import load_weights
from faceguide.train.models.errors import CheckpointError
from faceguide.train.models.input_spec import InputSpec

# Networks without 7×7 and 14×14 maps, which are explained like any other.
_OWN = ("inception_resnet_v1", "vit_tiny")


def load_explained(
    backbone: str | None, weights: Path, device: torch.device | str = "cpu"
) -> Network:
    """A network with weights: one of ours, a training run, or the user's own.

    Args:
        backbone: a name, None for a training run, or `module:function`; the function gets the
            weights' path and returns a module with an `input_spec` whose forward gives
            embeddings (N, E).
        weights: the file, or the run's directory.
        device: where it will work.

    Raises:
        AttributionError: when a user's network lacks what is needed.
        CheckpointError: when the weights do not fill the network.
    """
    if backbone is not None and backbone in _OWN:
        module: nn.Module = create(backbone)
        report = load_weights(module, weights)
        if report.missing or report.dropped:
            raise CheckpointError(
                f"{weights} does not hold a whole {type(module).__name__}: {report.summary()}"
            )
        network = Network(
            backbone, module, file_sha256(weights), notes=[report.summary()], source=weights
        )
    elif backbone is not None and ":" in backbone:
        module = load_object(backbone)(weights)
        if not isinstance(module, nn.Module):
            raise AttributionError(
                f"{backbone}: expected an nn.Module, found {type(module).__name__}"
            )
        if not isinstance(getattr(module, "input_spec", None), InputSpec):
            raise AttributionError(
                f"{backbone}: the network needs an attribute input_spec (faceguide.train.models."
                "input_spec.InputSpec): side, colour order, mean and std of its pixels"
            )
        network = Network(backbone, module, file_sha256(weights), source=weights)
    else:
        return load_network(backbone, weights, device)
    network.backbone.eval().requires_grad_(False).to(device)
    return network


def pair_score(network: Network, matcher: str) -> PairScore:
    """The score of a network and a matcher's name."""
    if matcher == "cosine":
        return PairScore(network.backbone)
    return PairScore(
        network.backbone, make_matcher(matcher, network), network.map_side, network.occlusion_head
    ).eval()
