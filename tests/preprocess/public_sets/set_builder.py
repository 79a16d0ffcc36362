"""Small sets in the layouts of benchmarks: aligned crops of 112 pixels that show no real face."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def picture(name: str, identity: str) -> NDArray[np.uint8]:
    """(112, 112, 3) uint8, smooth; pictures of one identity are alike."""
    coarse = [
        np.random.default_rng(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)).random(
            (6, 6, 3)
        )
        for text in (identity, name)
    ]
    mixed = (0.8 * coarse[0] + 0.2 * coarse[1]) * 255
    return cv2.resize(mixed.astype(np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)


def write_images(root: Path, images: Iterable[tuple[str, str]]) -> None:
    """Files by (path below `root`, identity)."""
    for path, identity in images:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / path), picture(path, identity))


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def around(names: list[str]) -> list[tuple[str, str]]:
    """Each name with the next, the last with the first."""
    return list(zip(names, names[1:] + names[:1], strict=True))


def lfw(root: Path, *, people: int = 4, images: int = 3, name: str = "pairs.txt") -> list[str]:
    """LFW's tree with two folds; its image paths below root/lfw."""
    names = [f"P{p:02d}" for p in range(people)]
    paths = [f"{n}/{n}_{i:04d}.jpg" for n in names for i in range(1, images + 1)]
    write_images(root / "lfw", [(path, path.split("/")[0]) for path in paths])
    genuine = [f"{n}\t{i}\t{i + 1}" for n in names for i in range(1, images)]
    impostor = [f"{a}\t{i}\t{b}\t{i}" for i in (1, 2) for a, b in around(names)]
    each = len(genuine) // 2
    folds = [
        line
        for fold in range(2)
        for kind in (genuine, impostor)
        for line in kind[fold * each : (fold + 1) * each]
    ]
    write_text(root / name, f"2\t{each}", *folds)
    return paths


def rfw(root: Path, races: Iterable[str]) -> None:
    """RFW's tree and header-less lists."""
    for race in races:
        ids = [f"m.0{race[0].lower()}{n}" for n in range(3)]
        images = [(f"{i}/{i}_{n:04d}.jpg", i) for i in ids for n in (1, 2, 3)]
        write_images(root / "test" / "data" / race, images)
        genuine = [f"{i}\t{a}\t{b}" for i in ids for a, b in ((1, 2), (2, 3))]
        impostor = [f"{a}\t{n}\t{b}\t{n}" for n in (1, 2) for a, b in around(ids)]
        lines = [*genuine[:3], *impostor[:3], *genuine[3:], *impostor[3:]]
        write_text(root / "test" / "txts" / race / f"{race}_pairs.txt", *lines)


def tinyface(root: Path, *, distractors: int = 3) -> None:
    """TinyFace's tree: identities 1 to 4, a match and two probes each."""
    parts = {
        "Probe": [(f"{i}_{n}.jpg", f"tiny {i}") for i in range(1, 5) for n in (2, 3)],
        "Gallery_Match": [(f"{i}_1.jpg", f"tiny {i}") for i in range(1, 5)],
        "Gallery_Distractor": [(f"{n:04d}_9.jpg", f"nobody {n}") for n in range(distractors)],
    }
    for part, images in parts.items():
        write_images(root / "Testing_Set" / part, images)


def verification_bin(path: Path, people: int = 4) -> None:
    """A .bin of as many pairs of one identity as of two, in two folds."""
    images, same = [], []
    for fold in range(2):
        for genuine in (True, False):
            for person in range(people):
                other = person if genuine else (person + 1) % people
                for who, take in ((person, 0), (other, 1)):
                    name = f"{fold} {who} {take}"
                    encoded = cv2.imencode(".jpg", picture(name, f"bin {who}"))[1]
                    images.append(encoded.tobytes())
                same.append(genuine)
    path.write_bytes(pickle.dumps((images, same)))
