"""Who is enrolled and who is asked for: gallery and probes of an identification."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import STATUSES
from faceguide.evaluate.errors import EvaluationError, ListError
from faceguide.evaluate.pair_rows import LeftOut, find_rows


@dataclass(frozen=True)
class Galleries:
    """An identification task.

    Attributes:
        gallery: (G,) rows that are enrolled.
        gallery_person: (G,) person of each, numbered from 0 without gaps over both lists.
        probe: (P,) rows that are searched for.
        probe_person: (P,) person of each; a person without gallery rows is not enrolled.
        left_out: list entries without a usable row.
    """

    gallery: NDArray[np.int64]
    gallery_person: NDArray[np.int64]
    probe: NDArray[np.int64]
    probe_person: NDArray[np.int64]
    left_out: list[LeftOut]


def one_per_identity(
    cache: FaceCache, rows: NDArray[np.int64], unenrolled: float = 0.0, seed: int = 0
) -> Galleries:
    """The first image of each person (by key) is enrolled, the others are probes.

    Args:
        cache: where the rows lie.
        rows: labelled rows with a face.
        unenrolled: share of the persons, 0 to below 1, that are drawn and not enrolled; all
            their images are probes, for the open-set figures.
        seed: of that draw.

    Raises:
        EvaluationError: when no probe or no gallery is left.
    """
    labels = cache.read(rows, ["label"])["label"]
    if (labels < 0).any():
        raise EvaluationError(
            f"{cache.directory}: {int((labels < 0).sum())} rows have no identity; give --gallery "
            "and --probes with one"
        )
    keys = np.array(cache.texts("key", rows), dtype=object)
    order = np.lexsort((keys.astype(str), labels))
    rows, labels = rows[order], labels[order]
    _, person = np.unique(labels, return_inverse=True)
    people = int(person.max()) + 1 if len(person) else 0
    left = np.random.default_rng(seed).permutation(people)[: round(unenrolled * people)]
    first = np.append(True, person[1:] != person[:-1]) if people else np.empty(0, bool)
    enrolled = first & ~np.isin(person, left)
    if not enrolled.any() or enrolled.all():
        raise EvaluationError(
            f"{cache.directory}: {len(rows)} rows of {people} persons leave "
            f"{int(enrolled.sum())} gallery images and {int((~enrolled).sum())} probes; expected "
            "persons with two images or more"
        )
    return Galleries(rows[enrolled], person[enrolled], rows[~enrolled], person[~enrolled], [])


def from_lists(cache: FaceCache, gallery: Path, probes: Path) -> Galleries:
    """Gallery and probes from two CSV files with a header `key` and, if need be, `identity`.

    Without `identity` the cache's labels name the persons.

    Raises:
        ListError: when a file is in another form.
        EvaluationError: when a person is unknown, or an image is in both lists.
    """
    sides = [_read(gallery), _read(probes)]
    found = find_rows(cache, [key for side in sides for key, _ in side])
    left_out: list[LeftOut] = []
    rows: list[list[int]] = [[], []]
    people: list[list[str]] = [[], []]
    for place, side in enumerate(sides):
        usable = [(number, key, name) for number, (key, name) in enumerate(side)]
        known = [row for _, key, _ in usable if isinstance(row := found[key], int)]
        status = dict(zip(known, cache.read(known, ["status"])["status"].tolist(), strict=True))
        names = cache.identities
        labels = dict(zip(known, cache.read(known, ["label"])["label"].tolist(), strict=True))
        for number, key, name in usable:
            row = found[key]
            if isinstance(row, str) or status[row]:
                reason = row if isinstance(row, str) else STATUSES[status[row]]
                left_out.append(LeftOut(number, key, "", f"{key}: {reason}"))
                continue
            if name is None and labels[row] < 0:
                raise EvaluationError(
                    f"{(gallery, probes)[place]}: {key} has no identity in the cache; add a column "
                    "identity"
                )
            rows[place].append(row)
            people[place].append(name if name is not None else names[labels[row]])
    both = set(rows[0]) & set(rows[1])
    if both:
        raise EvaluationError(
            f"{probes}: {len(both)} probes are in the gallery too, e.g. "
            f"{cache.texts('key', [min(both)])[0]}; an image would be compared with itself"
        )
    if not rows[0] or not rows[1]:
        raise EvaluationError(
            f"{gallery}, {probes}: {len(rows[0])} gallery images and {len(rows[1])} probes have a "
            "usable row; expected at least one each"
        )
    _, numbers = np.unique(np.array(people[0] + people[1], dtype=str), return_inverse=True)
    cut = len(rows[0])
    return Galleries(
        np.array(rows[0], np.int64),
        numbers[:cut],
        np.array(rows[1], np.int64),
        numbers[cut:],
        left_out,
    )


def _read(path: Path) -> list[tuple[str, str | None]]:
    try:
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ListError(f"{path}: cannot read: {error.strerror}") from None
    reader = csv.reader(text.splitlines(keepends=True))
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if "key" not in header:
            raise ListError(f"{path}: expected a header with key and perhaps identity")
        listed = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise ListError(
                    f"{path}: line {reader.line_num}: expected {len(header)} cells, found "
                    f"{len(cells)}"
                )
            row = dict(zip(header, cells, strict=True))
            listed.append((row["key"].strip(), row.get("identity")))
    except csv.Error as error:
        raise ListError(f"{path}: line {reader.line_num}: not CSV: {error}") from None
    return listed
