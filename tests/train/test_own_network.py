"""`--backbone module:function`: trained, exported, evaluated, and never imported unasked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tests.cache.builder import key
from tests.evaluate.builder import pairs_csv
from tests.train.oaml.scenario import tiny_run, train_tiny
from tests.train.oaml.test_oaml_run import make_caches
from tests.train.own_networks import write

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import CheckpointError, EvaluationError, ModelError
from faceguide.core.files import write_json
from faceguide.evaluate.attribution.methods.target import pair_score
from faceguide.evaluate.cli import main as evaluate
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.loading.network import load_network
from faceguide.train.models.matchers.visible_embedding import VisibleEmbedding
from faceguide.train.models.own_networks import own_backbone
from faceguide.train.oaml.oaml_settings import OamlSettings
from faceguide.train.oaml_command import oaml_command


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A module on the Python path while these tests run."""
    folder = tmp_path_factory.mktemp("own")
    write(folder, "my_own_networks")
    sys.path.insert(0, str(folder))
    yield "my_own_networks"
    sys.path.remove(str(folder))
    sys.modules.pop("my_own_networks", None)


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 112, 112, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("function", ["build", "with_norm"])
def test_embedding_norm_and_maps_out_of_one_forward(mine: str, function: str) -> None:
    torch.manual_seed(0)
    backbone = own_backbone(f"{mine}:{function}", None).eval()
    assert isinstance(backbone, FaceBackbone)
    assert (backbone.embedding_size, backbone.map_channels) == (16, {7: 12, 14: 8})
    network = backbone.network
    with torch.no_grad():
        deep = network.deep(network.shallow(images()))
        raw = network.out(deep.flatten(1))
        found = backbone.forward_all(images())
        torch.testing.assert_close(found.feature_map, deep)
        torch.testing.assert_close(found.embedding * found.norm, raw)
        torch.testing.assert_close(backbone.feature_map(images(), 14), network.shallow(images()))
        unit, norm = backbone(images())
        torch.testing.assert_close(unit * norm, raw)
        torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))
        # Its tail is linear and says so, so the visible embedding of whole faces is the cosine.
        visible = VisibleEmbedding.of(backbone)(deep, deep)
        torch.testing.assert_close(visible, found.embedding @ found.embedding.T, atol=1e-5, rtol=0)
    assert not network.deep._forward_hooks, "no hook is left behind"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("absent_module:build", r"cannot be imported \(No module named 'absent_module'\)"),
        ("{mine}:absent", "cannot be imported"),
        ("{mine}:not_callable", "expected a function, found int"),
        ("{mine}:number", "expected an nn.Module, found int"),
        ("{mine}:without_input", "needs an attribute input_spec"),
        ("{mine}:no_layer", "names of layers, found {7: 'absent'}"),
        ("{mine}:wrong_side", r"shallow for the 7×7 map.*is \(2, 8, 14, 14\)"),
        ("{mine}:scalar", r"must give embeddings \(N, E\)"),
    ],
)
def test_what_a_network_lacks_is_said(mine: str, reference: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        own_backbone(reference.replace("{mine}", mine), None)


@pytest.fixture(scope="module")
def trained(mine: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FaceCache]:
    """A run of two steps, from weights that the user's function reads."""
    folder = tmp_path_factory.mktemp("trained")
    faces, veiled = make_caches(folder)
    torch.manual_seed(3)
    torch.save(own_backbone(f"{mine}:build", None).network.state_dict(), folder / "start.pt")
    run = tiny_run(backbone=f"{mine}:build", init=folder / "start.pt")
    train_tiny(faces, folder / "run", run, veiled, steps=2)
    return folder / "run", faces


def test_training_starts_from_the_users_weights_and_moves_them(
    trained: tuple[Path, FaceCache], mine: str
) -> None:
    run, faces = trained
    kept = load_file(run / "backbone.safetensors")
    start = torch.load(run.parent / "start.pt", weights_only=True)
    assert kept.keys() == start.keys(), "the user's own names"
    change = (kept["shallow.0.weight"] - start["shallow.0.weight"]).abs().max()
    assert 0 < change < 0.1
    record = json.loads((run / "run.json").read_text())
    assert record["models"]["backbone"]["name"] == f"{mine}:build"
    # Finished: the weights to start from are not needed any more.
    (run.parent / "start.pt").rename(run.parent / "gone.pt")
    try:
        again = tiny_run(backbone=f"{mine}:build", init=run.parent / "start.pt")
        second = FaceCache.open(run.parent / "veiled")
        lines = train_tiny(faces, run, again, second, steps=3)
    finally:
        (run.parent / "gone.pt").rename(run.parent / "start.pt")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3]


def test_the_run_is_evaluated_with_the_name_on_the_command_line(
    trained: tuple[Path, FaceCache], mine: str, tmp_path: Path
) -> None:
    run, faces = trained
    network = load_network(f"{mine}:build", run)
    saved = torch.load(run / "best.pt", weights_only=True)["module"]
    assert torch.equal(network.backbone.network.out.weight, saved["backbone.network.out.weight"])
    single = load_network(f"{mine}:build", run / "backbone.safetensors")
    assert torch.equal(single.backbone.network.out.weight, network.backbone.network.out.weight)
    # Attribution explains the network itself, whose layers bear the user's names.
    explained = load_network(f"{mine}:build", run)
    assert type(pair_score(explained, "cosine").backbone).__name__ == "Net"
    score = pair_score(explained, "qaconv+occlusion")
    layers = dict(score.backbone.named_modules())
    assert all(name in layers for name in score.backbone.cam_layers)
    usable = [number for number in range(40) if number % 10]
    pairs_csv(
        tmp_path / "pairs.csv",
        [(0, key(a), key(b), int(a % 7 == b % 7)) for a in usable[:9] for b in usable[9:15]],
    )
    for matcher in ("cosine", "qaconv+occlusion", "visible-embedding"):
        result = CliRunner().invoke(
            evaluate,
            ["verification", str(faces.directory), "--pairs", str(tmp_path / "pairs.csv"),
             "--backbone", f"{mine}:build", "--weights", str(run), "--matcher", matcher,
             "--out", str(tmp_path / matcher), "--bootstrap", "0", "--json"],
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["pairs"] == 54
    for command in ("embed", "identification"):
        result = CliRunner().invoke(
            evaluate,
            [command, str(faces.directory), "--backbone", f"{mine}:build", "--weights", str(run),
             "--out", str(tmp_path / command), "--json"],
        )  # fmt: skip
        assert result.exit_code == 0, result.output


def test_a_file_that_names_code_imports_nothing(
    trained: tuple[Path, FaceCache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run from elsewhere may name any module that happens to be on the path."""
    run, _ = trained
    marker = write(tmp_path / "trap", "my_trap").with_name("imported")
    monkeypatch.syspath_prepend(tmp_path / "trap")
    record = json.loads((run / "run.json").read_text())
    record["models"]["backbone"]["name"] = "my_trap:build"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    del record["self"]  # the digest of what it was
    write_json(foreign / "run.json", record)
    with pytest.raises(EvaluationError, match="give --backbone my_trap:build to import it"):
        load_network(None, foreign)
    with pytest.raises(EvaluationError, match="was trained with my_trap:build, not mobilefacenet"):
        load_network("mobilefacenet", foreign)
    with pytest.raises(CheckpointError, match="trained with a network of your own"):
        load_network(None, run / "backbone.safetensors")
    assert not marker.exists()


def test_the_command_takes_a_network_and_a_record_of_it_does_not(
    trained: tuple[Path, FaceCache], mine: str, tmp_path: Path
) -> None:
    run, faces = trained
    own, again = f"{mine}:build", ("--from", str(tmp_path / "one" / "run.json"))
    first = CliRunner().invoke(
        oaml_command,
        [str(faces.directory), "--out", str(tmp_path / "one"), "--backbone", own, "--init",
         str(run.parent / "start.pt"), "--batch-size", "6", "--images-per-person", "3",
         "--steps", "1", "--device", "cpu"],
    )  # fmt: skip
    assert first.exit_code == 0, first.output
    assert f"start.pt: read by {own} itself" in first.stderr
    refused = CliRunner().invoke(oaml_command, [*again, "--out", str(tmp_path / "two")])
    assert refused.exit_code == 2
    assert f"give --backbone {own} to import it" in " ".join(refused.stderr.split())
    given = [*again, "--out", str(tmp_path / "two"), "--backbone", own]
    assert CliRunner().invoke(oaml_command, given).exit_code == 0
    kept = [(tmp_path / name / "backbone.safetensors").read_bytes() for name in ("one", "two")]
    assert kept[0] == kept[1]
    nobody = CliRunner().invoke(
        oaml_command, [str(faces.directory), "--out", str(tmp_path / "x"), "--backbone", "ir_5"]
    )
    assert nobody.exit_code == 2
    assert "inception_resnet_v1, vit, or give module:function" in " ".join(nobody.stderr.split())


def test_a_network_without_maps_is_for_cosine_alone(
    trained: tuple[Path, FaceCache], mine: str, tmp_path: Path
) -> None:
    run, faces = trained
    network = load_network(f"{mine}:without_maps", run.parent / "start.pt")
    assert not network.has_maps
    crops = torch.zeros(2, 112, 112, 3, dtype=torch.uint8)
    found = network.describe(crops, frozenset({"plain", "embedding"}))
    assert found["plain_embedding"].shape == (2, 16)
    with pytest.raises(EvaluationError, match="has no feature maps"):
        network.describe(crops, frozenset({"map"}))
    with pytest.raises(ModelError, match=r"has maps of side \[\], --map 7 was asked for"):
        train_tiny(faces, tmp_path / "run", tiny_run(backbone=f"{mine}:without_maps"), steps=1)


def test_the_larger_map_and_a_frozen_backbone(mine: str, tmp_path: Path) -> None:
    faces, _ = make_caches(tmp_path)
    recipe = OamlSettings(part="heads", map_size=14)
    train_tiny(faces, tmp_path / "run", tiny_run(recipe, backbone=f"{mine}:build"), steps=1)
    network = load_network(f"{mine}:build", tmp_path / "run")
    assert (network.map_side, network.matcher.channels) == (14, 8)
