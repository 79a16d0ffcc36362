"""A folder in the niqab layout, from photographs to a verification figure in three commands."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from bench.demo.photos import write_demo_photos
from click.testing import CliRunner, Result
from tests.evaluate.builder import weights_file

from faceguide.cache.reader import FaceCache
from faceguide.evaluate.cli import main as evaluate
from faceguide.preprocess.cli import main as prep
from faceguide.train.oaml_command import oaml_command


@pytest.fixture(scope="module")
def niqab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kept_faces/NAME.jpg beside masks/NAME_mask.png (255 = visible), and a list of pairs."""
    pytest.importorskip("mediapipe.python", reason="needs the models of mediapipe 0.10.21")
    pytest.importorskip("skimage")
    folder = tmp_path_factory.mktemp("niqab")
    write_demo_photos(folder / "demo", identities=3, images=9, size=192, seed=1)
    (folder / "kept_faces").mkdir()
    (folder / "masks").mkdir()
    for mask in (folder / "demo" / "masks").glob("*/*_mask.png"):
        name = mask.name.removesuffix("_mask.png")
        shutil.copy(mask, folder / "masks")
        shutil.copy(folder / "demo" / "photos" / mask.parent.name / f"{name}.jpg",
                    folder / "kept_faces")  # fmt: skip
    names = sorted(path.stem for path in (folder / "kept_faces").glob("*.jpg"))
    lines = [
        f"{a}.jpg {b}.jpg {int(a.rsplit('_', 1)[0] == b.rsplit('_', 1)[0])}"
        for a, b in itertools.combinations(names, 2)
    ]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return folder


def run(command: object, *arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result


def test_prep_train_evaluate(niqab: Path) -> None:
    faces, cache, out = niqab / "kept_faces", niqab / "cache", niqab / "run"
    run(prep, "landmarks", str(faces), "--flat", "--out", str(cache), "--masks",
        str(niqab / "masks"), "--jobs", "1", "--allow-failures")  # fmt: skip
    known = FaceCache.open(cache).select(known_occlusion=True)
    assert len(known) >= 6
    weights = weights_file(niqab / "weights.pt")
    run(oaml_command, str(cache), "--out", str(out), "--backbone", "mobilefacenet", "--train",
        "occlusion", "--init", str(weights), "--batch-size", "4", "--epochs", "4",
        "--hold-out", "0.3", "--device", "cpu", "--log-every", "1")  # fmt: skip
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["occlusion"] for line in lines if line["kind"] == "train"]
    assert sum(losses[-2:]) < sum(losses[:2])
    result = run(evaluate, "verification", str(cache), "--pairs", str(niqab / "pairs.txt"),
                 "--weights", str(out), "--matcher", "visible-embedding", "--visibility", "head",
                 "--out", str(niqab / "figures"), "--bootstrap", "0", "--allow-failures",
                 "--json")  # fmt: skip
    # Random weights: that a figure comes out of both networks is all that can be asked.
    figures = json.loads(result.stdout.splitlines()[-1])
    assert 0.0 < figures["auc"] <= 1.0
    settings = json.loads((niqab / "figures" / "run.json").read_text())["settings"]
    assert settings["matcher"] == "visible-embedding"
