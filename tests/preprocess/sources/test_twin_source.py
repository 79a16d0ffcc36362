"""ND-TWIN's list of images as a source of rows, and its pairs next to folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.pairs.twin_lists import read_twins
from faceguide.core.errors import ListError
from faceguide.preprocess.sources.image_sources import open_source

IMAGES = {
    "1": ["images/1/a.jpg", "images/1/b.jpg"],
    "2": ["images/2/a.jpg"],
    "3": ["images/3/a.jpg"],
    "4": ["/data/set/images/4/a.jpg"],
    "5": [],
    "6": ["images/6/absent.jpg"],
}
PAIRS = {"train": [["1", "2"], ["2", "1"]], "val": [["3", 4]], "test": [["5", "6"], ["9", "1"]]}


def build(folder: Path, images: Any = IMAGES, pairs: Any = PAIRS) -> Path:
    for paths in images.values():
        for path in paths:
            place = folder / path[path.index("images") :]
            place.parent.mkdir(parents=True, exist_ok=True)
            if "absent" not in path:
                place.write_bytes(path.encode())
    (folder / "id_to_images.json").write_text(json.dumps(images))
    (folder / "twin_pairs_infor.json").write_text(json.dumps(pairs))
    return folder


def test_identities_twins_and_splits_are_columns(tmp_path: Path) -> None:
    source = open_source(build(tmp_path) / "id_to_images.json")
    rows = {row.key: (row.identity, row.meta["split"], row.meta["twins"]) for row in source.rows()}
    assert rows == {
        "images/1/a.jpg": ("1", "train", "1+2"),
        "images/1/b.jpg": ("1", "train", "1+2"),
        "images/2/a.jpg": ("2", "train", "1+2"),
        "images/3/a.jpg": ("3", "val", "3+4"),
        "images/4/a.jpg": ("4", "val", "3+4"),
        "images/6/absent.jpg": ("6", "", ""),
    }
    assert source.doubts.counts() == {
        "identities_without_images": 1, "twins_without_images": 2, "moved_images": 1,
    }  # fmt: skip
    assert source.read("images/4/a.jpg", -1) == b"/data/set/images/4/a.jpg"
    assert [row.key for row in open_source(tmp_path).rows()] == list(rows), "the folder is known"


def test_three_twins_and_a_shared_identity_are_counted(tmp_path: Path) -> None:
    images = {name: [f"images/{name}/1.jpg", f"images/{name}/2.jpg"] for name in "abcde"}
    pairs = {"train": [["a", "b"], ["b", "c"], ["a", "c"]], "test": [["d", "e"], ["a", "d"]]}
    source = open_source(build(tmp_path, images, pairs))
    split = {row.identity: row.meta["split"] for row in source.rows()}
    assert split == {"a": "", "b": "train", "c": "train", "d": "test", "e": "test"}
    assert source.doubts.counts() == {"shared_splits": 1, "twin_groups": 1}
    found = read_pairs(tmp_path / "twin_pairs_infor.json", "train")
    assert found.doubts.counts() == {"shared_splits": 1, "twin_groups": 1}
    assert found.twins is not None
    assert int(found.same.sum()) == 3
    assert int(found.twins.sum()) == 3 * 4


def test_folders_take_the_pairs_beside_them(tmp_path: Path) -> None:
    build(tmp_path, pairs={"train": PAIRS["train"], "val": PAIRS["val"]})
    (tmp_path / "id_to_images.json").unlink()
    source = open_source(tmp_path / "images")
    found = {row.identity: row.meta for row in source.rows()}
    assert found["1"] == {"split": "train", "twins": "1+2"}
    assert found["4"] == {"split": "val", "twins": "3+4"}


def test_the_wrong_of_the_two_files_names_the_other(tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(ListError, match=r"give .*id_to_images\.json"):
        list(open_source(tmp_path / "twin_pairs_infor.json").rows())
    with pytest.raises(ListError, match=r"give twin_pairs_infor\.json"):
        read_twins(tmp_path / "id_to_images.json")


@given(st.lists(st.integers(1, 4), min_size=4, max_size=8), st.integers(1, 3))
def test_impostors_are_twins_or_others_and_never_both(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], couples: int
) -> None:
    """All = twins and others; every two images of two identities stand in exactly one of them."""
    folder = tmp_path_factory.mktemp("twins")
    names = [f"p{number}" for number in range(len(sizes) // 2 * 2)]
    images = {
        name: [f"{name}/{k}.jpg" for k in range(n)] for name, n in zip(names, sizes, strict=False)
    }
    twins = [names[k : k + 2] for k in range(0, len(names), 2)][:couples]
    (folder / "id_to_images.json").write_text(json.dumps(images))
    path = folder / "twin_pairs_infor.json"
    path.write_text(json.dumps({"test": twins}))

    def impostors(kind: Any) -> set[frozenset[str]]:
        try:
            found = read_pairs(path, "test", kind)
        except ListError:  # one couple of one image each has no others
            return set()
        pairs = zip(found.first, found.second, found.same, strict=True)
        listed = [frozenset((a, b)) for a, b, same in pairs if not same]
        assert len(listed) == len(set(listed))
        return set(listed)

    assert impostors("twins").isdisjoint(impostors("others"))
    assert impostors("twins") | impostors("others") == impostors("all")
    used = [image for couple in twins for name in couple for image in images[name]]
    of = {image: name for name, listed in images.items() for image in listed}
    apart = {frozenset((a, b)) for a in used for b in used if of[a] != of[b]}
    assert impostors("all") == apart
