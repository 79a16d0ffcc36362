"""ONNX files in every command that asks a network for scores, and ONNX files that are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.numpy import load_file
from tests.evaluate.builder import (
    pairs_csv,
    random_module,
    small_cache,
    training_run,
    usable_pairs,
)
from tests.evaluate.ijb.test_ijb import build_ijb
from tests.train.models.onnx.graph_files import graph_file

import faceguide as fg
from faceguide.cache.reader import FaceCache
from faceguide.core.errors import FaceguideError
from faceguide.evaluate.cli import main
from faceguide.evaluate.score.embed import describe_crops
from faceguide.train.cli import main as train

pytest.importorskip("onnxruntime")

CROPS = np.random.default_rng(5).integers(0, 256, (4, 112, 112, 3), np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cache/, pairs.csv and net.onnx."""
    folder = tmp_path_factory.mktemp("onnx")
    small_cache(folder / "cache")
    pairs_csv(folder / "pairs.csv", usable_pairs())
    graph_file(folder / "net.onnx", scaled=True)
    return folder


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def evaluated(place: Path, command: str, out: Path, *more: object) -> Result:
    network = ("--weights", place / "net.onnx", "--colour", "rgb")
    return run(command, place / "cache", *network, "--out", out, "--json", *more)


def test_embed_keeps_what_the_front_door_gives(place: Path, tmp_path: Path) -> None:
    found = evaluated(place, "embed", tmp_path)
    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["backbone"] == "onnx"
    assert record["colour_from"] == "option"
    net = fg.load(place / "net.onnx", colour="RGB")
    assert record["weights_sha256"] == net.network.sha256
    stored = {}
    for file in tmp_path.rglob("*.safetensors"):
        part = load_file(file)
        if "embedding" in part:
            stored.update(zip(part["row"].tolist(), part["embedding"], strict=True))
    cache = FaceCache.open(place / "cache")
    rows = [int(row) for row in cache.select()[:5]]
    wanted = net.embed(cache[rows])
    np.testing.assert_allclose(np.stack([stored[row] for row in rows]), wanted, atol=1e-6)


def test_pairs_and_searches(place: Path, tmp_path: Path) -> None:
    pairs = ("--pairs", place / "pairs.csv", "--bootstrap", 20)
    found = evaluated(place, "verification", tmp_path / "v", *pairs)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["pairs"] == 60
    for part in (0, 1):
        cut = (*pairs, "--part", f"{part}/2")
        assert evaluated(place, "verification", tmp_path / "p", *cut).exit_code == 0
    merged = run("merge", tmp_path / "p", "--json")
    assert merged.exit_code == 0, merged.output
    assert json.loads(merged.stdout)["auc"] == json.loads(found.stdout)["auc"]
    found = evaluated(place, "identification", tmp_path / "i", "--bootstrap", 0)
    assert found.exit_code == 0, found.output
    found = evaluated(place, "verification", tmp_path / "q", *pairs, "--matcher", "qaconv")
    assert found.exit_code == 1
    assert "--matcher cosine" in found.output


def test_templates(place: Path, tmp_path: Path) -> None:
    build_ijb(tmp_path / "IJBC")
    words = ("--weights", place / "net.onnx", "--colour", "rgb", "--bootstrap", 0)
    found = run("ijb", tmp_path / "IJBC", *words, "--out", tmp_path / "out", "--json")
    assert found.exit_code == 0, found.output


def test_maps_come_from_scores_only(place: Path, tmp_path: Path) -> None:
    words = ("--pairs", place / "pairs.csv", "--limit", 4, "--bootstrap", 10)
    found = evaluated_maps(place, tmp_path / "all", *words)
    assert found.exit_code == 0, found.output
    assert set(json.loads(found.stdout)["methods"]) >= {"occlusion", "oracle", "random"}
    assert "gradients: saliency, gradient-input" in found.stderr
    found = evaluated_maps(place, tmp_path / "one", *words, "--methods", "integrated-gradients")
    assert found.exit_code == 1
    assert "integrated-gradients: needs gradients" in found.stderr
    found = evaluated_maps(place, tmp_path / "two", *words, "--metrics", "randomisation")
    assert found.exit_code == 1
    assert "cannot be changed" in found.stderr


def evaluated_maps(place: Path, out: Path, *more: object) -> Result:
    network = ("--weights", place / "net.onnx", "--colour", "rgb")
    network = (*network, "--protocol", "matched", "--anyway")
    return run("attribution", place / "cache", *network, "--out", out, *more, "--json")


def test_maps_of_a_pair_find_the_pixels_that_count(place: Path) -> None:
    net = fg.load(place / "net.onnx", colour="RGB")
    for method in ("occlusion", "corrrise", "fv-rise"):
        found = fg.explain(net, CROPS[0], CROPS[0], method, chunk=64)
        assert found.shape == (112, 112)
        # A face against itself: hiding any part of it lowers the score.
        assert np.median(found) > 0
    for method in ("lrp", "fggb", "xssab", "hirescam-fine"):
        with pytest.raises(
            FaceguideError, match=rf"{method}: needs gradients.*occlusion, .*fv-rise"
        ):
            fg.explain(net, CROPS[0], CROPS[1], method)


def test_a_graph_that_ignores_its_batch_is_noticed(tmp_path: Path) -> None:
    import onnx

    path = graph_file(tmp_path / "a.onnx", scaled=True)
    model = onnx.load_model(str(path))
    # One embedding for all: the sum over the batch, given to each.
    total = onnx.helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[0], keepdims=1)
    added = onnx.helper.make_node("Add", ["flat", "mean"], ["mixed"])
    last = model.graph.node[-1]
    last.input[0] = "mixed"
    nodes = [*model.graph.node[:-1], total, added, last]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save_model(model, str(path))
    with pytest.raises(FaceguideError, match="depends on the other faces of its batch"):
        fg.load(path, colour="RGB").embed(CROPS)


def test_training_refuses_an_onnx_file(place: Path, tmp_path: Path) -> None:
    words = ["oaml", place / "cache", "--init", place / "net.onnx", "--out", tmp_path / "run"]
    found = CliRunner().invoke(train, [str(word) for word in words])
    assert found.exit_code == 1
    assert "net.onnx: " in found.output


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """A training run with a head, its ONNX file, and what the command printed."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("export")
    training_run(folder / "run")
    words = ["export", str(folder / "run"), "--onnx", str(folder / "run.onnx"), "--json"]
    found = CliRunner().invoke(train, words)
    assert found.exit_code == 0, found.output
    return folder / "run", folder / "run.onnx", json.loads(found.stdout)


def test_a_run_is_exported_with_its_head(exported: tuple[Path, Path, dict]) -> None:
    folder, file, printed = exported
    assert list(printed["outputs"]) == ["embedding", "visibility"]
    run_of, read_back = fg.load(folder), fg.load(file)
    np.testing.assert_allclose(read_back.embed(CROPS), run_of.embed(CROPS), atol=1e-4)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    pixels = CROPS.transpose(0, 3, 1, 2).astype(np.float32)
    raw, visibility = session.run(["embedding", "visibility"], {"data": pixels})
    np.testing.assert_allclose(visibility, run_of.visibility(CROPS), atol=2e-3)  # float16
    plain = describe_crops(run_of.network, list(CROPS), frozenset({"plain"}), list("abcd"))
    np.testing.assert_allclose(np.linalg.norm(raw, axis=1), plain["plain_norm"], rtol=1e-4)


def test_a_weights_file_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch.save(random_module("cal_mobilefacenet", num_classes=3).state_dict(), tmp_path / "cal.pt")
    words = ["export", str(tmp_path / "cal.pt"), "--onnx", str(tmp_path / "cal.onnx")]
    found = CliRunner().invoke(train, words)
    assert found.exit_code == 0, found.output
    assert "cal.onnx: cal_mobilefacenet " in found.output
    wanted = fg.load(tmp_path / "cal.pt").embed(CROPS)
    np.testing.assert_allclose(fg.load(tmp_path / "cal.onnx").embed(CROPS), wanted, atol=1e-5)


def test_what_is_exported_is_told_apart(exported: tuple[Path, Path, dict]) -> None:
    _, file, printed = exported
    found = run("describe", file, "--json")
    assert found.exit_code == 0, found.output
    described = json.loads(found.stdout)
    assert described["network"] == "onnx"
    assert described["exported_from"] == "mobilefacenet"
    assert described["colour"] == "RGB"
    assert described["assumed"] == []
    assert described["sha256"] == printed["sha256"]


def test_insightface_finds_the_normalisation_inside(exported: tuple[Path, Path, dict]) -> None:
    import onnx

    names = [node.name for node in onnx.load(str(exported[1])).graph.node[:8]]
    assert any(name.startswith("Sub") for name in names)
    assert any(name.startswith("Mul") for name in names)


def test_a_network_that_differs_is_not_written(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from faceguide.train.models.onnx import onnx_export

    class Shaky(torch.nn.Module):
        """Is traced as something else than what it computes."""

        input_spec = random_module("mobilefacenet").input_spec

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            raw = pixels.mean((2, 3)) + (2 if torch.compiler.is_exporting() else 1)
            norm = raw.norm(dim=1, keepdim=True)
            return raw / norm, norm

    with pytest.raises(FaceguideError, match="nothing is written"):
        onnx_export.export_onnx(Shaky(), tmp_path / "a.onnx", "shaky")
    assert not list(tmp_path.iterdir())


def test_describe_says_what_would_be_assumed(place: Path, tmp_path: Path) -> None:
    plain = graph_file(tmp_path / "plain.onnx", outputs=("vector", "cells"))
    found = run("describe", plain, "--json")
    assert found.exit_code == 0, found.output
    described = json.loads(found.stdout)
    assert (described["side"], described["colour"], described["embedding"]) == (112, None, None)
    said = " ".join(described["assumed"])
    assert "colour:" in said
    assert "mean, std:" in said
    assert "--onnx-output is needed, vector" in said
    torch.save(random_module("mobilefacenet").state_dict(), tmp_path / "m.pt")
    described = json.loads(run("describe", tmp_path / "m.pt", "--json").stdout)
    assert (described["network"], described["side"]) == ("mobilefacenet", 112)
    found = run("describe", place / "pairs.csv")
    assert found.exit_code == 1
    assert found.output.count("\n") == 1


def test_networks_are_listed() -> None:
    rows = {row["network"]: row for row in json.loads(run("networks", "--json").stdout)}
    assert rows["mobilefacenet"]["side"] == 112
    assert "visible-embedding" in rows["ir_50"]["works_with"]
    assert "train cal" in rows["cal_resnet50"]["works_with"]
    assert "mobilefacenet" in run("networks").output
