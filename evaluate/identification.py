"""1:N identification: search each probe among the enrolled identities, block by block.

An identity's score is that of its best gallery image. A probe's rank is one more than the number of
other identities that score at least as much as its own: ties count against the method. Memory holds
one block of probes × identities and one block of gallery images, never the whole matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.evaluate.metrics.bootstrap import draw_counts, interval
from faceguide.evaluate.metrics.roc import LEAST_FALSE_ACCEPTS, far_name
from faceguide.evaluate.score.block_files import ScoreBlocks, slices
from faceguide.evaluate.score.face_reader import FaceReader
from faceguide.evaluate.score.scores import EMBEDDING, Matcher

RANKS = (1, 5, 10, 20)
FPIRS = (1e-3, 1e-2, 1e-1)
SEARCH = "search.safetensors"
_BLOCK_BYTES = 32 << 20  # of probes × identities


@dataclass(frozen=True)
class Search:
    """What the search found for each of P probes.

    Attributes:
        rank: (P,) of the probe's own identity, from 1; 0 when it is not enrolled.
        mate: (P,) score of the own identity; NaN when it is not enrolled.
        top: (P,) highest score of any identity.
        top_person: (P,) who that is.
    """

    rank: NDArray[np.int64]
    mate: NDArray[np.float32]
    top: NDArray[np.float32]
    top_person: NDArray[np.int64]


# Scores of one block of probes, gallery part by gallery part: (part, (P, part) scores).
Blocks = Callable[[slice], Iterator[tuple[slice, NDArray[np.float32]]]]


def probe_block(people: int, most: int = 512) -> int:
    """Probes per block, so that probes × identities stay within 32 MiB."""
    return int(np.clip(_BLOCK_BYTES // (4 * max(people, 1)), 1, most))


def search_blocks(
    blocks: Blocks,
    gallery_person: NDArray[np.int64],
    probe_person: NDArray[np.int64],
    step: int,
    progress: Callable[[int], object] = lambda count: None,
    kept: ScoreBlocks | None = None,
    name: str = "probes",
) -> Search | None:
    """Search with any way of scoring.

    Args:
        blocks: gives the scores of a block of probes with all gallery entries, part by part.
        gallery_person: (G,) identity numbers, in increasing order.
        probe_person: (P,) identity numbers; those that the gallery lacks are not enrolled.
        step: probes of a block.
        kept: where the outcome of each block is kept on disk; None = nowhere.
        name: of this search among those of a run.

    Returns:
        The search, or None when other parts are needed.
    """
    people, column_of = np.unique(gallery_person, return_inverse=True)

    def compute(block: slice) -> dict[str, NDArray[Any]]:
        best = np.full((block.stop - block.start, len(people)), -np.inf, np.float32)
        for part, scores in blocks(block):
            columns, starts = np.unique(column_of[part], return_index=True)
            highest = np.maximum.reduceat(scores, starts, axis=1)
            best[:, columns] = np.maximum(best[:, columns], highest)
        return _read_off(best, people, probe_person[block])

    cuts = slices(len(probe_person), step)
    if kept is not None:
        found = kept.run(name, cuts, compute, progress)
        return None if found is None else Search(**found)
    done = []
    for block in cuts:
        done.append(compute(block))
        progress(block.stop - block.start)
    return Search(**{column: np.concatenate([one[column] for one in done]) for column in done[0]})


@torch.inference_mode()
def search(
    reader: FaceReader,
    matcher: Matcher,
    gallery: NDArray[np.int64],
    gallery_person: NDArray[np.int64],
    probe: NDArray[np.int64],
    probe_person: NDArray[np.int64],
    progress: Callable[[int], object] = lambda count: None,
    kept: ScoreBlocks | None = None,
) -> Search | None:
    """Score all probes against all gallery images.

    Args:
        gallery: (G,) rows.
        gallery_person: (G,) identity numbers.
        probe: (P,) rows.
        probe_person: (P,) identity numbers; those that the gallery lacks are not enrolled.
        kept: where the outcome of each block is kept, unless the matcher is cheap.

    Returns:
        The search, or None when other parts are needed.
    """
    order = np.argsort(gallery_person, kind="stable")
    gallery, gallery_person = gallery[order], gallery_person[order]
    small = matcher.needs == {EMBEDDING}
    step = 1 << 14 if small else 1024
    held = reader.faces(gallery, matcher.needs) if small and len(gallery) <= step else None

    def blocks(block: slice) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        faces = reader.faces(probe[block], matcher.needs)
        for first in range(0, len(gallery), step):
            part = slice(first, min(first + step, len(gallery)))
            enrolled = held if held is not None else reader.faces(gallery[part], matcher.needs)
            yield part, matcher.matrix(faces, enrolled).cpu().numpy()

    size = probe_block(len(np.unique(gallery_person)), 512 if small else 128)
    if small:
        kept = None
    elif kept is not None:
        kept = kept.about(gallery, gallery_person, probe, probe_person)
    return search_blocks(blocks, gallery_person, probe_person, size, progress, kept)


def _read_off(
    best: NDArray[np.float32], people: NDArray[np.int64], person: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Ranks and top scores of a block, fields of `Search`, from its (P, identities) best scores."""
    column = np.searchsorted(people, person).clip(0, len(people) - 1)
    enrolled = people[column] == person
    every = np.arange(len(best))
    mate = best[every, column]
    level = np.count_nonzero(best >= mate[:, None], axis=1)  # the own identity among them
    top = best.argmax(1)
    return {
        "rank": np.where(enrolled, level, 0),
        "mate": np.where(enrolled, mate, np.nan).astype(np.float32),
        "top": best[every, top],
        "top_person": people[top],
    }


def summarise(
    found: Search,
    person: NDArray[np.int64],
    *,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Rank-k rates and open-set rates, with intervals over identities.

    TPIR@FPIR: share of enrolled probes that are found at rank 1 with a score that at most the
    share FPIR of the unenrolled probes reaches. Refused where FPIR × those probes < 10.

    Args:
        person: (P,) identity of each probe.
        replicates: of the bootstrap; 0 = no intervals.
    """
    names = [f"rank {k}" for k in RANKS] + [f"tpir {far_name(f)}" for f in FPIRS]
    identities, cluster = np.unique(person, return_inverse=True)
    statistic = _Rates(found, cluster)
    whole = statistic(np.ones(len(person), np.int64))
    unenrolled = int((found.rank == 0).sum())
    refused = {
        f"tpir {far_name(fpir)}": (
            f"needs {round(LEAST_FALSE_ACCEPTS / fpir):,} probes of identities that are not "
            f"enrolled, found {unenrolled:,}"
        )
        for fpir in FPIRS
        if fpir * unenrolled * (1 + 1e-12) < LEAST_FALSE_ACCEPTS
    }
    enrolled = int((found.rank > 0).sum())
    if not enrolled:
        refused |= dict.fromkeys(names, "no probe is of an enrolled identity")
    intervals: dict[str, Any] = {}
    if replicates:
        counts = (draw_counts(len(identities), seed, number) for number in range(replicates))
        drawn = np.array([statistic(count[cluster]) for count in counts])
        intervals = {
            name: None if name in refused else interval(drawn[:, column])
            for column, name in enumerate(names)
        }
    values = {
        name: None if name in refused else float(value)
        for name, value in zip(names, whole, strict=True)
    }
    return {
        "probes": len(person),
        "enrolled_probes": enrolled,
        "stranger_probes": unenrolled,
        "probe_persons": len(identities),
        "rank": {str(k): values[f"rank {k}"] for k in RANKS},
        "tpir": {far_name(f): values[f"tpir {far_name(f)}"] for f in FPIRS},
        "refused": refused,
        "intervals": intervals,
    }


def refuse(person: NDArray[np.int64], reason: str) -> dict[str, Any]:
    """What `summarise` gives where there is nothing to search for or in.

    Args:
        person: (P,) identity of each probe.
    """
    none = np.full(len(person), np.nan, np.float32)
    nobody = np.zeros(len(person), np.int64)
    record = summarise(Search(nobody, none, none, nobody), person, replicates=0, seed=0)
    return record | {"refused": dict.fromkeys(record["refused"], reason)}


class _Rates:
    """Every rate as a function of the weights of the probes."""

    def __init__(self, found: Search, cluster: NDArray[np.int64]) -> None:
        self._found = found
        self._enrolled, self._unenrolled = found.rank > 0, found.rank == 0
        unenrolled = np.flatnonzero(self._unenrolled)
        self._order = unenrolled[np.argsort(-found.top[unenrolled], kind="stable")]

    def __call__(self, weights: NDArray[np.integer]) -> NDArray[np.float64]:
        found = self._found
        inside = weights * self._enrolled
        total = int(inside.sum())
        if not total:
            return np.full(len(RANKS) + len(FPIRS), np.nan)
        ranks = [int(inside[found.rank <= k].sum()) / total for k in RANKS]
        accepted = np.cumsum(weights[self._order])
        rates = []
        for fpir in FPIRS:
            if not len(accepted) or not accepted[-1]:
                rates.append(np.nan)
                continue
            allowed = np.floor(fpir * accepted[-1] * (1 + 1e-12))
            # The first unenrolled probe that must be rejected sets the score that must be exceeded.
            place = int(np.searchsorted(accepted, allowed, side="right"))
            limit = found.top[self._order[place]] if place < len(self._order) else -np.inf
            good = (found.rank == 1) & (found.mate > limit)
            rates.append(int(inside[good].sum()) / total)
        return np.array([*ranks, *rates])


def cmc(rank: NDArray[np.int64], ranks: int = 100) -> NDArray[np.float64]:
    """(ranks,) share of enrolled probes whose identity is among the first 1, 2, … found.

    Args:
        rank: (P,) of `Search`.
    """
    enrolled = rank[rank > 0]
    counts = np.bincount(np.minimum(enrolled, ranks + 1), minlength=ranks + 2)[1 : ranks + 1]
    return np.cumsum(counts) / max(len(enrolled), 1)
