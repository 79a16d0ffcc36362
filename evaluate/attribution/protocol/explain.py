"""What is computed of one block: its response table and the maps of each method."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.cells import CELLS, cell_attribution, pair_rng, pool
from faceguide.evaluate.attribution.chimera.chimera_list import DELETION
from faceguide.evaluate.attribution.chimera.games import restored
from faceguide.evaluate.attribution.job import Job
from faceguide.evaluate.attribution.methods.controls import read_off
from faceguide.evaluate.attribution.methods.maps import Batch, blurred, expanded
from faceguide.evaluate.attribution.methods.method_table import METHODS, Method
from faceguide.evaluate.attribution.methods.target import (
    PairScore,
    unit_embedding,
)
from faceguide.evaluate.attribution.protocol import map_metrics
from faceguide.evaluate.attribution.protocol.infill import fill_pictures
from faceguide.evaluate.attribution.protocol.responses import Responses, measure
from faceguide.evaluate.attribution.threshold import threshold_outcome
from faceguide.evaluate.score.quick_forward import in_threads

CURVES = {"deletion", "insertion", "srg"}  # measures that are read off curves of removal
THUMB = 28  # side of the maps that are kept for pictures


def table_of(job: Job, block: int) -> dict[str, NDArray[Any]]:
    """The response table of a block.

    Returns:
        `clean` (n,), `masked` (n, 49, R) and `angle` (n, 49, R) per pair; `probe` (P,) and, for
        embeddings, `embedding` (P, 49, R, E) per probe, from which the response against any other
        reference is a product away. Of chimeras, `image` (n, S, S, 3) and `scores` (n, 6), and with
        the game `deletion` `restored` (n,), what the best of maps restores.
    """
    places = job.plan.pairs_of(block)
    if job.chimeras is not None:
        assert job.scores is not None
        composed = np.unique(job.plan.number[places] // 2)
        kept = {
            "image": job.chimeras.images(job.cache, composed),
            "scores": job.scores[composed],
        }
        if DELETION in job.options.games:
            part, _ = job.chimeras.cells(job.cache, composed)
            truth = np.stack([~part, part], 1).astype(float)
            gained = []
            for start in range(0, len(composed), job.options.chunk):
                some = slice(start, start + job.options.chunk)
                pairs = places[2 * start : 2 * (start + job.options.chunk)]
                gained.append(_restored(job, job.batch(pairs), pairs, truth[some]))
            kept["restored"] = np.concatenate(gained)
        return kept
    found: dict[str, list[Any]] = {name: [] for name in ("clean", "masked", "angle")}
    probes, embeddings = np.unique(job.plan.probe[places]), []
    per_probe = [places[job.plan.probe[places] == row] for row in probes]
    job.batch(places[:1])  # describes the references before threads ask for them
    for here, measured in zip(
        per_probe, list(in_threads(_measured, per_probe, job.crew)), strict=True
    ):
        found["clean"].append(measured.clean)
        found["masked"].append(measured.masked)
        found["angle"].append(np.repeat(measured.angle[None], len(here), 0))
        if measured.embedding is not None:
            embeddings.append(measured.embedding)
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    arrays["probe"] = probes
    if embeddings:
        arrays["embedding"] = np.stack(embeddings)
    return arrays


def _restored(
    job: Job, batch: Batch, places: NDArray[np.int64], signed: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(n,) the game `deletion` of the chimeras that these pairs are of, maps (n, 2, 49)."""
    assert job.chimeras is not None
    first = slice(0, None, 2)
    numbers = job.plan.number[places[first]] // 2
    return restored(
        job.score,
        batch.probe[first],
        job.pixels(job.plan.probe[places[first]]),
        tuple(part[first] for part in batch.reference),
        signed,
        job.chimeras.cells(job.cache, numbers),
        numbers,
        job.options.seed,
    )


def _measured(job: Job, places: NDArray[np.int64]) -> Responses:
    """The responses of the probe that the pairs at these places share."""
    row = int(job.plan.probe[places[0]])
    one = job.cache.read([row], ["image", "label"])
    pictures = fill_pictures(
        *(one["image"][0], job.options.infills, row, int(one["label"][0])),
        *(job.donors, job.options.seed),
    )
    fills, batch = job.score.prepared(pictures), job.batch(places)
    return measure(job.score, batch.probe[0], batch.reference, fills, job.forward_images)


def maps_of(
    job: Job, methods: Sequence[Method], block: int, table: dict[str, NDArray[Any]]
) -> Generator[dict[str, NDArray[Any]]]:
    """Maps of each method for the pairs of a block; a failure becomes an error row, never zeros.

    Yields:
        Per pair: `cells` (n, 49) what the map calls important, `signed` (n, 49), `energy` (n,)
        max|a|, `thumb` (n, 28, 28) float16, signed, −1 to 1, `completeness` and `quadrature` (n,)
        errors, `error` (n, 200) text as uint8, a column per further measure and, under
        `threshold`, `threshold` (n, 6): rate, falsified, two angles, two areas.

    Raises:
        AttributionError: when the method does not suit the network.
    """
    places = job.plan.pairs_of(block)
    job.batch(places[:1])  # describes the references before threads ask for them
    step = max(1, job.options.chunk // 8) * 2  # pairs of one chimera stay together
    starts = range(0, len(places), step)

    def work(own: Job, task: tuple[Method, int]) -> dict[str, NDArray[Any]]:
        method, start = task
        chosen = places[start : start + step]
        kept = () if job.chimeras is not None else ("clean", "masked", "angle")
        rows = {name: table[name][start : start + step] for name in kept}
        batch = own.batch(chosen)
        try:
            return _columns(own, method, batch, chosen, rows)
        except Exception as fault:
            # Ours were tried on this network; a user's may fail in any way, and for some pictures.
            ordinary = isinstance(fault, RuntimeError | ValueError | ArithmeticError | TypeError)
            if method.name in METHODS and (isinstance(fault, AttributionError) or not ordinary):
                raise
            return _failed(own, len(chosen), f"{type(fault).__name__}: {fault}")

    found = in_threads(work, [(method, start) for method in methods for start in starts], job.crew)
    for _ in methods:
        parts = [next(found) for _ in starts]
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _failed(job: Job, count: int, text: str) -> dict[str, NDArray[Any]]:
    """Rows of maps that could not be made."""
    first = text.partition("\n")[0].encode()[:200].ljust(200, b"\0")
    blank: dict[str, NDArray[Any]] = {
        "cells": np.full((count, CELLS), np.nan, np.float32),
        "signed": np.full((count, CELLS), np.nan, np.float32),
        "energy": np.full(count, np.nan, np.float32),
        "thumb": np.full((count, THUMB, THUMB), np.nan, np.float16),
        "error": np.tile(np.frombuffer(first, np.uint8), (count, 1)),
    }
    columns = ["completeness", "quadrature", *job.options.measures]
    blank |= {name: np.full(count, np.nan) for name in columns}
    if set(job.options.measures) & CURVES:
        blank["removal"] = np.full((count, map_metrics.STEPS + 1), np.nan)
    if DELETION in job.options.games:
        blank["restored"] = np.full(count, np.nan)
    if job.options.protocol == "threshold":
        blank["threshold"] = np.full((count, 6), np.nan)
    return blank


def _columns(
    job: Job,
    method: Method,
    batch: Batch,
    places: NDArray[np.int64],
    table: dict[str, NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    if method.explain is None:
        maps = read_off(method.name, table)
    else:
        maps = method.explain(job.score, batch, job.options)
    values = maps.values.detach().float()
    found = _failed(job, len(places), "")
    found["error"][:] = 0
    cells = cell_attribution(values, method.rectify)
    found["cells"] = cells.cpu().numpy().astype(np.float32)
    found["signed"] = pool(values).cpu().numpy().astype(np.float32)
    found["energy"] = values.abs().flatten(1).amax(1).cpu().numpy()
    thumb = torch.nn.functional.adaptive_avg_pool2d(values[:, None], THUMB)[:, 0]
    thumb = thumb / thumb.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
    found["thumb"] = thumb.cpu().numpy().astype(np.float16)
    for column, error in (
        ("completeness", maps.completeness_error()),
        ("quadrature", maps.quadrature_error()),
    ):
        if error is not None:
            found[column] = error.cpu().numpy()
    if DELETION in job.options.games and method.signed:
        found["restored"][::2] = _restored(
            job, batch, places, found["signed"].reshape(-1, 2, CELLS)
        )
    if job.options.protocol == "threshold":
        shown = values.clamp_min(0) if method.rectify else values.abs()
        top = shown.amax((1, 2), keepdim=True).clamp_min(1e-30)
        found["threshold"] = _threshold(job, batch, shown / top)
    _measure(job, method, batch, places, values, found, table)
    return found


def _threshold(job: Job, batch: Batch, shown: Tensor) -> NDArray[np.float64]:
    """(N, 6), rows of `ThresholdOutcome`."""
    spec = job.score.input_spec
    mean = torch.tensor(spec.mean, device=job.score.device)[:, None, None]
    std = torch.tensor(spec.std, device=job.score.device)[:, None, None]
    side = batch.probe.shape[-1]
    full = torch.nn.functional.interpolate(shown[:, None], size=(side, side), mode="bilinear")
    rows = []
    for place, pair in enumerate(batch.pairs):
        rows.append(
            threshold_outcome(
                full[place, 0].cpu().numpy(),
                batch.probe[place] * std + mean,
                lambda images, place=place: unit_embedding(  # type: ignore[misc]
                    job.score.quick.backbone,
                    (images - mean) / std,
                    *job.score.beside(expanded(batch.reference, place, len(images))),
                ),
                pair_rng(pair, job.options.seed, "threshold"),
                batch=job.forward_images,
            )
        )
    return np.array(rows)


def _measure(
    job: Job,
    method: Method,
    batch: Batch,
    places: NDArray[np.int64],
    values: Tensor,
    found: dict[str, NDArray[Any]],
    table: dict[str, NDArray[Any]],
) -> None:
    """Fill the columns of the further measures that were asked for."""
    cells, wanted = found["cells"], set(job.options.measures)
    if wanted & CURVES:
        empty = blurred(batch.probe, batch.probe.shape[-1] / 7)
        curves = map_metrics.removal_curves(job.score, batch, cells, empty, job.options.seed)
        areas = map_metrics.curve_areas(curves)
        found.update({name: areas[name] for name in wanted & set(areas)})
        found["removal"] = curves["most"]
    if "infidelity" in wanted:
        change = table["clean"][:, None, None] - table["masked"]
        found["infidelity"] = map_metrics.infidelity(found["signed"], change)
    if method.control or method.explain is None:
        return  # these say nothing of a picture that is disturbed or a network that is not theirs
    if "sensitivity" in wanted:
        found["sensitivity"] = map_metrics.max_sensitivity(
            job.score, batch, method.explain, job.options, values
        )

    references = job.plan.reference[places]

    def against(score: PairScore, pixels: Tensor) -> NDArray[np.float64]:
        """(N,) rank correlation of the cells with those by another network or reference."""
        assert method.explain is not None
        described = score.reference(pixels, *job.beside(references))
        described = (*described, *score.beside(batch.reference))
        other = replace(batch, reference=described, other=pixels)
        maps = method.explain(score, other, job.options).values
        return map_metrics.rank_correlation(
            cells, cell_attribution(maps, method.rectify).cpu().numpy()
        )

    if job.random is not None:
        found["randomisation"] = np.abs(against(job.random, job.pixels(references)))
    if "swap" in wanted:
        labels = job.cache.read(references, ["label"])["label"]
        others = [
            job.donors.another(int(row), int(label), job.options.seed)
            for row, label in zip(references, labels, strict=True)
        ]
        # Donors are aligned as all crops are: where the landmarks are told, those of the
        # reference serve.
        found["swap"] = 1.0 - against(job.score, job.score.prepared(np.stack(others)))
