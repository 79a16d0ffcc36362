"""Maps of a decision: what of the embeddings' product speaks for a match at a threshold, where.

The cosine is a sum over the E numbers of the two embeddings; each term is compared with an even
share of the threshold, `decision` / E. Both methods take magnitudes of gradients, which tell where
a number is made and not in which direction; the sign is that of the terms.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, repeat
from faceguide.evaluate.attribution.methods.target import PairScore, Reference

_WHY = "it explains the terms of the product of two embeddings"


def xssab(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """|∂ Σ supporting terms / ∂x| − |∂ Σ opposing terms / ∂x|, means over channels, (N, S, S).

    Similarity Score Argument Backpropagation (Huber et al., 2023): a term supports the match if it
    is at least decision / E. Gradients run through the normalised embedding of the probe.
    """
    score.require_embedding(_WHY)
    leaf, (theirs, *beside) = batch.leaf(), batch.reference
    with torch.enable_grad():
        (own,) = score.quick.describe(leaf, *beside)
        terms = own * theirs
        supports = terms.detach() >= settings.decision / terms.shape[1]
        (gained,) = torch.autograd.grad(terms[supports].sum(), leaf, retain_graph=True)
        (lost,) = torch.autograd.grad(terms[~supports].sum(), leaf)
    return Maps(gained.abs().mean(1) - lost.abs().mean(1))


def fggb(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Σ_k G_k · (term_k − decision / E), (N, S, S); G_k is the k-th number's map of unit length.

    Feature-Guided Gradient Backpropagation (Lu, Xu and Ebrahimi, 2024): G_k is |∂e_k / ∂x| of the
    normalised embedding e, the mean over channels, scaled to length 1. Above 0 is the similarity
    map, below it the dissimilarity map.
    """
    score.require_embedding(_WHY)
    maps, start = [], 0
    for _, group in itertools.groupby(batch.keys):  # pairs of one picture share its gradients
        rows = slice(start, start + len(list(group)))
        theirs, *beside = (part[rows] for part in batch.reference)
        one = tuple(part[:1] for part in beside)
        own, gradients = _gradients(score.quick, batch.probe[start : start + 1], one, settings)
        weights = own * theirs - settings.decision / own.shape[1]
        maps.append(torch.einsum("pk,khw->phw", weights, gradients))
        start = rows.stop
    return Maps(torch.cat(maps))


def _gradients(
    score: PairScore, probe: Tensor, beside: Reference, settings: Settings
) -> tuple[Tensor, Tensor]:
    """The embedding (1, E) of a picture, and its gradient maps (E, S, S), each of length 1."""
    (own,) = score.reference(probe, *beside)
    maps = []
    for numbers in torch.arange(own.shape[1], device=own.device).split(settings.chunk):
        leaf = probe.detach().repeat(len(numbers), 1, 1, 1).requires_grad_(True)
        with torch.enable_grad():
            (found,) = score.describe(leaf, *repeat(beside, len(numbers)))
            chosen = found.gather(1, numbers[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, leaf)
        size = gradient.abs().mean(1)
        maps.append(size / size.flatten(1).norm(dim=1).clamp_min(1e-20)[:, None, None])
    return own, torch.cat(maps)
