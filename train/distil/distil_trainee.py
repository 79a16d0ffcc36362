"""The network that is distilled, from the first trained layer on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from faceguide.train.distil.frozen_layers import before, cut
from faceguide.train.models.backbones.backbone import FaceBackbone, HasLinearTail
from faceguide.train.models.matchers.correlation import cell_visibility
from faceguide.train.models.matchers.visible_embedding import VisibleEmbedding, mean_map


class DistilTrainee(nn.Module):
    """A face network whose last layers are trained; those before are frozen.

    Its norms keep their statistics, and nothing is dropped. Where the network has no linear tail,
    its embedding counts as the only cell.

    Args:
        network: with the released weights.
        layer: the first that is trained.

    Attributes:
        last: the layers from there on.
        linear: whether the embedding is a sum over cells.
        map_shape: of what the first trained layer is given, for one face.
        mean: what all faces share: the mean last map of the released network, (C, s, s), or its
            mean raw embedding (E,).
    """

    mean: Tensor

    def __init__(self, network: FaceBackbone, layer: str) -> None:
        super().__init__()
        # The maps are kept before the loop does this: they are most of the work.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.eval()
        self.last = cut(network, layer)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in self.last.trained)
        self.linear = isinstance(network, HasLinearTail)
        side = network.input_spec.size
        one = torch.zeros(1, 3, side, side)
        with torch.no_grad():
            told = self.beside(torch.zeros(1, 5, 2), one.device)
            self.map_shape = tuple(before(network, layer, one, **told).shape[1:])
            raw, found = self.last(torch.zeros(1, *self.map_shape), **told)
        self.cell_shape = tuple(found.shape[2:]) if self.linear else (1, 1)
        start = torch.zeros(found.shape[1:] if self.linear else raw.shape[1:])
        self.register_buffer("mean", start, persistent=False)

    def train(self, mode: bool = True) -> DistilTrainee:
        """Norms stay as in evaluation, whatever the mode."""
        super().train(mode)
        self.network.eval()
        return self

    def beside(self, points: Tensor, device: torch.device) -> dict[str, Tensor]:
        """What the network needs besides maps, of five points (N, 5, 2) in 0…1 of the crop."""
        return {"keypoints": points.to(device)} if self.network.needs_keypoints else {}

    @torch.no_grad()
    def set_mean(self, batches: Iterable[tuple[Tensor, Mapping[str, Tensor]]]) -> None:
        """Take the mean over batches of maps before the trained layers, with what stands beside."""
        answers = (self.last(maps, **beside) for maps, beside in batches)
        if self.linear:
            self.mean.copy_(mean_map(found for _, found in answers))
        else:
            self.mean.copy_(torch.cat([raw for raw, _ in answers]).double().mean(0))

    def cells(self, seen: Tensor) -> Tensor:
        """Visible pixels (N, h, w), 0 to 1, as the cells (N, S) that terms are counted in."""
        if not self.linear:
            return torch.ones(len(seen), 1)
        extent = self.network.linear_tail().extent  # type: ignore[operator]
        return cell_visibility(seen, torch.empty(len(seen), 1, *self.cell_shape), extent)

    def forward(self, maps: Tensor, **beside: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding and what each cell adds to it, mean taken off.

        Args:
            maps: (N, …) before the first trained layer.

        Returns:
            (N, E) raw embeddings and (N, S, E) terms, float32.
        """
        raw, found = self.last(maps, **beside)
        with torch.autocast(raw.device.type, enabled=False):
            raw = raw.float()
            if not self.linear:
                return raw, (raw - self.mean)[:, None]
            tail = self.network.linear_tail()  # type: ignore[operator]
            shared = torch.einsum("cs,sce->se", self.mean.flatten(1), tail.weight)
            return raw, VisibleEmbedding(tail.weight, -shared, tail.extent).cell_terms(found)
