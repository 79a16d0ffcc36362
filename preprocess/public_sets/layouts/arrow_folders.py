"""CVLFace's Hugging Face folders (`load_from_disk`): verification sets and TinyFace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faceguide.cache.pairs.pair_lists import PairList
from faceguide.core.errors import ListError
from faceguide.preprocess.public_sets.found_set import FoundSet, counted
from faceguide.preprocess.public_sets.layouts.bin_files import SETS
from faceguide.preprocess.public_sets.layouts.gallery_folders import tinyface

_FILES = ("dataset_info.json", "state.json")
_METADATA = "metadata.pt"
_PARTS = ("probe_paths", "gallery_paths", "distractor_paths")


def find(folder: Path) -> list[FoundSet]:
    """The set of an Arrow folder by the folder's name; none where it is called otherwise.

    A verification set has the columns `image`, `index` and `is_same`, two rows a pair; TinyFace
    `image`, `index` and `path`, and metadata.pt with the paths of probes, gallery and distractors.

    Raises:
        ListError: when `datasets` is not installed, or the columns are others.
    """
    if not all((folder / name).is_file() for name in _FILES):
        return []
    benchmark = SETS.get(folder.name.lower(), folder.name.lower())
    if benchmark == "tinyface":
        return [_tinyface(folder)]
    if benchmark not in SETS.values():
        return []
    table = _table(folder, ("index", "is_same"))
    order = np.argsort(np.array(table["index"]), kind="stable").tolist()
    same = np.array(table["is_same"], bool)[order]
    if len(order) % 2 or (same[::2] != same[1::2]).any():
        raise ListError(f"{folder}: is_same differs within a pair of rows; take another copy")
    names = [_image_name(row) for row in order]
    pairs = PairList(names[::2], names[1::2], same[::2], None)
    images = dict.fromkeys(names, "")
    return [counted(FoundSet(benchmark, folder, "arrow", images=images, pairs={"": pairs}))]


def _image_name(row: int) -> str:
    """What the image of a row is called; the suffix says nothing of how it is packed."""
    return f"{row:06d}.png"


def unpacked(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and file of each image.

    Raises:
        ListError: when `datasets` is not installed, or the images are not files.
    """
    from datasets import Image

    table = _table(folder, ("image",)).cast_column("image", Image(decode=False))
    for row, found in enumerate(table["image"]):
        if not found or not found["bytes"]:
            raise ListError(f"{folder}: row {row} has no image file; take another copy")
        yield _image_name(row), found["bytes"]


def _table(folder: Path, columns: tuple[str, ...]) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError:
        raise ListError(
            f"{folder}: reading Arrow folders needs datasets: pip install 'faceguide[arrow]'"
        ) from None
    try:
        table = load_from_disk(str(folder))
    except Exception as error:  # whatever pyarrow raises of a half-copied folder
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ListError(f"{folder}: not readable as an Arrow folder ({reason:.200})") from None
    known = getattr(table, "column_names", [])
    if lacking := [name for name in columns if name not in known]:
        raise ListError(f"{folder}: has no column {lacking[0]}, but {', '.join(map(str, known))}")
    return table.select_columns(list(columns))


def _tinyface(folder: Path) -> FoundSet:
    from faceguide.core.formats.torch_files import load_tensors

    table = _table(folder, ("index", "path"))
    try:
        about = load_tensors(folder / _METADATA, strict=True)
        parts = [[str(path) for path in about[part]] for part in _PARTS]
    except Exception as error:  # of almost any kind, when the file is damaged
        raise ListError(f"{folder / _METADATA}: not TinyFace's lists of paths ({error})") from None
    row_of = {Path(path).name: row for row, path in enumerate(table["path"])}
    sides = []
    for part in parts:
        names = [Path(path).name for path in part]
        if absent := [name for name in names if name not in row_of]:
            raise ListError(f"{folder}: has no image {absent[0]} of {_METADATA}; take another copy")
        sides.append([(_image_name(row_of[name]), name) for name in names])
    return tinyface(folder, "arrow", *sides)
