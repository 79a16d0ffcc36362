"""CFP's protocol: folds of pairs of numbers, which two lists turn into paths."""

from __future__ import annotations

import posixpath
from pathlib import Path

import numpy as np

from faceguide.cache.pairs.list_text import lines, read_text
from faceguide.cache.pairs.pair_lists import PairList
from faceguide.core.errors import ListError


def read_cfp(root: Path, split: str) -> PairList:
    """The pairs of CFP-FF or CFP-FP, with paths below `root`.

    `Protocol/Pair_list_F.txt` and `Pair_list_P.txt` have lines `number path`, relative to
    `Protocol`; `Protocol/Split/FP/01/same.txt` and `diff.txt` lines `number,number`, the second
    number of FP being a profile's.

    Args:
        split: "FF" or "FP".

    Raises:
        ListError: when a file is missing or in another form.
    """
    protocol = root / "Protocol"
    first = _images(protocol / "Pair_list_F.txt")
    second = first if split == "FF" else _images(protocol / "Pair_list_P.txt")
    rows: list[tuple[str, str, bool, int]] = []
    folds = sorted(path for path in (protocol / "Split" / split).iterdir() if path.is_dir())
    for fold, folder in enumerate(folds):
        for name, same in (("same.txt", True), ("diff.txt", False)):
            path = folder / name
            for number, line in lines(read_text(path)):
                a, _, b = line.partition(",")
                try:
                    rows.append((first[a.strip()], second[b.strip()], same, fold))
                except KeyError as error:
                    raise ListError(
                        f"{path}: line {number}: expected `number,number` of Pair_list_F.txt and "
                        f"Pair_list_P.txt, found {error.args[0][:40]!r}"
                    ) from None
    if not rows:
        raise ListError(f"{protocol / 'Split' / split}: expected folders 01 to 10, found none")
    ours, others, truth, fold_of = zip(*rows, strict=True)
    return PairList(list(ours), list(others), np.array(truth, bool), np.array(fold_of, np.int64))


def _images(path: Path) -> dict[str, str]:
    """Number → path below the root."""
    found = {}
    for number, line in lines(read_text(path)):
        name, _, image = line.strip().partition(" ")
        inside = posixpath.normpath(posixpath.join("Protocol", image.strip().replace("\\", "/")))
        if not name.isdigit() or not image or inside.startswith(("..", "/")):
            raise ListError(f"{path}: line {number}: expected `number path`, found {line[:60]!r}")
        found[name] = inside
    return found
