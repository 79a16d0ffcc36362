"""What each way of guidance does to attention and to verification, on real faces.

    python bench/guidance.py DATA --work work/ --out guidance.json

DATA is a folder with lfw112_dev, orl_att and weights/mobilefacenet.pt. `cal_mobilefacenet` starts
from the real weights and learns the identities of LFW with at least four images and those of ORL:
200 steps of 32 images with mirror images, whole image only, SGD at 0.01. It is then tested on the
LFW identities that it never saw: all pairs of their images, apart from these the pairs of
lookalikes, and the surround test of `evaluate surround`. Seeds are paired: run i of every method
has the same start and the same batches. `--identities 30` learns few.

`--distil` starts from the weights after `train distil`, with its defaults, on the images that are
learnt; its first row is then that network off the shelf.

`--train last` (default) keeps the network up to its 14×14 map as it is and trains what follows,
attention and classifier; `--train all` trains everything, at four times the cost.

Every run is stored in the JSON file as it ends and not repeated, so the command can be stopped and
given again, with further methods or seeds; the tables show what is there. One thread is used.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from guidance_faces import Split, build_cache, distilled, scores, split_rows, verification
from guidance_parts import PartPairs, gains
from guidance_surround import SurroundTest
from guidance_table import ATTENTION, PARTS, SURROUND, VERIFICATION, surround, table, targets
from guidance_trunk import AfterTrunk, ReadyStep, both_ways, kept
from torch import Tensor
from tqdm import tqdm

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.files import write_bytes
from faceguide.train.cal import attention_guidance
from faceguide.train.cal.attention_guidance import Targets, heads_of
from faceguide.train.cal.attention_watch import watch
from faceguide.train.cal.cal_batches import transform_of
from faceguide.train.cal.cal_settings import CalSettings, GuidanceSettings
from faceguide.train.cal.cal_step import CalStep, columns_of
from faceguide.train.cal.cal_trainee import Trainee, map_side
from faceguide.train.data import augment
from faceguide.train.models import create
from faceguide.train.models.weights import load_weights
from faceguide.train.training import Place


def guided(name: str, weight: float) -> CalSettings:
    return CalSettings(guidance=GuidanceSettings(((name, weight),)), views=False)


METHODS = {
    "plain": CalSettings(views=False),
    "loss 0.3": guided("loss", 0.3),
    "loss 1": guided("loss", 1.0),
    "oval 0.3": guided("oval", 0.3),
    "oval 1": guided("oval", 1.0),
    "regions 1": guided("regions", 1.0),
    "regions-log 0.03": guided("regions-log", 0.03),
    "regions-log 0.1": guided("regions-log", 0.1),
    "regions-log 0.3": guided("regions-log", 0.3),
    "counterfactual": guided("counterfactual", 1.0),
    "prior 0.3": guided("prior", 0.3),
    "contrastive 0.1": guided("contrastive", 0.1),
    "swap 0.5": CalSettings(surround=("swap", 0.5), views=False),
}
_WATCHED = guided("oval", 1.0)  # what the columns of a test are made for


@dataclass(frozen=True)
class Protocol:
    """How a run learns; runs of different protocols are not compared."""

    train: str
    distil: bool
    identities: int | None
    stride: int
    heads: int
    steps: int
    batch_size: int
    lr: float


@dataclass(frozen=True)
class Ground:
    """What all runs share.

    Attributes:
        ready: (rows, 2, 128, 14, 14) maps of every image and its mirror image; None = `--train all`
        embedding: (rows, 2, 128) likewise, off the shelf.
    """

    cache: FaceCache
    split: Split
    weights: Path
    ready: Tensor | None
    embedding: Tensor
    surround: SurroundTest
    pairs: PartPairs

    @classmethod
    def of(
        cls, cache: FaceCache, split: Split, weights: Path, protocol: Protocol, work: Path
    ) -> Ground:
        """Embeds what is not kept in `work` yet."""
        network = create("mobilefacenet")
        load_weights(network, weights)
        network.eval()
        spec = network.input_spec
        embedding = kept(
            work / "embeddings.npy", lambda: both_ways(cache, lambda x: network(x)[0], spec)
        )
        ready, seen = None, None
        if protocol.train == "last":
            model = create("cal_mobilefacenet", num_classes=2, stride=protocol.stride)
            load_weights(model, weights)
            middle = model.eval().features.to_middle
            ready = kept(work / "middles.npy", lambda: both_ways(cache, middle, model.input_spec))
            seen = lambda images: middle(model.input_spec.prepare(images))  # noqa: E731
        surround = SurroundTest.of(cache, split.test, work, seen)
        pairs = PartPairs.of(cache, split, embedding[:, 0])
        return cls(cache, split, weights, ready, embedding, surround, pairs)

    def off_the_shelf(self) -> dict[str, float]:
        """What a run is measured by, of the embedding as it is; its one part is the whole."""
        network = create("mobilefacenet")
        load_weights(network, self.weights)
        network.eval()

        def embed(images: Tensor) -> Tensor:
            if self.ready is None:
                return network(network.input_spec.prepare(images))[0]
            return network.map7_to_embedding(network.map14_to_map7(images))

        return {
            **verification(scores(self.embedding[self.split.test, 0]), self.split),
            **self.surround.figures(embed),
            **gains(self.pairs, self.embedding[:, :, None]),
        }


def run(ground: Ground, method: CalSettings, seed: int, protocol: Protocol) -> dict[str, float]:
    """Train once and test."""
    torch.manual_seed(seed)
    cache, split = ground.cache, ground.split
    labels = cache.read(np.arange(len(cache)), ["label"])["label"]
    learnt = np.unique(labels[split.train])
    classes = torch.full((len(cache.identities),), -1)
    classes[torch.from_numpy(learnt)] = torch.arange(len(learnt))
    model = create(
        "cal_mobilefacenet", num_classes=len(learnt), heads=protocol.heads, stride=protocol.stride
    )
    load_weights(model, ground.weights)
    side = map_side(model, 112)
    settings = replace(method, seed=seed)
    augmentation = augment.Augmentation(112, brightness=0.0, saturation=0.0)
    trunk = model.features
    fixed = (trunk.conv1, trunk.dw_conv, trunk.features[:12]) if ground.ready is not None else ()
    if ground.ready is not None:
        model.features = AfterTrunk(trunk)
    trainee = Trainee(model, classes, prior=bool(settings.guidance.weight("prior")))
    step = CalStep(settings, augmentation, trainee, side)
    if ground.ready is not None:
        step = ReadyStep(settings, augmentation, trainee, side, ready=ground.ready, trunk=trunk)
    trainee.train()
    for part in fixed:
        part.requires_grad_(False).eval()
    optimiser = torch.optim.SGD(
        [p for p in trainee.parameters() if p.requires_grad],
        protocol.lr, momentum=0.9, weight_decay=1e-5,
    )  # fmt: skip
    stream = Stream(
        cache, split.train, columns=columns_of(settings, cache.columns),
        batch_size=protocol.batch_size, seed=seed,
        transform=transform_of(settings, cache, split.train),
    )  # fmt: skip
    done, last = 0, {}
    while done < protocol.steps:
        epoch = stream.epoch
        for batch in stream:
            losses = step(trainee, batch, Place(done, protocol.steps, epoch, 0.0))
            if not torch.isfinite(losses["loss"]):
                return {"loss": float("inf")}
            optimiser.zero_grad()
            losses["loss"].backward()
            optimiser.step()
            done += 1
            last = losses
            if done == protocol.steps:
                break
    trainee.eval()
    found = attention(ground, model, settings, side)
    return {
        **found,
        **recognition(ground, model),
        "train_accuracy": last["accuracy"].item(),
        "loss": last["loss"].item(),
    }


def taken(ground: Ground, model: Any, batch: dict[str, Tensor]) -> Tensor:
    """What the network takes of a batch."""
    if ground.ready is None:
        return model.input_spec.prepare(batch["image"])
    return ground.ready[batch["row"], 0]


@torch.no_grad()
def attention(ground: Ground, model: Any, settings: CalSettings, side: int) -> dict[str, float]:
    """What attention does, on identities that were not learnt."""
    cache, test = ground.cache, ground.split.test
    watched: Counter[str] = Counter()
    assignment = heads_of(settings.guidance, model.attentions.conv.out_channels)
    for batch in Stream(
        cache, test, columns=columns_of(_WATCHED, cache.columns), batch_size=64, shuffle=False,
        ragged="exact", transform=transform_of(_WATCHED, cache, test),
    ):  # fmt: skip
        count = len(batch["row"])
        geometry = augment.centre_geometry(count, 112, 112, "cpu")
        known = attention_guidance.known_origin(batch["origin"], False)
        covered = torch.cat([batch["regions"], batch["oval"] * known[:, None, None, None]], 1)
        cells = attention_guidance.at_cells(
            Targets(
                augment.warp_targets(covered, geometry),
                augment.warp_targets(batch["heatmap"][:, None], geometry),
                known,
            ),
            side,
            side,
        )
        maps = model(taken(ground, model, batch), parts=True).maps
        for name, value in watch(maps, cells, assignment).items():
            watched[name] += value.item() * count
    return {name: value / len(test) for name, value in watched.items()}


@torch.no_grad()
def recognition(ground: Ground, model: Any) -> dict[str, float]:
    """Verification, by itself and fused, the surround test, and what parts add."""
    heads, split = model.attentions.conv.out_channels, ground.split
    spec, ready = model.input_spec, ground.ready

    def embed(images: Tensor) -> Tensor:
        return model(images if ready is not None else spec.prepare(images)).features

    if ready is None:
        features = both_ways(ground.cache, lambda pixels: model(pixels).features, spec)
    else:
        some = [embed(maps.flatten(0, 1)) for maps in ready.split(32)]
        features = torch.cat(some).unflatten(0, (-1, 2))
    values = scores(features[split.test, 0])
    shelf = scores(ground.embedding[split.test, 0])
    return {
        **verification(values, split),
        "auc_fused": verification((values + shelf) / 2, split)["auc"],
        **ground.surround.figures(embed),
        **gains(ground.pairs, features.unflatten(2, (heads, -1))),
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
@click.option("--identities", type=click.IntRange(2), help="Learn only so many.  [default: all]")
@click.option("--train", "part", type=click.Choice(["last", "all"]), default="last")
@click.option("--distil", is_flag=True, help="Start from the weights after `train distil`.")
@click.option("--stride", type=click.Choice([16, 32]), default=16, show_default=True)
@click.option("--heads", type=click.IntRange(3), default=16, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=200, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=32, show_default=True)
@click.option("--lr", "rate", type=float, default=0.01, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the record and no tables.")
def main(
    data: Path,
    work: Path,
    out: Path,
    methods: tuple[str, ...],
    seeds: int,
    first_seed: int,
    identities: int | None,
    part: str,
    distil: bool,
    stride: int,
    heads: int,
    steps: int,
    batch_size: int,
    rate: float,
    as_json: bool,
) -> None:
    """Compare the methods of guidance on the real faces under DATA."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # Else every new tensor is filled first, a fifth of the time; no operation here leaves gaps.
    torch.utils.deterministic.fill_uninitialized_memory = False
    cache = build_cache(data, work)
    split = split_rows(cache, data, identities)
    asked = Protocol(part, distil, identities, stride, heads, steps, batch_size, rate)
    protocol = {
        **asdict(asked), "learnt_rows": len(split.train), "test_rows": len(split.test),
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
        weights, place = data / "weights" / "mobilefacenet.pt", work
        if distil:
            place = work / f"distilled-{len(split.train)}"
            weights = distilled(cache, split.train, weights, place)
        ground = Ground.of(cache, split, weights, asked, place)
        if "off_the_shelf" not in record:
            with torch.no_grad():
                record["off_the_shelf"] = ground.off_the_shelf()
        for seed, method in tqdm(todo, disable=None):
            found = run(ground, METHODS[method], seed, asked)
            record["runs"].setdefault(method, {})[str(seed)] = found
            record["surround"] = surround(record)
            write_bytes(out, (json.dumps(record, indent=1) + "\n").encode())
    record["runs"] = {name: record["runs"][name] for name in METHODS if name in record["runs"]}
    if as_json:
        click.echo(json.dumps(record))
        return
    click.echo(json.dumps(protocol) + "\n")
    for columns in (ATTENTION, VERIFICATION, SURROUND):
        click.echo(table(record, columns) + "\n")
    click.echo(table(record, PARTS, paired=False) + "\n")
    click.echo(targets(record))


if __name__ == "__main__":
    main()
