"""Lists of pairs as rows of a cache, for verification and for contrastive guidance."""

from __future__ import annotations

from pathlib import Path

from faceguide.cache.pairs.pair_doubts import pair_doubts
from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.pairs.pair_rows import resolve
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import say
from faceguide.core.errors import TrainError
from faceguide.train.pair_evaluation import Pairs
from faceguide.train.training_settings import Verification


def verification_pairs(
    cache: FaceCache, asked: Verification, speak: bool
) -> tuple[FaceCache, Pairs] | None:
    """The pairs of --pairs and the cache with their images, or None."""
    if asked.pairs is None:
        return None
    where = FaceCache.open(asked.eval_cache) if asked.eval_cache else cache
    pairs, further = pairs_of(where, asked.pairs, asked.pairs_split, speak)
    pairs.require_both_kinds(str(asked.pairs), further)
    return where, pairs


def pairs_of(cache: FaceCache, path: Path, split: str | None, speak: bool) -> tuple[Pairs, str]:
    """Pairs of a file as rows of the cache; those it lacks are counted aloud.

    Args:
        cache: where the images are.
        path: the list.
        split: of an ND-TWIN file.
        speak: whether this process speaks.

    Returns:
        The pairs, and the end of a message: how many are left out, and why the first is.

    Raises:
        TrainError: when no pair has both images in the cache; names the first that is missing.
    """
    listed = read_pairs(path, split)
    found = resolve(cache, listed)
    further = ""
    if found.left_out:
        first = found.left_out[0].reason
        if not len(found):
            raise TrainError(
                f"{path}: none of its {found.listed} pairs has both images in {cache.directory}; "
                f"the first: {first}"
            )
        further = f"{len(found.left_out)} of {found.listed} pairs of {path} are left out"
        further = f"{further}; the first: {first}"
        if speak:
            say(f"Note: {further}")
        further = f"; {further}"
    doubts = pair_doubts(cache, listed, found).doubts
    return Pairs(found.probe, found.reference, found.same, doubts), further
