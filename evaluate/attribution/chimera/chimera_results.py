"""results.json and pairs.csv of chimeras: which methods tell two identities apart."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.pair_rows import PairRows
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import printable
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.settings import fixed
from faceguide.core.files import read_json, replacing, write_json
from faceguide.evaluate.attribution.attribution_options import Options
from faceguide.evaluate.attribution.chimera.chimera_list import DELETION, LEAST, Chimeras
from faceguide.evaluate.attribution.chimera.composition import ALL_PARTS, PARTS
from faceguide.evaluate.attribution.chimera.exchange import SCORES
from faceguide.evaluate.attribution.chimera.games import game_records, parts_of
from faceguide.evaluate.attribution.chimera.told_apart import (
    BLIND,
    ERROR,
    TOLD,
    UNIFORM,
    VERDICTS,
    ToldApart,
    told_apart,
)
from faceguide.evaluate.attribution.methods.method_table import Method
from faceguide.evaluate.attribution.protocol.blocks import TABLE, Plan, gather_blocks
from faceguide.evaluate.attribution.protocol.separation import doubts_of
from faceguide.evaluate.attribution.protocol.statistics import wilcoxon
from faceguide.evaluate.attribution.results import PAIRS, RESULTS, SCHEMA, SEPARATION
from faceguide.evaluate.attribution.summary import errors_of
from faceguide.evaluate.attribution.why.covariates import Covariates, chimera_covariates
from faceguide.evaluate.attribution.why.dependence import Outcome, Question, dependences
from faceguide.evaluate.metrics.bootstrap import interval, replicate
from faceguide.evaluate.metrics.paired_tests import holm

REFERENCE = "pixels"  # the control that a method has to beat
SPLITS = 200  # random halves of the chimeras
DIRECTIONS = {
    "told_apart": "higher is better; 0.5 is chance",
    "single": "higher is better; 0.5 is chance",
    "told_share": "higher is better",
    "blind_share": "lower is better",
    "uniform_share": "lower is better",
    "error_share": "lower is better",
    "excess": "higher is better; 0 = as good as comparing patches without a network",
    "games": "higher is better; 0.5 is chance, 1 the truth",
    "completeness_error": "lower is better; null where the method promises none",
}
_NONE = ("told_apart", "single", "told_share", "blind_share", "excess")
COLUMNS = (
    *("number", "part", "probe", "reference", "donor", "donor_reference", *SCORES),
    *("method", "verdict", "told_apart", "single"),
)


def merge_chimeras(
    out: Path,
    cache: FaceCache,
    plan: Plan,
    chimeras: Chimeras,
    methods: Sequence[Method],
    options: Options,
    rows: PairRows,
    doubts: Doubts,
) -> tuple[dict[str, Any], dict[str, ToldApart], Question]:
    """Score all maps of a finished run; writing it twice writes the same bytes.

    Returns:
        The record of results.json, what is found of all chimeras by each method that claims a
        direction, and what is asked of those of the ranking.
    """
    network = read_json(out / SEPARATION)
    found_doubtful = Doubts()
    for some in (doubts, doubts_of(network)):
        found_doubtful.update(some)
    deleted = DELETION in options.games
    table = gather_blocks(out, plan, TABLE, ["scores", *(["restored"] if deleted else [])])
    unscored = np.repeat(~np.isfinite(table["scores"]).all(1), 2)[:, None]
    part, rest = chimeras.cells(cache, np.arange(len(chimeras)))
    n = len(chimeras.ranked)  # those come first
    everything: dict[str, ToldApart] = {}
    records: dict[str, Any] = {}
    for method in methods:
        maps = gather_blocks(out, plan, method.name)
        signed = np.where(unscored, np.nan, maps["signed"])
        scored = told_apart(signed[::2], signed[1::2], part, rest)
        games = None
        if method.signed and options.games:
            gained = (maps["restored"][: 2 * n : 2], table["restored"][:n]) if deleted else None
            games = game_records(chimeras, scored.told, gained, options.replicates, options.seed)
        records[method.name] = {
            "signed": method.signed,
            "control": method.control,
            "citation": method.citation,
            **_figures(scored.first(n), chimeras.part[:n], method.signed),
            "completeness_error": errors_of(maps["completeness"]),
            "quadrature_error": errors_of(maps["quadrature"]),
            "games": games,
        }
        if method.signed:
            everything[method.name] = scored
    found = {name: one.first(n) for name, one in everything.items()}
    drawn = _resampled(found, options.replicates, options.seed)
    _with_intervals(records, found, drawn)
    competing = [m.name for m in methods if m.signed and not m.control]
    pairwise = _pairwise(competing, found, drawn)
    ranked = _ranking(records, competing, n, network["separates"])
    for name in records:
        records[name]["rank"] = ranked.index(name) + 1 if name in ranked else None
    covariates = chimera_covariates(cache, chimeras, table["scores"])
    question = Question(
        [one for name in competing for one in _outcomes(name, found[name])], covariates.first(n)
    )
    each = np.arange(n)  # the identities of a chimera are in no other
    record = {
        "schema": SCHEMA,
        "protocol": options.protocol,
        "directions": DIRECTIONS,
        "pairs": {"n": 2 * n, "listed": rows.listed, "left_out": len(rows.left_out)},
        "chimeras": {
            "n": n,
            "identities": chimeras.identities,
            "least_for_a_ranking": LEAST,
            "parts": {
                name: int((chimeras.part == place).sum()) for place, name in enumerate(PARTS)
            },
        },
        "network": network,
        "doubts": found_doubtful.counts(),
        "settings": {**fixed(options), "block": plan.per_block},
        "methods": records,
        "ranking": ranked,
        "tests": {"pairwise": pairwise, "split_half": _split_half(competing, found, options.seed)},
        "why": dependences(question, np.stack([each, each], 1), options.replicates, options.seed),
    }
    _write_pairs(out / PAIRS, cache, chimeras, table["scores"], everything, covariates)
    write_json(out / RESULTS, record)
    return record, everything, question


def _outcomes(name: str, found: ToldApart) -> list[Outcome]:
    """What may depend on the faces; failed maps have no outcome."""
    verdict = np.array(found.verdict)
    there = verdict != ERROR
    values = {
        "uniform": (verdict == UNIFORM).astype(float),
        "told_apart": found.told,
        "told": (verdict == TOLD).astype(float),
    }
    return [Outcome(name, kind, np.where(there, some, np.nan)) for kind, some in values.items()]


def _figures(scored: ToldApart, part: NDArray[np.int64], signed: bool) -> dict[str, Any]:
    """The figures of a method over all chimeras; None where it claims no direction."""
    n = len(scored.verdict)
    verdicts = {name: scored.verdict.count(name) for name in VERDICTS}
    record: dict[str, Any] = {
        "n": n,
        **dict.fromkeys(_NONE),
        "uniform_share": verdicts[UNIFORM] / n,
        "error_share": verdicts[ERROR] / n,
        "verdicts": verdicts if signed else {**dict.fromkeys(VERDICTS, 0), ERROR: verdicts[ERROR]},
        **dict.fromkeys(("skill_genuine", "skill_impostor", "by_part")),
    }
    if signed:
        record |= {
            "told_apart": float(scored.told.mean()),
            "single": float(scored.single.mean()),
            "told_share": verdicts[TOLD] / n,
            "blind_share": verdicts[BLIND] / n,
            "by_part": parts_of(part, scored.told),
        }
    return record


def _resampled(
    found: Mapping[str, ToldApart], replicates: int, seed: int
) -> dict[str, NDArray[np.float64]] | None:
    """Method → (R, 2) means of D and T over resampled chimeras, whose identities are their own."""
    if not replicates:
        return None
    joint = np.stack([np.stack([one.told, one.single]) for one in found.values()])  # (M, 2, N)

    def means(counts: NDArray[np.int32]) -> NDArray[np.float64]:
        resampled: NDArray[np.float64] = joint @ counts / counts.sum()
        return resampled

    drawn = replicate(means, joint.shape[-1], replicates, seed)
    return {name: drawn[:, place] for place, name in enumerate(found)}


def _with_intervals(
    records: dict[str, Any],
    found: Mapping[str, ToldApart],
    drawn: Mapping[str, NDArray[np.float64]] | None,
) -> None:
    """Add the excess over patches, and the intervals over identities."""
    ends = ("told_apart_interval", "single_interval", "excess_interval")
    for name, record in records.items():
        record.update(dict.fromkeys(ends))
        if name not in found:
            continue
        record["excess"] = float((found[name].told - found[REFERENCE].told).mean())
        if drawn is not None:
            told, single = drawn[name].T
            beyond = told - drawn[REFERENCE][:, 0]
            record.update(zip(ends, map(interval, (told, single, beyond)), strict=True))


def _ranking(
    records: Mapping[str, Any], competing: Sequence[str], n: int, separates: bool
) -> list[str]:
    """Methods that beat a comparison of patches, best first; none where that cannot be said."""
    if n < LEAST or not separates:
        return []
    ends = {name: records[name]["excess_interval"] for name in competing}
    above = [name for name in competing if ends[name] is not None and ends[name][0] > 0]
    return sorted(above, key=lambda name: -records[name]["told_apart"])


def _pairwise(
    names: Sequence[str],
    found: Mapping[str, ToldApart],
    drawn: Mapping[str, NDArray[np.float64]] | None,
) -> list[dict[str, Any]]:
    """Per two methods the difference of D, Wilcoxon's p over chimeras, and Holm's."""
    tests: list[dict[str, Any]] = []
    for first, second in itertools.combinations(names, 2):
        change = found[first].told, found[second].told
        between = None if drawn is None else interval(drawn[first][:, 0] - drawn[second][:, 0])
        tests.append(
            {
                "first": first,
                "second": second,
                "n": len(change[0]),
                "difference": float((change[0] - change[1]).mean()),
                "interval": between,
                "p": wilcoxon(*change)["p"],
            }
        )
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p
    return tests


def _split_half(
    names: Sequence[str], found: Mapping[str, ToldApart], seed: int
) -> dict[str, float] | None:
    """Spearman correlation of the methods' order between random halves of the chimeras."""
    from scipy.stats import spearmanr

    joint = np.stack([found[name].told for name in names]) if names else np.empty((0, 0))
    if len(joint) < 3 or joint.shape[1] < LEAST:
        return None
    rng, half = np.random.default_rng(seed), joint.shape[1] // 2
    values = []
    for _ in range(SPLITS):
        order = rng.permutation(joint.shape[1])
        first, second = (joint[:, some].mean(1) for some in (order[:half], order[half:]))
        values.append(float(spearmanr(first, second).statistic))
    return {"median": float(np.median(values)), "low": float(np.quantile(values, 0.05))}


def _write_pairs(
    path: Path,
    cache: FaceCache,
    chimeras: Chimeras,
    scores: NDArray[np.float64],
    found: Mapping[str, ToldApart],
    covariates: Covariates,
) -> None:
    """One line per chimera and method, those of games after those of the ranking."""
    names = [
        [printable(text) for text in cache.texts("key", rows)]
        for rows in (
            *(chimeras.bearer, chimeras.bearer_reference),
            *(chimeras.donor, chimeras.donor_reference),
        )
    ]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *covariates.columns])
        for place in range(len(chimeras)):
            known = [
                *(place, ALL_PARTS[chimeras.part[place]], *(column[place] for column in names)),
                *(f"{value:.6g}" for value in scores[place]),
            ]
            faces = [
                f"{values[place]:.6g}" if np.isfinite(values[place]) else ""
                for values in covariates.columns.values()
            ]
            for name, one in found.items():
                figures = f"{one.told[place]:.6g}", f"{one.single[place]:.6g}"
                writer.writerow([*known, name, one.verdict[place], *figures, *faces])
