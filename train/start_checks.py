"""What is looked at before the first step: whether caches, --meta and pairs fit each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import TrainError
from faceguide.train.pair_evaluation import Pairs

_NAMED = 12  # values in a message


def require_side(caches: Mapping[str, FaceCache | None], side: int | None, network: str) -> None:
    """All caches of a run hold crops of one side.

    Args:
        caches: "CACHE" or the option that named it → the cache; None = not given.
        side: in pixels that `network` needs; None = it takes any.
        network: its name.

    Raises:
        TrainError: names each cache and its side.
    """
    sides: dict[tuple[str, Path], int] = {}  # a cache that two options name counts once
    for option, cache in caches.items():
        if cache is not None and cache.directory not in (name for _, name in sides):
            sides[option, cache.directory] = cache.require("image").shape[0]
    if side is None and len(set(sides.values())) > 1:
        needed = "the crops of a run must be of one size"
    elif side is not None and set(sides.values()) != {side}:
        needed = f"{network} needs crops of {side} pixels"
    else:
        return
    listed = ", ".join(
        f"{option} {name} has crops of {found} pixels" for (option, name), found in sides.items()
    )
    wanted = f" {side}" if side is not None else ""
    raise TrainError(f"{listed}; {needed}: `prep landmarks --size{wanted}` makes another cache")


def require_meta(cache: FaceCache, meta: Mapping[str, str]) -> None:
    """Each value of --meta stands in the cache.

    Raises:
        TrainError: names the values that do.
    """
    for name, value in meta.items():
        if not len(cache.select(status=None, meta={name: value})):
            there = sorted(set(cache.texts(f"meta/{name}", range(len(cache)))))
            listed = ", ".join(map(repr, there[:_NAMED])) + (" …" if len(there) > _NAMED else "")
            raise TrainError(
                f"{cache.directory}: no row has {name}={value}; the values of {name} are {listed}"
            )


def doubts_of(pairs: tuple[FaceCache, Pairs] | None, learnt: Sequence[str]) -> Doubts:
    """What looks wrong about --pairs, and whether weights are chosen on identities they know.

    Two caches may know one identity under two names; only equal names are found.

    Args:
        pairs: with the cache they lie in; None = none.
        learnt: names of the identities that are learnt.
    """
    doubts = Doubts()
    if pairs is None:
        return doubts
    cache, listed = pairs
    rows = np.unique(np.concatenate([listed.first, listed.second]))
    labels = np.unique(cache.read(rows, ["label"])["label"])
    names = cache.identities
    known = sorted({names[label] for label in labels.tolist() if label >= 0} & set(learnt))
    doubts.update(listed.doubts)
    doubts.add("learnt_identities", known[0] if known else "", len(known))
    return doubts
