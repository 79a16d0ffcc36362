"""Doubts: counted by kind, said a line each, kept next to what they are about."""

from pathlib import Path

import pytest

from faceguide.cache.manifest import start_over
from faceguide.core.commands.doubts import KINDS, STAGES, Doubts
from faceguide.core.errors import CacheError
from faceguide.core.files import write_json


def test_counts_and_lines() -> None:
    doubts = Doubts()
    assert not doubts
    doubts.add("self_pairs", "pair 3: a.jpg")
    doubts.add("self_pairs", "pair 9: b.jpg", 1_200)
    doubts.add("repeated_pairs", count=0)
    assert doubts.counts() == {"self_pairs": 1_201}
    (line,) = doubts.lines()
    assert line.startswith("1,201 pairs ")
    assert line.endswith("(the first: pair 3: a.jpg)")


def test_a_kind_without_a_meaning_is_a_fault_of_ours() -> None:
    with pytest.raises(KeyError):
        Doubts().add("anything")


def test_kept_and_forgotten(tmp_path: Path) -> None:
    assert not Doubts.kept(tmp_path, "sources")
    doubts = Doubts()
    doubts.add("self_pairs", "a", 2)
    doubts.keep(tmp_path, "sources")
    assert Doubts.kept(tmp_path, "sources").lines() == doubts.lines()
    assert not Doubts.kept(tmp_path, "masks")
    Doubts().keep(tmp_path, "sources")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [{"self_pairs": 2}, {"other": [1, "a"]}, {"self_pairs": [0, ""]}]
)
def test_a_foreign_file_is_named(tmp_path: Path, content: dict[str, object]) -> None:
    write_json(tmp_path / "doubts-sources.json", content)
    with pytest.raises(CacheError, match=r"doubts-sources\.json: not a file of this version"):
        Doubts.kept(tmp_path, "sources")


def test_groups_have_stages_and_starting_over_forgets_all(tmp_path: Path) -> None:
    doubts = Doubts()
    doubts.add("self_pairs", "a")
    stages = [stage for group in STAGES.values() for stage in group]
    for stage in stages:
        doubts.keep(tmp_path, stage)
    assert Doubts.kept_of(tmp_path, STAGES).counts() == {"self_pairs": len(stages)}
    of_masks = Doubts.kept_of(tmp_path, ["occlusion"]).counts()
    assert of_masks == {"self_pairs": len(STAGES["occlusion"])}
    assert not Doubts.kept_of(tmp_path, ["guidance"])
    start_over(tmp_path)
    assert list(tmp_path.iterdir()) == []


def line(kind: str, count: int) -> str:
    doubts = Doubts()
    doubts.add(kind, count=count)
    (found,) = doubts.lines()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_one_is_one_and_several_are_several(kind: str) -> None:
    one, several = line(kind, 1), line(kind, 1234)
    assert one != several.replace("1,234 ", "1 ")
    assert "|" not in one + several


def test_lines_read_as_english() -> None:
    assert line("self_pairs", 1).startswith("1 pair compares ")
    assert line("self_pairs", 2).startswith("2 pairs compare ")
    assert line("landmarks_elsewhere", 1).startswith("1 of up to 32 compared faces lies elsewhere")
    assert line("links_upwards", 1) == (
        "1 folder link leads to a folder above it and is not followed"
    )
