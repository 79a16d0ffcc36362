"""A user's file with networks of their own, written where a test can import it."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
"""What a user might have: a small network, and a function that fills it."""
from pathlib import Path
import torch
from torch import nn
from faceguide.train.models.backbones.backbone import LinearTail
from faceguide.train.models.input_spec import InputSpec

Path(__file__).with_name("imported").touch()


class Net(nn.Module):
    input_spec = InputSpec(112, "BGR", (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
    map_layers = {7: "deep", 14: "shallow"}
    cam_layers = ("shallow", "deep")

    def __init__(self):
        super().__init__()
        self.shallow = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.PReLU(8))
        self.deep = nn.Sequential(nn.Conv2d(8, 12, 2, 2), nn.BatchNorm2d(12), nn.PReLU(12))
        self.out = nn.Linear(12 * 49, 16)

    def forward(self, x):
        return self.out(self.deep(self.shallow(x)).flatten(1))

    def linear_tail(self):
        return LinearTail(self.out.weight.unflatten(1, (12, 49)).permute(2, 1, 0), self.out.bias)


def build(weights):
    net = Net()
    if weights is not None:
        net.load_state_dict(torch.load(weights, weights_only=True))
    return net


def with_norm(weights):
    class WithNorm(Net):
        def forward(self, x):
            raw = super().forward(x)
            norm = raw.norm(dim=1, keepdim=True)
            return raw / norm, norm

    return WithNorm()


def without_maps(weights):
    class WithoutMaps(Net):
        map_layers = {}

    return WithoutMaps()


def no_layer(weights):
    net = Net()
    net.map_layers = {7: "absent"}
    return net


def wrong_side(weights):
    net = Net()
    net.map_layers = {7: "shallow"}
    return net


def scalar(weights):
    class Scalar(Net):
        def forward(self, x):
            return super().forward(x).sum()

    return Scalar()


def without_input(weights):
    return nn.Linear(1, 1)


def number(weights):
    return 7


not_callable = 7
'''


def write(folder: Path, name: str) -> Path:
    """The file of a module `name`; importing it leaves a file `imported` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(SOURCE)
    return path
