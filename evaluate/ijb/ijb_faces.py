"""Crops of IJB's loose crops, cut by the five points of its meta files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.core.errors import FaceguideError

# The one decoder and the one source → crop transform of the product.
from faceguide.core.faces import align
from faceguide.core.faces.decode import decode
from faceguide.core.files import digest, file_sha256
from faceguide.evaluate.ijb import ijb_points
from faceguide.evaluate.ijb.ijb_meta import IJBMeta

FOLDER = "loose_crop"


def content_key(meta: IJBMeta, side: int) -> str:
    """Names what crops of a side in pixels depend on: the file with points, the images' sizes."""
    path = meta.folder / "meta" / f"{meta.name}_name_5pts_score.txt"
    sizes = []
    for name in meta.images:
        try:
            sizes.append((meta.folder / FOLDER / name).stat().st_size)
        except OSError:
            sizes.append(-1)
    return digest({"points": file_sha256(path), "sizes": sizes, "crop": side})


def read_crop(
    meta: IJBMeta, place: int, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | str:
    """(side, side, 3) uint8 RGB of one image and its five points in 0…1, or why there is none."""
    root = meta.folder / FOLDER
    path = root / meta.images[place]
    if not path.resolve().is_relative_to(root.resolve()):
        return "outside loose_crop"
    try:
        image = decode(path.read_bytes())
        if reason := ijb_points.misplaced(meta.points[place], image.shape[1], image.shape[0]):
            return reason
        matrix = align.similarity(meta.points[place].astype(np.float64), align.template(side))
    except OSError as error:
        return error.strerror or "cannot be read"
    except (FaceguideError, ValueError) as error:
        return str(error)
    points = align.apply(matrix, meta.points[place]) / side
    return align.warp(image, matrix, side), points.astype(np.float32)


def crops(
    meta: IJBMeta, wanted: Sequence[NDArray[np.int64]], side: int, failures: dict[int, str]
) -> Iterator[tuple[NDArray[np.int64], torch.Tensor, torch.Tensor]]:
    """(places, (N, side, side, 3) uint8, (N, 5, 2) points in 0…1) of each list of images asked for.

    What cannot be read is left out and noted in `failures`, place → reason.
    """
    with ThreadPoolExecutor(2) as pool:
        for places in wanted:
            found = list(pool.map(lambda place: read_crop(meta, int(place), side), places))
            good = [position for position, crop in enumerate(found) if not isinstance(crop, str)]
            pixels = np.zeros((len(good), side, side, 3), np.uint8)
            points = np.zeros((len(good), 5, 2), np.float32)
            for place, crop in zip(places.tolist(), found, strict=True):
                if isinstance(crop, str):
                    failures[place] = crop
            cut = [crop for crop in found if not isinstance(crop, str)]
            for slot, one in enumerate(cut):
                pixels[slot], points[slot] = one
            yield places[good], torch.from_numpy(pixels), torch.from_numpy(points)


def readable_blocks(
    meta: IJBMeta, blocks: Mapping[int, NDArray[np.int64]], side: int, failures: dict[int, str]
) -> list[int]:
    """Which of these blocks lack an image that can be read; the others are as full as can be.

    What cannot be read is noted in `failures`, place → reason.
    """
    unfinished = []
    for number, places in blocks.items():
        for place in places.tolist():
            found = failures.get(place) or read_crop(meta, place, side)
            if not isinstance(found, str):
                unfinished.append(number)
                break
            failures[place] = found
    return unfinished
