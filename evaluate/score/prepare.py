"""From a cache, weights and a matcher to faces that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.inspect.occlusion_measures import estimate_doubts
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.run_directory import begin_evaluation
from faceguide.core.commands.settings import fixed
from faceguide.core.errors import EvaluationError
from faceguide.core.files import digest, file_sha256, read_json, write_json
from faceguide.evaluate.calibrate.calibration_file import Calibration, read_calibration
from faceguide.evaluate.evaluation_options import RunOptions
from faceguide.evaluate.score import fusion, fusion_fit
from faceguide.evaluate.score.embed import embed_rows, store_key
from faceguide.evaluate.score.face_reader import (
    FaceReader,
    choose_visibility,
    groups_for,
    score_pairs,
    visible_mean_map,
)
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.score.matcher_options import MatcherOptions
from faceguide.evaluate.score.scores import (
    EMBEDDING,
    VISIBILITY,
    Matcher,
    calibrated,
    make_matcher,
    needs_mean_map,
)
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.loading.network import Network
from faceguide.train.models.matchers.calibration import ScoreCurve
from faceguide.train.run.training_data import cache_hash, training_identities


def begin_run(run: RunOptions, command: str, settings: dict[str, Any], **facts: Any) -> None:
    """`begin_evaluation`, with what `evaluate merge` needs; nothing when only merging."""
    if not run.merging:
        where = None if run.embeddings is None else str(run.embeddings.resolve())
        begin_evaluation(
            run.out, command, settings, overwrite=run.overwrite, embeddings=where, **facts
        )


@dataclass(frozen=True)
class Needs:
    """What a run's matchers need of each face.

    Attributes:
        parts: the matchers by name, before they have seen a face.
        visibility: where it comes from: "head", "cache" or None.
        calibration: of the one matcher, or None.
        doubts: about it, and about the visibility of the faces.
    """

    parts: dict[str, Matcher]
    visibility: str | None
    groups: frozenset[str]
    calibration: Calibration | None = None
    doubts: Doubts = field(default_factory=Doubts)

    @property
    def cheap(self) -> bool:
        """Whether scores are products of embeddings, not worth a block on disk."""
        return all(part.needs == {EMBEDDING} for part in self.parts.values())


def hiding(network: Network, options: MatcherOptions) -> Network:
    """The network as it treats occluded cells under these options."""
    return replace(network, hidden=options.hidden)


def needs_of(network: Network, options: MatcherOptions, cache: FaceCache | None) -> Needs:
    """What must be computed before faces can be compared.

    Args:
        cache: where known visibility comes from; None = only the occlusion head can know.

    Raises:
        EvaluationError: when the network or the cache lacks what a matcher needs.
    """
    names = options.names()
    known = network.occlusion_head is not None
    known = known or (cache is not None and "visibility" in cache.columns)
    if options.matcher == "qaconv+cosine" and not known:
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
    if options.hidden == "drop":
        if source != "cache":
            raise EvaluationError(
                "--hidden drop must know what is occluded before the network looks: give "
                "--visibility cache, with a cache that `prep masks` has seen"
            )
        if isinstance(network.backbone, FaceBackbone):
            network.backbone.seen_cells(torch.ones(1, 7, 7))  # or it says that it has no tokens
    groups = groups_for(needs, options.flip, source)
    if options.calibration is None:
        return Needs(parts, source, groups)
    found = read_calibration(options.calibration, options.matcher)
    if cache is None and isinstance(found.rule, ScoreCurve):
        raise EvaluationError(
            f"{options.calibration}: fitted on cosines of single images, and those of templates "
            "are higher; leave --calibration out, or take visible-embedding"
        )
    parts = {options.matcher: calibrated(options.matcher, network, found.rule)}
    doubts = found.doubts(options.calibration, network, source, options.flip)
    return Needs(parts, source, groups, found, doubts)


def calibration_record(
    needs: Needs, options: MatcherOptions, cache: FaceCache | None, rows: NDArray[np.int64]
) -> dict[str, Any] | None:
    """What a run keeps of its calibration; None without one.

    Args:
        cache: whose rows are tested; None = the identities are not known by name.
    """
    found = needs.calibration
    if found is None or options.calibration is None:
        return None
    return {
        "file": str(options.calibration.resolve()),
        "method": found.about["method"],
        "identities": len(found.about["persons"]),
        "shared_identities": None if cache is None else fusion_fit.shared(found.about, cache, rows),
    }


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
        run: its directory gets a fusion's scales, except from a part.
    """
    known = cache if needs.visibility == "cache" else None
    if known is not None:
        needs.doubts.update(estimate_doubts(known, rows))
    reader = FaceReader(store, options.flip, known, network.device)
    parts = dict(needs.parts)
    for name in parts:
        if needs.calibration is None and needs_mean_map(name):
            parts[name] = make_matcher(name, network, visible_mean_map(reader, rows))
    if options.matcher in parts:
        return reader, parts[options.matcher]
    weights, kept = _fusion(reader, network, options, run, parts, rows, cache)
    if not run.is_part:
        write_json(run.out / fusion.FILE, kept)
    return reader, fusion.fuse(parts, weights, kept["scales"])


def _fusion(
    reader: FaceReader,
    network: Network,
    options: MatcherOptions,
    run: RunOptions,
    parts: Mapping[str, Matcher],
    rows: NDArray[np.int64],
    cache: FaceCache | None,
) -> tuple[Mapping[str, float], dict[str, Any]]:
    """The weights of the parts, and what fusion.json keeps."""
    weights: Mapping[str, float] = options.fuse
    if options.fit_pairs is not None:
        kept = _fitted(reader, network, options, run, parts, cache)
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


def _fitted(
    reader: FaceReader,
    network: Network,
    options: MatcherOptions,
    run: RunOptions,
    parts: Mapping[str, Matcher],
    cache: FaceCache | None,
) -> dict[str, Any]:
    """The fit of a fusion by name, as fusion.json keeps it."""
    assert options.fit_pairs is not None
    where = cache if options.fit_cache is None else FaceCache.open(options.fit_cache)
    if where is None:
        raise EvaluationError("--fit-pairs needs --fit-cache, the cache of their faces")
    pairs, doubts = fusion_fit.read_fit_pairs(options.fit_pairs, options.fit_split, where)
    needs = frozenset[str]().union(*(part.needs for part in parts.values()))
    source = None
    if VISIBILITY in needs:
        source = choose_visibility(options.visibility, network, where)
    store = FaceStore.open(reader.store.directory.parent, store_key(where, network))
    groups, rows = groups_for(needs, options.flip, source), np.union1d(pairs.probe, pairs.reference)
    embed_rows(where, network, store, rows, groups, batch_size=run.batch_size)
    faces = FaceReader(store, options.flip, where if source == "cache" else None, network.device)
    scores = {
        name: score_pairs(faces, part, pairs.probe, pairs.reference) for name, part in parts.items()
    }
    fitted = fusion_fit.fit(scores, np.asarray(pairs.same))
    return fusion_fit.record(fitted, options.fit_pairs, where, pairs, doubts)


def score_key(faces: dict[str, Any], options: MatcherOptions, further: Any = None) -> str:
    """Names what a score depends on besides the rows that are compared.

    Args:
        further: JSON value of what else matters.
    """
    scales = options.fusion_scales
    content = None if scales is None else read_json(scales)
    pairs = None if options.fit_pairs is None else file_sha256(options.fit_pairs)
    rule = None if options.calibration is None else file_sha256(options.calibration)
    files = {"fusion_scales": content, "fit_pairs": pairs, "calibration": rule}
    used = {**fixed(options), **files}
    return digest([faces, used, further])


def provenance(cache: FaceCache, network: Network) -> dict[str, Any]:
    """Which data and which weights, as run.json holds them."""
    return {
        "cache": str(cache.directory.resolve()),
        "cache_manifest": cache_hash(cache),
        **network.record(),
        "training_run": None if network.run is None else str(network.run.resolve()),
    }


def shared_identities(
    cache: FaceCache, network: Network, rows: NDArray[np.int64]
) -> dict[str, Any] | None:
    """Identities of these rows that the weights were trained on; None when it is unknown.

    Two data sets may know one identity under two names; only equal names are found.
    """
    trained = None if network.run is None else training_identities(network.run)
    if trained is None:
        return None
    labels = np.unique(cache.read(np.unique(rows), ["label"])["label"])
    identities = cache.identities
    shared = sorted({identities[label] for label in labels.tolist() if label >= 0} & trained)
    return {"count": len(shared), "names": shared[:100]}
