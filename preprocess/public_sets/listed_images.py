"""From the names of a list to image files below a folder, whatever the folders between are called.

Releases of one set differ in how their folders are called, not in how their lists name the images.
So the images lie in the folder below which the listed names are files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from faceguide.cache.pairs.pair_lists import PairList
from faceguide.core.faces.decode import FORMATS

SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".bmp", ".PNG", ".JPEG")
_ALIGNED_SIDE = 112
_ASKED = 8  # names that decide which folder it is
_LOOKED_AT = 16  # images that decide whether a set is of aligned crops
_DEPTH = 3


def image_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The folder at or below `root` where names of a list are files; None = none.

    Of folders with as many of them, one of aligned crops is taken, else the first.
    """
    asked = [names[int(place)] for place in np.linspace(0, len(names) - 1, min(_ASKED, len(names)))]
    best, chosen = (0, False, 0), None
    for folder, depth in _folders(root):
        hits = sum(image_path(folder, name) is not None for name in asked)
        named = "align" in folder.name.lower() or "112" in folder.name
        if hits and (hits, named, -depth) > best:
            best, chosen = (hits, named, -depth), folder
    return chosen


def _folders(root: Path) -> Iterator[tuple[Path, int]]:
    """`root` and the folders below it, by name, hidden ones left out."""
    for path, folders, _ in os.walk(root):
        depth = len(Path(path).relative_to(root).parts)
        yield Path(path), depth
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if depth < _DEPTH else []


def image_path(folder: Path, name: str) -> str | None:
    """The path below `folder` of the image that a list calls so, perhaps without its suffix."""
    clean = name.replace("\\", "/").removeprefix("./")
    for suffix in ("", *SUFFIXES):
        if (folder / (clean + suffix)).is_file():
            return clean + suffix
    return None


def images_below(root: Path, folder: str) -> list[str]:
    """Paths below `root` of all images in one of its folders, at any depth, sorted."""
    found = []
    for path, folders, files in os.walk(root / folder):
        folders.sort()
        below = Path(path).relative_to(root).as_posix()
        found += [f"{below}/{name}" for name in files if name.endswith(SUFFIXES)]
    return sorted(found)


def located(folder: Path, listed: PairList) -> tuple[PairList, list[str]]:
    """The list with the paths of its images, and those paths; absent ones keep their names."""
    paths = {name: image_path(folder, name) for name in dict.fromkeys(listed.first + listed.second)}
    sides = [[paths[name] or name for name in side] for side in (listed.first, listed.second)]
    there = [path for path in paths.values() if path is not None]
    return replace(listed, first=sides[0], second=sides[1]), sorted(there)


def are_aligned(place: Path, images: Iterable[str]) -> bool:
    """Whether images are aligned crops already: all that are looked at have 112×112 pixels."""
    every = list(images)
    looked_at = np.linspace(0, len(every) - 1, min(_LOOKED_AT, len(every)))
    sizes = [_size(place / every[int(number)]) for number in looked_at]
    known = [size for size in sizes if size is not None]
    return bool(known) and all(size == (_ALIGNED_SIDE, _ALIGNED_SIDE) for size in known)


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except Exception:  # damaged files raise almost anything; preparing the set says what is wrong
        return None
