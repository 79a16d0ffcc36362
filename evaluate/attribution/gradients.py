"""Methods that read the gradient of the score in the pixels.

Saliency: Simonyan et al., 2013. Gradient×Input: Shrikumar et al., 2016. SmoothGrad: Smilkov et
al., 2017. Integrated Gradients: Sundararajan et al., 2017, by captum.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from faceguide.evaluate.attribution.cells import pair_rng
from faceguide.evaluate.attribution.maps import (
    Batch,
    Maps,
    Settings,
    baseline_for,
    pixel_range,
    repeat,
)
from faceguide.evaluate.attribution.target import PairScore, Reference, Score, score_gradient


def chunked_gradient(
    score: Score, probe: Tensor, reference: Reference, chunk: int
) -> tuple[Tensor, Tensor]:
    """Score (M,) and gradient (M, 3, S, S) of many images, `chunk` at a time."""
    parts = [
        score_gradient(
            score, probe[start : start + chunk], tuple(p[start : start + chunk] for p in reference)
        )
        for start in range(0, len(probe), chunk)
    ]
    return torch.cat([value for value, _ in parts]), torch.cat([grad for _, grad in parts])


def saliency(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """∂s/∂x, summed over channels; equals captum's Saliency without its absolute value."""
    _, gradient = chunked_gradient(score, batch.probe, batch.reference, settings.chunk)
    return Maps(gradient.sum(1))


def gradient_input(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """x ⊙ ∂s/∂x on prepared pixels, so mid-grey is 0; equals captum's InputXGradient."""
    _, gradient = chunked_gradient(score, batch.probe, batch.reference, settings.chunk)
    return Maps((gradient * batch.probe).sum(1))


def keyed_noise(batch: Batch, settings: Settings) -> Tensor:
    """(N, samples, 3, S, S) standard normal noise, the same for a pair in any batch."""
    shape = (settings.samples, *batch.probe.shape[1:])
    drawn = [
        pair_rng(pair, settings.seed, "smoothgrad").standard_normal(shape, np.float32)
        for pair in batch.pairs
    ]
    return torch.from_numpy(np.stack(drawn)).to(batch.probe)


def smoothgrad(
    score: PairScore, batch: Batch, settings: Settings, noise: Tensor | None = None
) -> Maps:
    """The mean of ∂s/∂x over noisy copies, signed as in the paper.

    captum's NoiseTunnel gives the same for the same noise, but draws it for a whole batch, so that
    a map would depend on its neighbours.

    Args:
        score: what is explained.
        batch: the pairs.
        settings: `samples` and `noise`.
        noise: (N, samples, 3, S, S) instead of `keyed_noise`.
    """
    noise = keyed_noise(batch, settings) if noise is None else noise
    sigma = settings.noise * pixel_range(score.input_spec)
    noisy = (batch.probe[:, None] + sigma * noise).flatten(0, 1)
    reference = repeat(batch.reference, noise.shape[1])
    _, gradient = chunked_gradient(score, noisy, reference, settings.chunk)
    # (N·samples, 3, S, S) -> (N, samples, 3, S, S)
    return Maps(gradient.unflatten(0, noise.shape[:2]).mean(1).sum(1))


@torch.no_grad()
def score_change(score: PairScore, batch: Batch, baseline: Tensor) -> Tensor:
    """(N,) s(x) − s(b): what IG along any path must add up to."""
    value: Tensor = score(batch.probe, *batch.reference) - score(baseline, *batch.reference)
    return value


def integrated_gradients(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """(x − b) ⊙ ∫ ∂s/∂x along the straight line, Gauss–Legendre, by captum.

    Σ map = s(x) − s(b) up to the quadrature; the error is in the result.
    """
    from captum.attr import IntegratedGradients

    baseline = baseline_for(score, batch.probe, settings.baseline)
    values = IntegratedGradients(score).attribute(
        batch.probe,
        baselines=baseline,
        additional_forward_args=batch.reference,
        n_steps=settings.steps,
        internal_batch_size=max(settings.chunk, len(batch.probe)),
    )
    return Maps(values.detach().sum(1), score_change(score, batch, baseline))
