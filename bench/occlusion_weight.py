"""Which weight of the occlusion loss? `train oaml` over 0.03, 0.1, 0.3 and 1, all else equal.

    python bench/occlusion_weight.py --data DATA --json weight.json --work WORK

DATA is laid out as for bench/occlusion.py. Every run is `train oaml` on the identities of
LFW fold 0 that have two photographs or more, with covers drawn on half of the faces and their exact
visibility, and photographs with surgical masks as the second cache. MobileFaceNet has its public
weights. The heads learn first, on the frozen network, once per seed; every run of --steps steps
goes on from there and trains the whole network. Nothing is chosen by its result: the last weights
count. Measured on the identities of the other folds: their photographs under the covers of
bench/occlusion.py against one clean photograph of each identity, visibility predicted by the run's
own head. `released` are the public weights, whose cosine is all that they can do; `heads alone` are
the runs that all others start from.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import occlusion_faces as source
import torch
from occlusion_faces import COVERS, Faces, join
from occlusion_measures import Test, maps_only, measured, visible_score
from occlusion_pieces import predicted

from faceguide.cache.reader import FaceCache
from faceguide.train.models.loading.network import Network, load_network
from faceguide.train.models.matchers.visible_embedding import VisibleEmbedding, mean_map
from faceguide.train.oaml.visibility_metrics import visibility_scores
from faceguide.train.training_settings import SHAPES

WEIGHTS = (0.03, 0.1, 0.3, 1.0)
PROBES = 200
HEAD_STEPS = 150
RATE = "0.001"


def learners(data: Path, work: Path) -> FaceCache:
    """A cache of the identities of fold 0, every face known to be wholly visible."""
    out = source.fold_faces(data, work, 0).directory
    return source.prepared(work, out.name, ["prep", "masks", "--cache", str(out), "--clean", "."])


def heads(data: Path, work: Path, seed: int) -> Path:
    """Margin head, matcher and occlusion head, learnt on the network as it was released."""
    out = work / f"heads-seed-{seed}-steps-{HEAD_STEPS}"
    words = ("--train", "heads", "--init", f"{data}/weights/mobilefacenet.pt")
    return run(work, out, seed, HEAD_STEPS, words)


def train(work: Path, start: Path, weight: float, seed: int, steps: int) -> Path:
    """The whole network from there."""
    out = work / f"weight-{weight:g}-seed-{seed}-steps-{steps}"
    words = ("--init", str(start), "--occlusion-weight", f"{weight:g}", "--lr", RATE)
    return run(work, out, seed, steps, (*words, "--freeze-norm"))


def run(work: Path, out: Path, seed: int, steps: int, words: tuple[str, ...]) -> Path:
    """One run of the command; a finished one is kept."""
    command = [
        *("train", "oaml", f"{work}/fold-0", "--out", str(out), "--backbone", "mobilefacenet"),
        *("--niqab", f"{work}/masked", "--batch-size", "24", "--images-per-person", "2"),
        *("--occlusion-batch", "8", "--clean-share", "0", "--hold-out", "0", *words),
        *(word for kind in SHAPES for word in ("--occluders", kind)),
        *("--epochs", "100", "--steps", str(steps), "--seed", str(seed)),
        *("--device", "cpu", "--threads", "1"),
    ]
    if not (out / "backbone.safetensors").exists():
        subprocess.run([sys.executable, "-m", "faceguide", *command], check=True, stdout=sys.stderr)
    return out


def faces_of_test(
    network: Network, cache: FaceCache, rows: np.ndarray, folder: Path
) -> tuple[Faces, Faces, Faces]:
    """Covered probes (the covers in turn), the same without covers, one clean face per identity."""
    folder.mkdir(exist_ok=True)
    labels = cache.read(rows, ["label"])["label"]
    first = np.unique(labels, return_index=True)[1]
    asked = np.setdiff1d(np.arange(len(rows)), first)
    asked = np.sort(np.random.default_rng(0).permutation(asked)[:PROBES])
    backbone = network.backbone
    covered = [
        source.covered(
            backbone, cache, rows[asked[k :: len(COVERS)]], cover, folder / f"{cover}.npy"
        )
        for k, cover in enumerate(COVERS)
    ]
    used = np.concatenate([asked, first])
    clean = source.plain(backbone, cache, rows[used], folder / "clean.npy")
    places = np.arange(len(used))
    return join(covered), clean.at(places[: len(asked)]), clean.at(places[len(asked) :])


def measure(network: Network, faces: tuple[Faces, Faces, Faces]) -> dict[str, float]:
    """AUC of cosine and visible embedding on covered and clean pairs, errors of the head."""
    covered, clean, gallery = faces
    visible = visible_score(VisibleEmbedding.of(network.backbone, mean_map([gallery.maps])))
    plain = visible_score(VisibleEmbedding.of(network.backbone))

    def auc(score: Any, probe: Faces, against: Faces) -> float:
        return measured(Test("", probe, against), score(probe, against), 0)["auc"]

    found = {
        "cosine_covered": auc(plain, maps_only(covered), maps_only(gallery)),
        "cosine_clean": auc(plain, maps_only(clean), maps_only(gallery)),
    }
    head = network.occlusion_head
    if head is not None:
        seen = predicted(head, covered)
        found["visible_covered"] = auc(visible, seen, predicted(head, gallery))
        found["visible_clean"] = auc(visible, predicted(head, clean), predicted(head, gallery))
        errors = visibility_scores(seen.visibility, covered.visibility)
        found |= {"mse": errors["mse"], "iou": errors["iou"]}
    found["visible_covered_exact"] = auc(visible, covered, gallery)
    return found


COLUMNS = (
    "cosine_covered", "visible_covered", "visible_covered_exact", "cosine_clean",
    "visible_clean", "mse", "iou",
)  # fmt: skip


@click.command(help=__doc__.splitlines()[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--json", "out", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), help="Kept caches and runs.")
@click.option("--steps", default=60, show_default=True)
@click.option("--seeds", default=2, show_default=True)
def main(data: Path, out: Path, work: Path | None, steps: int, seeds: int) -> None:
    torch.set_num_threads(1)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        learners(data, folder)
        source.masked_faces(data, folder)
        cache = source.lfw_faces(data, folder)
        fold = source.folds(data)
        other = np.array([fold.get(name, -1) > 0 for name in cache.identities])
        rows = np.arange(len(cache))
        rows = rows[other[cache.read(rows, ["label"])["label"]]]
        table: list[dict[str, Any]] = []
        released = load_network("mobilefacenet", data / "weights" / "mobilefacenet.pt")
        faces = faces_of_test(released, cache, rows, folder / "released")
        table.append({"weight": None, "seed": None, **measure(released, faces)})
        click.echo(json.dumps(table[-1]), err=True)
        for seed in range(seeds):
            start = heads(data, folder, seed)
            for weight in (None, *WEIGHTS):
                trained = start if weight is None else train(folder, start, weight, seed, steps)
                network = load_network(None, trained)
                faces = faces_of_test(network, cache, rows, trained / "faces")
                row = {"weight": weight, "seed": seed, **measure(network, faces)}
                table.append(row)
                click.echo(json.dumps(row), err=True)
    pairs = [len(faces[0].name), len(faces[2].name)]
    click.echo(f"{steps} steps, {pairs[0]} probes × {pairs[1]} gallery faces")
    click.echo(f"\n| weight | seed | {' | '.join(COLUMNS)} |\n|{'---|' * (2 + len(COLUMNS))}")
    table.sort(key=lambda row: (row["weight"] or 0.0, -1 if row["seed"] is None else row["seed"]))
    for row in table:
        weight = "heads alone" if row["weight"] is None else f"{row['weight']:g}"
        name = "released | –" if row["seed"] is None else f"{weight} | {row['seed']}"
        cells = [f"{row[key]:.4f}" if key in row else "–" for key in COLUMNS]
        click.echo(f"| {name} | {' | '.join(cells)} |")
    seconds = time.perf_counter() - begun
    click.echo(f"\n{seconds:.0f} s")
    out.write_text(
        json.dumps({"table": table, "steps": steps, "pairs": pairs, "seconds": seconds}, indent=1)
    )


if __name__ == "__main__":
    main()
