"""Lists of pairs as the field distributes them, read into one form.

A name in a list is matched with a row key of the cache later (`pair_rows`), so a reader keeps the
names as they stand. Layouts are recognised by their content, except for `.bin`, `.csv` and
`.json`, which their suffix names.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.list_text import (
    Table,
    fields_of,
    find_table,
    lines,
    read_text,
    without_end,
)
from faceguide.cache.pairs.twin_lists import Impostors, twin_pairs
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import ListError

# The one reader of this format; it names no code of its file (see there).
from faceguide.core.formats import verification_bin

_TABLES = (".csv", ".tsv")
# Names of columns in use → ours; blanks and underlines in them do not count.
_COLUMNS = {
    **{"a": "a", "b": "b", "same": "same", "fold": "fold"},
    **{"imagea": "a", "imageb": "b", "issame": "same", "anum": "a_number", "bnum": "b_number"},
}
# Other names of the same; they count where none of the above is there.
_ALIASES = {
    **{f"{word}1": "a" for word in ("path", "img", "image", "file", "filename", "name", "face")},
    **{f"{word}2": "b" for word in ("path", "img", "image", "file", "filename", "name", "face")},
    **dict.fromkeys(("probe", "first", "p1"), "a"),
    **dict.fromkeys(("reference", "second", "p2"), "b"),
    **dict.fromkeys(("label", "match", "sameperson", "issameperson", "target"), "same"),
}
_TRUTH = {"1": True, "true": True, "0": False, "false": False, "-1": False}
_TRUTH |= {f"{text}.0": same for text, same in _TRUTH.items() if not text.isalpha()}


@dataclass(frozen=True)
class PairList:
    """Pairs in the order of their file.

    Attributes:
        first: names of the probes; a path, or a path without its suffix.
        same: (N,) bool, one identity.
        fold: (N,) int64, or None when the file has none.
        twins: (N,) bool, two twins; None where the list does not know twins.
        doubts: what is left out of the list, or looks wrong.
    """

    first: list[str]
    second: list[str]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64] | None
    twins: NDArray[np.bool_] | None = None
    doubts: Doubts = field(default_factory=Doubts)

    def __len__(self) -> int:
        return len(self.first)


def read_pairs(path: Path, split: str | None = None, impostors: Impostors = "twins") -> PairList:
    """Read a list of pairs.

    Known layouts: a header `fold,a,b,same` or `image_a,image_b,is_same[,fold]` or the like over
    cells parted by `,`, `;` or tabs; LFW's `pairs.txt` and `pairsDevTest.txt`, with or without
    their first line; lines of `path path 0|1`; CALFW and CPLFW (two lines a pair); insightface
    `.bin`; ND-TWIN's pairs of identities (`.json`, with `id_to_images.json` next to it): all pairs
    of images of one identity, and all across two twins.

    Args:
        split: "train", "val" or "test" of an ND-TWIN file; for no other layout.
        impostors: pairs of two identities of an ND-TWIN file: of twins, of others, or both.

    Raises:
        ListError: when the file is in no known layout; names the line.
    """
    if path.suffix.lower() == ".bin":
        if not path.is_file():
            raise ListError(f"{path}: no such file")
        images = verification_bin.read_pairs(path)
        return _pair_list(path, [(a, b, same, None) for a, b, same in images])
    text = read_text(path)
    if path.suffix.lower() == ".json":
        found = twin_pairs(path, text, split, impostors)
        pairs = _pair_list(path, [(a, b, same, None) for a, b, same, _ in found.rows])
        return replace(pairs, twins=np.array([row[3] for row in found.rows]), doubts=found.doubts)
    if split is not None:
        raise ListError(f"{path}: a split is for ND-TWIN's .json files; leave it out")
    listed = lines(text)
    if not listed:
        raise ListError(f"{path}: expected a list of pairs, found an empty file")
    if table := find_table(path, _is_header):
        return _pair_list(path, _table(path, table))
    separator = _separator(path, listed)
    fields = [(_cells(path, line, separator), line[0]) for line in listed]
    layout = _layout(path, fields)
    return _pair_list(path, layout(path, fields))


Fields = list[tuple[list[str], int]]
Row = tuple[str, str, bool, int | None]


def _cells(path: Path, line: tuple[int, str], separator: str | None) -> list[str]:
    try:
        return fields_of(line[1], separator)
    except csv.Error as error:
        raise ListError(f"{path}: line {line[0]}: not CSV: {error}") from None


def _is_header(cells: list[str]) -> bool:
    names = _named(cells)
    return {"a", "b", "same"} <= set(names) or _is_kaggle(cells)


def _is_kaggle(header: list[str]) -> bool:
    """LFW's lists as Kaggle has them: lines of LFW under `name,imagenum1,imagenum2`."""
    return len(header) > 2 and header[0] == "name" and header[1].startswith("imagenum")


def _named(header: list[str]) -> list[str]:
    """Our name of each column, "" where it is none of ours."""
    words = [re.sub(r"[\s_-]", "", cell.lower()) for cell in header]
    names = [_COLUMNS.get(word, "") for word in words]
    for ours in ("a", "b", "same"):
        if ours not in names:
            names = [
                ours if _ALIASES.get(word) == ours else name
                for word, name in zip(words, names, strict=True)
            ]
    return names


def _separator(path: Path, listed: list[tuple[int, str]]) -> str | None:
    """What separates the fields of a list without header; None = tabs or blanks."""
    for separator in (",", ";"):
        cells = [_cells(path, line, separator) for line in listed[:20] if "\t" not in line[1]]
        if cells and all(2 <= len(c) <= 4 and all(c) and _is_label(c) for c in cells):
            return separator
    return None


def _is_label(cells: list[str]) -> bool:
    """Whether a line begins or ends with a label or an image number."""
    return any(cell.lower() in _TRUTH or cell.isdigit() for cell in (cells[0], cells[-1]))


def _layout(path: Path, fields: Fields) -> Callable[[Path, Fields], Iterator[Row]]:
    rows = [line for line, _ in fields]
    first = rows[0]
    is_table = path.suffix.lower() in _TABLES
    if not is_table and len(first) <= 2 and all(field.isdigit() for field in first):
        return _lfw
    if not is_table and len(first) == 2:
        return _two_lines
    if all(map(_is_lfw, rows)):
        numbered = any(line[0].isdigit() for line in rows)  # then three numbers may be anything
        labelled = all(line[2].lower() in _TRUTH for line in rows)
        if any(len(line) == 4 for line in rows) or not (numbered or labelled):
            return _lfw
    if len(first) == 3 and (not is_table or _is_label(first)):
        return _path_path_label
    if is_table:
        missing = [name for name in ("a", "b", "same") if name not in _named(first)]
        raise ListError(
            f"{path}: expected a header with a, b, same (or image_a, image_b, is_same) and "
            f"perhaps fold; {', '.join(missing)} not found"
        )
    raise ListError(
        f"{path}: line {fields[0][1]} is in no known layout: expected LFW's `folds pairs`, `path "
        f"path 0|1`, or CALFW's `name label`, found {len(first)} fields"
    )


def _is_lfw(line: list[str]) -> bool:
    """Whether a line is `name number number` or `name number name number`."""
    return len(line) in (3, 4) and line[1].isdigit() and line[-1].isdigit()


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


def _table(path: Path, table: Table) -> Iterator[Row]:
    """Records under a header."""
    header, listed = without_end(table.names), table.records
    if _is_kaggle(header):
        yield from _lfw_lines(path, [(without_end(cells), number) for number, cells in listed])
        return
    names = _named(header)
    for ours in ("a", "b", "same", "fold", "a_number", "b_number"):
        if names.count(ours) > 1:
            both = [cell for cell, name in zip(header, names, strict=True) if name == ours]
            raise ListError(
                f"{path}: the columns {' and '.join(both)} mean the same; remove all but one"
            )
    for number, cells in listed:
        where = f"{path}: line {number}"
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) != len(header):
            raise ListError(f"{where}: expected {len(header)} cells, found {len(cells)}")
        row = dict(zip(names, cells, strict=True))
        pair = []
        for side in ("a", "b"):
            image = row.get(f"{side}_number")
            pair.append(row[side] if image is None else _lfw_name(where, row[side], image))
        fold = _whole(where, "fold", row["fold"].removesuffix(".0")) if "fold" in row else None
        yield pair[0], pair[1], truth(where, row["same"]), fold


def _lfw(path: Path, fields: Fields) -> Iterator[Row]:
    """LFW's lines, behind a line `folds pairs` or none.

    Each fold has as many lines of one identity as of two.
    """
    first = fields[0][0]
    if len(first) > 2:
        yield from _lfw_lines(path, fields)
        return
    head = [_whole(f"{path}: line {fields[0][1]}", "the first line", field) for field in first]
    folds, each = (1, head[0]) if len(head) == 1 else (head[0], head[1])
    if len(fields) - 1 != 2 * folds * each:
        raise ListError(
            f"{path}: line {fields[0][1]} announces {2 * folds * each} pairs, found "
            f"{len(fields) - 1} lines; correct that line or remove it"
        )
    for position, (a, b, same, _) in enumerate(_lfw_lines(path, fields[1:])):
        yield a, b, same, position // (2 * each) if len(head) == 2 else None


def _lfw_lines(path: Path, fields: Fields) -> Iterator[Row]:
    """`name number number` of one identity, `name number name number` of two."""
    for line, number in fields:
        where = f"{path}: line {number}"
        if len(line) == 3:
            name, a, b = line
            yield _lfw_name(where, name, a), _lfw_name(where, name, b), True, None
        elif len(line) == 4:
            yield _lfw_name(where, *line[:2]), _lfw_name(where, *line[2:]), False, None
        else:
            raise ListError(
                f"{where}: expected 3 or 4 fields, found {len(line)}; where names hold blanks, "
                "tabs must part the fields"
            )


def _lfw_name(where: str, name: str, number: str) -> str:
    return f"{name}/{name}_{_whole(where, 'the image number', number):04d}"


def _two_lines(path: Path, fields: Fields) -> Iterator[Row]:
    """CALFW and CPLFW: `name token` twice; the token is 0 for two identities.

    CALFW's tokens 1 to 10 number the folds of the genuine pairs; its impostor pairs have no fold,
    so folds are left to the protocol, which cuts both kinds in the order of the file.
    """
    if len(fields) % 2:
        raise ListError(f"{path}: expected two lines a pair, found {len(fields)} lines")
    for (a, number), (b, _) in zip(fields[::2], fields[1::2], strict=True):
        where = f"{path}: line {number}"
        if len(a) != 2 or len(b) != 2 or a[1] != b[1]:
            raise ListError(
                f"{where}: expected two lines of `name label` with one label, or "
                "lines of `path path 0|1`"
            )
        yield a[0], b[0], _whole(where, "the label", a[1]) > 0, None


def _path_path_label(path: Path, fields: Fields) -> Iterator[Row]:
    """`path path 0|1`, or the label first where not every line ends with one."""
    whole = [line for line, _ in fields if len(line) == 3]
    is_label = [[line[place].lower() in _TRUTH for line in whole] for place in (0, 2)]
    label_first = sum(is_label[0]) > sum(is_label[1])
    for line, number in fields:
        where = f"{path}: line {number}"
        if len(line) != 3:
            raise ListError(f"{where}: expected `path path 0|1`, found {len(line)} fields")
        label, a, b = line if label_first else (line[2], line[0], line[1])
        yield a, b, truth(where, label), None


def truth(where: str, text: str) -> bool:
    """Whether a word of a list says that two images show one identity.

    Raises:
        ListError: beginning with `where`, when it is neither yes nor no.
    """
    if text.lower() not in _TRUTH:
        raise ListError(f"{where}: expected 1 or 0 for one identity or two, found {text[:40]!r}")
    return _TRUTH[text.lower()]


def _whole(where: str, what: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ListError(f"{where}: expected a whole number for {what}, found {text[:40]!r}")
    return int(text)
