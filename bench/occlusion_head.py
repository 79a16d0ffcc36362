"""The occlusion head alone, in minutes: learnt, chosen and tested on three sets of photographs.

    python bench/occlusion_head.py --data DATA --json head.json --work WORK

DATA holds maskedface_seg_dev (50 photographs with surgical masks and their outlines) and
weights/mobilefacenet.pt. Three times, a third of the photographs is set aside for the test;
`train oaml --train occlusion` learns from the others, of which it keeps a quarter to choose its
best weights. So every photograph is tested once, by a head that neither learnt from it nor was
chosen by it. Next to the head stand two answers that look at no image: the mean map of the faces
that the head learnt from, and "all visible".
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import occlusion_faces as source
import torch

from faceguide.cache.reader import FaceCache
from faceguide.train.models.loading.network import load_network
from faceguide.train.oaml.oaml_batches import covered_faces
from faceguide.train.oaml.visibility_metrics import mean_visibility, visibility_scores

SPLITS = 3
HOLD_OUT = 0.25
SEED = 0


def photographs(data: Path, work: Path) -> FaceCache:
    """A cache with a column per split that says learn or test."""
    folder, place = next(iter(sorted(data.glob("maskedface_seg*")))), work / "head-photographs"
    if not place.exists():
        shutil.copytree(folder / "images", place)
    names = sorted(path.name for path in place.iterdir() if path.suffix != ".csv")
    with (place / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "identity", *(f"split{k}" for k in range(SPLITS))])
        for number, name in enumerate(names):
            kinds = ["test" if number % SPLITS == k else "learn" for k in range(SPLITS)]
            writer.writerow([name, "", *kinds])
    return source.prepared(
        work, "head",
        ["prep", "landmarks", f"{place}/list.csv", "--out", f"{work}/head",
         "--masks", f"{folder}/masks", "--class", "0,128,0", "--polarity", "occluded"],
    )  # fmt: skip


def train(data: Path, work: Path, split: int, epochs: int) -> Path:
    """One run of the command; a finished one is kept."""
    out = work / f"head-{split}-epochs-{epochs}"
    if (out / "occlusion_head.safetensors").exists():
        return out
    command = [
        *("train", "oaml", f"{work}/head", "--out", str(out), "--backbone", "mobilefacenet"),
        *("--init", f"{data}/weights/mobilefacenet.pt", "--train", "occlusion"),
        *("--meta", f"split{split}=learn", "--hold-out", str(HOLD_OUT), "--seed", str(SEED)),
        *("--batch-size", "8", "--epochs", str(epochs), "--device", "cpu"),
    ]
    subprocess.run([sys.executable, "-m", "faceguide", *command], check=True, stdout=sys.stderr)
    return out


@torch.inference_mode()
def tested(cache: FaceCache, run: Path, split: int) -> dict[str, torch.Tensor]:
    """True maps of the photographs set aside, the head's, and those of the two baselines."""
    rows = cache.select(known_occlusion=True, meta={f"split{split}": "test"})
    found = cache.read(rows, ["image", "visibility"])
    true = torch.from_numpy(found["visibility"]).float()
    network = load_network(None, run)
    pixels = network.input_spec.prepare(found["image"])
    learnt = covered_faces(cache, HOLD_OUT, SEED, {f"split{split}": "learn"})
    mean = mean_visibility(cache, learnt.veiled, true.shape[1])
    return {
        "true": true,
        "head": network.occlusion_head(network.backbone.feature_map(pixels))[:, 0],
        "mean map": mean.expand_as(true),
        "all visible": torch.ones_like(true),
    }


@click.command(help=__doc__.splitlines()[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--json", "out", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), help="Kept cache and runs.")
@click.option("--epochs", default=30, show_default=True)
@click.option("--splits", type=click.IntRange(1, SPLITS), default=SPLITS, show_default=True)
def main(data: Path, out: Path, work: Path | None, epochs: int, splits: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        cache = photographs(data, folder)
        parts, chosen = [], []
        for split in range(splits):
            run = train(data, folder, split, epochs)
            parts.append(tested(cache, run, split))
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            chosen.append(min(x["visibility_mse"] for x in lines if x["kind"] == "evaluation"))
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    table = {
        name: visibility_scores(values, whole["true"])
        for name, values in whole.items()
        if name != "true"
    }
    each = [visibility_scores(part["head"], part["true"]) for part in parts]
    click.echo(f"{len(whole['true'])} photographs, each tested once, {epochs} epochs")
    click.echo(
        "\n| on photographs set aside | MSE | IoU of hidden cells | AUC |\n|---|---|---|---|"
    )
    for name, scores in table.items():
        click.echo(f"| {name} | {scores['mse']:.4f} | {scores['iou']:.3f} | {scores['auc']:.3f} |")
    spread = ", ".join(f"{one['mse']:.4f} / {one['iou']:.3f}" for one in each)
    click.echo(f"\nhead, split by split (MSE / IoU): {spread}")
    click.echo(
        f"on the photographs that chose the weights (MSE): {', '.join(f'{c:.4f}' for c in chosen)}"
    )
    out.write_text(json.dumps({"table": table, "splits": each, "chosen": chosen}, indent=1))


if __name__ == "__main__":
    main()
