"""Faces of bench/guidance.py: LFW and ORL in one cache, who is learnt, and what is compared."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.cache.cli import main as cache_commands
from faceguide.cache.reader import FaceCache
from faceguide.evaluate.metrics.roc import best_accuracy, measure, rank
from faceguide.preprocess.cli import main as prep
from faceguide.train.cli import main as train

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
    _run(prep, *arguments, "--jobs", 1)


def _run(command: click.Command, *arguments: object) -> None:
    result = CliRunner().invoke(command, [*map(str, arguments)])
    if result.exit_code:
        raise SystemExit(result.output)


def distilled(cache: FaceCache, rows: NDArray[np.int64], weights: Path, place: Path) -> Path:
    """The weights after `train distil` on these rows."""
    made = place / "run" / "backbone.safetensors"
    if not made.exists():
        place.mkdir(exist_ok=True)
        keys = place / "keys.txt"
        keys.write_text("\n".join(cache.texts("key", rows)))
        _run(cache_commands, "copy", cache.directory, place / "learnt", "--rows", keys)
        _run(train, "distil", place / "learnt", "--init", weights, "--out", made.parent)
    return made


@dataclass(frozen=True)
class Split:
    """Who is learnt and who is compared.

    Attributes:
        train: rows to learn.
        test: rows of identities never learnt, LFW alone.
        same: (T·(T−1)/2,) bool over pairs of `test`, one identity.
        lookalike: likewise, the two are listed as lookalikes.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    same: NDArray[np.bool_]
    lookalike: NDArray[np.bool_]


def split_rows(cache: FaceCache, data: Path, identities: int | None) -> Split:
    """Identities with at least four images are learnt, the other LFW identities are compared.

    Args:
        identities: learn only so many, always the same ones.
    """
    rows = cache.select(labelled=True)
    labels = cache.read(rows, ["label"])["label"]
    counts = Counter(labels.tolist())
    many = np.array([counts[label] >= LEAST_IMAGES for label in labels.tolist()])
    train, test = rows[many], rows[~many]
    if identities is not None:
        learnt = np.random.default_rng(0).permutation(np.unique(labels[many]))[:identities]
        train = rows[many & np.isin(labels, learnt)]
    people = [cache.identities[label] for label in labels[~many].tolist()]
    listed = json.loads((data / "lfw112_dev" / "lookalike_pairs.json").read_text())
    alike = {
        frozenset((pair["a"], pair["b"])) for pair in listed if not pair["suspect_same_person"]
    }
    pairs = list(itertools.combinations(people, 2))
    same = np.array([a == b for a, b in pairs])
    lookalike = np.array([frozenset(pair) in alike for pair in pairs])
    return Split(train, test, same, lookalike)


def scores(features: Tensor) -> NDArray[np.float64]:
    """Cosines of all pairs, in the order of itertools.combinations."""
    unit = nn.functional.normalize(features.float(), dim=1)
    first, second = torch.triu_indices(len(unit), len(unit), 1)
    return (unit @ unit.T)[first, second].double().numpy()


def verification(values: NDArray[np.float64], split: Split) -> dict[str, float]:
    """How well cosines tell one identity from two.

    Over all pairs the AUC and the TAR at a FAR of 0.001; of the genuine pairs against the
    lookalikes the AUC and the accuracy at the best threshold, which flatters every row alike.
    """
    some = split.same | split.lookalike
    found = measure(rank(values, split.same), (1e-3,))
    lookalikes = rank(values[some], split.same[some])
    return {
        "auc": found.auc,
        "tar": float(found.tar[0]),
        "auc_lookalikes": measure(lookalikes).auc,
        "accuracy_lookalikes": best_accuracy(lookalikes),
    }
