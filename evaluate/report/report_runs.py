"""What the report shows of one run, as plain values for the template."""

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
from faceguide.evaluate.metrics.roc import far_name
from faceguide.evaluate.report.figures import picture_uri
from faceguide.evaluate.report.tables import percent
from faceguide.evaluate.score.face_reader import cached_visibility
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.verification import DOUBTFUL, load_scores

VERIFICATION, IDENTIFICATION, IJB = "verification", "identification", "ijb"
_HIDDEN = np.array([214, 39, 40], np.float32)  # the colour laid over occluded cells


def present(run: Path, name: str, hardest: int) -> dict[str, Any]:
    """Tiles, tables, hardest pairs, warnings and provenance of a run.

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
    show = {VERIFICATION: _verification, IDENTIFICATION: _identification, IJB: _ijb}[command]
    found = show(run, about, record, hardest)
    return {"name": name, "facts": _facts(about), "pairs": [], "warnings": [], **found}


def _facts(about: dict[str, Any]) -> list[tuple[str, str]]:
    names = ("cache", "cache_manifest", "folder", "backbone", "weights_sha256", "training_run")
    facts = [(name.replace("_", " "), str(about[name])) for name in names if about.get(name)]
    settings = about.get("settings", {})
    facts.append(("settings", ", ".join(f"{key} {value}" for key, value in settings.items())))
    facts.append(("command line", " ".join(map(str, about.get("argv", [])))))
    versions = about.get("versions", {})
    facts.append(("versions", ", ".join(f"{key} {value}" for key, value in versions.items())))
    return facts


def _between(found: Any, digits: int = 2) -> str:
    return f"[{percent(found[0], digits)}, {percent(found[1], digits)}]" if found else ""


def _tile(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


def _verification(
    run: Path, about: dict[str, Any], record: dict[str, Any], hardest: int
) -> dict[str, Any]:
    accuracy, intervals = record["accuracy"], record.get("intervals", {})
    tiles = [
        _tile(f"accuracy, sd {percent(accuracy['std'])}", percent(accuracy["mean"])),
        _tile(f"AUC {_between(intervals.get('auc'), 3)}", percent(record["auc"], 3)),
        _tile(f"EER {_between(intervals.get('eer'))}", percent(record["eer"])),
        _tile("pairs", f"{record['pairs']:,}"),
        _tile("persons", f"{record['people']:,}"),
    ]
    rows = []
    for cell in record["tar_cells"]:
        if cell["tar"] is None:
            continue
        name = far_name(cell["far"])
        rows.append(
            [
                name,
                percent(cell["tar"]),
                _between(intervals.get(f"tar {name}")),
                f"{cell['false_accepts']:,} of {cell['impostors']:,}",
                f"{cell['threshold']:.4f}",
            ]
        )
    thresholds = [[entry["at"], f"{entry['threshold']:.4f}"] for entry in record["thresholds"]]
    parts = [
        {
            "title": "True accept rate at fixed false accept rates",
            "header": ["FAR", "TAR", "interval", "impostors accepted", "threshold"],
            "rows": rows,
            "note": ("The threshold to deploy: accept from this score on. " if rows else "")
            + _refused(record["tar_cells"]),
        },
        {
            "title": "Further thresholds",
            "header": ["at", "threshold"],
            "rows": thresholds[:1],
            "note": "",
        },
    ]
    if accuracy["mean"] is not None:
        note = f"Threshold from the other folds; folds are {accuracy['folds_are']}."
        grid = accuracy.get("published_grid")
        if grid:
            note += (
                f" On the published grid of distances: {percent(grid['mean'])} ± "
                f"{percent(grid['std'])}."
            )
        pairs = zip(accuracy["by_fold"], accuracy["thresholds"], strict=True)
        parts.append(
            {
                "title": "Accuracy by fold",
                "header": ["fold", "accuracy", "threshold"],
                "rows": [
                    [str(number), percent(value), f"{threshold:.4f}"]
                    for number, (value, threshold) in enumerate(pairs)
                ],
                "note": note,
            }
        )
    return {
        "tiles": tiles,
        "tables": parts,
        "warnings": _warnings(run, record),
        "pairs": _hardest(run, about, record, hardest),
    }


def _refused(cells: list[dict[str, Any]]) -> str:
    """The rates whose TAR the list is too short for, with the reason."""
    reasons = [
        f"{far_name(cell['far'])} {cell['refused']}" for cell in cells if cell["tar"] is None
    ]
    return f"Refused: {'; '.join(reasons)}." if reasons else ""


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


def _identification(
    run: Path, about: dict[str, Any], record: dict[str, Any], hardest: int
) -> dict[str, Any]:
    tables = [_rates("Identification rates", record)]
    names = {"occlusion": "occluded share", "pose": "yaw"}
    for title, key in (
        ("Rank 1 by occluded share of the crop", "occlusion"),
        ("Rank 1 by pose", "pose"),
        ("Rank 1 by both", "both"),
    ):
        columns = [key] if key != "both" else ["occlusion", "pose"]
        rows = [
            [
                *(cell[column] for column in columns),
                str(cell["n"]),
                percent(cell["rate"]),
                _between(cell["interval"]),
            ]
            for cell in record["strata"][key]
        ]
        header = [*(names[column] for column in columns), "probes", "rank 1", "interval"]
        tables.append(
            {
                "title": title,
                "header": header,
                "rows": rows,
                "note": "Wilson intervals; fewer than 20 probes give no figure.",
            }
        )
    tiles = [
        _tile(
            f"rank 1 {_between(record['intervals'].get('rank 1'))}", percent(record["rank"]["1"])
        ),
        _tile("gallery images", f"{record['gallery']:,}"),
        _tile("probes", f"{record['probes']:,}"),
        _tile("probes not enrolled", f"{record['stranger_probes']:,}"),
    ]
    return {"tiles": tiles, "tables": tables, "warnings": _warnings(run, record)}


def _rates(title: str, record: dict[str, Any]) -> dict[str, Any]:
    intervals, refused = record["intervals"], record["refused"]
    rows = []
    for kind, label in (("rank", "rank {}"), ("tpir", "TPIR@FPIR {}")):
        # JSON keeps names in the order of their letters.
        for key, value in sorted(record[kind].items(), key=lambda item: float(item[0])):
            name = f"{kind} {key}"
            between = _between(intervals.get(name))
            rows.append([label.format(key), percent(value), between, refused.get(name, "")])
    header = ["", "rate", "interval", "refused"]
    return {"title": title, "header": header, "rows": rows, "note": ""}


def _ijb(run: Path, about: dict[str, Any], record: dict[str, Any], hardest: int) -> dict[str, Any]:
    pairs = record["verification"]
    rows = [
        [
            far_name(cell["far"]),
            percent(cell["tar"]),
            f"{cell['false_accepts']:,} of {cell['impostors']:,}",
            f"{cell['threshold']:.4f}",
        ]
        for cell in pairs["tar_cells"]
        if cell["tar"] is not None
    ]
    tables = [
        {
            "title": "1:1, pairs of templates",
            "header": ["FAR", "TAR", "impostors accepted", "threshold"],
            "rows": rows,
            "note": f"Template score: {record['rule']}. {_refused(pairs['tar_cells'])}",
        }
    ]
    tables += [
        _rates(f"1:N, gallery {name}", found) for name, found in record["identification"].items()
    ]
    tiles = [
        _tile("AUC", percent(pairs["auc"], 3)),
        _tile("EER", percent(pairs["eer"])),
        _tile("pairs of templates", f"{pairs['pairs']:,}"),
        _tile("images", f"{record['images']:,}"),
    ]
    return {"tiles": tiles, "tables": tables, "warnings": _warnings(run, record)}


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
