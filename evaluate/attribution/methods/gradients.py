"""Methods that read the gradient of the score in the pixels.

Saliency: Simonyan et al., 2013. Gradient×Input: Shrikumar et al., 2016. Both are captum's.
SmoothGrad: Smilkov et al., 2017; ours, because captum's NoiseTunnel draws its noise for a whole
batch, so that a map would depend on its neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import pair_rng
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, pixel_range, repeat
from faceguide.evaluate.attribution.methods.target import (
    PairScore,
    Reference,
    Score,
    score_gradient,
)


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
    """∂s/∂x, signed, summed over channels."""
    from captum.attr import Saliency  # here: it takes half a second to import

    found = Saliency(score.quick).attribute(
        batch.leaf(), abs=False, additional_forward_args=batch.reference
    )
    return Maps(found.detach().sum(1))


def gradient_input(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """x ⊙ ∂s/∂x on prepared pixels, so mid-grey is 0."""
    from captum.attr import InputXGradient

    found = InputXGradient(score.quick).attribute(
        batch.leaf(), additional_forward_args=batch.reference
    )
    return Maps(found.detach().sum(1))


def keyed_noise(batch: Batch, settings: Settings) -> Tensor:
    """(N, samples, 3, S, S) standard normal noise, the same for a pair in any batch."""
    shape = (settings.samples, *batch.probe.shape[1:])
    drawn = [
        pair_rng(pair, settings.seed, "smoothgrad").standard_normal(shape, np.float32)
        for pair in batch.keys
    ]
    return torch.from_numpy(np.stack(drawn)).to(batch.probe)


def smoothgrad(
    score: PairScore, batch: Batch, settings: Settings, noise: Tensor | None = None
) -> Maps:
    """The mean of ∂s/∂x over noisy copies, signed as in the paper.

    Args:
        noise: (N, samples, 3, S, S) instead of `keyed_noise`.
    """
    noise = keyed_noise(batch, settings) if noise is None else noise
    sigma = settings.noise * pixel_range(score.input_spec)
    noisy = (batch.probe[:, None] + sigma * noise).flatten(0, 1)
    reference = repeat(batch.reference, noise.shape[1])
    _, gradient = chunked_gradient(score.quick, noisy, reference, settings.chunk)
    # (N·samples, 3, S, S) -> (N, samples, 3, S, S)
    return Maps(gradient.unflatten(0, noise.shape[:2]).mean(1).sum(1))


def expected_gradients(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Integrated Gradients from other faces: (x − b) ⊙ ∂s/∂x at one place of each line, averaged.

    Of `steps` faces b of other identities; places are spread evenly, one in each part of the line
    (Erion et al., 2021, with faces for the background).
    """
    count = settings.steps
    faces = batch.other_faces(count)
    places = torch.from_numpy(
        np.stack(
            [
                (rng.permutation(count) + rng.random(count)) / count
                for rng in (pair_rng(key, settings.seed, "expected") for key in batch.keys)
            ]
        ).astype(np.float32)
    ).to(batch.probe)
    step = batch.probe[:, None] - faces
    images = (faces + places[:, :, None, None, None] * step).flatten(0, 1)
    _, gradient = chunked_gradient(
        score.quick, images, repeat(batch.reference, count), settings.chunk
    )
    return Maps((step * gradient.unflatten(0, places.shape)).mean(1).sum(1))
