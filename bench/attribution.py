"""How much the response table and batches save: forwards and maps per second.

Three ways to explain and test pairs with the same methods (the standard ones that captum has, with
LayerCAM from captum's parts):

* loop: one pair and one picture at a time; per method K masked pictures of either region;
* batched: the same, in batches of 16;
* table: this package: one response table per probe.

The pairs are all those of some probes, evenly spaced over the list, so that probes recur as often
as they do in it. Loop and batched are slow: they run on the first --slow of them, and of the masked
pictures --timed per region are really made (batched: one full batch), for one method, and their
cost is scaled to all --draws and methods. Seconds are CPU time of one thread, which hardly depends
on what else runs.

Example, and with --arc, instead, the quadratures of Integrated Gradients at equal gradients:
  python bench/attribution.py cache/ --pairs pairs.csv --backbone mobilefacenet \\
    --weights mobilefacenet.pt --probes 3 --json attribution.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import (
    DeepLift,
    InputXGradient,
    IntegratedGradients,
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
    NoiseTunnel,
    Saliency,
)
from torch import Tensor

from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.pairs.pair_rows import PairRows, resolve
from faceguide.cache.reader import FaceCache
from faceguide.evaluate.attribution.attribution_options import Options, Settings
from faceguide.evaluate.attribution.cells import Q, cell_attribution
from faceguide.evaluate.attribution.job import Job
from faceguide.evaluate.attribution.methods import geodesic
from faceguide.evaluate.attribution.methods.cam import cam_layers
from faceguide.evaluate.attribution.methods.integrated import integrated_gradients
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, baseline_for, pixel_range
from faceguide.evaluate.attribution.methods.method_table import METHODS
from faceguide.evaluate.attribution.methods.target import PairScore, pair_score
from faceguide.evaluate.attribution.protocol.blocks import make_plan
from faceguide.evaluate.attribution.protocol.explain import maps_of, table_of
from faceguide.evaluate.attribution.protocol.infill import Donors, cell_masks
from faceguide.train.models.loading.network import load_network

NAMES = (
    *("saliency", "gradient-input", "smoothgrad", "integrated-gradients", "grad-cam"),
    *("layer-cam", "deeplift"),
)
BATCH = 16
LIMIT = 192  # Gauss–Legendre nodes that stand for the limit


class Counter:
    """Images that went forward through a network, and those that came back."""

    def __init__(self, score: PairScore) -> None:
        self.images = self.backward = 0
        for backbone in {score.backbone, score.quick.backbone}:
            backbone.register_forward_pre_hook(self._count)

    def _count(self, module: object, inputs: tuple[Tensor, ...]) -> None:
        self.images += len(inputs[0])
        self.backward += len(inputs[0]) * inputs[0].requires_grad


def captum_maps(score: PairScore, batch: Batch, settings: Settings) -> list[Tensor]:
    """The maps of NAMES, each by a call of its own."""
    more = {"additional_forward_args": batch.reference}
    probe = batch.probe.clone().requires_grad_(True)
    baseline = baseline_for(score, batch, "black").detach()
    modules = dict(score.backbone.named_modules())
    layers = [modules[name] for name in cam_layers(score, probe)]
    sigma = settings.noise * pixel_range(score.input_spec)
    noisy = NoiseTunnel(Saliency(score)).attribute(
        probe,
        nt_type="smoothgrad",
        nt_samples=settings.samples,
        nt_samples_batch_size=max(1, settings.chunk // len(probe)),
        stdevs=sigma,
        abs=False,
        **more,
    )
    path = gauss_legendre(score, batch, settings).values
    cams = []
    for layer in layers:
        product = LayerGradientXActivation(score, layer).attribute(probe, **more)
        active = LayerActivation(score, layer).attribute(probe, **more)
        one = torch.where(product * active > 0, product, 0.0).sum(1)
        one = (one / one.amax((1, 2), keepdim=True)).clamp_min(0)
        cams.append(torch.nn.functional.interpolate(one[:, None], size=(14, 14), mode="bilinear"))
    return [
        Saliency(score).attribute(probe, abs=False, **more).sum(1),
        InputXGradient(score).attribute(probe, **more).sum(1),
        noisy.sum(1),
        path,
        LayerGradCam(score, layers[-1]).attribute(probe, **more)[:, 0],
        torch.cat(cams, 1).mean(1),
        DeepLift(score).attribute(probe, baselines=baseline, **more).sum(1),
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


@dataclass
class Cost:
    """What some work cost: images forward, images backward, CPU seconds."""

    forward: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0

    def add(self, counter: Counter, work: Callable[[], Any], times: float = 1.0) -> Any:
        """Do the work; its cost counts `times`."""
        forward, backward, start = counter.images, counter.backward, time.process_time()
        found = work()
        self.seconds += times * (time.process_time() - start)
        self.forward += times * (counter.images - forward)
        self.backward += times * (counter.backward - backward)
        return found

    def record(self, pairs: int) -> dict[str, float]:
        """Per pair."""
        return {
            "pairs": pairs,
            "forwards_per_pair": self.forward / pairs,
            "backwards_per_pair": self.backward / pairs,
            "seconds_per_pair": self.seconds / pairs,
            "maps_per_s": len(NAMES) * pairs / self.seconds,
        }


def gauss_legendre(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """captum's IntegratedGradients, whose nodes are fixed."""
    baseline = baseline_for(score, batch, "black")
    values = IntegratedGradients(score).attribute(
        batch.probe,
        baselines=baseline,
        additional_forward_args=batch.reference,
        n_steps=settings.steps,
        internal_batch_size=max(settings.chunk, len(batch.probe)),
    )
    with torch.no_grad():
        change = score(batch.probe, *batch.reference) - score(baseline, *batch.reference)
    return Maps(values.detach().sum(1), change)


def quadratures(score: PairScore, batch: Batch) -> list[dict[str, Any]]:
    """Completeness error, and distance of the map from the limit, at equal gradients."""
    limit = gauss_legendre(score, batch, Settings(steps=LIMIT))
    error = limit.completeness_error()
    assert error is not None
    print(f"Gauss–Legendre with {LIMIT} nodes stands for the limit; its own completeness error:")
    print(f"median {float(error.median()):.3f}, largest {float(error.max()):.3f}\n")
    print("median (largest) over pairs       completeness error    distance from the limit")
    rows = []
    for steps in (10, 20, 40):
        s = Settings(steps=steps)
        closed = integrated_gradients(score, batch, s)
        for name, found, gap in (
            ("Gauss–Legendre", gauss_legendre(score, batch, s), None),
            ("arc", geodesic.geodesic_arc(score, batch, s), None),
            ("adaptive, open", closed, closed.quadrature_error()),
            ("adaptive, closed", closed, None),
        ):
            rows.append(_row(steps, name, found, gap, limit))
    return rows


def _row(steps: int, name: str, found: Maps, gap: Tensor | None, limit: Maps) -> dict[str, Any]:
    error = found.completeness_error() if gap is None else gap
    assert error is not None
    far = (found.values - limit.values).flatten(1).norm(dim=1)
    far = far / limit.values.flatten(1).norm(dim=1)
    row: dict[str, Any] = {"steps": steps, "rule": name}
    for what, values in (("completeness", error), ("distance", far)):
        row[what], row[f"{what}_largest"] = float(values.median()), float(values.max())
    row["within_1_percent"] = float((error <= 0.01).double().mean())
    shown = (
        "" if name.endswith("open") else f"{row['distance']:.3f} ({row['distance_largest']:.3f})"
    )
    print(
        f"{steps:>3} gradients  {name:17} {row['completeness']:>10.1e} "
        f"({row['completeness_largest']:.1e})   {shown}",
        flush=True,
    )
    return row


def of_probes(rows: PairRows, count: int) -> PairRows:
    """The pairs of `count` probes, evenly spaced over the list's probes."""
    probes = np.unique(rows.probe)
    chosen = probes[np.linspace(0, len(probes) - 1, count).astype(int)]
    kept = np.isin(rows.probe, chosen)
    names = ("probe", "reference", "same", "number")
    parts = {name: getattr(rows, name)[kept] for name in names}
    return PairRows(**{**vars(rows), **parts})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--probes", type=int, default=3, help="with all their pairs")
    parser.add_argument("--slow", type=int, default=1, help="pairs of loop and batched")
    parser.add_argument("--draws", type=int, default=100, help="masked pictures per region")
    parser.add_argument("--timed", type=int, default=5, help="masked pictures really made")
    parser.add_argument("--arc", action="store_true", help="the quadratures, and nothing else")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    torch.set_num_threads(1)
    cache = FaceCache.open(given.cache)
    network = load_network(given.backbone, given.weights)
    score = pair_score(network, "cosine")
    options = Options()
    listed = resolve(cache, read_pairs(given.pairs, None))
    rows = of_probes(listed, given.probes)
    plan = make_plan(rows, {}, given.probes, None, 0)
    donors = Donors.of(cache, np.concatenate([rows.probe, rows.reference]))
    job = Job(cache, plan, score, options, donors)
    everyone, settings = job.batch(np.arange(len(plan))), options
    counter, slow = Counter(score), np.arange(min(given.slow, len(plan)))
    result: dict[str, Any] = {"backbone": network.name, "pairs": len(plan), "probes": given.probes}
    if given.arc:
        print(f"{len(plan)} pairs of {given.probes} probes, {network.name}, from black")
        result["quadratures"] = quadratures(score, everyone)
    else:

        def table() -> None:
            job.described.clear()
            responses = table_of(job, 0)
            for _ in maps_of(job, [METHODS[name] for name in NAMES], 0, responses):
                pass

        def by_hand(cost: Cost, batch: Batch, own: Settings, timed: int, size: int) -> None:
            found = cost.add(counter, lambda: captum_maps(score, batch, own))
            cost.add(
                counter,
                lambda: masked_rounds(score, batch, found[:1], timed, size),
                len(NAMES) * given.draws / timed,
            )

        full = min(given.draws, BATCH)
        captum_maps(score, job.batch(slow[:1]), Settings(steps=1, samples=1))  # warm
        costs = {"loop": Cost(), "batched": Cost(), "table": Cost()}
        costs["table"].add(counter, table)
        print(f"table: {costs['table'].record(len(plan))}", flush=True)
        by_hand(costs["batched"], job.batch(slow), settings, full, full)
        for place in slow:
            by_hand(costs["loop"], job.batch(np.array([place])), Settings(chunk=1), given.timed, 1)
        result |= {"draws": given.draws, "timed": given.timed, "methods": NAMES}
        result |= {
            name: cost.record(len(plan) if name == "table" else len(slow))
            for name, cost in costs.items()
        }
        print(
            f"{network.name}, {len(NAMES)} methods, {len(plan)} pairs of {given.probes} probes "
            f"(the list: {len(listed)} pairs of {len(np.unique(listed.probe))}), one thread"
        )
        print(
            f"of {given.draws} masked pictures per region and method {given.timed} (loop) and "
            f"{full} (batched) were made for one method; their cost is scaled"
        )
        print("per pair    forwards  backwards   CPU s   maps/s   table is")
        for name in ("loop", "batched", "table"):
            row = result[name]
            faster = row["seconds_per_pair"] / result["table"]["seconds_per_pair"]
            print(
                f"{name:10}{row['forwards_per_pair']:>10,.0f}{row['backwards_per_pair']:>11,.0f}"
                f"{row['seconds_per_pair']:>8.1f}{row['maps_per_s']:>9.3f}{faster:>10.1f}×"
            )
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
