"""A small cache and single-threaded arithmetic for the tests of training."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.cache.builder import build

from faceguide.cache.reader import FaceCache


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    """36 usable faces of 40 pixels, 7 persons, guidance on 4×4 cells."""
    directory: Path = tmp_path_factory.mktemp("faces") / "cache"
    build(directory, rows=40, shard_rows=16, occlusion=False, size=40)
    return FaceCache.open(directory)


@pytest.fixture(scope="session")
def pairs_file(small_cache: FaceCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of neighbouring usable rows of one person and of two."""
    rows = small_cache.select()
    keys = small_cache.texts("key", rows)
    labels = small_cache.read(rows, ["label"])["label"].tolist()
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "same"])
        for i in range(len(rows)):
            for j in range(i):
                if labels[i] == labels[j] or (i + j) % 9 == 0:
                    writer.writerow([keys[i], keys[j], int(labels[i] == labels[j])])
        writer.writerow(["nobody/1.jpg", keys[0], 0])
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums do not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
