"""`--compile`: the numbers of a run without it, and one line where it cannot work."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch._dynamo
import torch._inductor.config
from tests.train.oaml.scenario import tiny_run, train_tiny
from tests.train.oaml.test_oaml_run import make_caches
from tests.train.own_networks import write

from faceguide.core.errors import TrainError


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of networks on the path, and nothing compiled before."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    write(tmp_path, "compiled_networks")
    monkeypatch.syspath_prepend(str(tmp_path))
    torch._dynamo.reset()
    yield tmp_path
    torch._dynamo.reset()
    sys.modules.pop("compiled_networks", None)


@pytest.mark.skipif(" " in sys.prefix, reason="torch's compiler calls take no path with a space")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_has_the_losses_of_a_plain_one(fresh: Path) -> None:
    faces, veiled = make_caches(fresh)
    run = tiny_run(backbone="compiled_networks:build")
    plain, compiled = (
        train_tiny(faces, fresh / name, run, veiled, steps=3, compile=name == "compiled")
        for name in ("plain", "compiled")
    )
    assert list((fresh / "kernels").rglob("*.so")), "nothing was compiled"
    steps = 0
    for expected, found in zip(plain, compiled, strict=True):
        if expected["kind"] == "train":
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
            steps += 1
    assert steps == 3


def test_a_compiler_that_fails_is_one_line(fresh: Path) -> None:
    faces, veiled = make_caches(fresh)
    run = tiny_run(backbone="compiled_networks:build")
    with (
        torch._inductor.config.patch({"cpp.cxx": (shutil.which("false"),)}),
        pytest.raises(TrainError, match=r"^torch\.compile failed: .*leave --compile out") as caught,
    ):
        train_tiny(faces, fresh / "run", run, veiled, steps=1, compile=True)
    assert "\n" not in str(caught.value)
