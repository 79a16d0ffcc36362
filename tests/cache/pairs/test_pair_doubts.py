"""Lists of pairs against labels, pixels and themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cache.builder import build_keys

from faceguide.cache.pairs.pair_doubts import PairDoubts, is_contradicted, pair_doubts
from faceguide.cache.pairs.pair_lists import PairList
from faceguide.cache.pairs.pair_rows import resolve
from faceguide.cache.reader import FaceCache

KEYS = [f"p{n % 5}/{n:03d}.jpg" for n in range(101, 200) if n % 10]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    return build_keys(tmp_path_factory.mktemp("doubts") / "cache", KEYS)


def contradicted(found: PairDoubts) -> bool:
    return is_contradicted(found.doubts.counts(), len(found.first))


def listed(count: int = 40) -> list[tuple[str, str, bool]]:
    """Pairs that agree with the folders, half of one identity, in blocks of ten."""
    one = [(a, b) for a in KEYS for b in KEYS if a < b and a[:2] == b[:2]]
    two = [(a, b) for a in KEYS for b in KEYS if a < b and a[:2] != b[:2]]
    lines = []
    for start in range(0, count // 2, 10):
        lines += [(*pair, True) for pair in one[start * 3 : start * 3 + 30 : 3]]
        lines += [(*pair, False) for pair in two[start * 3 : start * 3 + 30 : 3]]
    return lines


def doubts(cache: FaceCache, lines: list[tuple[str, str, bool]]) -> PairDoubts:
    first, second, same = zip(*lines, strict=True)
    pairs = PairList(list(first), list(second), np.array(same), None)
    return pair_doubts(cache, pairs, resolve(cache, pairs))


def test_a_sound_list_gives_none(cache: FaceCache) -> None:
    found = doubts(cache, listed())
    assert found.doubts.counts() == {}
    assert found.first.all()
    assert not contradicted(found)


def test_same_against_the_labels(cache: FaceCache) -> None:
    lines = listed(200)
    for place in (3, 17):
        lines[place] = (*lines[place][:2], not lines[place][2])
    found = doubts(cache, lines)
    assert found.doubts.counts() == {"contradict_labels": 2}
    assert found.of_pairs["contradict_labels"].tolist() == [3, 17]
    assert f"pair 3, {lines[3][0]}, {lines[3][1]}" in found.doubts.lines()[0]
    assert not contradicted(found)  # 1 %: what data sets have
    lines[18] = (*lines[18][:2], not lines[18][2])
    assert contradicted(doubts(cache, lines))


@pytest.mark.parametrize("by", [1, -1])
def test_a_shifted_column(cache: FaceCache, by: int) -> None:
    lines = listed(100)
    same = [line[2] for line in lines]
    shifted = [same[0], *same[:-1]] if by == 1 else [*same[1:], same[-1]]
    moved = [(a, b, now) for (a, b, _), now in zip(lines, shifted, strict=True)]
    found = doubts(cache, moved).doubts.counts()
    assert found == {"contradict_labels": 9, "shifted_labels": 9}


def test_exchanged_labels(cache: FaceCache) -> None:
    found = doubts(cache, [(a, b, not same) for a, b, same in listed()])
    assert found.doubts.counts() == {"contradict_labels": 40, "inverted_labels": 40}
    assert contradicted(found)


def test_an_image_against_itself_or_its_copy(tmp_path: Path) -> None:
    keys = ["a/101.jpg", "a/copy_101.png", "a/102.jpg", "b/b_101.jpg", "b/103.jpg"]
    cache = build_keys(tmp_path / "cache", keys)
    lines = [
        (keys[0], keys[0], True),
        (keys[0], keys[1], True),  # equal pixels
        (keys[0], keys[3], False),  # equal pixels of two identities
        (keys[0], keys[2], True),
        (keys[2], keys[4], False),
    ]
    found = doubts(cache, lines)
    assert found.doubts.counts() == {"self_pairs": 1, "equal_images": 2}
    assert found.of_pairs["equal_images"].tolist() == [1, 2]


def test_repeated_pairs_also_with_their_sides_exchanged(cache: FaceCache) -> None:
    lines = listed()
    again = [lines[0], (lines[15][1], lines[15][0], False), (f"x/{lines[7][0]}", *lines[7][1:])]
    found = doubts(cache, [*lines, *again])
    assert found.doubts.counts() == {"repeated_pairs": 3}
    assert np.flatnonzero(~found.first).tolist() == [40, 41, 42]


def test_a_list_drawn_at_random_repeats_a_pair_now_and_then(cache: FaceCache) -> None:
    rng = np.random.default_rng(0)
    two = [(a, b, False) for a in KEYS for b in KEYS if a < b and a[:2] != b[:2]]
    drawn = [two[place] for place in rng.integers(0, len(two), 250)]
    lines = [*(line for line in listed(100) if line[2]), *dict.fromkeys(drawn)]
    lines.append((lines[-1][1], lines[-1][0], False))  # as one pair of MFR2's list
    found = doubts(cache, lines)
    assert found.doubts.counts() == {}
    assert (~found.first).sum() >= 1
    assert doubts(cache, [*lines, lines[0]]).doubts.counts()["repeated_pairs"] >= 2  # of one
    assert doubts(cache, [*lines, *lines[-9:]]).doubts.counts()["repeated_pairs"] >= 10


def test_without_labels_the_list_is_held_against_itself(tmp_path: Path) -> None:
    cache = build_keys(tmp_path / "cache", ["1.jpg", "2.jpg", "3.jpg", "4.jpg"], lambda key: "")
    lines = [("1", "2", True), ("2", "3", True), ("3", "4", False), ("1", "3", False)]
    found = doubts(cache, lines)
    assert found.doubts.counts() == {"contradict_list": 1}
    assert found.of_pairs["contradict_list"].tolist() == [3]
    assert doubts(cache, lines[:3]).doubts.counts() == {}


def test_names_that_are_absent_are_counted_once(cache: FaceCache) -> None:
    lines = [*listed(), ("p9/1.jpg", KEYS[0], False), ("p9/1.jpg", "p9/2.jpg", True)]
    found = doubts(cache, lines).doubts
    assert found.counts() == {"absent_images": 2}
    assert "the first: p9/1.jpg" in found.lines()[0]


def test_no_pair_at_all(cache: FaceCache) -> None:
    found = doubts(cache, [("x.jpg", "y.jpg", True)])
    assert found.doubts.counts() == {"absent_images": 2}
    assert not contradicted(found)
