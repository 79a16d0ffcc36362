"""Gallery and probes of an identification: who is enrolled, and who is searched for."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.equal_images import pictures
from faceguide.cache.pairs.identity_names import NOBODY, folded
from faceguide.cache.pairs.name_rows import match_names
from faceguide.cache.pairs.pair_rows import LeftOut
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import STATUSES
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import EvaluationError
from faceguide.evaluate import gallery_list


@dataclass(frozen=True)
class Galleries:
    """An identification task.

    Attributes:
        gallery: (G,) rows that are enrolled.
        gallery_person: (G,) identity of each, numbered from 0 without gaps over both lists.
        probe: (P,) rows that are searched for.
        probe_person: (P,) identity of each; an identity without gallery rows is not enrolled.
    """

    gallery: NDArray[np.int64]
    gallery_person: NDArray[np.int64]
    probe: NDArray[np.int64]
    probe_person: NDArray[np.int64]
    left_out: list[LeftOut]
    doubts: Doubts


def one_per_identity(
    cache: FaceCache, rows: NDArray[np.int64], unenrolled: float = 0.0, seed: int = 0
) -> Galleries:
    """The first image of each identity (by key) is enrolled, the others are probes.

    Args:
        rows: labelled rows with a face.
        unenrolled: share of the identities, 0 to below 1, that are not enrolled, at random; all
            their images are probes, for the open-set figures.

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
            f"{cache.directory}: {len(rows)} rows of {people} identities leave "
            f"{int(enrolled.sum())} gallery images and {int((~enrolled).sum())} probes; expected "
            "identities with two images or more"
        )
    return Galleries(
        rows[enrolled], person[enrolled], rows[~enrolled], person[~enrolled], [], Doubts()
    )


@dataclass(frozen=True)
class _Usable:
    """An entry of a list with a row and an identity."""

    place: int  # 0 = gallery, 1 = probes
    number: int
    key: str
    row: int
    identity: str


def from_lists(cache: FaceCache, gallery: Path, probes: Path) -> Galleries:
    """Gallery and probes from two CSV files: `key` and, if need be, `identity`.

    Without `identity` the cache's labels name the identities. Entries without a row, without an
    identity or with two, and repeated ones are left out.

    Raises:
        ListError: when a file is in another form.
        EvaluationError: when a side has no usable image, or an image is in both lists.
    """
    sides = (gallery_list.read(gallery), gallery_list.read(probes))
    matches = match_names(cache, [entry.key for side in sides for entry in side])
    known = np.unique([row for row in matches.rows.values() if isinstance(row, int)])
    found = cache.read(known.astype(np.int64), ["status", "label"])
    status = dict(zip(known.tolist(), found["status"].tolist(), strict=True))
    named = cache.identities
    label = {
        row: named[code] if code >= 0 else ""
        for row, code in zip(known.tolist(), found["label"].tolist(), strict=True)
    }
    usable: list[_Usable] = []
    left_out: list[LeftOut] = []
    for place, side in enumerate(sides):
        for entry in side:
            row = matches.rows[entry.key]
            if isinstance(row, str):
                reason = row
            elif status[row]:
                reason = STATUSES[status[row]]
            else:
                identity = label[row] if entry.identity is None else entry.identity
                if identity and identity not in NOBODY:
                    identity = unicodedata.normalize("NFC", identity)
                    usable.append(_Usable(place, entry.number, entry.key, row, identity))
                    continue
                reason = "no identity"
            left_out.append(LeftOut(entry.number, entry.key, "", f"{entry.key}: {reason}"))
    doubts = matches.doubts()
    kept = _once(cache, usable, left_out, doubts)
    of_side = [[entry for entry in kept if entry.place == place] for place in (0, 1)]
    rows = [np.array([entry.row for entry in side], np.int64) for side in of_side]
    both = np.intersect1d(rows[0], rows[1])
    if len(both):
        raise EvaluationError(
            f"{probes}: {len(both)} probes are in the gallery too, e.g. "
            f"{cache.texts('key', both[:1])[0]}; an image would be compared with itself"
        )
    if not len(rows[0]) or not len(rows[1]):
        why = f"; the first without: {left_out[0].reason}" if left_out else ""
        raise EvaluationError(
            f"{gallery}, {probes}: {len(rows[0])} gallery images and {len(rows[1])} probes have a "
            f"usable row and an identity; expected at least one each{why}"
        )
    people = [entry.identity for side in of_side for entry in side]
    _, numbers = np.unique(np.array(people, dtype=str), return_inverse=True)
    cut = len(rows[0])
    return Galleries(rows[0], numbers[:cut], rows[1], numbers[cut:], left_out, doubts)


def _once(
    cache: FaceCache, usable: list[_Usable], left_out: list[LeftOut], doubts: Doubts
) -> list[_Usable]:
    """The entries of images that stand under one identity, each once; the others are left out."""
    rows = np.unique([entry.row for entry in usable]).astype(np.int64)
    picture = dict(zip(rows.tolist(), pictures(cache, rows).tolist(), strict=True))
    identities: dict[int, set[str]] = defaultdict(set)
    spellings: dict[str, set[str]] = defaultdict(set)
    for entry in usable:
        identities[picture[entry.row]].add(entry.identity)
        spellings[folded(entry.identity)].add(entry.identity)
    for names in spellings.values():
        doubts.add("spellings", " and ".join(map(repr, sorted(names)[:2])), len(names) - 1)
    kept: list[_Usable] = []
    seen: dict[int, _Usable] = {}
    for entry in usable:
        reason = ""
        before = seen.setdefault(picture[entry.row], entry)
        if len(identities[picture[entry.row]]) > 1:
            doubts.add("two_identities", entry.key)
            reason = "two identities"
        elif before is not entry and (before.row != entry.row or before.place == entry.place):
            doubts.add("repeated_images", entry.key)
            reason = "repeated" if before.row == entry.row else ""
        if reason:
            left_out.append(LeftOut(entry.number, entry.key, "", f"{entry.key}: {reason}"))
        else:
            kept.append(entry)
    return kept
