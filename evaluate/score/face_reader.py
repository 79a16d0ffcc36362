"""Faces of a cache as a matcher needs them, and scores of lists of pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import EvaluationError
from faceguide.evaluate.score.block_files import ScoreBlocks, slices
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.score.scores import EMBEDDING, MAP, VISIBILITY, Faces, Matcher
from faceguide.train.models.loading.network import Network
from faceguide.train.models.matchers.visible_embedding import mean_map

PAIR_BLOCK = 512  # pairs whose maps are held at once
EMBEDDING_BLOCK = 1 << 16
_MEAN_FACES = 512
_CLEAR = 0.95  # a face counts as uncovered from this mean visibility on


@dataclass(frozen=True)
class FaceReader:
    """Reads stored faces.

    Attributes:
        flip: whether `embedding` is that of the image and its mirror image together.
        cache: where known visibility comes from; None when the occlusion head predicts it.
        device: where the tensors go.
    """

    store: FaceStore
    flip: bool = True
    cache: FaceCache | None = None
    device: torch.device | str = "cpu"

    def faces(self, rows: NDArray[np.int64], needs: frozenset[str]) -> Faces:
        """What a matcher needs of these rows, in their order; maps stay float16."""

        def tensor(values: NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(values).to(self.device)

        name = "embedding" if self.flip else "plain_embedding"
        return Faces(
            tensor(self.store.read(name, rows)) if EMBEDDING in needs else None,
            tensor(self.store.read("feature_map", rows)) if MAP in needs else None,
            tensor(self.visibility(rows)) if VISIBILITY in needs else None,
        )

    def visibility(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, g, g) visibility; all visible where the cache does not know it."""
        if self.cache is None:
            return self.store.read("visibility", rows).astype(np.float32)
        return cached_visibility(self.cache, rows)


@dataclass(frozen=True)
class HeldFaces:
    """Faces in memory, read like those of a store; a row is a place among them.

    Attributes:
        held: all that any matcher in use needs.
    """

    held: Faces

    def faces(self, rows: NDArray[np.int64], needs: frozenset[str]) -> Faces:
        return self.held.at(torch.from_numpy(rows))

    def visibility(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        assert self.held.visibility is not None
        return self.held.visibility[torch.from_numpy(rows)].float().cpu().numpy()


def cached_visibility(cache: FaceCache, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, g, g) visibility of these rows in the cache; 1 everywhere where it is not known."""
    found = cache.read(rows, ["visibility", "known"])
    visible = found["visibility"].astype(np.float32)
    visible[~found["known"]] = 1.0
    return visible


def choose_visibility(source: str, network: Network, cache: FaceCache) -> str:
    """ "head" or "cache".

    Args:
        source: "auto" prefers the occlusion head, which sees every face.

    Raises:
        EvaluationError: when the one asked for, or any, is not there.
    """
    has_head, has_cache = network.occlusion_head is not None, "visibility" in cache.columns
    if source == "head" and not has_head:
        raise EvaluationError(
            "these weights hold no occlusion head; give a training run with one, or "
            "--visibility cache"
        )
    if source == "cache" and not has_cache:
        raise EvaluationError(
            f"{cache.directory}: no visibility; `prep masks` makes it, or give weights with an "
            "occlusion head"
        )
    if not has_head and not has_cache:
        raise EvaluationError(
            f"{cache.directory}: no visibility data; `prep masks` writes it from masks, "
            "or give a training run with an occlusion head"
        )
    return "head" if source == "head" or (source == "auto" and has_head) else "cache"


def covers_source(asked: str, network: Network, cache: FaceCache) -> str:
    """ "head" or "cache" for drawn covers, whose visibility is known: "cache" needs no masks.

    Args and errors as `choose_visibility`.
    """
    if asked == "cache" or (asked == "auto" and network.occlusion_head is None):
        return "cache"
    return choose_visibility(asked, network, cache)


def groups_for(needs: frozenset[str], flip: bool, visibility: str | None) -> frozenset[str]:
    """The groups of a store that a matcher with these needs reads.

    Args:
        flip: whether embeddings include the mirror image; the plain ones come with them.
        visibility: "head", "cache" or None.
    """
    groups = set(needs) & {MAP}
    if EMBEDDING in needs:
        groups |= {"plain", "embedding"} if flip else {"plain"}
    if VISIBILITY in needs and visibility == "head":
        groups.add(VISIBILITY)
    return frozenset(groups)


def visible_mean_map(
    reader: FaceReader | HeldFaces, rows: NDArray[np.int64], faces: int = _MEAN_FACES
) -> torch.Tensor:
    """The mean map, (C, s, s), of up to `faces` of these rows, uncovered ones if there are any.

    No label is looked at. The rows are evenly spaced, so that the choice repeats.
    """
    rows = np.unique(rows)
    seen = reader.visibility(rows).mean((1, 2))
    clear = rows[seen >= _CLEAR]
    rows = clear if len(clear) else rows
    chosen = rows[np.linspace(0, len(rows) - 1, min(faces, len(rows))).astype(np.int64)]
    batches = (chosen[start : start + 64] for start in range(0, len(chosen), 64))
    parts = (reader.faces(batch, frozenset({MAP})).feature_map for batch in batches)
    return mean_map(part for part in parts if part is not None)


@torch.inference_mode()
def score_pairs(
    reader: FaceReader | HeldFaces,
    matcher: Matcher,
    probe: NDArray[np.int64],
    reference: NDArray[np.int64],
    progress: Callable[[int], object] = lambda count: None,
) -> NDArray[np.float32]:
    """Scores of N pairs of rows, (N,), in their order.

    Args:
        probe: (N,) rows.
        reference: (N,) rows.
    """
    out = np.empty(len(probe), np.float32)
    whole: tuple[NDArray[np.int64], Faces] | None = None
    if matcher.needs == {EMBEDDING}:
        # Embeddings are small: every face is read once, however many pairs it is in.
        rows = np.unique(np.concatenate([probe, reference]))
        whole = rows, reader.faces(rows, matcher.needs)
    step = EMBEDDING_BLOCK if whole else PAIR_BLOCK
    # Pairs of one probe together: fewer maps are read twice.
    order = np.arange(len(probe)) if whole else np.lexsort((reference, probe))
    for start in range(0, len(probe), step):
        block = order[start : start + step]
        if whole is None:
            rows = np.unique(np.concatenate([probe[block], reference[block]]))
            faces = reader.faces(rows, matcher.needs)
        else:
            rows, faces = whole
        first = faces.at(torch.from_numpy(np.searchsorted(rows, probe[block])))
        second = faces.at(torch.from_numpy(np.searchsorted(rows, reference[block])))
        out[block] = matcher.score(first, second).cpu().numpy()
        progress(len(block))
    return out


def score_pairs_by_blocks(
    reader: FaceReader,
    matcher: Matcher,
    probe: NDArray[np.int64],
    reference: NDArray[np.int64],
    blocks: ScoreBlocks,
    progress: Callable[[int], object] = lambda count: None,
) -> NDArray[np.float32] | None:
    """`score_pairs`, with each block kept on disk unless the matcher is cheap.

    Returns:
        (N,) scores, or None when other parts are needed.
    """
    if matcher.needs == {EMBEDDING}:
        return score_pairs(reader, matcher, probe, reference, progress)
    order = np.lexsort((reference, probe))  # as `score_pairs` does
    first, second = probe[order], reference[order]

    def compute(block: slice) -> dict[str, NDArray[Any]]:
        return {"score": score_pairs(reader, matcher, first[block], second[block])}

    kept = blocks.about(first, second)
    found = kept.run("pairs", slices(len(order), PAIR_BLOCK), compute, progress)
    if found is None:
        return None
    score = np.empty(len(order), np.float32)
    score[order] = found["score"]
    return score
