"""`evaluate lookalikes`: pairs of the most alike identities, where a set has no twins."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from faceguide.core.commands.console import Command, echo_json, interruptible
from faceguide.core.commands.settings import fixed, option, settings
from faceguide.core.commands.shared_options import CACHES, OUT_FOLDER, Output
from faceguide.core.errors import EvaluationError
from faceguide.core.files import replacing
from faceguide.evaluate.evaluation_options import NetworkOptions, RunOptions

if TYPE_CHECKING:
    from faceguide.cache.reader import FaceCache
    from faceguide.train.models.loading.network import Network

LIST, DUPLICATES = "lookalikes.csv", "duplicates.csv"
_CHUNK = 1024  # identities compared with all others at a time
Couple = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class LookalikeOptions:
    """How many look-alikes an identity has, how many pairs come of them, and where they go."""

    out: Path = option(help="Run directory.", free=True, type=OUT_FOLDER)
    embeddings: Path | None = option(
        None, "Reuse and extend the embeddings of this run.", free=True, type=OUT_FOLDER
    )
    nearest: int = option(1, "Look-alikes of each identity.", type=click.IntRange(1))
    most: int = option(
        10, "Pairs of images of one identity, and of two, at most.", "--pairs-each",
        type=click.IntRange(1),
    )  # fmt: skip


@dataclass(frozen=True)
class Lookalikes:
    """Which identities look alike.

    Attributes:
        couples: two labels each, the most alike first.
        cosine: of the mean embeddings of each couple.
        duplicates: couples as alike as two halves of one identity, likely the same one; apart.
    """

    couples: list[Couple]
    cosine: list[float]
    duplicates: list[Couple]


def lookalikes(
    embeddings: NDArray[np.floating], labels: NDArray[np.int64], nearest: int
) -> Lookalikes:
    """Each identity with the others nearest to it.

    A couple whose images agree, on average, as much as those of the median identity do is a
    suspected duplicate.

    Args:
        embeddings: (N, E) of length 1.
        labels: (N,) identities.
        nearest: others of each.

    Raises:
        EvaluationError: with fewer than two identities, or none with two images.
    """
    names, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2 or counts.max() < 2:
        raise EvaluationError(
            f"look-alikes need two identities or more, one of them with two images; found "
            f"{len(names)} identities with at most {counts.max(initial=0)}"
        )
    sums = np.zeros((len(names), embeddings.shape[1]))
    np.add.at(sums, place, embeddings)
    # The mean cosine of all pairs within an identity and across two, without making the pairs.
    within = (np.einsum("ie,ie->i", sums, sums) - counts) / np.maximum(counts * (counts - 1), 1)
    usual = float(np.median(within[counts > 1]))
    means = sums / counts[:, None]
    unit = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    found: dict[Couple, float] = {}
    nearest = min(nearest, len(names) - 1)
    for start in range(0, len(names), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(names)))
        cosine = unit[rows] @ unit.T
        cosine[np.arange(len(rows)), rows] = -np.inf
        others = np.argpartition(-cosine, nearest - 1, axis=1)[:, :nearest]
        for row, near in zip(rows.tolist(), others.tolist(), strict=True):
            for other in near:
                couple = (min(row, other), max(row, other))
                found[couple] = float(cosine[row - start, other])
    listed = sorted(found, key=lambda couple: -found[couple])
    same = {(a, b) for a, b in listed if means[a] @ means[b] >= usual}
    kept = [couple for couple in listed if couple not in same]
    named = [(int(names[a]), int(names[b])) for a, b in kept]
    doubtful = [(int(names[a]), int(names[b])) for a, b in listed if (a, b) in same]
    return Lookalikes(named, [found[couple] for couple in kept], doubtful)


@click.command("lookalikes", cls=Command)
@click.argument("directory", metavar="CACHE", type=CACHES)
@settings(network=NetworkOptions, asked=LookalikeOptions, output=Output)
def lookalikes_command(
    directory: Path,
    network: NetworkOptions,
    asked: LookalikeOptions,
    output: Output,
) -> None:
    """List pairs of images of the most alike identities of CACHE, by their embeddings.

    Such a list takes the place of twins: as --pairs of `evaluate verification`, or as
    --contrastive-pairs of `train cal`. Couples that are probably one identity under two names are
    left out and written to duplicates.csv. Choose them with one network and test another: pairs
    that a network finds alike are the hardest for itself.

    \b
    Examples:
      evaluate lookalikes cache/ --weights mobilefacenet.pt --out alike/
      train cal cache/ --out run/ --guide contrastive --contrastive-pairs alike/lookalikes.csv
    """
    from faceguide.cache.reader import FaceCache

    with interruptible():
        record = write_lookalikes(FaceCache.open(directory), network.load(), asked)
    if output.as_json:
        echo_json(record)
    else:
        click.echo(
            f"{record['list']}: {record['couples']:,} couples of {record['identities']:,} "
            f"identities, {record['genuine']:,} pairs of one identity and "
            f"{record['impostors']:,} of two"
        )


def write_lookalikes(cache: FaceCache, network: Network, asked: LookalikeOptions) -> dict[str, Any]:
    """Embed the labelled faces and write `LIST` and `DUPLICATES`.

    Returns:
        Counts and the `list`.
    """
    from faceguide.core.commands.doubts import Doubts
    from faceguide.evaluate.score.embed_part import embed_cached
    from faceguide.evaluate.score.prepare import begin_run, provenance

    rows = cache.select(labelled=True)
    run = RunOptions(out=asked.out, embeddings=asked.embeddings)
    begin_run(run, "lookalikes", fixed(asked), **provenance(cache, network))
    embedded = embed_cached(cache, network, rows, frozenset({"embedding"}), run)
    assert embedded.store is not None  # it is no part of a run
    labels = cache.read(rows, ["label"])["label"]
    found = lookalikes(embedded.store.read("embedding", rows), labels, asked.nearest)
    keys = dict(zip(rows.tolist(), cache.texts("key", rows), strict=True))
    of = {label: rows[labels == label].tolist() for couple in found.couples for label in couple}
    genuine = [
        (keys[a], keys[b], 1)
        for some in of.values()
        for a, b in itertools.islice(itertools.combinations(some, 2), asked.most)
    ]
    impostors = [
        (keys[a], keys[b], 0)
        for one, other in found.couples
        for a, b in itertools.islice(_spread(of[one], of[other]), asked.most)
    ]
    _write(run.out / LIST, ("a", "b", "same"), [*genuine, *impostors])
    names = cache.identities
    doubtful = [(names[a], names[b]) for a, b in found.duplicates]
    _write(run.out / DUPLICATES, ("a", "b"), doubtful)
    doubts = Doubts()
    first = " and ".join(map(repr, doubtful[0])) if doubtful else ""
    doubts.add("suspected_duplicates", first, len(doubtful))
    doubts.say()
    doubts.update(network.doubts)
    return {
        "list": str(run.out / LIST),
        "identities": len(of),
        "couples": len(found.couples),
        "highest_cosine": found.cosine[0] if found.cosine else None,
        "genuine": len(genuine),
        "impostors": len(impostors),
        "duplicates": str(run.out / DUPLICATES),
        "doubts": doubts.counts(),
    }


def _spread(one: list[int], other: list[int]) -> Iterator[Couple]:
    """All pairs across two lists, each image as rarely as can be at the start."""
    if len(one) < len(other):
        yield from ((b, a) for a, b in _spread(other, one))
        return
    for shift, place in itertools.product(range(len(one)), range(len(other))):
        yield one[(place + shift) % len(one)], other[place]


def _write(path: Path, header: tuple[str, ...], lines: list[tuple[Any, ...]]) -> None:
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([header, *lines])
