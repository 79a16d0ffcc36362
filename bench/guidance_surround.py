"""bench/guidance.py: the surround test on identities that were not learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from guidance_trunk import kept
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.cache.reader import FaceCache
from faceguide.evaluate.surround.looked_at import COVERS, Faces
from faceguide.evaluate.surround.surround_scores import surround_scores

FIGURES = (
    "far_shared", "face_over_hair", "pull", "tar_swapped", *(f"tar_{name}" for name in COVERS),
)  # fmt: skip
_STEP = 64


@dataclass(frozen=True)
class SurroundTest:
    """The images of `evaluate surround`, composed once for all networks.

    Attributes:
        faces: those that the test looks at.
        shown: kind → (N, …) images, or what a trunk that is not trained made of them.
    """

    faces: Faces
    shown: dict[str, Tensor]

    @classmethod
    def of(
        cls, cache: FaceCache, rows: NDArray[np.int64], work: Path,
        trunk: Callable[[Tensor], Tensor] | None,
    ) -> SurroundTest:  # fmt: skip
        """Compose the images.

        Args:
            rows: identities that are not learnt.
            work: folder for the trunk's maps.
            trunk: uint8 images → maps; None keeps the images.
        """
        faces = Faces.of(cache, rows, len(rows), seed=0)

        def covered() -> list[NDArray[np.uint8]]:
            every = [np.stack(list(faces.covered(int(place)))) for place in faces.mated]
            return list(np.stack(every, 1))

        made: dict[str, Callable[[], NDArray[np.uint8]]] = {
            "clean": lambda: faces.images,
            "swapped": lambda: np.stack([faces.composed(n) for n in range(len(faces.face))]),
            **{name: lambda place=place: covered()[place] for place, name in enumerate(COVERS)},
        }
        if trunk is None:
            return cls(faces, {kind: torch.from_numpy(make()) for kind, make in made.items()})

        def mapped(make: Callable[[], NDArray[np.uint8]]) -> Callable[[], Tensor]:
            return lambda: _in_steps(torch.from_numpy(make()), trunk)

        return cls(
            faces,
            {kind: kept(work / f"surround-{kind}.npy", mapped(f)) for kind, f in made.items()},
        )

    def figures(self, network: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """`FIGURES` of a network that takes what is `shown`."""

        def embed(kind: str) -> NDArray[np.float32]:
            found = nn.functional.normalize(_in_steps(self.shown[kind], network), dim=1)
            return found.numpy()

        record, _ = surround_scores(self.faces, embed, 0, 0)
        return {name: record[name] for name in FIGURES}


@torch.no_grad()
def _in_steps(images: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([network(some) for some in images.split(_STEP)])
