"""What do calibration and distillation bring on covered faces, and does distillation see less hair?

    python bench/robust.py --data DATA --probes DATA/mfr2_dev --json robust.json --work WORK

DATA is laid out as for bench/occlusion.py, --probes too. Everything is made by the product's
commands and learns from the identities of LFW fold 0 (visibility of the probes: also from half of
the photographs with surgical masks): `train distil` with its defaults, and `evaluate calibrate` of
the released network, which serves the distilled ones too. Tests, each a full matrix of probes ×
gallery:

* clean, lower, niqab, band, eyes, random, half: fold 1, every photograph of an identity that has
  several, under that cover with its exact visibility, against one clean face of each identity;
* mixed: clean or under any of these covers, against a gallery of which half is covered; who wears
  what is drawn five times, and the figures are means; mixed predicted: the first draw with
  predicted visibility;
* probes, probes mixed: the real photographs of bench/occlusion.py, predicted visibility.

Matchers: `cosine` and `visible` (the visible embedding) of the released network, `calibrated`,
`distilled` (the visible embedding of the distilled network), `all` (that, calibrated). Intervals
are those of a bootstrap over identities. Then `evaluate surround` on fold 1. With --further two
more networks: `distilled, w = 1` (--surround-weight 1) and `covers only`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import occlusion_faces as source
import torch
from numpy.typing import NDArray
from occlusion_faces import COVERS, NIQAB, TRAINING_DRAWS, Faces, join
from occlusion_measures import (
    MEASURES,
    Test,
    difference,
    maps_only,
    measured,
    visible_score,
)
from occlusion_pieces import kept_head, predicted

from faceguide.cache import FaceCache
from faceguide.evaluate.calibrate.calibration_file import read_calibration
from faceguide.evaluate.score.scores import visible_embedding
from faceguide.train.models.loading.network import Network, load_network
from faceguide.train.models.matchers.calibration import CalibratedEmbedding
from faceguide.train.models.matchers.visible_embedding import VisibleEmbedding
from faceguide.train.training_settings import SHAPES

LEARN, TEST = 0, 1  # folds of LFW
DRAWS = 5  # of the mixed lists
DIFFERENCES = (("calibrated", "visible"), ("distilled", "visible"), ("all", "visible"))
# Name → further options of `train distil`.
NETWORKS = {"distilled": ()}
FURTHER = {
    "distilled, w = 1": ("--surround-weight", "1"),
    "covers only": ("--alter", "cover=0.75"),
}


@click.command(help=__doc__.splitlines()[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--probes", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--json", "out", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), help="Kept caches, runs and maps.")
@click.option("--replicates", default=200, show_default=True)
@click.option("--further", is_flag=True, help="Two more networks.")
def main(
    data: Path, probes: Path, out: Path, work: Path | None, replicates: int, further: bool
) -> None:
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        networks = NETWORKS | (FURTHER if further else {})
        result = run(data, probes, folder, replicates, networks)
    result["seconds"] = time.perf_counter() - begun
    result["processor_seconds"] = sum(
        resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    out.write_text(json.dumps(result, indent=1))
    click.echo(
        f"\n{result['seconds']:.0f} s, {result['processor_seconds']:.0f} s of processor time"
    )


def run(
    data: Path, probes: Path, work: Path, replicates: int, networks: dict[str, tuple[str, ...]]
) -> dict[str, Any]:
    released = data / "weights" / "mobilefacenet.pt"
    learn, test = (source.fold_faces(data, work, fold) for fold in (LEARN, TEST))
    runs = {"released": released}
    for name, words in networks.items():
        runs[name] = work / name.replace(" ", "")
        if not (runs[name] / "backbone.safetensors").exists():
            words = ("--maps", str(work / "kept-maps"), *words)
            made = ("train", "distil", str(learn.directory), "--init", str(released))
            command(*made, "--out", str(runs[name]), "--device", "cpu", *words)
    calibration = work / "released.calibration.safetensors"
    if not calibration.exists():
        made = ("evaluate", "calibrate", str(learn.directory), "--weights", str(released))
        command(*made, "--visibility", "cache", "--device", "cpu", "--out", str(calibration))
    rule = read_calibration(calibration, "visible-embedding").rule

    each: dict[str, dict[str, list[dict[str, Any]]]] = {}
    head, seen = None, {}
    for name, weights in runs.items():
        network = load_network(None, weights)
        embedding = visible_embedding(network, rule.mean_map)
        head = head or the_head(network, learn, data, work)
        matchers = {
            {"released": "visible"}.get(name, name): visible_score(embedding),
            {"released": "calibrated", "distilled": "all"}.get(name, f"{name}, calibrated"):
                visible_score(CalibratedEmbedding(embedding, rule)),
        }  # fmt: skip
        if name == "released":
            plain = visible_score(VisibleEmbedding.of(network.backbone))
            matchers["cosine"] = lambda p, g, plain=plain: plain(maps_only(p), maps_only(g))
        for it in make_tests(network, test, data, probes, work, name):
            if it.name.startswith("probes") or it.name.endswith("predicted"):
                # The head knows the released network's maps: all get what it says of those.
                if it.name not in seen:
                    sides = predicted(head, it.probe), predicted(head, it.gallery)
                    seen[it.name] = [side.visibility for side in sides]
                it.probe.visibility, it.gallery.visibility = seen[it.name]
            for matcher, score in matchers.items():
                one = measured(it, score(it.probe, it.gallery), replicates)
                each.setdefault(it.name, {}).setdefault(matcher, []).append(one)
    found = {
        name: {matcher: averaged(ones) for matcher, ones in rows.items()}
        for name, rows in each.items()
    }
    differences = {
        name: {f"{a}-{b}": difference(rows[a], rows[b]) for a, b in DIFFERENCES}
        for name, rows in found.items()
    }
    table = {
        name: {
            matcher: {
                "auc": one["auc"], "tar_1e-2": one["tar_1e-2"], "tar_1e-3": one["tar_1e-3"],
                "rank_1": one["rank1"], "genuine": one["genuine"], "impostor": one["impostor"],
            }
            for matcher, one in rows.items()
        }
        for name, rows in found.items()
    }  # fmt: skip
    for name, rows in table.items():
        show(name, rows, differences[name])
    surround = {name: surrounds(test, weights) for name, weights in runs.items()}
    show_surrounds(surround)
    return {"table": table, "difference": differences, "surround": surround}


def command(*words: str) -> str:
    """What a command of the product prints."""
    program = [sys.executable, "-m", "faceguide", *words]
    done = subprocess.run(program, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 3):  # 3: images or pairs were left out, and it said which
        raise SystemExit(f"{' '.join(program)} ended with {done.returncode}")
    return done.stdout


def the_head(network: Network, learn: FaceCache, data: Path, work: Path) -> torch.nn.Module:
    """The visibility head of bench/occlusion.py, on the released network's maps."""
    rows = learn.select()
    clean = source.plain(network.backbone, learn, rows, work / "learn_clean.npy")
    drawn = [
        source.drawn(network.backbone, learn, rows, k, SHAPES, work / f"learn_{k}.npy")
        for k in range(TRAINING_DRAWS)
    ]
    masked = source.masked_faces(data, work)
    real = source.plain(
        network.backbone, masked, masked.select(known_occlusion=True), work / "masked.npy"
    )
    half = real.at(list(range(0, len(real.name), 2)))
    return kept_head(work / "head.pt", join([clean, *drawn, *[half] * 8]))


def make_tests(
    network: Network, test: FaceCache, data: Path, probes: Path, work: Path, name: str
) -> list[Test]:
    """The tests in one network's maps; the same faces for all networks."""
    backbone, stem = network.backbone, name.replace(" ", "")
    rows = test.select(labelled=True)
    clean = source.plain(backbone, test, rows, work / f"{stem}_clean.npy")
    covers = {
        cover: source.covered(backbone, test, rows, cover, work / f"{stem}_{cover}.npy")
        for cover in ("lower", NIQAB, *(c for c in COVERS if c != "lower"))
    }
    gallery = np.unique(clean.person, return_index=True)[1]
    asked = np.flatnonzero(np.bincount(clean.person)[clean.person] > 1)
    tests = [Test("clean", clean.at(asked), clean.at(gallery))]
    tests += [Test(cover, faces.at(asked), clean.at(gallery)) for cover, faces in covers.items()]
    versions = [clean, *covers.values()]

    def mixed(rng: np.random.Generator, places: NDArray[np.int64], bare: float) -> Faces:
        shares = [bare, *[(1 - bare) / len(covers)] * len(covers)]
        choice = rng.choice(len(versions), len(places), p=shares)
        return join([one.at(places[choice == k]) for k, one in enumerate(versions)])

    for draw in range(DRAWS):
        rng = np.random.default_rng(1 + draw)
        sides = mixed(rng, asked, 1 / len(versions)), mixed(rng, gallery, 0.5)
        tests.append(Test("mixed", *sides))
        if not draw:
            tests.append(Test("mixed predicted", *(replace(side) for side in sides)))
    cache = source.probe_faces(probes, work)
    faces = source.plain(backbone, cache, cache.select(), work / f"{stem}_probes.npy")
    wears = source.masked_in_labels(probes)
    mask = np.array([wears[Path(key).with_suffix("").as_posix()] for key in faces.name])
    both = faces.at(np.flatnonzero(mask)), faces.at(np.flatnonzero(~mask))
    return [*tests, Test("probes", *both), Test("probes mixed", faces, faces, triangle=True)]


def averaged(ones: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of a matcher's figures on several lists, and of each replicate of identities."""
    means = {key: np.mean([one[key] for one in ones], 0) for key in (*MEASURES, "drawn")}
    return {**means, "genuine": ones[0]["genuine"], "impostor": ones[0]["impostor"]}


def surrounds(test: FaceCache, weights: Path) -> dict[str, Any]:
    found = json.loads(
        command("evaluate", "surround", str(test.directory), "--weights", str(weights),
                "--device", "cpu", "--json")
    )  # fmt: skip
    return {name: found[name] for name in found if name.startswith(("far_", "face_", "tar_", "n_"))}


def show(name: str, rows: dict[str, Any], differences: dict[str, Any]) -> None:
    one = rows["cosine"]
    click.echo(f"\n{name}: {one['genuine']} genuine, {one['impostor']} impostor pairs\n")
    click.echo("| matcher | AUC | TAR@1e-2 | TAR@1e-3 | rank-1 |\n|---|---|---|---|---|")
    for matcher, row in rows.items():
        cells = " | ".join(f"{row[key]:.4f}" for key in ("auc", "tar_1e-2", "tar_1e-3", "rank_1"))
        click.echo(f"| {matcher} | {cells} |")
    click.echo("\n| difference | AUC | TAR@1e-3 | rank-1 |\n|---|---|---|---|")
    for pair, row in differences.items():
        cells = [f"{row['auc']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"]
        for key in ("tar_1e-3", "rank1"):
            part = row[key]
            cells.append(f"{part['difference']:+.3f} [{part['low']:+.3f}, {part['high']:+.3f}]")
        click.echo(f"| {pair} | {' | '.join(cells)} |")


def show_surrounds(found: dict[str, Any]) -> None:
    columns = ("far_shared", "face_over_hair", "tar_clean", "tar_swapped")
    click.echo(f"\n| surrounds | {' | '.join(columns)} |\n|---|---|---|---|---|")
    for name, row in found.items():
        click.echo(f"| {name} | {' | '.join(f'{row[column]:.4f}' for column in columns)} |")


if __name__ == "__main__":
    main()
