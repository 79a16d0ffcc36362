"""What `evaluate suite` does, each set that was found by each of its protocols."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from faceguide.cache.pairs.pair_lists import PairList
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import say
from faceguide.core.commands.run_directory import begin_evaluation
from faceguide.core.commands.settings import fixed
from faceguide.core.errors import FaceguideError
from faceguide.core.files import digest, read_json, write_bytes, write_json
from faceguide.evaluate import runs
from faceguide.evaluate.evaluation_options import ScoreOptions, SearchOptions, VerifiedPairs
from faceguide.evaluate.ijb.ijb_run import run_ijb
from faceguide.evaluate.score.matcher_options import (
    CachedMatcherOptions,
    MatcherOptions,
    TemplateOptions,
)
from faceguide.evaluate.suite import suite_rows
from faceguide.evaluate.suite.set_cache import prepared
from faceguide.evaluate.suite.suite_options import SuiteOptions
from faceguide.preprocess.public_sets.benchmarks import BENCHMARKS
from faceguide.preprocess.public_sets.find_sets import Inventory
from faceguide.preprocess.public_sets.found_set import FoundSet, named
from faceguide.train.models.loading.network import Network

RECORD = "suite.json"


def run_suite(
    inventory: Inventory, network: Network, options: CachedMatcherOptions, suite: SuiteOptions
) -> dict[str, Any]:
    """Run every set of an inventory; those that this directory has results of are left as they are.

    Writes suite.json after each protocol, lists/ (the protocols as lists of paths), caches/ and
    runs/, one run of `evaluate verification`, `identification` or `ijb` for each protocol.

    Returns:
        `rows` (see `suite_rows`), one a protocol, and `doubtful`, lines about what cannot be run.

    Raises:
        EvaluationError: when the directory holds another run.
    """
    out = suite.out
    begin_evaluation(
        out, "suite", fixed(options, suite), overwrite=suite.overwrite, **network.record()
    )
    work = _Work(
        network,
        options,
        suite,
        _kept(out / RECORD),
        [fixed(options), suite.replicates, network.key(), network.input_spec.size],
    )
    rows: list[dict[str, Any]] = []
    record = {
        "matcher": options.matcher,
        "rows": rows,
        "doubtful": [str(one) for one in inventory.doubtful],
    }
    for name, found in named(inventory.found):
        for row in _rows_of(name, found, work):
            rows.append(row)
            write_json(out / RECORD, record)
    write_json(out / RECORD, record)
    return record


@dataclass(frozen=True)
class _Work:
    """What all protocols share.

    Attributes:
        before: finished rows of an earlier start by their keys.
        common: what all figures depend on, as JSON values.
    """

    network: Network
    options: CachedMatcherOptions
    suite: SuiteOptions
    before: dict[str, dict[str, Any]]
    common: list[Any]


def _kept(path: Path) -> dict[str, dict[str, Any]]:
    rows = read_json(path)["rows"] if path.exists() else []
    return {row["key"]: row for row in rows if not row["error"]}


def _rows_of(name: str, found: FoundSet, work: _Work) -> Iterable[dict[str, Any]]:
    """A row a protocol; one that fails says why, and the others are run."""
    suite = work.suite
    about = {
        "set": name,
        "benchmark": found.benchmark,
        "title": BENCHMARKS[found.benchmark].title,
        "place": str(found.place),
        "notes": list(found.notes),
    }
    for protocol in found.protocols:
        say(", ".join(filter(None, (name, protocol, str(found.place)))))
        where = re.sub(r"[^\w.-]+", "-", f"{name}-{protocol}" if protocol else name)
        run = ScoreOptions(
            out=suite.out / "runs" / where,
            embeddings=suite.out / "embeddings" / name,
            batch_size=suite.batch_size,
            replicates=suite.replicates,
            overwrite=True,
        )
        one = about | {"protocol": protocol, "run": str(run.out)}
        try:
            if found.form == "ijb":
                yield from _templates(one, found.place, run, work)
            else:
                yield _listed(one, found, suite.out / "lists" / where, run, work)
        except FaceguideError as error:
            yield suite_rows.failed(one, str(error))


def _listed(
    about: dict[str, Any], found: FoundSet, lists: Path, run: ScoreOptions, work: _Work
) -> dict[str, Any]:
    """The row of a protocol over images of a cache; its lists are written to the folder `lists`."""
    suite, network, protocol = work.suite, work.network, about["protocol"]
    caches = suite.caches or suite.out / "caches"
    directory = prepared(found, caches, network, suite)
    if protocol in found.pairs:
        files = {lists / "pairs.csv": _pair_text(found.pairs[protocol])}
    else:
        search = found.searches[protocol]
        files = {
            lists / "gallery.csv": _search_text(search.gallery),
            lists / "probes.csv": _search_text(search.probes),
        }
    key = digest([str(directory), *(digest(text.hex()) for text in files.values()), work.common])
    if key in work.before:
        return work.before[key]
    lists.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        write_bytes(path, text)
    cache, names = FaceCache.open(directory), list(files)
    about = about | {"key": key, "cache": str(directory)}
    if protocol in found.pairs:
        wanted = VerifiedPairs(pairs=names[0])
        record = runs.run_verification(cache, network, wanted, work.options, run)
        return suite_rows.of_pairs(about, record)
    searched = SearchOptions(gallery=names[0], probes=names[1])
    record = runs.run_identification(cache, network, searched, work.options, run)
    return suite_rows.of_search(about, record)


def _templates(
    about: dict[str, Any], place: Path, run: ScoreOptions, work: _Work
) -> Iterable[dict[str, Any]]:
    """The rows of IJB: one of pairs of templates, one a gallery."""
    files = sorted((place / "meta").iterdir())
    sizes = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    crops = (place / "loose_crop").stat().st_mtime_ns
    key = digest([str(place.absolute()), sizes, crops, work.common])
    kept = [row for name, row in work.before.items() if name.startswith(key)]
    if not kept:
        shared = {one.name: getattr(work.options, one.name) for one in fields(MatcherOptions)}
        options = TemplateOptions(**shared | {"visibility": "auto", "hidden": "zero"})
        record = run_ijb(place, work.network, options, run)
        kept = list(suite_rows.of_templates(about, key, record))
    yield from kept


def _pair_text(listed: PairList) -> bytes:
    header = ["fold", "a", "b", "same"] if listed.fold is not None else ["a", "b", "same"]
    columns = [listed.first, listed.second, listed.same.astype(int).tolist()]
    if listed.fold is not None:
        columns.insert(0, listed.fold.tolist())
    return _csv(header, zip(*columns, strict=True))


def _search_text(side: list[tuple[str, str]]) -> bytes:
    return _csv(["key", "identity"], side)


def _csv(header: list[str], rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
