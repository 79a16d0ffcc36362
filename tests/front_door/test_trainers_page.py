"""The trainers of docs/trainers.md run as they are written, and deliver what they must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.builder import small_cache, training_run
from tests.front_door.test_pages import blocks

from faceguide.cache import Stream

PAGE = "docs/trainers.md"


def run(number: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The first block of the page and another; the names that they leave."""
    monkeypatch.chdir(place)
    code = blocks(PAGE, "python")
    assert len(code) == 5
    names: dict[str, Any] = {"__name__": "page"}
    for part in (code[0], code[number]):
        exec(compile(part, PAGE, "exec"), names)
    return names


@pytest.fixture
def place(tmp_path: Path) -> Path:
    small_cache(tmp_path / "cache")
    (tmp_path / "runs").mkdir()
    training_run(tmp_path / "runs" / "oaml")
    return tmp_path


def rest(names: dict[str, Any], after: int) -> list[list[int]]:
    """Rows of the batches of the page's order, behind so many of them."""
    stream = Stream(names["cache"], names["rows"], batch_size=16, seed=0)
    every = [batch["row"].tolist() for _ in range(4) for batch in stream]
    return every[after : after + len(stream)]


def test_pytorch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run(1, place, monkeypatch)
    assert all(p.grad is not None and p.grad.any() for p in names["learner"].parameters())
    length = len(names["stream"])
    resumed = [batch["row"].tolist() for _ in range(2) for batch in names["resumed"]]
    assert resumed[:length] == rest(names, length + 2)


def test_torchdata(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchdata.stateful_dataloader")
    names = run(2, place, monkeypatch)
    assert names["batch"]["row"].tolist() == rest(names, 2 * len(names["stream"]) - 1)[0]
    assert names["state"]["epoch"] == 1


def test_lightning(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    names = run(3, place, monkeypatch)
    assert names["longer"].global_step == 8
    resumed = [batch["row"].tolist() for _ in range(2) for batch in names["resumed"]]
    assert resumed[: len(names["stream"])] == rest(names, 8)


def test_transformers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    names = run(4, place, monkeypatch)
    assert (place / "runs" / "trainer" / "checkpoint-5").is_dir()
    assert len(names["dataset"]) == len(names["rows"])
