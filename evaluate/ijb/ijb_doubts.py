"""What the lists of IJB say against each other: pairs of templates, subjects, uses of images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from faceguide.core.commands.doubts import Doubts
from faceguide.evaluate.ijb import ijb_meta
from faceguide.evaluate.ijb.ijb_meta import GALLERIES, IJBMeta

_BLOCK = 1 << 20  # pairs whose subjects are held at once


def subjects_of(meta: IJBMeta, doubts: Doubts) -> dict[int, int]:
    """Template → subject over all lists of the 1:N protocol; contradictions among them are added.

    Args:
        doubts: gets templates of two subjects, and images in templates of two or twice in one.
    """
    subjects: dict[int, int] = {}
    for name in ("probe_mixed", *(f"gallery_{name}" for name in GALLERIES[meta.name])):
        for template, subject in ijb_meta.read_subjects(meta, name).items():
            if subjects.setdefault(template, subject) != subject:
                doubts.add("two_identities", f"template {template}")
    who = _looked_up(subjects, meta.template)
    known = who >= 0
    least = np.full(len(meta.images), np.iinfo(np.int64).max)
    most = np.full(len(meta.images), -1)
    np.minimum.at(least, meta.image[known], who[known])
    np.maximum.at(most, meta.image[known], who[known])
    for place in np.flatnonzero(least < most).tolist():
        doubts.add("two_identities", meta.images[place])
    uses, counts = np.unique(np.stack([meta.image, meta.template]), axis=1, return_counts=True)
    for place in uses[0, counts > 1].tolist():
        doubts.add("repeated_images", meta.images[place])
    return subjects


def pair_doubts(
    subjects: Mapping[int, int],
    pairs: NDArray[np.int64],
    same: NDArray[np.bool_],
    doubts: Doubts,
) -> NDArray[np.bool_] | None:
    """Check the pairs of templates that are scored.

    Args:
        subjects: template → subject, as far as they are known.
        pairs: (N, 2) templates.
        same: (N,) bool.

    Returns:
        (N,) bool, whether no earlier pair is of the same two templates; None = all are first.
    """
    for start in range(0, len(pairs), _BLOCK):
        part = pairs[start : start + _BLOCK]
        who = _looked_up(subjects, part)
        wrong = (who >= 0).all(1) & ((who[:, 0] == who[:, 1]) != same[start : start + _BLOCK])
        for kind, found in (
            ("contradict_labels", wrong),
            ("self_pairs", part[:, 0] == part[:, 1]),
        ):
            if found.any():
                one, other = part[int(found.argmax())].tolist()
                doubts.add(kind, f"templates {one} and {other}", int(found.sum()))
    codes = pairs.min(1) * (int(pairs.max(initial=0)) + 1) + pairs.max(1)
    ordered = np.sort(codes)
    repeated = int(np.count_nonzero(ordered[1:] == ordered[:-1]))
    if not repeated:
        return None
    first = np.zeros(len(pairs), bool)
    first[np.unique(codes, return_index=True)[1]] = True
    one, other = pairs[int(first.argmin())].tolist()
    doubts.add("repeated_pairs", f"templates {one} and {other}", repeated)
    return first


def _looked_up(subjects: Mapping[int, int], templates: NDArray[np.int64]) -> NDArray[np.int64]:
    """The subject of each template, −1 where it is unknown."""
    table = np.array(sorted(subjects.items()), np.int64).reshape(-1, 2)
    if not len(table):
        return np.full(templates.shape, -1)
    places = np.searchsorted(table[:, 0], templates).clip(0, len(table) - 1)
    return np.where(table[places, 0] == templates, table[places, 1], -1)
