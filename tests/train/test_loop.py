"""The loop on a toy whose gradients are known, and exact resume of the real thing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.cal.scenario import ALL, guided, tiny_run, train_tiny, weights
from torch import Tensor, nn

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands.console import Interrupted
from faceguide.core.errors import TrainError
from faceguide.train import loop
from faceguide.train.cal.cal_settings import GuidanceSettings
from faceguide.train.distributed import Processes
from faceguide.train.loop import train
from faceguide.train.run.checkpoint import load_state, save_state
from faceguide.train.run.metrics_log import read_metrics
from faceguide.train.training import Batch, Place, Trainer, total_steps
from faceguide.train.training_settings import LoopSettings


class Toy(nn.Module):
    """One number that follows the mean of the rows seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        """Squared distances to the rows."""
        return (self.weight - rows.float()).square()


class ToyTrainer(Trainer):
    """Plain descent; `seen` gets the rows of every batch.

    Args:
        evaluation: gives the score of an epoch.
        before: called before each step; may change the values or raise.
    """

    def __init__(
        self,
        seen: list[list[int]] | None = None,
        *,
        evaluation: Callable[[], float] | None = None,
        before: Callable[[Place], None] | None = None,
        spoil: Callable[[Tensor, Batch, Place], Tensor] | None = None,
        recipe: str = "toy",
    ) -> None:
        self.module, self.recipe = Toy(), recipe
        self.optimiser = torch.optim.SGD(self.module.parameters(), 0.1)
        self._seen = [] if seen is None else seen
        self._evaluation, self._before, self._spoil = evaluation, before, spoil

    def rate(self, epochs: float) -> float:
        """Halved every epoch."""
        return 0.1 * 0.5**epochs

    def step(self, forward: Any, batch: Batch, place: Place) -> dict[str, Tensor]:
        """Squared distances."""
        if self._before is not None:
            self._before(place)
        self._seen.append(batch["row"].tolist())
        values = forward(batch["row"])
        if self._spoil is not None:
            values = self._spoil(values, batch, place)
        return {"loss": values.mean(), "per_image": values.detach()}

    def evaluate(self) -> dict[str, float]:
        """The score, if there is one."""
        return {} if self._evaluation is None else {"score": self._evaluation()}


def go(
    trainer: ToyTrainer, cache: FaceCache, directory: Path, batch_size: int = 4, **settings: Any
) -> int:
    directory.mkdir(exist_ok=True)
    how = LoopSettings(**{"epochs": 2, "log_every": 1, "picture_every": 0, **settings})
    stream = Stream(cache, list(range(12)), columns=("label",), batch_size=batch_size)
    return train(trainer, stream, directory, how, torch.device("cpu"), Processes())


def at(step: int, act: Callable[[], object]) -> Callable[[Place], None]:
    """Act before one step."""
    return lambda place: act() and None if place.step == step else None


def fail(error: BaseException) -> Callable[..., Any]:
    def act(*_: object) -> Any:
        raise error

    return act


def test_the_weight_follows_plain_gradient_descent(small_cache: FaceCache, tmp_path: Path) -> None:
    seen: list[list[int]] = []
    trainer = ToyTrainer(seen)
    assert go(trainer, small_cache, tmp_path) == 6
    weight = 0.0
    for number, rows in enumerate(seen):
        weight -= 0.1 * 0.5 ** (number / 3) * 2 * (weight - sum(rows) / 4)
    assert trainer.module.weight.item() == pytest.approx(weight, rel=1e-5)
    assert sorted(row for rows in seen[:3] for row in rows) == list(range(12))


def test_accumulation_equals_a_larger_batch(small_cache: FaceCache, tmp_path: Path) -> None:
    """Each step's gradient is the mean over its batches; the last group of an epoch is short."""
    seen: list[list[int]] = []
    trainer = ToyTrainer(seen)
    assert go(trainer, small_cache, tmp_path, accumulate=2) == 4
    weight = 0.0
    for first, group in ((0, seen[0:2]), (2, seen[2:3]), (3, seen[3:5]), (5, seen[5:6])):
        rate = 0.1 * 0.5 ** ((first + len(group) - 1) / 3)
        weight -= rate * 2 * (weight - sum(map(sum, group)) / (4 * len(group)))
    assert trainer.module.weight.item() == pytest.approx(weight, rel=1e-5)
    assert total_steps(3, LoopSettings(epochs=2, accumulate=2)) == 4


def test_a_loss_that_is_not_finite_names_the_image(small_cache: FaceCache, tmp_path: Path) -> None:
    key = small_cache.texts("key", [7])[0]

    def spoil(values: Tensor, batch: Batch, place: Place) -> Tensor:
        return values + torch.where(batch["row"] == 7, torch.inf, 0.0)

    trainer = ToyTrainer(spoil=spoil)
    with pytest.raises(TrainError, match=rf"not finite at step \d.*the images: {key}\. Lower --lr"):
        go(trainer, small_cache, tmp_path)
    assert torch.isfinite(trainer.module.weight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_interrupts_and_the_rest_follows(
    number: signal.Signals, small_cache: FaceCache, tmp_path: Path
) -> None:
    whole: list[list[int]] = []
    straight = ToyTrainer(whole)
    go(straight, small_cache, tmp_path / "straight")
    seen: list[list[int]] = []
    trainer = ToyTrainer(seen, before=at(3, lambda: os.kill(os.getpid(), number)))
    with pytest.raises(Interrupted):
        go(trainer, small_cache, tmp_path / "pieces")
    assert len(seen) == 4
    again = ToyTrainer(seen)
    assert go(again, small_cache, tmp_path / "pieces") == 6
    assert seen == whole
    assert torch.equal(again.module.weight, straight.module.weight)


def test_evaluation_chooses_the_best_and_is_not_lost_to_a_kill(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    go(ToyTrainer(evaluation=iter([0.9, 0.2]).__next__), small_cache, tmp_path)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["step"] == 3
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 6
    directory = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        go(ToyTrainer(evaluation=fail(KeyboardInterrupt())), small_cache, directory)
    go(ToyTrainer(evaluation=iter([0.9, 0.2]).__next__), small_cache, directory)
    lines = [line for line in read_metrics(directory) if line["kind"] == "evaluation"]
    assert [(line["step"], line["score"]) for line in lines] == [(3, 0.9), (6, 0.2)]


def test_without_an_evaluation_the_last_is_the_best(small_cache: FaceCache, tmp_path: Path) -> None:
    for epochs in (1, 2):
        go(ToyTrainer(), small_cache, tmp_path, epochs=epochs)
        assert torch.load(tmp_path / "best.pt", weights_only=True)["step"] == 3 * epochs
    assert {line["kind"] for line in read_metrics(tmp_path)} == {"train"}


def dying_at_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before best.pt is written."""
    saved = loop.save_state

    def dies(path: Path, state: Any) -> None:
        if path.name == "best.pt":
            raise KeyboardInterrupt
        saved(path, state)

    monkeypatch.setattr(loop, "save_state", dies)


def test_a_kill_before_the_best_is_saved_costs_nothing(
    small_cache: FaceCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the last step and before best.pt: the next start makes it."""
    dying_at_best(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        go(ToyTrainer(evaluation=lambda: 0.5), small_cache, tmp_path, epochs=1)
    monkeypatch.undo()
    seen: list[list[int]] = []
    assert go(ToyTrainer(seen, evaluation=lambda: 0.5), small_cache, tmp_path, epochs=1) == 3
    assert seen == []
    assert torch.load(tmp_path / "best.pt", weights_only=True)["step"] == 3
    kinds = [(line["kind"], line["step"]) for line in read_metrics(tmp_path)]
    assert kinds == [("train", 1), ("train", 2), ("train", 3), ("evaluation", 3)]


def test_metrics_written_after_the_last_save_are_not_doubled(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    trainer = ToyTrainer(before=at(2, fail(RuntimeError("power cut"))))
    with pytest.raises(RuntimeError, match="power cut"):
        go(trainer, small_cache, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    go(ToyTrainer(), small_cache, tmp_path)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_an_evaluation_that_a_kill_lets_be_done_again_is_one_line(
    small_cache: FaceCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the line of the first epoch's evaluation, before the save that remembers it."""
    dying_at_best(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        go(ToyTrainer(evaluation=lambda: 0.5), small_cache, tmp_path)
    assert [line["kind"] for line in read_metrics(tmp_path)][-1] == "evaluation"
    monkeypatch.undo()
    go(ToyTrainer(evaluation=lambda: 0.5), small_cache, tmp_path)
    lines = [(line["kind"], line["step"]) for line in read_metrics(tmp_path)]
    assert lines == [
        ("train", 1), ("train", 2), ("train", 3), ("evaluation", 3),
        ("train", 4), ("train", 5), ("train", 6), ("evaluation", 6),
    ]  # fmt: skip


def test_a_second_run_in_a_directory_is_refused_and_changes_nothing(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    refusals = []

    def second() -> None:
        with pytest.raises(TrainError, match="another run is at work here") as refused:
            go(ToyTrainer(), small_cache, tmp_path)
        refusals.append(refused)

    assert go(ToyTrainer(before=at(4, second)), small_cache, tmp_path) == 6
    assert len(refusals) == 1
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert go(ToyTrainer(), small_cache, tmp_path) == 6


def test_equal_saves_are_equal_files(small_cache: FaceCache, tmp_path: Path) -> None:
    for name in ("one", "two"):
        go(ToyTrainer(), small_cache, tmp_path / name)
    one, two = ((tmp_path / name / "last.pt").read_bytes() for name in ("one", "two"))
    assert one == two


def test_other_settings_and_damaged_saves_are_refused(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    go(ToyTrainer(), small_cache, tmp_path, steps=1)
    with pytest.raises(TrainError, match=r"last\.pt: was made with other settings"):
        go(ToyTrainer(recipe="other"), small_cache, tmp_path)
    with pytest.raises(TrainError, match=r"last\.pt: .*of another stream: global_batch 4 → 6"):
        go(ToyTrainer(), small_cache, tmp_path, batch_size=6)
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(TrainError, match=r"last\.pt: .*remove it"):
        go(ToyTrainer(), small_cache, tmp_path)


@pytest.mark.parametrize(
    "guidance",
    [GuidanceSettings(), guided(**ALL)],
    ids=["plain", "guided"],
)
def test_cal_resumed_is_cal_uninterrupted(
    guidance: GuidanceSettings, small_cache: FaceCache, tmp_path: Path
) -> None:
    """Weights, centres, statistics and momentum agree in every bit, across an epoch's end."""
    train_tiny(small_cache, tmp_path / "straight", tiny_run(guidance), steps=7)
    for steps in (3, 6, 7):
        lines = train_tiny(small_cache, tmp_path / "pieces", tiny_run(guidance), steps=steps)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 8))
    straight, pieces = weights(tmp_path / "straight"), weights(tmp_path / "pieces")
    assert straight.keys() == pieces.keys()
    for name, tensor in straight.items():
        assert torch.equal(tensor, pieces[name]), name


def test_run_json_says_what_was_done(small_cache: FaceCache, tmp_path: Path) -> None:
    train_tiny(small_cache, tmp_path / "run", tiny_run(guided(regions=1.0)), steps=1)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["command"] == "train cal"
    assert record["seed"] == 0
    assert record["settings"]["guides"] == [["regions", 1.0]]
    assert record["models"]["backbone"]["arguments"] == {
        "num_classes": 7, "heads": 8, "stride": 16
    }  # fmt: skip
    assert len(record["cache_hash"]) == 64
    with pytest.raises(TrainError, match=r"settings .*heads 8 → 4.*.*--out"):
        train_tiny(small_cache, tmp_path / "run", replace(tiny_run(), heads=4))


def diverging(at_step: int) -> Callable[[Tensor, Batch, Place], Tensor]:
    """At a step the loss is finite and its gradient is not."""

    def spoil(values: Tensor, batch: Batch, place: Place) -> Tensor:
        zero = values - values.detach()
        # 0, with gradient 0 · ∞.
        return values + (zero**2).sqrt() if place.step == at_step else values

    return spoil


@pytest.mark.parametrize("settings", [{"save_every": 1}, {"steps": 5}, {"epochs": 2}])
def test_a_step_that_diverged_is_neither_saved_nor_best(
    settings: dict[str, int], small_cache: FaceCache, tmp_path: Path
) -> None:
    """At a save between epochs, at the last step, and at the end of an epoch."""
    step = {"save_every": 3, "steps": 4, "epochs": 5}[next(iter(settings))]
    trainer = ToyTrainer(evaluation=lambda: 0.5, spoil=diverging(step))
    with pytest.raises(TrainError, match=rf"weight is not finite after step {step + 1}"):
        go(trainer, small_cache, tmp_path, **settings)
    for name in ("last.pt", "best.pt"):
        saved = torch.load(tmp_path / name, weights_only=True)
        assert torch.isfinite(saved["module"]["weight"])
        assert saved["step"] == 3
    # The same command resumes from there.
    seen: list[list[int]] = []
    assert go(ToyTrainer(seen, evaluation=lambda: 0.5), small_cache, tmp_path) == 6
    assert len(seen) == 3


def test_statistics_that_diverged_and_a_save_of_them_are_refused(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    mean = torch.zeros(2)
    trainer = ToyTrainer(before=at(4, lambda: mean.fill_(torch.inf) is None))
    trainer.module.register_buffer("mean", mean)
    trainer.module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))  # by design
    with pytest.raises(TrainError, match="mean is not finite after step 6"):
        go(trainer, small_cache, tmp_path)
    # One that an earlier version wrote.
    state = load_state(tmp_path / "last.pt", "toy")
    assert state is not None
    state.module["weight"].fill_(torch.nan)
    save_state(tmp_path / "last.pt", state)
    with pytest.raises(TrainError, match=r"last\.pt: .*before step 3; remove"):
        go(trainer, small_cache, tmp_path)


def test_weights_that_begin_broken_are_refused(small_cache: FaceCache, tmp_path: Path) -> None:
    trainer = ToyTrainer()
    torch.nn.init.constant_(trainer.module.weight, torch.nan)
    with pytest.raises(TrainError, match=r"weight .*before step 0"):
        go(trainer, small_cache, tmp_path)


def test_an_evaluation_without_a_score_chooses_nothing(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    with pytest.raises(TrainError, match="evaluation after step 3"):
        go(ToyTrainer(evaluation=lambda: float("nan")), small_cache, tmp_path)
    assert not (tmp_path / "best.pt").exists()
