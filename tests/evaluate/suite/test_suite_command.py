"""`evaluate suite`: figures equal those computed by hand, what is missing is said, runs resume."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.conftest import REPOSITORY
from tests.evaluate.builder import weights_file
from tests.evaluate.ijb.test_ijb import build_ijb
from tests.preprocess.public_sets.set_builder import (
    lfw,
    rfw,
    tinyface,
    verification_bin,
    write_text,
)

import faceguide as fg
from faceguide.evaluate.cli import main
from faceguide.evaluate.suite.published import PUBLISHED
from faceguide.preprocess.detect.finders.mediapipe_package import bundled_models
from faceguide.preprocess.public_sets.benchmarks import BENCHMARKS


def suite(*words: object) -> Result:
    return CliRunner().invoke(main, ["suite", *map(str, words)])


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LFW in its own tree, one group of RFW, TinyFace and a .bin, with the run over them."""
    root = tmp_path_factory.mktemp("suite")
    folder = root / "sets"
    lfw(folder / "lfw_home")
    rfw(folder / "rfw", ["Asian"])
    tinyface(folder / "tinyface")
    verification_bin(folder / "agedb_30.bin", people=3)
    (folder / "rfw/test/data/Asian/m.0a0/m.0a0_0001.jpg").unlink()
    weights = weights_file(root / "weights.pt")
    run = suite(
        folder,
        "--weights",
        weights,
        "--out",
        root / "run",
        "--bootstrap",
        20,
        "--jobs",
        1,
        "--json",
    )
    assert run.exit_code == 3, run.output
    (root / "printed.json").write_text(run.stdout)
    return root


def rows(sets: Path) -> dict[str, dict[str, Any]]:
    record = json.loads((sets / "run" / "suite.json").read_text())
    del record["self"]  # its digest
    assert record == json.loads((sets / "printed.json").read_text())
    return {row["set"]: row for row in record["rows"]}


def test_accuracy_is_that_of_thresholds_from_the_other_fold(sets: Path) -> None:
    row = rows(sets)["lfw"]
    scores = np.load(Path(row["run"]) / "scores.npz")
    with (sets / "run" / "lists" / "lfw" / "pairs.csv").open() as file:
        fold = np.array([int(line["fold"]) for line in csv.DictReader(file)])
    score, same = scores["score"], scores["same"]
    accuracies = []
    for tested in (0, 1):
        others, mine = fold != tested, fold == tested
        tried = np.append(score[others], np.inf)
        right = [((score[others] >= t) == same[others]).mean() for t in tried]
        best = [t for t, share in zip(tried, right, strict=True) if share == max(right)]
        assert len(best)
        accuracies.append({((score[mine] >= t) == same[mine]).mean() for t in best})
    possible = {(a + b) / 2 for a in accuracies[0] for b in accuracies[1]}
    assert any(np.isclose(row["figures"]["accuracy"], value) for value in possible)
    assert row["listed"] == row["used"] == len(score)
    genuine, impostor = score[same], score[~same]
    above = (genuine[:, None] > impostor).mean() + (genuine[:, None] == impostor).mean() / 2
    assert row["figures"]["AUC"] == pytest.approx(above)


def test_ranks_count_distractors(sets: Path) -> None:
    """CVLFace's rule at rank 1: the best of matches and distractors is of the probe's identity."""
    row = rows(sets)["tinyface"]
    network = fg.load(sets / "weights.pt")
    cache = fg.open(row["cache"])
    keys = cache.texts("key", range(len(cache)))
    faces = np.asarray(network.embed(cache[list(range(len(cache)))]))
    faces = dict(zip(keys, faces / np.linalg.norm(faces, axis=1, keepdims=True), strict=True))
    gallery = [key for key in keys if not key.startswith("Probe")]
    found = []
    for key in (key for key in keys if key.startswith("Probe")):
        best = max(gallery, key=lambda other: float(faces[key] @ faces[other]))
        person = key.split("/")[1].split("_")[0]
        found.append(best.split("/")[1].split("_")[0] == person and "Match" in best)
    assert len(found) == 8
    assert row["figures"]["rank 1"] == pytest.approx(np.mean(found))
    assert row["listed"] == 8 + 4 + 3


def test_missing_images_and_lists_are_counted_and_the_figure_is_marked(sets: Path) -> None:
    row = rows(sets)["rfw"]
    assert row["protocol"] == "Asian"
    assert row["left_out"] == {"count": 3, "reasons": {"missing": 3}}
    assert (row["listed"], row["used"], row["complete"]) == (12, 9, False)
    assert any(note.startswith("Caucasian: no ") for note in row["notes"])
    table = (sets / "run" / "suite.csv").read_text()
    assert "rfw*,Asian,12,9," in table
    assert "rfw*" in (sets / "run" / "suite.tex").read_text()


def test_bin_files_run_and_published_figures_stand_next_to_them(sets: Path) -> None:
    row = rows(sets)["agedb-30"]
    assert row["listed"] == row["used"] == 12
    assert row["intervals"]["AUC"]
    with (sets / "run" / "published.csv").open() as file:
        published = list(csv.DictReader(file))
    assert {"lfw", "agedb-30", "tinyface"} == {line["set"] for line in published}
    assert all(line["source"].startswith("github.com/") for line in published)


def test_a_finished_set_is_kept_and_other_settings_are_refused(sets: Path) -> None:
    files = [*(sets / "run" / "runs").rglob("scores.npz")]
    assert len(files) == 3
    before = [path.stat().st_mtime_ns for path in files]
    words = (sets / "sets", "--weights", sets / "weights.pt", "--out", sets / "run", "--jobs", 1)
    rerun = suite(*words, "--bootstrap", 20)
    assert rerun.exit_code == 3
    assert "agedb-30*" in rerun.stdout
    assert [path.stat().st_mtime_ns for path in files] == before
    other = suite(*words, "--bootstrap", 3)
    assert other.exit_code == 1
    assert "other settings" in str(other.exception) + other.stderr


def test_a_dry_run_names_what_is_absent(sets: Path) -> None:
    words = (sets / "sets", "--weights", sets / "weights.pt", "--out", sets / "none", "--dry-run")
    printed = suite(*words)
    assert printed.exit_code == 0
    assert "Asian: 12 pairs, 1 images absent: " in printed.stdout
    assert "its protocol: 7 gallery, 8 probes" in printed.stdout
    assert not (sets / "none").exists()
    found = json.loads(suite(*words, "--json").stdout)
    assert [one["set"] for one in found["sets"]] == ["agedb-30", "lfw", "rfw", "tinyface"]


def test_nothing_known_says_what_is_expected(tmp_path: Path) -> None:
    weights = weights_file(tmp_path / "weights.pt")
    (tmp_path / "sets").mkdir()
    words = (tmp_path / "sets", "--weights", weights, "--out", tmp_path / "run")
    nothing = suite(*words, "--only", "rfw")
    assert nothing.exit_code == 1
    assert f"RFW is expected as {BENCHMARKS['rfw'].tree}" in nothing.stderr
    wrong = suite(*words, "--only", "lfv")
    assert wrong.exit_code == 2
    assert "'lfv' is not one of lfw," in wrong.stderr


def test_the_list_says_all_of_each_benchmark() -> None:
    printed = suite("--list")
    assert printed.exit_code == 0
    for name, one in BENCHMARKS.items():
        assert f"{name}: {one.title}" in printed.stdout
        assert bool(one.tree) == one.supported
        assert one.ask
        assert one.protocol
    assert json.loads(suite("--list", "--json").stdout)["rfw"]["pairs"] == 6000
    page = (REPOSITORY / "docs" / "suite.md").read_text("utf-8").replace("\\", "")
    for name, one in BENCHMARKS.items():
        assert f"`{name}`" in page
        assert all(text in page for text in (one.tree, one.protocol, one.size, one.reader))
    assert {one.benchmark for one in PUBLISHED} <= set(BENCHMARKS)
    assert all(one.source for one in PUBLISHED)


def test_ijb_has_rows_of_pairs_and_galleries(tmp_path: Path) -> None:
    build_ijb(tmp_path / "sets" / "IJBC")
    weights = weights_file(tmp_path / "weights.pt")
    words = (tmp_path / "sets", "--weights", weights, "--out", tmp_path / "run", "--bootstrap", 9)
    done = suite(*words, "--no-flip", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["rows"]
    record = json.loads((tmp_path / "run" / "runs" / "ijb-c" / "ijb.json").read_text())
    assert found[0]["protocol"] == "1:1"
    assert found[0]["figures"]["TAR@1e-4"] == record["verification"]["tar"]["1e-4"]
    for row in found[1:]:
        gallery = record["identification"][row["protocol"].rpartition(" ")[2]]
        assert row["figures"]["rank 1"] == gallery["rank"]["1"]
        assert row["intervals"]["rank 1"] == gallery["intervals"]["rank 1"]
    assert len(found) == 1 + len(record["identification"])
    assert json.loads(suite(*words, "--no-flip", "--json").stdout)["rows"] == found


def test_photographs_are_aligned_and_those_without_a_face_counted(
    shared: Path, tmp_path: Path
) -> None:
    root = tmp_path / "sets" / "MFR2"
    listed = (shared / "data" / "mfr2_dev" / "pairs.csv").read_text().splitlines()[:9]
    for line in listed[1:]:
        for name, number in zip(line.split(",")[0:4:2], line.split(",")[1:4:2], strict=True):
            path = root / "images" / name / f"{name}_{int(number):04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(shared / "data" / "mfr2_dev" / path.relative_to(root), path)
    blank = root / "images" / "RoyCooper" / "RoyCooper_0003.png"
    cv2.imwrite(str(blank), np.full((200, 200, 3), 128, np.uint8))
    write_text(root / "pairs.csv", *listed)
    weights = shared / "data" / "weights" / "mobilefacenet.pt"
    model = shared / "data" / "mediapipe" / "face_landmarker.task"
    words = (tmp_path / "sets", "--weights", weights, "--out", tmp_path / "run", "--jobs", 1)
    done = suite(*words, "--bootstrap", 0, *(() if bundled_models() else ("--model", model)))
    assert done.exit_code == 3, done.output
    (row,) = json.loads((tmp_path / "run" / "suite.json").read_text())["rows"]
    assert row["left_out"] == {"count": 1, "reasons": {"no_face": 1}}
    assert "1 of 8 left out (1 no_face)" in done.stdout
    cache = fg.open(row["cache"])
    assert cache.groups["faces"]["recipe"]["align"] == "arcface"
    assert np.isfinite(cache[0]["pose"]).all() or cache[0]["status"]


@pytest.mark.slow
def test_lfw_with_the_real_network_gives_the_known_accuracy(shared: Path, tmp_path: Path) -> None:
    """The figures of docs/measured/verification.md for folds 0 and 1 of LFW."""
    weights = shared / "data" / "weights" / "mobilefacenet.pt"
    words = (shared / "data", "--weights", weights, "--only", "lfw", "--no-flip", "--bootstrap", 0)
    done = suite(*words, "--out", tmp_path / "run", "--jobs", 1, "--allow-failures")
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "run" / "suite.json").read_text())["rows"]
    assert row["figures"]["accuracy"] == pytest.approx(0.99333, abs=1e-5)
    assert row["figures"]["EER"] == pytest.approx(0.0067, abs=1e-4)
    assert row["notes"] == ["the list has 1,200 pairs, the published one 6,000"]
