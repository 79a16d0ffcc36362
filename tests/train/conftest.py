"""A small cache and single-threaded arithmetic for the tests of training."""

from __future__ import annotations

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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums do not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
