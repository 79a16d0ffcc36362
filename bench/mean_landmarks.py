"""Compute the mean frontal face that pose estimation and undetected aligned images use.

    python bench/mean_landmarks.py LFW112/images --out core/faces/mean_landmarks.npy

FOLDER holds faces in the 112×112 ArcFace crop. A face counts when its landmarks agree with those
of the mirrored image and it looks straight ahead; the mean of those is made symmetric, so that
its yaw and roll are 0. The pairs of points that mirror each other are found in the data.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.preprocess.detect.boxes.box_detectors import second_looks
from faceguide.preprocess.detect.cascade import find_face
from faceguide.preprocess.detect.finders.open_finder import open_finder

SIDE = 112
QUALITY = 0.9  # agreement with the mirrored image
YAW, ROLL = 10.0, 5.0  # degrees that still count as straight ahead


def mirror_pairs(mean: NDArray[np.floating]) -> NDArray[np.intp]:
    """For each point of a nearly symmetric face the index of its mirror image.

    The mirrored face is laid on the face by an affine map through the pairs found so far, then
    the nearest points are taken, in three dimensions, until nothing changes.

    Raises:
        ValueError: when that is not one to one.
    """
    count = np.arange(len(mean))
    mirrored = mean * (-1, 1, 1)
    laid = mirrored - mirrored.mean(axis=0) + mean.mean(axis=0)
    pairs = np.zeros_like(count)
    for _ in range(20):
        before = pairs
        pairs = np.linalg.norm(laid[:, None] - mean[None], axis=-1).argmin(axis=1)
        mutual = pairs[pairs] == count
        if (pairs == before).all():
            break
        source = np.column_stack([mirrored, np.ones(len(mean))])
        laid = source @ np.linalg.lstsq(source[mutual], mean[pairs[mutual]], rcond=None)[0]
    if not mutual.all():
        wrong = np.flatnonzero(~mutual).tolist()
        raise ValueError(f"the mirror images of points {wrong} are not one to one")
    return pairs


def turn_and_tilt(
    faces: NDArray[np.floating], pairs: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Yaw and roll in degrees, up to sign, of (N, 478, 3) faces.

    The line from each point to its mirror image is level on a frontal face; its mean direction
    (the sum weighs long lines more) leaves the image plane with yaw and turns in it with roll.
    """
    right = pairs[faces[..., 0].mean(axis=0).argsort()[: len(pairs) // 2]]
    across = (faces[:, right] - faces[:, pairs[right]]).sum(axis=1)  # (N, 3)
    yaw = np.rad2deg(np.arctan2(across[:, 2], across[:, 0]))
    roll = np.rad2deg(np.arctan2(across[:, 1], across[:, 0]))
    return yaw, roll


def symmetric(mean: NDArray[np.floating], pairs: NDArray[np.intp]) -> NDArray[np.float64]:
    """The mean of a face and its mirror image, about the line midway between all pairs."""
    other = mean[pairs] * (-1, 1, 1)
    other[:, 0] += 2 * mean[:, 0].mean()
    return (mean + other) / 2


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(folder: Path, out: Path) -> None:
    """Write the symmetric mean face of the pictures under FOLDER to --out as (478, 3) float32."""
    finder = open_finder("face-mesh", None)
    looks = second_looks(None, finder)
    found = []
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None or image.shape[:2] != (SIDE, SIDE):
            raise click.ClickException(f"{path} is no picture of {SIDE}×{SIDE} pixels")
        rgb = np.ascontiguousarray(image[..., ::-1], np.uint8)
        face = find_face(rgb, finder, looks, check_all=True)
        if face.origin == "detected" and face.landmarks is not None and face.quality >= QUALITY:
            found.append(face.landmarks / SIDE)
    finder.close()
    if not found:
        raise click.ClickException(f"no face was found well enough in {folder}")
    faces = np.stack(found).astype(np.float64)
    pairs = mirror_pairs(faces.mean(axis=0))
    yaw, roll = turn_and_tilt(faces, pairs)
    frontal = faces[(np.abs(yaw) <= YAW) & (np.abs(roll) <= ROLL)]
    mean = symmetric(frontal.mean(axis=0), pairs)
    np.save(out, mean.astype(np.float32))
    own = int((pairs == np.arange(len(pairs))).sum())
    click.echo(
        f"{len(paths)} pictures, {len(faces)} found well, {len(frontal)} frontal; "
        f"{own} points on the middle line, {(len(pairs) - own) // 2} pairs; wrote {out}"
    )


if __name__ == "__main__":
    main()
