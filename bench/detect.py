"""How many faces the detection cascade finds, next to a single pass of Face Mesh.

    python bench/detect.py DATA --out detect.json --sheets sheets/

DATA is a folder with lfw112_dev, mfr2_dev, maskedface_seg_dev, orl_att and deepface_dev; sets that
are not there are left out. Three tables:

* sets: the pictures as they are. The first pass of the cascade is the single pass.
* scenes: every face of those sets once more, small (14 to 40 pixels between the eyes), tilted by
  up to 45° and every second one veiled but for the eyes, in a photograph without a face. Where it
  lies is known, so that wrong meshes are counted: five points further than a quarter of the eye
  distance from those of the untouched picture, in the mean.
* background: patches of photographs without a face; every hit is wrong.

--sheets saves the rescued faces of each set with their mesh, to be judged by eye.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from faceguide.core.faces import align
from faceguide.preprocess.detect.cascade import Face, find_face, square_crop
from faceguide.preprocess.detect.face_mesh import BoxDetector, FaceMesh, finder_of

Image = NDArray[np.uint8]

# Name → files, enlargement.
SETS = {
    "lfw112_dev": ("lfw112_dev/images/*/*.jpg", 1),
    "mfr2_dev": ("mfr2_dev/images/*/*.png", 1),
    "maskedface_seg_dev": ("maskedface_seg_dev/images/*.jpg", 1),
    "orl_att": ("orl_att/s*/*.pgm", 1),
    "orl_att ×4": ("orl_att/s*/*.pgm", 4),
    "deepface_dev": ("deepface_dev/*.jpg", 1),
}
# MediaPipe's face oval: the hull that a veil covers.
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
SCENE = (480, 640)
RIGHT = 0.25  # eye distances
PATCHES = 300


def read(path: Path, enlarge: int) -> Image:
    """A picture as (H, W, 3) uint8 RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if enlarge != 1:
        image = cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(image[..., ::-1], np.uint8)


def eye_distance(landmarks: NDArray[np.floating]) -> float:
    points = align.five_points(landmarks)
    return float(np.linalg.norm(points[1] - points[0]))


def veil(image: Image, landmarks: NDArray[np.floating], colour: NDArray[np.integer]) -> Image:
    """Cover the face and what surrounds it, all but a band over the eyes."""
    points = align.five_points(landmarks)
    down = np.array([points[0, 1] - points[1, 1], points[1, 0] - points[0, 0]])
    down /= np.linalg.norm(down)
    oval = landmarks[list(OVAL), :2]
    hull = oval.mean(axis=0) + 1.3 * (oval - oval.mean(axis=0))
    cover = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(cover, [hull.round().astype(np.int32)], (1,))
    y, x = np.indices(image.shape[:2])
    middle = points[:2].mean(axis=0)
    depth = ((x - middle[0]) * down[0] + (y - middle[1]) * down[1]) / eye_distance(landmarks)
    veiled = image.copy()
    veiled[(cover > 0) & ((depth > 0.45) | (depth < -0.55))] = colour
    return veiled


def into_scene(
    image: Image, landmarks: NDArray[np.floating], background: Image, random: np.random.Generator
) -> tuple[Image, NDArray[np.float64]]:
    """The head, small and tilted, in another photograph; and its landmarks there."""
    height, width = SCENE
    eyes = random.uniform(14, 40)
    scale, tilt = eyes / eye_distance(landmarks), np.deg2rad(random.uniform(-45, 45))
    turn = scale * np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    place = random.uniform((120, 120), (width - 120, height - 120))
    centre = align.five_points(landmarks).mean(axis=0)
    transform = np.column_stack([turn, place - turn @ centre])
    smooth = cv2.GaussianBlur(image, (0, 0), 0.5 / scale) if scale < 0.5 else image
    pasted = cv2.warpAffine(smooth, transform, (width, height))
    covered = cv2.warpAffine(np.ones(image.shape[:2], np.float32), transform, (width, height))
    y, x = np.indices(SCENE)
    covered[np.hypot(x - place[0], y - place[1]) > 3.2 * eyes] = 0
    scene = np.where(covered[..., None] > 0.5, pasted, cv2.resize(background, (width, height)))
    return scene.astype(np.uint8), align.apply(transform, landmarks)


def verdict(landmarks: NDArray[np.floating] | None, truth: NDArray[np.floating]) -> str:
    """``right``, ``wrong`` or ``none``."""
    if landmarks is None:
        return "none"
    away = align.five_points(landmarks) - align.five_points(truth)
    error = np.linalg.norm(away, axis=1).mean() / eye_distance(truth)
    return "right" if error <= RIGHT else "wrong"


def patches() -> Iterator[Image]:
    """Squares of photographs that show no face."""
    sources = (data.coffee(), data.rocket(), data.chelsea(), data.hubble_deep_field())
    random = np.random.default_rng(0)
    for number in range(PATCHES):
        source = sources[number % len(sources)]
        side = int(random.integers(64, min(source.shape[:2])))
        y, x = (int(random.integers(0, edge - side + 1)) for edge in source.shape[:2])
        yield np.ascontiguousarray(source[y : y + side, x : x + side])


def tile(image: Image, face: Face, side: int = 160) -> Image:
    """The surroundings of a face with its 478 points drawn, side × side."""
    assert face.landmarks is not None
    points = face.landmarks[:, :2]
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    crop, corner = square_crop(image, box, 1.6)
    scale = side / len(crop)
    drawn = cv2.resize(crop, (side, side), interpolation=cv2.INTER_LINEAR)
    for x, y in (points - corner + 0.5) * scale - 0.5:
        cv2.circle(drawn, (round(float(x)), round(float(y))), 1, (0, 255, 0), -1)
    cv2.putText(drawn, f"{face.quality:.2f}", (3, 14), 0, 0.5, (255, 255, 0), 1)
    return drawn.astype(np.uint8)


def save_sheet(tiles: list[Image], path: Path, columns: int = 10) -> None:
    """A PNG of all tiles."""
    blank = np.zeros_like(tiles[0])
    filled = tiles + [blank] * (-len(tiles) % columns)
    rows = [np.hstack(filled[i : i + columns]) for i in range(0, len(filled), columns)]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def measure_set(
    name: str, root: Path, mesh: FaceMesh, boxes: BoxDetector
) -> tuple[dict[str, Any], dict[str, Any], list[Image], list[Image]]:
    """The set as it is and its faces in scenes: two rows, and the tiles of what was rescued."""
    pattern, enlarge = SETS[name]
    origins: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    plain: Counter[str] = Counter()
    cascade: Counter[str] = Counter()
    rescued: list[Image] = []
    rescued_in_scenes: list[Image] = []
    backgrounds = (data.rocket(), data.stereo_motorcycle()[0])
    random = np.random.default_rng(0)
    for path in sorted(root.glob(pattern)):
        image = read(path, enlarge)
        face = find_face(image, mesh, boxes)
        origins[face.origin] += 1
        reasons[face.reason] += 1
        if face.origin == "retried":
            rescued.append(tile(image, face))
        if face.origin != "detected":
            continue
        assert face.landmarks is not None
        number = sum(plain.values())
        if number % 2:
            image = veil(image, face.landmarks, random.integers(0, 80, 3))
        background = backgrounds[int(random.integers(len(backgrounds)))]
        scene, truth = into_scene(image, face.landmarks, background, random)
        small = find_face(scene, mesh, boxes)
        first = small.landmarks if small.origin == "detected" else None
        plain[verdict(first, truth)] += 1
        cascade[verdict(small.landmarks, truth)] += 1
        if small.origin == "retried":
            rescued_in_scenes.append(tile(scene, small))
    kinds = ("right", "wrong", "none")
    as_is: dict[str, Any] = {"name": name, "images": sum(origins.values())}
    as_is |= {origin: origins[origin] for origin in ("detected", "retried", "none")}
    as_is["reasons"] = {reason: n for reason, n in sorted(reasons.items()) if reason}
    in_scenes: dict[str, Any] = {"name": name, "faces": sum(plain.values())}
    in_scenes["single"] = {kind: plain[kind] for kind in kinds}
    in_scenes["cascade"] = {kind: cascade[kind] for kind in kinds}
    return as_is, in_scenes, rescued, rescued_in_scenes


@click.command()
@click.argument("root", metavar="DATA", type=click.Path(exists=True, file_okay=False))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file.")
@click.option("--sheets", type=click.Path(file_okay=False, path_type=Path), help="PNG folder.")
def main(root: str, out: Path | None, sheets: Path | None) -> None:
    """Count the faces found per origin in the sets under DATA."""
    mesh, boxes = FaceMesh(), BoxDetector()
    as_is, in_scenes = [], []
    for name, (pattern, _) in SETS.items():
        if not any(Path(root).glob(pattern)):
            click.echo(f"{name} is not in {root}: left out", err=True)
            continue
        row, scene_row, *tiles = measure_set(name, Path(root), mesh, boxes)
        as_is.append(row)
        in_scenes.append(scene_row)
        for kind, drawn in zip(("as_is", "scenes"), tiles, strict=True):
            if sheets and drawn:
                sheets.mkdir(parents=True, exist_ok=True)
                save_sheet(drawn, sheets / f"{name.replace(' ', '_')}_{kind}.png")
    found = Counter(find_face(patch, mesh, boxes).origin for patch in patches())
    background = {"patches": PATCHES, **{o: found[o] for o in ("detected", "retried", "none")}}

    click.echo(f"{'set':<20}{'images':>8}{'single pass':>13}{'rescued':>9}{'none':>6}")
    for row in as_is:
        click.echo("{name:<20}{images:>8}{detected:>13}{retried:>9}{none:>6}".format(**row))
    click.echo("\nscenes: right / wrong / none")
    click.echo(f"{'faces of':<20}{'faces':>8}{'single pass':>18}{'cascade':>18}")
    for row in in_scenes:
        shown = ["{right} / {wrong} / {none}".format(**row[key]) for key in ("single", "cascade")]
        click.echo(f"{row['name']:<20}{row['faces']:>8}{shown[0]:>18}{shown[1]:>18}")
    click.echo(
        f"\nbackground: {PATCHES} patches, {found['detected']} hits of the single pass, "
        f"{found['retried']} more of the cascade"
    )
    if out:
        found = {"sets": as_is, "scenes": in_scenes, "background": background}
        report = {"tool": finder_of(None), **found}
        out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
