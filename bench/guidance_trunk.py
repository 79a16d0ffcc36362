"""`bench/guidance.py --train last`: the network from its 14×14 map on; the maps come ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.files import replacing
from faceguide.train.cal.attention_guidance import Targets
from faceguide.train.cal.cal_step import CalStep
from faceguide.train.data import augment
from faceguide.train.models.backbones.mobilefacenet import LAST_STAGE, MobileFaceNetTrunk
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.training import Batch, Place


class AfterTrunk(nn.Module):
    """What follows the 14×14 map of MobileFaceNet; the map comes ready.

    At stride 16 the blocks after the last stage are dilated by 2, so that they mix only cells
    whose places are both even, both odd, and so on. Each of these four 7×7 grids is computed as an
    image of its own, without dilation: the same sums in half the time.
    """

    def __init__(self, trunk: MobileFaceNetTrunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.dilated = []
        for module in trunk.modules():
            if isinstance(module, nn.Conv2d) and module.dilation == (2, 2):
                module.dilation = module.padding = (1, 1)
                self.dilated.append(module)

    def forward(self, middle: Tensor) -> Tensor:
        """(N, 128, 14, 14) → (N, 512, …)."""
        if not self.dilated:
            return self.trunk.from_middle(middle)
        stage, *rest = self.trunk.features[LAST_STAGE:]
        x = grids(stage(middle))
        for block in (*rest, self.trunk.conv2):
            x = block(x)
        return from_grids(x)


def grids(x: Tensor) -> Tensor:
    """(N, C, 2h, 2w) → (4N, C, h, w): the cells at even and odd places apart."""
    count, channels, height, width = x.shape
    x = x.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(4 * count, channels, height // 2, width // 2)


def from_grids(x: Tensor) -> Tensor:
    """The inverse of `grids`."""
    count, channels, height, width = x.shape
    x = x.view(count // 4, 2, 2, channels, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(count // 4, channels, 2 * height, 2 * width)


def kept(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """What `make` gives, made once and then read from a .npy file."""
    if not path.exists():
        made = make().numpy()
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, made)
    return torch.from_numpy(np.load(path, mmap_mode="c"))


@torch.no_grad()
def both_ways(cache: FaceCache, network: Callable[[Tensor], Tensor], spec: InputSpec) -> Tensor:
    """(rows, 2, …): what a network makes of every image and of its mirror image."""
    found = []
    for batch in Stream(
        cache, np.arange(len(cache)), columns=("image",), batch_size=32, shuffle=False,
        ragged="exact",
    ):  # fmt: skip
        pixels = spec.prepare(batch["image"])
        found.append(torch.stack([network(pixels), network(pixels.flip(3))], 1))
    return torch.cat(found)


@dataclass(frozen=True)
class ReadyStep(CalStep):
    """`CalStep` on 14×14 maps: ready ones, or of an image whose surround has been swapped."""

    ready: Tensor = field(kw_only=True)
    trunk: MobileFaceNetTrunk = field(kw_only=True)

    def prepare(self, batch: Batch, place: Place) -> tuple[Tensor, Targets | None]:
        """The map of each image as its geometry mirrors it, and its targets."""
        pixels, targets = super().prepare(batch, place)
        if self.settings.surround is not None:
            with torch.no_grad():
                return self.trunk.to_middle(pixels), targets
        shape, rows = self.augmentation, batch["row"]
        geometry = augment.draw_geometry(shape, 112, self.settings.seed, place.epoch, rows)
        return self.ready[rows, geometry.mirrored.long()], targets
