from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cache.builder import build, build_keys, key, number

from faceguide.cache.pairs.pair_lists import PairList
from faceguide.cache.pairs.pair_rows import clusters, find_rows, resolve
from faceguide.cache.reader import FaceCache


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FaceCache:
    directory = tmp_path_factory.mktemp("rows") / "cache"
    build(directory, 60, 32)
    return FaceCache.open(directory)


def pair_list(pairs: list[tuple[str, str, bool]], fold: list[int] | None = None) -> PairList:
    first, second, same = (list(column) for column in zip(*pairs, strict=True))
    folds = None if fold is None else np.array(fold)
    return PairList(first, second, np.array(same), folds)


@pytest.mark.parametrize(
    "name",
    [
        "person_05/00012.jpg",
        "./person_05/00012.jpg",
        "person_05\\00012.jpg",
        "person_05/00012",
        "person_05/00012.png",
        "lfw/aligned/person_05/00012.jpg",
        "person_05//00012.JPEG",
        "/data/lfw/person_05/00012.jpg",
        "00012.jpg",
    ],
)
def test_a_name_is_found_in_every_form_that_lists_use(cache: FaceCache, name: str) -> None:
    row = find_rows(cache, [name])[name]
    assert isinstance(row, int)
    assert cache.texts("key", [row]) == ["person_05/00012.jpg"]


def test_dots_in_names_are_no_suffix(cache: FaceCache) -> None:
    assert find_rows(cache, ["St._John_0001", "00012.v2"]) == {
        "St._John_0001": "missing",
        "00012.v2": "missing",
    }


def test_a_name_of_several_keys_is_ambiguous_unless_a_stricter_form_decides(tmp_path) -> None:
    keys = ["a/00001.jpg", "b/00001.jpg", "c/00001.png", "c/00001.jpg"]
    cache = build_keys(tmp_path / "c", keys)
    found = find_rows(cache, ["00001.jpg", "x/a/00001", "c/00001", "c/00001.png"])
    assert found["00001.jpg"] == "ambiguous"
    assert found["c/00001"] == "ambiguous"
    assert cache.texts("key", [found["x/a/00001"], found["c/00001.png"]]) == [
        "a/00001.jpg",
        "c/00001.png",
    ]


def test_every_pair_is_scored_or_named(cache: FaceCache) -> None:
    pairs = pair_list(
        [
            (key(1), key(8), True),
            (key(1), key(10), False),  # 10 has no face
            ("nobody.jpg", key(2), False),
            (key(3), key(4), False),
            ("nobody.jpg", key(20), True),
            (key(5), key(5), True),
        ],
        [0, 0, 0, 1, 1, 1],
    )
    rows = resolve(cache, pairs)
    assert rows.listed == 6
    assert len(rows) + len(rows.left_out) == 6
    np.testing.assert_array_equal(rows.number, [0, 3, 5])
    np.testing.assert_array_equal(rows.fold, [0, 1, 1])
    np.testing.assert_array_equal(rows.same, [True, False, True])
    found = [number(name) for name in cache.texts("key", rows.reference)]
    assert found == [8, 4, 5]
    assert [(pair.number, pair.reason) for pair in rows.left_out] == [
        (1, f"{key(10)}: no_face"),
        (2, "nobody.jpg: missing"),
        (4, f"nobody.jpg: missing; {key(20)}: no_face"),
    ]


def test_clusters_are_the_labels(cache: FaceCache) -> None:
    rows = find_rows(cache, [key(n) for n in (1, 8, 2, 3)])
    probe = np.array([rows[key(1)], rows[key(1)], rows[key(2)]])
    reference = np.array([rows[key(8)], rows[key(2)], rows[key(3)]])
    people, source = clusters(cache, probe, reference, np.array([True, False, False]))
    assert source == "labels"
    assert people.max() == 2
    assert people[0, 0] == people[0, 1] == people[1, 0]
    assert people[1, 1] == people[2, 0] != people[2, 1]


def test_without_labels_genuine_pairs_connect_images(tmp_path: Path) -> None:
    keys = [f"{number:05d}.jpg" for number in range(1, 8)]
    cache = build_keys(tmp_path / "c", keys, lambda key: "")
    probe, reference = np.array([0, 1, 3, 0]), np.array([1, 2, 4, 5])
    people, source = clusters(cache, probe, reference, np.array([True, True, False, False]))
    assert source == "genuine pairs"
    assert len({*people[0], *people[1]}) == 1  # 0–1–2 are one identity
    assert people[2, 0] != people[2, 1]
    assert people[3, 0] == people[0, 0] != people[3, 1]
    assert sorted(set(people.ravel().tolist())) == list(range(people.max() + 1))
