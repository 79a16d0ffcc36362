"""Real faces with real weights: the figures that are known of them come out."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from faceguide.evaluate.cli import main
from faceguide.evaluate.score.face_reader import FaceReader, score_pairs
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.score.scores import Cosine
from faceguide.evaluate.verification import load_scores, summarise

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def lfw(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cache/ of two folds of LFW, and run/: verification without mirror images."""
    pytest.importorskip("mediapipe.python", reason="needs the models of mediapipe 0.10.21")
    from faceguide.preprocess.cli import main as prep

    folder = tmp_path_factory.mktemp("lfw")
    images = shared / "data" / "lfw112_dev" / "images"
    command = ["landmarks", str(images), "--out", str(folder / "cache"), "--align", "none"]
    result = CliRunner().invoke(prep, command)
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(
        main,
        [
            *("verification", str(folder / "cache")),
            *("--pairs", str(shared / "data" / "lfw112_dev" / "pairs.csv")),
            *("--backbone", "mobilefacenet"),
            *("--weights", str(shared / "data" / "weights" / "mobilefacenet.pt")),
            *("--no-flip", "--out", str(folder / "run"), "--json"),
        ],
    )
    assert result.exit_code == 0, result.output
    (folder / "printed.json").write_text(result.stdout)
    return folder


def test_the_1200_cosines_are_those_of_the_original(lfw: Path, shared: Path) -> None:
    known = np.load(shared / "parity" / "mobilefacenet_lfw112_dev.npz")
    table = load_scores(lfw / "run")
    np.testing.assert_array_equal(table["number"], np.arange(1200))
    np.testing.assert_array_equal(table["same"], known["same"].astype(bool))
    assert np.abs(table["score"] - known["cosine"]).max() < 1e-4


def test_the_accuracy_is_the_known_one(lfw: Path) -> None:
    record = json.loads((lfw / "printed.json").read_text())
    assert record["pairs"] == record["listed"] == 1200
    assert record["accuracy"]["mean"] == pytest.approx(0.9933, abs=2e-3)
    assert record["accuracy"]["published_grid"]["mean"] == pytest.approx(0.9933, abs=2e-3)
    assert record["auc"] > 0.9995
    assert record["people"] == 844
    low, high = record["intervals"]["accuracy"]
    assert low < 0.9933 < high


def test_a_million_pairs_are_scored_and_summarised_in_seconds(tmp_path: Path) -> None:
    store = FaceStore.open(tmp_path, {"k": 1})
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2_000, 512)).astype(np.float32)
    for first in range(0, 20_000, 1_000):
        rows = np.arange(first, first + 1_000)
        vectors = centres[rows // 10] + 1.5 * rng.normal(size=(1_000, 512)).astype(np.float32)
        norm = np.linalg.norm(vectors, axis=1)
        store.add("embedding", rows, {"embedding": vectors / norm[:, None], "norm": norm})
    probe = rng.integers(0, 20_000, 1_000_000)
    reference = rng.integers(0, 20_000, 1_000_000)
    reference[:100_000] = probe[:100_000] // 10 * 10 + rng.integers(0, 10, 100_000)
    people = np.stack([probe // 10, reference // 10], 1)
    same = people[:, 0] == people[:, 1]
    start = time.process_time()
    scores = score_pairs(FaceReader(store), Cosine(), probe, reference)
    record, _ = summarise(scores, same, None, people, cosine=True, replicates=1000, seed=0)
    assert time.process_time() - start < 60
    assert record["pairs"] == 1_000_000
    assert record["tar"]["1e-4"] is not None
    assert record["tar"]["1e-5"] is None
