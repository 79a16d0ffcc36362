"""Does weighting by visibility tell covered faces apart better than not weighting?

    python bench/occlusion.py --data DATA --probes DATA/mfr2_dev --json occlusion.json --work WORK

DATA holds lfw112_dev (aligned photographs, pairs.csv with folds), maskedface_seg_dev (surgical
masks and their outlines) and weights/mobilefacenet.pt; --probes is a folder with images/ and
labels.csv (identity, number, mask) in which some faces wear real masks. Caches and feature maps
are made once and kept in --work.

Whatever is trained learns from the identities of LFW fold 0 and half of the mask photographs; the
tests use other identities. Tests, each a full matrix of probes × gallery:

* probes mixed: every real photograph against every other one, with masks or without, visibility
  predicted by the head; `difference` in the JSON file is of this test, the others are under
  `difference_by_test`;
* probes: masked faces against unmasked ones, predicted;
* lfw COVER: covered photographs against clean ones, exact visibility of the drawn cover;
* lfw mixed: clean and covered probes against a clean and covered gallery, exact and predicted;
* lfw clean: what each matcher costs where nothing is covered.

Intervals are those of a bootstrap over identities of the difference between two matchers, each pair
counting by the draws of its two identities.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import occlusion_faces as source
import torch
from numpy.typing import NDArray
from occlusion_faces import COVERS, TRAINING_DRAWS, Faces, join
from occlusion_matchers import DIFFERENCES, make_matchers
from occlusion_measures import MEASURES, Test, difference, measured
from occlusion_pieces import (
    kept_head,
    predicted,
)

from faceguide.train.models import create
from faceguide.train.models.matchers.visible_embedding import mean_map
from faceguide.train.models.weights import load_weights
from faceguide.train.oaml.visibility_metrics import visibility_scores
from faceguide.train.training_settings import SHAPES

TEST_PROBES = 250


@click.command(help=__doc__.splitlines()[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--probes", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--json", "out", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), help="Kept caches and maps.")
@click.option("--replicates", default=300, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(
    data: Path, probes: Path, out: Path, work: Path | None, replicates: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = run(data, probes, folder, replicates)
    result["cpu_seconds"] = time.process_time() - begun
    out.write_text(json.dumps(result, indent=1))
    click.echo("\nFitted on training pairs:")
    for name, value in result["notes"].items():
        click.echo(f"* {name}: {value['weights'] if isinstance(value, dict) else value}")
    click.echo(f"\n{result['cpu_seconds']:.0f} s of processor time")


def run(data: Path, probes: Path, work: Path, replicates: int) -> dict[str, Any]:
    backbone = create("mobilefacenet")
    load_weights(backbone, data / "weights" / "mobilefacenet.pt")
    backbone.eval()
    lfw, masked = source.lfw_faces(data, work), source.masked_faces(data, work)
    probe_cache = source.probe_faces(probes, work)
    fold = source.folds(data)
    labels = lfw.read(np.arange(len(lfw)), ["label"])["label"]
    number = np.array([fold.get(name, -1) for name in lfw.identities])[labels]
    first = int(number[number >= 0].min())
    learn, test_rows = np.flatnonzero(number == first), np.flatnonzero(number != first)
    learn = learn[lfw.read(learn, ["origin"])["origin"] > 0]

    clean = source.plain(backbone, lfw, learn, work / "train_clean.npy")
    drawn = [
        source.drawn(backbone, lfw, learn, k, SHAPES, work / f"train_{k}.npy")
        for k in range(TRAINING_DRAWS)
    ]
    real = source.plain(backbone, masked, masked.select(known_occlusion=True), work / "masked.npy")
    learn_real, held_real = (real.at(list(range(start, len(real.name), 2))) for start in (0, 1))
    mean = mean_map(clean.maps.split(256))

    tests, held = make_tests(backbone, lfw, test_rows, probe_cache, probes, work)
    head = kept_head(work / "head.pt", join([clean, *drawn, *[learn_real] * 8]))
    heads = head_table(head, join([clean, *drawn, learn_real]), learn_real, held_real, held)
    for test in tests:
        if test.name.startswith("probes") or test.name.endswith("predicted"):
            test.probe, test.gallery = predicted(head, test.probe), predicted(head, test.gallery)

    matchers, notes = make_matchers(backbone, mean, clean, drawn)
    table, differences = [], {}
    for test in tests:
        found = {}
        for name, score in matchers.items():
            compared = any(name in pair for pair in DIFFERENCES)
            scores = score(test.probe, test.gallery)
            found[name] = measured(test, scores, replicates if compared else 0)
            row = {key: value for key, value in found[name].items() if key != "drawn"}
            table.append({"test": test.name, "matcher": name, **row})
        differences[test.name] = {
            f"{one}-{other}": difference(found[one], found[other]) for one, other in DIFFERENCES
        }
        show(test, found, differences[test.name])
    return {
        "table": table,
        "difference": differences["probes mixed"],
        "difference_by_test": differences,
        "visibility": heads,
        "notes": notes,
    }


def make_tests(backbone, lfw, rows, probe_cache, probes, work) -> tuple[list[Test], Faces]:
    """The tests, and all covered LFW faces with their exact visibility."""
    faces = source.plain(backbone, probe_cache, probe_cache.select(), work / "probes.npy")
    wears = source.masked_in_labels(probes)
    mask = np.array([wears[Path(name).with_suffix("").as_posix()] for name in faces.name])
    tests = [
        Test("probes", faces.at(np.flatnonzero(mask)), faces.at(np.flatnonzero(~mask))),
        Test("probes mixed", faces, faces, triangle=True),
    ]
    clean = source.plain(backbone, lfw, rows, work / "test_clean.npy")
    covers = {
        cover: source.covered(backbone, lfw, rows, cover, work / f"test_{cover}.npy")
        for cover in COVERS
    }
    gallery = np.unique(clean.person, return_index=True)[1]
    counts = np.bincount(clean.person)
    asked = np.flatnonzero(counts[clean.person] > 1)
    asked = np.sort(np.random.default_rng(0).permutation(asked)[:TEST_PROBES])
    for cover, faces in covers.items():
        tests.append(Test(f"lfw {cover}", faces.at(asked), clean.at(gallery)))
    rng = np.random.default_rng(1)
    versions = [clean, *covers.values()]

    def mixed(places: NDArray[np.int64], shares: list[float]) -> Faces:
        choice = rng.choice(len(versions), len(places), p=shares)
        return join(
            [
                versions[k].at(places[choice == k])
                for k in range(len(versions))
                if (choice == k).any()
            ]
        )

    probe, against = mixed(asked, [1 / 6] * 6), mixed(gallery, [0.5] + [0.1] * 5)
    tests.append(Test("lfw mixed", probe, against))
    tests.append(Test("lfw mixed, predicted", probe, against))
    tests.append(Test("lfw clean", clean.at(asked), clean.at(gallery)))
    tests.append(Test("lfw clean, predicted", clean.at(asked), clean.at(gallery)))
    return tests, join(list(covers.values()))


def head_table(head, learnt, learn_real, held_real, held) -> dict[str, Any]:
    """The head and its two baselines, on mask photographs and on covers it never saw."""
    found: dict[str, Any] = {}
    click.echo("\n| visibility on | head MSE | IoU | mean map | IoU | all visible | IoU |")
    click.echo("|---|---|---|---|---|---|---|")
    for name, faces, known in (
        ("mask photographs", held_real, learn_real),
        ("covers of the test", held, learnt),
    ):
        true = faces.visibility
        average = known.visibility.mean(0).expand_as(true)
        entries = {
            "head": visibility_scores(predicted(head, faces).visibility, true),
            "mean_map": visibility_scores(average, true),
            "all_visible": visibility_scores(torch.ones_like(true), true),
        }
        found[name] = {"faces": len(faces.name), **entries}
        cells = " | ".join(f"{one['mse']:.4f} | {one['iou']:.3f}" for one in entries.values())
        click.echo(f"| {name} ({len(faces.name)}) | {cells} |")
    return found


def show(test: Test, found: dict[str, Any], differences: dict[str, Any]) -> None:
    one = next(iter(found.values()))
    click.echo(f"\n{test.name}: {one['genuine']} genuine, {one['impostor']} impostor pairs\n")
    click.echo("| matcher | AUC | TAR@1e-2 | TAR@1e-3 | rank-1 |")
    click.echo("|---|---|---|---|---|")
    for name, row in found.items():
        cells = " | ".join(f"{row[key]:.4f}" for key in MEASURES)
        click.echo(f"| {name} | {cells} |")
    click.echo("\n| difference | AUC | TAR@1e-2 | rank-1 |\n|---|---|---|---|")
    for name, row in differences.items():
        cells = [f"{row['auc']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"]
        for key in ("tar_1e-2", "rank1"):
            part = row[key]
            cells.append(f"{part['difference']:+.3f} [{part['low']:+.3f}, {part['high']:+.3f}]")
        click.echo(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
