"""The cell-response table: what each cell does to the score, measured once per picture.

49 cells × R infills cost 49·R forwards per probe, whatever the number of methods and of pairs the
probe is in; each method's test is then a look-up. Measuring for every method would cost as much
for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.evaluate.attribution.cells import CELLS, cell_masks
from faceguide.evaluate.attribution.methods.maps import expanded
from faceguide.evaluate.attribution.methods.target import PairScore, Reference
from faceguide.evaluate.attribution.protocol.infill import replaced
from faceguide.evaluate.attribution.threshold import angles

TABLE_CHUNK = 32  # images of one forward, see `maps.Settings.chunk`


@dataclass(frozen=True)
class Responses:
    """Of one probe and its P pairs.

    Attributes:
        clean: (P,) scores of the untouched probe.
        masked: (P, 49, R) scores with one cell replaced.
        angle: (49, R) radians between the embeddings of the probe with and without the cell; NaN
            for matchers without one embedding.
        embedding: (49, R, E) float16 of length 1, or None.
    """

    clean: NDArray[np.float32]
    masked: NDArray[np.float32]
    angle: NDArray[np.float32]
    embedding: NDArray[np.float16] | None


@torch.inference_mode()
def measure(
    score: PairScore, probe: Tensor, reference: Reference, fills: Tensor, chunk: int = TABLE_CHUNK
) -> Responses:
    """Measure all cells of one probe against all of its references.

    Args:
        probe: (3, S, S) prepared pixels.
        reference: described references, P rows.
        fills: (R, 3, S, S) prepared pictures that cells are taken from.
        chunk: about so many images per forward.
    """
    score = score.quick
    masks = cell_masks(probe.shape[-1]).to(probe.device)
    infills, pairs = len(fills), len(reference[0])
    beside = score.beside(expanded(reference, 0, 1))
    clean_parts = score.describe(probe[None], *beside)
    clean = torch.cat(
        [score.compare(clean_parts, expanded(reference, row, 1)) for row in range(pairs)]
    )
    masked = torch.empty(pairs, CELLS, infills)
    angle = torch.full((CELLS, infills), torch.nan)
    embeddings = []
    step = max(1, chunk // infills)
    for start in range(0, CELLS, step):
        part = masks[start : start + step]
        images = replaced(probe, fills, part).flatten(0, 1)
        described = score.describe(images, *expanded(beside, 0, len(images)))
        shape = (len(part), infills)
        for row in range(pairs):
            values = score.compare(described, expanded(reference, row, len(described[0])))
            masked[row, start : start + step] = values.float().cpu().unflatten(0, shape)
        if score.has_embedding:
            turned = angles(described[0], clean_parts[0])
            angle[start : start + step] = turned.float().cpu().unflatten(0, shape)
            embeddings.append(described[0].cpu().half().unflatten(0, shape))
    return Responses(
        clean.float().cpu().numpy(),
        masked.numpy(),
        angle.numpy(),
        torch.cat(embeddings).numpy() if embeddings else None,
    )


def table_forwards(infills: int) -> int:
    """Forwards per probe."""
    return CELLS * infills + 1
