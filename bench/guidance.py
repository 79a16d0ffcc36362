"""What each way of guidance does to attention and to verification, on real faces.

    python bench/guidance.py DATA --work work/ --out guidance.json

DATA is a folder with lfw112_dev, orl_att and weights/mobilefacenet.pt. `cal_mobilefacenet` starts
from the real weights and learns the identities of LFW with at least four images and those of ORL:
200 steps of 32 images with mirror images, whole image only, SGD at 0.01. It is then tested on the
LFW identities that it never saw: all pairs of their images, and apart from these the pairs of
lookalikes. Seeds are paired: run i of every method has the same start and the same batches.

`--train last` (default) keeps the network up to its 14×14 map as it is and trains what follows,
attention and classifier; `--train all` trains everything, at four times the cost.

Every run is stored in the JSON file as it ends and not repeated, so the command can be stopped and
given again, with further methods or seeds; the table shows what is there. One thread is used.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from guidance_faces import Split, build_cache, off_the_shelf, scores, split_rows, verification
from guidance_table import ATTENTION, VERIFICATION, table, targets
from guidance_trunk import AfterTrunk, ReadyStep, middles
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.files import write_bytes
from faceguide.train.cal import attention_guidance
from faceguide.train.cal.attention_guidance import Targets, heads_of
from faceguide.train.cal.attention_watch import watch
from faceguide.train.cal.cal_settings import CalSettings, GuidanceSettings
from faceguide.train.cal.cal_step import CalStep, columns_of
from faceguide.train.cal.cal_trainee import Trainee, map_side
from faceguide.train.data import augment
from faceguide.train.models import create
from faceguide.train.models.weights import load_weights
from faceguide.train.training import Place

METHODS = {
    "plain": GuidanceSettings(),
    "loss 0.3": GuidanceSettings((("loss", 0.3),)),
    "loss 1": GuidanceSettings((("loss", 1.0),)),
    "regions 1": GuidanceSettings((("regions", 1.0),)),
    "regions-log 0.03": GuidanceSettings((("regions-log", 0.03),)),
    "regions-log 0.1": GuidanceSettings((("regions-log", 0.1),)),
    "regions-log 0.3": GuidanceSettings((("regions-log", 0.3),)),
    "counterfactual": GuidanceSettings((("counterfactual", 1.0),)),
    "prior 0.3": GuidanceSettings((("prior", 0.3),)),
    "contrastive 0.1": GuidanceSettings((("contrastive", 0.1),)),
}


def run(
    cache: FaceCache,
    split: Split,
    weights: Path,
    method: GuidanceSettings,
    seed: int,
    *,
    stride: int,
    heads: int,
    steps: int,
    batch_size: int,
    rate: float,
    ready: Tensor | None,
    embedding: NDArray[np.float64],
) -> dict[str, float]:
    """Train once and test."""
    torch.manual_seed(seed)
    labels = cache.read(np.arange(len(cache)), ["label"])["label"]
    learnt = np.unique(labels[split.train])
    classes = torch.full((len(cache.identities),), -1)
    classes[torch.from_numpy(learnt)] = torch.arange(len(learnt))
    model = create("cal_mobilefacenet", num_classes=len(learnt), heads=heads, stride=stride)
    load_weights(model, weights)
    side = map_side(model, 112)
    settings = CalSettings(guidance=method, views=False, seed=seed)
    augmentation = augment.Augmentation(112, brightness=0.0, saturation=0.0)
    trunk = model.features
    if ready is not None:
        model.features = AfterTrunk(trunk)
        for part in (trunk.conv1, trunk.dw_conv, trunk.features[:12]):
            part.requires_grad_(False)
    trainee = Trainee(model, classes, prior=bool(method.weight("prior")))
    step = CalStep(settings, augmentation, trainee, side)
    if ready is not None:
        step = ReadyStep(settings, augmentation, trainee, side, ready=ready)
    optimiser = torch.optim.SGD(
        [p for p in trainee.parameters() if p.requires_grad], rate, momentum=0.9, weight_decay=1e-5
    )
    stream = Stream(
        cache,
        split.train,
        columns=columns_of(settings, cache.columns),
        batch_size=batch_size,
        seed=seed,
    )
    trainee.train()
    done, last = 0, {}
    while done < steps:
        epoch = stream.epoch
        for batch in stream:
            losses = step(trainee, batch, Place(done, steps, epoch, 0.0))
            if not torch.isfinite(losses["loss"]):
                return {"loss": float("inf")}
            optimiser.zero_grad()
            losses["loss"].backward()
            optimiser.step()
            done += 1
            last = losses
            if done == steps:
                break
    trainee.eval()
    found = test(cache, split, model, settings, side, ready)
    values = scores(found.pop("features"))
    fused = verification((values + embedding) / 2, split)
    return {
        **{name: float(value) for name, value in found.items()},
        **verification(values, split),
        "auc_fused": fused["auc"],
        "train_accuracy": last["accuracy"].item(),
        "loss": last["loss"].item(),
    }


@torch.no_grad()
def test(
    cache: FaceCache,
    split: Split,
    model: Any,
    settings: CalSettings,
    side: int,
    ready: Tensor | None,
) -> dict[str, Any]:
    """Features and what attention does, on identities that were not learnt."""
    features: list[Tensor] = []
    watched: Counter[str] = Counter()
    assignment = heads_of(settings.guidance, model.attentions.conv.out_channels)
    columns = ("image", "regions", "heatmap", "origin")
    for batch in Stream(
        cache, split.test, columns=columns, batch_size=64, shuffle=False, ragged="exact"
    ):
        count = len(batch["row"])
        geometry = augment.centre_geometry(count, 112, 112, "cpu")
        cells = attention_guidance.at_cells(
            Targets(
                augment.warp_targets(batch["regions"], geometry),
                augment.warp_targets(batch["heatmap"][:, None], geometry),
                attention_guidance.known_origin(batch["origin"], False),
            ),
            side,
            side,
        )
        if ready is None:
            seen = model.input_spec.prepare(batch["image"])
        else:
            seen = ready[batch["row"], 0]
        parts = model(seen, parts=True)
        features.append(parts.output.features)
        for name, value in watch(parts.maps, cells, assignment).items():
            watched[name] += value.item() * count
    return {
        "features": torch.cat(features),
        **{name: value / len(split.test) for name, value in watched.items()},
    }


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Where the cache goes."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)))
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--train", "part", type=click.Choice(["last", "all"]), default="last")
@click.option("--stride", type=click.Choice([16, 32]), default=16, show_default=True)
@click.option("--heads", type=click.IntRange(3), default=16, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=200, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=32, show_default=True)
@click.option("--lr", "rate", type=float, default=0.01, show_default=True)
def main(
    data: Path,
    work: Path,
    out: Path,
    methods: tuple[str, ...],
    seeds: int,
    first_seed: int,
    part: str,
    stride: int,
    heads: int,
    steps: int,
    batch_size: int,
    rate: float,
) -> None:
    """Compare the methods of guidance on the real faces under DATA."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # Else every new tensor is filled first, a fifth of the time; no operation here leaves gaps.
    torch.utils.deterministic.fill_uninitialized_memory = False
    cache = build_cache(data, work)
    split = split_rows(cache, data)
    weights = data / "weights" / "mobilefacenet.pt"
    protocol = {
        "train": part, "stride": stride, "heads": heads, "steps": steps, "batch_size": batch_size,
        "lr": rate, "learnt_rows": len(split.train), "test_rows": len(split.test),
        "genuine": int(split.same.sum()), "impostor": int((~split.same).sum()),
        "lookalikes": int(split.lookalike.sum()),
    }  # fmt: skip
    record: dict[str, Any] = {"protocol": protocol, "runs": {}}
    if out.exists():
        record = json.loads(out.read_text())
        if record["protocol"] != protocol:
            raise SystemExit(f"{out}: holds another protocol: {record['protocol']}; choose another")
    todo = [
        (seed, method)
        for seed in range(first_seed, first_seed + seeds)
        for method in (methods or METHODS)
        if str(seed) not in record["runs"].get(method, {})
    ]
    if todo:
        embedding = off_the_shelf(cache, split, weights)
        record["off_the_shelf"] = verification(embedding, split)
        ready: Tensor | None = None
        if part == "last":
            model = create("cal_mobilefacenet", num_classes=2, stride=stride)
            load_weights(model, weights)
            ready = middles(cache, model.features, model, work / "middles.npy")
        for seed, method in tqdm(todo, disable=None):
            settings = replace(METHODS[method])
            found = run(
                cache, split, weights, settings, seed, stride=stride, heads=heads, steps=steps,
                batch_size=batch_size, rate=rate, ready=ready, embedding=embedding,
            )  # fmt: skip
            record["runs"].setdefault(method, {})[str(seed)] = found
            write_bytes(out, (json.dumps(record, indent=1) + "\n").encode())
    record["runs"] = {name: record["runs"][name] for name in METHODS if name in record["runs"]}
    click.echo(json.dumps(protocol) + "\n")
    for columns in (ATTENTION, VERIFICATION):
        click.echo(table(record, columns) + "\n")
    click.echo(targets(record))


if __name__ == "__main__":
    main()
