"""Photographs, the cache that one undisturbed process makes of them, and a Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.demo.photos import write_demo_photos
from tests.cluster import private_slurm
from tests.cluster.prep import prep
from tests.cluster.private_slurm import Slurm


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 photographs in photos/, masks of some in masks/."""
    folder = tmp_path_factory.mktemp("cluster")
    write_demo_photos(folder, identities=4, images=12)
    return folder


@pytest.fixture(scope="session")
def undisturbed(photos: Path) -> Path:
    """Faces and guidance in 8 shards, made by one process."""
    cache = photos / "undisturbed"
    done = prep(
        "landmarks", photos / "photos", "--out", cache, "--shard-rows", 6, "--jobs", 1,
        "--allow-failures",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return cache


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    if reason := private_slurm.lacking():
        pytest.skip(reason)
    with private_slurm.running() as started:
        yield started
