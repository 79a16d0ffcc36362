from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluate.builder import random_module, training_run, weights_file

from faceguide.core.errors import CheckpointError, EvaluationError
from faceguide.train.models.loading.network import load_network, on_device
from faceguide.train.models.safetensors_file import write_weights

ALL = frozenset({"plain", "embedding", "map", "visibility"})


def crops(count: int = 3, size: int = 112) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def test_embeddings_of_image_and_mirror_are_added_with_their_norms(tmp_path: Path) -> None:
    network = load_network("mobilefacenet", weights_file(tmp_path / "w.pt"))
    images = crops()
    found = network.describe(images, frozenset({"plain", "embedding"}))
    backbone = random_module("mobilefacenet")
    with torch.inference_mode():
        unit, norm = backbone(backbone.input_spec.prepare(images))
        mirrored, mirrored_norm = backbone(backbone.input_spec.prepare(images.flip(2)))
    total = (unit * norm + mirrored * mirrored_norm).numpy()
    length = np.linalg.norm(total, axis=1)
    np.testing.assert_allclose(found["embedding"], total / length[:, None], atol=1e-5)
    np.testing.assert_allclose(found["norm"], length, rtol=1e-5)
    np.testing.assert_allclose(found["plain_embedding"], unit, atol=1e-6)
    np.testing.assert_allclose(found["plain_norm"], norm[:, 0], rtol=1e-6)
    assert np.abs(found["embedding"] - found["plain_embedding"]).max() > 1e-3


def test_a_training_run_brings_matcher_and_occlusion_head(tmp_path: Path) -> None:
    network = load_network(None, training_run(tmp_path / "run"))
    assert network.name == "mobilefacenet"
    assert network.matcher is not None
    found = network.describe(crops(2), ALL)
    assert found["feature_map"].shape == (2, 512, 7, 7)
    assert found["feature_map"].dtype == np.float16
    assert found["visibility"].shape == (2, 7, 7)
    assert (found["visibility"] >= 0).all()
    assert (found["visibility"] <= 1).all()
    assert not any(p.requires_grad for p in network.backbone.parameters())


def test_the_hash_follows_the_weights(tmp_path: Path) -> None:
    first = load_network("mobilefacenet", weights_file(tmp_path / "a.pt", seed=0))
    second = load_network("mobilefacenet", weights_file(tmp_path / "b.pt", seed=1))
    assert first.sha256 != second.sha256


def test_cal_gives_its_attention_features(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "cal.pt", "cal_mobilefacenet", num_classes=5, heads=3)
    network = load_network("cal_mobilefacenet", path)
    found = network.describe(crops(2), frozenset({"plain"}))
    assert found["plain_embedding"].shape == (2, 3 * 512)
    model = random_module("cal_mobilefacenet", num_classes=5, heads=3)
    with torch.inference_mode():
        expected = model(model.input_spec.prepare(crops(2))).features
    np.testing.assert_allclose(found["plain_embedding"], expected, atol=1e-5)
    with pytest.raises(EvaluationError, match="cal_mobilefacenet has no feature maps"):
        network.describe(crops(2), frozenset({"map"}))


def test_a_safetensors_file_names_its_network(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    module = random_module("mobilefacenet")
    write_weights(path, module.state_dict(), "mobilefacenet", {}, module.input_spec)
    assert load_network(None, path).name == "mobilefacenet"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("mobilefacenet", {}), ("ir_18", {}), ("vit_tiny", {}), ("cal_resnet18", {"num_classes": 3})],
)
def test_weights_tell_their_network_by_their_tensors(
    tmp_path: Path, name: str, arguments: dict[str, int]
) -> None:
    colour = "BGR" if name == "ir_18" else None  # which no tensor tells
    path = weights_file(tmp_path / "w.pt", name, **arguments)
    assert load_network(None, path, colour=colour).name == name


def test_another_embedding_size_is_read_off_the_file(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "w.pt", embedding_size=64)
    network = load_network("mobilefacenet", path)
    assert network.describe(crops(1), frozenset({"plain"}))["plain_embedding"].shape == (1, 64)


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    state = random_module("mobilefacenet").state_dict()
    del state["bn.weight"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"does not hold a whole MobileFaceNet.*bn\.weight"):
        load_network("mobilefacenet", tmp_path / "w.pt")


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    for value in ("nan", "inf"):
        state = random_module("mobilefacenet").state_dict()
        state["bn.weight"][3] = float(value)
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(CheckpointError, match=r"bn\.weight in .*w\.pt holds NaN or infinity"):
            load_network("mobilefacenet", tmp_path / "w.pt")


def test_weights_that_give_no_finite_numbers_are_refused(tmp_path: Path) -> None:
    state = random_module("mobilefacenet").state_dict()
    torch.save(state, tmp_path / "w.pt")
    network = load_network("mobilefacenet", tmp_path / "w.pt")
    network.backbone.bn.weight[3] = float("nan")
    with pytest.raises(EvaluationError, match="plain_embedding of a face is not finite"):
        network.describe(crops(1), frozenset({"plain"}))


def test_faults_say_what_to_do(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "w.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="does not say which network it is for"):
        load_network(None, tmp_path / "foreign.pt")
    with pytest.raises(EvaluationError, match="no backbone 'adaface'; choose one of"):
        load_network("adaface", path)
    run = training_run(tmp_path / "run")
    with pytest.raises(EvaluationError, match="was trained with mobilefacenet, not ir_50"):
        load_network("ir_50", run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="neither a finished run nor"):
        load_network(None, tmp_path / "empty")
    network = load_network("mobilefacenet", path)
    with pytest.raises(EvaluationError, match=r"its crops are 160 pixels.*--size 112"):
        network.check_size(160, "cache")
    with pytest.raises(EvaluationError, match="no occlusion head in these weights"):
        network.describe(crops(1), frozenset({"visibility"}))
    with pytest.raises(EvaluationError, match="--device nonsense"):
        on_device("nonsense")


@pytest.mark.parametrize("weights", ["../stolen.pt", "/etc/passwd"])
def test_a_run_cannot_point_outside_itself(tmp_path: Path, weights: str) -> None:
    weights_file(tmp_path / "stolen.pt")
    run = training_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["models"]["backbone"]["weights"] = weights
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(EvaluationError, match=r"models\.backbone lies outside the run"):
        load_network(None, run)


def test_a_run_without_models_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(EvaluationError, match="names no models"):
        load_network(None, tmp_path)
