"""`evaluate attribution` start to finish on each kind of network that needs a method of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tests.cache.builder import build
from tests.evaluate.attribution.networks import settle
from tests.evaluate.builder import pairs_csv, training_run, usable_pairs, weights_file

from faceguide.core.commands.console import Group
from faceguide.evaluate.attribution.attribution_commands import register
from faceguide.train.models import create

LIMIT = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache of 112×112 crops and a list of pairs."""
    folder = tmp_path_factory.mktemp("networks")
    build(folder / "cache", rows=60, size=112)
    pairs_csv(folder / "pairs.csv", usable_pairs())
    return folder


def results(place: Path, out: Path, *more: object, cache: str = "cache") -> dict[str, Any]:
    group = Group(name="evaluate")
    register(group)
    command = ["attribution", place / cache, "--pairs", place / "pairs.csv", "--limit", LIMIT]
    command += ["--infills", "blur", "--bootstrap", 0, "--anyway", "--out", out, *more]
    result = CliRunner().invoke(group, [str(argument) for argument in command])
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads((out / "results.json").read_text())
    for name, found in record["methods"].items():
        assert found["n"] == LIMIT, name
        assert found["verdicts"]["error"] == 0, name
    return record["methods"]


def test_a_vision_transformer(place: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(create("vit_tiny").state_dict(), tmp_path / "vit.pt")
    found = results(
        *(place, tmp_path / "run", "--backbone", "vit_tiny", "--weights", tmp_path / "vit.pt"),
        *("--methods", "rollout,gradient-rollout,lrp,deeplift"),
        *("--metrics", "swap"),
    )
    assert found["rollout"]["measures"]["swap"]["mean"] == pytest.approx(0, abs=1e-6)
    assert found["gradient-rollout"]["measures"]["swap"]["n"] == LIMIT
    for name in ("lrp", "deeplift"):
        assert found[name]["completeness_error"]["largest"] < 1e-3
        assert found[name]["uniform_share"] < 1


def test_attention_cam_of_cal(place: Path, tmp_path: Path) -> None:
    arguments = {"num_classes": 3, "heads": 4}
    weights = weights_file(tmp_path / "cal.pt", "cal_mobilefacenet", **arguments)
    found = results(
        *(place, tmp_path / "run", "--backbone", "cal_mobilefacenet", "--weights", weights),
        *("--methods", "attention-cam,grad-cam"),
    )
    assert found["attention-cam"]["uniform_share"] < 1


def test_attention_cam_of_an_occlusion_head(place: Path, tmp_path: Path) -> None:
    run = training_run(tmp_path / "training")
    found = results(
        *(place, tmp_path / "run", "--weights", run, "--matcher", "qaconv+occlusion"),
        *("--methods", "attention-cam,saliency"),
    )
    assert found["attention-cam"]["causes"]["dead"]["count"] == 0


def test_facenet_at_160_pixels(place: Path, tmp_path: Path) -> None:
    build(place / "cache160", rows=60, size=160)
    torch.manual_seed(0)
    network = settle(create("inception_resnet_v1"))
    state = dict(network.state_dict())
    # As published: with the classifier that an embedding network does not have.
    state["logits.weight"], state["logits.bias"] = torch.zeros(9, 512), torch.zeros(9)
    torch.save(state, tmp_path / "facenet.pt")
    found = results(
        *(place, tmp_path / "run", "--backbone", "inception_resnet_v1"),
        *("--weights", tmp_path / "facenet.pt", "--methods", "grad-cam,lrp"),
        cache="cache160",
    )
    assert found["lrp"]["completeness_error"]["largest"] < 1e-3
    assert found["grad-cam"]["uniform_share"] < 1
    assert found["oracle"]["mean_fr"] < 0.1
