"""What is not a finite number is refused where it enters, by name; equal seeds give equal bits.

Losses: test_loop. Images and masks of floats, imported landmarks, embeddings: beside their readers.
That a run repeated is equal byte for byte: test_repeat.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from faceguide.cache.reader import FaceCache
from faceguide.train.cli import main
from faceguide.train.models import create


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.stderr


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_to_start_from_must_be_finite(
    value: str, small_cache: FaceCache, tmp_path: Path
) -> None:
    state = create("mobilefacenet").state_dict()
    state["conv2.0.weight"][0, 0, 0, 0] = float(value)
    torch.save(state, tmp_path / "face.pt")
    code, text = call(
        *("cal", small_cache.directory, "--out", tmp_path / "run", "--steps", 1),
        *("--model", "cal_mobilefacenet", "--heads", 8, "--crop", 32, "--device", "cpu"),
        *("--init", tmp_path / "face.pt"),
    )
    assert code == 1
    assert text.splitlines()[-1].startswith("Error: ")
    assert "conv2.0.weight in" in text
    assert "face.pt holds NaN or infinity" in text
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize("option", ["--lr", "--weight-decay"])
def test_a_rate_that_is_no_number_is_a_usage_error(
    option: str, small_cache: FaceCache, tmp_path: Path
) -> None:
    for command in ("cal", "oaml"):
        for value in ("nan", "inf"):
            words = [command, small_cache.directory, "--out", tmp_path / "run", option, value]
            code, text = call(*words)
            assert code == 2
            assert f"{value} is not finite" in text
    assert not (tmp_path / "run").exists()
