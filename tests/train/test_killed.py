"""A run that is killed again and again ends at the weights of one that was left alone.

Real processes, really killed. A fork server that has loaded torch starts them, so that a start
costs no more than the run itself.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tests.train.processes import FORKS

from faceguide.cache.reader import FaceCache
from faceguide.train.cli import main

STEPS = 12  # over an end of an epoch
KILLS = 3
LIMIT = 60.0  # seconds that a process may take to come to its step

WAYS = {
    "plain": [],
    "guided": [
        *("--guide", "regions", "--guide", "prior", "--guide", "counterfactual"),
        *("--guide", "contrastive"),
    ],
}


def words(cache: FaceCache, out: Path, way: str, pairs: Path) -> list[str]:
    given = [
        *("cal", cache.directory, "--out", out, "--model", "cal_mobilefacenet", "--heads", 8),
        *("--crop", 32, "--batch-size", 6, "--lr", 2e-4, "--epochs", 9, "--steps", STEPS),
        *("--log-every", 1, "--save-every", 3, "--pairs", pairs, "--device", "cpu", *WAYS[way]),
    ]
    if way == "guided":
        given += ["--contrastive-pairs", pairs]
    return [str(word) for word in given]


def child(given: list[str], said: Path) -> None:
    """One process of training."""
    torch.set_num_threads(1)
    with said.open("w") as file:
        os.dup2(file.fileno(), 2)
    main(given)


def started(given: list[str], said: Path) -> BaseProcess:
    process = FORKS.Process(target=child, args=(given, said))
    process.start()
    return process


def wait_for(condition: Callable[[], bool], process: BaseProcess) -> None:
    """Until the condition holds or the process has ended."""
    end = time.monotonic() + LIMIT
    while not condition() and process.is_alive():
        assert time.monotonic() < end, f"nothing happened in {LIMIT} s"
        time.sleep(0.005)


def lines(run: Path, kind: str = "train") -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count(f'"{kind}"') if metrics.exists() else 0


@pytest.mark.parametrize("way", WAYS)
def test_sigkill_at_random_steps(
    way: str, small_cache: FaceCache, pairs_file: Path, tmp_path: Path
) -> None:
    """Killed at random moments of random steps, in the midst of saves and evaluations too."""
    began = time.monotonic()
    result = CliRunner().invoke(main, words(small_cache, tmp_path / "whole", way, pairs_file))
    assert result.exit_code == 0, result.output
    per_step = (time.monotonic() - began) / STEPS
    pieces, rng = tmp_path / "pieces", random.Random(way)
    given = words(small_cache, pieces, way, pairs_file)
    for goal in sorted(rng.sample(range(1, STEPS - 1), KILLS)):
        process = started(given, tmp_path / "stderr")
        wait_for(lambda goal=goal: lines(pieces) >= goal, process)  # type: ignore[misc]
        time.sleep(rng.uniform(0, per_step))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "stderr").read_text()
    end = CliRunner().invoke(main, given)
    assert end.exit_code == 0, end.output
    assert "resuming" in end.stderr
    assert lines(pieces) == lines(tmp_path / "whole") == STEPS
    assert lines(pieces, "evaluation") == lines(tmp_path / "whole", "evaluation")
    for name in ("last.pt", "best.pt"):
        one, two = (
            torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "pieces")
        )
        assert one["step"] == two["step"]
        assert one["module"].keys() == two["module"].keys()
        for key, tensor in one["module"].items():
            assert torch.equal(tensor, two["module"][key]), f"{name}: {key}"
        for index, slot in one["optimiser"]["state"].items():
            mine = two["optimiser"]["state"][index]["momentum_buffer"]
            assert torch.equal(slot["momentum_buffer"], mine)


def test_sigterm_saves_and_exits_4(
    small_cache: FaceCache, pairs_file: Path, tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "stderr"
    process = started(words(small_cache, run, "plain", pairs_file), said)
    wait_for(lambda: lines(run) >= 1, process)
    process.terminate()
    process.join(LIMIT)
    assert process.exitcode == 4, said.read_text()
    assert "Rerun the same command to resume" in said.read_text()
    step = torch.load(run / "last.pt", weights_only=True)["step"]
    assert 1 <= step < STEPS
