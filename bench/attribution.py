"""How much the response table and batching save: forwards and maps per second.

Three ways to explain and test the same pairs with the same five methods (Saliency, Gradient×Input,
SmoothGrad, Integrated Gradients, Grad-CAM):

* loop: captum, one pair at a time, and per method K masked pictures of either region, one by one;
* batched: the same, pairs together and masked pictures in batches of 64;
* table: this package: one response table per probe for all methods.

Example, and with --arc the quadrature of `arc` against Gauss–Legendre at equal steps:
  python bench/attribution.py cache/ --pairs pairs.csv --backbone mobilefacenet \\
    --weights mobilefacenet.pt --count 2 --arc --json attribution.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from torch import Tensor

from faceguide.cache.reader import FaceCache
from faceguide.evaluate.attribution import geodesic, gradients
from faceguide.evaluate.attribution.cells import Q, cell_attribution
from faceguide.evaluate.attribution.explain import Job, maps_of, table_of
from faceguide.evaluate.attribution.infill import Donors, cell_masks
from faceguide.evaluate.attribution.maps import Batch, Settings, pixel_range
from faceguide.evaluate.attribution.methods import METHODS
from faceguide.evaluate.attribution.options import Options
from faceguide.evaluate.attribution.plug import load_explained, pair_score
from faceguide.evaluate.attribution.preparation import plan_pairs
from faceguide.evaluate.attribution.single_pass import cam_layers
from faceguide.evaluate.attribution.target import PairScore

NAMES = ("saliency", "gradient-input", "smoothgrad", "integrated-gradients", "grad-cam")
BATCH = 64


class Counter:
    """Images that went forward through a network, and backward."""

    def __init__(self, score: PairScore) -> None:
        self.images = 0
        score.backbone.register_forward_pre_hook(self._count)

    def _count(self, module: object, inputs: tuple[Tensor, ...]) -> None:
        self.images += len(inputs[0])


def captum_maps(score: PairScore, batch: Batch, settings: Settings) -> list[Tensor]:
    """The five maps by captum."""
    more = {"additional_forward_args": batch.reference}
    probe = batch.probe.clone().requires_grad_(True)
    layer = dict(score.backbone.named_modules())[cam_layers(score, probe)[-1]]
    sigma = settings.noise * pixel_range(score.input_spec)
    return [
        Saliency(score).attribute(probe, abs=False, **more).sum(1),
        InputXGradient(score).attribute(probe, **more).sum(1),
        NoiseTunnel(Saliency(score))
        .attribute(
            probe,
            nt_type="smoothgrad",
            nt_samples=settings.samples,
            nt_samples_batch_size=max(1, settings.chunk // len(probe)),
            stdevs=sigma,
            abs=False,
            **more,
        )
        .sum(1),
        IntegratedGradients(score)
        .attribute(
            probe,
            n_steps=settings.steps,
            internal_batch_size=max(settings.chunk, len(probe)),
            **more,
        )
        .sum(1),
        LayerGradCam(score, layer).attribute(probe, **more)[:, 0],
    ]


@torch.inference_mode()
def masked_rounds(
    score: PairScore, batch: Batch, maps: list[Tensor], draws: int, size: int
) -> float:
    """The test of every map by `draws` masked pictures of either region; `size` at a time."""
    masks, total = cell_masks(batch.probe.shape[-1]), 0.0
    for attribution in maps:
        cells = cell_attribution(attribution.detach())
        for place in range(len(batch.probe)):
            order = cells[place].argsort()
            reference = tuple(part[place : place + 1] for part in batch.reference)
            for region in (order[-Q:], order[:Q]):
                blank = torch.where(masks[region].any(0), 0.0, batch.probe[place])
                noise = 0.02 * torch.randn(draws, *blank.shape)
                for part in (blank + noise).split(size):
                    rows = tuple(p.expand(len(part), *p.shape[1:]) for p in reference)
                    total += float(score(part, *rows).sum())
    return total


def measured(work: Callable[[], object], counter: Counter, maps: int) -> dict[str, float]:
    """Seconds, forwards and maps per second of one run."""
    before, start = counter.images, time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return {"forwards": counter.images - before, "seconds": seconds, "maps_per_s": maps / seconds}


def arc_table(score: PairScore, batch: Batch) -> list[dict[str, Any]]:
    """Median completeness error of both quadratures at equal gradient evaluations."""
    rows = []
    for steps in (8, 16, 20, 32):
        settings = Settings(steps=steps)
        row: dict[str, Any] = {"steps": steps}
        for name, explain in (
            ("gauss_legendre", gradients.integrated_gradients),
            ("arc", geodesic.geodesic_arc),
        ):
            error = explain(score, batch, settings).completeness_error()
            assert error is not None
            row[name] = float(error.median())
            row[f"{name}_largest"] = float(error.max())
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2, help="pairs")
    parser.add_argument("--draws", type=int, default=100, help="masked pictures per region")
    parser.add_argument("--arc", action="store_true", help="also the quadrature table")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    cache = FaceCache.open(given.cache)
    network = load_explained(given.backbone, given.weights)
    score = pair_score(network, "cosine")
    options = Options(limit=given.count, block=given.count)
    plan, rows = plan_pairs(cache, given.pairs, None, options, network.sha256)
    donors = Donors.of(cache, np.concatenate([rows.probe, rows.reference]))
    job = Job(cache, plan, score, options.method, options.infills, donors)
    batch, settings = job.batch(np.arange(len(plan))), options.method
    counter, maps = Counter(score), len(plan) * len(NAMES)

    def loop() -> None:
        for place in range(len(plan)):
            one = job.batch(np.array([place]))
            found = captum_maps(score, one, Settings(chunk=1))
            masked_rounds(score, one, found, given.draws, 1)

    def batched() -> None:
        masked_rounds(score, batch, captum_maps(score, batch, settings), given.draws, BATCH)

    def table() -> None:
        for block in range(plan.blocks):
            responses = table_of(job, block)
            for name in NAMES:
                maps_of(job, METHODS[name], block, responses)

    captum_maps(score, job.batch(np.array([0])), Settings(steps=1, samples=1))  # warm
    result: dict[str, Any] = {
        "pairs": len(plan),
        "backbone": network.name,
        "draws": given.draws,
        "threads": torch.get_num_threads(),
    }
    for name, work in (("table", table), ("batched", batched), ("loop", loop)):
        result[name] = measured(work, counter, maps)
    fast = result["table"]["seconds"]
    print(f"{'':10}{'forwards':>10}{'seconds':>10}{'maps/s':>10}{'table is':>10}")
    for name in ("loop", "batched", "table"):
        row = result[name]
        print(
            f"{name:10}{row['forwards']:>10,}{row['seconds']:>10.1f}{row['maps_per_s']:>10.3f}"
            f"{row['seconds'] / fast:>9.1f}×"
        )
    if given.arc:
        result["arc"] = arc_table(score, batch)
        print("\nmedian (largest) completeness error, share of the score's change")
        for row in result["arc"]:
            print(
                f"{row['steps']:>3} steps  Gauss–Legendre {row['gauss_legendre']:.4f} "
                f"({row['gauss_legendre_largest']:.4f})  arc {row['arc']:.4f} "
                f"({row['arc_largest']:.4f})"
            )
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
