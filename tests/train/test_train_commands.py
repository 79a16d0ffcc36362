"""`train cal` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from faceguide.cache.reader import FaceCache
from faceguide.train.cli import main
from faceguide.train.models import create
from faceguide.train.models.safetensors_file import read_safetensors
from faceguide.train.models.weights import load_weights
from faceguide.train.run.metrics_log import read_metrics

TINY = [
    *("--model", "cal_mobilefacenet", "--heads", "8", "--crop", "32", "--batch-size", "6"),
    *("--lr", "2e-4", "--device", "cpu"),
]


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_help_has_two_examples() -> None:
    text = call("cal", "--help").output
    assert text.count("\n    train cal ") >= 2
    assert "torchrun --nproc-per-node 4 -m faceguide train cal" in text
    assert call().exit_code == 2


def test_a_run_from_cache_to_evaluation(
    small_cache: FaceCache, pairs_file: Path, tmp_path: Path
) -> None:
    words = [
        *("cal", small_cache.directory, "--out", tmp_path / "run", *TINY, "--epochs", 2),
        *("--guide", "regions", "--guide", "contrastive=0.2", "--contrastive-pairs", pairs_file),
        *("--pairs", pairs_file, "--forwards", 2, "--picture-every", 5, "--log-every", 2, "--json"),
    ]
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert "1 of" in result.stderr
    assert "nobody/1.jpg: missing" in result.stderr
    run = tmp_path / "run"
    answer = json.loads(result.stdout)
    batches = -(-36 // 4)  # of six images two are a listed pair
    assert answer == {"steps": 2 * batches, "weights": str(run / "backbone.safetensors")}
    lines = read_metrics(run)
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [batches, 2 * batches]
    assert all(0 <= line["auc"] <= 1 for line in evaluations)
    assert {"guide_regions", "guide_contrastive", "energy_inside", "head_cosine"} <= set(lines[0])
    grid = cv2.imread(str(run / "step-0000005.png"))
    assert grid.shape == (20 + 6 * 160, 5 * 160, 3)
    assert len(np.unique(grid.reshape(-1, 3), axis=0)) > 256  # no palette, which posterises
    assert cv2.imread(str(run / "energy.png")) is not None
    # What evaluate reads.
    from faceguide.train.models.loading.network import load_network
    from faceguide.train.run.training_data import training_identities

    network = load_network(None, run)
    assert network.name == "cal_mobilefacenet"
    assert training_identities(run) == set(small_cache.identities)
    # Once more: nothing is left to do.
    again = call(*words)
    assert again.exit_code == 0
    assert f"at step {2 * batches}" in again.stderr
    assert read_metrics(run) == lines


def test_the_export_loads_elsewhere(small_cache: FaceCache, tmp_path: Path) -> None:
    result = call("cal", small_cache.directory, "--out", tmp_path, *TINY, "--steps", 2)
    assert result.exit_code == 0, result.output
    path = tmp_path / "backbone.safetensors"
    _, described = read_safetensors(path)
    assert described["arch"] == "cal_mobilefacenet"
    assert described["colour"] == "RGB"
    model = create(described["arch"], **json.loads(described["arguments"]))
    report = load_weights(model, path)
    assert not report.missing
    assert not report.unexpected
    best = torch.load(tmp_path / "best.pt", weights_only=True)["module"]
    assert torch.equal(model.fc.weight, best["model.fc.weight"])


def test_init_starts_from_weights_and_says_what_did_not_match(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    face = create("mobilefacenet")
    torch.save(face.state_dict(), tmp_path / "face.pt")
    words = ["cal", small_cache.directory, "--out", tmp_path / "run", *TINY, "--steps", 1]
    result = call(*words, "--init", tmp_path / "face.pt", "--lr", "1e-12")
    assert result.exit_code == 0, result.output
    assert "294 tensors loaded; 6 not in the file" in result.stderr
    model = create("cal_mobilefacenet", num_classes=7, heads=8)
    load_weights(model, tmp_path / "run" / "backbone.safetensors")
    torch.testing.assert_close(model.features.conv2[0].weight, face.conv2[0].weight)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guide", "regoins"], "'regoins' is not a method; choose from loss, oval, regions"),
        (
            ["--guide", "loss=strong"],
            "valid float range. Write e.g. loss=0.5",
        ),
        (["--guide", "prior=1"], "weight of prior, a share, must be below 1"),
        (["--guide", "counterfactual=2"], "counterfactual has no weight"),
        (["--heads-per-region", "3,2"], "expected three numbers such as 12,8,8"),
        (["--amp", "fp16"], "--amp fp16 needs a CUDA device"),
        (["--meta", "split"], "expected NAME=VALUE such as split=train"),
    ],
)
def test_usage_errors_exit_2(
    words: list[str], message: str, small_cache: FaceCache, tmp_path: Path
) -> None:
    result = call("cal", small_cache.directory, "--out", tmp_path / "run", *TINY, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crop", "41"], "--crop must be from 1 to 40"),
        (
            ["--min-images", "30"],
            "expected at least two labelled identities with 30 or more images",
        ),
        (["--meta", "part=a"], "no meta column 'part'; there are split"),
        (["--heads-per-region", "9,9,9"], "a sum of at most 8 (--heads)"),
    ],
)
def test_faults_are_one_line_and_exit_1(
    words: list[str], message: str, small_cache: FaceCache, tmp_path: Path
) -> None:
    result = call("cal", small_cache.directory, "--out", tmp_path / "run", *TINY, *words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_meta_and_min_images_choose_the_rows(small_cache: FaceCache, tmp_path: Path) -> None:
    words = ["cal", small_cache.directory, "--out", tmp_path, *TINY, "--steps", 1]
    result = call(*words, "--meta", "split=s1", "--min-images", 2)
    assert result.exit_code == 0, result.output
    rows = small_cache.select(meta={"split": "s1"})
    labels = small_cache.read(rows, ["label"])["label"].tolist()
    kept = {label for label in labels if labels.count(label) >= 2}
    names = (tmp_path / "identities.txt").read_text().splitlines()
    assert set(names) == {small_cache.identities[label] for label in kept}
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["models"]["backbone"]["arguments"]["num_classes"] == len(kept)


def test_bf16_and_eight_forwards_run_on_the_cpu(
    small_cache: FaceCache, pairs_file: Path, tmp_path: Path
) -> None:
    words = ["cal", small_cache.directory, "--out", tmp_path, *TINY, "--steps", 2, "--no-views"]
    result = call(*words, "--amp", "bf16", "--forwards", 8, "--pairs", pairs_file, "--log-every", 1)
    assert result.exit_code == 0, result.output
    lines = read_metrics(tmp_path)
    assert "views" not in lines[0]
    assert lines[-1]["kind"] == "evaluation"


def test_twins_from_an_nd_twin_file_are_pulled_apart(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    rows = small_cache.select()
    keys = small_cache.texts("key", rows)
    people = sorted({key.split("/")[0] for key in keys})
    images = {name: [key for key in keys if key.startswith(name)] for name in people}
    (tmp_path / "id_to_images.json").write_text(json.dumps(images))
    (tmp_path / "twins.json").write_text(json.dumps({"train": [people[:2]], "test": []}))
    words = ["cal", small_cache.directory, "--out", tmp_path / "run", *TINY, "--steps", 1]
    twins = ["--contrastive-pairs", tmp_path / "twins.json", "--pairs-split", "train"]
    result = call(*words, "--guide", "contrastive", *twins)
    assert result.exit_code == 0, result.output
    assert read_metrics(tmp_path / "run")[0]["guide_contrastive"] > 0
    refused = call(*words, *twins)
    assert refused.exit_code == 2
    assert "--contrastive-pairs needs --guide contrastive" in refused.stderr


def test_tensorboard_gets_what_metrics_get(small_cache: FaceCache, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["cal", small_cache.directory, "--out", tmp_path, *TINY, "--steps", 2, "--log-every", 1]
    result = call(*words, "--tensorboard")
    assert result.exit_code == 0, result.output
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    lines = [(line["step"], line["loss"]) for line in read_metrics(tmp_path)]
    assert found == [(step, pytest.approx(loss)) for step, loss in lines]
    assert len(found) == 2


def test_without_tensorboard_the_message_says_what_to_install(
    small_cache: FaceCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = ["cal", small_cache.directory, "--out", tmp_path, *TINY, "--steps", 1]
    result = call(*words, "--tensorboard")
    assert result.exit_code == 1
    assert "pip install 'faceguide" in result.stderr


def test_the_command_line_does_not_wait_for_torch() -> None:
    code = "import sys, faceguide.train.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
