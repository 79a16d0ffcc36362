"""OCFR-2022's lists: images of a protocol, pairs of their names, and whether they are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faceguide.cache.pairs.list_text import lines, read_text
from faceguide.cache.pairs.pair_lists import PairList, truth
from faceguide.core.errors import ListError


def read_ocfr(images: Path, pairs: Path, same: Path) -> PairList:
    """The pairs of one protocol, by the image paths of its list.

    Args:
        images: lines of an image's path and, perhaps, its box; NAME.jpg is called NAME in `pairs`.
        pairs: lines of two names.
        same: a line 0 or 1 for each line of `pairs`.

    Raises:
        ListError: when a file is in another form, or the two lists do not belong together.
    """
    path_of = {}
    for _, line in lines(read_text(images)):
        image = line.split()[0]
        path_of[_name(image)] = image
    names = []
    for number, line in lines(read_text(pairs)):
        both = line.split()
        if len(both) != 2:
            raise ListError(f"{pairs}: line {number}: expected two names, found {len(both)} fields")
        names.append([path_of.get(_name(name), name) for name in both])
    answers = [
        truth(f"{same}: line {number}", line.strip()) for number, line in lines(read_text(same))
    ]
    if len(names) != len(answers) or not names:
        raise ListError(f"{same}: {len(answers):,} answers for the {len(names):,} pairs of {pairs}")
    first, second = ([pair[side] for pair in names] for side in (0, 1))
    return PairList(first, second, np.array(answers, bool), None)


def _name(image: str) -> str:
    """What pairs call an image: its file's name up to the first full stop."""
    return image.replace("\\", "/").rpartition("/")[2].split(".")[0]
