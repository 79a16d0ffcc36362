"""Which faces every finder finds with every box detector, and how many of them rightly.

    python bench/detect.py --data DATA --boxes centerface.onnx --boxes yunet.onnx --json detect.json

DATA is a folder with lfw112_dev, mfr2_dev, maskedface_seg_dev, orl_att and deepface_dev; sets that
are not there are left out. Of a found face the irises say whether it is right: within .1 eye
distances of the truth (mean of both), near: within .25, or wrong. Truth is Face Mesh on the bare,
upright picture; photographs as they are have none. On patches beside faces every find is wrong.

* Mended: of the faces upside down that the finder's first look takes for faces, those that are
  right now. Spoiled: of the upright ones that its first look gets right, those that are not now.
  Covered: below the eyes, by one colour.
* ms: processor time a picture.

--sheet draws what second looks found under veils, to be judged by eye.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from detect_sets import (
    HALVES,
    Image,
    Sample,
    Where,
    as_they_are,
    grids,
    half_covered,
    one_face,
    patches,
    small_faces,
    turned,
    veils,
)
from numpy.typing import NDArray
from veiled_faces import CUTS

from faceguide.core.errors import FaceguideError
from faceguide.core.faces.align import FIVE_POINTS
from faceguide.preprocess.detect.boxes.box_detectors import SecondLooks, second_looks
from faceguide.preprocess.detect.cascade import Face, find_face
from faceguide.preprocess.detect.finders.finder import Finder
from faceguide.preprocess.detect.finders.open_finder import open_finder

RIGHT, NEAR = 0.1, 0.25  # eye distances
# Photographs as they are: files, and every so manieth of them.
REAL = {
    "LFW": ("lfw112_dev/images/*/*.jpg", 8),
    "MFR2": ("mfr2_dev/images/*/*", 1),
    "masks": ("maskedface_seg_dev/images/*.jpg", 1),
    "ORL": ("orl_att/s*/*.pgm", 4),
    "scenes": ("deepface_dev/*.jpg", 1),
}
SURE = 0.8  # presence of a mesh that is taken for the truth
_LEFT, _RIGHT = FIVE_POINTS[:2]

Found = NDArray[np.floating] | None


def error(found: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Mean distance of the irises from those of the truth, in its eye distances."""
    away = np.linalg.norm((found - truth)[[_LEFT, _RIGHT], :2], axis=1).mean()
    return float(away / np.linalg.norm(truth[_LEFT, :2] - truth[_RIGHT, :2]))


def first_look(finder: Finder, image: Image, *, least: float = 0.5) -> NDArray[np.floating] | None:
    """The mesh of the finder's surest box, without any check."""
    boxes = finder.boxes(image)
    if not len(boxes):
        return None
    landmarks, presence = finder.mesh(image, boxes.square(0))
    return None if presence < least else landmarks  # NaN: the engine says that there is one


def only_face(finder: Finder, image: Image) -> NDArray[np.floating] | None:
    """The mesh of a face that is sure, and the only one."""
    return first_look(finder, image, least=SURE) if len(finder.boxes(image)) == 1 else None


def sets(where: Where) -> dict[str, Callable[[], Iterator[Sample]]]:
    """Name → pictures."""
    every: dict[str, Callable[[], Iterator[Sample]]] = {
        f"veils, {cut}": functools.partial(veils, where, cut) for cut in CUTS
    }
    every["small, tilted"] = functools.partial(small_faces, where)
    every["patches"] = functools.partial(patches, where)
    every["upright"] = functools.partial(one_face, where)
    every["upright, covered"] = lambda: map(half_covered, one_face(where))
    every["upside down"] = lambda: (turned(sample, 2) for sample in one_face(where))
    every["upside down, covered"] = lambda: (
        turned(half_covered(sample), 2) for sample in one_face(where)
    )
    for choose in ("largest", "center"):
        every[f"nine faces, {choose}"] = functools.partial(grids, where, choose)
    if where.half == "confirm":
        for name, (pattern, step) in REAL.items():
            every[name] = functools.partial(as_they_are, where, pattern, step)
    return every


def counted(samples: list[Sample], found: list[Found], background: bool) -> dict[str, Any]:
    """The counts of one set."""
    counts = {"images": len(samples), "found": 0, "right": 0, "near": 0, "wrong": 0}
    for sample, landmarks in zip(samples, found, strict=True):
        if landmarks is None:
            continue
        counts["found"] += 1
        if sample.truth is not None:
            off = error(landmarks, sample.truth)
            counts["right" if off <= RIGHT else "near" if off <= NEAR else "wrong"] += 1
        elif background:
            counts["wrong"] += 1
    return counts


def turns(
    samples: list[Sample], found: list[Found], finder: Finder, upside_down: bool
) -> dict[str, Any]:
    """How many faces are mended or spoiled, and of how many that the first look takes for faces."""
    of = changed = 0
    for sample, landmarks in zip(samples, found, strict=True):
        plain = first_look(finder, sample.image)
        assert sample.truth is not None
        if plain is None or (not upside_down and error(plain, sample.truth) > NEAR):
            continue
        of += 1
        right = landmarks is not None and error(landmarks, sample.truth) <= NEAR
        changed += right if upside_down else not right
    return {"mended" if upside_down else "spoiled": [changed, of]}


def tile(image: Image, face: Face, side: int = 160) -> Image:
    """The surroundings of a face with its 478 points drawn, side × side."""
    assert face.landmarks is not None
    points = face.landmarks[:, :2].astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = side / (1.6 * float((high - low).max()))
    corner = (low + high) / 2 - side / scale / 2
    matrix = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
    drawn = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_AREA)
    for x, y in (points - corner) * scale:
        cv2.circle(drawn, (round(float(x)), round(float(y))), 1, (0, 255, 0), -1)
    cv2.putText(drawn, f"{face.presence:.2f} {face.quality:.2f}", (3, 14), 0, 0.4, (255, 255, 0), 1)
    return drawn.astype(np.uint8)


def save_sheet(tiles: list[Image], path: Path, columns: int = 12) -> None:
    """A PNG of all tiles."""
    filled = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(filled[i : i + columns]) for i in range(0, len(filled), columns)]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def finders(model: Path | None, wanted: tuple[str, ...]) -> Iterator[Finder]:
    """Every finder that works here."""
    for name in wanted:
        try:
            yield open_finder(name, None if name == "face-mesh" else model)
        except FaceguideError as fault:
            click.echo(f"{name} is left out: {fault}", err=True)


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--boxes", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="A .task file.")
@click.option("--finder", "wanted", multiple=True, default=("face-mesh", "landmarker", "opencv"))
@click.option("--half", type=click.Choice(HALVES), default="confirm")
@click.option("--set", "chosen", multiple=True, help="Only these sets, such as patches.")
@click.option("--every", default=1, help="Only each so manieth face under veils and turned.")
@click.option("--json", "out", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), help="PNG of rescues.")
def main(
    data: Path, boxes: tuple[Path, ...], model: Path | None, wanted: tuple[str, ...], half: str,
    chosen: tuple[str, ...], every: int, out: Path, sheet: Path | None,
) -> None:  # fmt: skip
    """Count what is found in the sets under DATA."""
    cv2.setNumThreads(1)
    engines = list(finders(model, wanted))
    where = Where(data, half, every, functools.partial(only_face, engines[0]))
    ways: dict[str, tuple[Finder, SecondLooks]] = {}
    for finder in engines:
        for path in (None, *boxes):
            looks = second_looks(path, finder)
            ways[f"{finder.name}, {looks.kind}"] = (finder, looks)
    tiles: list[Image] = []
    table: dict[str, dict[str, Any]] = {}
    click.echo(f"{'':<42}{'images':>7}{'found':>7}{'right':>7}{'near':>6}{'wrong':>6}{'ms':>7}")
    for name, make in sets(where).items():
        if chosen and name not in chosen:
            continue
        samples = list(make())
        if not samples:
            click.echo(f"{name}: not in {data}", err=True)
            continue
        table[name] = {}
        for way, (finder, looks) in ways.items():
            started = time.process_time()
            faces = [find_face(s.image, finder, looks, choose=s.choose) for s in samples]
            spent = time.process_time() - started
            found = [face.landmarks for face in faces]
            row = counted(samples, found, name == "patches")
            row["ms"] = round(1000 * spent / len(samples), 1)
            if name.startswith(("upright", "upside down")):
                row |= turns(samples, found, finder, name.startswith("upside down"))
            if sheet and name.startswith("veils"):
                rescued = zip(samples, faces, strict=True)
                tiles += [tile(s.image, face) for s, face in rescued if face.origin == "retried"]
            table[name][way] = row
            numbers = f"{row['found']:>7}{row['right']:>7}{row['near']:>6}{row['wrong']:>6}"
            rest = "".join(f"  {key} {row[key]}" for key in ("mended", "spoiled") if key in row)
            click.echo(f"{name + ': ' + way:<42}{row['images']:>7}{numbers}{row['ms']:>7}{rest}")
    if sheet and tiles:
        save_sheet(tiles, sheet)
    about = {finder.name: [finder.version, finder.digest] for finder in engines}
    report = {"half": half, "every": every, "finders": about, "sets": table}
    out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
