"""AdaFace against the original's three training steps, the other heads against their formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.models.parity_fill import load_case, relative_error, sample
from torch import Tensor, multiprocessing, nn

from faceguide.train.models import create


def test_equal_weights_give_the_original_adaface() -> None:
    case = load_case("adaface_head")
    generator = np.random.default_rng(1)
    head = create("adaface", num_classes=50)
    with torch.no_grad():
        head.kernel.copy_(torch.as_tensor(generator.normal(size=(512, 50))))
    for step in range(3):
        raw = generator.normal(size=(16, 512)) * generator.uniform(0.2, 3, (16, 1))
        label = torch.as_tensor(generator.integers(0, 50, 16))
        assert label.tolist() == case[f"labels_{step}"].tolist()
        features = torch.tensor(raw, dtype=torch.float32, requires_grad=True)
        norm = features.norm(dim=1, keepdim=True)
        logits = head(features / norm, norm, label)
        loss = nn.functional.cross_entropy(logits, label)
        loss.backward()
        assert relative_error(logits, case[f"logits_{step}"]) < 1e-5
        assert loss.item() == pytest.approx(float(case[f"loss_{step}"]), rel=1e-6)
        expected = case[f"grad_sample_{step}"]
        assert relative_error(sample(features.grad, expected), expected) < 1e-5
        moving = [head.batch_mean.item(), head.batch_std.item()]
        assert moving == pytest.approx(case[f"ema_{step}"], rel=1e-6)


def inputs(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(count, 8, generator=generator) * 10
    norm = raw.norm(dim=1, keepdim=True)
    return raw / norm, norm, torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_fixed_margins(name: str) -> None:
    head = create(name, num_classes=5, embedding_size=8)
    unit, norm, label = inputs(6, 5)
    logits = head(unit, norm, label).detach().numpy()
    weight = head.kernel.detach().numpy()
    for row in range(6):
        for column in range(5):
            w = weight[:, column] / np.linalg.norm(weight[:, column])
            cosine = float(unit[row].numpy() @ w)
            if column == label[row]:
                arc = math.cos(min(math.acos(cosine) + 0.5, math.pi - 1e-4))
                cosine = arc if name == "arcface" else cosine - 0.4
            assert logits[row, column] == pytest.approx(64 * cosine, abs=1e-3)


@pytest.mark.parametrize("name", ["adaface", "arcface", "cosface"])
def test_an_embedding_on_its_class_centre_has_finite_gradients(name: str) -> None:
    head = create(name, num_classes=3, embedding_size=8)
    unit = nn.functional.normalize(head.kernel.detach()[:, :2], dim=0).T.clone().requires_grad_()
    label = torch.tensor([0, 0])  # the first embedding equals its centre
    logits = head(unit, torch.full((2, 1), 20.0), label)
    nn.functional.cross_entropy(logits, label).backward()
    assert unit.grad.isfinite().all()
    assert head.kernel.grad.isfinite().all()
    assert head.kernel.grad.abs().max() > 0


def test_high_norms_get_the_cosine_margin_and_low_ones_the_angle() -> None:
    head = create("adaface", num_classes=2, embedding_size=8).eval()
    with torch.no_grad():
        head.kernel.zero_()[0, 0] = 1
        head.kernel[1, 1] = 1
    unit = torch.zeros(2, 8)
    unit[:, 0], unit[:, 2] = 0.6, 0.8
    norm = torch.tensor([[100.0], [0.001]])
    head.batch_mean.fill_(20.0)
    head.batch_std.fill_(1.0)
    logits = head(unit, norm, torch.tensor([0, 0])).detach() / 64
    angle = math.acos(0.6)
    # Quality +1: angle − m and −2m; quality −1: angle + m and no cosine margin.
    assert logits[0, 0].item() == pytest.approx(math.cos(angle - 0.4) - 0.8, abs=1e-5)
    assert logits[1, 0].item() == pytest.approx(math.cos(angle + 0.4), abs=1e-5)


def test_the_moving_mean_is_frozen_in_eval() -> None:
    head = create("adaface", num_classes=5, embedding_size=8).eval()
    before = {k: v.clone() for k, v in head.state_dict().items()}
    first = head(*inputs(6, 5))
    assert torch.equal(first, head(*inputs(6, 5)))
    for key, value in head.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_batch_of_one_leaves_the_moving_mean() -> None:
    head = create("adaface", num_classes=5, embedding_size=8)
    logits = head(*inputs(1, 5))
    assert logits.isfinite().all()
    assert (head.batch_mean.item(), head.batch_std.item()) == (20.0, 100.0)
    head(*inputs(4, 5))
    assert head.batch_mean.item() != 20.0


def test_equal_norms_have_a_deviation_of_zero_not_nan() -> None:
    head = create("adaface", num_classes=5, embedding_size=8, t_alpha=1.0)
    unit, _, label = inputs(4, 5)
    logits = head(unit, torch.full((4, 1), 7.3), label)
    assert head.batch_std.item() == pytest.approx(0.0, abs=1e-3)
    assert logits.isfinite().all()


def test_the_norm_gets_no_gradient() -> None:
    head = create("adaface", num_classes=5, embedding_size=8)
    unit, norm, label = inputs(4, 5)
    norm.requires_grad_()
    unit.requires_grad_()
    head(unit, norm, label).sum().backward()
    assert unit.grad.abs().max() > 0
    assert norm.grad is None


def test_autocast_does_not_reach_the_angles() -> None:
    head = create("adaface", num_classes=5, embedding_size=8).eval()
    expected = head(*inputs(6, 5))
    with torch.autocast("cpu", torch.bfloat16):
        found = head(*inputs(6, 5))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def _rank(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    head = create("adaface", num_classes=5, embedding_size=8, t_alpha=0.5)
    unit, norm, label = inputs(7, 5)
    rows = slice(0, 1) if rank == 0 else slice(1, 7)  # one of the ranks has a batch of one
    logits = head(unit[rows], norm[rows], label[rows])
    torch.save((logits.detach(), head.batch_mean, head.batch_std), f"{out}{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_statistics_of_the_whole_batch(tmp_path: Path) -> None:
    context = multiprocessing.start_processes(
        _rank, (str(tmp_path / "store"), str(tmp_path / "rank")), nprocs=2, start_method="spawn"
    )
    assert context is None
    torch.manual_seed(0)
    head = create("adaface", num_classes=5, embedding_size=8, t_alpha=0.5)
    unit, norm, label = inputs(7, 5)
    expected = head(unit, norm, label).detach()
    parts = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([parts[0][0], parts[1][0]]), expected)
    for _, mean, std in parts:
        torch.testing.assert_close(mean, head.batch_mean)
        torch.testing.assert_close(std, head.batch_std)
    assert head.batch_std.item() != 100.0
