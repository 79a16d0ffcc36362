"""`prep plan`, parts, `--prepare`, and what `prep submit` would submit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bench.demo.photos import write_demo_photos
from click.testing import CliRunner
from tests.prep_command import prep
from tests.sbatch import tasks

from faceguide.cache.cli import main as cache_main
from faceguide.preprocess.cli import main


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_demo_photos(folder, identities=2, images=4)
    return folder


def names(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}


def test_a_plan_makes_no_shard_and_is_the_one_that_landmarks_would_make(
    photos: Path, tmp_path: Path
) -> None:
    source, options = photos / "photos", ["--shard-rows", 3, "--limit", 7, "--seed", 4]
    result = prep("plan", source, "--out", tmp_path / "planned", *options, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"rows": 7, "shards": 3, "identities": 2, "doubts": {}}
    planned = names(tmp_path / "planned")
    assert not [name for name in planned if name.startswith(("faces", "guidance"))]
    done = ["--out", tmp_path / "made", *options, "--jobs", 1, "--allow-failures"]
    assert prep("landmarks", source, *done).exit_code == 0
    for name in planned:
        assert (tmp_path / "planned" / name).read_bytes() == (tmp_path / "made" / name).read_bytes()


def test_the_array_variables_of_slurm_name_the_part(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        "landmarks", photos / "photos", "--out", tmp_path / "cache", "--shard-rows", 2, "--jobs", 1,
        "--allow-failures",
    ]  # fmt: skip
    for name, value in {"ID": 12, "MIN": 10, "MAX": 12, "STEP": 2, "COUNT": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    result = prep(*command)
    assert result.exit_code == 0
    assert "Part 1/2 of this Slurm array" in result.stderr
    made = {name for name in names(tmp_path / "cache") if name.startswith("faces")}
    assert made == {f"faces-0000{shard}.{end}" for shard in (1, 3) for end in ("h5", "json")}

    missing = CliRunner().invoke(cache_main, ["seal", str(tmp_path / "cache"), "--parts", "2"])
    assert missing.exit_code == 1
    assert "1 of 2 parts are not finished" in missing.stderr
    assert "prep submit with --parts 2 --indices 0" in missing.stderr

    assert prep(*command, "--part", "0/1").exit_code == 0  # the option wins over the variables
    sealed = CliRunner().invoke(
        cache_main, ["seal", str(tmp_path / "cache"), "--parts", "4", "--group", "guidance"]
    )
    assert sealed.stdout == "guidance: 8 rows in 4 shards\n"
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "1")
    assert "this Slurm array is sparse" in prep(*command).stderr


def test_a_part_does_not_start_over(photos: Path, tmp_path: Path) -> None:
    result = prep(
        "landmarks", photos / "photos", "--out", tmp_path / "cache", "--overwrite", "--part", "0/2"
    )
    assert result.exit_code == 2
    assert "run `prep plan … --overwrite` once" in result.stderr
    assert not (tmp_path / "cache").exists()


def test_prepare_settles_what_parts_share_and_no_more(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    made = ["--out", cache, "--jobs", 1, "--allow-failures"]
    assert prep("landmarks", photos / "photos", *made).exit_code == 0
    before = names(cache)
    masks = ["masks", photos / "masks", "--cache", cache, "--polarity", "visible", "--jobs", 1]
    assert prep(*masks, "--prepare").exit_code == 0
    assert names(cache) - before == {"recipe-occlusion.json", "shared-stems.json"}
    assert prep(*masks).exit_code == 0
    again = ["guidance", "--cache", cache, "--grid", 14, "--jobs", 1]
    shard = (cache / "guidance-00000.h5").read_bytes()
    assert prep(*again, "--prepare").exit_code == 0
    assert not (cache / "manifest-guidance.json").exists()
    assert (cache / "guidance-00000.h5").read_bytes() == shard
    assert prep(*again).exit_code in (0, 3)
    assert (cache / "guidance-00000.h5").read_bytes() != shard


def test_the_submitted_commands_are_what_was_typed(photos: Path, tmp_path: Path) -> None:
    source, cache = photos / "photos", tmp_path / "a cache"
    result = prep(
        "submit", "landmarks", source, "--out", cache, "--seed=-3", "--flat", "--overwrite",
        "--parts", 3, "--cpus", 2, "--array-parallelism", 2, "--print",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    typed, out = [str(source), "--flat", "--seed=-3"], f"--out={cache}"
    part = ["prep", "landmarks", "--jobs=2", "--allow-failures", *typed, out]
    assert tasks(result.stdout) == [
        ["prep", "plan", *typed, "--overwrite", out],
        *([*part, f"--part={i}/3"] for i in range(3)),
        ["cache", "seal", "--group=faces", "--group=guidance", "--parts=3", str(cache)],
    ]
    assert "#SBATCH --array=0-2%2" in result.stdout
    assert f"{cache}-jobs" in result.stdout
    assert not cache.exists()
    for line in tasks(result.stdout)[:4]:  # they are understood as they stand
        shown = CliRunner().invoke(main, [*line[1:], "--help"])
        assert shown.exit_code == 0


def test_only_some_indices_and_typed_values(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos / "masks", tmp_path / "masks")
    (tmp_path / "cache").mkdir()
    command = [
        "submit", "masks", "masks", "--cache", "cache", "--polarity", "visible", "--class",
        "0,128,0", "--class", 3, "--clean", ".", "--parts", 64, "--print",
    ]  # fmt: skip
    result = prep(*command, "--indices", "63,3-4")
    masks = [
        f"{tmp_path}/masks", f"--cache={tmp_path}/cache", "--polarity=visible", "--class=0,128,0",
        "--class=3", "--clean=.",
    ]  # fmt: skip
    assert tasks(result.stdout)[0] == ["prep", "masks", "--prepare", *masks]
    assert [line[-1] for line in tasks(result.stdout)[1:-1]] == [
        "--part=63/64", "--part=3/64", "--part=4/64",
    ]  # fmt: skip
    assert tasks(result.stdout)[1][-len(masks) - 1 : -1] == masks
    for wrong, message in (
        (["--indices", "64"], "64 is not among 0 to 63"),
        (["--indices", "1", "--overwrite"], "--overwrite starts over"),
        (["--indices", "1;2"], "expected numbers of parts"),
    ):
        refused = prep(*command, *wrong)
        assert refused.exit_code == 2
        assert message in refused.stderr
