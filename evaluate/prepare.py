"""From a cache, weights and a matcher's name to faces that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.files import write_json
from faceguide.cache.reader import FaceCache
from faceguide.evaluate import fusion
from faceguide.evaluate.embed import BATCH, embed_rows, open_store
from faceguide.evaluate.errors import EvaluationError
from faceguide.evaluate.network import Network
from faceguide.evaluate.reader import (
    FaceReader,
    choose_visibility,
    groups_for,
    visible_mean_map,
)
from faceguide.evaluate.run_directory import cache_hash, training_identities
from faceguide.evaluate.scores import VISIBILITY, Matcher, make_matcher, needs_mean_map
from faceguide.evaluate.store import FaceStore


@dataclass(frozen=True)
class MatcherOptions:
    """How faces are compared.

    Attributes:
        matcher: of `scores.MATCHERS`.
        flip: whether embeddings include the mirror image.
        visibility: "auto", "head" or "cache".
        fuse: matcher → weight, for `fused`.
        fusion_scales: an earlier run's fusion.json, or None.
        batch_size: crops of one forward pass.
        device: of torch.
        seed: of everything drawn.
    """

    matcher: str = "cosine"
    flip: bool = True
    visibility: str = "auto"
    fuse: Mapping[str, float] = field(default_factory=dict)
    fusion_scales: Path | None = None
    batch_size: int = BATCH
    device: str = "cpu"
    seed: int = 0

    def names(self) -> list[str]:
        """The matchers that are at work.

        Raises:
            EvaluationError: when `fuse` and `matcher` do not belong together.
        """
        if (self.matcher == "fused") != bool(self.fuse):
            raise EvaluationError("--matcher fused and --fuse NAME=WEIGHT belong together")
        if self.fusion_scales is not None and not self.fuse:
            raise EvaluationError("--fusion-scales is for --matcher fused; leave it out")
        return list(self.fuse) or [self.matcher]

    def settings(self) -> dict[str, Any]:
        """What changes the scores, as run.json holds it."""
        return {
            "matcher": self.matcher,
            "flip": self.flip,
            "visibility": self.visibility,
            "fuse": dict(self.fuse),
            "fusion_scales": None if self.fusion_scales is None else str(self.fusion_scales),
            "seed": self.seed,
        }


# Computes groups of a store for the rows in question; gives those that could be read.
Embed = Callable[[FaceStore, frozenset[str]], NDArray[np.int64]]


def build_matcher(
    store: FaceStore,
    network: Network,
    options: MatcherOptions,
    cache: FaceCache | None,
    embed: Embed,
    out: Path,
) -> tuple[FaceReader, Matcher]:
    """Embed what the matcher needs and put it together.

    Args:
        store: where faces are kept.
        network: what describes them.
        options: how they are compared.
        cache: where known visibility comes from; None = only the occlusion head can know.
        embed: computes groups of the store.
        out: the run directory, where a fusion's scales are written.

    Returns:
        A reader of the faces, and the matcher.
    """
    names = options.names()
    parts = {name: make_matcher(name, network) for name in names}  # checks before long work
    needs = frozenset[str]().union(*(part.needs for part in parts.values()))
    source = None
    if VISIBILITY in needs:
        if cache is not None:
            source = choose_visibility(options.visibility, network, cache)
        elif network.occlusion_head is None:
            raise EvaluationError(
                "these images come without visibility; give a training run with an occlusion head"
            )
        else:
            source = "head"
    rows = embed(store, groups_for(needs, options.flip, source))
    known = cache if source == "cache" else None
    reader = FaceReader(store, options.flip, known, options.device)
    for name in names:
        if needs_mean_map(name):
            parts[name] = make_matcher(name, network, visible_mean_map(reader, rows))
    if options.matcher != "fused":
        return reader, parts[options.matcher]
    if options.fusion_scales is not None:
        scales = fusion.read_scales(options.fusion_scales, names)
    else:
        scales = fusion.measure_scales(reader, parts, rows, options.seed)
    write_json(out / fusion.FILE, {"scales": scales, "weights": dict(options.fuse)})
    return reader, fusion.fuse(parts, options.fuse, scales)


def cached_faces(
    cache: FaceCache,
    network: Network,
    options: MatcherOptions,
    rows: NDArray[np.int64],
    out: Path,
    embeddings: Path | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> tuple[FaceReader, Matcher]:
    """`build_matcher` over rows of a cache.

    Args:
        embeddings: run directory whose store is used and filled; None = `out`.
        progress: called with the number of rows embedded.

    The others are those of `build_matcher`.
    """

    def embed(store: FaceStore, groups: frozenset[str]) -> NDArray[np.int64]:
        embed_rows(
            cache,
            network,
            store,
            rows,
            groups,
            batch_size=options.batch_size,
            progress=progress,
        )
        return rows

    store = open_store(embeddings or out, cache, network)
    return build_matcher(store, network, options, cache, embed, out)


def provenance(cache: FaceCache, network: Network) -> dict[str, Any]:
    """Which data and which weights, as run.json holds them."""
    facts: dict[str, Any] = {
        "cache": str(cache.directory.resolve()),
        "cache_manifest": cache_hash(cache),
        "backbone": network.name,
        "weights_sha256": network.sha256,
        "training_run": None if network.run is None else str(network.run.resolve()),
    }
    return facts


def shared_identities(
    cache: FaceCache, network: Network, rows: NDArray[np.int64]
) -> list[str] | None:
    """Names of persons in these rows that the weights were trained on; None when unknown.

    Two data sets may know one person under two names; only equal names are found.
    """
    trained = None if network.run is None else training_identities(network.run)
    if trained is None:
        return None
    labels = np.unique(cache.read(np.unique(rows), ["label"])["label"])
    identities = cache.identities
    return sorted({identities[label] for label in labels.tolist() if label >= 0} & trained)
