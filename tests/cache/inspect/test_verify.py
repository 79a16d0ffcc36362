"""`cache verify` finds what changed, in every kind of file, and says what to run again."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.cache.builder import build

from faceguide.cache.inspect.verify import verify
from faceguide.cache.shard import is_done, sidecar_path
from faceguide.core.errors import CacheError


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def pristine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "cache"
    build(path, rows=40, shard_rows=16, store=request.param)
    return path


def test_an_intact_cache_has_no_problems(pristine: Path) -> None:
    seen: list[int] = []
    assert verify(pristine, progress=seen.append) == ([], [])
    assert sum(seen) == 9


@pytest.mark.slow
def test_damage_of_any_file_is_found(pristine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(pristine, copy)
    rng = np.random.default_rng(0)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    assert len(files) == 29  # shards, sidecars, manifests, recipes, lists, names, plan
    for path, cut in itertools.product(files, (False, True)):
        data = path.read_bytes()
        if cut:
            path.write_bytes(data[: rng.integers(0, len(data))])
        else:
            damaged = bytearray(data)
            damaged[rng.integers(0, len(data))] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(damaged)
        try:
            problems, _ = verify(copy)
        except CacheError as error:
            problems = [str(error)]
        assert problems, f"{path.name} was damaged and nobody noticed"
        assert all("\n" not in problem for problem in problems)
        path.write_bytes(data)
    assert verify(copy) == ([], [])


@pytest.mark.parametrize("name", ["faces-00001.h5", "guidance-00002.json", "manifest-faces.json"])
def test_a_missing_file_is_named(pristine: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(pristine, copy)
    (copy / name).unlink()
    problems, _ = verify(copy)
    assert any(
        name in problem and ("rerun" in problem or "re-render" in problem) for problem in problems
    )


def test_stray_files_are_a_note(pristine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(pristine, copy)
    (copy / ".faces-00001.h5.abc.tmp").write_bytes(b"half")
    problems, notes = verify(copy)
    assert problems == []
    assert "faces-00001.h5.abc.tmp" in notes[0]
    assert "cache seal --clean" in notes[-1]


def test_a_sidecar_that_cannot_be_read_is_not_one_that_is_missing(tmp_path: Path) -> None:
    path = sidecar_path(tmp_path, "faces", 0)
    assert not is_done(tmp_path, "faces", 0, {})
    path.write_text("{")
    assert not is_done(tmp_path, "faces", 0, {}), "damaged: made again"
    path.unlink()
    path.mkdir()  # the system refuses to read it
    with pytest.raises(CacheError, match="cannot read"):
        is_done(tmp_path, "faces", 0, {})
