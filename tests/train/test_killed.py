"""A run that is killed again and again ends at the weights of one that was left alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from faceguide.cache.reader import FaceCache
from faceguide.train.cli import main

STEPS = 12


def command(cache: FaceCache, out: Path) -> list[str]:
    words = [
        *(sys.executable, "-m", "faceguide", "train", "cal", cache.directory, "--out", out),
        *("--model", "cal_mobilefacenet", "--heads", 8, "--crop", 32, "--batch-size", 6),
        *("--lr", 2e-4, "--epochs", 9, "--steps", STEPS, "--log-every", 1, "--save-every", 2),
        *("--guide", "regions", "--guide", "prior", "--device", "cpu"),
    ]
    return [str(word) for word in words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.mark.slow
def test_sigkill_at_random_steps(small_cache: FaceCache, tmp_path: Path) -> None:
    words = command(small_cache, tmp_path / "whole")[4:]
    assert CliRunner().invoke(main, words).exit_code == 0
    pieces = tmp_path / "pieces"
    rng = random.Random(0)
    kills = 0
    for goal in (2, 6):
        process = subprocess.Popen(
            command(small_cache, pieces), env=environment(), stderr=subprocess.DEVNULL
        )
        metrics = pieces / "metrics.jsonl"
        while process.poll() is None:
            lines = metrics.read_text().count('"train"') if metrics.exists() else 0
            if lines >= goal:
                time.sleep(rng.uniform(0, 0.2))
                process.kill()
                break
            time.sleep(0.02)
        kills += process.wait() == -9
    assert kills  # else the machine was so fast that nothing was tested
    end = CliRunner().invoke(main, command(small_cache, pieces)[4:])
    assert end.exit_code == 0, end.output
    assert "resuming" in end.stderr
    one, two = (
        torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "pieces")
    )
    assert one["step"] == two["step"] == STEPS
    for name, tensor in one["module"].items():
        assert torch.equal(tensor, two["module"][name]), name
    for index, slot in one["optimiser"]["state"].items():
        mine = two["optimiser"]["state"][index]["momentum_buffer"]
        assert torch.equal(slot["momentum_buffer"], mine)


@pytest.mark.slow
def test_sigterm_saves_and_exits_4(small_cache: FaceCache, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(small_cache, tmp_path / "run"), env=environment(), stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 4, said
    assert "Run the same command again to go on" in said
    step = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"]
    assert 1 <= step < STEPS
