"""`evaluate decide` over two real runs of verification."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result
from tests.evaluate.builder import all_pairs, pairs_csv, small_cache, weights_file

from faceguide.evaluate.cli import main


def evaluate(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def verified(place: Path, out: str, weights: str, *more: object) -> Path:
    result = evaluate(
        *("verification", place / "cache", "--pairs", place / f"{out}.csv", "--bootstrap", 0),
        *("--weights", place / weights, "--device", "cpu", "--out", place / out, *more),
        *("--embeddings", place / f"faces-{weights}"),
    )
    assert result.exit_code == 0, result.output
    return place / out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dev/ and test/ by one network, other/ by another, plain/ without the mirror image."""
    place = tmp_path_factory.mktemp("decide")
    lines = all_pairs(small_cache(place / "cache"))
    for name, part in (("dev", 0), ("test", 1), ("other", 1), ("plain", 1)):
        pairs_csv(place / f"{name}.csv", [line for line in lines if line[0] == part])
    weights_file(place / "net.pt")
    weights_file(place / "second.pt", seed=3)
    verified(place, "dev", "net.pt")
    verified(place, "test", "net.pt")
    verified(place, "other", "second.pt")
    verified(place, "plain", "net.pt", "--no-flip")
    return place


def test_thresholds_go_from_one_run_to_the_other(place: Path, tmp_path: Path) -> None:
    words = ("decide", place / "dev", place / "test", "--out", tmp_path, "--bootstrap", 50)
    result = evaluate(*words, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["llr"] == "a line fitted on DEV"
    assert record["doubts"] == {"decided_identities": 7}
    assert "7 identities are in both lists" in result.stderr
    listed = json.loads((place / "dev" / "verification.json").read_text())
    by_rule = {rule["at"]: rule["threshold"] for rule in record["thresholds"]}
    for found in listed["thresholds"]:
        assert by_rule[found["at"].replace("FAR", "FMR")] == found["threshold"]
    assert record["sets"]["dev"]["eer"] == pytest.approx(listed["eer"])
    assert 0 < record["sets"]["test"]["min_cllr"] <= record["sets"]["test"]["cllr"]
    lines = list(csv.reader((tmp_path / "sets.csv").open(encoding="utf-8")))
    assert [line[:2] for line in lines[1:]] == [["DEV", "dev"], ["TEST", "test"]]
    assert cv2.imread(str(tmp_path / "det.png")) is not None
    assert (tmp_path / "det.pdf").read_bytes().startswith(b"%PDF")
    result = evaluate(*words)
    assert "threshold of DEV" in result.stdout
    kept = json.loads((tmp_path / "decisions.json").read_text())
    assert kept["thresholds"] == record["thresholds"]


def test_runs_of_different_means_are_refused(place: Path, tmp_path: Path) -> None:
    for other, line in (("other", "weights_sha256"), ("plain", "flip True, and False")):
        result = evaluate("decide", place / "dev", place / other, "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert "scored by different means" in result.stderr
        assert line in result.stderr
        assert not (tmp_path / "out").exists()
