"""From a network and a matcher's name to the score that is explained."""

from __future__ import annotations

import torch

from faceguide.evaluate.attribution.methods.target import PairScore
from faceguide.evaluate.score.scores import make_matcher
from faceguide.train.models.loading.network import Network
from faceguide.train.models.own_networks import inner


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
