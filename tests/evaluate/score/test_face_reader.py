from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cache.builder import build
from tests.evaluate.builder import training_run, weights_file

from faceguide.cache import manifest
from faceguide.cache.reader import FaceCache
from faceguide.cache.shard import write_shard
from faceguide.core.errors import EvaluationError
from faceguide.evaluate.score.face_reader import (
    FaceReader,
    cached_visibility,
    choose_visibility,
    groups_for,
    visible_mean_map,
)
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.train.models.loading.network import load_network


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    """Twenty rows; even ones have a known visibility of row / 20, the others hold zeros."""
    directory = tmp_path_factory.mktemp("reader") / "cache"
    plan = build(directory, 20, 32, occlusion=False)
    manifest.set_recipe(directory, plan, "occlusion", {"grid": 7}, replace=False)
    recipe = manifest.group_recipe(directory, plan, "occlusion")
    assert recipe is not None
    known = np.arange(20) % 2 == 0
    visibility = np.zeros((20, 7, 7), np.float16)
    visibility[known] = (np.arange(20)[known] / 20)[:, None, None]
    values = {"visibility": visibility, "known": known, "status": np.zeros(20, np.uint8)}
    report = {"status": {"ok": 20}, "failures": []}
    with write_shard(directory, "occlusion", 0, recipe, rows=20, texts={}, report=report) as writer:
        for name, column in values.items():
            writer.write(name, 0, column)
    manifest.seal(directory, "occlusion")
    return FaceCache.open(directory)


def test_unknown_counts_as_visible(cache: FaceCache) -> None:
    found = cached_visibility(cache, np.array([3, 10, 4]))
    np.testing.assert_allclose(found[:, 0, 0], [1.0, 0.5, 0.2], atol=1e-3)
    assert found.shape == (3, 7, 7)


def test_where_visibility_comes_from(cache: FaceCache, tmp_path: Path) -> None:
    build(tmp_path / "bare", 10, 32, occlusion=False)
    bare = FaceCache.open(tmp_path / "bare")
    with_head = load_network(None, training_run(tmp_path / "run"))
    without = load_network("mobilefacenet", weights_file(tmp_path / "w.pt"))
    assert choose_visibility("auto", with_head, cache) == "head"
    assert choose_visibility("auto", with_head, bare) == "head"
    assert choose_visibility("auto", without, cache) == "cache"
    assert choose_visibility("cache", with_head, cache) == "cache"
    with pytest.raises(EvaluationError, match="hold no occlusion head"):
        choose_visibility("head", without, cache)
    with pytest.raises(EvaluationError, match="no visibility; `prep masks` makes it"):
        choose_visibility("cache", with_head, bare)
    with pytest.raises(EvaluationError, match="no visibility data"):
        choose_visibility("auto", without, bare)


def test_only_what_is_needed_is_computed() -> None:
    assert groups_for(frozenset({"embedding"}), True, None) == {"plain", "embedding"}
    assert groups_for(frozenset({"embedding"}), False, None) == {"plain"}
    local = frozenset({"map", "visibility"})
    assert groups_for(local, True, "head") == {"map", "visibility"}
    assert groups_for(local, True, "cache") == {"map"}


def test_the_mean_map_is_that_of_uncovered_faces(cache: FaceCache, tmp_path: Path) -> None:
    store = FaceStore.open(tmp_path, {"k": 1})
    maps = np.broadcast_to(np.arange(20)[:, None, None, None], (20, 4, 7, 7)).astype(np.float16)
    store.add("map", np.arange(20), {"feature_map": maps})
    reader = FaceReader(store, cache=cache)
    # Unknown rows, the odd ones, count as visible; all even ones are covered.
    found = visible_mean_map(reader, np.arange(20))
    torch.testing.assert_close(found, torch.full((4, 7, 7), 10.0))
    # With none that is uncovered, all are taken.
    found = visible_mean_map(reader, np.array([2, 4, 4]))
    torch.testing.assert_close(found, torch.full((4, 7, 7), 3.0))
