"""`--surround swap=P`: training images in another identity's hair and background.

A network that is trained on faces in ever other surrounds learns to do without them. The face that
counts stays where it is, so its landmarks, masks and label stay exact; random numbers are keyed by
(seed, epoch, row).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Transform
from faceguide.core.faces.surround import Donors, surround_behind_face
from faceguide.train.data.keyed_random import keyed_uniform

PURPOSE_SURROUND = 41


def swapping(cache: FaceCache, rows: NDArray[np.int64], share: float, seed: int) -> Transform:
    """The transform of a stream whose batches have `image` and `landmarks`.

    Args:
        rows: (N,) increasing rows that are learnt; donors are taken from them.
        share: of the images that get another surround, 0 to 1. A face whose occlusion is known
            (`known` in the batch) keeps its own: its mask is about the whole image.
    """
    found = cache.read(rows, ["pose", "label"])
    donors = Donors(found["pose"], found["label"])

    def transform(batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        draws = keyed_uniform((seed, epoch, PURPOSE_SURROUND), batch["row"], 2).numpy()
        swapped = draws[:, 0] < share
        if "known" in batch:
            swapped &= ~batch["known"].numpy().astype(bool)
        images, points = batch["image"].numpy(), batch["landmarks"].numpy()
        size = images.shape[1]
        for place in np.flatnonzero(swapped).tolist():
            index = int(np.searchsorted(rows, int(batch["row"][place])))
            chosen = donors.choose(index, draws[place, 1:])
            if len(chosen):
                other = cache.read(rows[chosen], ["image", "landmarks"])
                images[place] = surround_behind_face(
                    images[place], points[place] * size, other["image"][0],
                    other["landmarks"][0] * size,
                )  # fmt: skip
        return batch

    return transform
