"""Runs of `train distil`: what trains, what stays, resuming, what a run leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tests.cache.builder import build
from tests.train.distil.scenario import distil, settled, weights

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import Interrupted
from faceguide.core.errors import FaceguideError, TrainError
from faceguide.core.files import read_json
from faceguide.train.cli import main
from faceguide.train.distil import distil_trainer, map_batches
from faceguide.train.distil.alterations import Alterations
from faceguide.train.distil.distil_settings import DistilSettings
from faceguide.train.distil.distil_trainer import DistilTrainer
from faceguide.train.models.loading.network import load_network
from faceguide.train.run.metrics_log import read_metrics
from faceguide.train.training import Place

FREE = DistilSettings(clean_limit=0.0)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    """18 usable faces of 7 identities."""
    directory = tmp_path_factory.mktemp("distil") / "cache"
    build(directory, rows=20, shard_rows=16, occlusion=False, size=112)
    return FaceCache.open(directory)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights(tmp_path_factory.mktemp("weights") / "released.pt")


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps that the runs share."""
    return tmp_path_factory.mktemp("maps")


def changed(run: Path, init: Path) -> set[str]:
    """Tensors of the exported network that are not the released ones."""
    found, released = load_file(run / "backbone.safetensors"), torch.load(init)
    assert found.keys() == released.keys()
    return {name for name in found if not torch.equal(found[name], released[name])}


def test_only_the_last_blocks_are_trained_and_every_tool_takes_them(
    faces: FaceCache, init: Path, maps: Path, tmp_path: Path
) -> None:
    result = distil(faces, tmp_path, init, maps=maps, steps=2, picture_every=2)
    moved = changed(tmp_path, init)
    assert moved
    assert {name.split(".")[0] for name in moved} <= {"features", "conv2", "gdconv", "conv3", "bn"}
    assert not {name for name in moved if "running" in name or "features.11." in name}
    network = load_network(None, tmp_path)
    assert network.name == "mobilefacenet"
    assert result["steps"] == result["best_step"] == 2
    assert result["stopped"] is None
    record = read_json(tmp_path / "run.json")
    assert record["altered"] == {"cover": 4, "surround": 2, "clean": 2}
    assert record["layer"] == "features.12"
    picture = cv2.imread(str(tmp_path / "step-0000002.png"))
    assert picture.shape == (20 + 1 * 132, 3 * 112, 3)  # one face is held out
    # The maps are there, so the same command does no step and gives the same.
    assert distil(faces, tmp_path, init, maps=maps, steps=2, picture_every=2) == result


@pytest.mark.parametrize(
    ("alter", "rate"),
    [((("cover", 0.0),), 5e-4), ((("cover", 0.5), ("surround", 0.25)), 0.0)],
    ids=["nothing altered", "no rate"],
)
def test_without_alterations_or_rate_nothing_changes(
    alter: tuple[tuple[str, float], ...],
    rate: float,
    faces: FaceCache,
    init: Path,
    maps: Path,
    tmp_path: Path,
) -> None:
    recipe = replace(FREE, alter=alter)
    result = distil(faces, tmp_path, init, recipe, rate=rate, maps=maps)
    assert changed(tmp_path, init) == set()
    assert result["clean_agreement"] == pytest.approx(1.0, abs=1e-6)


@contextmanager
def interrupted(at: int) -> Iterator[None]:
    """Runs end before this step, as after a signal."""
    step = DistilTrainer.step

    def stopped(self: DistilTrainer, forward: Any, batch: Any, place: Place) -> Any:
        if place.step == at:
            raise Interrupted
        return step(self, forward, batch, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistilTrainer, "step", stopped)
        yield


def test_stopped_and_resumed_ends_at_the_same_bits(
    faces: FaceCache, init: Path, maps: Path, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"maps": maps, "steps": 4, "save_every": 1}
    distil(faces, tmp_path / "whole", init, **how)
    with interrupted(2), pytest.raises(Interrupted):
        distil(faces, tmp_path / "parts", init, **how)
    distil(faces, tmp_path / "parts", init, **how)
    one, other = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["module"]
        for name in ("whole", "parts")
    )
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_run_that_hurts_unaltered_faces_ends_with_the_best_weights(
    faces: FaceCache,
    init: Path,
    maps: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (map_batches, distil_trainer):
        monkeypatch.setattr(module, "EPOCH", 1)  # an evaluation after every step
    with interrupted(2), pytest.raises(Interrupted):
        distil(faces, tmp_path / "free", init, maps=maps, steps=32)
    first, second = (
        line["clean_agreement"] for line in read_metrics(tmp_path / "free", "evaluation")
    )
    assert second < first < 1
    for _ in range(2):  # a rerun does not go on
        limit = DistilSettings(clean_limit=(first + second) / 2)
        result = distil(faces, tmp_path / "strict", init, limit, maps=maps, steps=32)
        assert result["stopped"] == result["steps"] == 2
        assert result["best_step"] == 1
        assert result["clean_agreement"] == first
    assert "The run ends at step 2: on unaltered faces" in capsys.readouterr().err
    best = torch.load(tmp_path / "strict" / "best.pt", weights_only=True)
    assert best["step"] == 1
    exported = load_file(tmp_path / "strict" / "backbone.safetensors")
    assert torch.equal(exported["conv3.weight"], best["module"]["network.conv3.weight"])
    strict = DistilSettings(clean_limit=1.0)
    with pytest.raises(TrainError, match=r"so nothing is kept; lower --lr"):
        distil(faces, tmp_path / "stricter", init, strict, maps=maps, steps=3)


def test_surrounds_without_covers_are_refused(
    faces: FaceCache, init: Path, maps: Path, tmp_path: Path
) -> None:
    recipe = replace(FREE, alter=(("surround", 0.5),))
    with pytest.raises(TrainError, match=r"makes covered faces worse .* add .* --anyway"):
        distil(faces, tmp_path, init, recipe, maps=maps)
    result = distil(faces, tmp_path, init, recipe, maps=maps, steps=1, options={"anyway": True})
    assert "covered_agreement" not in result
    assert "swapped_agreement" in result


def test_a_network_without_linear_tail(faces: FaceCache, tmp_path: Path, capsys: Any) -> None:
    file = weights(tmp_path / "edgeface.pt", "edgeface_xxs")
    result = distil(faces, tmp_path / "run", file, steps=1, options={"from_layer": "stages.3"})
    assert "whole embeddings are distilled" in capsys.readouterr().err
    assert result["covered_agreement"] < 1
    lines = read_metrics(tmp_path / "run", "train")
    assert all(line["loss"] > 0 for line in lines)


def test_a_cache_without_landmarks_has_the_mean_face(tmp_path: Path) -> None:
    """The covers lie as they do on the mean face."""
    build(tmp_path / "cache", rows=20, shard_rows=16, occlusion=False, size=112)
    cache = FaceCache.open(tmp_path / "cache")
    cache.columns = tuple(name for name in cache.columns if name != "landmarks")
    drawn = Alterations(cache, cache.select(), ("medical",), 0)
    places = np.arange(3)
    images, seen = drawn.cover(places, 0)
    assert images.shape == (3, 112, 112, 3)
    assert (seen[:, 38] == 1).mean() > 0.9  # the eyes
    assert (seen[:, 92, 40:70] == 0).all()  # the mouth
    assert drawn.surround(places, 1).shape == images.shape


def test_command_line(faces: FaceCache, init: Path, maps: Path, tmp_path: Path) -> None:
    run = ["distil", str(faces.directory), "--init", str(init), "--out", str(tmp_path / "run")]
    run += ["--steps", "1", "--from-layer", "features.12", "--batch-size", "8", "--json"]
    found = CliRunner().invoke(main, [*run, "--maps", str(maps), "--clean-limit", "0"])
    assert found.exit_code == 0, found.output
    assert '"clean_agreement"' in found.stdout
    assert "`evaluate calibrate`" in found.stderr
    for wrong, words in (
        (["--alter", "infill=0.5"], "'infill' is not an alteration; choose from cover, surround"),
        (["--alter", "cover=1"], "is not in the range 0<=x<1"),
    ):
        found = CliRunner().invoke(main, [*run, *wrong])
        assert found.exit_code == 2
        assert words in " ".join(found.stderr.split())


def test_what_cannot_be_distilled_is_refused(faces: FaceCache, tmp_path: Path) -> None:
    network = weights(tmp_path / "cal.pt", "mobilefacenet")
    with pytest.raises(FaceguideError, match="evaluate networks"):
        distil(faces, tmp_path / "run", network, options={"backbone": "mine:build"})
    with pytest.raises(TrainError, match="leave no unaltered one"):
        distil(faces, tmp_path / "run", network, replace(FREE, alter=(("cover", 0.99),)))
    assert not (tmp_path / "run").exists()
    assert settled("mobilefacenet").conv3.weight.requires_grad
