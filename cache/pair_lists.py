"""Lists of pairs as the field distributes them, read into one form.

A name in a list is matched with a row key of the cache later (`pair_rows`), so a reader keeps the
names as they stand. Layouts are told apart by their content, except for `.bin`, `.csv` and
`.json`, which their suffix names.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The one reader of this format; it names no code of its file (see there).
from faceguide.cache import verification_bin
from faceguide.cache.errors import ListError

IMAGES_OF_TWINS = "id_to_images.json"
_MAXIMUM_BYTES = 1 << 31
_MAXIMUM_PAIRS = 50_000_000  # of twins: a short file can name very many
_COLUMNS = {  # header names in use → ours
    "a": "a",
    "b": "b",
    "same": "same",
    "fold": "fold",
    "image_a": "a",
    "image_b": "b",
    "is_same": "same",
    "a_num": "a_number",
    "b_num": "b_number",
}
_TRUTH = {"1": True, "true": True, "0": False, "false": False, "-1": False}


@dataclass(frozen=True)
class PairList:
    """Pairs in the order of their file.

    Attributes:
        first: names of the probes; a path, or a path without its suffix.
        second: names of the references.
        same: (N,) bool, one person.
        fold: (N,) int64, or None when the file has none.
    """

    first: list[str]
    second: list[str]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.first)


def read_pairs(path: Path, split: str | None = None) -> PairList:
    """Read a list of pairs.

    Known layouts: CSV with a header `fold,a,b,same` or `image_a,image_b,is_same[,fold]`; LFW's
    `pairs.txt` and `pairsDevTest.txt`; lines of `path path 0|1`; CALFW and CPLFW (two lines a
    pair); insightface `.bin`; ND-TWIN's pairs of identities (`.json`, with `id_to_images.json`
    beside it): all pairs of images of one person, and all across two twins.

    Args:
        path: the file.
        split: "train", "val" or "test" of an ND-TWIN file; for no other layout.

    Raises:
        ListError: when the file is in no known layout; names the line.
    """
    if path.suffix.lower() == ".bin":
        if not path.is_file():
            raise ListError(f"{path}: no such file")
        pairs = verification_bin.read_pairs(path)
        return _pair_list(path, [(a, b, same, None) for a, b, same in pairs])
    text = _text(path)
    if path.suffix.lower() == ".json":
        return _pair_list(path, _twins(path, text, split))
    if split is not None:
        raise ListError(f"{path}: a split is for ND-TWIN's .json files; leave it out")
    if path.suffix.lower() == ".csv":
        return _pair_list(path, _csv(path, text))
    lines = [
        (number, line.split("\t") if "\t" in line else line.split())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    fields = [([field.strip() for field in line], number) for number, line in lines]
    if not fields:
        raise ListError(f"{path}: expected a list of pairs, found an empty file")
    layout = _layout(path, [line for line, _ in fields[:2]])
    return _pair_list(path, layout(path, fields))


Fields = list[tuple[list[str], int]]
Row = tuple[str, str, bool, int | None]


def _layout(path: Path, start: list[list[str]]) -> Callable[[Path, Fields], Iterator[Row]]:
    first = start[0]
    if len(first) <= 2 and all(field.isdigit() for field in first):
        return _lfw
    if len(first) == 2:
        return _two_lines
    if len(first) == 3:
        return _path_path_label
    raise ListError(
        f"{path}: line 1 is in no known layout: expected LFW's `folds pairs`, `path path 0|1`, or "
        f"CALFW's `name label`, found {len(first)} fields"
    )


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAXIMUM_BYTES:
            raise ListError(f"{path}: more than {_MAXIMUM_BYTES >> 30} GiB; not a list of pairs?")
        # Row keys are file names, which need not be UTF-8.
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ListError(f"{path}: cannot read: {error.strerror}") from None


def _pair_list(path: Path, rows: Iterator[Row] | list[Row]) -> PairList:
    listed = list(rows)
    if not listed:
        raise ListError(f"{path}: expected pairs, found none")
    first, second, same, fold = zip(*listed, strict=True)
    return PairList(
        list(first),
        list(second),
        np.array(same, bool),
        None if fold[0] is None else np.array(fold, np.int64),
    )


def _csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(text.splitlines(keepends=True))
    try:
        header = [_COLUMNS.get(name.strip().lower(), "") for name in next(reader, [])]
        missing = [name for name in ("a", "b", "same") if name not in header]
        if missing:
            raise ListError(
                f"{path}: expected a header with a, b, same (or image_a, image_b, is_same) and "
                f"perhaps fold; {', '.join(missing)} not found"
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise ListError(
                    f"{path}: line {reader.line_num}: expected {len(header)} cells, "
                    f"found {len(cells)}"
                )
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            where = f"{path}: line {reader.line_num}"
            names = []
            for side in ("a", "b"):
                number = row.get(f"{side}_number")
                names.append(row[side] if number is None else _lfw_name(where, row[side], number))
            fold = _whole(where, "fold", row["fold"]) if "fold" in row else None
            yield names[0], names[1], _truth(where, row["same"]), fold
    except csv.Error as error:
        raise ListError(f"{path}: line {reader.line_num}: not CSV: {error}") from None


def _lfw(path: Path, fields: Fields) -> Iterator[Row]:
    """`folds pairs`, then per fold as many rows of 3 fields (one person) and of 4 (two)."""
    head = [_whole(f"{path}: line 1", "the first line", field) for field in fields[0][0]]
    folds, each = (1, head[0]) if len(head) == 1 else (head[0], head[1])
    if len(fields) - 1 != 2 * folds * each:
        raise ListError(
            f"{path}: line 1 announces {2 * folds * each} pairs, found {len(fields) - 1} lines"
        )
    for position, (line, number) in enumerate(fields[1:]):
        where = f"{path}: line {number}"
        fold = position // (2 * each) if len(head) == 2 else None
        if len(line) == 3:
            name = line[0]
            yield (_lfw_name(where, name, line[1]), _lfw_name(where, name, line[2]), True, fold)
        elif len(line) == 4:
            yield (
                _lfw_name(where, line[0], line[1]),
                _lfw_name(where, line[2], line[3]),
                False,
                fold,
            )
        else:
            raise ListError(f"{where}: expected 3 or 4 fields, found {len(line)}")


def _lfw_name(where: str, name: str, number: str) -> str:
    return f"{name}/{name}_{_whole(where, 'the image number', number):04d}"


def _two_lines(path: Path, fields: Fields) -> Iterator[Row]:
    """CALFW and CPLFW: `name token` twice; the token is 0 for two persons.

    CALFW's tokens 1 to 10 number the folds of the genuine pairs; its impostor pairs have no fold,
    so folds are left to the protocol, which cuts both kinds in the order of the file.
    """
    if len(fields) % 2:
        raise ListError(f"{path}: expected two lines a pair, found {len(fields)} lines")
    for (a, number), (b, _) in zip(fields[::2], fields[1::2], strict=True):
        where = f"{path}: line {number}"
        if len(a) != 2 or len(b) != 2 or a[1] != b[1]:
            raise ListError(f"{where}: expected two lines of `name label` with one label")
        yield a[0], b[0], _whole(where, "the label", a[1]) > 0, None


def _path_path_label(path: Path, fields: Fields) -> Iterator[Row]:
    """`path path 0|1`, or the label first."""
    label_first = fields[0][0][0] in _TRUTH and fields[0][0][2] not in _TRUTH
    for line, number in fields:
        where = f"{path}: line {number}"
        if len(line) != 3:
            raise ListError(f"{where}: expected `path path 0|1`, found {len(line)} fields")
        label, a, b = line if label_first else (line[2], line[0], line[1])
        yield a, b, _truth(where, label), None


def _twins(path: Path, text: str, split: str | None) -> Iterator[Row]:
    """All pairs of images of each person, then all pairs of images across two twins."""
    pairs = _json(path, text)
    if _is_images(pairs):
        raise ListError(
            f"{path}: says which images an identity has, not which identities are pairs; give "
            f"{_pairs_beside(path)}"
        )
    images = _json(path.with_name(IMAGES_OF_TWINS))
    if not isinstance(pairs, dict) or not isinstance(images, dict):
        raise ListError(f"{path}: expected {{split: [[id, id], …]}} and {{id: [paths]}} beside it")
    if split not in pairs:
        raise ListError(
            f"{path}: choose its split, with --split, --pairs-split or --contrastive-split, from "
            f"{', '.join(map(str, pairs))}"
        )
    twins = pairs[split]
    sound = isinstance(twins, list) and all(map(_is_pair, twins))
    if not sound:
        raise ListError(f"{path}: expected a list of [id, id] under {split!r}")
    people = list(dict.fromkeys(str(person) for pair in twins for person in pair))
    couples = list(dict.fromkeys(tuple(sorted(map(str, pair))) for pair in twins))
    size = {person: len(_images_of(path, images, person)) for person in people}
    count = sum(n * (n - 1) // 2 for n in size.values())
    count += sum(size[one] * size[other] for one, other in couples)
    if count > _MAXIMUM_PAIRS:
        raise ListError(f"{path}: {count} pairs of images, at most {_MAXIMUM_PAIRS} are read")
    for person in people:
        for a, b in itertools.combinations(_images_of(path, images, person), 2):
            yield a, b, True, None
    for one, other in couples:
        if one == other:
            raise ListError(f"{path}: {one!r} is listed as its own twin")
        for a in _images_of(path, images, one):
            for b in _images_of(path, images, other):
                yield a, b, False, None


def _is_images(found: Any) -> bool:
    """{identity: [path, …]}, what `IMAGES_OF_TWINS` holds."""
    lists = list(found.values()) if isinstance(found, dict) else []
    return bool(lists) and all(
        isinstance(paths, list) and paths and all(isinstance(name, str) for name in paths)
        for paths in lists
    )


def _pairs_beside(path: Path) -> str:
    """The files in the same folder that list pairs of identities."""
    names = []
    for file in sorted(path.parent.glob("*.json")):
        try:
            found = _json(file)
        except ListError:
            continue
        lists = list(found.values()) if isinstance(found, dict) else []
        if lists and all(isinstance(part, list) and all(map(_is_pair, part)) for part in lists):
            names.append(file.name)
    return " or ".join(names) or "the file of pairs, {split: [[id, id], …]}"


def _is_pair(entry: Any) -> bool:
    is_two = isinstance(entry, list) and len(entry) == 2
    return is_two and all(isinstance(person, str | int) for person in entry)


def _images_of(path: Path, images: dict[str, Any], person: str) -> list[str]:
    paths = images.get(person)
    if not isinstance(paths, list) or not all(isinstance(name, str) for name in paths):
        raise ListError(
            f"{path.with_name(IMAGES_OF_TWINS)}: expected a list of paths for {person!r}"
        )
    return paths


def _json(path: Path, text: str | None = None) -> Any:
    try:
        return json.loads(_text(path) if text is None else text)
    except (ValueError, RecursionError) as error:
        raise ListError(f"{path}: not JSON: {error}") from None


def _truth(where: str, text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise ListError(f"{where}: expected 1 or 0 for one person or two, found {text[:40]!r}")
    return _TRUTH[text.lower()]


def _whole(where: str, what: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ListError(f"{where}: expected a whole number for {what}, found {text[:40]!r}")
    return int(text)
