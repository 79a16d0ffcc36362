"""What every finder can do: see faces with its own detector, and lay its mesh into any square."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from faceguide.preprocess.detect.square import Boxes, Image, Square

# What finds the boxes of a second look.
BoxDetector = Callable[[Image], Boxes]


@dataclass(frozen=True)
class Limits:
    """What a mesh has to reach to be believed; each finder has its own.

    Attributes:
        presence: at least this presence, 0 to 1.
        mirror: at most this disagreement with the mirrored image, in eye distances.
        eyes: irises at most this far from the detector's eyes, in eye distances.
    """

    presence: float
    mirror: float
    eyes: float


class Finder(Protocol):
    """One engine with its models. Not to be shared between threads or sent to a process.

    The plain look of every finder is its mesh in the square of one of its own boxes.

    Attributes:
        name: as `--finder` takes it.
        version: of the engine, as "mediapipe 0.10.21".
        digest: hex sha256 of its model file or files, the first 32 digits.
        limits: of second looks, by what the boxes come from: "centerface", "yunet", "mediapipe".
        doubted: of the plain look, for a mesh of low presence or in a box of low score; None:
            low presence is no face, and every other find is one.
    """

    name: str
    version: str
    digest: str
    limits: Mapping[str, Limits]
    doubted: Limits | None

    def boxes(self, image: Image) -> Boxes:
        """Faces that its own short-range detector (BlazeFace) sees, of scores of .5 and more."""
        ...

    def mesh(self, image: Image, square: Square) -> tuple[NDArray[np.float32], float]:
        """The 478 landmarks of the face in a square, whether or not there is one.

        Returns:
            (478, 3) x, y and z in pixels of the image, z growing away from the camera; and the
            presence, how sure the network is that this is a face, 0 to 1, or NaN where the engine
            says only that it is one.
        """
        ...

    def close(self) -> None:
        """Release its networks."""
        ...
