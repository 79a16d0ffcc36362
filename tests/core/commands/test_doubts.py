"""What looks wrong, in words: one of something, and several."""

from __future__ import annotations

import pytest

from faceguide.core.commands.doubts import KINDS, Doubts


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
    assert line("self_pairs", 1) == "1 pair compares an image with itself"
    assert line("self_pairs", 2) == "2 pairs compare an image with itself"
    assert line("landmarks_elsewhere", 1).startswith("1 of up to 32 compared faces lies elsewhere")
    assert line("links_upwards", 1) == (
        "1 folder link leads to a folder above it and is not followed"
    )
