"""What the report shows of one run; report.html makes tiles and tables of its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.run_directory import read_run
from faceguide.core.errors import EvaluationError, FaceguideError
from faceguide.core.files import read_json
from faceguide.core.formats.container import read_arrays
from faceguide.evaluate.identification import SEARCH, cmc
from faceguide.evaluate.report.figures import picture_uri
from faceguide.evaluate.report.html_page import provenance
from faceguide.evaluate.score.face_reader import cached_visibility
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.verification import DOUBTFUL, load_scores

VERIFICATION, IDENTIFICATION, IJB = "verification", "identification", "ijb"
_HIDDEN = np.array([214, 39, 40], np.float32)  # the colour laid over occluded cells


def present(run: Path, name: str, hardest: int) -> dict[str, Any]:
    """Record, warnings, provenance and hardest pairs of a run.

    Raises:
        EvaluationError: for a directory without a finished run of a known kind.
    """
    about = read_run(run)
    command = about.get("command")
    if command not in (VERIFICATION, IDENTIFICATION, IJB):
        raise EvaluationError(
            f"{run}: expected a run of `evaluate verification`, identification or ijb, found "
            f"{command!r}"
        )
    record = read_json(run / f"{command}.json")
    return {
        "name": name,
        "command": command,
        "record": record,
        "facts": provenance(about, about.get("settings", {})),
        "warnings": _warnings(run, record),
        "pairs": _hardest(run, about, record, hardest) if command == VERIFICATION else [],
    }


def _warnings(run: Path, record: dict[str, Any]) -> list[str]:
    warnings = []
    lost = record["left_out"]
    if lost["count"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in lost["reasons"].items())
        warnings.append(
            f"{lost['count']} of {record['listed']} listed entries could not be scored "
            f"({reasons}); {run.name}/left_out.csv names them."
        )
    doubts = Doubts.of(record.get("doubts", {}))
    lines = doubts.lines()
    if doubts and (run / DOUBTFUL).exists():
        lines[-1] += f"; {run.name}/{DOUBTFUL} names what is doubtful"
    warnings += [f"{line}." for line in lines]
    shared = record.get("shared_identities")
    if shared and shared["count"]:
        some = ", ".join(shared["names"][:5])
        warnings.append(
            f"{shared['count']} identities of this test are in the training set of the weights: "
            f"{some}{' …' if shared['count'] > 5 else ''}"
        )
    return warnings


def _hardest(
    run: Path, about: dict[str, Any], record: dict[str, Any], count: int
) -> list[dict[str, Any]]:
    """The lowest genuine and the highest impostor scores, with their crops."""
    if not count:
        return []
    table = load_scores(run)
    try:
        cache = FaceCache.open(about["cache"])
    except FaceguideError:
        return []  # the figures stand without the pictures
    order = np.argsort(table["score"], kind="stable")
    same = table["same"][order]
    chosen = [
        ("Hardest pairs of one identity: lowest scores", order[same][:count]),
        ("Hardest pairs of two identities: highest scores", order[~same][::-1][:count]),
    ]
    store = FaceStore(Path(record["store"])) if Path(record["store"]).is_dir() else None
    shown = []
    for title, places in chosen:
        pairs = []
        for place in places.tolist():
            rows = np.array([table["probe"][place], table["reference"][place]])
            keys = cache.texts("key", rows)
            pairs.append(
                {
                    "score": float(table["score"][place]),
                    "wrong": not bool(table["correct"][place]),
                    "first": keys[0],
                    "second": keys[1],
                    "images": _images(cache, store, rows, keys),
                }
            )
        shown.append({"title": title, "pairs": pairs})
    return shown


def _images(
    cache: FaceCache, store: FaceStore | None, rows: NDArray[np.int64], keys: list[str]
) -> list[dict[str, str]]:
    crops = cache.read(rows, ["image"])["image"]
    images = [{"alt": key, "uri": picture_uri(crop)} for key, crop in zip(keys, crops, strict=True)]
    if store is not None and np.isin(rows, store.rows("visibility")).all():
        visible, source = store.read("visibility", rows).astype(np.float32), "predicted"
    elif "visibility" in cache.columns and cache.read(rows, ["known"])["known"].any():
        visible, source = cached_visibility(cache, rows), "known"
    else:
        return images
    for key, crop, seen in zip(keys, crops, visible, strict=True):
        shown = picture_uri(overlay(crop, seen))
        images.append({"alt": f"{key}: {source} visibility", "uri": shown})
    return images


def overlay(crop: NDArray[np.uint8], visibility: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The crop (S, S, 3) with red over each cell of (g, g) as far as it is occluded."""
    side, grid = crop.shape[0], visibility.shape[0]
    cell = np.minimum(np.arange(side) * grid // side, grid - 1)
    hidden = 1.0 - np.asarray(visibility, np.float32)[cell][:, cell]
    share = 0.6 * hidden[:, :, None].clip(0.0, 1.0)
    mixed: NDArray[np.uint8] = ((1.0 - share) * crop + share * _HIDDEN).round().astype(np.uint8)
    return mixed


def load_cmc(run: Path) -> NDArray[np.float64] | None:
    """The identification rates at ranks 1, 2, …, or None when no probe's identity is enrolled.

    Raises:
        CacheError: when the file of the search is damaged.
        EvaluationError: when there is none.
    """
    try:
        rank = read_arrays(run / SEARCH, "rerun the evaluation", ["rank"]).arrays["rank"]
    except FileNotFoundError:
        raise EvaluationError(f"{run}: no {SEARCH}; rerun the evaluation") from None
    return cmc(rank) if (rank > 0).any() else None
