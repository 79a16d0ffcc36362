"""A training that is killed and resumed by another number of processes."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.train.cal.scenario import tiny_run, weights
from tests.train.processes import FORKS, free_port
from tests.train.test_loop import ToyTrainer

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.errors import TrainError
from faceguide.train.cal.cal_run import run_cal
from faceguide.train.distributed import Processes, joined
from faceguide.train.loop import train
from faceguide.train.run.run_context import RunContext
from faceguide.train.training import Batch, Place
from faceguide.train.training_settings import LoopSettings

CPU = torch.device("cpu")
TOGETHER = 8  # rows of a batch; five batches are an epoch
SAVE_EVERY, KILLED, SAVED = 2, 8, 7  # the step of the kill, and of the checkpoint before it


class Noting(ToyTrainer):
    """Writes down the rows of each step; all its processes are killed at one."""

    def __init__(self, note: Path, killed: int | None) -> None:
        super().__init__()
        self._note, self._killed = note, killed

    def step(self, forward: object, batch: Batch, place: Place) -> dict[str, torch.Tensor]:
        if place.step == self._killed:
            os.kill(os.getpid(), signal.SIGKILL)
        with self._note.open("a") as file:
            file.write(json.dumps([place.step, batch["row"].tolist()]) + "\n")
        return super().step(forward, batch, place)


def toy(rank: int, world: int, port: int, cache: str, out: Path, killed: int | None) -> None:
    """One process of a training of 12 steps."""
    torch.set_num_threads(1)
    processes = Processes(rank, world, rank, "127.0.0.1", port)
    faces = FaceCache.open(cache)
    stream = Stream(
        faces, faces.select(), columns=("label",), batch_size=TOGETHER // world, rank=rank,
        world=world, threads=world,
    )  # fmt: skip
    loop = LoopSettings(epochs=9, steps=12, save_every=SAVE_EVERY, log_every=1, picture_every=0)
    with joined(processes, CPU):
        note = out / f"rows-{world}-{rank}.jsonl"
        train(Noting(note, killed), stream, out, loop, CPU, processes)


def started(world: int, cache: FaceCache, out: Path, killed: int | None = None) -> list[int]:
    """Exit codes of the processes; where one is killed, the others are too."""
    out.mkdir(exist_ok=True)
    port = free_port()
    every = [
        FORKS.Process(target=toy, args=(rank, world, port, str(cache.directory), out, killed))
        for rank in range(world)
    ]
    for process in every:
        process.start()
    for process in every:
        process.join(120)
        assert not process.is_alive()
    return [process.exitcode or 0 for process in every]


def steps(out: Path, worlds: Sequence[int]) -> dict[int, list[int]]:
    """Step → rows of all processes; a step that was done twice had the same rows."""
    found: dict[int, list[int]] = {}
    for world in worlds:
        once: dict[int, list[int]] = defaultdict(list)
        for rank in range(world):
            for line in (out / f"rows-{world}-{rank}.jsonl").read_text().splitlines():
                step, rows = json.loads(line)
                once[step] += rows
        for step, rows in once.items():
            assert found.setdefault(step, sorted(rows)) == sorted(rows)
    return found


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_killed_and_resumed_by_another_number_of_processes(
    before: int, after: int, small_cache: FaceCache, tmp_path: Path
) -> None:
    assert started(1, small_cache, tmp_path / "whole") == [0]
    out = tmp_path / "pieces"
    assert started(before, small_cache, out, KILLED) == [-signal.SIGKILL] * before
    assert started(after, small_cache, out) == [0] * after
    whole = steps(tmp_path / "whole", [1])
    assert list(whole) == list(range(12))
    assert steps(out, [before, after]) == whole
    first = json.loads((out / f"rows-{after}-0.jsonl").read_text().splitlines()[0])
    assert first[0] == SAVED
    torch.testing.assert_close(weights(out), weights(tmp_path / "whole"), rtol=1e-5, atol=1e-6)


def cal(rank: int, world: int, port: int, cache: str, out: Path, limit: int, batch: int) -> None:
    """One process of `train cal` without statistics of batches, until step `limit` of 6."""
    torch.set_num_threads(1)
    processes = Processes(rank, world, rank, "127.0.0.1", port)
    context = RunContext(
        cache=FaceCache.open(cache), directory=out, device=CPU, processes=processes,
        loop=LoopSettings(epochs=9, steps=limit, log_every=1, picture_every=0),
    )  # fmt: skip
    with joined(processes, CPU):
        run_cal(context, tiny_run(batch_size=batch, freeze_norm=True))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_cal_is_resumed_by_another_number_of_processes(
    before: int, after: int, small_cache: FaceCache, tmp_path: Path
) -> None:
    cache = str(small_cache.directory)
    cal(0, 1, 0, cache, tmp_path / "whole", 6, 8)

    def part(world: int, limit: int) -> None:
        port = free_port()
        every = [
            FORKS.Process(
                target=cal, args=(rank, world, port, cache, tmp_path / "parts", limit, 8 // world)
            )
            for rank in range(world)
        ]
        for process in every:
            process.start()
        for process in every:
            process.join(120)
            assert process.exitcode == 0

    part(before, 3)
    part(after, 6)
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["processes"] == after
    found = weights(tmp_path / "parts")
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-6, msg=name)
    if after == 1:
        context = RunContext(
            cache=small_cache, directory=tmp_path / "parts", device=CPU, processes=Processes(),
            loop=LoopSettings(epochs=9, steps=9),
        )  # fmt: skip
        with pytest.raises(TrainError, match="batch_size 8 → 4"):
            run_cal(context, tiny_run(batch_size=4, freeze_norm=True))
