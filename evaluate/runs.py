"""What `evaluate embed`, `verification` and `identification` do, start to finish."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from faceguide.cache.inspect.occlusion_measures import estimate_doubts
from faceguide.cache.pairs.pair_doubts import pair_doubts
from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.pairs.pair_rows import PairRows, clusters, resolve
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.settings import fixed
from faceguide.core.errors import EvaluationError
from faceguide.core.files import digest, write_json
from faceguide.core.formats.container import write_arrays
from faceguide.evaluate import galleries, identification, verification
from faceguide.evaluate.evaluation_options import (
    RunOptions,
    ScoreOptions,
    SearchOptions,
    VerifiedPairs,
    progress_bar,
)
from faceguide.evaluate.metrics import strata
from faceguide.evaluate.score import fusion
from faceguide.evaluate.score.block_files import ScoreBlocks
from faceguide.evaluate.score.embed import store_key
from faceguide.evaluate.score.embed_part import embed_cached, part_record
from faceguide.evaluate.score.face_reader import score_pairs_by_blocks
from faceguide.evaluate.score.matcher_options import MatcherOptions
from faceguide.evaluate.score.prepare import (
    Needs,
    begin_run,
    build_matcher,
    calibration_record,
    hiding,
    needs_of,
    provenance,
    score_key,
    shared_identities,
)
from faceguide.train.models.loading.network import Network


def run_embed(
    cache: FaceCache,
    network: Network,
    run: RunOptions,
    groups: frozenset[str],
) -> dict[str, Any]:
    """Embed every row that has a face.

    Returns:
        `rows` with a face, `without_face`, `computed` (fewer when some were there) and `store`,
        its directory; of a part, `part_record`.

    Raises:
        Unfinished: when nothing is to be computed and faces are missing.
    """
    rows = cache.select()
    # No settings: groups add up, and the store itself is keyed by cache and weights.
    about = provenance(cache, network)
    begin_run(run, "embed", {}, groups=sorted(groups), **about)
    embedded = embed_cached(cache, network, rows, groups, run)
    if run.is_part or embedded.store is None:
        return part_record(run, embedded)
    return {
        "rows": len(rows),
        "without_face": len(cache) - len(rows),
        "doubts": network.doubts.counts(),
        "computed": embedded.computed,
        "store": str(embedded.store.directory),
    }


def run_verification(
    cache: FaceCache,
    network: Network,
    listed: VerifiedPairs,
    options: MatcherOptions,
    run: ScoreOptions,
) -> dict[str, Any]:
    """Score a list of pairs and summarise it.

    Writes run.json, verification.json, scores.safetensors and, if need be, left_out.csv (pairs
    without a score) and doubtful.csv (scored pairs that look wrong).

    Returns:
        The record of verification.json; of a part, `part_record`.

    Raises:
        EvaluationError: when pairs of one identity or of two are lacking.
        Unfinished: when nothing is to be computed and blocks are missing.
    """
    network = hiding(network, options)
    needs = needs_of(network, options, cache)
    pairs = read_pairs(listed.pairs, listed.split, listed.impostors)
    rows = resolve(cache, pairs)
    _require_both_kinds(cache, listed.pairs, rows)
    settings = fixed(listed, options, run)
    begin_run(run, "verification", settings, **provenance(cache, network))
    used = np.unique(np.concatenate([rows.probe, rows.reference]))
    embedded = embed_cached(cache, network, used, needs.groups, run)
    store = embedded.store
    if store is None or (run.is_part and needs.cheap):
        return part_record(run, embedded, needs)
    reader, matcher = build_matcher(store, network, options, needs, used, run, cache)
    key = _key(cache, network, options, needs)
    score = score_pairs_by_blocks(
        reader,
        matcher,
        rows.probe,
        rows.reference,
        ScoreBlocks(run.out, key, run.todo),
        progress_bar("pairs", len(rows)),
    )
    if score is None:
        return part_record(run, embedded, needs)
    people, source = clusters(cache, rows.probe, rows.reference, rows.same)
    found = pair_doubts(cache, pairs, rows)
    verification.write_doubtful(run.out, pairs, rows, found)
    summarise = partial(
        verification.summarise,
        cosine=options.matcher == "cosine" and options.calibration is None,
        replicates=run.replicates,
        seed=options.seed,
    )
    summary, correct = summarise(score, rows.same, rows.fold, people, first=found.first)
    by_impostors = {}
    if pairs.twins is not None and listed.impostors == "all":
        of_twins = pairs.twins[rows.number]
        for kind, among in (("twins", of_twins), ("others", ~of_twins & ~rows.same)):
            if not among.any():
                continue
            kept = among | rows.same
            numbered = np.unique(people[kept], return_inverse=True)[1].reshape(-1, 2)
            by_impostors[kind], _ = summarise(
                score[kept], rows.same[kept], None, numbered, first=found.first[kept]
            )
    if verification.is_backwards(summary):
        found.doubts.add("ranked_backwards", count=len(score))
    found.doubts.update(network.doubts)
    found.doubts.update(needs.doubts)
    record = {
        "matcher": options.matcher,
        "fusion": fusion.summary(run.out) if len(options.names()) > 1 else None,
        "calibration": calibration_record(needs, options, cache, used),
        "listed": rows.listed,
        "loose_names": len(rows.matches.loose),
        "doubts": found.doubts.counts(),
        "left_out": verification.write_left_out(run.out, rows.left_out),
        "people_from": source,
        "shared_identities": shared_identities(cache, network, used),
        "store": str(reader.store.directory.resolve()),
        **summary,
        **({"by_impostors": by_impostors} if by_impostors else {}),
    }
    names = [
        [name.encode("utf-8", "surrogateescape").hex() for name in side]
        for side in (pairs.first, pairs.second)
    ]
    verification.save_scores(
        run.out,
        digest([*names, pairs.same.tolist()]),
        number=rows.number, probe=rows.probe, reference=rows.reference, same=rows.same,
        score=score, correct=correct, people=people,
    )  # fmt: skip
    write_json(run.out / verification.RECORD, record)
    return record


def _require_both_kinds(cache: FaceCache, path: Path, rows: PairRows) -> None:
    """Pairs of one identity and of two, before anything is computed."""
    genuine = int(rows.same.sum())
    if 0 < genuine < len(rows):
        return
    text = f"{path}: "
    if not len(rows):
        text += f"none of its {rows.listed} pairs has both images in {cache.directory}"
    else:
        text += (
            f"expected pairs of one identity and of two; of its {rows.listed} pairs {genuine} of "
            f"one and {len(rows) - genuine} of two have both images in {cache.directory}"
        )
    if absent := rows.matches.absent:
        text += (
            f"; {len(absent)} images are absent: {', '.join(absent[:3])}"
            f"{' …' if len(absent) > 3 else ''}; keys look like {cache.texts('key', [0])[0]}"
        )
    elif rows.left_out:
        text += f"; the first: {rows.left_out[0].reason}"
    raise EvaluationError(text)


def run_identification(
    cache: FaceCache,
    network: Network,
    lists: SearchOptions,
    options: MatcherOptions,
    run: ScoreOptions,
) -> dict[str, Any]:
    """Search probes in a gallery and summarise the search.

    Writes run.json, identification.json, search.safetensors and, if need be, left_out.csv.

    Args:
        lists: without files one image per identity is enrolled.

    Returns:
        The record of identification.json; of a part, `part_record`.

    Raises:
        Unfinished: when nothing is to be computed and blocks are missing.
    """
    network = hiding(network, options)
    needs = needs_of(network, options, cache)
    if lists.gallery is None or lists.probes is None:
        task = galleries.one_per_identity(
            cache, cache.select(labelled=True), lists.unenrolled, options.seed
        )
    else:
        task = galleries.from_lists(cache, lists.gallery, lists.probes)
    settings = fixed(lists, options, run)
    begin_run(run, "identification", settings, **provenance(cache, network))
    used = np.unique(np.concatenate([task.gallery, task.probe]))
    embedded = embed_cached(cache, network, used, needs.groups, run)
    store = embedded.store
    if store is None or (run.is_part and needs.cheap):
        return part_record(run, embedded, needs)
    reader, matcher = build_matcher(store, network, options, needs, used, run, cache)
    key = _key(cache, network, options, needs)
    found = identification.search(
        reader,
        matcher,
        task.gallery,
        task.gallery_person,
        task.probe,
        task.probe_person,
        progress_bar("probes", len(task.probe)),
        ScoreBlocks(run.out, key, run.todo),
    )
    if found is None:
        return part_record(run, embedded, needs)
    whom = {"probe": task.probe, "person": task.probe_person}
    write_arrays(run.out / identification.SEARCH, whom | vars(found))
    enrolled = found.rank > 0
    probes = task.probe[enrolled]
    task.doubts.add("not_enrolled", count=int(not enrolled.any()))
    task.doubts.update(network.doubts)
    task.doubts.update(needs.doubts)
    if needs.visibility != "cache":  # the matcher's rows are counted; the strata use the probes'
        task.doubts.update(estimate_doubts(cache, np.unique(probes)))
    record = {
        "matcher": options.matcher,
        "fusion": fusion.summary(run.out) if len(options.names()) > 1 else None,
        "calibration": calibration_record(needs, options, cache, used),
        "gallery": len(task.gallery),
        "gallery_persons": len(np.unique(task.gallery_person)),
        "listed": len(task.gallery) + len(task.probe) + len(task.left_out),
        "doubts": task.doubts.counts(),
        "left_out": verification.write_left_out(run.out, task.left_out),
        "shared_identities": shared_identities(cache, network, used),
        "store": str(reader.store.directory.resolve()),
        **identification.summarise(
            found, task.probe_person, replicates=run.replicates, seed=options.seed
        ),
        "strata": strata.table(
            strata.occlusion_bins(cache, probes),
            strata.pose_bins(cache, probes),
            found.rank[enrolled] == 1,
        ),
    }
    write_json(run.out / "identification.json", record)
    return record


def _key(cache: FaceCache, network: Network, options: MatcherOptions, needs: Needs) -> str:
    """Names what scores depend on, the content of the masks too where they are used."""
    masks = cache.groups.get("occlusion") if needs.visibility == "cache" else None
    return score_key(store_key(cache, network), options, masks)
