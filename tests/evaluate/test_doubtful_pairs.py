"""Lists of pairs that are wrong without being unreadable: said, named, counted, exit code 3."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.cache.builder import build_keys, key
from tests.evaluate.builder import pairs_csv, small_cache, usable_pairs, weights_file

from faceguide.evaluate.cli import main

LINES = usable_pairs()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cache/, weights.pt, and faces/ with its embeddings."""
    folder = tmp_path_factory.mktemp("doubtful")
    small_cache(folder / "cache")
    weights_file(folder / "weights.pt")
    return folder


def run(folder: Path, lines: list[tuple[int, str, str, int]], out: Path, *more: str) -> Result:
    arguments = [
        *("verification", str(folder / "cache"), "--backbone", "mobilefacenet"),
        *("--weights", str(folder / "weights.pt"), "--embeddings", str(folder / "faces")),
        *("--pairs", str(pairs_csv(out.with_suffix(".csv"), lines)), "--out", str(out)),
    ]
    return CliRunner().invoke(main, [*arguments, "--bootstrap", "0", "--json", *more])


def named(out: Path) -> list[tuple[str, str]]:
    with (out / "doubtful.csv").open(encoding="utf-8") as file:
        return [(row["number"], row["reason"]) for row in csv.DictReader(file)]


def changed(place: int) -> list[tuple[int, str, str, int]]:
    fold, a, b, same = LINES[place]
    return [*LINES[:place], (fold, a, b, 1 - same), *LINES[place + 1 :]]


def test_a_sound_list_has_no_doubts_and_not_a_line_more(place: Path, tmp_path: Path) -> None:
    result = run(place, LINES, tmp_path / "sound")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["doubts"], record["loose_names"], record["pairs"]) == ({}, 0, 60)
    assert "Warning" not in result.stderr
    assert "doubtful.csv" not in result.stderr
    assert not (tmp_path / "sound" / "doubtful.csv").exists()


def test_pairs_against_the_labels_end_with_3(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "against"
    result = run(place, changed(4), out)
    assert result.exit_code == 3
    record = json.loads(result.stdout)
    assert record["doubts"] == {"contradict_labels": 1}
    assert record["pairs"] == 60
    assert "Warning: 1 pair " in result.stderr
    assert "More than 1 % of the 60 pairs" in result.stderr
    assert named(out) == [("4", "contradict_labels")]
    assert run(place, changed(4), out, "--allow-failures").exit_code == 0
    # The doubt is over when the list is mended.
    assert run(place, LINES, out, "--overwrite").exit_code == 0
    assert not (out / "doubtful.csv").exists()


def test_doubts_short_of_contradictions_end_with_0(place: Path, tmp_path: Path) -> None:
    fold, a, b, same = LINES[7]
    lines = [*LINES, (fold, a, a, 1), (fold, b, a, same), LINES[1]]
    result = run(place, lines, tmp_path / "again")
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert record["doubts"] == {"self_pairs": 1, "repeated_pairs": 2}
    assert record["pairs"] == 63
    assert named(tmp_path / "again") == [
        ("60", "self_pairs"),
        ("61", "repeated_pairs"),
        ("62", "repeated_pairs"),
    ]


def test_a_list_listed_ten_times_is_no_further_evidence(place: Path, tmp_path: Path) -> None:
    result = run(place, LINES * 10, tmp_path / "ten")
    record = json.loads(result.stdout)
    assert record["doubts"] == {"repeated_pairs": 540}
    (cell,) = (cell for cell in record["tar_cells"] if cell["far"] == 0.1)
    assert cell["tar"] is None
    assert "100 impostor pairs, found 30" in cell["refused"]


def test_exchanged_and_shifted_labels_are_told(place: Path, tmp_path: Path) -> None:
    exchanged = [(fold, a, b, 1 - same) for fold, a, b, same in LINES]
    result = run(place, exchanged, tmp_path / "exchanged")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["doubts"]["inverted_labels"] == 60
    assert "only when 0 and 1 are exchanged" in result.stderr
    blocks = sorted(LINES, key=lambda line: (line[0], -line[3]))
    shifted = [(*one[:3], before[3]) for before, one in pairwise(blocks)]
    result = run(place, shifted, tmp_path / "shifted")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["doubts"]["shifted_labels"] == 3


def test_images_of_other_folders_are_absent_and_named(tmp_path: Path) -> None:
    """The official list over a part of the set, whose images are numbered in each folder."""
    keys = [f"n{n}/{k:03d}.jpg" for n in range(4) for k in range(1, 4) if k == 1 or n == 0]
    build_keys(tmp_path / "cache", keys, size=112)
    weights_file(tmp_path / "weights.pt")
    lines = [(0, f"n{n}/001.jpg", f"n{n}/002.jpg", 1) for n in range(4)]
    lines += [(0, f"n{n}/001.jpg", f"n{(n + 1) % 4}/003.jpg", 0) for n in range(4)]
    result = run(tmp_path, lines, tmp_path / "out")
    assert result.exit_code == 3
    record = json.loads(result.stdout)
    assert (record["listed"], record["pairs"]) == (8, 2)
    assert record["left_out"] == {"count": 6, "reasons": {"missing": 6}}
    assert record["doubts"] == {"absent_images": 6}
    assert "the first" not in result.stderr
    text = (tmp_path / "out" / "left_out.csv").read_text()
    assert "n1/002.jpg: missing" in text


def test_too_few_images_for_both_kinds_name_the_absent_ones(place: Path, tmp_path: Path) -> None:
    lines = [LINES[0], *((0, key(n), f"twins/{n}.jpg", 0) for n in range(1, 6))]
    result = run(place, lines, tmp_path / "few")
    assert result.exit_code == 1
    assert "6 pairs 1 of one and 0 of two" in result.stderr
    assert "twins/1.jpg, twins/2.jpg, twins/3.jpg …" in result.stderr
    assert "keys look like person_0" in result.stderr
    assert not (tmp_path / "few").exists()


def test_scores_the_wrong_way_round_are_doubted_without_labels(tmp_path: Path) -> None:
    """No label contradicts a flat folder's list, but no network is so wrong by itself."""
    numbers = [n for n in range(101, 190) if n % 10]
    keys = [f"{n}.jpg" for n in numbers] + [f"copy_{n}.jpg" for n in numbers]
    build_keys(tmp_path / "cache", keys, lambda name: "", size=112)
    weights_file(tmp_path / "weights.pt")
    lines = [(0, f"{n}.jpg", f"copy_{n}.jpg", 0) for n in numbers[:40]]
    lines += [(0, f"{n}.jpg", f"copy_{n + 1}.jpg", 1) for n in numbers[:40] if (n + 1) % 10]
    result = run(tmp_path, lines, tmp_path / "out")
    found = json.loads(result.stdout)["doubts"]
    assert found["ranked_backwards"] == len(lines)
    assert found["equal_images"] == 40
    assert "are 0 and 1 exchanged?" in result.stderr


def test_the_report_says_them(place: Path, tmp_path: Path) -> None:
    run(place, changed(4), tmp_path / "a")
    page = tmp_path / "report.html"
    result = CliRunner().invoke(main, ["report", str(tmp_path / "a"), "--out", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert "a/doubtful.csv" in text


def test_parts_and_their_merge_write_the_same(place: Path, tmp_path: Path) -> None:
    lines = [*changed(4), LINES[0], (0, "no/body.jpg", key(1), 0)]
    out = tmp_path / "out"
    assert run(place, lines, out).exit_code == 3
    names = ("verification.json", "doubtful.csv", "left_out.csv")
    expected = {name: (out / name).read_bytes() for name in names}
    for name in names:
        (out / name).unlink()
    merged = CliRunner().invoke(main, ["merge", str(out), "--json"])
    assert merged.exit_code == 3
    assert json.loads(merged.stdout)["doubts"] == {
        "contradict_labels": 1,
        "repeated_pairs": 1,
        "absent_images": 1,
    }
    assert {name: (out / name).read_bytes() for name in names} == expected
