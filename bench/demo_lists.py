"""Lists for the demo: `demo_lists.py SET` writes photos, masks, unoccluded and veiled .csv in SET.

photos.csv (path, identity, split) sets a third of the identities apart for tests; masks.csv
(image, mask) says which photograph a mask belongs to. The other two are pairs (fold, a, b, same)
of test identities: two unoccluded faces, and a veiled face against an unoccluded one. Half of
each list shows one identity.
"""

from __future__ import annotations

import csv
import random
import sys
from itertools import combinations, product
from pathlib import Path

FOLDS, PAIRS = 5, 200
TEST_SHARE = 1 / 3


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _balanced(candidates: list[tuple[Path, Path]], seed: int) -> list[tuple[object, ...]]:
    """As many pairs of one identity as of two, in folds."""
    kinds: dict[int, list[tuple[Path, Path]]] = {1: [], 0: []}
    for a, b in candidates:
        kinds[int(a.parent == b.parent)].append((a, b))
    count = min(PAIRS // 2, *map(len, kinds.values()))
    rng = random.Random(seed)
    return [
        (place % FOLDS, a.as_posix(), b.as_posix(), same)
        for same, pairs in kinds.items()
        for place, (a, b) in enumerate(rng.sample(pairs, count))
    ]


def write_lists(folder: Path) -> None:
    """Write the three lists of a demo set; the same set gives the same bytes."""
    photos = sorted(path.relative_to(folder) for path in folder.glob("photos/*/*.jpg"))
    identities = sorted({photo.parent.name for photo in photos})
    tested = set(identities[round(len(identities) * (1 - TEST_SHARE)) :])
    _write(
        folder / "photos.csv",
        ("path", "identity", "split"),
        [
            (
                photo.as_posix(),
                photo.parent.name,
                "test" if photo.parent.name in tested else "train",
            )
            for photo in photos
        ],
    )
    masks = {photo: f"masks/{photo.parent.name}/{photo.stem}_mask.png" for photo in photos}
    veiled = {photo: mask for photo, mask in masks.items() if (folder / mask).exists()}
    _write(
        folder / "masks.csv",
        ("image", "mask"),
        [(photo.as_posix(), mask) for photo, mask in veiled.items()],
    )
    test = [photo for photo in photos if photo.parent.name in tested]
    plain = [photo for photo in test if photo not in veiled]
    covered = [photo for photo in test if photo in veiled]
    header = ("fold", "a", "b", "same")
    _write(folder / "unoccluded.csv", header, _balanced(list(combinations(plain, 2)), 1))
    _write(folder / "veiled.csv", header, _balanced(list(product(covered, plain)), 2))


if __name__ == "__main__":
    write_lists(Path(sys.argv[1]))
