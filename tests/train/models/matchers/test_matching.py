"""Matching in blocks against the matcher itself."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.models.parity_fill import fill
from torch import Tensor

from faceguide.train.models import ModelError, create
from faceguide.train.models.matchers import matching
from faceguide.train.models.matchers.qaconv import WEIGHTINGS, QAConv


def matcher(version: str, weighting: str, channels: int = 6, side: int = 3) -> QAConv:
    made: QAConv = create(
        "qaconv",
        version=version,
        channels=channels,
        height=side,
        width=side,
        weighting=weighting,
    )
    fill(made)
    return made.eval()


def draw(count: int, seed: int, channels: int = 6, side: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, channels, side, side, generator=generator)
    seen = torch.rand(count, 1, side, side, generator=generator)
    seen = torch.where(seen < 0.4, 0.0, torch.where(seen < 0.6, 1.0, seen))
    seen[::5] = 0  # some faces are hidden entirely
    return maps, seen


@given(
    st.sampled_from(("2.1", "2.0")),
    st.sampled_from(WEIGHTINGS),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(((False, False), (True, False), (False, True), (True, True))),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_blocks_score_as_the_matcher(
    version: str, weighting: str, probes: int, faces: int, given: tuple[bool, bool], seed: int
) -> None:
    made = matcher(version, weighting)
    (probe, v_probe), (gallery, v_gallery) = draw(probes, seed), draw(faces, seed + 1)
    seen = v_probe if given[0] else None, v_gallery if given[1] else None
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        # Blocks of two probes and four gallery faces: the last ones are narrower.
        patch.setattr(matching, "_block_sizes", lambda *_: (2, 4))
        found = matching.match(made, probe, gallery, *seen)
        torch.testing.assert_close(found, made(probe, gallery, *seen), rtol=1e-5, atol=1e-5)


def test_training_mode_does_not_change_the_scores() -> None:
    made = matcher("2.1", "common")
    (probe, v_probe), (gallery, v_gallery) = draw(3, 0), draw(4, 1)
    expected = made(probe, gallery, v_probe, v_gallery)
    before = made.bn.running_mean.clone()
    found = matching.match(made.train(), probe, gallery, v_probe, v_gallery)
    torch.testing.assert_close(found, expected)
    assert torch.equal(made.bn.running_mean, before)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_bfloat16_keeps_the_order_of_real_sized_maps(weighting: str) -> None:
    made = matcher("2.1", weighting, 512, 7)
    gallery, v_gallery = draw(70, 0, 512, 7)
    v_gallery[::5] = 1
    generator = torch.Generator().manual_seed(1)
    probe = gallery[:10] + 1.5 * torch.randn(10, 512, 7, 7, generator=generator)
    v_probe = draw(10, 2, 512, 7)[1]
    v_probe[::5] = 1
    exact = matching.match(made, probe, gallery, v_probe, v_gallery)
    rough = matching.match(made, probe, gallery, v_probe, v_gallery, dtype=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05 * exact.std()
    assert torch.equal(rough.argmax(1), exact.argmax(1))
    assert not torch.equal(rough, exact)


def test_block_sizes_stay_in_the_budget_and_cover_everything() -> None:
    device = torch.device("cpu")
    for faces in (1, 63, 64, 65, 127, 1000, 1001):
        probes, step = matching._block_sizes(faces, 49, 4, device)
        assert probes >= 1
        assert min(faces, 64) <= step < 128
        assert probes * step * 49 * 49 * 4 <= matching.CPU_BLOCK_BYTES
        rows = [list(range(1001))[s] for s in matching._slices(faces, step, full=True)]
        assert all(len(row) == min(step, faces) for row in rows)
        assert {index for row in rows for index in row} == set(range(faces))
    # One pair of fine maps is more than the budget: still a block.
    assert matching._block_sizes(10, 56 * 56, 4, device)[0] == 1


def test_memory_is_that_of_blocks_and_scores() -> None:
    """No tensor of the whole product is ever made: the largest one stays under 1/20 of it."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    made = matcher("2.1", "common", 8, 7)
    (probe, v_probe), (gallery, v_gallery) = draw(200, 0, 8, 7), draw(210, 1, 8, 7)
    with Watch():
        matching.match(made, probe, gallery, v_probe, v_gallery)
    whole = 200 * 210 * 49 * 49 * 4
    assert matching.CPU_BLOCK_BYTES / 2 < largest < whole / 20


def test_wrong_shapes_are_refused() -> None:
    made = matcher("2.1", "mask")
    probe, seen = draw(3, 0)
    with pytest.raises(ModelError, match=r"made for maps of \(N, 6, 3, 3\)"):
        matching.match(made, *[torch.zeros(2, 5, 3, 3)] * 2)
    with pytest.raises(ModelError, match="found 2 gallery visibilities for 3 maps"):
        matching.match(made, probe, probe, seen, seen[:2])


@pytest.fixture
def fresh_compilation() -> Iterator[None]:
    """The compiled function is kept for the process; these tests want their own."""
    matching._compiled_matches.cache_clear()
    yield
    matching._compiled_matches.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compilation")
@pytest.mark.skipif(" " in sys.prefix, reason="torch's compiler calls take no path with a space")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_scores_are_those_without(dtype: torch.dtype) -> None:
    made = matcher("2.1", "common")
    (probe, v_probe), (gallery, v_gallery) = draw(5, 0), draw(9, 1)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        patch.setattr(matching, "_block_sizes", lambda *_: (2, 4))
        plain = matching.match(made, probe, gallery, v_probe, v_gallery, dtype)
        compiled = matching.match(made, probe, gallery, v_probe, v_gallery, dtype, compile=True)
    torch.testing.assert_close(compiled, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("fresh_compilation")
def test_without_a_compiler_a_warning_says_so_and_the_scores_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cannot(function: object, **options: object) -> object:
        def fail(*arguments: object) -> object:
            raise RuntimeError("No working C++ compiler found\nlong text")

        return fail

    monkeypatch.setattr(torch, "compile", cannot)
    made = matcher("2.1", "common")
    (probe, _), (gallery, _) = draw(5, 0), draw(9, 1)
    with pytest.warns(UserWarning, match="failed: No working C\\+\\+ compiler found; on a CPU"):
        found = matching.match(made, probe, gallery, compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert torch.equal(found, matching.match(made, probe, gallery, compile=True))
    torch.testing.assert_close(found, matching.match(made, probe, gallery))
