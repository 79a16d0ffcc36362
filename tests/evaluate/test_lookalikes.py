"""`evaluate lookalikes`: whom a network confuses, and who is probably there twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluate.builder import random_module, small_cache

from faceguide.__main__ import main
from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.core.errors import EvaluationError
from faceguide.evaluate.lookalikes import lookalikes


def faces(angles: list[float], images: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Identities on a circle, by angle, with images a little apart."""
    labels = np.repeat(np.arange(len(angles)), images)
    turns = np.repeat(angles, images) + np.tile(np.linspace(-spread, spread, images), len(angles))
    return np.stack([np.cos(turns), np.sin(turns)], 1), labels


def test_the_nearest_are_couples_and_one_identity_under_two_names_is_not() -> None:
    found = lookalikes(*faces([0.0, 0.4, 2.0, 2.5, 4.0, 4.01], 3, 0.1), 1)
    assert found.couples == [(0, 1), (2, 3)]
    assert found.duplicates == [(4, 5)]
    np.testing.assert_allclose(found.cosine, [np.cos(0.4), np.cos(0.5)])


@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 99))
def test_every_identity_is_in_some_couple(count: int, nearest: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    some = random.normal(size=(2 * count, 8))
    some /= np.linalg.norm(some, axis=1, keepdims=True)
    found = lookalikes(some, np.arange(2 * count) // 2, nearest)
    listed = found.couples + found.duplicates
    assert {label for couple in listed for label in couple} == set(range(count))
    assert len(set(listed)) == len(listed)
    assert found.cosine == sorted(found.cosine, reverse=True)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_one_identity_or_one_image_each_is_refused(labels: list[int]) -> None:
    with pytest.raises(EvaluationError, match="look-alikes need"):
        lookalikes(np.eye(3), np.array(labels), 1)


def test_the_command_writes_a_list_that_verification_takes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    small_cache(cache, rows=30, occlusion=False)
    torch.save(random_module("mobilefacenet").state_dict(), tmp_path / "w.pt")
    network = ["--weights", str(tmp_path / "w.pt"), "--device", "cpu"]
    words = ["evaluate", "lookalikes", str(cache), *network, "--out", str(tmp_path / "alike")]
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    pairs = read_pairs(tmp_path / "alike" / "lookalikes.csv")
    assert (int(pairs.same.sum()), int((~pairs.same).sum())) == (
        record["genuine"], record["impostors"],
    )  # fmt: skip
    assert len({*zip(pairs.first, pairs.second, strict=True)}) == len(pairs)
    words = ["evaluate", "verification", str(cache), *network, "--out", str(tmp_path / "test")]
    words += ["--pairs", record["list"], "--embeddings", str(tmp_path / "alike")]
    result = CliRunner().invoke(main, [*words, "--bootstrap", "0", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["doubts"].keys() <= {"untrained", "equal_images"}
    assert found["pairs"] == len(pairs)
