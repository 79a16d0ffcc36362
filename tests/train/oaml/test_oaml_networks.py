"""Networks of others are trained as ours are, from weights that say which they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tests.cache.builder import build
from tests.evaluate.builder import pairs_csv, usable_pairs
from tests.evaluate.ijb.test_ijb import build_ijb
from tests.evaluate.test_networks_in_commands import transformer
from tests.train.models.test_networks_of_others import as_published
from tests.train.oaml.test_oaml_run import make_caches
from tests.train.test_random_start import train

import faceguide as fg
from faceguide.cache.reader import FaceCache
from faceguide.evaluate.cli import main as evaluate
from faceguide.train.models import create
from faceguide.train.models.loading.network import load_network
from faceguide.train.run.metrics_log import read_metrics


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> tuple[FaceCache, FaceCache]:
    return make_caches(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="module")
def faces(caches: tuple[FaceCache, FaceCache]) -> FaceCache:
    return caches[0]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    """Faces of 160 pixels."""
    folder = tmp_path_factory.mktemp("large")
    build(folder / "faces", rows=40, shard_rows=16, occlusion=False, size=160)
    return FaceCache.open(folder / "faces")


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("mbf", 7), ("iresnet_18", 14), ("edgeface_xxs", 7), ("vit_tiny", 7), ("vit_t", 12)),
        ("inception_resnet_v1", 8),
    ],
)
def test_init_says_which_network_is_trained(
    faces: FaceCache, large: FaceCache, tmp_path: Path, name: str, side: int
) -> None:
    torch.manual_seed(0)
    before = create(name).state_dict()
    torch.save(as_published(name, before), tmp_path / "w.pt")
    words = ("--init", tmp_path / "w.pt", "--map", side, "--images-per-person", 3, "--lr", 0.01)
    cache = large if name == "inception_resnet_v1" else faces
    result = train(cache, "oaml", tmp_path / "run", *words)
    assert result.exit_code == 0, result.output
    network = load_network(None, tmp_path / "run")
    assert (network.name, network.map_side, network.input_spec.colour) == (
        name,
        side,
        "RGB",
    )
    after = network.backbone.state_dict()
    moved = [key for key in after if not torch.equal(after[key], before[key])]
    assert len(moved) > len(after) // 2
    if name.startswith("iresnet"):
        assert "output_layer.4.weight" not in moved, "frozen at 1, as published"
    pixels = network.input_spec.size
    images = torch.randint(0, 256, (2, pixels, pixels, 3), dtype=torch.uint8)
    found = network.describe(images, frozenset({"embedding", "map", "visibility"}))
    assert found["visibility"].shape == (2, side, side)


def test_landmarks_of_the_cache_are_told_in_training(
    caches: tuple[FaceCache, FaceCache], tmp_path: Path
) -> None:
    """KP-RPE, in everything that a run looks at faces for; resumed, and trained further."""
    faces, veiled = caches
    torch.save(transformer(16).state_dict(), tmp_path / "kprpe.pt")
    pairs = pairs_csv(tmp_path / "pairs.csv", usable_pairs(8))
    words = ("--map", 7, "--images-per-person", 3, "--lr", 0.01)
    more = ("--niqab", veiled.directory, "--occlusion-batch", 3, "--sampler", "graph")
    more = (*more, "--pairs", pairs, "--picture-every", 1, "--init", tmp_path / "kprpe.pt")
    for steps in (1, 2):
        result = train(faces, "oaml", tmp_path / "run", *words, *more, "--steps", steps)
        assert result.exit_code == 0, result.output
    network = load_network(None, tmp_path / "run")
    assert (network.name, network.needs_keypoints, network.map_side) == ("vit", True, 7)
    moved = network.backbone.keypoint_linear.weight - transformer(16).keypoint_linear.weight
    assert moved.abs().max() > 0
    lines = read_metrics(tmp_path / "run")
    assert {"auc", "visibility_mse"} <= {key for line in lines for key in line}
    again = ("--train", "heads", "--init", tmp_path / "run", "--niqab", veiled.directory)
    result = train(faces, "oaml", tmp_path / "heads", *words, *again)
    assert result.exit_code == 0, result.output
    further = load_network(None, tmp_path / "heads").backbone
    assert torch.equal(further.keypoint_linear.weight, network.backbone.keypoint_linear.weight)
    # Its head tells which tokens of a template's images count, and of faces in memory.
    build_ijb(tmp_path / "IJBC")
    words = ("--weights", tmp_path / "run", "--matcher", "visible-embedding", "--bootstrap", 0)
    words = ("ijb", tmp_path / "IJBC", *words, "--out", tmp_path / "ijb", "--device", "cpu")
    result = CliRunner().invoke(evaluate, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    net, rows = fg.load(tmp_path / "run", device="cpu"), faces[faces.select()[:2]]
    assert net.visibility(rows).shape == (2, 7, 7)
    assert -1 <= net.score(rows[0], rows[1], "visible-embedding") <= 1


def test_a_downloaded_folder_is_trained_in_its_colour_order(
    faces: FaceCache, tmp_path: Path
) -> None:
    folder = tmp_path / "cvlface" / "pretrained_model"
    folder.mkdir(parents=True)
    state = {f"net.{name}": value for name, value in transformer(16).state_dict().items()}
    torch.save(state, folder / "model.pt")
    (folder / "model.yaml").write_text("color_space: BGR\n")
    words = ("--init", folder.parent, "--images-per-person", 3, "--lr", 0.01)
    result = train(faces, "oaml", tmp_path / "run", *words)
    assert result.exit_code == 0, result.output
    network = load_network(None, tmp_path / "run")
    assert (network.name, network.input_spec.colour) == ("vit", "BGR")
    inputs = json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]["init"]
    assert list(inputs) == ["pretrained_model/model.pt", "pretrained_model/model.yaml"]


def test_attention_starts_from_a_run(faces: FaceCache, tmp_path: Path) -> None:
    words = ("--model", "cal_mobilefacenet", "--heads", 3, "--crop", 32)
    for name, more in (("one", ()), ("two", ("--init", tmp_path / "one"))):
        result = train(faces, "cal", tmp_path / name, *words, *more)
        assert result.exit_code == 0, result.output
    assert "backbone.safetensors: " in result.stderr
    assert "tensors loaded" in result.stderr


def test_what_is_not_trained_here_is_said(faces: FaceCache, tmp_path: Path) -> None:
    cal = create("cal_mobilefacenet", num_classes=3)
    torch.save(cal.state_dict(), tmp_path / "w.pt")
    result = train(faces, "oaml", tmp_path / "run", "--init", tmp_path / "w.pt")
    assert result.exit_code == 1, result.output
    assert "holds cal_mobilefacenet;" in result.stderr
    torch.save(create("mbf").state_dict(), tmp_path / "mbf.pt")
    words = ("--init", tmp_path / "mbf.pt", "--backbone", "ir_18")
    result = train(faces, "oaml", tmp_path / "run", *words)
    assert result.exit_code == 1, result.output
    assert "--backbone mbf" in result.stderr
    assert not (tmp_path / "run").exists()
