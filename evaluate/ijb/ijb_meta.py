"""IJB-B and IJB-C as insightface lays them out: `loose_crop/` and `meta/`.

`meta/ijbc_face_tid_mid.txt`: image, template, medium, a line each. `ijbc_name_5pts_score.txt`:
image, five points x y in pixels of the loose crop, detector score. `ijbc_template_pair_label.txt`:
template, template, 1 or 0. `ijbc_1N_gallery_G1.csv`, `…_G2.csv` (S1 and S2 for IJB-B) and
`ijbc_1N_probe_mixed.csv`: template and subject in the first two columns, a line per image.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.list_text import SEPARATORS, read_text, records
from faceguide.core.errors import ListError

GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}


@dataclass(frozen=True)
class IJBMeta:
    """The images and templates of one set.

    Attributes:
        name: "ijbb" or "ijbc".
        images: (N) file names in loose_crop.
        points: (N, 5, 2) float32 x and y in pixels: eyes, nose, mouth corners, left of the image
            first.
        detector_score: (N,) float32.
        image: (M,) place in `images` of every use of an image in a template.
        template: (M,) template of that use.
        medium: (M,) medium of that use.
    """

    name: str
    folder: Path
    images: list[str]
    points: NDArray[np.float32]
    detector_score: NDArray[np.float32]
    image: NDArray[np.int64]
    template: NDArray[np.int64]
    medium: NDArray[np.int64]


def read_meta(folder: Path) -> IJBMeta:
    """Read the images and templates of IJB-B or IJB-C.

    Raises:
        ListError: when a file is missing or a line is not in its layout.
    """
    for name in GALLERIES:
        if (folder / "meta" / f"{name}_face_tid_mid.txt").is_file():
            break
    else:
        raise ListError(
            f"{folder}: expected meta/ijbb_face_tid_mid.txt or meta/ijbc_face_tid_mid.txt next to "
            "loose_crop/"
        )
    images, points, scores = _faces(folder / "meta" / f"{name}_name_5pts_score.txt")
    places = {image: place for place, image in enumerate(images)}
    if len(places) != len(images):
        raise ListError(f"{folder}/meta/{name}_name_5pts_score.txt: lists an image twice")
    path = folder / "meta" / f"{name}_face_tid_mid.txt"
    uses = []
    for number, line in _lines(path):
        if len(line) != 3 or line[0] not in places:
            raise ListError(
                f"{path}: line {number}: expected an image of {name}_name_5pts_score.txt, its "
                f"template and its medium, found {' '.join(line)[:60]!r}"
            )
        uses.append((places[line[0]], *(_whole(path, number, text) for text in line[1:])))
    table = np.array(uses, np.int64).reshape(-1, 3)
    return IJBMeta(name, folder, images, points, scores, table[:, 0], table[:, 1], table[:, 2])


def read_template_pairs(meta: IJBMeta) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The 1:1 protocol: (N, 2) templates and (N,) one identity or two.

    Raises:
        ListError: when the file is missing or is not rows of three whole numbers.
    """
    path = meta.folder / "meta" / f"{meta.name}_template_pair_label.txt"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns of what it cannot read
            # IJB-C has 15.7 million lines: one pass in C.
            table = np.fromfile(path, np.int64, sep=" ")
    except OSError as error:
        raise ListError(f"{path}: cannot read: {error.strerror}") from None
    except (DeprecationWarning, ValueError) as error:
        raise ListError(f"{path}: expected rows of three whole numbers ({error})") from None
    if not len(table) or len(table) % 3 or not np.isin(table[2::3], (0, 1)).all():
        raise ListError(f"{path}: expected rows of template, template, 1 or 0")
    table = table.reshape(-1, 3)
    return table[:, :2].copy(), table[:, 2] == 1


def read_subjects(meta: IJBMeta, list_name: str) -> dict[int, int]:
    """Template → subject of `gallery_G1`, `probe_mixed` … , or {} when there is no such file.

    Raises:
        ListError: when a line does not begin with two whole numbers.
    """
    path = meta.folder / "meta" / f"{meta.name}_1N_{list_name}.csv"
    if not path.is_file():
        return {}
    subjects: dict[int, int] = {}
    text = read_text(path)
    separator = max(SEPARATORS, key=text.partition("\n")[0].count)
    for place, (number, cells) in enumerate(records(path, text, separator)):
        if not place and not cells[0].isdigit():
            continue  # it names the columns; some lists begin without
        if len(cells) < 2:
            raise ListError(f"{path}: line {number}: expected template, subject, …")
        template = _whole(path, number, cells[0])
        subject = _whole(path, number, cells[1])
        if subjects.setdefault(template, subject) != subject:
            raise ListError(f"{path}: line {number}: template {template} has two subjects")
    return subjects


def _faces(path: Path) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    names, numbers = [], []
    for number, line in _lines(path):
        try:
            values = [float(text) for text in line[1:]]
        except ValueError:
            values = []
        # No picture reaches farther, and float32 would overflow.
        if len(values) != 11 or not (np.abs(values) < 1e9).all():
            raise ListError(f"{path}: line {number}: expected an image, ten coordinates, a score")
        names.append(line[0])
        numbers.append(values)
    table = np.array(numbers, np.float32).reshape(-1, 11)
    return names, table[:, :10].reshape(-1, 5, 2), table[:, 10]


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    text = read_text(path)
    split = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    found = [(number, line) for number, line in split if line]
    if not found:
        raise ListError(f"{path}: empty")
    return found


def _whole(path: Path, number: int, text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ListError(f"{path}: line {number}: expected a whole number, found {text[:40]!r}")
    return int(text)
