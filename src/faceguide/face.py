"""One face, from wherever a caller has it: a photograph, a crop, or a row of a cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceguide.cache.schema import ORIGINS, STATUSES
from faceguide.core.errors import FaceguideError
from faceguide.core.faces.align import apply, invert
from faceguide.core.files import remedy
from faceguide.preprocess.aligned_face import Failure, find
from faceguide.preprocess.detect.boxes.box_detectors import best_kept
from faceguide.preprocess.detect.finders.open_finder import FinderName
from faceguide.preprocess.detect.pose import head_pose
from faceguide.preprocess.face_settings import FaceSettings


@dataclass(frozen=True, eq=False)
class Face:
    """An aligned crop and what is known of it; None = not known.

    Attributes:
        crop: (S, S, 3) uint8 RGB.
        name: of the file or the row, for messages.
        landmarks: (478, 3) float32 x, y, z in pixels of the crop, x right, y down.
        transform: (2, 3) pixels of the photograph → pixels of the crop.
        pose: (3,) float32 yaw, pitch, roll in degrees.
        visibility: (g, g) float32, 1 = visible, 0 = occluded.
        origin: where the landmarks come from, a name in `cache.schema.ORIGINS`.
        quality: agreement with the mirrored image, 0 to 1; NaN where it was not measured.
        status: "ok", or why a row has no face, a name in `cache.schema.STATUSES`.
    """

    crop: NDArray[np.uint8]
    name: str = "a crop"
    landmarks: NDArray[np.float32] | None = None
    transform: NDArray[np.floating] | None = None
    pose: NDArray[np.float32] | None = None
    visibility: NDArray[np.float32] | None = None
    origin: str = "none"
    quality: float = float("nan")
    status: str = "ok"

    @property
    def source_landmarks(self) -> NDArray[np.float64] | None:
        """(478, 3) landmarks in pixels of the photograph."""
        if self.landmarks is None or self.transform is None:
            return None
        return apply(invert(self.transform), self.landmarks)


def align(
    photo: str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8],
    *,
    size: int = 112,
    margin: float = 0.0,
    choose: Literal["largest", "center"] = "largest",
    finder: FinderName = "auto",
    model: Path | None = None,
) -> Face:
    """Find the face in a photograph and cut it out, as `prep landmarks` does.

    Args:
        photo: a file, its bytes, a picture that Pillow opened (turned upright as its EXIF says),
            or (H, W, 3) uint8 RGB pixels.
        size: side of the crop in pixels.
        margin: what the crop shows beyond the template on each side, as a share of it.
        choose: the face that counts among several: the "largest" or the one in the "center".
        finder: "face-mesh", "landmarker", "opencv", or "auto": the first that is installed.
        model: MediaPipe's face_landmarker.task, for landmarker and opencv.

    Raises:
        FaceguideError: when the file cannot be read, it shows no face, or mediapipe is missing.
    """
    name, data = _opened(photo)
    settings = FaceSettings(
        Path(),
        size=size,
        margin=margin,
        choose=choose,
        finder=finder,
        model=model,
        boxes=best_kept(),
    )
    try:
        found = find(data, settings, name)
    except Failure as failure:
        hint = "; an aligned crop is given as an array" if failure.status == "no_face" else ""
        raise FaceguideError(f"{name}: {failure.reason}{hint}") from None
    return Face(
        found.crop,
        name,
        apply(found.transform, found.landmarks).astype(np.float32),
        found.transform,
        head_pose(found.landmarks.astype(np.float32)),
        None,
        found.origin,
        found.quality,
    )


def face_of_row(row: Mapping[str, Any]) -> Face:
    """A sample of a cache, `cache[12]`, or of a batch; columns that it lacks are not known."""
    name = str(row.get("key", f"row {row['row']}" if "row" in row else "a row"))
    if "image" not in row:
        raise FaceguideError(f"{name}: a row without the column image is no face; read it too")
    columns = {field.name for field in fields(Face)} | {"image", "known"}
    values = {column: _array(row[column]) for column in columns & row.keys()}
    crop = values["image"]
    landmarks, visibility = values.get("landmarks"), values.get("visibility")
    known = visibility is not None and bool(values.get("known", True))
    return Face(
        crop,
        name,
        None if landmarks is None else landmarks * np.float32(len(crop)),
        values.get("transform"),
        values.get("pose"),
        visibility.astype(np.float32) if visibility is not None and known else None,
        ORIGINS[int(values.get("origin", 0))],
        float(values.get("quality", np.nan)),
        STATUSES[int(values.get("status", 0))],
    )


def is_single(given: Any) -> bool:
    """Whether this is one face and not several."""
    if isinstance(given, Mapping):
        return "image" not in given or _array(given["image"]).ndim == 3
    if isinstance(given, Face | str | os.PathLike | bytes | Image.Image):
        return True
    return hasattr(given, "ndim") and given.ndim < 4


def faces_of(given: Any, side: int) -> Iterator[Face]:
    """The faces that a caller means.

    Args:
        given: a `Face`, a row or a batch of a cache, a photograph as `align` takes it, or a list
            of any. A picture that is exactly as large as the network's crops is one: pixels of
            side × side are not searched for a face. A file always is a photograph.
        side: of the network's crops.

    Raises:
        FaceguideError: as `align`; for a row without a face; for anything else.
    """
    if not is_single(given):
        for one in _several(given):
            yield from faces_of(one, side)
        return
    if isinstance(given, Mapping):
        given = face_of_row(given)
    if isinstance(given, Face):
        if given.status != "ok":
            raise FaceguideError(
                f"{given.name}: no face here ({given.status}); cache.select() gives the rows with "
                "one"
            )
        yield given
        return
    if hasattr(given, "ndim"):
        given = _array(given)
        if given.shape == (side, side, 3) and given.dtype == np.uint8:
            yield Face(given)
            return
    elif isinstance(given, Image.Image) and given.size == (side, side):
        yield Face(np.array(given.convert("RGB")))
        return
    yield align(given, size=side)


def _several(given: Any) -> Any:
    if isinstance(given, Mapping):  # a batch: column → N values
        count = len(given["image"])
        return [{name: values[i] for name, values in given.items()} for i in range(count)]
    if hasattr(given, "ndim") or isinstance(given, list | tuple):
        return given
    raise FaceguideError(
        f"{type(given).__name__} is no face: give a file, a picture, (H, W, 3) pixels, a row of a "
        "cache, a Face, or a list of them"
    )


def _array(value: Any) -> NDArray[Any]:
    """Numpy values of a tensor, wherever it lies, or of an array."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def _opened(photo: Any) -> tuple[str, Any]:
    """A name for messages, and what `decode` takes."""
    if isinstance(photo, str | os.PathLike):
        try:
            return str(photo), Path(photo).read_bytes()
        except OSError as error:
            raise FaceguideError(f"{photo}: cannot read: {remedy(error)}") from None
    if isinstance(photo, Image.Image):
        return str(getattr(photo, "filename", "") or "a picture"), photo
    return "a photograph", photo if isinstance(photo, bytes) else _array(photo)
