"""`evaluate surround` with a network that sees the middle of a face only, and one that does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result
from tests.cache.builder import build_keys

from faceguide.core.faces.mean_face import mean_landmarks
from faceguide.evaluate.cli import main

SOURCE = """
import torch
from torch import nn
from faceguide.train.models.input_spec import InputSpec


class Net(nn.Module):
    input_spec = InputSpec(112, "RGB", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def described(self, seen):
        grey = nn.functional.avg_pool2d(seen.mean(1, keepdim=True), 8).flatten(1)
        return self.scale * (grey - grey.mean(1, keepdim=True))


class Middle(Net):
    def forward(self, x):
        return self.described(x[:, :, 40:80, 40:80])


class Around(Net):
    def forward(self, x):
        around = x.clone()
        around[:, :, 8:, 16:96] = 0
        return self.described(around)


middle, around = lambda weights: Middle(), lambda weights: Around()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """cache/ of 76 identities with two equal pictures each, few/ with fewer, and two networks."""
    folder = tmp_path_factory.mktemp("surround")
    keys = [f"p{i:02}/{part}_{i}.png" for i in range(84) if i % 10 for part in "ab"]
    build_keys(folder / "cache", keys, size=112, landmarks=mean_landmarks())
    build_keys(folder / "few", keys[:20], size=112, landmarks=mean_landmarks())
    build_keys(folder / "alone", keys[::2], size=112, landmarks=mean_landmarks())
    (folder / "nets_of_surrounds.py").write_text(SOURCE)
    (folder / "weights").write_bytes(b"none")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def surround(place: Path, network: str, *more: object, cache: str = "cache") -> Result:
    words = [
        "surround", place / cache, "--weights", place / "weights", "--bootstrap", 50,
        "--backbone", f"nets_of_surrounds:{network}", *more,
    ]  # fmt: skip
    return CliRunner().invoke(main, [str(word) for word in words])


def test_what_a_network_looks_at_shows(place: Path, tmp_path: Path) -> None:
    records = {}
    for network in ("middle", "around"):
        result = surround(place, network, "--json", "--sheet", tmp_path / f"{network}.png")
        assert result.exit_code == 0, result.output
        records[network] = json.loads(result.stdout)
    middle, around = records["middle"], records["around"]
    assert middle["n_hard"] == around["n_hard"] == 3 * middle["n_faces"]
    assert middle["n_swapped"] == middle["n_hard"]
    assert middle["tar_clean"] == around["tar_clean"] == 1
    assert middle["far_shared"] < 0.1
    assert around["far_shared"] > 0.9
    assert middle["face_over_hair"] > 0.9
    assert around["face_over_hair"] < 0.1
    assert middle["pull"] < 0.5 < around["pull"]
    assert middle["tar_swapped"] > around["tar_swapped"]
    assert around["tar_grey"] < 0.2 < 0.8 < middle["tar_grey"]
    for record in records.values():
        for name in ("far_shared", "face_over_hair", "pull"):
            low, high = record[f"{name}_interval"]
            assert low <= record[name] <= high
    sheet = cv2.imread(str(tmp_path / "around.png"))
    assert sheet is not None
    assert sheet.shape[1] > 6 * 112


def test_lines_and_the_choice_of_faces(place: Path) -> None:
    result = surround(place, "middle", "--bootstrap", 0, "--faces", 148, "--seed", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("148 faces of 74 identities; threshold ")
    assert "[" not in result.stdout


def test_too_few(place: Path) -> None:
    result = surround(place, "middle", cache="few")
    assert result.exit_code == 1
    assert "needs 10,000 impostor pairs, these" in result.stderr
    result = surround(place, "middle", cache="alone")
    assert result.exit_code == 1
    assert "one of them with two images" in result.stderr
