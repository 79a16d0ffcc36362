"""Names of lists against row keys: the right image or none."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from tests.cache.builder import build_keys

from faceguide.cache.pairs.name_rows import match_names


def found(tmp_path: Path, keys: list[str], names: list[str]) -> dict[str, str]:
    """Name → the key of its row, or why it has none."""
    cache = build_keys(tmp_path / "cache", keys)
    rows = match_names(cache, names).rows
    assert list(rows) == names
    return {
        name: row if isinstance(row, str) else cache.texts("key", [row])[0]
        for name, row in rows.items()
    }


def test_equal_file_names_in_other_folders_are_other_images(tmp_path: Path) -> None:
    # Numbers restart in each folder, and the cache is a part of the set.
    keys = ["n0/001.jpg", "n0/002.jpg", "n1/001.jpg"]
    assert found(tmp_path, keys, ["n1/002.jpg", "n1/001.jpg", "vgg/n1/002", "n2/n0/002.png"]) == {
        "n1/002.jpg": "missing",
        "n1/001.jpg": "n1/001.jpg",
        "vgg/n1/002": "missing",
        "n2/n0/002.png": "n0/002.jpg",
    }


@pytest.mark.parametrize("name", ["train/n0/7.jpg", "n0/7.jpg", "/data/val/n0/7.jpg"])
def test_other_folders_above_equal_ones_are_not_overlooked(tmp_path: Path, name: str) -> None:
    keys = ["val/n0/7.jpg", "val/n1/7.jpg"]
    expected = "missing" if name.startswith("train") else "val/n0/7.jpg"
    assert found(tmp_path, keys, [name]) == {name: expected}


def test_a_part_of_a_folder_name_is_no_part(tmp_path: Path) -> None:
    assert found(tmp_path, ["Ann/1.jpg"], ["Joann/1.jpg", "n/1.jpg"]) == {
        "Joann/1.jpg": "missing",
        "n/1.jpg": "missing",
    }


def test_names_of_two_images_never_share_a_row(tmp_path: Path) -> None:
    # A flat folder of one identity, and a list of several; photographs and their masked copies.
    keys = ["001.jpg", "b/2.jpg", "002.jpg"]
    names = ["n0/001.jpg", "n1/001.jpg", "x/b/2.jpg", "b/2.jpg", "b/2.png", "n0/002.jpg"]
    assert found(tmp_path, keys, names) == {
        "n0/001.jpg": "ambiguous",
        "n1/001.jpg": "ambiguous",
        "x/b/2.jpg": "ambiguous",
        "b/2.jpg": "b/2.jpg",
        "b/2.png": "ambiguous",
        "n0/002.jpg": "002.jpg",
    }


def test_unicode_forms_are_one_name(tmp_path: Path) -> None:
    composed = "Zoë/Zoë_0001.jpg"
    apart = unicodedata.normalize("NFD", composed)
    assert composed != apart
    names = [composed, apart, f"lfw/{composed}", "Zoe/Zoe_0001.jpg"]
    expected = {composed: apart, apart: apart, f"lfw/{composed}": apart, names[3]: "missing"}
    assert found(tmp_path, [apart], names) == expected


def test_two_keys_that_differ_by_their_form_alone_are_told_apart(tmp_path: Path) -> None:
    composed = "Zoë.jpg"
    apart = unicodedata.normalize("NFD", composed)
    assert found(tmp_path, [composed, apart], [composed, apart, "Zoë"]) == {
        composed: composed,
        apart: apart,
        "Zoë": "ambiguous",
    }


def test_a_backslash_in_a_file_name_stays_one(tmp_path: Path) -> None:
    keys = ["a\\1.jpg", "b/1.jpg"]
    assert found(tmp_path, keys, ["a\\1.jpg", "b\\1.jpg"]) == dict(
        zip(["a\\1.jpg", "b\\1.jpg"], keys, strict=True)
    )


def test_file_names_that_restart_in_each_folder_are_a_doubt(tmp_path: Path) -> None:
    cache = build_keys(tmp_path / "c", ["n0/img_1.jpg", "n0/img_2.jpg", "n1/img_1.jpg"])
    matches = match_names(cache, ["img_2.jpg", "n1/img_1"])
    assert (matches.loose, matches.doubtful) == (["img_2.jpg"], ["img_2.jpg"])
    flat = build_keys(tmp_path / "flat", ["1.jpg", "2.jpg"])
    assert match_names(flat, ["s1/1.jpg", "s2/1.jpg", "s1/2.jpg"]).doubtful == ["s1/2.jpg"]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["Ann/Ann_0001.jpg", "Bob/Bob_0001.jpg"], ["Ann/Ann_0001", "Bob/Bob_0001"]),
        (["Ann_0001.jpg", "Bob_0001.jpg"], ["Ann/Ann_0001", "Bob/Bob_0001"]),
        (["calfw/Ann_0001.jpg", "calfw/Bob_0001.jpg"], ["Ann_0001.jpg", "Bob_0001.jpg"]),
        (["n0/0001_01.jpg", "n1/0001_01.jpg"], ["test/n0/0001_01.jpg", "test/n1/0001_01.jpg"]),
        (["test/n0/1.jpg", "test/n1/1.jpg"], ["n0/1.jpg", "n1/1"]),
        (["2880/000001.jpg", "2937/000002.jpg"], ["000001.jpg", "000002.jpg"]),
    ],
)
def test_lists_as_the_field_has_them_are_no_doubt(
    tmp_path: Path, keys: list[str], names: list[str]
) -> None:
    assert found(tmp_path, keys, names) == dict(zip(names, keys, strict=True))
    cache = build_keys(tmp_path / "again", keys)
    assert match_names(cache, names).doubtful == []
