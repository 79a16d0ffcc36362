"""results.json and pairs.csv: what a run found, from the files of its blocks."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.pair_rows import PairRows, clusters
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import printable
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.settings import fixed
from faceguide.core.files import read_json, replacing, write_json
from faceguide.evaluate.attribution import summary
from faceguide.evaluate.attribution.attribution_options import Options
from faceguide.evaluate.attribution.methods.maps import LEAST_CHANGE
from faceguide.evaluate.attribution.methods.method_table import Method
from faceguide.evaluate.attribution.protocol import conditions, regions, skill, statistics
from faceguide.evaluate.attribution.protocol.blocks import TABLE, Plan, gather_blocks
from faceguide.evaluate.attribution.protocol.diagnosis import Limits
from faceguide.evaluate.attribution.protocol.matched import UNIFORM
from faceguide.evaluate.attribution.protocol.separation import doubts_of, with_effects
from faceguide.evaluate.attribution.summary import Judged
from faceguide.evaluate.attribution.why.covariates import Covariates, pair_covariates
from faceguide.evaluate.attribution.why.dependence import Outcome, Question, dependences

RESULTS, PAIRS, SEPARATION = "results.json", "pairs.csv", "separation.json"
SCHEMA = 2
# What only chimeras can say.
_OF_CHIMERAS = (
    *("told_apart", "told_apart_interval", "single", "told_share", "blind_share"),
    *("excess", "excess_interval", "games"),
)
COLUMNS = (
    *("number", "probe", "reference", "same", "score", "method", "verdict", "cause", "fr"),
    *("fr_embedding", "margin", "margin_low", "margin_high", "falsified", "falsifiable", "skill"),
)


def merge(
    out: Path,
    cache: FaceCache,
    plan: Plan,
    methods: Sequence[Method],
    options: Options,
    rows: PairRows,
    doubts: Doubts,
) -> tuple[dict[str, Any], dict[str, Judged], Question]:
    """Judge all maps of a finished run; writing it twice writes the same bytes.

    Args:
        methods: in the order of the table.
        rows: the pairs, with those that cannot be scored or explained.
        doubts: about the list and the weights.

    Returns:
        The record of results.json, the outcomes of each method, and what they are compared with.
    """
    seed, replicates = options.seed, options.replicates
    table = gather_blocks(out, plan, TABLE, ("clean", "masked", "angle"))
    people, people_from = clusters(cache, plan.probe, plan.reference, plan.same)
    network = with_effects(read_json(out / SEPARATION), table["clean"], table["masked"])
    # A change within the noise is no effect.
    delta = max(options.delta, network["noise"])
    found_doubtful = Doubts()
    for some in (doubts, doubts_of(network)):
        found_doubtful.update(some)
    numbers = plan.number.tolist()
    effect = skill.effects(table)
    others = skill.unrelated(people, plan.same)
    twice = skill.contrasts(plan.probe, plan.same)
    covered = regions.region_cells(cache, plan.probe)
    hidden = regions.hidden_cells(cache, plan.probe)
    records: dict[str, Any] = {}
    judged: dict[str, Judged] = {}
    skills: dict[str, NDArray[np.float64]] = {}
    for method in methods:
        maps = gather_blocks(out, plan, method.name)
        found = summary.judge(maps, table, numbers, options, delta)
        judged[method.name] = found
        signed, unsigned = _skills(method, maps, effect, others)
        skills[method.name] = unsigned if signed is None else signed
        records[method.name] = {
            **dict.fromkeys(_OF_CHIMERAS),
            "signed": method.signed,
            "control": method.control,
            "citation": method.citation,
            **summary.summarise(found, maps, people, numbers, options),
            **_skill(signed, unsigned, people, plan.same, options),
            **_contrast(method, maps, effect, people, twice),
            **regions.region_record(maps["cells"], covered, hidden, plan.same),
            "verification_deletion": verification_deletion(maps, plan.same),
        }
    competing = [method.name for method in methods if not method.control]
    passed = {name: judged[name].passed for name in competing}
    rates = {name: judged[name].rate for name in competing}
    uniform = {
        name: np.array([o.verdict == UNIFORM for o in judged[name].outcomes]) for name in competing
    }
    covariates = pair_covariates(cache, plan.probe, plan.reference, plan.same, table["clean"])
    asked = {"uniform": uniform, "skill": {name: skills[name] for name in competing}}
    question = Question(
        [
            Outcome(method, kind, values.astype(float))
            for kind, found in asked.items()
            for method, values in found.items()
        ],
        covariates,
    )
    bins = conditions.pair_bins(cache, covariates, plan.probe, plan.reference)
    record = {
        "schema": SCHEMA,
        "protocol": options.protocol,
        "response": "angle of the probe's embedding"
        if options.protocol == "threshold"
        else "change of the pair score",
        "directions": summary.DIRECTIONS,
        "pairs": {
            "n": len(plan),
            "listed": rows.listed,
            "left_out": len(rows.left_out),
            "genuine": int(plan.same.sum()),
            "persons": int(people.max()) + 1,
            "persons_from": people_from,
            "probes": len(np.unique(plan.probe)),
        },
        "network": network,
        "ceiling": _ceiling(effect, others, plan.same),
        "doubts": found_doubtful.counts(),
        "settings": {**fixed(options), "block": plan.per_block},
        "limits": {**asdict(Limits()), "completeness_least_change": LEAST_CHANGE},
        "methods": records,
        "tests": statistics.compare(passed, rates, people, replicates, seed),
        "strata": conditions.strata_table(bins, passed, uniform, rates),
        "why": dependences(question, people, replicates, seed),
    }
    write_pairs(out / PAIRS, cache, plan, covariates, judged, skills)
    write_json(out / RESULTS, record)
    return record, judged, question


def _skills(
    method: Method,
    maps: Mapping[str, NDArray[Any]],
    effect: NDArray[np.float64],
    others: NDArray[np.bool_],
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """(N,) signed skill of the pairs, None where no direction is claimed, and unsigned skill."""
    signed = None
    if method.signed:
        signed = skill.pair_skill(maps["signed"], effect.mean(2), others)
    return signed, skill.pair_skill(maps["cells"], np.abs(effect).mean(2), others)


def _skill(
    signed: NDArray[np.float64] | None,
    unsigned: NDArray[np.float64],
    people: NDArray[np.int64],
    same: NDArray[np.bool_],
    options: Options,
) -> dict[str, Any]:
    """Means of the pair-specific skill, genuine and impostor pairs apart, see `skill`."""

    def mean(values: NDArray[np.float64], kept: NDArray[np.bool_]) -> dict[str, Any]:
        chosen = np.where(kept, values, np.nan)
        return summary.mean_interval(chosen, people, options.replicates, options.seed)

    kinds, record = (("genuine", same), ("impostor", ~same)), dict[str, Any]()
    for kind, kept in kinds:
        found = {"mean": None, "interval": None} if signed is None else mean(signed, kept)
        record[f"skill_{kind}"] = found["mean"]
        record[f"skill_{kind}_interval"] = found["interval"]
        record[f"unsigned_skill_{kind}"] = _mean_of(unsigned[kept])
    return record


def _contrast(
    method: Method,
    maps: Mapping[str, NDArray[Any]],
    effect: NDArray[np.float64],
    people: NDArray[np.int64],
    twice: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> dict[str, Any]:
    """Does the map change with the reference as the responses do? Of signed maps."""
    told = None
    if method.signed:
        told = _mean_of(skill.contrast_skill(maps["signed"], effect.mean(2), people, twice))
    return {"reference_contrast": told, "reference_contrast_n": len(twice[0])}


def _ceiling(
    effect: NDArray[np.float64], others: NDArray[np.bool_], same: NDArray[np.bool_]
) -> dict[str, float | None]:
    found = skill.ceiling(effect, others)
    return {
        f"{name}_{kind}": _mean_of(values[kept])
        for name, values in found.items()
        for kind, kept in (("genuine", same), ("impostor", ~same))
    }


def _mean_of(values: NDArray[np.float64]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def verification_deletion(
    maps: Mapping[str, NDArray[Any]], same: NDArray[np.bool_]
) -> dict[str, Any] | None:
    """Accuracy over all pairs while each probe loses its most important cells (LOWER is better).

    The threshold is the best one on the untouched pairs and stays. None without the measure.
    """
    if "removal" not in maps or not 0 < same.mean() < 1:
        return None
    scores = maps["removal"]
    complete = np.isfinite(scores).all(1)
    scores, same = scores[complete], same[complete]
    if not 0 < same.mean() < 1:
        return None
    clean = np.sort(scores[:, 0])
    cuts = np.concatenate([[clean[0] - 1], (clean[1:] + clean[:-1]) / 2, [clean[-1] + 1]])
    best = max(cuts.tolist(), key=lambda cut: float(((scores[:, 0] >= cut) == same).mean()))
    accuracy = ((scores >= best) == same[:, None]).mean(0)
    return {"threshold": best, "accuracy": accuracy.tolist(), "n": len(same)}


def write_pairs(
    path: Path,
    cache: FaceCache,
    plan: Plan,
    covariates: Covariates,
    judged: Mapping[str, Judged],
    skills: Mapping[str, NDArray[np.float64]],
) -> None:
    """One line per pair and method, sorted by the pair's number: nothing is left out."""
    names = [cache.texts("key", rows) for rows in (plan.probe, plan.reference)]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *covariates.columns])
        for place in np.argsort(plan.number, kind="stable"):
            known = [_number(float(values[place])) for values in covariates.columns.values()]
            for name, found in judged.items():
                outcome = found.outcomes[place]
                low, high = outcome.interval or (None, None)
                writer.writerow(
                    [
                        int(plan.number[place]),
                        printable(names[0][place]),
                        printable(names[1][place]),
                        int(plan.same[place]),
                        _number(float(covariates.tested["score"][place])),
                        name,
                        outcome.verdict,
                        found.causes[place] or "",
                        _number(outcome.rate),
                        _number(float(found.embedding_rate[place])),
                        *map(_number, (outcome.margin, low, high)),
                        "" if outcome.falsified is None else int(outcome.falsified),
                        int(found.falsifiable[place]),
                        _number(float(skills[name][place])),
                        *known,
                    ]
                )


def _number(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.6g}"
