"""Four steps of every method give the losses that they gave before.

In double precision: where attention is cropped and dropped is a matter of yes or no, and with the
rounding of float32, which differs between processors, another pixel would change all that follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import REPOSITORY
from tests.train.cal.scenario import EVERYTHING, guided, tiny_run, train_tiny

from faceguide.cache.reader import FaceCache
from faceguide.train.models.input_spec import InputSpec

GOLDEN = REPOSITORY / "tests" / "data" / "cal_golden.json"
METHODS = {
    "plain": guided(),
    "loss": guided(loss=0.3),
    "regions": guided(regions=1.0),
    "regions-log": guided(regions_log=0.1),
    "counterfactual": guided(counterfactual=1.0),
    "prior": guided(prior=0.3),
    "contrastive": guided(contrastive=0.1),
    "all": EVERYTHING,
}


@contextmanager
def double_precision() -> Iterator[None]:
    """Every network and everything that asks for float32 gets float64."""
    sample, prepare = torch.nn.functional.grid_sample, InputSpec.prepare

    def grid_sample(values: torch.Tensor, grid: torch.Tensor, **options: Any) -> torch.Tensor:
        return sample(values, grid.to(values.dtype), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(torch.nn.functional, "grid_sample", grid_sample)
        patch.setattr(InputSpec, "prepare", lambda *given: prepare(*given).double())
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def sequence(cache: FaceCache, directory: Path, method: str) -> list[float]:
    """The total loss of four steps: rounding grows a thousandfold a step, up to a yes or no."""
    with double_precision():
        lines = train_tiny(cache, directory, tiny_run(METHODS[method]))
    return [line["loss"] for line in lines if line["kind"] == "train"][:4]


@pytest.mark.parametrize("method", METHODS)
def test_loss_sequence(method: str, small_cache: FaceCache, tmp_path: Path) -> None:
    """A change of these numbers is a change of the method: say so in the changelog.

    `python -m tests.train.cal.test_cal_golden` writes them anew.
    """
    expected = json.loads(GOLDEN.read_text())[method]
    assert sequence(small_cache, tmp_path, method) == pytest.approx(expected, rel=1e-5)


def test_every_method_changes_the_losses() -> None:
    sequences = [tuple(values) for values in json.loads(GOLDEN.read_text()).values()]
    assert len(set(sequences)) == len(METHODS)


if __name__ == "__main__":
    import tempfile

    from tests.cache.builder import build

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "cache", rows=40, shard_rows=16, occlusion=False, size=40)
        cache = FaceCache.open(Path(folder) / "cache")
        found = {name: sequence(cache, Path(folder) / name, name) for name in METHODS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
