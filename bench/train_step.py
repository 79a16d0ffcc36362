"""What guidance adds to a step of `train cal`, and how long a step waits for its data.

    python bench/train_step.py --out train_step.json
    python bench/train_step.py --layouts --out layouts.json

With --layouts, what a step gains by the memory layout, the allocator and bfloat16: forward, margin
loss, backward and update of one network in processes that take turns. `before` has channels first
and glibc's own thresholds, `now` is what `train` does, `now, bf16` adds `--amp bf16`.

Without it:

The model, the recipe and the images are those of a real run: CAL with ResNet-50 on 224 pixels, all
three passes, on a demo set that is drawn and cached first. Every round runs one step of plain CAL
and one of each method on the same batch, in another order each time, on one model with one
optimiser. A method's figure is the median over rounds of the difference to plain in the same round,
with the interval that holds the true median with a confidence of 95 % (sign test): single rounds
differ by several per cent either way, whatever runs in them. `plain again` is plain a second time
in every round: what it differs by is the error of the measurement.

On a CPU the processor's time is counted, which other work on the machine disturbs less than the
clock; on a GPU the clock, with the device waited for. Waiting for data is clock time, as
`metrics.jsonl` reports it. Given again, the command adds its rounds to those in the file, so that
they can be spread over quiet moments.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from click.testing import CliRunner
from demo.photos import write_demo_photos
from tqdm import tqdm

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands.allocator import keep_freed_memory
from faceguide.core.files import write_bytes
from faceguide.preprocess.cli import main as prep
from faceguide.train.cal.cal_settings import CalSettings, GuidanceSettings
from faceguide.train.cal.cal_step import CalStep, columns_of
from faceguide.train.cal.cal_trainee import Trainee, map_side
from faceguide.train.data.augment import Augmentation
from faceguide.train.models import create
from faceguide.train.training import Batch, Place

METHODS = {
    "plain": GuidanceSettings(),
    "plain again": GuidanceSettings(),
    "loss": GuidanceSettings((("loss", 0.3),)),
    "regions": GuidanceSettings((("regions", 1.0),)),
    "regions-log": GuidanceSettings((("regions-log", 0.1),)),
    "counterfactual": GuidanceSettings((("counterfactual", 1.0),)),
    "prior": GuidanceSettings((("prior", 0.3),)),
    "contrastive": GuidanceSettings((("contrastive", 0.1),)),
}


def demo_cache(folder: Path, size: int) -> FaceCache:
    """Faces of `size` pixels with a margin of 7 %."""
    write_demo_photos(folder / "demo", identities=6, images=6)
    words = [
        "landmarks", folder / "demo" / "photos", "--out", folder / "cache", "--size", size,
        "--margin", 0.07, "--jobs", 1, "--allow-failures",
    ]  # fmt: skip
    result = CliRunner().invoke(prep, [str(word) for word in words])
    if result.exit_code:
        raise SystemExit(result.output)
    return FaceCache.open(folder / "cache")


def endless(stream: Stream) -> Iterator[Batch]:
    """Epoch after epoch."""
    while True:
        yield from stream


def one_step(step: CalStep, optimiser: torch.optim.Optimizer, batch: Batch, place: Place) -> None:
    """Forward, backward, update."""
    optimiser.zero_grad()
    step(step.trainee, batch, place)["loss"].backward()
    optimiser.step()


LAYOUTS = ("before", "now", "now, bf16")
NETWORKS = {"mobilefacenet": 32, "ir_18": 16}  # with their batch sizes


def layout_seconds(network: str, layout: str, seconds: float = 6.0) -> float:
    """Seconds of an image in one training step, in this process: the lowest of its steps."""
    if layout != "before":
        keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = create(network, embedding_size=512).train()
    head = create("adaface", num_classes=1000)
    batch = NETWORKS[network]
    images = torch.randint(0, 256, (batch, 112, 112, 3), dtype=torch.uint8)
    pixels = model.input_spec.prepare(images)  # type: ignore[union-attr, operator]
    last = layout != "before"
    memory = torch.channels_last if last else torch.contiguous_format
    model.to(memory_format=memory)  # type: ignore[call-overload]
    pixels = pixels.contiguous(memory_format=memory)
    labels = torch.arange(batch)
    optimiser = torch.optim.SGD([*model.parameters(), *head.parameters()], 1e-3, momentum=0.9)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in layout):
            unit, norm = model(pixels)
            loss = torch.nn.functional.cross_entropy(head(unit, norm, labels), labels)
        loss.backward()
        optimiser.step()
        best = min(best, time.perf_counter() - began)
    return best / batch


def compare_layouts(out: Path, rounds: int) -> None:
    """All layouts of all networks, in turn."""
    found: dict[str, dict[str, list[float]]] = {
        network: {layout: [] for layout in LAYOUTS} for network in NETWORKS
    }
    plays = [(one, two) for _ in range(rounds) for one in NETWORKS for two in LAYOUTS]
    for network, layout in tqdm(plays, disable=None):
        words = [sys.executable, __file__, "--layout", network, layout, "--out", str(out)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found[network][layout].append(float(done.stdout))
    write_bytes(out, (json.dumps(found, indent=1) + "\n").encode())
    click.echo("| network | layout | ms per image | times as fast |\n|---|---|---|---|")
    for network, layouts in found.items():
        for layout, values in layouts.items():
            ratios = [old / new for old, new in zip(layouts["before"], values, strict=True)]
            gain = statistics.median(ratios)
            click.echo(f"| {network} | {layout} | {1e3 * min(values):.1f} | {gain:.2f} |")


@click.command()
@click.option("--layouts", is_flag=True, help="Compare memory layouts instead.")
@click.option("--layout", nargs=2, type=str, hidden=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--model", default="cal_resnet50", show_default=True)
@click.option("--crop", type=int, default=224, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=25, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    layouts: bool,
    layout: tuple[str, str] | None,
    out: Path,
    model: str,
    crop: int,
    batch_size: int,
    rounds: int,
    threads: int,
    device: str,
) -> None:
    """Time steps of CAL with and without guidance, or of networks by memory layout."""
    if layout is not None:
        print(layout_seconds(*layout))
        return
    if layouts:
        compare_layouts(out, rounds)
        return
    torch.set_num_threads(threads)
    where = torch.device(device)

    def now() -> float:
        if where.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    protocol = {
        "model": model, "crop": crop, "batch_size": batch_size, "device": str(where),
        "threads": threads, "torch": torch.__version__,
    }  # fmt: skip
    record: dict[str, Any] = {
        "protocol": protocol, "waited": 0.0, "elapsed": 0.0,
        "seconds": {name: [] for name in METHODS},
    }  # fmt: skip
    if out.exists():
        record = json.loads(out.read_text())
        if record["protocol"] != protocol:
            raise SystemExit(f"{out}: holds another protocol: {record['protocol']}; choose another")
    with tempfile.TemporaryDirectory() as folder:
        cache = demo_cache(Path(folder), crop * 8 // 7)
        for _ in measure(record, cache, rounds, where, now):
            write_bytes(out, (json.dumps(record, indent=1) + "\n").encode())
    click.echo(table(record))


def table(record: dict[str, Any]) -> str:
    """Markdown: what each method adds to a plain step."""
    protocol, plain = record["protocol"], record["seconds"]["plain"]
    lines = [
        f"{protocol['model']}, {protocol['crop']} pixels, batches of {protocol['batch_size']}, "
        f"{protocol['device']}, {len(plain)} rounds",
        "",
        "| | step, s | added | 95 % interval | lowest and highest round |",
        "|---|---|---|---|---|",
    ]
    for name, values in record["seconds"].items():
        added = sorted(value / base - 1 for value, base in zip(values, plain, strict=True))
        cells = [name, f"{statistics.median(values):.3f}", "–", "–", "–"]
        if name != "plain":
            low, high = median_interval(added)
            cells[2:] = [
                f"{statistics.median(added):+.1%}",
                f"{low:+.1%} … {high:+.1%}",
                f"{added[0]:+.1%} … {added[-1]:+.1%}",
            ]
        lines.append(f"| {' | '.join(cells)} |".replace(" -", " −"))
    share = record["waited"] / record["elapsed"]
    return "\n".join([*lines, "", f"Waiting for data: {share:.3%} of the time."])


def median_interval(ordered: list[float]) -> tuple[float, float]:
    """The narrowest pair of order statistics around the median with a confidence of 95 %.

    With fewer than six values, the lowest and the highest, whose confidence is lower.
    """
    count = len(ordered)
    outside, rank = 0.5**count, 0
    while rank + 1 < count // 2:
        more = outside + math.comb(count, rank + 1) * 0.5**count
        if 2 * more > 0.05:
            break
        outside, rank = more, rank + 1
    return ordered[rank], ordered[count - 1 - rank]


def measure(
    record: dict[str, Any],
    cache: FaceCache,
    rounds: int,
    device: torch.device,
    now: Callable[[], float],
) -> Iterator[None]:
    """Add round after round to the record: seconds of each step by method, and of waiting."""
    protocol, seconds = record["protocol"], record["seconds"]
    crop, batch_size = protocol["crop"], protocol["batch_size"]
    # One model, one prior and one optimiser for all: what differs is guidance alone.
    model = create(protocol["model"], num_classes=len(cache.identities))
    side = map_side(model, crop)
    trainees = {
        prior: Trainee(model, torch.arange(len(cache.identities)), prior=prior).to(device).train()
        for prior in (False, True)
    }
    steps = {
        name: CalStep(
            CalSettings(guidance=guidance),
            Augmentation(crop),
            trainees[bool(guidance.weight("prior"))],
            side,
        )
        for name, guidance in METHODS.items()
    }
    # Parameters without a gradient, such as the prior's in other steps, are passed over.
    optimiser = torch.optim.SGD(trainees[True].parameters(), 1e-6, momentum=0.9)
    columns = columns_of(steps["plain"].settings, cache.columns)
    rows = cache.select(labelled=True)
    stream = endless(Stream(cache, rows, columns=columns, batch_size=batch_size, device=device))
    for name in METHODS:  # the first step allocates
        one_step(steps[name], optimiser, next(stream), Place(0, 100, 0, 0.0))
    order = random.Random(len(seconds["plain"]))
    for number in tqdm(range(rounds), disable=None):
        began = time.perf_counter()
        waited, found = 0.0, {}
        batch: Batch = {}
        place = Place(number, 100, 0, 0.0)
        # Another order each round, so that no method always follows the same one.
        for name in order.sample(list(METHODS), len(METHODS)):
            # A batch per step is fetched, as in a run; all methods of a round learn the first.
            start = time.perf_counter()
            fetched = next(stream)
            waited += time.perf_counter() - start
            batch = batch or {column: values.clone() for column, values in fetched.items()}
            first = now()
            one_step(steps[name], optimiser, batch, place)
            found[name] = now() - first
        for name, value in found.items():
            seconds[name].append(value)
        record["waited"] += waited
        record["elapsed"] += time.perf_counter() - began
        yield


if __name__ == "__main__":
    main()
