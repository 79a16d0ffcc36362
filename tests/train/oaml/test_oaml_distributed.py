"""Two processes of `train oaml` and what one process learns, as far as the method makes them equal.

Recognition, the occlusion loss and AdaFace's moving statistics take the batches of all processes
together. QAConv compares the images of one process with each other, so two processes learn of it
what one learns that accumulates two batches. BatchNorm of the occlusion head looks at one
process's batch, and on the CPU has no equal.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.oaml.scenario import tiny_run
from tests.train.processes import in_two_processes

from faceguide.cache.reader import FaceCache
from faceguide.train.distributed import Processes, joined
from faceguide.train.oaml.oaml_run import run_oaml
from faceguide.train.oaml.oaml_settings import OamlRun, OamlSettings
from faceguide.train.oaml.oaml_step import occlusion_loss
from faceguide.train.run.run_context import RunContext
from faceguide.train.training_settings import LoopSettings

STEPS = 3
SMALL = {"backbone": "tests.train.small_network:build", "hold_out": 0.0, "rate": 1e-2}
# AdaFace's statistics would move twice where batches are accumulated.
MATCHING = tiny_run(OamlSettings(freeze_norm=True), head="arcface", **SMALL)
RECOGNITION = tiny_run(
    OamlSettings(pairwise_weight=0.0, triplet_weight=0.0, occlusion_weight=0.0, freeze_norm=True),
    **SMALL,
)


def faces_of_rank(rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predicted and true visibility of five faces; rank 0 knows one, rank 1 four."""
    generator = torch.Generator().manual_seed(rank)
    predicted, true = torch.rand(2, 5, 7, 7, generator=generator)
    return predicted, true, torch.arange(5) < (1 if rank == 0 else 4)


def train(folder: Path, name: str, run: OamlRun, processes: Processes, accumulate: int = 1) -> None:
    loop = LoopSettings(epochs=9, steps=STEPS, log_every=1, accumulate=accumulate)
    context = RunContext(
        cache=FaceCache.open(folder / "faces"), directory=folder / name, loop=loop,
        device=torch.device("cpu"), processes=processes,
    )  # fmt: skip
    run_oaml(context, run)


def work(rank: int, folder: Path, port: int) -> None:
    """One of two processes: both runs, and the occlusion loss of its faces."""
    torch.set_num_threads(1)
    processes = Processes(rank, 2, rank, "127.0.0.1", port)
    with joined(processes, torch.device("cpu")):
        train(folder, "two-matching", MATCHING, processes)
        train(folder, "two-recognition", RECOGNITION, processes)
        torch.save(occlusion_loss(*faces_of_rank(rank)), folder / f"loss-{rank}.pt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_two_processes(work, tmp_path_factory.mktemp("two"))


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    saved = torch.load(folder / name / "last.pt", weights_only=True)
    assert saved["step"] == STEPS
    return saved["module"]


def test_two_processes_are_one_that_accumulates_two_batches(runs: Path) -> None:
    """Pairs and triplets within the two batches that the two processes had."""
    train(runs, "one-matching", MATCHING, Processes(), accumulate=2)
    one, two = weights(runs, "one-matching"), weights(runs, "two-matching")
    parameters = [name for name in one if "running" not in name and "num_batches" not in name]
    for name in parameters:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-6, msg=name)
    assert any(name.startswith("matcher.") for name in parameters)


def test_recognition_of_two_processes_is_that_of_one_with_twice_the_batch(runs: Path) -> None:
    """AdaFace's moving mean and deviation are those of all images together."""
    train(runs, "one-recognition", replace(RECOGNITION, batch_size=12), Processes())
    one, two = weights(runs, "one-recognition"), weights(runs, "two-recognition")
    for name in one:
        if name.startswith(("backbone.", "head.")):
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-6, msg=name)
    assert one["head.batch_mean"] != 20.0
    assert one["head.batch_std"] != 100.0


def test_known_faces_of_all_processes_count_alike(runs: Path) -> None:
    """The mean over processes, as gradients are averaged, is the loss of all faces together."""
    two = torch.stack([torch.load(runs / f"loss-{rank}.pt") for rank in (0, 1)]).mean()
    together = [torch.cat(parts) for parts in zip(*map(faces_of_rank, (0, 1)), strict=True)]
    torch.testing.assert_close(two, occlusion_loss(*together))
