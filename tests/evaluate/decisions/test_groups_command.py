"""`evaluate groups` over a real run of verification."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.evaluate.builder import all_pairs, pairs_csv, small_cache, weights_file

from faceguide.cache.reader import FaceCache
from faceguide.evaluate.cli import main
from faceguide.evaluate.verification import load_scores


def evaluate(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cache/ of seven identities, and run/, all pairs of its faces."""
    place = tmp_path_factory.mktemp("groups")
    cache = small_cache(place / "cache")
    pairs_csv(place / "pairs.csv", all_pairs(cache))
    result = evaluate(
        *("verification", place / "cache", "--pairs", place / "pairs.csv", "--bootstrap", 0),
        *("--weights", weights_file(place / "net.pt"), "--device", "cpu", "--out", place / "run"),
    )
    assert result.exit_code == 0, result.output
    return place


def groups(place: Path, out: Path, *more: object) -> Result:
    return evaluate("groups", place / "run", "--out", out, "--bootstrap", 50, *more)


def test_groups_of_a_column_are_counted(place: Path, tmp_path: Path) -> None:
    result = groups(place, tmp_path, "--by", "split", "--fmr", 0.1, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert [group["group"] for group in record["groups"]] == ["s0", "s1", "s2"]
    assert [group["group"] for group in record["rest"]] == ["between groups"]
    assert record["all"]["fmr"]["rate"] <= 0.1
    assert record["all"]["fmr"]["errors"] >= 10
    table, cache = load_scores(place / "run"), FaceCache.open(place / "cache")
    of = [np.array(cache.texts("meta/split", table[side].tolist())) for side in
          ("probe", "reference")]  # fmt: skip
    accepted = table["score"] >= record["threshold"]
    for group in record["groups"]:
        within = (of[0] == group["group"]) & (of[1] == group["group"])
        for kind, of_kind, wrong in (
            ("fmr", ~table["same"], accepted),
            ("fnmr", table["same"], ~accepted),
        ):
            assert group[kind]["n"] == (within & of_kind).sum()
            assert group[kind]["errors"] == (within & of_kind & wrong).sum()
    for stem in ("groups", "tests"):
        assert (tmp_path / f"{stem}.tex").read_text().startswith(r"\begin{table}")
    lines = list(csv.reader((tmp_path / "groups.csv").open(encoding="utf-8")))
    assert [line[0] for line in lines[1:]] == ["s0", "s1", "s2", "between groups", "all pairs"]


def test_pose_and_occlusion_are_those_of_the_worse_face(place: Path, tmp_path: Path) -> None:
    cache, table = FaceCache.open(place / "cache"), load_scores(place / "run")
    for by in ("pose", "occlusion"):
        result = groups(place, tmp_path / by, "--by", by, "--score", 0.5)
        assert result.exit_code == 0, result.output
        assert "accepted from 0.5000 on\n" in result.stdout
    yaw = np.abs(cache.read(np.arange(len(cache)), ["pose"])["pose"][:, 0])
    worst = np.maximum(yaw[table["probe"]], yaw[table["reference"]])
    record = json.loads((tmp_path / "pose" / "groups.json").read_text())
    straight = record["groups"][0]
    assert straight["group"] == "0–15°"
    assert straight["fmr"]["n"] + straight["fnmr"]["n"] == (worst < 15).sum()
    assert record["fmr"] is None
    record = json.loads((tmp_path / "occlusion" / "groups.json").read_text())
    assert record["rest"][0]["group"] == "unknown"  # every second visibility is not known


def test_bad_input_is_one_line(place: Path, tmp_path: Path) -> None:
    for words, line in (
        (("--by", "race"), "no meta column 'race' to group by; there are split, pose, occlusion"),
        (("--by", "split", "--fmr", 1e-4), "needs 100,000 impostor pairs"),
        (("--by", "split", "--bootstrap", 0), "these tables need intervals"),
        (("--by", "split", "--score", "nan"), "not finite"),
    ):
        result = groups(place, tmp_path / "out", *words)
        assert result.exit_code in (1, 2)
        assert line in result.stderr
        assert not (tmp_path / "out").exists()
    result = evaluate("groups", place / "cache", "--by", "split", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "expected a run of `evaluate verification`" in result.stderr
