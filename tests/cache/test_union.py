"""Several caches as one: rows one volume behind another, identities by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.cache.builder import RECIPE, build, image_of, write_faces

import faceguide as fg
from faceguide.cache import CacheError, FaceCache
from faceguide.cache.manifest import seal
from faceguide.cache.new_plan import Row, make_plan


def add(directory: Path, numbers: range, names: list[str], **recipe: object) -> None:
    """A cache of faces alone, one identity after another."""
    rows = [Row(f"{names[i % len(names)]}/{i:05d}.jpg", names[i % len(names)], meta=("new",))
            for i in numbers]  # fmt: skip
    plan = make_plan(directory, lambda: rows, recipe={**RECIPE, **recipe}, meta=("split",))
    for shard in range(plan.shards):
        write_faces(directory, plan, shard)
    seal(directory, "faces")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("union")
    build(place / "old", rows=40, shard_rows=16)
    add(place / "new", range(100, 125), ["Zoe", "person_03", "Ann"], source={"name": "elsewhere"})
    return [place / "old", place / "new"]


def test_rows_of_a_union_are_those_of_its_volumes(volumes: list[Path]) -> None:
    union = FaceCache.open(volumes)
    old, new = (FaceCache.open(path) for path in volumes)
    assert len(union) == len(old) + len(new) == 65
    for row in range(65):
        ours, theirs = union[row], old[row] if row < 40 else new[row - 40]
        assert ours["key"] == theirs["key"]
        assert ours["split"] == theirs["split"]
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        assert union.identities[ours["label"]] == Path(ours["key"]).parent.name
    assert len(union.identities) == 9
    assert union.identities[: len(old.identities)] == old.identities
    assert union.columns == new.columns, "guidance and occlusion are in one volume only"
    with pytest.raises(CacheError, match=r"new: .*'heatmap'.*`prep guidance`"):
        union.read([0], ["heatmap"])


def test_a_union_is_selected_found_and_streamed_as_one_cache(volumes: list[Path]) -> None:
    union = FaceCache.open(volumes)
    assert (union.select(meta={"split": "new"}) >= 40).all()
    assert len(union.select()) == 36 + 22
    found = union.find(["Ann/00104.jpg", "person_03/00003.jpg"])
    assert union.texts("key", list(found.values())) == list(found)
    pytest.importorskip("torch")
    rows = union.select()
    seen = []
    for batch in fg.Stream(union, rows, columns=("image", "label"), batch_size=8, ragged="exact"):
        keys = union.texts("key", batch["row"].numpy())
        for key, image, label in zip(keys, batch["image"], batch["label"], strict=True):
            np.testing.assert_array_equal(image.numpy(), image_of(key))
            assert union.identities[label] == Path(key).parent.name
        seen += batch["row"].tolist()
    assert sorted(seen) == rows.tolist()
    copy = pickle.loads(pickle.dumps(union))
    assert copy.texts("key", [3, 60]) == union.texts("key", [3, 60])
    assert set(union.groups) == {"faces"}


def test_recipes_must_agree_and_the_message_says_where_they_do_not(
    volumes: list[Path], tmp_path: Path
) -> None:
    add(tmp_path / "other", range(10), ["Ann"], size=24, margin=0.5)
    with pytest.raises(
        CacheError,
        match=r"old and .*other: their faces were made with other settings "
        r"\(margin None and 0.5, size 16 and 24\); rebuild one of them",
    ):
        FaceCache.open([*volumes, tmp_path / "other"])
    with pytest.raises(CacheError, match="no cache given"):
        FaceCache.open([])
    with pytest.raises(CacheError, match="no cache here"):
        FaceCache.open([volumes[0], tmp_path])
