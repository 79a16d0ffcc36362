"""What a training refuses or says before its first step, and what such a start leaves behind."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.cache.builder import build

import faceguide
from faceguide.cache.reader import FaceCache
from faceguide.core.files import read_json, write_json
from faceguide.train.cli import main
from faceguide.train.run.metrics_log import read_metrics

CAL = [
    *("cal", "--model", "cal_mobilefacenet", "--heads", "4", "--crop", "32", "--batch-size", "6"),
    *("--no-views", "--device", "cpu", "--threads", "1"),
]
OAML = [
    *("oaml", "--backbone", "mobilefacenet", "--batch-size", "6", "--images-per-person", "3"),
    *("--occlusion-batch", "2", "--device", "cpu", "--threads", "1", "--steps", "1"),
]


@pytest.fixture(scope="module")
def face_cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    """Of 112 pixels, as the face networks need them."""
    directory = tmp_path_factory.mktemp("faces") / "cache"
    build(directory, rows=24, shard_rows=16, occlusion=False, size=112)
    return FaceCache.open(directory)


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def refusal(*words: object, code: int = 1) -> str:
    """The line with which a command ends, once there is only that one."""
    result = call(*words)
    assert result.exit_code == code, result.output
    if code == 1:
        assert result.stderr.count("Error: ") == 1
        assert result.stderr.splitlines()[-1].startswith("Error: ")
    return result.stderr


def listing(path: Path, rows: Sequence[tuple[str, str, int]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "same"), *rows])
    return path


def by_person(cache: FaceCache, meta: dict[str, str] | None = None) -> dict[str, list[str]]:
    """Identity → keys of its usable rows."""
    rows = cache.select(labelled=True, meta=meta)
    found: dict[str, list[str]] = {}
    for key in cache.texts("key", rows):
        found.setdefault(key.split("/")[0], []).append(key)
    return found


def balanced(cache: FaceCache, people: Sequence[str] | None = None) -> list[tuple[str, str, int]]:
    faces = by_person(cache)
    names = sorted(people or faces)
    genuine = [(faces[name][0], faces[name][1], 1) for name in names]
    return genuine + [(faces[a][0], faces[b][0], 0) for a, b in itertools.pairwise(names)]


@pytest.mark.parametrize("trainer", ["cal", "oaml"])
@pytest.mark.parametrize("kind", ["elsewhere", "genuine only", "impostors only", "one kind left"])
def test_pairs_that_cannot_be_evaluated_are_refused_before_the_first_step(
    kind: str, trainer: str, small_cache: FaceCache, face_cache: FaceCache, tmp_path: Path
) -> None:
    cache, words = (small_cache, CAL) if trainer == "cal" else (face_cache, OAML)
    pairs = balanced(cache)
    rows, message = {
        "elsewhere": (
            [("X/1.jpg", "X/2.jpg", 1), ("X/1.jpg", "Y/2.jpg", 0)],
            "none of its 2 pairs has both images in "
            f"{cache.directory}; the first: X/1.jpg: missing; X/2.jpg: missing",
        ),
        "genuine only": (
            [pair for pair in pairs if pair[2]],
            f"expected pairs of one identity and of two, found {len(by_person(cache))} of one and "
            "0 of two that the cache has",
        ),
        "impostors only": ([pair for pair in pairs if not pair[2]], "found 0 of one and "),
        "one kind left": (
            [*pairs[:3], ("Y/1.jpg", pairs[0][0], 0)],
            "found 3 of one and 0 of two that the cache has; 1 of 4 pairs of "
            f"{tmp_path / 'pairs.csv'} are left out; the first: Y/1.jpg: missing",
        ),
    }[kind]
    path = listing(tmp_path / "pairs.csv", rows)
    line = refusal(*words, cache.directory, "--out", tmp_path / "run", "--pairs", path)
    assert f"Error: {path}: " in line
    assert message in line
    assert not (tmp_path / "run").exists()


def test_best_scores_of_two_lists_are_not_compared(small_cache: FaceCache, tmp_path: Path) -> None:
    rows = balanced(small_cache)
    pairs = listing(tmp_path / "pairs.csv", rows)
    words = [*CAL, small_cache.directory, "--out", tmp_path / "run", "--epochs", 1, "--pairs"]
    assert call(*words, pairs).exit_code == 0
    # Another name, another order of the columns: the same pairs.
    with (tmp_path / "same.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("same", "b", "a"), *[(s, b, a) for a, b, s in rows]])
    assert call(*words, tmp_path / "same.csv").exit_code == 0
    fewer = listing(tmp_path / "fewer.csv", rows[:-1])
    exchanged = listing(tmp_path / "exchanged.csv", [(a, b, 1 - s) for a, b, s in rows])
    build(tmp_path / "cache", rows=40, shard_rows=16, occlusion=False, size=40, seed=9)
    for other in (
        [fewer],
        [exchanged],
        [pairs, "--eval-cache", tmp_path / "cache"],
        [pairs, "--forwards", 2],
    ):
        line = refusal(*words, *other)
        assert "holds a run with other settings (" in line
        assert "choose another --out" in line
    assert "pairs " in refusal(*words[:-1])  # without any


def test_pairs_that_guide_are_among_what_a_run_is_made_of(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    rows = balanced(small_cache)
    words = [*CAL, small_cache.directory, "--out", tmp_path / "run", "--steps", 1]
    words += ["--guide", "contrastive", "--contrastive-pairs"]
    assert call(*words, listing(tmp_path / "one.csv", rows)).exit_code == 0
    line = refusal(*words, listing(tmp_path / "other.csv", rows[1:]))
    assert "holds a run with other settings (contrastive_pairs " in line


def test_identities_of_pairs_that_are_learnt_are_said(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    people = sorted(by_person(small_cache))
    pairs = listing(tmp_path / "pairs.csv", balanced(small_cache, people[2:5]))
    words = [*CAL, small_cache.directory, "--steps", 1, "--pairs", pairs, "--out"]
    result = call(*words, tmp_path / "leak")
    assert result.exit_code == 0, result.output
    warning = [line for line in result.stderr.splitlines() if "identities of --pairs" in line]
    assert len(warning) == 1
    assert warning[0].startswith("Warning: 3 identities of --pairs are learnt too")
    assert f"(the first: {people[2]})" in warning[0]
    assert read_json(tmp_path / "leak" / "run.json")["doubts"] == {"learnt_identities": 3}


def test_pairs_of_identities_that_are_not_learnt_raise_no_doubt(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    build(tmp_path / "others", rows=40, shard_rows=16, occlusion=False, size=40)
    names = tmp_path / "others" / "identities.txt"
    names.write_text(names.read_text().replace("person", "somebody"))
    others = FaceCache.open(tmp_path / "others")
    pairs = listing(tmp_path / "pairs.csv", balanced(others))
    result = call(
        *CAL, small_cache.directory, "--steps", 1, "--pairs", pairs, "--eval-cache",
        others.directory, "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "--pairs" not in result.stderr
    assert read_json(tmp_path / "run" / "run.json")["doubts"] == {}


def test_caches_of_two_sizes_are_named_in_one_line(
    face_cache: FaceCache, small_cache: FaceCache, tmp_path: Path
) -> None:
    build(tmp_path / "large", rows=24, shard_rows=16, occlusion=False, size=128)
    build(tmp_path / "veiled", rows=16, shard_rows=16, size=112, seed=5)
    build(tmp_path / "wide", rows=16, shard_rows=16, size=128, seed=5)
    large = FaceCache.open(tmp_path / "large")
    out = ["--out", tmp_path / "run"]
    line = refusal(*OAML, large.directory, "--niqab", tmp_path / "veiled", *out)
    assert f"CACHE {large.directory} has crops of 128 pixels" in line
    assert f"--niqab {tmp_path / 'veiled'} has crops of 112 pixels" in line
    assert "--size 112" in line
    line = refusal(*OAML, face_cache.directory, "--niqab", tmp_path / "wide", *out)
    assert f"--niqab {tmp_path / 'wide'} has crops of 128 pixels" in line
    pairs = listing(tmp_path / "pairs.csv", balanced(large))
    evaluated = ["--pairs", pairs, "--eval-cache", large.directory]
    line = refusal(*OAML, face_cache.directory, *evaluated, *out)
    assert f"--eval-cache {large.directory} has crops of 128 pixels" in line
    # CAL's networks take any size, and would look at another part of the face.
    line = refusal(*CAL, small_cache.directory, *evaluated, *out)
    assert f"CACHE {small_cache.directory} has crops of 40 pixels, --eval-cache" in line
    assert "of one size" in line
    assert not (tmp_path / "run").exists()


def test_each_list_of_twins_has_its_own_split(small_cache: FaceCache, tmp_path: Path) -> None:
    faces = by_person(small_cache)
    people = sorted(faces)
    (tmp_path / "id_to_images.json").write_text(json.dumps(faces))
    twins = tmp_path / "twins.json"
    splits = {"train": [people[:2]], "test": [people[2:4]]}
    twins.write_text(json.dumps(splits))
    words = [*CAL, small_cache.directory, "--steps", 1, "--guide", "contrastive", "--out"]
    lists = ["--pairs", twins, "--pairs-split", "test"]
    line = refusal(*words, tmp_path / "run", *lists[:2])  # there is no split val
    assert "--pairs-split, --fit-split or --contrastive-split, from " in line
    line = refusal(*words, tmp_path / "run", *lists, "--contrastive-split", "test",
                   "--contrastive-pairs", twins)  # fmt: skip
    assert "--allow-leak" in line
    assert "--allow-leak" in refusal(*words, tmp_path / "run", *lists[:3], "train")
    keys = {}
    for name, more in (("alone", []), ("same", ["--contrastive-pairs", twins])):
        result = call(*words, tmp_path / name, *lists, *more)
        assert result.exit_code == 0, result.output
        keys[name] = read_json(tmp_path / name / "run.json")
        assert keys[name]["doubts"] == {}
        learnt = (tmp_path / name / "identities.txt").read_text().split()
        assert sorted(learnt) == people[:2]
    assert keys["alone"]["fixed"] == keys["same"]["fixed"]
    more = ["--contrastive-pairs", twins, "--contrastive-split", "test", "--allow-leak"]
    result = call(*words, tmp_path / "leak", *lists, *more)
    assert result.exit_code == 0, result.output
    leak = read_json(tmp_path / "leak" / "run.json")
    assert leak["fixed"]["contrastive_pairs"] != keys["alone"]["fixed"]["contrastive_pairs"]
    assert leak["doubts"] == {"learnt_identities": 2}
    line = refusal(*CAL, small_cache.directory, "--out", tmp_path / "run", "--contrastive-split",
                   "train", code=2)  # fmt: skip
    assert "--contrastive-split belongs to --contrastive-pairs" in line


def test_pairs_that_guide_but_are_not_learnt_are_counted(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    inside = [keys for keys in by_person(small_cache, {"split": "s1"}).values() if len(keys) > 1]
    outside = [keys for keys in by_person(small_cache, {"split": "s2"}).values() if len(keys) > 1]
    words = [*CAL, small_cache.directory, "--steps", 1, "--meta", "split=s1", "--guide",
             "contrastive", "--out", tmp_path / "run", "--contrastive-pairs"]  # fmt: skip
    far = [(keys[0], keys[1], 1) for keys in outside]
    line = refusal(*words, listing(tmp_path / "far.csv", far))
    assert f"--contrastive-pairs: none of its {len(far)} pairs " in line
    near = [(keys[0], keys[1], 1) for keys in inside]
    result = call(*words, listing(tmp_path / "both.csv", near + far))
    assert result.exit_code == 0, result.output
    assert (
        f"Note: {len(far)} of {len(near + far)} pairs of --contrastive-pairs are" in result.stderr
    )


@pytest.mark.parametrize("option", ["--pairs", "--contrastive-pairs"])
@pytest.mark.parametrize("name", ["id_to_images.json", "images.json"])
def test_images_of_twins_in_place_of_pairs_name_the_right_file(
    name: str, option: str, small_cache: FaceCache, tmp_path: Path
) -> None:
    faces = by_person(small_cache)
    (tmp_path / name).write_text(json.dumps(faces))
    (tmp_path / "twin_pairs.json").write_text(json.dumps({"train": [sorted(faces)[:2]]}))
    (tmp_path / "notes.json").write_text('["something else"]')
    words = [*CAL, small_cache.directory, "--out", tmp_path / "run", "--guide", "contrastive"]
    line = refusal(*words, option, tmp_path / name)
    assert f"{tmp_path / name}: " in line
    assert line.endswith("give twin_pairs.json\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guide", "loss", "--guide", "loss=0.5"], "'--guide': loss is given more than once"),
        (["--guide", "prior", "--guide", "prior"], "'--guide': prior is given more than once"),
        (["--meta", "split=s1", "--meta", "split=s2"], "'--meta': split is given more than once"),
        (["--eval-cache", "."], "--eval-cache belongs to --pairs"),
    ],
)
def test_what_would_be_dropped_is_refused(
    words: list[str], message: str, small_cache: FaceCache, tmp_path: Path
) -> None:
    line = refusal(*CAL, small_cache.directory, "--out", tmp_path / "run", *words, code=2)
    assert message in line


@pytest.mark.parametrize(
    ("value", "there"), [("trian", "'s0', 's1', 's2'"), ("S1", "'s0', 's1', 's2'"), ("", "'s0'")]
)
def test_a_value_of_meta_that_no_row_has_lists_those_there(
    value: str, there: str, small_cache: FaceCache, face_cache: FaceCache, tmp_path: Path
) -> None:
    for words, cache in ((CAL, small_cache), (OAML, face_cache)):
        out = ["--out", tmp_path / "run", "--meta", f"split={value}"]
        line = refusal(*words, cache.directory, *out)
        assert f"no row has split={value}; " in line
        assert f" {there}" in line


def test_a_start_that_failed_leaves_no_claim(
    small_cache: FaceCache, face_cache: FaceCache, tmp_path: Path
) -> None:
    """Whatever failed, the corrected command begins in the same directory."""
    run = tmp_path / "run"
    words = [*CAL, small_cache.directory, "--out", run, "--steps", 2]
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 torn")
    refusal(*words, "--init", tmp_path / "broken.pt")
    refusal(*words, "--heads", 4, "--batch-size", 2, "--guide", "contrastive",
            "--contrastive-pairs", listing(tmp_path / "p.csv", balanced(small_cache)))  # fmt: skip
    assert not run.exists()
    refusal(*OAML, face_cache.directory, "--out", run, "--sampler", "pk", "--batch-size", 64)
    assert not run.exists()
    # One that failed in the first step, here for want of a finite loss, has saved nothing either.
    line = refusal(*words, "--lr", "1e38", "--weight-decay", "1e38")
    assert "is not finite" in line
    assert (run / "run.json").exists()
    result = call(*words, "--lr", "1e-4")
    assert result.exit_code == 0, result.output
    assert read_json(run / "run.json")["settings"]["rate"] == 1e-4
    assert [line["step"] for line in read_metrics(run)] == [2]
    # A run that has saved keeps its claim, also without the save to go on from.
    assert "other settings" in refusal(*words, "--lr", "1e-3")
    (run / "last.pt").unlink()
    assert "other settings" in refusal(*words, "--lr", "1e-3")
    assert "holds a run of 'train cal'" in refusal(*OAML, face_cache.directory, "--out", run)


def test_a_directory_of_another_command_is_left_alone(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    record = {"command": "verification", "settings": {}}
    write_json(tmp_path / "run.json", record)
    line = refusal(*CAL, small_cache.directory, "--out", tmp_path, "--steps", 1)
    assert "holds a run of 'verification'" in line
    assert read_json(tmp_path / "run.json")["command"] == "verification"


@pytest.mark.parametrize("way", ["below", "GIT_DIR"])
def test_the_commit_of_somebody_elses_repository_is_not_recorded(way: str, tmp_path: Path) -> None:
    """A copy of the program below their folder, and their GIT_DIR in the environment."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(theirs)]
    (theirs / "thesis.tex").write_text("…")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    place = theirs / "lib" if way == "below" else tmp_path / "lib"
    ours = place / "faceguide"
    ours.mkdir(parents=True)
    package = Path(faceguide.__file__).parent
    shutil.copy(package / "__init__.py", ours)
    for part in ("core",):
        shutil.copytree((package / part).resolve(), ours / part)
    code = "from faceguide.core.commands.run_directory import git_state; print(git_state())"
    environment = {**os.environ, "PYTHONPATH": str(place)}
    if way == "GIT_DIR":
        environment["GIT_DIR"] = str(theirs / ".git")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "None\n", done.stderr


@pytest.mark.parametrize("option", ["--pairs", "--contrastive-pairs"])
def test_what_is_doubtful_about_a_list_is_said_before_the_first_step(
    option: str, small_cache: FaceCache, tmp_path: Path
) -> None:
    rows = balanced(small_cache)
    wrong = [(rows[0][0], rows[0][1], 0), (rows[1][0], rows[1][0], 1), rows[2]]
    words = [*CAL, small_cache.directory, "--steps", 1, "--out", tmp_path / "run"]
    words += ["--guide", "contrastive"] if option == "--contrastive-pairs" else []
    result = call(*words, option, listing(tmp_path / "pairs.csv", [*rows, *wrong]))
    assert result.exit_code == 0, result.output
    said, _, steps = result.stderr.partition("starting: ")
    assert steps
    assert "Warning: 1 pair " in said
    found = read_json(tmp_path / "run" / "run.json")["doubts"]
    found.pop("learnt_identities", None)
    assert found == {"contradict_labels": 1, "self_pairs": 1, "repeated_pairs": 2}
