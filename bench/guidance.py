"""What each way of guidance does to attention and to verification, on real faces.

    python bench/guidance.py DATA --work work/ --out guidance.json

DATA is a folder with lfw112_dev, orl_att and weights/mobilefacenet.pt. `cal_mobilefacenet` starts
from the real weights and learns the LFW persons with at least four images and the ORL persons:
200 steps of 32 images with mirror images, whole image only, SGD at 0.01. It is then tested on the
LFW persons that it never saw: all pairs of their images, and apart from these the pairs of
lookalikes. Seeds are paired: run i of every method has the same start and the same batches.

`--train last` (default) keeps the network up to its 14×14 map as it is and trains what follows,
attention and classifier; `--train all` trains everything, at four times the cost.

Every run is stored in the JSON file as it ends and not repeated, so the command can be stopped and
given again, with further methods or seeds; the table shows what is there. One thread is used.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from faceguide.cache.files import replacing, write_bytes
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import REGIONS
from faceguide.cache.stream import Stream
from faceguide.preprocess.cli import main as prep
from faceguide.train import augment, guidance
from faceguide.train.cal import CalSettings, CalStep, Trainee, map_side
from faceguide.train.guidance import GuidanceSettings, Targets
from faceguide.train.job import Batch, Place
from faceguide.train.models import create
from faceguide.train.models.checkpoint import load_weights
from faceguide.train.models.mobilefacenet import MobileFaceNetTrunk
from faceguide.train.verification import separation

METHODS = {
    "plain": GuidanceSettings(),
    "loss 0.3": GuidanceSettings(loss=0.3),
    "loss 1": GuidanceSettings(loss=1.0),
    "regions 1": GuidanceSettings(regions=1.0),
    "regions-log 0.03": GuidanceSettings(regions_log=0.03),
    "regions-log 0.1": GuidanceSettings(regions_log=0.1),
    "regions-log 0.3": GuidanceSettings(regions_log=0.3),
    "counterfactual": GuidanceSettings(counterfactual=True),
    "prior 0.3": GuidanceSettings(prior=0.3),
    "contrastive 0.1": GuidanceSettings(contrastive=0.1),
}
LEAST_IMAGES = 4


def build_cache(data: Path, work: Path) -> FaceCache:
    """One cache of both sets; LFW is aligned already, ORL is enlarged and aligned first."""
    cache = work / "cache"
    if not (cache / "manifest-guidance.json").exists():
        faces = work / "faces"
        for path in sorted((data / "orl_att").glob("s*/*.pgm")):
            out = work / "orl" / f"orl_{path.parent.name}" / f"{path.stem}.png"
            out.parent.mkdir(parents=True, exist_ok=True)
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            large = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(out), large)
        _prep("landmarks", work / "orl", "--out", work / "orl-cache", "--allow-failures")
        aligned = FaceCache.open(work / "orl-cache")
        for row in aligned.select().tolist():
            sample = aligned[row]
            out = faces / sample["key"]
            out.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(out), sample["image"][:, :, ::-1])
        for folder in sorted((data / "lfw112_dev" / "images").iterdir()):
            shutil.copytree(folder, faces / folder.name, dirs_exist_ok=True)
        _prep("landmarks", faces, "--out", cache, "--align", "none", "--allow-failures")
    return FaceCache.open(cache)


def _prep(*arguments: object) -> None:
    result = CliRunner().invoke(prep, [*map(str, arguments), "--jobs", "1"])
    if result.exit_code:
        raise SystemExit(result.output)


@dataclass(frozen=True)
class Split:
    """Who is learnt and who is compared.

    Attributes:
        train: rows to learn.
        test: rows of persons never learnt, LFW alone.
        same: (T·(T−1)/2,) bool over pairs of `test`, one person.
        lookalike: likewise, the two are listed as lookalikes.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    same: NDArray[np.bool_]
    lookalike: NDArray[np.bool_]


def split_rows(cache: FaceCache, data: Path) -> Split:
    """Persons with at least four images are learnt, the other LFW persons are compared."""
    rows = cache.select(labelled=True)
    labels = cache.read(rows, ["label"])["label"]
    counts = Counter(labels.tolist())
    many = np.array([counts[label] >= LEAST_IMAGES for label in labels.tolist()])
    test = rows[~many]
    people = [cache.identities[label] for label in labels[~many].tolist()]
    listed = json.loads((data / "lfw112_dev" / "lookalike_pairs.json").read_text())
    alike = {
        frozenset((pair["a"], pair["b"])) for pair in listed if not pair["suspect_same_person"]
    }
    pairs = list(itertools.combinations(people, 2))
    same = np.array([a == b for a, b in pairs])
    lookalike = np.array([frozenset(pair) in alike for pair in pairs])
    return Split(rows[many], test, same, lookalike)


def scores(features: Tensor) -> NDArray[np.float64]:
    """Cosines of all pairs, in the order of itertools.combinations."""
    unit = nn.functional.normalize(features.float(), dim=1)
    first, second = torch.triu_indices(len(unit), len(unit), 1)
    return (unit @ unit.T)[first, second].double().numpy()


def verification(values: NDArray[np.float64], split: Split) -> dict[str, float]:
    """AUC over all pairs, and of the genuine pairs against the lookalikes."""
    some = split.same | split.lookalike
    return {
        "auc": separation(values, split.same)[0],
        "auc_lookalikes": separation(values[some], split.same[some])[0],
    }


class AfterTrunk(nn.Module):
    """What follows the 14×14 map of MobileFaceNet; the map comes ready."""

    def __init__(self, trunk: MobileFaceNetTrunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, middle: Tensor) -> Tensor:
        """(N, 128, 14, 14) → (N, 512, …)."""
        return self.trunk.from_middle(middle)


@torch.no_grad()
def middles(cache: FaceCache, trunk: MobileFaceNetTrunk, model: Any, path: Path) -> Tensor:
    """(rows, 2, 128, 14, 14): the map of every image and of its mirror image, kept in a file."""
    if path.exists():
        return torch.from_numpy(np.load(path, mmap_mode="c"))
    trunk.eval()
    found = []
    rows = np.arange(len(cache))
    for batch in Stream(
        cache, rows, columns=("image",), batch_size=32, shuffle=False, ragged="exact"
    ):
        pixels = model.input_spec.prepare(batch["image"])
        found.append(torch.stack([trunk.to_middle(pixels), trunk.to_middle(pixels.flip(3))], 1))
    ready = torch.cat(found)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, ready.numpy())
    return ready


@dataclass(frozen=True)
class ReadyStep(CalStep):
    """`CalStep` on ready 14×14 maps instead of pixels."""

    ready: Tensor = field(kw_only=True)

    def prepare(self, batch: Batch, place: Place) -> tuple[Tensor, Targets | None]:
        """The map of each image as its geometry mirrors it, and its targets."""
        shape, rows = self.settings.augmentation, batch["row"]
        geometry = augment.draw_geometry(shape, 112, self.settings.seed, place.epoch, rows)
        targets = Targets(
            augment.warp_targets(batch["regions"], geometry),
            augment.warp_targets(batch["heatmap"][:, None], geometry),
            guidance.known_origin(batch["origin"], False),
        )
        return self.ready[rows, geometry.mirrored.long()], targets


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
    settings = CalSettings(
        augment.Augmentation(112, brightness=0.0, saturation=0.0), method, views=False, seed=seed
    )
    trunk = model.features
    if ready is not None:
        model.features = AfterTrunk(trunk)
        for part in (trunk.conv1, trunk.dw_conv, trunk.features[:12]):
            part.requires_grad_(False)
    trainee = Trainee(model, classes, prior=bool(method.prior))
    step = CalStep(settings, trainee, side)
    if ready is not None:
        step = ReadyStep(settings, trainee, side, ready=ready)
    optimiser = torch.optim.SGD(
        [p for p in trainee.parameters() if p.requires_grad], rate, momentum=0.9, weight_decay=1e-5
    )
    stream = Stream(
        cache,
        split.train,
        columns=settings.columns(cache.columns),
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
    """Features and what attention does, on persons that were not learnt."""
    features: list[Tensor] = []
    watched: Counter[str] = Counter()
    assignment = settings.guidance.heads_of(model.attentions.conv.out_channels)
    columns = ("image", "regions", "heatmap", "origin")
    for batch in Stream(
        cache, split.test, columns=columns, batch_size=64, shuffle=False, ragged="exact"
    ):
        count = len(batch["row"])
        geometry = augment.centre_geometry(count, 112, 112, "cpu")
        cells = guidance.at_cells(
            Targets(
                augment.warp_targets(batch["regions"], geometry),
                augment.warp_targets(batch["heatmap"][:, None], geometry),
                guidance.known_origin(batch["origin"], False),
            ),
            side,
            side,
        )
        whole = model.input_spec.prepare(batch["image"])
        parts = model(whole if ready is None else ready[batch["row"], 0], parts=True)
        features.append(parts.output.features)
        for name, value in guidance.watch(parts.maps, cells, assignment).items():
            watched[name] += value.item() * count
    return {
        "features": torch.cat(features),
        **{name: value / len(split.test) for name, value in watched.items()},
    }


@torch.no_grad()
def off_the_shelf(cache: FaceCache, split: Split, weights: Path) -> NDArray[np.float64]:
    """Cosines of the 128-number embedding of the same weights."""
    model = create("mobilefacenet")
    load_weights(model, weights)
    model.eval()
    stream = Stream(
        cache, split.test, columns=("image",), batch_size=64, shuffle=False, ragged="exact"
    )
    return scores(torch.cat([model(model.input_spec.prepare(b["image"]))[0] for b in stream]))


COLUMNS = {
    "inside": "energy_inside",
    **{f"{name} lift": f"lift_{name}" for name in REGIONS},
    "entropy": "attention_entropy",
    "cosine": "head_cosine",
    "AUC": "auc",
    "lookalikes": "auc_lookalikes",
    "fused": "auc_fused",
}


def table(record: dict[str, Any]) -> str:
    """Mean ± spread over seeds; below each method its seed-paired difference to plain."""
    lines = [f"{'method':<18} seeds " + " ".join(f"{name:>15}" for name in COLUMNS)]
    shelf = record["off_the_shelf"]
    blank = [f"{shelf[key]:15.4f}" if key in shelf else " " * 15 for key in COLUMNS.values()]
    lines.append(f"{'off the shelf':<18} {'':5} " + " ".join(blank))
    plain = record["runs"].get("plain", {})
    for method, runs in record["runs"].items():
        seeds = sorted(runs)
        cells = []
        for key in COLUMNS.values():
            values = [runs[seed].get(key, float("nan")) for seed in seeds]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):7.4f} ±{spread:6.4f}")
        lines.append(f"{method:<18} {len(seeds):5} " + " ".join(f"{cell:>15}" for cell in cells))
        paired = [seed for seed in seeds if seed in plain]
        if method != "plain" and paired:
            cells = []
            for key in COLUMNS.values():
                gaps = [
                    runs[s].get(key, float("nan")) - plain[s].get(key, float("nan")) for s in paired
                ]
                spread = statistics.stdev(gaps) if len(gaps) > 1 else float("nan")
                cells.append(f"{statistics.mean(gaps):+7.4f} ±{spread:6.4f}")
            lines.append(
                f"{'  − plain':<18} {len(paired):5} " + " ".join(f"{c:>15}" for c in cells)
            )
    return "\n".join(lines)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Where the cache goes."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)))
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
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
        for seed in range(seeds)
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
    click.echo(json.dumps(protocol))
    click.echo(table(record))


if __name__ == "__main__":
    main()
