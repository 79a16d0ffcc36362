from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluate.builder import training_run, weights_file

from faceguide.core.errors import EvaluationError
from faceguide.evaluate.score import fusion
from faceguide.evaluate.score.face_reader import FaceReader, score_pairs
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.score.matcher_options import parse_weights
from faceguide.evaluate.score.scores import MATCHERS, Faces, Fused, FusedPart, Matcher, make_matcher
from faceguide.train.models.loading.network import Network, load_network

SINGLE = MATCHERS[:-1]


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Network:
    return load_network(None, training_run(tmp_path_factory.mktemp("scores") / "run"))


def faces(count: int, seed: int = 0) -> Faces:
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(count, 128, generator=generator)
    return Faces(
        torch.nn.functional.normalize(embedding, dim=1),
        torch.rand(count, 512, 7, 7, generator=generator),
        torch.rand(count, 7, 7, generator=generator),
    )


def fused(network: Network) -> Matcher:
    return Fused(
        (
            FusedPart(make_matcher("cosine", network), 0.7, 0.1, 0.2),
            FusedPart(make_matcher("qaconv+occlusion", network), 0.3, -1.0, 3.0),
        )
    )


@pytest.mark.parametrize("name", MATCHERS)
def test_pairs_and_matrix_agree(network: Network, name: str) -> None:
    matcher = fused(network) if name == "fused" else make_matcher(name, network)
    probe, gallery = faces(4, 1), faces(6, 2)
    matrix = matcher.matrix(probe, gallery)
    assert matrix.shape == (4, 6)
    for column in range(6):
        score = matcher.score(probe, gallery.at([column] * 4))
        torch.testing.assert_close(score, matrix[:, column], atol=2e-5, rtol=2e-5)
    assert matcher.name == name


@pytest.mark.parametrize("name", SINGLE)
def test_the_score_can_be_asked_why(network: Network, name: str) -> None:
    matcher = make_matcher(name, network)
    probe, reference = faces(2, 1), faces(2, 2)
    part = probe.embedding if name == "cosine" else probe.feature_map
    assert part is not None
    part.requires_grad_()
    matcher.score(probe, reference).sum().backward()
    assert part.grad is not None
    assert part.grad.abs().sum() > 0


def test_only_occlusion_aware_matchers_look_at_visibility(network: Network) -> None:
    probe, reference = faces(3, 1), faces(3, 2)
    hidden = Faces(probe.embedding, probe.feature_map, torch.zeros(3, 7, 7))
    for name in SINGLE:
        matcher = make_matcher(name, network)
        looks = "visibility" in matcher.needs
        differs = bool((matcher.score(probe, reference) != matcher.score(hidden, reference)).any())
        assert differs == looks, name


def test_visible_embedding_with_everything_visible_is_the_cosine(network: Network) -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (4, 112, 112, 3), dtype=np.uint8))
    found = network.describe(images, frozenset({"plain", "map"}))
    whole = Faces(
        torch.from_numpy(found["plain_embedding"]),
        torch.from_numpy(found["feature_map"]),
        torch.ones(4, 7, 7),
    )
    first, second = whole.at([0, 1]), whole.at([2, 3])
    cosine = make_matcher("cosine", network).score(first, second)
    visible = make_matcher("visible-embedding", network).score(first, second)
    torch.testing.assert_close(visible, cosine, atol=2e-3, rtol=0)  # maps are half precision


def test_the_fusion_is_the_weighted_sum_of_scaled_scores(network: Network) -> None:
    probe, reference = faces(3, 1), faces(3, 2)
    parts = [make_matcher(name, network) for name in ("cosine", "qaconv+occlusion")]
    one, two = (part.score(probe, reference) for part in parts)
    expected = 0.7 * (one - 0.1) / 0.2 + 0.3 * (two + 1.0) / 3.0
    torch.testing.assert_close(fused(network).score(probe, reference), expected)
    assert fused(network).needs == {"embedding", "map", "visibility"}


def test_an_untrained_matcher_is_the_mean_of_the_best_matches(tmp_path: Path) -> None:
    network = load_network("mobilefacenet", weights_file(tmp_path / "w.pt"))
    probe, reference = faces(1, 1), faces(1, 2)
    assert probe.feature_map is not None
    assert reference.feature_map is not None
    p = torch.nn.functional.normalize(probe.feature_map[0].flatten(1), dim=0)
    r = torch.nn.functional.normalize(reference.feature_map[0].flatten(1), dim=0)
    cells = p.T @ r
    expected = cells.amax(1).mean() + cells.amax(0).mean()
    found = make_matcher("qaconv", network).score(probe, reference)
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-4)


def test_scores_of_pairs_do_not_depend_on_order_or_blocks(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FaceStore.open(tmp_path, {"k": 1})
    rows, source = np.arange(12), faces(12)
    assert source.embedding is not None
    assert source.feature_map is not None
    assert source.visibility is not None
    columns = {"embedding": source.embedding.numpy(), "norm": np.ones(12, np.float32)}
    store.add("embedding", rows, columns)
    store.add("map", rows, {"feature_map": source.feature_map.half().numpy()})
    store.add("visibility", rows, {"visibility": source.visibility.half().numpy()})
    rng = np.random.default_rng(0)
    probe, reference = rng.integers(0, 12, 40), rng.integers(0, 12, 40)
    for name in SINGLE:
        matcher = make_matcher(name, network)
        whole = score_pairs(FaceReader(store), matcher, probe, reference)
        order = rng.permutation(40)
        shuffled = score_pairs(FaceReader(store), matcher, probe[order], reference[order])
        np.testing.assert_allclose(shuffled, whole[order], atol=1e-5)
        with monkeypatch.context() as small:
            small.setattr("faceguide.evaluate.score.face_reader.PAIR_BLOCK", 7)
            small.setattr("faceguide.evaluate.score.face_reader.EMBEDDING_BLOCK", 7)
            blocks = score_pairs(FaceReader(store), matcher, probe, reference)
        np.testing.assert_allclose(blocks, whole, atol=1e-5)


def test_scales_come_from_random_pairs_and_can_be_taken_over(
    network: Network, tmp_path: Path
) -> None:
    store = FaceStore.open(tmp_path, {"k": 1})
    embedding = faces(50).embedding
    assert embedding is not None
    store.add(
        "embedding",
        np.arange(50),
        {"embedding": embedding.numpy(), "norm": np.ones(50, np.float32)},
    )
    cosine = {"cosine": make_matcher("cosine", network)}
    scales = fusion.measure_scales(FaceReader(store), cosine, np.arange(50), 3)
    whole = (embedding @ embedding.T).numpy()[~np.eye(50, dtype=bool)]
    assert scales["cosine"]["mean"] == pytest.approx(whole.mean(), abs=0.01)
    assert scales["cosine"]["std"] == pytest.approx(whole.std(), rel=0.1)
    from faceguide.core.files import write_json

    write_json(tmp_path / "fusion.json", {"scales": scales})
    assert fusion.read_scales(tmp_path / "fusion.json", ["cosine"]) == scales
    with pytest.raises(EvaluationError, match="holds no scale of qaconv"):
        fusion.read_scales(tmp_path / "fusion.json", ["qaconv"])
    with pytest.raises(EvaluationError, match="at least two faces"):
        fusion.measure_scales(FaceReader(store), cosine, np.array([4, 4]), 0)


@pytest.mark.parametrize(
    "texts",
    [["cosine=1"], ["cosine=1", "nobody=2"], ["cosine=1", "cosine=2"], ["cosine", "qaconv=x"]],
)
def test_weights_of_a_fusion_are_checked(texts: list[str]) -> None:
    with pytest.raises(EvaluationError, match="--fuse"):
        parse_weights(texts)


def test_faults(network: Network, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"'euclid'.*cosine"):
        make_matcher("euclid", network)
    with pytest.raises(EvaluationError, match="needs the visibility of both faces"):
        make_matcher("qaconv+occlusion", network).score(
            Faces(None, torch.zeros(1, 512, 7, 7), None), faces(1)
        )
    path = weights_file(tmp_path / "cal.pt", "cal_mobilefacenet", num_classes=3, heads=2)
    cal = load_network("cal_mobilefacenet", path)
    with pytest.raises(EvaluationError, match="which cal_mobilefacenet has not"):
        make_matcher("qaconv", cal)


def test_the_trained_matcher_of_a_run_is_used(network: Network) -> None:
    assert network.matcher is not None
    probe, reference = faces(3, 1), faces(3, 2)
    assert probe.feature_map is not None
    assert reference.feature_map is not None
    plain = network.matcher.pair_scores(probe.feature_map, reference.feature_map)
    torch.testing.assert_close(make_matcher("qaconv", network).score(probe, reference), plain)
    weighted = network.matcher.pair_scores(
        probe.feature_map, reference.feature_map, probe.visibility, reference.visibility
    )
    found = make_matcher("qaconv+occlusion", network).score(probe, reference)
    torch.testing.assert_close(found, weighted)
    assert (weighted - plain).abs().max() > 1e-3
