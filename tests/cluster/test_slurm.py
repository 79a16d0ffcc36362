"""`prep submit` and plain arrays on a real Slurm: killed, preempted and missing parts."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cluster.prep import PREP, prep
from tests.cluster.private_slurm import Slurm
from tests.contents import contents

pytestmark = pytest.mark.timeout(300)


def submit(slurm: Slurm, *arguments: object) -> dict[str, str]:
    """`prep submit …`: the numbers of the three jobs."""
    printed = slurm(*PREP, "submit", *map(str, arguments), "--cpus", "1", "--json")
    jobs: dict[str, str] = json.loads(printed)
    return jobs


def many(photos: Path, folder: Path) -> Path:
    """Each photograph twenty times: a part must last longer than it takes to kill it."""
    for path in photos.glob("photos/*/*.jpg"):
        person = folder / path.parent.name
        person.mkdir(parents=True, exist_ok=True)
        for copy in range(20):
            shutil.copy(path, person / f"{path.stem}-{copy}.jpg")
    return folder


def test_killed_preempted_and_missing_parts_end_in_the_same_bytes(
    slurm: Slurm, photos: Path, tmp_path: Path
) -> None:
    cache, undisturbed = tmp_path / "cache", tmp_path / "undisturbed"
    options = ["landmarks", many(photos, tmp_path / "photos"), "--shard-rows", 120]
    assert prep(*options, "--out", undisturbed, "--allow-failures").returncode == 0
    command = [*options, "--out", cache, "--parts", 4, "--time", 20]

    first = submit(slurm, *command, "--indices", "0,2")
    slurm.wait(lambda: slurm.states(first["seal"]) == {first["seal"]: "FAILED"}, "the seal", 90)
    assert set(slurm.states(first["parts"]).values()) == {"COMPLETED"}
    assert "ExitCode=1:0" in slurm("scontrol", "show", "job", first["seal"])
    (log,) = tmp_path.glob(f"cache-jobs/*-{first['seal']}.log")
    assert "2 of 4 parts are not finished" in log.read_text()
    assert "--parts 4 --indices 1,3" in log.read_text()

    second = submit(slurm, *command, "--indices", "1,3")
    killed, preempted = (f"{second['parts']}_{task}" for task in (1, 3))
    waiting = {
        1: (killed, ["--signal=KILL"]),
        3: (preempted, ["--batch", "--signal=USR1"]),
    }  # by the first shard of each part
    deadline = time.monotonic() + 90
    while waiting and time.monotonic() < deadline:
        for shard, (task, how) in list(waiting.items()):
            if list(cache.glob(f".faces-{shard:05d}.h5.*")):  # in the midst of this shard
                slurm("scancel", *how, task)
                del waiting[shard]
        time.sleep(0.02)
    assert not waiting
    slurm.wait(lambda: slurm.states(killed)[killed] == "CANCELLED", "the kill")
    assert len(list(cache.glob("faces-*.json"))) < 8
    slurm("scontrol", "requeue", killed)

    ended = {second["seal"]: "COMPLETED"}
    slurm.wait(lambda: slurm.states(second["seal"]) == ended, "the end", 120)
    for task in (killed, preempted):
        assert "Restarts=1" in slurm("scontrol", "show", "job", task)
    (log,) = tmp_path.glob(f"cache-jobs/*-{preempted}.log")
    assert "Interrupted; what is finished is kept" in log.read_text()
    assert set(slurm.states(second["parts"]).values()) == {"COMPLETED"}
    (log,) = tmp_path.glob(f"cache-jobs/*-{second['seal']}.log")
    assert "faces: 960 rows in 8 shards" in log.read_text()
    subprocess.run(
        [sys.executable, "-m", "faceguide", "cache", "seal", str(cache), "--clean"], check=True
    )
    assert contents(cache) == contents(undisturbed)


def test_a_plan_that_fails_ends_the_array_and_the_seal(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    cache = tmp_path / "cache"
    jobs = submit(slurm, "landmarks", tmp_path / "photos", "--out", cache, "--parts", 2)
    slurm.wait(lambda: slurm.states(jobs["seal"]) == {jobs["seal"]: "FAILED"}, "the end")
    assert slurm.states(jobs["prepare"]) == {jobs["prepare"]: "FAILED"}
    assert set(slurm.states(jobs["parts"]).values()) == {"CANCELLED"}
    (log,) = tmp_path.glob(f"cache-jobs/*-{jobs['prepare']}.log")
    assert "no images found" in log.read_text()
    (log,) = tmp_path.glob(f"cache-jobs/*-{jobs['seal']}.log")
    assert "no cache here (no plan.json)" in log.read_text()


def test_slurms_own_refusal_is_one_line(slurm: Slurm, photos: Path, tmp_path: Path) -> None:
    command = [
        *PREP, "submit", "landmarks", str(photos / "photos"), "--out", str(tmp_path / "cache"),
        "--partition", "nowhere",
    ]  # fmt: skip
    done = subprocess.run(command, env=slurm.environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        "Slurm refused the job prep-landmarks-prepare: invalid partition specified: nowhere"
        in done.stderr
    )
    assert done.stderr.count("\n") == 1


def test_a_plain_array_needs_no_part(slurm: Slurm, photos: Path, undisturbed: Path) -> None:
    masks = [
        "masks", str(photos / "masks"), "--polarity", "visible", "--jobs", "1", "--cache",
    ]  # fmt: skip
    alone, array = photos / "alone", photos / "array"
    for cache in (alone, array):
        shutil.copytree(undisturbed, cache)
    assert prep(*masks, alone).returncode == 0

    wrapped = shlex.join([*PREP, *masks, str(array)])
    job = slurm(
        "sbatch", "--parsable", "--array=10-12:2", f"--output={array}-%a.log", "--wrap", wrapped
    ).strip()
    refused = slurm(
        "sbatch", "--parsable", "--array=1,3", f"--output={array}-%a.log", "--wrap", wrapped
    ).strip()
    slurm.wait(lambda: set(slurm.states(job).values()) == {"COMPLETED"}, "the array")
    assert contents(array) == contents(alone)
    slurm.wait(lambda: set(slurm.states(refused).values()) == {"FAILED"}, "the sparse array")
    assert "sparse" in Path(f"{array}-3.log").read_text()
