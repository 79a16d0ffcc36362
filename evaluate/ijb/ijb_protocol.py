"""IJB-B and IJB-C: template verification (1:1) and template identification (1:N)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.commands.doubts import Doubts
from faceguide.evaluate.identification import probe_block, refuse, search_blocks, summarise
from faceguide.evaluate.ijb import ijb_doubts, ijb_meta, templates
from faceguide.evaluate.ijb.ijb_meta import GALLERIES, IJBMeta
from faceguide.evaluate.ijb.templates import Uses
from faceguide.evaluate.metrics import roc
from faceguide.evaluate.score.block_files import ScoreBlocks, slices
from faceguide.evaluate.score.face_reader import FaceReader, score_pairs
from faceguide.evaluate.score.matcher_options import TemplateOptions
from faceguide.evaluate.score.scores import Matcher

RECORD = "ijb.json"
# Pairs of templates scored at once: as products of embeddings, or image by image.
_PAIR_BLOCK, _LOCAL_PAIR_BLOCK = 1 << 16, 1 << 13
_PART = 256  # gallery templates whose maps are held at once


class TemplateScorer:
    """Scores of templates, by pooled embeddings or by pairs of images.

    Templates are addressed by their place in `uses.template`.
    """

    def __init__(
        self, reader: FaceReader, matcher: Matcher, uses: Uses, options: TemplateOptions
    ) -> None:
        self._reader, self._matcher = reader, matcher
        self._pooled: NDArray[np.float32] | None = None
        self.is_pooled = matcher.name == "cosine"
        if self.is_pooled:
            self._pooled = templates.pool(
                reader.store,
                uses,
                flip=options.flip,
                norm=options.norm,
                detector_score=options.detector_score,
            )
        else:
            self._image, self._start = templates.represent(uses, options.images_per_template)

    @property
    def representatives(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which images stand for which template, where they are compared one by one."""
        return self._image, self._start

    def pairs(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N,) scores of pairs of templates."""
        if self._pooled is not None:
            return np.einsum("ne,ne->n", self._pooled[first], self._pooled[second])
        a, b, pair = templates.image_pairs(first, second, self._image, self._start)
        scores = score_pairs(self._reader, self._matcher, a, b).astype(np.float64)
        counts = np.bincount(pair, minlength=len(first))
        sums = np.bincount(pair, scores, minlength=len(first))
        return (sums / counts).astype(np.float32)

    def blocks(
        self, probe: NDArray[np.int64], gallery: NDArray[np.int64]
    ) -> Callable[[slice], Iterator[tuple[slice, NDArray[np.float32]]]]:
        """What `identification.search_blocks` asks for."""

        def score(block: slice) -> Iterator[tuple[slice, NDArray[np.float32]]]:
            if self._pooled is not None:
                yield slice(0, len(gallery)), self._pooled[probe[block]] @ self._pooled[gallery].T
                return
            faces, begins, counts = self._representatives(probe[block])
            for first in range(0, len(gallery), _PART):
                part = slice(first, min(first + _PART, len(gallery)))
                others, starts, sizes = self._representatives(gallery[part])
                scores = self._matcher.matrix(faces, others).cpu().numpy()
                sums = np.add.reduceat(np.add.reduceat(scores, begins, axis=0), starts, axis=1)
                yield part, sums / (counts[:, None] * sizes)

        return score

    def _representatives(self, places: NDArray[np.int64]) -> tuple[Any, Any, Any]:
        """Faces of the representatives of some templates, where each begins, and how many."""
        counts = np.diff(self._start)[places]
        begins = np.cumsum(counts) - counts
        inside = np.arange(int(counts.sum())) - np.repeat(begins, counts)
        rows = self._image[np.repeat(self._start[places], counts) + inside]
        return self._reader.faces(rows, self._matcher.needs), begins, counts.astype(np.float32)


def verify(
    meta: IJBMeta,
    scorer: TemplateScorer,
    uses: Uses,
    kept: ScoreBlocks,
    subjects: Mapping[int, int],
    doubts: Doubts,
    progress: Callable[[int], object] = lambda count: None,
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """The 1:1 protocol.

    Args:
        kept: where scores are kept that are not products of embeddings.
        subjects: template → subject, as far as they are known.

    Returns:
        The record, and the arrays `template` (N, 2), `same` (N,) and `score` (N,) of the pairs
        that could be scored; None when other parts are needed.
    """
    pairs, same = ijb_meta.read_template_pairs(meta)
    places = np.searchsorted(uses.template, pairs).clip(0, max(len(uses.template) - 1, 0))
    there = (uses.template[places] == pairs).all(1)
    places, pairs, same = places[there], pairs[there], same[there]

    def compute(block: slice) -> dict[str, NDArray[Any]]:
        return {"score": scorer.pairs(places[block, 0], places[block, 1])}

    if scorer.is_pooled:
        score = np.empty(len(places), np.float32)
        for block in slices(len(places), _PAIR_BLOCK):
            score[block] = compute(block)["score"]
            progress(block.stop - block.start)
    else:
        listed = kept.about(pairs, *scorer.representatives)
        found = listed.run("pairs", slices(len(places), _LOCAL_PAIR_BLOCK), compute, progress)
        if found is None:
            return None
        score = found["score"]
    first = ijb_doubts.pair_doubts(subjects, pairs, same, doubts)
    genuine, impostors = int(same.sum()), int((~same).sum())
    auc, eer, refused = None, None, None
    if (genuine and impostors) or there.all():
        ranking = roc.rank(score, same)
        measures, cells = roc.measure(ranking), roc.tar_cells(ranking, first=first)
        auc, eer = measures.auc, measures.eer
    else:
        refused = (
            f"needs pairs of one identity and of two; of {len(there)} pairs {genuine} of one and "
            f"{impostors} of two have images that can be used"
        )
        cells = roc.refused_cells(impostors, refused)
    record = {
        "listed": len(there),
        "pairs": len(score),
        "genuine": genuine,
        "impostors": impostors,
        "auc": auc,
        "eer": eer,
        "refused": refused,
        "tar": {roc.far_name(cell.far): cell.tar for cell in cells},
        "tar_cells": [asdict(cell) for cell in cells],
    }
    return record, {"template": pairs, "same": same, "score": score}


def identify(
    meta: IJBMeta,
    scorer: TemplateScorer,
    uses: Uses,
    kept: ScoreBlocks,
    *,
    replicates: int,
    seed: int,
) -> dict[str, Any] | None:
    """The 1:N protocol: mixed probes against either gallery, and against both as one.

    Each gallery by itself is the protocol: the probes whose subject is in the other one are
    not enrolled, which gives the open-set figures. `merged` is what many papers print as closed
    set.

    Returns:
        gallery → record of `identification.summarise`; {} when the 1:N files are not there; None
        when other parts are needed.
    """
    probes = ijb_meta.read_subjects(meta, "probe_mixed")
    galleries = {}
    for name in GALLERIES[meta.name]:
        if subjects := ijb_meta.read_subjects(meta, f"gallery_{name}"):
            galleries[name] = subjects
    if not probes or not galleries:
        return {}
    if len(galleries) > 1:
        galleries["merged"] = {
            template: subject
            for subjects in list(galleries.values())
            for template, subject in subjects.items()
        }
    record: dict[str, Any] = {}
    ends = True
    probe, probe_subject, lost = _present(uses, probes)
    for name, subjects in galleries.items():
        gallery, subject, gallery_lost = _present(uses, subjects)
        sizes = {
            "gallery_templates": len(gallery),
            "templates_without_image": {"gallery": gallery_lost, "probes": lost},
        }
        if not len(gallery) or not len(probe):
            reason = (
                f"of the gallery {len(gallery)} templates have images that can be used, of the "
                f"probes {len(probe)}"
            )
            record[name] = sizes | refuse(probe_subject, reason)
            continue
        order = np.argsort(subject, kind="stable")
        gallery, subject = gallery[order], subject[order]
        listed = None
        if not scorer.is_pooled:
            images = scorer.representatives
            listed = kept.about(probe, probe_subject, gallery, subject, *images)
        found = search_blocks(
            scorer.blocks(probe, gallery),
            subject,
            probe_subject,
            probe_block(len(gallery), 512 if scorer.is_pooled else 32),
            kept=listed,
            name=f"gallery-{name}",
        )
        if found is None:
            ends = False
            continue
        record[name] = sizes | summarise(found, probe_subject, replicates=replicates, seed=seed)
    return record if ends else None


def _present(
    uses: Uses, subjects: dict[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Places and subjects of the templates that have an image, and how many have none."""
    table = np.array(sorted(subjects.items()), np.int64).reshape(-1, 2)
    places = np.searchsorted(uses.template, table[:, 0]).clip(0, max(len(uses.template) - 1, 0))
    there = uses.template[places] == table[:, 0]
    return places[there], table[there, 1], int(np.count_nonzero(~there))
