"""Five steps of every method give the losses that they gave before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.train.scenario import tiny_run, train_tiny

from faceguide.cache.reader import FaceCache
from faceguide.train.guidance import GuidanceSettings

GOLDEN = Path(__file__).parents[1] / "data" / "cal_golden.json"
METHODS = {
    "plain": GuidanceSettings(),
    "loss": GuidanceSettings(loss=0.3),
    "regions": GuidanceSettings(regions=1.0),
    "regions-log": GuidanceSettings(regions_log=0.1),
    "counterfactual": GuidanceSettings(counterfactual=True),
    "prior": GuidanceSettings(prior=0.3),
    "contrastive": GuidanceSettings(contrastive=0.1),
    "all": GuidanceSettings(0.3, 1.0, 0.1, True, 0.3, 0.1),
}


def sequence(cache: FaceCache, directory: Path, method: str) -> list[float]:
    """The total loss of five steps."""
    lines = train_tiny(cache, directory, tiny_run(METHODS[method]))
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("method", METHODS)
def test_loss_sequence(method: str, small_cache: FaceCache, tmp_path: Path) -> None:
    """A change of these numbers is a change of the method: say so in the changelog.

    `python -m tests.train.test_cal_golden` writes them anew.
    """
    expected = json.loads(GOLDEN.read_text())[method]
    assert sequence(small_cache, tmp_path, method) == pytest.approx(expected, rel=2e-4)


def test_every_method_changes_the_losses() -> None:
    sequences = [tuple(values) for values in json.loads(GOLDEN.read_text()).values()]
    assert len(set(sequences)) == len(METHODS)


if __name__ == "__main__":
    import tempfile

    import torch
    from tests.cache.builder import build

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "cache", rows=40, shard_rows=16, occlusion=False, size=40)
        cache = FaceCache.open(Path(folder) / "cache")
        found = {name: sequence(cache, Path(folder) / name, name) for name in METHODS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
