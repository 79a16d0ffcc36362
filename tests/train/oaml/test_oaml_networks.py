"""Networks of others are trained as ours are, from weights that say which they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.cache.builder import build
from tests.train.models.test_networks_of_others import as_published
from tests.train.oaml.test_oaml_run import make_caches
from tests.train.test_random_start import train

from faceguide.cache.reader import FaceCache
from faceguide.train.models import create
from faceguide.train.models.loading.network import load_network


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    return make_caches(tmp_path_factory.mktemp("caches"))[0]


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
