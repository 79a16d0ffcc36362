"""A shard whose bytes are not those that were written is noticed when it is opened."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.cache.builder import build, write_faces
from tests.conftest import TORCH

import faceguide as fg
from faceguide.cache import CacheError, FaceCache, manifest
from faceguide.cache.cli import main
from faceguide.cache.plan import load_plan
from faceguide.cache.shard import is_done, shard_path
from faceguide.core.files import read_json


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("opening") / "cache"
    build(directory, store=request.param)
    return directory


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def zero(path: Path, start: int, end: int) -> None:
    """Zeros in the place of bytes, as where a copy or a download had not come yet."""
    data = bytearray(path.read_bytes())
    data[start:end] = bytes(len(data[start:end]))
    path.write_bytes(data)


def preallocated(path: Path, offsets: dict[str, int], size: int) -> None:
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(size)


def cut_off(path: Path, offsets: dict[str, int], size: int) -> None:
    zero(path, size // 2, size)


def last_block(path: Path, offsets: dict[str, int], size: int) -> None:
    zero(path, size - 512, size)


def first_block(path: Path, offsets: dict[str, int], size: int) -> None:
    zero(path, 8, 600)


def labels(path: Path, offsets: dict[str, int], size: int) -> None:
    zero(path, offsets["label"] + 8, offsets["label"] + 200)


def one_status(path: Path, offsets: dict[str, int], size: int) -> None:
    data = bytearray(path.read_bytes())
    data[offsets["status"] + 5] ^= 1
    path.write_bytes(data)


def pictures(path: Path, offsets: dict[str, int], size: int) -> None:
    start = offsets["image"]
    zero(path, start, start + (offsets["landmarks"] - start) // 2)


def landmarks(path: Path, offsets: dict[str, int], size: int) -> None:
    zero(path, offsets["landmarks"], offsets["transform"])


def another_shard(path: Path, offsets: dict[str, int], size: int) -> None:
    other = path.with_name("faces-00000.h5").read_bytes()
    path.write_bytes(other.ljust(size, b"\0")[:size])


DAMAGES = [
    *(preallocated, cut_off, last_block, first_block, labels, one_status, pictures, landmarks),
    another_shard,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_what_was_written(copy: Path, damage: Callable[..., None]) -> None:
    path = copy / "faces-00001.h5"
    sidecar = read_json(copy / "faces-00001.json")
    before = path.stat().st_size
    damage(path, sidecar["offsets"], before)
    assert path.stat().st_size == before
    with pytest.raises(CacheError, match=r"faces-00001\.h5: .*restore the original, or remove"):
        FaceCache.open(copy).select()
    cache = FaceCache.open(copy)
    if TORCH:
        with pytest.raises(CacheError, match=r"faces-00001\.h5: "):
            next(iter(fg.Stream(cache, np.arange(32, 64), batch_size=8)))
    with pytest.raises(CacheError, match=r"faces-00001\.h5: "):
        FaceCache.open(copy).find(["any"])
    told = run("info", copy)
    assert told.exit_code == 3
    assert told.stderr.count("\n") == 1
    assert "(the first: " in told.stderr
    assert "faces-00001.h5" in told.stderr
    assert json.loads(run("info", copy, "--json").stdout)["doubts"] == {"damaged_shards": 1}
    path.unlink()
    plan = load_plan(copy)
    assert plan is not None
    write_faces(copy, plan, 1)
    assert len(FaceCache.open(copy).select()) == 90


def test_a_copy_that_was_cut_off_is_made_again(copy: Path) -> None:
    plan = load_plan(copy)
    assert plan is not None
    path = copy / "faces-00001.h5"
    preallocated(path, {}, path.stat().st_size)
    assert manifest.missing_shards(copy, "faces", plan.recipe, range(4)) == [1]
    assert is_done(copy, "faces", 0, plan.recipe)


def test_a_whole_cache_is_not_doubted(whole: Path) -> None:
    told = run("info", whole)
    assert (told.exit_code, told.stderr) == (0, "")
    assert json.loads(run("info", whole, "--json").stdout)["doubts"] == {}


@pytest.mark.parametrize("group", ["faces", "guidance", "occlusion"])
def test_a_missing_shard_is_told_without_opening_the_cache(copy: Path, group: str) -> None:
    shard_path(copy, group, 3).unlink()
    told = run("info", copy)
    assert (told.exit_code, told.stderr.count("\n")) == (3, 1)
    assert f"{group}-00003.h5: " in told.stderr
    assert "100 rows" in told.stdout


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Nothing can be written into the folder."""
    for options in (["--bind", directory, directory], ["-o", "remount,ro,bind", directory]):
        done = subprocess.run(["mount", *options], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this system does not let us mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="mount is not installed")
def test_sealing_where_nothing_can_be_written(copy: Path) -> None:
    with read_only(copy):
        told = run("seal", copy)
    assert (told.exit_code, told.stderr) == (0, ""), "it is sealed"
    assert told.stdout.startswith("faces: 100 rows in 4 shards\n")
    (copy / "manifest-guidance.json").unlink()
    with read_only(copy):
        told = run("seal", copy)
    assert told.exit_code == 1
    assert told.stderr.startswith(f"Error: {copy}/manifest-guidance.json: ")
    assert "read-only" in told.stderr
    assert told.stderr.count("\n") == 1
