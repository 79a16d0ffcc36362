"""Networks of others in every command: mbf, and a vision transformer that is told landmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from tests.evaluate.builder import pairs_csv, random_module, small_cache, usable_pairs
from torch import nn

import faceguide as fg
from faceguide.core.faces import align
from faceguide.evaluate.cli import main
from faceguide.train.models import create
from faceguide.train.models.loading.network import load_network
from faceguide.train.models.matchers.visible_embedding import VisibleEmbedding


@torch.no_grad()
def transformer(patch: int, keypoints: bool = True) -> nn.Module:
    """A small one; with KP-RPE its attention depends on the landmarks for all to see."""
    torch.manual_seed(0)
    module: nn.Module = create(
        "vit", width=24, depth=2, heads=3, patch=patch, keypoints=keypoints, embedding_size=16
    )
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 0.3 if "keypoint" in name else parameter.shape[-1] ** -0.5)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.momentum = None
    pixels = nn.functional.interpolate(torch.randn(16, 3, 5, 5), size=112, mode="bilinear")
    module.train()(pixels, **({"keypoints": torch.rand(16, 5, 2)} if keypoints else {}))
    return module.eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cache/, pairs.csv; mbf.pt, kprpe8.pt (14×14 tokens), kprpe9.pt (12×12)."""
    folder = tmp_path_factory.mktemp("networks")
    small_cache(folder / "cache")
    pairs_csv(folder / "pairs.csv", usable_pairs())
    torch.save(random_module("mbf").state_dict(), folder / "mbf.pt")
    for patch in (8, 9):
        state = transformer(patch).state_dict()
        torch.save({f"net.{k}": v for k, v in state.items()}, folder / f"kprpe{patch}.pt")
    return folder


def evaluate(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def verified(place: Path, weights: str, out: Path, *more: object) -> np.ndarray:
    evaluate(
        *("verification", place / "cache", "--pairs", place / "pairs.csv", "--bootstrap", 0),
        *("--weights", place / weights, "--device", "cpu", "--out", out, *more),
    )
    return load_file(out / "scores.safetensors")["score"]


def points_of(cache: fg.FaceCache, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(align.five_points(cache.read(rows, ["landmarks"])["landmarks"])).float()


def test_cached_landmarks_enter_the_network_and_its_mirror_image(
    place: Path, tmp_path: Path
) -> None:
    cache = fg.open(place / "cache")
    rows = cache.select()[:4]
    net = fg.load(place / "kprpe8.pt", device="cpu")
    pixels = net.input_spec.prepare(cache.read(rows, ["image"])["image"])
    points = points_of(cache, rows)
    swapped = torch.stack([1 - points[:, [1, 0, 2, 4, 3], 0], points[:, [1, 0, 2, 4, 3], 1]], 2)
    with torch.inference_mode():
        raw = net.module.raw_embedding(pixels, keypoints=points)
        raw = raw + net.module.raw_embedding(pixels.flip(3), keypoints=swapped)
        other = net.module.raw_embedding(pixels, keypoints=swapped)
    expected = nn.functional.normalize(raw).numpy()
    np.testing.assert_allclose(net.embed(cache[rows]), expected, atol=1e-5)
    assert np.abs(nn.functional.normalize(other).numpy() - expected).max() > 1e-2
    evaluate(
        *("embed", place / "cache", "--weights", place / "kprpe8.pt", "--device", "cpu"),
        *("--out", tmp_path / "faces"),
    )
    (store,) = (tmp_path / "faces").glob("embeddings-*")
    kept = load_file(next(iter(sorted(store.glob("embedding/*")))))
    np.testing.assert_allclose(kept["embedding"][:4], expected, atol=1e-5)
    face = cache[int(rows[0])]
    with pytest.raises(fg.FaceguideError, match=r"vit .*five landmarks"):
        net.embed(face["image"])
    assert net.score(face, cache[int(rows[1])]) == pytest.approx(
        float(expected[0] @ expected[1]), abs=1e-5
    )


def test_hidden_tokens_are_dropped_before_the_first_block(place: Path, tmp_path: Path) -> None:
    words = ("--matcher", "visible-embedding", "--visibility", "cache", "--no-flip")
    zero, drop = (
        verified(place, "kprpe8.pt", tmp_path / hidden, *words, "--hidden", hidden)
        for hidden in ("zero", "drop")
    )
    assert np.abs(zero - drop).max() > 1e-3
    cache, network = fg.open(place / "cache"), load_network(None, place / "kprpe8.pt")
    table = load_file(tmp_path / "drop" / "scores.safetensors")
    rows = np.unique(np.concatenate([table["probe"], table["reference"]]))
    found = cache.read(rows, ["image", "visibility", "known"])
    visible = torch.from_numpy(found["visibility"].astype(np.float32))
    visible[~torch.from_numpy(found["known"]).bool()] = 1.0
    with torch.inference_mode():
        seen = network.backbone.seen_cells(visible)
        maps = network.backbone.feature_map(
            network.input_spec.prepare(found["image"]), keypoints=points_of(cache, rows), seen=seen
        ).half().float()  # fmt: skip
        clear = visible.mean((1, 2)) >= 0.95
        chosen = torch.nonzero(clear)[:, 0]
        matcher = VisibleEmbedding.of(network.backbone, maps[chosen].mean(0))
        probe, reference = (
            np.searchsorted(rows, table[side])[:8] for side in ("probe", "reference")
        )
        expected = matcher.pair_scores(
            maps[probe], maps[reference], visible[probe], visible[reference]
        )
    assert not seen.all()
    np.testing.assert_allclose(table["score"][:8], expected, atol=2e-3)
    net = fg.load(place / "kprpe8.pt", device="cpu")
    few = (cache[table["probe"][:8]], cache[table["reference"][:8]])
    found = net.score(*few, "visible-embedding", mean_of=cache[rows], hidden="drop")
    np.testing.assert_allclose(found, table["score"][:8], atol=2e-3)
    with pytest.raises(fg.FaceguideError, match="is for visible-embedding; leave it out for cos"):
        net.score(*few, hidden="drop")


def test_what_cannot_be_dropped_is_said(place: Path, tmp_path: Path) -> None:
    for weights, more, message in (
        ("mbf.pt", ("--matcher", "visible-embedding", "--visibility", "cache"),
         "leaves out occluded tokens of a vision transformer, and ArcFaceMobileFaceNet has none"),
        ("kprpe8.pt", (), "--hidden drop is for visible-embedding; leave it out"),
    ):  # fmt: skip
        result = CliRunner().invoke(
            main,
            ["verification", str(place / "cache"), "--pairs", str(place / "pairs.csv"),
             "--weights", str(place / weights), "--hidden", "drop", "--out", str(tmp_path / "x"),
             "--device", "cpu", *more],
        )  # fmt: skip
        assert result.exit_code == 1, result.output
        assert message in result.stderr


METHODS = "saliency,integrated-gradients,grad-cam,layer-cam,geodesic-arc,rollout,gradient-rollout"


@pytest.mark.parametrize("weights", ["mbf.pt", "kprpe8.pt", "kprpe9.pt"])
def test_attribution_by_gradients_layers_and_attention(
    place: Path, tmp_path: Path, weights: str
) -> None:
    methods = METHODS if weights.startswith("kprpe") else "grad-cam,deeplift"
    evaluate(
        *("attribution", place / "cache", "--pairs", place / "pairs.csv", "--limit", 2),
        *("--weights", place / weights, "--methods", methods, "--infills", "blur"),
        *("--metrics", "swap,randomisation", "--bootstrap", 0, "--device", "cpu"),
        *("--anyway", "--steps", 3, "--out", tmp_path / "maps"),
    )
    record: dict[str, Any] = json.loads((tmp_path / "maps" / "results.json").read_text())
    for name in methods.split(","):
        assert record["methods"][name]["n"] == 2, name
        assert record["methods"][name]["verdicts"]["error"] == 0, name
    cache = fg.open(place / "cache")
    net = fg.load(place / weights, device="cpu")
    first, second = cache[cache.select()[:2]]
    shown = fg.explain(net, first, second, "grad-cam")
    assert shown.shape == (112, 112)
    if weights == "kprpe9.pt":  # 12 tokens of 9 pixels: the last 4 are not seen
        assert np.abs(shown[108:]).max() == 0
        assert np.abs(shown[:, :108]).max() > 0
