"""From a cache, weights and a matcher's name to faces that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.parts import WHOLE
from faceguide.core.commands.run_directory import begin_evaluation
from faceguide.core.errors import EvaluationError
from faceguide.core.files import (
    digest,
    file_sha256,
    read_json,
    write_json,
)
from faceguide.evaluate.score import (
    fusion,
    fusion_fit,
)
from faceguide.evaluate.score.embed import (
    BATCH,
    embed_rows,
    store_key,
)
from faceguide.evaluate.score.face_reader import (
    FaceReader,
    choose_visibility,
    groups_for,
    score_pairs,
    visible_mean_map,
)
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.score.network import Network
from faceguide.evaluate.score.scores import (
    EMBEDDING,
    VISIBILITY,
    Matcher,
    make_matcher,
    needs_mean_map,
)
from faceguide.train.run.training_data import cache_hash, training_identities


@dataclass(frozen=True)
class MatcherOptions:
    """How faces are compared.

    Attributes:
        matcher: of `scores.MATCHERS` or `fusion_fit.FUSIONS`.
        flip: whether embeddings include the mirror image.
        visibility: "auto", "head" or "cache".
        fuse: matcher → weight, for `fused`.
        fusion_scales: an earlier run's fusion.json, or None.
        fit_pairs: list of training pairs that a fusion by name is fitted on, or None.
        fit_split: which part of an ND-TWIN list that is.
        fit_cache: directory of the cache of those pairs; None = the cache that is tested.
        batch_size: crops of one forward pass.
        device: of torch.
        seed: of everything drawn.
    """

    matcher: str = "cosine"
    flip: bool = True
    visibility: str = "auto"
    fuse: Mapping[str, float] = field(default_factory=dict)
    fusion_scales: Path | None = None
    fit_pairs: Path | None = None
    fit_split: str | None = None
    fit_cache: Path | None = None
    batch_size: int = BATCH
    device: str = "cpu"
    seed: int = 0

    def names(self) -> list[str]:
        """The matchers that are at work.

        Raises:
            EvaluationError: when the options of a fusion and `matcher` do not belong together.
        """
        by_name = self.matcher in fusion_fit.FUSIONS
        if (self.matcher == "fused") != bool(self.fuse):
            raise EvaluationError("--matcher fused and --fuse NAME=WEIGHT belong together")
        if self.fusion_scales is not None and not self.fuse and not by_name:
            raise EvaluationError("--fusion-scales is for a fusion; leave it out")
        if by_name and (self.fit_pairs is None) == (self.fusion_scales is None):
            raise EvaluationError(
                f"--matcher {self.matcher} is fitted on training pairs: give --fit-pairs FILE, or "
                "--fusion-scales with the fusion.json of an earlier fit"
            )
        if not by_name and self.fit_pairs is not None:
            raise EvaluationError(
                f"--fit-pairs is for --matcher {' or '.join(fusion_fit.FUSIONS)}; leave it out"
            )
        if self.fit_pairs is None and (self.fit_cache or self.fit_split):
            raise EvaluationError("--fit-cache and --fit-split belong to --fit-pairs")
        return list(self.fuse) or list(fusion_fit.FUSIONS.get(self.matcher, (self.matcher,)))

    def settings(self) -> dict[str, Any]:
        """What changes the scores, as run.json holds it."""
        scales = None if self.fusion_scales is None else str(self.fusion_scales.resolve())
        return {
            "matcher": self.matcher,
            "flip": self.flip,
            "visibility": self.visibility,
            "fuse": dict(self.fuse),
            "fusion_scales": scales,
            "fit_pairs": None if self.fit_pairs is None else str(self.fit_pairs.resolve()),
            "fit_split": self.fit_split,
            "fit_cache": None if self.fit_cache is None else str(self.fit_cache.resolve()),
            "seed": self.seed,
        }


Progress = Callable[[str, int], Callable[[int], object]]


def silent(what: str, total: int) -> Callable[[int], object]:
    """No progress bar."""
    return lambda count: None


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes, which part of it is done here, and how its intervals are drawn.

    Attributes:
        out: the run directory.
        embeddings: a run directory whose embeddings are used and filled; None = `out`.
        replicates: of the bootstrap; 0 = no intervals.
        overwrite: replace another run's record.
        progress: makes a progress bar from a title and a total.
        part: (i, N): compute blocks i, i + N, … only; with N = 1 also the results. None: compute
            no block, make the results of those that are there.
    """

    out: Path
    embeddings: Path | None = None
    replicates: int = 1000
    overwrite: bool = False
    progress: Progress = silent
    part: tuple[int, int] | None = WHOLE

    def begin(self, command: str, settings: dict[str, Any], **facts: Any) -> None:
        """`run_directory.begin`, with what `evaluate merge` needs; nothing when only merging."""
        if self.part is None:
            return
        where = None if self.embeddings is None else str(self.embeddings.resolve())
        begin_evaluation(
            self.out, command, settings, overwrite=self.overwrite, embeddings=where, **facts
        )

    @property
    def is_part(self) -> bool:
        """Whether the results are left to others."""
        return self.part is not None and self.part[1] > 1


@dataclass(frozen=True)
class Needs:
    """What a run's matchers need of each face.

    Attributes:
        parts: the matchers by name, before they have seen a face.
        visibility: where it comes from: "head", "cache" or None.
        groups: of the store.
    """

    parts: dict[str, Matcher]
    visibility: str | None
    groups: frozenset[str]

    @property
    def cheap(self) -> bool:
        """Whether scores are products of embeddings, not worth a block on disk."""
        return all(part.needs == {EMBEDDING} for part in self.parts.values())


def needs_of(network: Network, options: MatcherOptions, cache: FaceCache | None) -> Needs:
    """What must be computed before faces can be compared.

    Args:
        network: what describes them.
        options: how they are compared.
        cache: where known visibility comes from; None = only the occlusion head can know.

    Raises:
        EvaluationError: when the network or the cache lacks what a matcher needs.
    """
    names = options.names()
    if options.matcher == "qaconv+cosine" and not _visibility_known(network, cache):
        names = ["qaconv", "cosine"]
    parts = {name: make_matcher(name, network) for name in names}
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
    return Needs(parts, source, groups_for(needs, options.flip, source))


def build_matcher(
    store: FaceStore,
    network: Network,
    options: MatcherOptions,
    needs: Needs,
    rows: NDArray[np.int64],
    run: RunOptions,
    cache: FaceCache | None = None,
) -> tuple[FaceReader, Matcher]:
    """A reader of embedded faces, and the matcher.

    Args:
        store: where the faces are.
        network: what described them.
        options: how they are compared.
        needs: of these options.
        rows: the faces of the run.
        run: its directory gets a fusion's scales, except from a part.
        cache: where known visibility comes from.
    """
    known = cache if needs.visibility == "cache" else None
    reader = FaceReader(store, options.flip, known, options.device)
    parts = dict(needs.parts)
    for name in parts:
        if needs_mean_map(name):
            parts[name] = make_matcher(name, network, visible_mean_map(reader, rows))
    if options.matcher in parts:
        return reader, parts[options.matcher]
    weights, kept = _fusion(reader, network, options, parts, rows, cache)
    if not run.is_part:
        write_json(run.out / fusion.FILE, kept)
    return reader, fusion.fuse(parts, weights, kept["scales"])


def _fusion(
    reader: FaceReader,
    network: Network,
    options: MatcherOptions,
    parts: Mapping[str, Matcher],
    rows: NDArray[np.int64],
    cache: FaceCache | None,
) -> tuple[Mapping[str, float], dict[str, Any]]:
    """The weights of the parts, and what fusion.json keeps."""
    weights: Mapping[str, float] = options.fuse
    if options.fit_pairs is not None:
        kept = _fitted(reader, network, options, parts, cache)
        weights = kept["weights"]
    elif options.fusion_scales is None:
        scales = fusion.measure_scales(reader, parts, rows, options.seed)
        kept = {"scales": scales, "weights": dict(weights)}
    elif options.matcher == "fused":
        scales = fusion.read_scales(options.fusion_scales, list(parts))
        kept = {"scales": scales, "weights": dict(weights)}
    else:
        fusion.read_scales(options.fusion_scales, list(parts))  # refuses another fusion's
        weights, kept = fusion.read_fit(options.fusion_scales, list(parts))
    if cache is not None and "persons" in kept:
        kept["shared_identities"] = fusion_fit.shared(kept, cache, rows)
    return weights, kept


def _visibility_known(network: Network, cache: FaceCache | None) -> bool:
    return network.occlusion_head is not None or (
        cache is not None and "visibility" in cache.columns
    )


def _fitted(
    reader: FaceReader,
    network: Network,
    options: MatcherOptions,
    parts: Mapping[str, Matcher],
    cache: FaceCache | None,
) -> dict[str, Any]:
    """The fit of a fusion by name, as fusion.json keeps it."""
    assert options.fit_pairs is not None
    where = cache if options.fit_cache is None else FaceCache.open(options.fit_cache)
    if where is None:
        raise EvaluationError("--fit-pairs needs --fit-cache, the cache of their faces")
    pairs = fusion_fit.read_fit_pairs(options.fit_pairs, options.fit_split, where)
    needs = frozenset[str]().union(*(part.needs for part in parts.values()))
    source = None
    if VISIBILITY in needs:
        source = choose_visibility(options.visibility, network, where)
    store = FaceStore.open(reader.store.directory.parent, store_key(where, network))
    groups = groups_for(needs, options.flip, source)
    embed_rows(where, network, store, pairs.rows, groups, batch_size=options.batch_size)
    faces = FaceReader(store, options.flip, where if source == "cache" else None, options.device)
    fitted = fusion_fit.fit(
        {
            name: score_pairs(faces, part, pairs.probe, pairs.reference)
            for name, part in parts.items()
        },
        pairs.same,
    )
    return fusion_fit.record(fitted, pairs)


def score_key(faces: dict[str, Any], options: MatcherOptions, further: Any = None) -> str:
    """Names what a score depends on besides the rows that are compared.

    Args:
        faces: key of the store.
        options: how faces are compared.
        further: JSON value of what else matters.
    """
    scales = options.fusion_scales
    content = None if scales is None else read_json(scales)
    pairs = None if options.fit_pairs is None else file_sha256(options.fit_pairs)
    used = {**options.settings(), "fusion_scales": content, "fit_pairs": pairs}
    return digest([faces, used, further])


def provenance(cache: FaceCache, network: Network) -> dict[str, Any]:
    """Which data and which weights, as run.json holds them."""
    facts: dict[str, Any] = {
        "cache": str(cache.directory.resolve()),
        "cache_manifest": cache_hash(cache),
        **network.record(),
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
