"""Counted arithmetic of each network, and from it GPU-hours; measured CPU time of embedding.

    python bench/gpu_hours.py --json gpu_hours.json
    python bench/gpu_hours.py --tflops 250 --no-measure

Counted: floating-point operations of one image by torch.utils.flop_counter (a multiplication and
an addition are two), on the networks that `train` and `evaluate` build. What it does not count
(norms, activations, pooling, the optimiser) is little arithmetic, though not always little time;
a classifier over the identities adds 6 × 512 × identities per image in training.

Measured: CPU time of `Network.describe`, on which `evaluate embed` spends its time, on one core.

Assumed: the arithmetic per second that a GPU sustains, --tflops. GPU-hours are images × counted ÷
assumed and no more than that: no GPU takes part. What yours sustains is (images per second that a
training logs) × (operations of the table).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from scale import SETS  # next to this file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from faceguide.train.models import create
from faceguide.train.models.loading.network import Network

FACES = ("mobilefacenet", "ir_18", "ir_50", "ir_101")
ATTENTION = ("cal_resnet50", "cal_resnet101")
ATTENTION_SIDE, CLASSES, HEADS = 448, 1000, 32
ATTENTION_PASSES = 3  # of one training step: image, attention crop, attention drop


@dataclass(frozen=True)
class Cost:
    """Of one image and one pass.

    Attributes:
        name: of the network.
        side: of the image in pixels.
        forward: operations.
        training: operations of forward and backward.
        cpu_s: measured CPU seconds to embed an image with its mirror image; None = not measured.
    """

    name: str
    side: int
    forward: float
    training: float
    cpu_s: float | None = None


def build(name: str) -> tuple[nn.Module, int]:
    """A network with drawn weights, and the side of its images."""
    if name in ATTENTION:
        return create(name, num_classes=CLASSES, heads=HEADS), ATTENTION_SIDE
    return create(name), 112


def count(name: str) -> Cost:
    """Count one image; the second of a batch of two, since BatchNorm learns from no single one."""
    with FakeTensorMode():  # shapes alone: nothing is computed
        module, side = build(name)
        pixels = torch.randn(2, 3, side, side)
        module.train()
        with FlopCounterMode(display=False) as forward:
            out = module(pixels)
        value = sum(tensor.float().sum() for tensor in tensors(out) if tensor.requires_grad)
        with FlopCounterMode(display=False) as backward:
            value.backward()
    once, both = forward.get_total_flops() / 2, backward.get_total_flops() / 2
    if any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in module.modules()):
        both = 2 * once  # the counter takes the gradient of a grouped convolution for a full one's
    return Cost(name, side, once, once + both)


def tensors(value: object) -> list[torch.Tensor]:
    """All tensors of an output."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = vars(value).values() if hasattr(value, "__dict__") else value
    found = [tensors(part) for part in parts if part is not None]  # type: ignore[union-attr]
    return [tensor for group in found for tensor in group]


def embedding_time(name: str, images: int) -> float:
    """CPU seconds per image of what `evaluate embed` computes."""
    module, side = build(name)
    network = Network(name, module.eval().requires_grad_(False), "")
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (images, side, side, 3), dtype=np.uint8))
    groups = frozenset({"plain", "embedding"})
    network.describe(pixels[:1], groups)
    started = time.process_time()
    network.describe(pixels, groups)
    return (time.process_time() - started) / images


@click.command()
@click.option("--tflops", default=100.0, show_default=True, help="Assumed to be sustained.")
@click.option("--measure/--no-measure", default=True, help="CPU time of embedding too.")
@click.option("--images", default=16, show_default=True, help="Of a measurement.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the table here.")
def main(tflops: float, measure: bool, images: int, json_file: Path | None) -> None:
    """Count, measure, and print the hours of each set."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    costs = []
    click.echo(f"{'counted, per image':<20}{'side':>6}{'forward':>10}{'fwd + bwd':>11}  GFLOP")
    for name in (*FACES, *ATTENTION):
        cost = count(name)
        costs.append(cost)
        click.echo(
            f"{name:<20}{cost.side:>6}{cost.forward / 1e9:>10.2f}{cost.training / 1e9:>11.2f}"
        )
    if measure:
        click.echo(f"\nmeasured, {images} images, one core: CPU time to embed a face, mirror too")
        for place, name in enumerate(FACES):
            seconds = embedding_time(name, images)
            costs[place] = Cost(**{**asdict(costs[place]), "cpu_s": seconds})
            rate = 2 * costs[place].forward / seconds / 1e9
            click.echo(f"{name:<20}{1000 * seconds:>10.1f} ms, {rate:.0f} GFLOP/s")
    hours = {}
    title = f"hours, GPU assumed to sustain {tflops:g} TFLOP/s"
    click.echo(f"\n{title:<48}" + "".join(f"{name:>15}" for name in SETS))
    for cost in costs:
        passes = ATTENTION_PASSES if cost.name in ATTENTION else 1
        rows = {
            f"{cost.name}: an epoch of training, GPU": passes * cost.training / tflops / 1e12,
            f"{cost.name}: embed, GPU": 2 * cost.forward / tflops / 1e12,
        }
        if cost.cpu_s is not None:
            rows[f"{cost.name}: embed, cores"] = cost.cpu_s
        for title, seconds in rows.items():
            hours[title] = {name: seconds * images / 3600 for name, images in SETS.items()}
            click.echo(f"{title:<48}" + "".join(f"{h:>15,.3g}" for h in hours[title].values()))
    if json_file:
        record = {"tflops": tflops, "costs": [asdict(cost) for cost in costs], "hours": hours}
        json_file.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
