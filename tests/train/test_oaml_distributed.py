"""Two processes of `train oaml` and what one process learns, as far as the method makes them equal.

Recognition, occlusion loss and AdaFace's moving statistics take the batches of all processes
together. QAConv compares the images of one process with each other, and BatchNorm of the heads
looks at one process's batch, so two processes learn what one learns that accumulates two batches.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from tests.cache.builder import build
from tests.train.oaml_scenario import tiny_run
from torch import multiprocessing

from faceguide.cache.reader import FaceCache
from faceguide.train.distributed import Processes, joined
from faceguide.train.job import LoopSettings
from faceguide.train.oaml import OamlSettings, OamlWeights
from faceguide.train.oaml_request import OamlRun
from faceguide.train.oaml_run import run_oaml

STEPS = 3
# AdaFace's statistics would move twice where batches are accumulated.
WHOLE = tiny_run(OamlSettings(freeze_norm=True), head="arcface", hold_out=0.0)
RECOGNITION = tiny_run(
    OamlSettings(weights=OamlWeights(1.0, 0.0, 0.0, 0.0), freeze_norm=True), hold_out=0.0
)


def train(folder: Path, name: str, run: OamlRun, processes: Processes, accumulate: int = 1) -> None:
    run_oaml(
        FaceCache.open(folder / "faces"),
        folder / name,
        run,
        LoopSettings(epochs=9, steps=STEPS, log_every=1, accumulate=accumulate),
        device=torch.device("cpu"),
        processes=processes,
        second=FaceCache.open(folder / "veiled"),
    )


def work(rank: int, folder: Path, port: int) -> None:
    """One of two processes: both runs."""
    torch.set_num_threads(1)
    processes = Processes(rank, 2, rank, "127.0.0.1", port)
    with joined(processes, torch.device("cpu")):
        train(folder, "two-whole", WHOLE, processes)
        train(folder, "two-recognition", RECOGNITION, processes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    build(folder / "faces", rows=40, shard_rows=16, occlusion=False, size=112)
    build(folder / "veiled", rows=20, shard_rows=16, size=112, seed=5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (folder, port), nprocs=2)
    return folder


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    saved = torch.load(folder / name / "last.pt", weights_only=True)
    assert saved["step"] == STEPS
    return saved["module"]


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates_two_batches(runs: Path) -> None:
    """All losses; two batches of one process are those that the two processes had."""
    train(runs, "one-whole", WHOLE, Processes(), accumulate=2)
    one, two = weights(runs, "one-whole"), weights(runs, "two-whole")
    parameters = [name for name in one if "running" not in name and "num_batches" not in name]
    for name in parameters:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-6, msg=name)
    assert any(name.startswith("matcher.") for name in parameters)


@pytest.mark.slow
def test_recognition_of_two_processes_is_that_of_one_with_twice_the_batch(runs: Path) -> None:
    """AdaFace's moving mean and deviation are those of all images together."""
    twice = tiny_run(RECOGNITION.recipe, hold_out=0.0, batch_size=12, occlusion_batch=6)
    train(runs, "one-recognition", twice, Processes())
    one, two = weights(runs, "one-recognition"), weights(runs, "two-recognition")
    for name in one:
        if name.startswith("backbone.") or name.startswith("head."):
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-6, msg=name)
    assert one["head.batch_mean"] != 20.0
    assert one["head.batch_std"] != 100.0
