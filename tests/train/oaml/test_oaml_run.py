"""Runs of `train oaml`: losses that stay, resuming, what a run leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tests.cache.builder import build, estimate_unknown
from tests.conftest import REPOSITORY
from tests.train.oaml.scenario import started, tiny_run, train_tiny

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import CheckpointError, TrainError
from faceguide.core.files import read_json
from faceguide.train.models import create
from faceguide.train.models.loading.network import load_network
from faceguide.train.oaml.oaml_batches import covered_faces
from faceguide.train.oaml.oaml_settings import OamlRun, OamlSettings
from faceguide.train.oaml_command import oaml_command
from faceguide.train.training_settings import SHAPES

GOLDEN = REPOSITORY / "tests" / "data" / "oaml_golden.json"
# With random weights the gradients of a deep network are so large that what two processors round
# differently is another loss two steps later. Deep runs pin three batches and their losses at
# (nearly) the same weights, the small network what the steps do to the weights.
STILL = 1e-12
RUNS: dict[str, OamlRun] = {
    "two caches": tiny_run(rate=STILL),
    "graph": tiny_run(sampler="graph", rate=STILL),
    "heads": tiny_run(OamlSettings(part="heads")),
    "drawn covers": tiny_run(OamlSettings(occluders=SHAPES, occluder_share=1.0), rate=STILL),
    "occlusion": tiny_run(OamlSettings(part="occlusion")),
    "small network": tiny_run(backbone="tests.train.small_network:build", rate=1e-2),
}


def make_caches(folder: Path) -> tuple[FaceCache, FaceCache]:
    """36 usable faces of 7 persons without masks, and 18 others, half of them with masks."""
    build(folder / "faces", rows=40, shard_rows=16, occlusion=False, size=112)
    build(folder / "veiled", rows=20, shard_rows=16, size=112, seed=5)
    return FaceCache.open(folder / "faces"), FaceCache.open(folder / "veiled")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> tuple[FaceCache, FaceCache]:
    return make_caches(tmp_path_factory.mktemp("caches"))


def sequence(caches: tuple[FaceCache, FaceCache], directory: Path, name: str) -> list[float]:
    """The loss of each step."""
    faces, veiled = caches
    run = RUNS[name]
    if run.recipe.part != "all":  # nothing can be trained on a frozen random backbone
        run = started(run, directory.parent / f"{directory.name}.pt")
    alone = run.recipe.part == "occlusion"
    lines = train_tiny(veiled if alone else faces, directory, run, None if alone else veiled)
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("name", RUNS)
def test_loss_sequence(name: str, caches: tuple[FaceCache, FaceCache], tmp_path: Path) -> None:
    """A change of these numbers is a change of the method: say so in the changelog.

    `python -m tests.train.oaml.test_oaml_run` writes them anew.
    """
    expected = json.loads(GOLDEN.read_text())[name]
    assert len(expected) == 3
    assert sequence(caches, tmp_path, name) == pytest.approx(expected, rel=2e-3)


def test_swapped_surrounds_change_the_faces_to_recognise(
    caches: tuple[FaceCache, FaceCache], tmp_path: Path
) -> None:
    losses = {}
    for name, surround in (("own", None), ("swapped", ("swap", 1.0))):
        recipe = OamlSettings(surround=surround, augment=False)
        run = tiny_run(recipe, backbone="tests.train.small_network:build", rate=1e-2)
        lines = train_tiny(caches[0], tmp_path / name, run, caches[1], steps=1)
        losses[name] = next(line for line in lines if line["kind"] == "train")
    assert np.isfinite(losses["swapped"]["loss"])
    assert losses["own"]["recognition"] != losses["swapped"]["recognition"]
    # Covered faces and their masks stay as they are.
    assert losses["own"]["known_share"] == losses["swapped"]["known_share"]


def test_half_precision_is_finite_and_near(
    caches: tuple[FaceCache, FaceCache], tmp_path: Path
) -> None:
    """bfloat16 keeps 8 bits of a number; sums, margins and losses stay float32."""
    faces, veiled = caches
    lines = train_tiny(faces, tmp_path, RUNS["small network"], veiled, amp="bf16", steps=2)
    found = [line for line in lines if line["kind"] == "train"]
    expected = json.loads(GOLDEN.read_text())["small network"][:2]
    assert [line["loss"] for line in found] == pytest.approx(expected, rel=0.02)
    assert [line["loss"] for line in found] != expected
    saved = torch.load(tmp_path / "last.pt", weights_only=True)["module"]
    for name, value in saved.items():
        assert torch.isfinite(value).all(), name
        assert value.dtype != torch.bfloat16, name


def test_the_runs_differ() -> None:
    assert len({tuple(values) for values in json.loads(GOLDEN.read_text()).values()}) == len(RUNS)


@pytest.mark.parametrize("sampler", ["pk", "graph", "shuffle"])
def test_stopped_in_an_epoch_and_resumed_ends_at_the_same_bits(
    sampler: str, caches: tuple[FaceCache, FaceCache], tmp_path: Path
) -> None:
    faces, veiled = caches
    run = replace(RUNS["small network"], sampler=sampler)
    train_tiny(faces, tmp_path / "whole", run, veiled, steps=4)
    train_tiny(faces, tmp_path / "parts", run, veiled, steps=2)
    train_tiny(faces, tmp_path / "parts", run, veiled, steps=4)
    one, other = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["module"]
        for name in ("whole", "parts")
    )
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_other_settings_are_refused(caches: tuple[FaceCache, FaceCache], tmp_path: Path) -> None:
    faces, _ = caches
    run = RUNS["small network"]
    train_tiny(faces, tmp_path, run, steps=1)
    with pytest.raises(TrainError, match=r"other settings \(weighting common → mask\)"):
        train_tiny(faces, tmp_path, replace(run, weighting="mask"), steps=2)


def test_evaluation_reads_the_run(caches: tuple[FaceCache, FaceCache], tmp_path: Path) -> None:
    faces, veiled = caches
    lines = train_tiny(faces, tmp_path, tiny_run(), veiled, steps=2, picture_every=2)
    network = load_network(None, tmp_path)
    assert network.name == "mobilefacenet"
    assert network.matcher is not None
    assert network.matcher.weighting == "common"
    assert network.occlusion_head is not None
    saved = torch.load(tmp_path / "best.pt", weights_only=True)["module"]
    assert torch.equal(network.backbone.conv3.weight, saved["backbone.conv3.weight"])
    assert torch.equal(network.matcher.fc.weight, saved["matcher.fc.weight"])
    record = read_json(tmp_path / "run.json")
    assert record["map"] == 7
    assert record["models"]["head"]["arguments"]["num_classes"] == 7
    picture = cv2.imread(str(tmp_path / "step-0000002.png"))
    assert picture.shape[0] % 112 == 20
    assert picture.shape[1:] == (5 * 112, 3)
    titles = picture[:20].reshape(20, 5, 112, 3)
    assert (titles.max((0, 2, 3)) > 200).all(), "each column has a title"
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 256
    (evaluation,) = [line for line in lines if line["kind"] == "evaluation"]
    for name in ("mse", "auc", "iou", "mse_mean_map", "mse_all_visible"):
        assert 0 <= evaluation[f"visibility_{name}"] <= 1
    assert (tmp_path / "visibility.png").exists()


def test_the_head_alone_leaves_no_matcher_behind(
    caches: tuple[FaceCache, FaceCache], tmp_path: Path
) -> None:
    _, veiled = caches
    run = started(RUNS["occlusion"], tmp_path / "start.pt")
    train_tiny(veiled, tmp_path / "run", run, steps=1)
    network = load_network(None, tmp_path / "run")
    assert network.matcher is None
    assert network.occlusion_head is not None


def test_a_checkpoint_with_other_classes_loses_its_head_aloud(
    caches: tuple[FaceCache, FaceCache], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = create("mobilefacenet")
    head = create("adaface", num_classes=5, embedding_size=128)
    state = {f"model.{name}": value for name, value in backbone.state_dict().items()}
    state |= {f"head.{name}": value for name, value in head.state_dict().items()}
    path = tmp_path / "released.ckpt"
    torch.save({"state_dict": state}, path)
    train_tiny(
        caches[0], tmp_path / "run", tiny_run(OamlSettings(part="heads"), init=path), steps=1
    )
    text = capsys.readouterr().err
    assert "kernel dropped: (128, 5) in the file, (128, 7) here" in text
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["module"]
    assert torch.equal(saved["backbone.conv3.weight"], backbone.conv3.weight)


def exported(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Role → tensors of a finished run."""
    files = {path.stem: load_file(path) for path in run.glob("*.safetensors")}
    assert set(files) == {"backbone", "head", "matcher", "occlusion_head"}
    return files


def test_a_finished_run_is_gone_on_from_with_all_its_models(
    caches: tuple[FaceCache, FaceCache], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "heads", tmp_path / "whole"
    heads = started(tiny_run(OamlSettings(part="heads")), tmp_path / "start.pt")
    train_tiny(caches[0], first, heads, caches[1], steps=2)
    # At this rate nothing but statistics of batches moves.
    still = tiny_run(OamlSettings(freeze_norm=True), init=first, rate=1e-30)
    train_tiny(caches[0], second, still, caches[1], steps=1)
    kept, found = exported(first), exported(second)
    for role, tensors in kept.items():
        for name, tensor in tensors.items():
            if role == "backbone" or ("running_" not in name and "batch" not in name):
                torch.testing.assert_close(found[role][name], tensor, rtol=0, atol=1e-12)
    assert "occlusion_head.safetensors" in capsys.readouterr().err
    # Classes in the order of other identities are not taken.
    names = (first / "identities.txt").read_text().splitlines(keepends=True)
    (first / "identities.txt").write_text("".join(names[::-1]))
    train_tiny(caches[0], tmp_path / "other", still, caches[1], steps=1)
    assert "head.safetensors: left out" in capsys.readouterr().err
    (first / "backbone.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither a finished run nor a downloaded network"):
        train_tiny(caches[0], tmp_path / "none", still, caches[1], steps=1)


def test_the_command_goes_on_from_a_run_and_names_its_weights(
    caches: tuple[FaceCache, FaceCache], tmp_path: Path
) -> None:
    words = [str(caches[0].directory), "--niqab", str(caches[1].directory), "--steps", "1"]
    words += ["--backbone", "mobilefacenet", "--batch-size", "8", "--device", "cpu"]
    start = str(started(tiny_run(), tmp_path / "start.pt").init)
    heads = ["--train", "heads", "--init", start]
    for name, more in (("heads", heads), ("all", ["--init", f"{tmp_path}/heads"])):
        given = [*words, "--out", str(tmp_path / name), *more]
        result = CliRunner().invoke(oaml_command, given, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    inputs = read_json(tmp_path / "all" / "run.json")["inputs"]["init"]
    files = sorted(path.name for path in (tmp_path / "heads").glob("*.safetensors"))
    assert sorted(inputs) == files
    result = CliRunner().invoke(oaml_command, [*words, "--out", "x", "--init", str(tmp_path)])
    assert result.exit_code == 1
    assert "neither a finished run nor a downloaded network is in it" in str(result.exception)


def test_covered_and_clean_faces_are_told_apart(caches: tuple[FaceCache, FaceCache]) -> None:
    faces, veiled = caches
    assert covered_faces(faces, 0.1, 0) is None
    found = covered_faces(veiled, 0.3, 0)
    assert found is not None
    known = set(veiled.select(known_occlusion=True).tolist())
    parts = [set(rows.tolist()) for rows in (found.veiled, found.clean, found.held)]
    assert set.union(*parts) == known
    assert sum(map(len, parts)) == len(known)
    chosen = covered_faces(veiled, 0.3, 0, {"split": "s1"})
    assert chosen is not None
    rows = np.concatenate([chosen.veiled, chosen.clean, chosen.held])
    assert set(rows.tolist()) == known & set(veiled.select(meta={"split": "s1"}).tolist())
    assert parts[1] == set(), "every face of this cache has hidden cells"
    assert 0 < len(parts[2]) < len(known)


def test_nothing_is_learnt_from_estimates(
    caches: tuple[FaceCache, FaceCache], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cache whose unknown rows are estimated trains as if they were unknown, and says so."""
    build(tmp_path / "veiled", rows=20, shard_rows=16, size=112, seed=5)
    estimate_unknown(tmp_path / "veiled")
    estimated = FaceCache.open(tmp_path / "veiled")
    assert estimated.estimated(np.arange(20)).sum() == 10
    one, other = covered_faces(caches[1], 0.3, 0), covered_faces(estimated, 0.3, 0)
    assert one is not None
    assert other is not None
    assert np.array_equal(one.veiled, other.veiled)
    assert np.array_equal(one.held, other.held)
    run = replace(RUNS["small network"], recipe=OamlSettings(surround=("swap", 1.0)))
    lines = {}
    for name, cache in (("unknown", caches[1]), ("estimated", estimated)):
        capsys.readouterr()
        found = train_tiny(cache, tmp_path / name, run, steps=2)
        lines[name] = [line["loss"] for line in found if line["kind"] == "train"]
        assert ("10 rows have a visibility" in capsys.readouterr().err) == (name == "estimated")
    assert lines["unknown"] == lines["estimated"]
    record = read_json(tmp_path / "estimated" / "run.json")
    assert record["doubts"]["estimated_visibility"] == 10


def test_masks_are_needed_where_they_are_learnt(
    caches: tuple[FaceCache, FaceCache], tmp_path: Path
) -> None:
    faces, veiled = caches
    with pytest.raises(TrainError, match="known mask; `prep masks`"):
        train_tiny(faces, tmp_path / "a", RUNS["occlusion"])
    with pytest.raises(TrainError, match="no face with a known mask"):
        train_tiny(faces, tmp_path / "b", second=faces)
    with pytest.raises(TrainError, match="leave --niqab out"):
        train_tiny(veiled, tmp_path / "c", RUNS["occlusion"], veiled)


def test_the_command(caches: tuple[FaceCache, FaceCache], tmp_path: Path) -> None:
    faces, veiled = caches
    arguments = [
        str(faces.directory), "--out", str(tmp_path / "run"), "--backbone", "mobilefacenet",
        "--niqab", str(veiled.directory), "--batch-size", "6", "--images-per-person", "3",
        "--occlusion-batch", "2", "--steps", "1", "--lr", "0.01", "--device", "cpu",
        "--occluders", "band", "--occlusion-grad", "detached", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(oaml_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[-1])["steps"] == 1
    settings = read_json(tmp_path / "run" / "run.json")["settings"]
    assert settings["occlusion_grad"] == "detached"
    assert settings["occluders"] == ["band"]
    assert settings["rate"] == 0.01


if __name__ == "__main__":
    import tempfile

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text:
        made = make_caches(Path(text))
        found = {name: sequence(made, Path(text) / name, name) for name in RUNS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
