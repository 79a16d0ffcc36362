"""Samples of the classes: exact where the sample is all of them, in one process and in two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.oaml.scenario import tiny_run
from tests.train.processes import in_two_processes
from torch import Tensor, nn

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import TrainError
from faceguide.train.distributed import Processes, joined
from faceguide.train.models import create
from faceguide.train.oaml.class_centres import ClassCentres, share
from faceguide.train.oaml.oaml_run import run_oaml
from faceguide.train.oaml.oaml_settings import OamlRun, OamlSettings
from faceguide.train.oaml.sampled_classes import MOMENTUM, SampledClasses
from faceguide.train.run.run_context import RunContext
from faceguide.train.training_settings import LoopSettings

CLASSES, NUMBERS, FACES, RATE, DECAY, STEPS = 23, 8, 12, 0.3, 5e-4, 3
HEADS = ("adaface", "arcface", "cosface")
CPU = torch.device("cpu")


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """(12, 8) unit embeddings, their norms and labels, of all processes."""
    generator = torch.Generator().manual_seed(step)
    raw = torch.randn(FACES, NUMBERS, generator=generator) * 9
    norm = raw.norm(dim=1, keepdim=True)
    return raw / norm, norm, torch.randint(CLASSES, (FACES,), generator=generator)


def sampled(name: str, sample: float, processes: Processes) -> SampledClasses:
    head = create(name, num_classes=1, embedding_size=1).train()
    head.kernel = None
    centres = ClassCentres(CLASSES, NUMBERS, 5, processes, CPU)
    return SampledClasses(head, centres, sample, 7, DECAY)


def learn(head: SampledClasses, processes: Processes) -> tuple[list[Tensor], list[Tensor]]:
    """Losses and the gradients of this process's embeddings, of some steps."""
    losses, gradients = [], []
    mine = slice(processes.rank, None, processes.world)
    for step in range(STEPS):
        unit, norm, label = (part[mine] for part in batch(step))
        unit = unit.clone().requires_grad_()
        found = head(unit, norm, label, step)
        found.loss.backward()
        head.update(RATE)
        assert unit.grad is not None
        losses.append(found.loss.detach())
        gradients.append(unit.grad / processes.world)  # as data-parallel training takes the mean
        assert found.per_image.shape == label.shape
    return losses, gradients


@pytest.mark.parametrize("name", HEADS)
def test_a_sample_of_all_is_the_head_itself(name: str) -> None:
    ours = sampled(name, CLASSES, Processes())
    theirs = create(name, num_classes=CLASSES, embedding_size=NUMBERS).train()
    theirs.kernel = nn.Parameter(ours.centres.weight.T.clone())
    optimiser = torch.optim.SGD([theirs.kernel], RATE, MOMENTUM, weight_decay=DECAY)
    losses, gradients = learn(ours, Processes())
    for step in range(STEPS):
        unit, norm, label = batch(step)
        unit.requires_grad_()
        loss = nn.functional.cross_entropy(theirs(unit, norm, label), label)
        loss.backward()
        torch.testing.assert_close(losses[step], loss.detach())
        torch.testing.assert_close(gradients[step], unit.grad, rtol=1e-4, atol=1e-6)
        optimiser.step()
        optimiser.zero_grad()
    torch.testing.assert_close(ours.centres.weight, theirs.kernel.detach().T, rtol=1e-4, atol=1e-6)


def test_a_sample_has_the_classes_of_the_batch_and_others() -> None:
    head = sampled("cosface", 0.5, Processes())
    before = head.centres.weight.clone()
    unit, norm, label = batch(0)
    losses = []
    for _ in range(2):
        head(unit, norm, label, 0)
        losses.append(head._chosen.clone())
    chosen = losses[0]
    assert torch.equal(chosen, losses[1])  # the step decides
    assert len(chosen) == 12
    assert set(label.tolist()) <= set(chosen.tolist())
    found = head(unit, norm, label, 1)
    assert not torch.equal(head._chosen, chosen)
    found.loss.backward()
    head.update(RATE)
    moved = (head.centres.weight != before).any(1).nonzero()[:, 0]
    assert torch.equal(moved, head._chosen)
    few = sampled("cosface", 2, Processes())
    few(unit, norm, label, 0)
    assert torch.equal(few._chosen, label.unique())


@pytest.mark.parametrize(("classes", "world"), [(23, 1), (23, 2), (7, 7), (10, 3)])
def test_shares_are_all_classes_in_a_row(classes: int, world: int) -> None:
    parts = [share(classes, Processes(rank, world)) for rank in range(world)]
    assert [place for part in parts for place in part] == list(range(classes))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_centres_find_their_place_in_another_number_of_processes(tmp_path: Path) -> None:
    three = [ClassCentres(CLASSES, NUMBERS, 1, Processes(rank, 3), CPU) for rank in range(3)]
    for part in three:
        part.momentum.normal_()
        part.keep(tmp_path, "best.pt", 39)
    for step in (39, 40, 41):
        for part in three:
            part.keep(tmp_path, "last.pt", step)
    # Those of the checkpoint before are there until it is replaced.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "centres-000000040", "centres-000000041",
    ]  # fmt: skip
    two = [ClassCentres(CLASSES, NUMBERS, 2, Processes(rank, 2), CPU) for rank in range(2)]
    for part in two:
        part.restore(tmp_path, 41)
    for name in ("weight", "momentum"):
        wanted = torch.cat([getattr(part, name) for part in three])
        assert torch.equal(torch.cat([getattr(part, name) for part in two]), wanted)
    first = sorted((tmp_path / "centres-000000041").iterdir())[0]
    content = bytearray(first.read_bytes())
    content[-40] ^= 1
    first.write_bytes(content)
    with pytest.raises(TrainError, match="changed since it was written"):
        two[0].restore(tmp_path, 41)
    first.unlink()
    with pytest.raises(TrainError, match="holds 4 of the 12 centres"):
        two[0].restore(tmp_path, 41)


def test_the_start_does_not_depend_on_the_number_of_processes() -> None:
    one = ClassCentres(CLASSES, NUMBERS, 1, Processes(), CPU).weight
    two = [ClassCentres(CLASSES, NUMBERS, 1, Processes(rank, 2), CPU).weight for rank in range(2)]
    assert torch.equal(torch.cat(two), one)
    torch.testing.assert_close(one.norm(dim=1), torch.ones(CLASSES))


RUN = replace(
    tiny_run(
        OamlSettings(freeze_norm=True),
        head="adaface", backbone="tests.train.small_network:build", hold_out=0.0, rate=1e-2,
    ),
    sample_classes=0.5,
)  # fmt: skip


def train(folder: Path, run: OamlRun, processes: Processes, steps: int) -> None:
    context = RunContext(
        cache=FaceCache.open(folder / "faces"), directory=folder / "run", device=CPU,
        loop=LoopSettings(epochs=9, steps=steps, log_every=1), processes=processes,
    )  # fmt: skip
    run_oaml(context, run)


def work(rank: int, folder: Path, port: int) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    processes = Processes(rank, 2, rank, "127.0.0.1", port)
    with joined(processes, CPU):
        for name in HEADS:
            head = sampled(name, CLASSES, processes)
            losses, gradients = learn(head, processes)
            found = {"losses": losses, "gradients": gradients, "weight": head.centres.weight}
            torch.save(found, folder / f"{name}-{rank}.pt")
        train(folder, RUN, processes, 3)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes learnt."""
    return in_two_processes(work, tmp_path_factory.mktemp("two"))


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_two_processes_learn_what_one_learns(two: Path, name: str) -> None:
    one = sampled(name, CLASSES, Processes())
    losses, gradients = learn(one, Processes())
    parts = [torch.load(two / f"{name}-{rank}.pt") for rank in range(2)]
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part["losses"], losses)
        wanted = [gradient[rank::2] for gradient in gradients]
        torch.testing.assert_close(part["gradients"], wanted, rtol=1e-4, atol=1e-6)
    weight = torch.cat([part["weight"] for part in parts])
    torch.testing.assert_close(weight, one.centres.weight, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_run_of_two_processes_is_resumed_by_one(two: Path) -> None:
    assert len(list((two / "run" / "centres-000000003").iterdir())) == 2
    assert not (two / "run" / "head.safetensors").exists()
    train(two, replace(RUN, batch_size=2 * RUN.batch_size), Processes(), 5)
    assert len(list((two / "run" / "centres-000000005").iterdir())) == 1
    with pytest.raises(TrainError, match="other settings"):
        train(two, replace(RUN, batch_size=4 * RUN.batch_size), Processes(), 7)
