"""A network that would stay random is refused or said; weights of another network are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from tests.evaluate.builder import weights_file
from tests.train.oaml.test_oaml_run import make_caches

from faceguide.cache.reader import FaceCache
from faceguide.train.cli import main
from faceguide.train.models import create
from faceguide.train.models.loading.network import load_network

RANDOM = "Warning: no --init: the network starts from random weights"


@pytest.fixture(scope="module")
def veiled(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    return make_caches(tmp_path_factory.mktemp("caches"))[1]


def train(cache: FaceCache, command: str, out: Path, *more: object) -> Result:
    words = [command, str(cache.directory), "--out", str(out), "--device", "cpu", "--steps", "1"]
    return CliRunner().invoke(main, [*words, "--batch-size", "6", *map(str, more)])


def oaml(cache: FaceCache, out: Path, *more: object) -> Result:
    return train(cache, "oaml", out, "--backbone", "mobilefacenet", "--images-per-person", 3, *more)


@pytest.mark.parametrize("part", ["occlusion", "heads"])
def test_a_frozen_random_backbone_is_refused(veiled: FaceCache, tmp_path: Path, part: str) -> None:
    result = oaml(veiled, tmp_path / "run", "--train", part)
    assert result.exit_code == 1, result.output
    assert "give --init" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_frozen_backbone_that_is_random_in_part_is_refused(
    veiled: FaceCache, tmp_path: Path
) -> None:
    state = create("mobilefacenet").state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("conv3.")}, tmp_path / "w.pt")
    result = oaml(veiled, tmp_path / "run", "--train", "occlusion", "--init", tmp_path / "w.pt")
    assert result.exit_code == 1, result.output
    assert "parts of it would stay random" in result.stderr
    assert "2 not in the file (conv3.weight, conv3.bias)" in result.stderr


def test_a_frozen_backbone_that_was_never_trained_is_said(
    veiled: FaceCache, tmp_path: Path
) -> None:
    torch.save(create("mobilefacenet").state_dict(), tmp_path / "w.pt")
    words = ("--train", "occlusion", "--init")
    result = oaml(veiled, tmp_path / "run", *words, tmp_path / "w.pt")
    assert result.exit_code == 0, result.output
    assert "as if never trained" in result.stderr
    result = oaml(veiled, tmp_path / "other", *words, weights_file(tmp_path / "good.pt"))
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.stderr


def test_a_random_start_of_the_whole_network_is_said_once(
    small_cache: FaceCache, veiled: FaceCache, tmp_path: Path
) -> None:
    cal = ("--model", "cal_mobilefacenet", "--heads", 4)
    result = train(small_cache, "cal", tmp_path / "cal", *cal)
    assert result.exit_code == 0, result.output
    assert result.stderr.count(RANDOM) == 1
    again = train(small_cache, "cal", tmp_path / "cal", *cal, "--steps", "2")
    assert again.exit_code == 0, again.output
    assert RANDOM not in again.stderr, "it goes on from what it learnt"
    result = oaml(veiled, tmp_path / "oaml")
    assert result.exit_code == 0, result.output
    assert result.stderr.count(RANDOM) == 1
    init = train(small_cache, "cal", tmp_path / "b", *cal, "--init", weights_file(tmp_path / "w"))
    assert init.exit_code == 0, init.output
    assert "Warning" not in init.stderr


def test_weights_of_another_network_are_named(small_cache: FaceCache, tmp_path: Path) -> None:
    init = weights_file(tmp_path / "face.pt")
    result = train(small_cache, "cal", tmp_path / "x", "--model", "cal_resnet18", "--init", init)
    assert result.exit_code == 1, result.output
    assert "use --model cal_mobilefacenet" in result.stderr


def test_the_colour_order_of_the_start_goes_with_the_run(veiled: FaceCache, tmp_path: Path) -> None:
    bare = create("ir_18").state_dict()
    torch.save(bare, tmp_path / "bare.pt")
    torch.save({f"net.{name}": value for name, value in bare.items()}, tmp_path / "cvlface.pt")
    words = ("--backbone", "ir_18", "--train", "occlusion", "--init")

    def run(name: str, init: str, *more: object) -> str:
        result = train(veiled, "oaml", tmp_path / name, *words, tmp_path / init, *more)
        assert result.exit_code == 0, result.output
        return result.stderr

    for steps in (1, 2):  # begun, and gone on with
        run("net", "cvlface.pt", "--steps", steps)
        record = json.loads((tmp_path / "net" / "run.json").read_text())
        assert record["models"]["backbone"]["colour"] == "RGB"
    assert load_network(None, tmp_path / "net").input_spec.colour == "RGB"
    exported = tmp_path / "net" / "backbone.safetensors"
    assert load_network("ir_18", exported).input_spec.colour == "RGB"
    assert "is assumed" not in run("told", "bare.pt", "--colour", "rgb")
    assert load_network(None, tmp_path / "told").input_spec.colour == "RGB"
