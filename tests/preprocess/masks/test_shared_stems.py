"""The stems by which masks are found: counted over all rows, whoever counts them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceguide.cache.planning.new_plan import make_plan
from faceguide.cache.planning.spooled_listing import Row
from faceguide.preprocess.masks import mask_shards


@given(st.text("ab./", min_size=1))
def test_a_stem_is_that_of_the_path(key: str) -> None:
    path = PurePosixPath(key)
    if path.name in ("", "..") or key.startswith("/") or key.endswith(("/", "/.")):
        return  # no key of an image
    if path.name.startswith(".."):
        return  # Python 3.13 refuses to take the suffix off
    with_folder, alone = mask_shards._stem_hashes(key)
    assert with_folder == mask_shards._hash(f"/{path.with_suffix('')}")
    assert alone == mask_shards._hash(path.stem)


def test_processes_find_the_same_stems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(f"{n % 7}/{n // 2}.jpg") for n in range(400)]
    plan = make_plan(tmp_path / "cache", lambda: rows, recipe={}, shard_rows=50)
    found = mask_shards.find_shared_stems(tmp_path / "cache", plan, 2)
    assert {mask_shards._hash(str(n)) for n in range(200)} <= found
    (tmp_path / "cache" / "shared-stems.json").unlink()
    monkeypatch.setattr(mask_shards, "_MANY_ROWS", 1)
    assert mask_shards.find_shared_stems(tmp_path / "cache", plan, 2) == found
